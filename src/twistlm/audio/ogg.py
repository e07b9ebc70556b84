"""The pages of an Ogg file, as far as libsndfile does not look at them closely enough."""

from __future__ import annotations

import itertools
import struct

from twistlm.audio.window import Window
from twistlm.errors import AudioError


def check_pages(window: Window, name: object) -> None:
    """Raise when the times of an Ogg Opus stream's pages go back, which none may (RFC 3533, RFC 7845).

    Where the last page's time lies 2**31 samples or more before its neighbour's, libsndfile (1.2.2) takes what is left
    of the difference in 32 bits for the last packet's length, and gives for it whatever its memory held: other samples
    each time.

    Args:
        window: the file's bytes.
        name: what it is called in the error.

    Raises:
        AudioError: as said.
    """
    times = _page_times(window)
    if any(later < earlier for earlier, later in itertools.pairwise(times)):
        raise AudioError(
            f"{name}: the times of its Ogg pages go back: corrupt, or joined from several. Convert it again."
        )


def last_pages(window: Window, n: int) -> int:
    """Return how many samples the last `n` pages of the first stream end, or all where there are not so many."""
    times = [0, *_page_times(window)]
    return times[-1] - times[max(0, len(times) - 1 - n)]


def _page_times(window: Window) -> list[int]:
    """Return the granule positions of the first stream's pages, but of those on which no packet ends (-1)."""
    times, first, at = [], None, _find(window, 0)
    while at is not None and len(head := window.at(at, 27 + 255)) >= 27:
        time, stream = struct.unpack_from("<qI", head, 6)
        first = stream if first is None else first
        if stream == first and time != -1:
            times.append(time)
        segments = head[27 : 27 + head[26]]
        at = _find(window, at + 27 + len(segments) + sum(segments))
    return times


def _find(window: Window, at: int) -> int | None:
    """Return where the next page begins: mostly right here."""
    while at < window.size:
        size = 4 if window.at(at, 4) == b"OggS" else 1 << 16
        data = window.at(at, size)
        if (found := data.find(b"OggS")) >= 0:
            return at + found
        at += max(1, len(data) - 3)
    return None
