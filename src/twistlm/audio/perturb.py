"""Disturbances of a clip that leave what is said, and when, as it was: noise, level, a room, a codec.

Every function returns another clip of the same length, rate and id; its argument is not changed. Samples may leave
-1 … 1, as they do in a float pipeline: what reads them must bear it.

Shapes: N samples.
"""

from __future__ import annotations

import dataclasses
import io
from typing import Literal

import numpy as np
import soundfile as sf
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from twistlm.audio.clip import Clip
from twistlm.errors import AudioError, BadInput

Codec = Literal["mp3", "vorbis", "opus"]
_CODECS: dict[str, tuple[str, str]] = {
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}
_DIRECT_MS = 2.5  # from the direct sound to where the tail begins


def noise(clip: Clip, *, snr_db: float, seed: int) -> Clip:
    """Add white Gaussian noise, `snr_db` below the clip's mean power. Silence stays silence."""
    power = float(np.mean(np.square(clip.samples, dtype=np.float64)))
    level = np.sqrt(power / 10 ** (snr_db / 10))
    added = np.random.default_rng(seed).standard_normal(len(clip.samples)) * level
    return _like(clip, clip.samples + added)


def gain(clip: Clip, *, db: float) -> Clip:
    """Make the clip louder by `db` (softer when negative)."""
    return _like(clip, clip.samples * 10 ** (db / 20))


def room(clip: Clip, *, t60: float, drr_db: float, seed: int) -> Clip:
    """Put the clip into a synthetic room: the direct sound, and behind it Gaussian noise that decays exponentially.

    The direct sound does not move, and the result is as loud as the clip was (root mean square).

    Args:
        clip: the sound.
        t60: s in which the tail falls by 60 dB.
        drr_db: energy of the direct sound over that of the tail, in dB.
        seed: of the tail.

    Raises:
        BadInput: `t60` is not positive.
    """
    if t60 <= 0:
        raise BadInput(f"a room's t60 must be positive, got {t60} s.")
    late = round(_DIRECT_MS / 1000 * clip.sample_rate)
    t = np.arange(max(1, round(t60 * clip.sample_rate))) / clip.sample_rate
    tail = np.random.default_rng(seed).standard_normal(len(t)) * 10 ** (-3 * t / t60)
    tail *= np.sqrt(10 ** (-drr_db / 10) / np.sum(tail**2))
    response = np.concatenate([[1.0], np.zeros(late), tail])
    wet = fftconvolve(clip.samples.astype(np.float64), response)[: len(clip.samples)]
    loud = np.sqrt(np.mean(wet**2))
    return _like(clip, wet * (_rms(clip.samples) / loud) if loud > 0 else wet)


def codec(clip: Clip, *, form: Codec) -> Clip:
    """Encode and decode the clip by libsndfile's encoder, with its own settings, in memory.

    The decoded sound stands where the original did: these containers say how much their encoders delay.

    Raises:
        BadInput: an unknown codec. AudioError: the codec has no such sample rate, or gave another length back.
    """
    if form not in _CODECS:
        raise BadInput(f"there is no codec {form!r}; there are: {', '.join(_CODECS)}.")
    container, subtype = _CODECS[form]
    buffer = io.BytesIO()
    try:
        sf.write(buffer, np.clip(clip.samples, -1, 1), clip.sample_rate, format=container, subtype=subtype)
        buffer.seek(0)
        decoded, rate = sf.read(buffer, dtype="float32")
    except sf.SoundFileError as error:
        raise AudioError(f"{form} cannot hold the clip {clip.id!r} at {clip.sample_rate} Hz: {error}.") from error
    if rate != clip.sample_rate or len(decoded) != len(clip.samples):
        raise AudioError(
            f"{form} made {len(decoded)} samples at {rate} Hz of the {len(clip.samples)} at {clip.sample_rate} Hz of "
            f"{clip.id!r}: this build of libsndfile does not undo the codec's delay. Measure without {form}."
        )
    return _like(clip, decoded)


def _like(clip: Clip, samples: NDArray[np.floating]) -> Clip:
    return dataclasses.replace(clip, samples=samples.astype(np.float32))


def _rms(samples: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
