"""The pages of an Ogg file, as far as libsndfile does not look at them closely enough."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator

from twistlm.audio.window import Window
from twistlm.errors import AudioError

_FIRST = 2  # flag of the page that a stream begins with; in a file of several at once all such come before the rest


def check_pages(window: Window, name: object, *, opus: bool) -> None:
    """Raise where streams follow each other in an Ogg file, or an Opus stream's times go back (RFC 3533, RFC 7845).

    Of streams in a chain, as joined files and recorded broadcasts are, libsndfile reads the first alone. Where the last
    page's time lies 2**31 samples or more before its neighbour's, libsndfile (1.2.2) takes what is left of the
    difference in 32 bits for the last packet's length, and gives for it whatever its memory held: other samples each
    time.

    Args:
        window: the file's bytes.
        name: what it is called in the error.
        opus: whether its stream is Opus.

    Raises:
        AudioError: as said.
    """
    pages = list(_pages(window))
    data = next((i for i, (flags, _, _) in enumerate(pages) if not flags & _FIRST), len(pages))
    if any(flags & _FIRST for flags, _, _ in pages[data:]):
        raise AudioError(
            f"{name}: several Ogg streams one after the other, as joined files and recorded broadcasts are, of which "
            "only the first would be heard. Take them apart, or convert it to one (ffmpeg -i IN OUT.flac)."
        )
    times = _times(pages) if opus else []
    if any(later < earlier for earlier, later in itertools.pairwise(times)):
        raise AudioError(
            f"{name}: the times of its Ogg pages go back: corrupt, or joined from several. Convert it again."
        )


def last_pages(window: Window, n: int) -> int:
    """Return how many samples the last `n` pages of the first stream end, or all where there are not so many."""
    times = [0, *_times(_pages(window))]
    return times[-1] - times[max(0, len(times) - 1 - n)]


def _times(pages: Iterable[tuple[int, int, int]]) -> list[int]:
    """Return the granule positions of the first stream's pages, but of those on which no packet ends (-1)."""
    times: list[int] = []
    first = None
    for _, time, stream in pages:
        first = stream if first is None else first
        if stream == first and time != -1:
            times.append(time)
    return times


def _pages(window: Window) -> Iterator[tuple[int, int, int]]:
    """Yield flags, granule position and number of stream of each page."""
    at = _find(window, 0)
    while at is not None and len(head := window.at(at, 27 + 255)) >= 27:
        yield struct.unpack_from("<BqI", head, 5)
        segments = head[27 : 27 + head[26]]
        at = _find(window, at + 27 + len(segments) + sum(segments))


def _find(window: Window, at: int) -> int | None:
    """Return where the next page begins: mostly right here."""
    while at < window.size:
        size = 4 if window.at(at, 4) == b"OggS" else 1 << 16
        data = window.at(at, size)
        if (found := data.find(b"OggS")) >= 0:
            return at + found
        at += max(1, len(data) - 3)
    return None
