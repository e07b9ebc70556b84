"""The sound of an entry, wherever it lies: a file, a part of one, a member of a tar, a row of a Parquet file.

Nothing is ever unpacked to the disk, and a name in an archive is only looked up, never followed. What lies behind a URL
is copied to a temporary file, which goes with the clips that are cut from it. N samples.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twistlm.audio.clip import Clip, decode, read
from twistlm.audio.decoding import TOLERANCE_SECONDS, info
from twistlm.audio.window import open_regular
from twistlm.corpus.manifest import Entry, is_safe
from twistlm.errors import AudioError, BadInput, UrlError, offenders
from twistlm.files.artifacts import file_sha256
from twistlm.files.urls import Fetched, Stat, UrlPath

_MAX_BYTES = 2**31  # of a sound inside an archive, which is read into memory whole: 18 hours of 16 kHz 16-bit PCM
_MAX_HEADER = 1 << 20  # bytes of what a tar says of one member
_ROWS = 8  # rows of a Parquet file in memory at once
_FREE, _RATIO = 64 << 20, 200  # bytes a column may unpack to, or so many times its packed size
_BUFFER = 1 << 20  # bytes: without it pyarrow reads a column of a row group at once, whatever the size of its pages
_ROW = re.compile(r"(.+)\[(\d+)\]")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sound:
    """An entry's sound, ready to be decoded by any thread.

    Attributes:
        entry: whose it is.
        file: the file at `entry.path`; behind a URL, one that is fetched once for all clips of it that come together.
        data: the sound file's bytes when it lies in an archive; None when it is a file of its own, read when needed.
        n_bytes, mtime_ns: size and modification time of the file at `entry.path`, archive or not.
    """

    entry: Entry
    file: Path | Fetched
    data: bytes | None
    n_bytes: int
    mtime_ns: int

    def clip(self, *, sample_rate: int | None) -> Clip:
        """Return the clip, mono float32 [N] at `sample_rate` Hz (None: the file's), with the entry's id.

        Raises:
            AudioError: as `audio.clip.read`.
        """
        entry = self.entry
        start, seconds = entry.start or 0.0, None if entry.start is None else entry.seconds
        if self.data is None:
            clip = read(self.file, sample_rate=sample_rate, start=start, seconds=seconds, channel=entry.channel)
        else:
            clip = decode(
                self.data,
                name=f"{entry.path}#{entry.member}",
                sample_rate=sample_rate,
                start=start,
                seconds=seconds,
                channel=entry.channel,
            )
        return dataclasses.replace(clip, id=self.entry.id)

    @property
    def sha256(self) -> str:
        """64 hex digits over the sound file, the whole of it also when the clip is a part."""
        if self.data is not None:
            return hashlib.sha256(self.data).hexdigest()
        if isinstance(self.file, Fetched):
            return self.file.sha256
        return _file_sha256(self.file, self.n_bytes, self.mtime_ns)


class Sounds:
    """Fetches the sounds of entries, one archive open at a time: entries of one archive should come together.

    A context manager. `fetch` is for one thread; what it returns is for any.
    """

    def __init__(self) -> None:
        self._path: Path | UrlPath | None = None
        self._file: Path | Fetched = Path()
        self._archive: _Archive | BadInput | None = None

    def fetch(self, entry: Entry) -> Sound:
        """Return the sound; of a member of an archive its bytes, read now.

        Raises:
            AudioError: no such file, or it cannot be read.
            BadInput: an archive that is broken, compressed or of an unknown kind, or has no such member.
        """
        stat = look_at(entry)
        if isinstance(stat, os.stat_result) and not S_ISREG(stat.st_mode) and not S_ISDIR(stat.st_mode):
            raise AudioError(f"{entry.path}: no regular file, but a pipe, a device or a socket. Leave it out.")
        if entry.path != self._path:
            self._close()
            self._path = entry.path
            self._file = entry.path.fetched() if isinstance(entry.path, UrlPath) else entry.path
        data = self._open(self._file).read(entry.member) if entry.member else None
        return Sound(entry=entry, file=self._file, data=data, n_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)

    def _open(self, path: Path | Fetched) -> _Archive:
        if self._archive is None:
            kind = _KINDS.get(path.suffix.lower())
            try:
                self._archive = kind(path) if kind else _unknown(path)
            except BadInput as error:
                self._archive = error  # for the other members: a broken archive is not read again for each
        if isinstance(self._archive, BadInput):
            raise self._archive
        return self._archive

    def _close(self) -> None:
        if self._archive is not None and not isinstance(self._archive, BadInput):
            self._archive.close()
        self._path = self._archive = None
        self._file = Path()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._close()


def read_clip(entry: Entry, *, sample_rate: int | None) -> Clip:
    """Return one entry's clip at `sample_rate` Hz. For many, use `Sounds`. Errors as `Sounds.fetch`, `Sound.clip`."""
    with Sounds() as sounds:
        return sounds.fetch(entry).clip(sample_rate=sample_rate)


def look_at(entry: Entry) -> os.stat_result | Stat:
    """Return size and modification time of the file at `entry.path`. AudioError when they cannot be had."""
    try:
        return entry.path.stat()
    except UrlError as error:
        raise AudioError(str(error)) from error
    except OSError as error:
        raise AudioError(f"{entry.path}: no such file, or it cannot be read. Check the path.") from error


def check_header(entry: Entry) -> float | None:
    """Return the seconds of a clip from its file's header, decoding nothing; a member's archive is not opened.

    Raises:
        AudioError: no such file, not a sound file, visibly truncated, or it ends before the part does.
    """
    if entry.member:
        if not entry.path.is_file():
            raise AudioError(f"{entry.path}: no such file. Check the path.")
        return entry.seconds
    held = info(entry.path).seconds
    if entry.start is None:
        return held
    end = entry.start + (entry.seconds or 0.0)
    if end > held + TOLERANCE_SECONDS:
        raise AudioError(f"{entry.path}: the clip {entry.id!r} ends at {end:g} s, the file at {held:.2f} s.")
    return entry.seconds


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
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BadInput(
            f"{path}: not a whole tar file ({error}). Fetch it again if it is a download that was interrupted; if it "
            "is compressed (.tar.gz, .tgz), unpack or decompress it first: only plain tar files can be read in place."
        ) from error
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


class _Archive(Protocol):
    def read(self, member: str) -> bytes: ...

    def close(self) -> None: ...


class _Tar:
    """Members by name; their places are found once, then each is one read."""

    def __init__(self, path: Path | Fetched) -> None:
        self._path = path
        self._places = {m.name: (m.offset_data, m.size) for m in tar_members(path) if m.isreg() and not m.issparse()}
        self._file = path.open("rb")

    def read(self, member: str) -> bytes:
        place = self._places.get(member)
        if place is None:
            raise BadInput(f"{self._path}: has no file {member!r}. The manifest belongs to another archive.")
        offset, size = place
        if size > _MAX_BYTES:
            raise BadInput(f"{self._path}: {member!r} has {size} bytes; unpack files of more than {_MAX_BYTES} first.")
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise BadInput(f"{self._path}: {member!r} ends after {len(data)} of {size} bytes: fetch the archive again.")
        return data

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """Rows of the `bytes` of a struct column, as Hugging Face stores sounds; quick when read in order.

    Memory holds the page being read, packed and unpacked. A page can be as large as its row group: pyarrow, writing,
    ends pages only after batches of rows (1024 by default), however large these are.
    """

    def __init__(self, path: Path | Fetched) -> None:
        self._path = path
        self._file = open_parquet(path)
        metadata = self._file.metadata
        counts = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._column = ""
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rows: list[Any] = []  # of the batch that is held, from row _first on
        self._first = 0

    def read(self, member: str) -> bytes:
        match = _ROW.fullmatch(member)
        n_rows = int(self._ends[-1]) if len(self._ends) else 0
        if match is None or int(match[2]) >= n_rows:
            raise BadInput(f"{self._path}: has no {member!r} among its {n_rows} rows; a member is as 'audio[0]'.")
        column, row = match[1], int(match[2])
        try:
            self._move_to(column, row)
        except (pa.ArrowException, OSError) as error:
            self._column = ""  # what was begun is of no use
            raise BadInput(f"{self._path}: cannot be read at row {row} ({error}). Fetch the file again.") from error
        data = self._rows[row - self._first]
        if not isinstance(data, bytes) or len(data) > _MAX_BYTES:
            raise AudioError(
                f"{self._path}: row {row} of {column!r} holds no sound, or one of more than {_MAX_BYTES} bytes. Rows "
                "that only name a path need the sound files themselves: make the manifest from those."
            )
        return data

    def _move_to(self, column: str, row: int) -> None:
        group = int(np.searchsorted(self._ends, row, side="right"))
        begin = int(self._ends[group - 1]) if group else 0
        if column != self._column or row < self._first or begin > self._first + len(self._rows):
            leaf = f"{column}.bytes"
            if leaf not in {self._file.schema.column(i).path for i in range(len(self._file.schema))}:
                raise pa.ArrowKeyError(f"no column {leaf!r}")
            groups = list(range(group, len(self._ends)))
            self._batches = self._file.iter_batches(batch_size=_ROWS, row_groups=groups, columns=[leaf])
            self._column, self._first, self._rows = column, begin, []
        while row >= self._first + len(self._rows):
            batch = next(self._batches)
            self._first += len(self._rows)
            self._rows = [None if cell is None else cell["bytes"] for cell in batch.column(0).to_pylist()]

    def close(self) -> None:
        self._batches = iter(())
        self._file.close()


_KINDS: dict[str, type[_Tar] | type[_Parquet]] = {".tar": _Tar, ".parquet": _Parquet}


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
    facts = file.metadata
    for group in (facts.row_group(g) for g in range(facts.num_row_groups)):
        for column in (group.column(c) for c in range(group.num_columns)):
            packed, unpacked = column.total_compressed_size, column.total_uncompressed_size
            if unpacked > max(_FREE, _RATIO * packed) or group.num_rows > max(_FREE, _RATIO * path.stat().st_size):
                file.close()
                raise BadInput(
                    f"{path}: the column {column.path_in_schema!r} unpacks {packed} bytes to {unpacked}, in "
                    f"{group.num_rows} rows, which no sound or text does: damaged, or made to fill the memory."
                )
    return file


def _unknown(path: object) -> _Archive:
    raise BadInput(f"{path}: a member can lie in {' or '.join(_KINDS)} files. Unpack others, and use their files.")


@functools.lru_cache(maxsize=64)  # the clips of one long file come together
def _file_sha256(path: Path, _n_bytes: int, _mtime_ns: int) -> str:
    return file_sha256(path)
