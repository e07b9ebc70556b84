"""Bytes of an open file or in memory, as decoders want to read them: from anywhere, some of them replaced."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import BinaryIO


class Window:
    """A file to read, with a position of its own: bytes `start` … `stop` - 1 of another, which does not move.

    Attributes:
        size: bytes.
    """

    def __init__(
        self, source: BinaryIO, *, start: int = 0, stop: int | None = None, patches: Mapping[int, bytes] | None = None
    ) -> None:
        """
        Args:
            source: an open file with a descriptor, or an `io.BytesIO`.
            start, stop: of the window; None is the end.
            patches: offset in the window -> bytes to be seen there instead.
        """
        self._source = source
        self._data = source.getbuffer() if isinstance(source, io.BytesIO) else None
        self._file = -1 if isinstance(source, io.BytesIO) else source.fileno()
        held = len(self._data) if self._data is not None else os.fstat(self._file).st_size
        self._start, self._at, self._patches = start, 0, dict(patches or {})
        self.size = (held if stop is None else min(stop, held)) - start
        self.name = "sound"

    def part(self, start: int, stop: int) -> Window:
        """Return bytes `start` … `stop` - 1 of this window."""
        return Window(self._source, start=self._start + start, stop=min(self._start + stop, self._start + self.size))

    def patched(self, patches: Mapping[int, bytes]) -> Window:
        """Return the same window with other bytes at some offsets."""
        return Window(self._source, start=self._start, stop=self._start + self.size, patches=patches)

    def at(self, offset: int, n: int) -> bytes:
        """Return bytes `offset` … `offset + n - 1`, or those of them that there are; nothing moves."""
        n = max(0, min(n, self.size - offset))
        place = self._start + offset
        data = bytes(self._data[place : place + n]) if self._data is not None else os.pread(self._file, n, place)
        for where, patch in self._patches.items():
            first, last = max(where, offset), min(where + len(patch), offset + len(data))
            if first < last:
                data = data[: first - offset] + patch[first - where : last - where] + data[last - offset :]
        return data

    def read(self, n: int = -1) -> bytes:
        data = self.at(self._at, self.size - self._at if n < 0 else n)
        self._at += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence] + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True
