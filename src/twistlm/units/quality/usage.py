"""What units cost and how evenly a codebook is used.

Shapes: F frames, K units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import BadInput
from twistlm.units.runs import dedup


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Rates and shares of units over clips.

    Attributes:
        seconds: of sound.
        frames_per_second: units before deduplication, a second.
        units_per_second: after it.
        entropy: of the units of frames, in bits; log2 K at most.
        entropy_deduplicated: of deduplicated units, in bits.
        bits_per_second: `entropy_deduplicated` times `units_per_second`: the bitrate as ZeroSpeech 2019 defines it
            (symbols times their entropy over the duration), of the units a language model sees. How long each lasts is
            not in it.
        bits_per_second_frames: `entropy` times `frames_per_second`, where durations are in it.
        used: share of the K units that occur.
        perplexity: 2 to the `entropy`: how many units, were all as frequent, would be as hard to guess.
    """

    seconds: float
    frames_per_second: float
    units_per_second: float
    entropy: float
    entropy_deduplicated: float
    bits_per_second: float
    bits_per_second_frames: float
    used: float
    perplexity: float


def usage(units: Sequence[NDArray[np.uint16]], *, n_units: int, seconds: float) -> Usage:
    """Count the units of clips.

    Args:
        units: one uint16 [F] a clip, one unit a frame.
        n_units: K.
        seconds: of all clips together.

    Raises:
        BadInput: no frames, a unit that is not below K, or a duration that is not positive.
    """
    frames = np.concatenate(units) if len(units) else np.zeros(0, np.uint16)
    if not len(frames) or seconds <= 0:
        raise BadInput(f"{len(frames)} frames in {seconds:g} s of sound: there is nothing to count.")
    if int(frames.max()) >= n_units:
        raise BadInput(f"unit {int(frames.max())} of a codebook with units 0 … {n_units - 1}: another tokenizer's.")
    single = np.concatenate([dedup(clip)[0] for clip in units])
    entropy, entropy_single = _entropy(frames), _entropy(single)
    return Usage(
        seconds=seconds,
        frames_per_second=len(frames) / seconds,
        units_per_second=len(single) / seconds,
        entropy=entropy,
        entropy_deduplicated=entropy_single,
        bits_per_second=entropy_single * len(single) / seconds,
        bits_per_second_frames=entropy * len(frames) / seconds,
        used=len(np.unique(frames)) / n_units,
        perplexity=2**entropy,
    )


def _entropy(symbols: NDArray[np.uint16]) -> float:
    counts = np.unique(symbols, return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0  # no -0
