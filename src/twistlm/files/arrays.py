"""A folder of flat arrays that knows its own sizes and hashes: how big things are kept to be memory-mapped.

    arrays.json   name -> dtype, length, sha256
    NAME          the values of one array, as they lie in memory

numpy's own writers (`tofile`, `save`) go through a C stream whose closing nobody checks, so a write that failed is a
hole in an array of the right size. Here Python writes, which raises, and what is opened is held against the hashes.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import TwistError
from twistlm.files.jsonl import read_json

INDEX = "arrays.json"
_SHAPE = {str: {"dtype": str, "length": int, "sha256": str}}
_verified: set[tuple[object, ...]] = set()


class Unfit(TwistError):
    """A folder of arrays is not what was written: for whoever has them to make them again."""


class ArrayWriter:
    """Writes arrays of one dimension piece by piece; use as a context manager, inside `atomic_folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._hashes: dict[str, Any] = {}
        self._facts: dict[str, dict[str, Any]] = {}
        self._stack = ExitStack()

    def append(self, name: str, values: NDArray[Any]) -> None:
        """Add `values` [N] to the array `name`, whose dtype the first piece decides."""
        if name not in self._files:
            self._files[name] = self._stack.enter_context((self._folder / name).open("wb"))
            self._hashes[name] = hashlib.sha256()
            self._facts[name] = {"dtype": values.dtype.str, "length": 0}
        data = np.ascontiguousarray(values, dtype=self._facts[name]["dtype"]).view(np.uint8).data
        self._files[name].write(data)
        self._hashes[name].update(data)
        self._facts[name]["length"] += len(values)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:  # closes them: the last bytes are written there, and may be refused
            pass
        if kind is None:
            index = {name: facts | {"sha256": self._hashes[name].hexdigest()} for name, facts in self._facts.items()}
            (self._folder / INDEX).write_text(json.dumps(index, indent=1))


def open_arrays(folder: Path, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Return name -> array [N], memory-mapped and not to be written to, each checked against its size and hash.

    They are hashed once for each state of the files that a process sees.

    Raises:
        Unfit: these are not the arrays that are there, or a file is missing or not what was written.
    """
    try:
        index = read_json(folder / INDEX, "the list of the arrays beside it", shape=_SHAPE)
        if set(index) != set(names):
            raise Unfit(f"{folder}: it lists {sorted(index)} instead of {sorted(names)}")
        arrays = {name: _map(folder / name, index[name]) for name in names}
        stats = [(folder / name).stat() for name in names]
    except (TwistError, OSError, ValueError, TypeError) as error:
        raise Unfit(f"{folder}: {error}") from error
    state = (folder, json.dumps(index), *((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats))
    if state not in _verified:
        for name in arrays:
            with (folder / name).open("rb") as file:  # not through the map: what is read there counts as ours
                if hashlib.file_digest(file, "sha256").hexdigest() != index[name]["sha256"]:
                    raise Unfit(f"{folder / name}: its hash is another than when it was written")
        _verified.add(state)
    return arrays


def open_or_make(folder: Path, names: Collection[str], make: Callable[[], None]) -> dict[str, NDArray[Any]]:
    """Return the arrays of `folder`; where they are not there or unfit, `make` writes the folder first.

    Raises:
        TwistError: they are unfit again once made. What `make` raises.
    """
    try:
        return open_arrays(folder, names)
    except Unfit:
        make()
    try:
        return open_arrays(folder, names)
    except Unfit as error:
        raise TwistError(
            f"what was just written cannot be read back ({error}). The disk loses data, or another process changes it."
        ) from error


def advise(array: NDArray[Any], how: str) -> None:
    """Tell the system how a mapped array is going to be read, where it listens."""
    base: Any = array.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, how):
        base.madvise(getattr(mmap, how))


def _map(path: Path, facts: dict[str, Any]) -> NDArray[Any]:
    dtype, length = np.dtype(facts["dtype"]), int(facts["length"])
    if path.stat().st_size != length * dtype.itemsize:
        raise ValueError(f"{path} has {path.stat().st_size} bytes instead of {length * dtype.itemsize}")
    if not length:  # nothing cannot be mapped
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")
