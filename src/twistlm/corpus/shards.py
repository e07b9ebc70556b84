"""Unit shards: Parquet files of clips in units, which say what their units are. `opened` has what reads them fast."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twistlm.corpus.mirror import mirror
from twistlm.errors import BadInput, ShardError, offenders
from twistlm.files.atomic import atomic_write
from twistlm.files.regular import open_regular
from twistlm.files.urls import UrlPath, as_path
from twistlm.types import Units, UnitSpec

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("speaker", pa.string()),
        ("split", pa.string()),
        ("text", pa.string()),
        ("seconds", pa.float64()),
        ("units", pa.list_(pa.uint16())),
        ("runs", pa.list_(pa.int32())),
        # What the clip was when it was tokenized, so that a rerun knows whether it still is: size and time of its file
        # or archive, sha256 of its sound file, and behind that which part of them it is (`Entry.part`) and, behind
        # PLACE, the file's name and its folder's.
        ("source_bytes", pa.int64()),
        ("source_mtime_ns", pa.int64()),
        ("source_sha256", pa.string()),
    ]
)
FLAT = ("units", "runs")
PLACE = "\x1f"  # ASCII's separator of units; shards of before 2026-11-29 have none
FACTS = tuple(name for name in SCHEMA.names if name not in FLAT)
_SPEC = b"unit_spec"
_NAME = re.compile(r"shard-(\d{5,})\.parquet")


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One clip in a shard: its units (which carry the id), who says what, and which file it came from."""

    units: Units
    seconds: float
    speaker: str = ""
    split: str = "train"
    text: str = ""
    source_bytes: int = 0
    source_mtime_ns: int = 0
    source_sha256: str = ""
    note: str = ""  # of how its file was read; told, not stored


class ShardWriter:
    """Collects rows and writes them to `out` as whole shards, numbered after those already there.

    Use as a context manager: what is left is written when the block ends well. Nobody else may write meanwhile.

    Args:
        out: the folder, or its URL; created when missing.
        spec: what the units are; shards already in `out` must agree (UnitSpecMismatch).
        clips, seconds: a shard is full when it holds this many clips or this much sound, whichever comes first.
        before: called before a shard is written.
        written: called with each shard that was written, and the ids in it.
    """

    def __init__(
        self,
        out: str | Path | UrlPath,
        spec: UnitSpec,
        *,
        clips: int = 200,
        seconds: float = 3600.0,
        before: Callable[[], None] | None = None,
        written: Callable[[Path | UrlPath, Collection[str]], None] | None = None,
    ) -> None:
        if clips < 1:
            raise BadInput(f"a shard needs at least 1 clip, got {clips}.")
        self.out, self.spec, self.clips, self.seconds = as_path(out), spec, clips, seconds
        self._before, self._written = before, written
        self._rows: list[Row] = []
        self._held = 0.0
        there = shard_paths(self.out)
        for path in there:
            spec.require(read_spec(path), mine="the new units", theirs=f"the shard {path}")
        self._next = 1 + max((int(path.stem.removeprefix("shard-")) for path in there), default=-1)

    def add(self, row: Row) -> None:
        self.spec.require(row.units.spec, mine=f"the shards in {self.out}", theirs=f"the units of {row.units.id!r}")
        self._rows.append(row)
        self._held += row.seconds
        if len(self._rows) >= self.clips or self._held >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Write the rows collected so far as one shard, atomically; nothing when there are none."""
        if self._rows:
            if self._before is not None:
                self._before()
            path = self.out / f"shard-{self._next:05d}.parquet"
            _write_table(table_of(self._rows), path, self.spec)
            ids = {row.units.id for row in self._rows}
            self._next += 1
            self._rows, self._held = [], 0.0
            if self._written is not None:
                self._written(path, ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.flush()


def shard_paths(folder: str | Path | UrlPath, names: Collection[str] | None = None) -> list[Path]:
    """Return the shards of a folder in order, or the copies here of those behind a URL; none when there is none.

    With `names`, only those that are called so, and of a URL nothing else is fetched.
    """
    wanted = _NAME if names is None else re.compile("|".join(map(re.escape, sorted(names))) or "(?!)")
    folder = local(folder, wanted)
    paths = [path for path in folder.iterdir() if wanted.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(paths, key=lambda path: int(path.stem.removeprefix("shard-")))


def require_shards(folder: str | Path | UrlPath) -> list[Path]:
    """Return `shard_paths`, and raise `ShardError` when there is none."""
    if not (paths := shard_paths(folder)):
        raise ShardError(f"{folder}: no unit shards (shard-00000.parquet …). Make them with `twist tokenize`.")
    return paths


def read_spec(path: str | Path) -> UnitSpec:
    """Return what the units of a shard are. ShardError when it is not a shard."""
    return _spec_of(_opened(Path(path)).schema_arrow, Path(path))


def read_facts(folder: str | Path | UrlPath) -> list[dict[str, Any]]:
    """Return every clip of a folder without its units: one dict per clip, keys as in `SCHEMA`."""
    return [fact for _, fact in read_placed_facts(folder)]


def read_placed_facts(folder: str | Path | UrlPath) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of its shard with each of `read_facts`."""
    for path in shard_paths(folder):
        for fact in read_table(path, FACTS).to_pylist():
            yield path.name, fact


def read_rows(folder: str | Path | UrlPath, ids: Collection[str]) -> Iterator[Row]:
    """Yield these clips as rows, a shard in memory at a time."""
    for path in shard_paths(folder) if ids else []:
        table, spec = read_table(path, tuple(SCHEMA.names)), read_spec(path)
        chosen = table.filter(pa.array([id in ids for id in table.column("id").to_pylist()], type=pa.bool_()))
        for row in chosen.to_pylist():
            flat = np.array(row.pop("units"), np.uint16), np.array(row.pop("runs"), np.int32)
            yield Row(units=Units(*flat, spec=spec, id=row.pop("id")), **row)


def drop(folder: str | Path | UrlPath, ids: Collection[str], *, shards: Collection[str] | None = None) -> None:
    """Rewrite the shards that hold any of these clips without them, each atomically; an emptied one is removed.

    Args:
        folder: of the shards.
        ids: of clips.
        shards: names of those that are looked at; None: all.
    """
    place = as_path(folder)
    for path in shard_paths(place, shards) if ids else []:
        table = read_table(path, tuple(SCHEMA.names))
        kept = np.array([id not in ids for id in table.column("id").to_pylist()], dtype=bool)
        if not kept.any():
            (place / path.name).unlink()
        elif not kept.all():
            _write_table(table.filter(pa.array(kept)), place / path.name, read_spec(path))


def local(folder: str | Path | UrlPath, names: re.Pattern[str] = _NAME) -> Path:
    folder = as_path(folder)
    return mirror(folder, names=names) if isinstance(folder, UrlPath) else folder


def table_of(rows: Sequence[Row]) -> pa.Table:
    offsets = np.cumsum([0, *(len(row.units) for row in rows)], dtype=np.int32)
    columns = {name: [getattr(row, name) for row in rows] for name in FACTS if name != "id"}
    columns["id"] = [row.units.id for row in rows]
    for name, values in (("units", [row.units.ids for row in rows]), ("runs", [row.units.runs for row in rows])):
        columns[name] = pa.ListArray.from_arrays(offsets, np.concatenate(values))
    return pa.table([pa.array(columns[f.name], type=f.type) for f in SCHEMA], schema=SCHEMA)


def _write_table(table: pa.Table, path: Path | UrlPath, spec: UnitSpec) -> None:
    with atomic_write(path) as temporary:
        pq.write_table(table.replace_schema_metadata({_SPEC: spec.to_json()}), temporary, compression="zstd")


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(open_regular(path))
    except (pa.ArrowException, OSError) as error:
        raise broken(path, error) from error


def read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    file = _opened(path)
    _spec_of(file.schema_arrow, path)
    _check_schema(file.schema_arrow, path)
    try:
        table = file.read(columns=list(columns)).select(list(columns))
    except (pa.ArrowException, OSError) as error:
        raise broken(path, error) from error
    empty = [
        name for name in columns
        if table.column(name).null_count or (name in FLAT and table.column(name).combine_chunks().values.null_count)
    ]  # fmt: skip
    if empty:
        raise broken(path, f"there are rows, or units in them, without {offenders(empty)}")
    return table


def _check_schema(schema: pa.Schema, path: Path) -> None:
    """Every column of SCHEMA is there, once, and of its type: a float that is cut to a unit is another unit."""
    found = dict(zip(schema.names, schema.types, strict=True))
    wrong = [
        f"{field.name} is {found[field.name]}, not {field.type}" if field.name in found else f"{field.name} is missing"
        for field in SCHEMA
        if found.get(field.name) != field.type or schema.names.count(field.name) != 1
    ]
    if wrong:
        raise broken(path, f"of its columns, {offenders(wrong)}")


def _spec_of(schema: pa.Schema, path: Path) -> UnitSpec:
    text = (schema.metadata or {}).get(_SPEC)
    if text is None:
        raise broken(path, "it does not say what its units are")
    try:
        return UnitSpec.from_json(text.decode())
    except (BadInput, UnicodeDecodeError) as error:
        raise broken(path, error) from error


def broken(path: Path, why: object) -> ShardError:
    return ShardError(
        f"{path}: not a whole unit shard ({why}). twistlm writes shards whole, so it was damaged or made elsewhere: "
        "delete it and run the same tokenize command again; only its clips are done anew."
    )
