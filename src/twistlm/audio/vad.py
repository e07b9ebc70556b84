"""Where there is speech in a file: silero's voice-activity model, and segments of bounded length cut by it.

The model comes with faster-whisper and runs in onnxruntime. It carries a state from chunk to chunk, so a file can be
given to it in blocks and the probabilities are those of the whole. Shapes: N samples at 16 kHz, P chunks of 32 ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twistlm.audio.decoding import opened
from twistlm.audio.stream import BLOCK, blocks, regrouped
from twistlm.compute.underway import heard
from twistlm.errors import BadInput
from twistlm.files.urls import UrlPath, as_path

RATE = 16_000  # Hz, what the model hears
CHUNK = 512  # samples it judges at once
_BEFORE = 64  # samples of the chunk before that it hears with each

# Speech begins at the first chunk of at least THRESHOLD and ends at the first below NEGATIVE that is followed by
# PAUSE_SECONDS without one of THRESHOLD. These are faster-whisper's defaults, but for SHORTEST_SECONDS, which are
# silero's own.
THRESHOLD, NEGATIVE = 0.5, 0.35
PAUSE_SECONDS = 2.0
PAD_SECONDS = 0.4  # kept on both sides, or half of the pause when that is less
SHORTEST_SECONDS = 0.25  # less speech than that between two pauses is dropped: a click, a cough
SHORTEST_LIMIT = 2.0  # least `max_seconds`
_SMOOTH = 9  # chunks, 0.3 s, over which the quietest moment is looked for

VERSION = 1  # of these rules: another one makes other segments


def speech_segments(
    path: str | Path | UrlPath, *, max_seconds: float, channel: int | None = None
) -> list[tuple[float, float]]:
    """Return the stretches of a file that hold speech as (start, length) in seconds, in order, to the millisecond.

    They do not overlap. A stretch longer than `max_seconds` is cut where speech is least likely (`segments`). Memory
    does not grow with the file but for four bytes each 32 ms.

    Args:
        path: any file `audio.clip.read` reads.
        max_seconds: longest segment, at least 2.
        channel: which one is heard, from 1; None is the mean of all.

    Returns:
        Empty when nobody speaks.

    Raises:
        AudioError: the file is missing, corrupt, truncated, empty, or not finite.
        BadInput: `max_seconds` out of range.
    """
    check_limit(max_seconds)
    path = as_path(path)
    path = path.fetched() if isinstance(path, UrlPath) else path
    with opened(path) as sound:
        length = (sound.frames or 0) / sound.rate

    def told(pieces: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        for piece in pieces:
            yield piece
            heard(len(piece) / RATE, of=length)

    probabilities, n_samples = speech_probabilities(told(blocks(path, sample_rate=RATE, channel=channel)))
    found = segments(probabilities, n_samples=n_samples, max_seconds=max_seconds)
    times = [(round(start / RATE, 3), round(stop / RATE, 3)) for start, stop in found]
    return [(start, round(stop - start, 3)) for start, stop in times]


def speech_probabilities(pieces: Iterable[NDArray[np.float32]]) -> tuple[NDArray[np.float32], int]:
    """Return how likely each chunk holds speech, float32 [P] in 0 … 1, and N; P = ceil(N / 512).

    Args:
        pieces: mono samples at 16 kHz, however cut. Behind the last there is silence to the end of its chunk.
    """
    from faster_whisper.vad import get_vad_model

    session = get_vad_model().session
    state = {name: np.zeros((1, 1, 128), dtype=np.float32) for name in ("h", "c")}
    before = np.zeros((1, _BEFORE), dtype=np.float32)
    found, n_samples = [], 0
    for block in regrouped(pieces, BLOCK):  # whole chunks, but for the last block
        n_samples += len(block)
        chunks = np.pad(block, (0, -len(block) % CHUNK)).reshape(-1, CHUNK)
        context = np.concatenate([before, chunks[:-1, -_BEFORE:]])
        before = chunks[-1:, -_BEFORE:]
        output, state["h"], state["c"] = session.run(None, {"input": np.concatenate([context, chunks], 1), **state})
        found.append(output.reshape(-1).astype(np.float32))
    return np.concatenate(found) if found else np.zeros(0, dtype=np.float32), n_samples


def segments(probabilities: NDArray[np.float32], *, n_samples: int, max_seconds: float) -> list[tuple[int, int]]:
    """Return the stretches of speech as (start, stop) in samples of 16 kHz, in order, without overlap.

    A stretch that is longer than `max_seconds` is cut at the middle of the 0.3 s in which speech is least likely on
    average, looked for between half of `max_seconds` and all of it, though never so late that less than a quarter
    of `max_seconds` is left; then the rest again.

    Args:
        probabilities: float32 [P], one a chunk.
        n_samples: N, in the last chunk.
        max_seconds: longest segment, at least 2.

    Raises:
        BadInput: `max_seconds` out of range.
    """
    check_limit(max_seconds)
    if not len(probabilities):
        return []
    # Mean over _SMOOTH chunks around each; what lies outside the clip counts as its ends do.
    around = np.pad(probabilities.astype(np.float64), _SMOOTH // 2, mode="edge")
    smooth = np.convolve(around, np.full(_SMOOTH, 1 / _SMOOTH), mode="valid")
    limit = int(max_seconds * RATE)
    found = []
    for start, stop in _padded(_stretches(probabilities, n_samples), n_samples):
        while stop - start > limit:
            first = -(-(start + limit // 2) // CHUNK)
            last = min(start + limit, stop - limit // 4) // CHUNK
            cut = CHUNK * (first + int(smooth[first : last + 1].argmin()))
            found.append((start, cut))
            start = cut
        found.append((start, stop))
    return found


def _stretches(probabilities: NDArray[np.float32], n_samples: int) -> list[tuple[int, int]]:
    """Speech between pauses, (start, stop) in samples."""
    found: list[tuple[int, int]] = []
    start = pause = -1  # where the speech began that is going on, and the pause that may end it; -1 when none
    for i, p in enumerate(probabilities.tolist()):
        if p >= THRESHOLD:
            start, pause = (i * CHUNK if start < 0 else start), -1
        elif start >= 0 and p < NEGATIVE:
            pause = i * CHUNK if pause < 0 else pause
            if i * CHUNK - pause >= PAUSE_SECONDS * RATE:
                found.append((start, pause))
                start = pause = -1
    if start >= 0:
        found.append((start, n_samples))
    return [(start, stop) for start, stop in found if stop - start > SHORTEST_SECONDS * RATE]


def _padded(stretches: list[tuple[int, int]], n_samples: int) -> list[tuple[int, int]]:
    pad = int(PAD_SECONDS * RATE)
    bounds = [-2 * pad, *(edge for stretch in stretches for edge in stretch), n_samples + 2 * pad]
    padded = []
    for i in range(1, len(bounds) - 1, 2):
        before, start, stop, behind = bounds[i - 1 : i + 3]
        first = max(0, start - min(pad, (start - before) // 2))
        padded.append((first, min(n_samples, stop + min(pad, (behind - stop) // 2))))
    return padded


def check_limit(max_seconds: float) -> None:
    """Raise BadInput unless segments can be of this length at most."""
    if not SHORTEST_LIMIT <= max_seconds < np.inf:
        raise BadInput(f"max_seconds is the longest segment, at least {SHORTEST_LIMIT:g} s, got {max_seconds}.")
