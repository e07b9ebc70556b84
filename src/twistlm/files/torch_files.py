"""Files of `torch.save`, zipped or of before 1.6, read without torch and without running anything that is in them.

The pickle inside names classes of whoever wrote it, fairseq's and omegaconf's among them; each is a `Record` here. The
numbers are mapped, not read: of a checkpoint with an optimizer's state, only what is asked for comes into memory.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import BadInput
from twistlm.files.pickles import DAMAGED, Record, Restricted
from twistlm.files.regular import open_regular

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older format
_MOST_STEPS = 5_000_000
_MOST_PICKLE = 256 << 20  # bytes
_TYPES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": "bf16",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2",
    "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str
    size: int
    bytes_of: Callable[[str, int], memoryview]

    def numbers(self) -> NDArray[Any]:
        kind = "<u2" if self.kind == "bf16" else self.kind
        return np.frombuffer(self.bytes_of(self.key, self.size * np.dtype(kind).itemsize), kind)


class Tensor(Record):
    """A tensor of the file."""

    def array(self) -> NDArray[Any]:
        """Its numbers: mapped where they can be, bfloat16 as float32.

        Raises:
            BadInput: it does not fit its storage, or that the file.
        """
        try:
            storage, offset, shape, strides = self.args[:4]
            numbers = storage.numbers()
            if not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)) or len(shape) != len(strides):
                raise ValueError("its shape is no shape")
            reach = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
            if math.prod(shape) > len(numbers) or (math.prod(shape) and reach >= len(numbers)):
                raise ValueError("it is larger than its storage")
            steps = [stride * numbers.itemsize for stride in strides]
            view = np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False)
        except DAMAGED as error:
            raise BadInput(f"a tensor in it is damaged ({error})") from error
        if storage.kind != "bf16":
            return view
        return (view.astype(np.uint32) << 16).view(np.float32)


class _Parameter(Record): ...


class _Dict(dict[Any, Any]):
    """An OrderedDict; `state` is what else it had."""

    state: Any = None

    def __new__(cls, *args: Any) -> _Dict:  # noqa: ARG004
        return super().__new__(cls)

    def __init__(self, pairs: Any = ()) -> None:
        super().__init__()
        for key, value in pairs:
            if type(key) not in (str, int):
                raise BadInput("a key in it is neither text nor a number")
            self[key] = value

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _StorageType(Record):
    kind: str


_KNOWN: dict[tuple[str, str], type] = {
    ("torch._utils", "_rebuild_tensor_v2"): Tensor,
    ("torch._utils", "_rebuild_tensor"): Tensor,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    ("collections", "OrderedDict"): _Dict,
    **{("torch", name): type(name, (_StorageType,), {"kind": kind}) for name, kind in _TYPES.items()},
}


class _Unpickler(Restricted):
    def __init__(self, stream: BinaryIO, bytes_of: Callable[[str, int], memoryview]) -> None:
        super().__init__(stream, most=_MOST_STEPS)
        self._bytes_of = bytes_of
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        return _KNOWN.get((module, name)) or type("Record", (Record,), {"name": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        kind = getattr(pid[1], "kind", None)
        if pid[0] != "storage" or kind is None or type(pid[2]) is not str or type(pid[4]) is not int:
            raise BadInput("it holds a tensor of a kind that is not read")
        return self.storages.setdefault(pid[2], _Storage(kind, pid[2], pid[4], self._bytes_of))


def is_torch(path: Path) -> bool:
    """Whether a file begins as those of `torch.save` do."""
    with open_regular(path) as file:
        begin = file.read(64)
    return begin.startswith(b"PK\x03\x04") or _MAGIC.to_bytes(10, "little") in begin


def read_torch(path: Path) -> Any:
    """What was saved: plain lists, dicts, texts and numbers; a `Tensor` for each tensor or parameter, a `Record` for
    every other object, with its arguments and state.

    Raises:
        BadInput: it is no such file, is damaged, or far larger than it needs to be. The message does not name it.
    """
    try:
        with open_regular(path) as file:
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            found = _zipped(path, mapped) if bytes(mapped[:4]) == b"PK\x03\x04" else _older(file, mapped)
    except (*DAMAGED, OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise BadInput(f"it is no whole file of torch.save ({type(error).__name__}: {str(error)[:200]})") from error
    return found


def plain(value: Any) -> Any:
    """A parameter's tensor; anything else as it is."""
    return value.args[0] if isinstance(value, _Parameter) and value.args else value


def _zipped(path: Path, mapped: memoryview) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        [pickled] = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        root = pickled.removesuffix("data.pkl")
        if members[pickled].file_size > _MOST_PICKLE:
            raise BadInput("its index is too large")
        order = members.get(f"{root}byteorder")
        if order is not None and archive.read(order)[:6] != b"little":
            raise BadInput("it was written on a big-endian machine")
        stream = io.BytesIO(archive.read(pickled))

    def bytes_of(key: str, size: int) -> memoryview:
        member = members[f"{root}data/{key}"]
        if member.compress_type != zipfile.ZIP_STORED:
            raise BadInput("its tensors are compressed, as torch never writes them")
        at = member.header_offset
        name, extra = struct.unpack("<HH", mapped[at + 26 : at + 30])
        at += 30 + name + extra
        if not 0 <= size <= member.file_size or at + size > len(mapped):
            raise ValueError("it is larger than what the file holds of it")
        return mapped[at : at + size]

    return _Unpickler(stream, bytes_of).load()


def _older(file: BinaryIO, mapped: memoryview) -> Any:
    places: dict[str, tuple[int, int]] = {}

    def bytes_of(key: str, size: int) -> memoryview:
        at, there = places[key]
        if size != there or at + size > len(mapped):
            raise ValueError("it is larger than what the file holds of it")
        return mapped[at : at + size]

    if Restricted(file).load() != _MAGIC or Restricted(file).load() != _PROTOCOL:
        raise BadInput("it does not begin as a file of torch.save does")
    Restricted(file).load()  # sizes of C's types on the machine that wrote it
    reader = _Unpickler(file, bytes_of)
    found = reader.load()
    keys = Restricted(file).load()
    at = file.tell()
    for key in keys:
        storage = reader.storages[key]
        (size,) = struct.unpack("<q", mapped[at : at + 8])
        n_bytes = size * (2 if storage.kind == "bf16" else np.dtype(storage.kind).itemsize)
        if size < 0 or at + 8 + n_bytes > len(mapped):
            raise EOFError("the numbers of a tensor are missing")
        places[key] = at + 8, n_bytes
        at += 8 + n_bytes
    return found
