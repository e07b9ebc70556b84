"""The pages of an Ogg file, as far as libsndfile does not look at them closely enough."""

from __future__ import annotations

import io
import itertools
import mmap
import struct
from typing import BinaryIO

from twistlm.errors import AudioError


def check_pages(source: BinaryIO, name: object) -> None:
    """Raise when the times of an Ogg Opus stream's pages go back, which none may (RFC 3533, RFC 7845).

    Where the last page's time lies 2**31 samples or more before its neighbour's, libsndfile (1.2.2) takes what is left
    of the difference in 32 bits for the last packet's length, and gives for it whatever its memory held: other samples
    each time.

    Args:
        source: the file, or its bytes; its position does not change.
        name: what it is called in the error.

    Raises:
        AudioError: as said.
    """
    if isinstance(source, io.BytesIO):
        times = _page_times(source.getvalue())
    else:  # mapped, since the position belongs to libsndfile
        with mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data:
            times = _page_times(data)
    if any(later < earlier for earlier, later in itertools.pairwise(times)):
        raise AudioError(
            f"{name}: the times of its Ogg pages go back: corrupt, or joined from several. Convert it again."
        )


def _page_times(data: bytes | mmap.mmap) -> list[int]:
    """Return the granule positions of the first stream's pages, but of those on which no packet ends (-1)."""
    times, first, at = [], None, data.find(b"OggS")
    while at >= 0 and at + 27 <= len(data):
        time, stream = struct.unpack_from("<qI", data, at + 6)
        first = stream if first is None else first
        if stream == first and time != -1:
            times.append(time)
        segments = data[at + 27 : at + 27 + data[at + 26]]
        at = data.find(b"OggS", at + 27 + len(segments) + sum(segments))
    return times
