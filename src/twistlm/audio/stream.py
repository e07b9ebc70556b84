"""A sound file in pieces, for files that are too long to lie in memory.

Shapes: N samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twistlm.audio.decoding import opened, part, resampled
from twistlm.errors import AudioError, BadInput
from twistlm.files.urls import UrlPath, as_path

BLOCK = 1 << 18  # samples over which sums are taken at once: another number rounds them in another way


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What must be known of a whole clip before its first window can be encoded.

    Attributes:
        n_samples: N.
        peak: largest absolute sample.
        mean, variance: over the clip, summed in float64.
    """

    n_samples: int
    peak: float
    mean: float
    variance: float


def blocks(
    path: str | Path | UrlPath,
    *,
    sample_rate: int,
    start: float = 0.0,
    seconds: float | None = None,
    channel: int | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Yield a file's mono samples at `sample_rate` Hz, piece by piece: together those of `clip.read`.

    A part is resampled without what lies around it, as if it were a file of its own. Memory holds one block at the
    file's own rate and channels, and one at the new rate, however long the file is.

    Args:
        path: the file.
        sample_rate: Hz of the result, positive.
        start: seconds into the file, at least 0, rounded to the file's nearest sample.
        seconds: length of the part, positive; None reads to the end.
        channel: which one, from 1; None is the mean of all.

    Raises:
        BadInput: a rate, start or length out of range.
        AudioError: as `clip.read`; or the part ends more than 0.1 s behind the file's end.
    """
    path = as_path(path)
    if sample_rate < 1:
        raise BadInput(f"a sample rate must be positive, got {sample_rate}.")
    with opened(path) as sound:
        first, last = part(sound, path, start, seconds)
        yield from resampled(sound, path, first, last, sample_rate, channel=channel)


def regrouped(pieces: Iterable[NDArray[np.float32]], size: int) -> Iterator[NDArray[np.float32]]:
    """Yield the same samples in pieces of `size`, the last as long as it comes; nothing of nothing."""
    held: list[NDArray[np.float32]] = []
    n_held = 0
    for piece in pieces:
        while n_held + len(piece) >= size:
            held.append(piece[: size - n_held])
            piece = piece[size - n_held :]
            yield np.concatenate(held)
            held, n_held = [], 0
        if len(piece):
            held.append(piece)
            n_held += len(piece)
    if held:
        yield np.concatenate(held)


def spans(
    pieces: Iterable[NDArray[np.float32]], wanted: Iterable[tuple[int, int]], *, name: str
) -> Iterator[NDArray[np.float32]]:
    """Yield samples `start … stop` of the joined pieces for each wanted (start, stop).

    Spans may overlap and leave gaps; neither starts nor stops may go back. Memory holds one span and one piece.

    Args:
        pieces: float32 [any length] each.
        wanted: in samples.
        name: what the pieces are of, for errors.

    Raises:
        AudioError: the pieces end before a span does.
    """
    source = iter(pieces)
    held, at = np.zeros(0, dtype=np.float32), 0  # held[0] is sample `at`
    for start, stop in wanted:
        while True:
            past = min(len(held), max(0, start - at))
            held, at = held[past:], at + past
            if at + len(held) >= stop:
                break
            piece = next(source, None)
            if piece is None:
                raise AudioError(
                    f"{name}: ended after {at + len(held)} samples where there were {stop} before: it changed while it "
                    "was read. Let whatever writes it finish first."
                )
            held = np.concatenate([held, piece])
        yield held[: stop - at]


def survey(pieces: Iterable[NDArray[np.float32]]) -> Survey:
    """Return length, peak, mean and variance of the joined pieces, bit for bit the same however they are cut."""
    n, peak, total, squares = 0, 0.0, 0.0, 0.0
    for block in regrouped(pieces, BLOCK):
        n += len(block)
        peak = max(peak, float(np.abs(block).max()))
        total += float(block.sum(dtype=np.float64))
        squares += float(np.square(block, dtype=np.float64).sum())
    mean = total / max(n, 1)
    return Survey(n_samples=n, peak=peak, mean=mean, variance=max(0.0, squares / max(n, 1) - mean * mean))
