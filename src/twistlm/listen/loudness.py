"""One loudness for all clips of a study: the integrated loudness of ITU-R BS.1770-4, by pyloudnorm.

A louder clip sounds better, so systems must not differ in level. Gains are constant over a clip: no compressor and no
limiter touches the sound. Where the wanted level would push a clip beyond full scale, all clips become softer by what
it lacks.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from twistlm.audio.clip import Clip
from twistlm.errors import AudioError, BadInput, TwistError, offenders

MEASURE = "ITU-R BS.1770-4 integrated loudness, by pyloudnorm; constant gain over a clip, no limiter"
TARGET = -24.0  # LUFS: room for the peaks of speech
SOFTEST = -36.0  # LUFS: below it raters turn up their volume, and the checks are too loud
PEAK = 10 ** (-1 / 20)  # -1 dB of full scale
MIN_SECONDS = 0.4  # one block of BS.1770


@dataclass(frozen=True)
class Level:
    """How loud a clip is.

    Attributes:
        lufs: integrated loudness, LUFS.
        peak: largest absolute sample.
    """

    lufs: float
    peak: float


def measure(clip: Clip) -> Level:
    """Return the integrated loudness (K-weighting, 400 ms blocks, gates at -70 LUFS and -10 LU) and the peak.

    Raises:
        AudioError: shorter than 0.4 s, or nothing above the absolute gate.
    """
    if clip.seconds < MIN_SECONDS:
        raise AudioError(
            f"{clip.id}: {clip.seconds:.2f} s are too short to rate, and for its loudness to be measured (0.4 s). "
            "Leave the item out, of all systems."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a logarithm of zero, where all is below the gate
        lufs = float(_meter(clip.sample_rate).integrated_loudness(clip.samples.astype(np.float64)))
    if not math.isfinite(lufs):
        raise AudioError(
            f"{clip.id}: silent: nothing above -70 LUFS. Nobody can rate it: leave the item out, of all systems."
        )
    return Level(lufs, float(np.abs(clip.samples).max()))


def common_level(levels: Mapping[str, Level], *, target: float = TARGET) -> float:
    """Return the LUFS that every clip can have without passing -1 dB of full scale: `target`, or less.

    Raises:
        BadInput: a clip has such peaks that all would have to be softer than -36 LUFS; it is named.
    """
    reach = {name: level.lufs + 20 * math.log10(PEAK / level.peak) for name, level in levels.items()}
    level = min([target, *reach.values()])
    if level < SOFTEST:
        spiky = sorted((name for name in reach if reach[name] < SOFTEST), key=reach.__getitem__)
        raise BadInput(
            f"{offenders(spiky)}: clicks in them are so much louder than the rest that, at one loudness and without "
            f"clipping, all clips would have {level:.1f} LUFS, below {SOFTEST:g}. Mend them, or leave the items out."
        )
    return level


def levelled(clip: Clip, level: Level, *, lufs: float) -> Clip:
    """Return `clip`, whose level is `level`, at `lufs`."""
    return Clip((clip.samples * 10 ** ((lufs - level.lufs) / 20)).astype(np.float32), clip.sample_rate, id=clip.id)


@functools.cache
def _meter(sample_rate: int):  # type: ignore[no-untyped-def]  # pyloudnorm has no types
    try:
        from pyloudnorm import Meter
    except ImportError as error:
        raise TwistError("loudness is measured by pyloudnorm: pip install 'twistlm[listen]'.") from error
    return Meter(sample_rate)
