"""Sounds inside other files: members of a tar, rows of a Parquet or an Arrow file.

Nothing is ever unpacked to the disk, and a name in an archive is only looked up, never followed.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twistlm.corpus.cells import MAX_BYTES, Column, sound_column, sound_file
from twistlm.corpus.manifest import is_safe
from twistlm.errors import BadInput, offenders
from twistlm.files.regular import open_regular
from twistlm.files.urls import Fetched, UrlPath

_MAX_HEADER = 1 << 20  # bytes of what a tar says of one member
_ROWS = 8  # rows of a Parquet file in memory at once
_FREE, _RATIO = 64 << 20, 200  # bytes a column may unpack to, or so many times its packed size
_WIDEST = 8  # bytes of a number in a list
_BUFFER = 1 << 20  # bytes: without it pyarrow reads a column of a row group at once, whatever the size of its pages
_ROW = re.compile(r"(.+)\[(\d+)\]")
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of an Arrow stream


class Archive(Protocol):
    """A file with sounds in it."""

    def read(self, member: str) -> bytes: ...

    def close(self) -> None: ...


def tar_members(path: Path | UrlPath) -> list[tarfile.TarInfo]:
    """Return every member of a tar file, having read its headers alone.

    Raises:
        BadInput: not a tar file, compressed (there is no way into the middle of one), truncated, a damaged header, or
            a member whose name points out of the archive.
    """
    try:
        with open_regular(path) as file, tarfile.open(fileobj=_Headers(file), mode="r:") as tar:  # type: ignore[call-overload]
            members = tar.getmembers()
            file.seek(tar.offset)
            # tarfile takes a damaged header for the end, which is a block of zeros.
            whole = not any(file.read(tarfile.BLOCKSIZE))
            more = False  # of a second archive, joined to this one by cat: its members are not listed
            while whole and not more and (block := file.read(1 << 20)):
                more = any(block)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BadInput(
            f"{path}: not a whole tar file ({error}). Fetch it again if it is a download that was interrupted; if it "
            "is compressed (.tar.gz, .tgz), unpack or decompress it first: only plain tar files can be read in place."
        ) from error
    if more:
        raise BadInput(
            f"{path}: something follows its end, perhaps a second archive that was joined to it with cat, of which "
            "nothing would be read. Take them apart, or pack them as one."
        )
    if not whole:
        raise BadInput(f"{path}: damaged behind byte {tar.offset}: no member begins there. Fetch it again.")
    unsafe = [repr(member.name) for member in members if not is_safe(member.name)]
    if unsafe:
        raise BadInput(
            f"{path}: has members that point out of the archive: {offenders(unsafe)}. Nobody makes such names by "
            "accident: do not use this archive."
        )
    return members


class _Headers:
    """A file of which only short pieces can be read: a tar's headers, though one may claim to be of any size."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, n: int = -1) -> bytes:
        if not 0 <= n <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header in it claims {n} bytes, which no name or note has")
        return self._file.read(n)


class _Tar:
    """Members by name; their places are found once, then each is one read."""

    def __init__(self, path: Path | Fetched) -> None:
        self._path = path
        self._places = {m.name: (m.offset_data, m.size) for m in tar_members(path) if m.isreg() and not m.issparse()}
        self._file = open_regular(path)

    def read(self, member: str) -> bytes:
        place = self._places.get(member)
        if place is None:
            raise BadInput(f"{self._path}: has no file {member!r}. The manifest belongs to another archive.")
        offset, size = place
        if size > MAX_BYTES:
            raise BadInput(f"{self._path}: {member!r} has {size} bytes; unpack files of more than {MAX_BYTES} first.")
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise BadInput(f"{self._path}: {member!r} ends after {len(data)} of {size} bytes: fetch the archive again.")
        return data

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """Rows of a column of sounds, see `cells`; quick when read in order.

    Memory holds the page being read, packed and unpacked. A page can be as large as its row group: pyarrow, writing,
    ends pages only after batches of rows (1024 by default), however large these are.
    """

    def __init__(self, path: Path | Fetched) -> None:
        self._path = path
        self._file = open_parquet(path)
        metadata = self._file.metadata
        counts = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._column: Column | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: pa.RecordBatch | None = None  # the one that is held, from row _first on
        self._first = 0

    def read(self, member: str) -> bytes:
        name, row = _place(member, self._path, int(self._ends[-1]) if len(self._ends) else 0)
        try:
            column, batch = self._move_to(name, row)
        except (pa.ArrowException, OSError) as error:
            self._column = None  # what was begun is of no use
            raise BadInput(f"{self._path}: cannot be read at row {row} ({error}). Fetch the file again.") from error
        return sound_file(column, batch, row - self._first, where=f"{self._path}: row {row} of {name!r}")

    def _move_to(self, name: str, row: int) -> tuple[Column, pa.RecordBatch]:
        group = int(np.searchsorted(self._ends, row, side="right"))
        begin = int(self._ends[group - 1]) if group else 0
        held = 0 if self._batch is None else len(self._batch)
        if self._column is None or self._column.name != name or row < self._first or begin > self._first + held:
            self._column = sound_column(self._file.schema_arrow, name, where=self._path)
            _require_bounded(self._file.metadata, self._column, self._path)
            groups = list(range(group, len(self._ends)))
            self._batches = self._file.iter_batches(batch_size=_ROWS, row_groups=groups, columns=self._column.needed)
            self._first, self._batch, held = begin, None, 0
        while self._batch is None or row >= self._first + held:
            self._first += held
            self._batch = next(self._batches)
            held = len(self._batch)
        return self._column, self._batch

    def close(self) -> None:
        self._batches, self._batch = iter(()), None
        self._file.close()


class ArrowFile:
    """A stream of Arrow batches, as `datasets` stores them: mapped, so that a row is read when it is asked for.

    `schema` is that of all batches. The map goes with the last batch that shows it.

    Raises:
        BadInput: it is no such file, or not whole; or its batches are packed, as `datasets` never writes them.
    """

    def __init__(self, path: Path | Fetched) -> None:
        self._path = path
        self._mapped: mmap.mmap | None = None
        try:
            with open_regular(path) as file:
                self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._buffer = pa.py_buffer(self._mapped)
            if self._mapped[-len(_END) :] != _END:
                raise ValueError("it ends too early")
            for message in pa.ipc.MessageReader.open_stream(self._buffer):
                if message.type == "record batch" and _is_packed(bytes(message.metadata)):
                    raise ValueError("its batches are packed")
            self.schema = pa.ipc.open_stream(self._buffer).schema
        except (pa.ArrowException, OSError, ValueError, IndexError, struct.error) as error:
            raise BadInput(
                f"{path}: not a whole Arrow file of the library datasets ({error}). Save or fetch the data set again."
            ) from error

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches in order, each checked. BadInput for one that is damaged."""
        try:
            for batch in pa.ipc.open_stream(self._buffer):
                batch.validate(full=True)  # offsets of foreign files are followed by nobody else
                yield batch
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{self._path}: damaged ({error}). Save or fetch the data set again.") from error


class _Arrow:
    """Rows of an Arrow file, in whatever order."""

    def __init__(self, path: Path | Fetched) -> None:
        self._path = path
        self._batches = list(ArrowFile(path).batches())
        self._ends = np.cumsum([len(batch) for batch in self._batches], dtype=np.int64)

    def read(self, member: str) -> bytes:
        name, row = _place(member, self._path, int(self._ends[-1]) if len(self._ends) else 0)
        at = int(np.searchsorted(self._ends, row, side="right"))
        batch = self._batches[at]
        column = sound_column(batch.schema, name, where=self._path)
        inside = row - (int(self._ends[at - 1]) if at else 0)
        return sound_file(column, batch, inside, where=f"{self._path}: row {row} of {name!r}")

    def close(self) -> None:
        self._batches = []


def is_text_type(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds text."""
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner))


def open_parquet(path: Path | UrlPath) -> pq.ParquetFile:
    """Open a Parquet file so that its columns are read piece by piece.

    Raises:
        BadInput: it is none, or not whole; or its footer promises more rows, or unpacked bytes, than such a file can
            hold without having been made to fill the memory.
    """
    try:
        file = pq.ParquetFile(open_regular(path), buffer_size=_BUFFER, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path}: not a whole Parquet file ({error}). Fetch it again.") from error
    facts, size = file.metadata, path.stat().st_size  # once: behind a URL, each is a question
    for group in (facts.row_group(g) for g in range(facts.num_row_groups)):
        for column in (group.column(c) for c in range(group.num_columns)):
            packed, unpacked = column.total_compressed_size, column.total_uncompressed_size
            if unpacked > max(_FREE, _RATIO * packed) or group.num_rows > max(_FREE, _RATIO * size):
                file.close()
                raise BadInput(
                    f"{path}: the column {column.path_in_schema!r} unpacks {packed} bytes to {unpacked}, in "
                    f"{group.num_rows} rows, which no sound or text does: damaged, or made to fill the memory."
                )
    return file


def _require_bounded(facts: pq.FileMetaData, column: Column, path: object) -> None:
    """Raise BadInput where lists would unpack to more samples than so few bytes hold: of equal ones, any number."""
    for group in (facts.row_group(g) for g in range(facts.num_row_groups)):
        for leaf in (group.column(c) for c in range(group.num_columns)):
            ours = any(f"{leaf.path_in_schema}.".startswith(f"{place}.") for place in column.needed)
            if ours and leaf.num_values > max(_FREE, _RATIO * leaf.total_compressed_size) // _WIDEST:
                raise BadInput(
                    f"{path}: the column {leaf.path_in_schema!r} unpacks {leaf.total_compressed_size} bytes to "
                    f"{leaf.num_values} values, which no sound does: damaged, or made to fill the memory."
                )


def _is_packed(metadata: bytes) -> bool:
    """Return whether the batch that a message's metadata (a flatbuffer) is of has its buffers compressed."""
    (message,) = struct.unpack_from("<I", metadata, 0)
    header = _field(metadata, message, 2)
    return bool(header and _field(metadata, header + struct.unpack_from("<I", metadata, header)[0], 3))


def _field(data: bytes, table: int, index: int) -> int:
    """Return where a field of a flatbuffer's table lies; 0 where it has none."""
    at = table - struct.unpack_from("<i", data, table)[0]
    (size,) = struct.unpack_from("<H", data, at)
    entry = 4 + 2 * index
    offset = struct.unpack_from("<H", data, at + entry)[0] if at >= 0 and entry + 2 <= size else 0
    return table + offset if offset else 0


def _place(member: str, path: object, n_rows: int) -> tuple[str, int]:
    """Return column and row of "audio[17]"."""
    match = _ROW.fullmatch(member)
    if match is None or len(match[2]) > 18 or int(match[2]) >= n_rows:
        raise BadInput(f"{path}: has no {member!r} among its {n_rows} rows; a member is as 'audio[0]'.")
    return match[1], int(match[2])


_KINDS: dict[str, type[_Tar] | type[_Parquet] | type[_Arrow]] = {
    ".tar": _Tar,
    ".parquet": _Parquet,
    ".arrow": _Arrow,
}


def open_archive(path: Path | Fetched) -> Archive:
    """Open a file that has sounds in it. BadInput for one of another kind, or that is not whole."""
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise BadInput(f"{path}: a member can lie in {', '.join(_KINDS)} files. Unpack others, and use their files.")
    return kind(path)
