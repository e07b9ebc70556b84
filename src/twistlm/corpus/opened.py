"""Shards, opened: the memory-mapped corpus that training reads.

A folder of shards is the truth; `.cache/` in it holds the same units as two flat arrays, made when first needed and
made again when the shards change. D documents (clips), R units of one document.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from numpy.typing import NDArray

from twistlm.corpus.shards import (
    FACTS,
    FLAT,
    SCHEMA,
    Row,
    broken,
    local,
    read_spec,
    read_table,
    require_shards,
    table_of,
)
from twistlm.errors import BadInput, ShardError, TwistError, offenders
from twistlm.files.arrays import ArrayWriter, Unfit, advise, open_arrays, open_or_make
from twistlm.files.atomic import atomic_folder
from twistlm.files.regular import file_sha256
from twistlm.files.urls import UrlPath, as_path
from twistlm.types import Units, UnitSpec

_CACHE_VERSION = 3
_hashed: dict[tuple[object, ...], str] = {}
_CACHED = ("units", "runs", "offsets", "facts")


class UnitCorpus:
    """Documents over flat arrays; indexing gives `Units`.

    Opened from shards, the arrays are memory-mapped and everything else is read when first asked for.

    Attributes:
        spec: what the units are.
        ids, speakers, splits, texts, seconds: one per document.
        lengths: int64 [D], units of each document.
        folder: where its shards lie, absolute or a URL; "" for one in memory.
    """

    folder: str = ""

    def __init__(
        self,
        spec: UnitSpec,
        facts: Callable[[str], pa.ChunkedArray],
        units: NDArray[np.uint16],
        runs: NDArray[np.int32],
        offsets: NDArray[np.int64],
        index: NDArray[np.int64] | None = None,
    ) -> None:
        self.spec = spec
        self._facts, self._units, self._runs, self._offsets, self._index = facts, units, runs, offsets, index

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        lengths = np.diff(self._offsets)
        return lengths if self._index is None else lengths[self._index]

    @classmethod
    def from_units(
        cls,
        documents: Sequence[Units],
        *,
        speakers: Sequence[str] = (),
        splits: Sequence[str] = (),
        texts: Sequence[str] = (),
    ) -> Self:
        """Return a corpus in memory; unnamed speakers and texts are "", unnamed splits "train"."""
        if not documents:
            raise BadInput("a corpus needs at least one document.")
        for units in documents:
            documents[0].spec.require(
                units.spec, mine=f"the units of {documents[0].id!r}", theirs=f"those of {units.id!r}"
            )
        n = len(documents)
        names = zip(speakers or [""] * n, splits or ["train"] * n, texts or [""] * n, strict=True)
        rows = [
            Row(units=units, seconds=units.seconds, speaker=speaker, split=split, text=text)
            for units, (speaker, split, text) in zip(documents, names, strict=True)
        ]
        offsets = np.cumsum([0, *map(len, documents)], dtype=np.int64)
        units_flat = np.concatenate([units.ids for units in documents])
        runs_flat = np.concatenate([units.runs for units in documents])
        return cls(documents[0].spec, table_of(rows).column, units_flat, runs_flat, offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1 if self._index is None else len(self._index)

    def __getitem__(self, i: int) -> Units:
        here = self._slice(i)
        return Units(np.asarray(self._units[here]), np.asarray(self._runs[here]), self.spec, id=self.ids[i])

    def unit_ids(self, i: int) -> NDArray[np.uint16]:
        """Return uint16 [R], the ids of document `i` alone; a view, not to be written to."""
        return np.asarray(self._units[self._slice(i)])

    def select(self, indices: Sequence[int] | NDArray[np.integer | np.bool_]) -> UnitCorpus:
        """Return the corpus of these documents, in this order; of a mask, bool [D], those where it is True.

        Raises:
            BadInput: neither whole numbers nor a mask of this length; a number that is no document's.
        """
        chosen = np.asarray(indices)
        if chosen.shape == (len(self),) and chosen.dtype == bool:
            chosen = np.flatnonzero(chosen)
        if not chosen.size:
            chosen = chosen.astype(np.int64)  # of an empty list numpy makes floats
        if chosen.ndim != 1 or not np.issubdtype(chosen.dtype, np.integer):
            raise BadInput(
                f"documents are chosen by whole numbers [n] or by a mask, bool [{len(self)}], not by {chosen.dtype} "
                f"{list(chosen.shape)}. Of numbers that are whole, make integers: indices.astype(int)."
            )
        if len(chosen) and not -len(self) <= chosen.min() <= chosen.max() < len(self):
            raise BadInput(f"a corpus of {len(self)} documents has none of {chosen.min()} … {chosen.max()}.")
        chosen = np.arange(len(self))[chosen] if self._index is None else self._index[chosen]
        part = UnitCorpus(self.spec, self._facts, self._units, self._runs, self._offsets, chosen)
        part.folder = self.folder
        return part

    @cached_property
    def ids(self) -> list[str]:
        return self._column("id")

    @cached_property
    def speakers(self) -> list[str]:
        return self._column("speaker")

    @cached_property
    def splits(self) -> list[str]:
        return self._column("split")

    @cached_property
    def texts(self) -> list[str]:
        return self._column("text")

    @cached_property
    def seconds(self) -> list[float]:
        return self._column("seconds")

    def speaker(self, i: int) -> str:
        return self.speakers[i]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over spec, ids and units in order: two corpora with the same one train the same model."""
        digest = hashlib.sha256(self.spec.fingerprint.encode())
        advise(self._units, "MADV_SEQUENTIAL")
        for i, id in enumerate(self.ids):
            digest.update(f"\n{id}\n{self.lengths[i]}\n".encode())
            digest.update(self.unit_ids(i).tobytes())
        advise(self._units, "MADV_RANDOM")
        return digest.hexdigest()[:16]

    def _column(self, name: str) -> list[Any]:
        column = self._facts(name)
        return (column if self._index is None else column.take(pa.array(self._index))).to_pylist()

    def _slice(self, i: int) -> slice:
        document = range(len(self))[i] if self._index is None else self._index[i]
        return slice(int(self._offsets[document]), int(self._offsets[document + 1]))


def open_corpus(folder: str | Path | UrlPath, *, split: str | Sequence[str] | None) -> UnitCorpus:
    """Open the shards of a folder, memory-mapped.

    Args:
        folder: what `tokenize` wrote; behind a URL, it is copied into the cache first, as far as it is not there yet.
        split: "train"; "heldout" for every split but "train"; another split's name; several names; None for all.

    Raises:
        ShardError: no shards, a broken one, or ids that occur twice. UnitSpecMismatch: shards of different units.
        BadInput: no clip is in that split. UrlError: what lies behind a URL could not be copied to this machine.
    """
    corpus, facts = _open_flat(local(folder))
    corpus.folder = str(folder) if isinstance(as_path(folder), UrlPath) else str(Path(str(folder)).absolute())
    if split is None:
        return corpus
    wanted = {split} if isinstance(split, str) else set(split)
    present: set[str] = set()
    parts = [np.zeros(0, dtype=bool)]
    for batch in facts.iter_batches(columns=["split"]):  # never all of them in memory as text
        names = batch.column(0).dictionary.to_pylist()
        codes = batch.column(0).indices.to_numpy()
        present |= set(names)
        parts.append(np.array([_in_split(name, wanted) for name in names])[codes])
    chosen = np.concatenate(parts)
    if not chosen.any():
        raise BadInput(
            f"{folder}: no clip is in the split {split!r}; there are: {offenders(sorted(present), limit=20)}."
        )
    return corpus if chosen.all() else corpus.select(np.flatnonzero(chosen))


def _in_split(name: str, wanted: set[str]) -> bool:
    return name in wanted or ("heldout" in wanted and name != "train")


def _key(paths: Sequence[Path]) -> str:
    facts = [(path.name, _sha256(path)) for path in paths]
    return hashlib.sha256(f"{_CACHE_VERSION} {facts}".encode()).hexdigest()[:16]


def _sha256(path: Path) -> str:
    """Return the hash of a shard, taken once for each state of it that a process sees."""
    stat = path.stat()
    state = (path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if state not in _hashed:
        _hashed[state] = file_sha256(path)
    return _hashed[state]


def _open_flat(folder: Path) -> tuple[UnitCorpus, pq.ParquetFile]:
    """Open the cache of the shards as they are now, and its facts; make it first when it is not there or unfit."""
    paths = require_shards(folder)
    spec = read_spec(paths[0])
    try:
        cache = folder / ".cache" / _key(paths)
        flat = open_or_make(cache, _CACHED, lambda: _make(paths, cache, spec))
        for name in FLAT:
            # Documents are read in a random order: reading ahead, up to 8 MB for each, made batches 40 times as slow.
            advise(flat[name], "MADV_RANDOM")
        # From the map, not the path: whoever has a corpus keeps it when its cache is replaced.
        facts = pq.ParquetFile(pa.py_buffer(flat["facts"]), read_dictionary=["split"])
        return UnitCorpus(
            spec, lambda name: facts.read(columns=[name]).column(0), flat["units"], flat["runs"], flat["offsets"]
        ), facts
    except OSError as error:
        raise TwistError(
            f"{folder}: the units cannot be opened: {error}. twistlm keeps a cache in .cache/ there, so you need to be "
            "able to write to the folder; or the shards changed meanwhile: then try again."
        ) from error


def _make(paths: Sequence[Path], cache: Path, spec: UnitSpec) -> None:
    """Make the cache, unless another process did meanwhile, and remove those of the shards as they were."""
    cache.parent.mkdir(exist_ok=True)
    with FileLock(cache.parent / "lock"):
        try:
            open_arrays(cache, _CACHED)
        except Unfit:
            _build(paths, cache, spec)
        for other in cache.parent.iterdir():
            if other.is_dir() and other != cache:  # who has it open keeps it
                shutil.rmtree(other, ignore_errors=True)


def _build(paths: Sequence[Path], cache: Path, spec: UnitSpec) -> None:
    facts, length = [], 0
    with atomic_folder(cache) as temporary, ArrayWriter(temporary) as arrays:
        arrays.append("offsets", np.zeros(1, dtype=np.int64))
        for path in paths:
            spec.require(read_spec(path), mine=f"the shard {paths[0]}", theirs=f"the shard {path}")
            table = read_table(path, tuple(SCHEMA.names))
            units, runs = (table.column(name).combine_chunks() for name in FLAT)
            n_units, n_runs = (np.diff(column.offsets.to_numpy()) for column in (units, runs))
            values, run_values = units.flatten().to_numpy(), runs.flatten().to_numpy()
            fit = np.array_equal(n_units, n_runs)
            if not fit or (len(values) and (values.max() >= spec.n_units or run_values.min() < 1)):
                raise broken(path, "its units and runs do not fit each other or its UnitSpec")
            arrays.append("units", values.astype(np.uint16))
            arrays.append("runs", run_values.astype(np.int32))
            arrays.append("offsets", length + np.cumsum(n_units, dtype=np.int64))
            length += int(n_units.sum())
            facts.append(table.select(FACTS))
        everything = pa.concat_tables(facts).replace_schema_metadata(None)
        double = [id for id, n in Counter(everything.column("id").to_pylist()).items() if n > 1]
        if double:
            raise ShardError(
                f"{cache.parents[1]}: clips in more than one place: {offenders(double)}. A run of twist "
                "tokenize that was killed as it replaced them leaves such: run it again, and it keeps the newer ones."
            )
        written = pa.BufferOutputStream()
        pq.write_table(everything, written)
        arrays.append("facts", np.frombuffer(written.getvalue(), dtype=np.uint8))
        if _key(paths) != cache.name:
            raise TwistError(
                f"{cache.parents[1]}: the shards changed while they were read. Wait for the writer and try again."
            )
