"""The sound of an entry, wherever it lies: a file, a part of one, or inside another file (`archives`).

What lies behind a URL is copied to a temporary file, which goes with the clips that are cut from it. N samples.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from types import TracebackType
from typing import Self

from twistlm.audio.clip import Clip, decode, read
from twistlm.audio.decoding import TOLERANCE_SECONDS, info
from twistlm.audio.finding import is_misnamed
from twistlm.corpus.archives import Archive, open_archive
from twistlm.corpus.manifest import Entry, folder_of
from twistlm.errors import AudioError, BadInput, UrlError
from twistlm.files.regular import file_sha256
from twistlm.files.urls import Fetched, Stat, UrlPath


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
        self._archive: Archive | BadInput | None = None

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

    def _open(self, path: Path | Fetched) -> Archive:
        if self._archive is None:
            try:
                self._archive = open_archive(path)
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


def place_of(entry: Entry) -> str:
    """Return the name of an entry's file (or archive) and of its folder: what tells files apart that look the same."""
    return f"{folder_of(entry.path).name}/{entry.path.name}"


def look_at(entry: Entry) -> os.stat_result | Stat:
    """Return size and modification time of the file at `entry.path`. AudioError when they cannot be had."""
    try:
        return entry.path.stat()
    except UrlError as error:
        raise AudioError(str(error)) from error
    except OSError as error:
        if isinstance(entry.path, Path) and is_misnamed(entry.path):
            raise AudioError(f"{entry.path}: its name is not UTF-8, as of a system in Latin-1. Rename it.") from error
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


@functools.lru_cache(maxsize=64)  # the clips of one long file come together
def _file_sha256(path: Path, _n_bytes: int, _mtime_ns: int) -> str:
    return file_sha256(path)
