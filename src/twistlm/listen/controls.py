"""Clips that are made, not taken: the floor, trapping clips, and the checks of hearing and headphones.

Letters: N samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twistlm.audio.clip import Clip, read
from twistlm.audio.decoding import seconds_to_samples
from twistlm.errors import BadInput
from twistlm.files.artifacts import bundled

Samples = NDArray[np.float32]

NOISE_Q = 5.0  # dB: the lowest quality that P.800 tests commonly have from a modulated noise reference unit
PIECE = (0.18, 0.36)  # s: shorter than most words, longer than most phones
DIGITS = ("1", "2", "3", "4", "5", "6", "8", "9")
DIGITS_SNR = 4.0  # dB: far above the threshold of normal hearing (about -8 dB), as the voice is synthetic
INTERVALS = 3  # of a headphone trial
TRAP_BEGINS = 2.0  # s of a clip before the voice breaks in
_HUGGINS_HZ, _HUGGINS_WIDTH = 600.0, 0.06  # centre and relative half width of the band
_PAUSE = 0.3  # s


def modulated_noise(clip: Clip, *, q: float, rng: np.random.Generator) -> Clip:
    """Return speech with noise that follows it, as of the modulated noise reference unit of ITU-T P.810.

    Args:
        clip: speech.
        q: dB of speech over noise, at every sample.
        rng: of the noise.
    """
    noise = rng.standard_normal(len(clip.samples))
    return Clip((clip.samples * (1 + 10 ** (-q / 20) * noise)).astype(np.float32), clip.sample_rate, id=clip.id)


def shuffled(clip: Clip, *, rng: np.random.Generator) -> Clip:
    """Return speech cut into pieces of 0.18 to 0.36 s in another order, cross-faded: the voice without what it says."""
    rate, fade = clip.sample_rate, seconds_to_samples(0.01, clip.sample_rate)
    cuts = [0]
    while len(clip.samples) - cuts[-1] > PIECE[1] * rate + 2 * fade:
        cuts.append(cuts[-1] + int(rng.uniform(*PIECE) * rate))
    cuts.append(len(clip.samples))
    pieces = [clip.samples[a:b].copy() for a, b in itertools.pairwise(cuts)]
    order = rng.permutation(len(pieces))
    if len(pieces) > 1 and (np.diff(order) == 1).all():
        order = order[::-1]
    ramp = np.sin(np.linspace(0, math.pi / 2, fade, dtype=np.float32)) ** 2
    for piece in pieces:
        edge = min(fade, len(piece))
        piece[:edge] *= ramp[:edge]
        piece[len(piece) - edge :] *= ramp[:edge][::-1]
    return Clip(np.concatenate([pieces[i] for i in order]), rate, id=clip.id)


FLOORS = ("shuffled", "noise")


def floor_of(clip: Clip, how: str, *, rng: np.random.Generator) -> Clip:
    """Return the floor made of a clip, one of FLOORS."""
    return shuffled(clip, rng=rng) if how == "shuffled" else modulated_noise(clip, q=NOISE_Q, rng=rng)


def languages() -> list[str]:
    """Return the languages in which the checks can speak."""
    return sorted(path.name for path in bundled("listening").iterdir() if path.is_dir())


def spoken(name: str, *, language: str, sample_rate: int) -> Clip:
    """Return a bundled recording, "digit-4" or "score-2", at `sample_rate` Hz.

    Raises:
        BadInput: there is none in that language.
    """
    path = bundled("listening") / language / f"{name}.ogg"
    if not path.is_file():
        raise BadInput(f"no voice says {name!r} in {language!r}; there are voices for {', '.join(languages())}.")
    return read(Path(path), sample_rate=sample_rate)


def trap(clip: Clip, *, says: str, language: str, name: str) -> Clip:
    """Return the first seconds of a clip, and then a voice that says what to answer: "score-4", "first"."""
    rate = clip.sample_rate
    begins = clip.samples[: seconds_to_samples(TRAP_BEGINS, rate)].copy()
    fade = min(len(begins), seconds_to_samples(0.05, rate))
    begins[len(begins) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    voice = spoken(says, language=language, sample_rate=rate)
    level = math.sqrt(float(np.mean(voice.samples**2)) / max(float(np.mean(begins**2)), 1e-12))
    pause = np.zeros(seconds_to_samples(_PAUSE, rate), np.float32)
    return Clip(np.concatenate([begins * level, pause, voice.samples]), rate, id=name)


def digits_in_noise(digits: Sequence[str], *, language: str, sample_rate: int, rng: np.random.Generator) -> Clip:
    """Return three digits in speech-shaped noise at 4 dB, which anybody hears who has sound, and knows the language.

    The noise has the spectrum of the digits: their Fourier magnitudes with random phases.
    """
    pause = np.zeros(seconds_to_samples(_PAUSE, sample_rate), np.float32)
    parts = [pause]
    for digit in digits:
        parts += [spoken(f"digit-{digit}", language=language, sample_rate=sample_rate).samples, pause]
    speech = np.concatenate(parts).astype(np.float64)
    spectrum = np.abs(np.fft.rfft(speech))
    smooth = np.sqrt(np.convolve(spectrum**2, np.ones(257) / 257, mode="same"))
    noise = np.fft.irfft(smooth * np.exp(2j * math.pi * rng.random(len(smooth))), len(speech))
    active = speech[np.abs(speech) > 1e-3]
    noise *= math.sqrt(float(np.mean(active**2)) / float(np.mean(noise**2))) * 10 ** (-DIGITS_SNR / 20)
    mixed = speech + noise
    return Clip((0.5 * mixed / np.abs(mixed).max()).astype(np.float32), sample_rate, id="digits")


def huggins(where: int, *, sample_rate: int, rng: np.random.Generator) -> Samples:
    """Return stereo noise [N, 2] in three intervals, of which one, `where` (from 0), hides a tone that takes two ears.

    Both ears get the same white noise, but in one interval a narrow band around 600 Hz has its phase turned by up to a
    whole cycle between them. Only who hears each channel with one ear perceives a faint tone there; loudspeakers have
    none. (Huggins pitch: Cramer & Huggins 1958; as a test of headphones, Milne et al. 2021.)
    """
    n, gap = seconds_to_samples(1.0, sample_rate), seconds_to_samples(0.4, sample_rate)
    fade = seconds_to_samples(0.03, sample_rate)
    envelope = np.ones(n)
    envelope[:fade] = np.sin(np.linspace(0, math.pi / 2, fade)) ** 2
    envelope[n - fade :] = envelope[:fade][::-1]
    frequency = np.fft.rfftfreq(n, 1 / sample_rate)
    low, high = _HUGGINS_HZ * (1 - _HUGGINS_WIDTH), _HUGGINS_HZ * (1 + _HUGGINS_WIDTH)
    turned = np.where((frequency > low) & (frequency < high), (frequency - low) / (high - low), 0) * 2 * math.pi
    out = []
    for interval in range(INTERVALS):
        noise = rng.standard_normal(n)
        spectrum = np.fft.rfft(noise)
        other = np.fft.irfft(spectrum * np.exp(1j * turned), n) if interval == where else noise
        out += [np.stack([noise * envelope, other * envelope], axis=1), np.zeros((gap, 2))]
    sound = np.concatenate(out[:-1])
    return (0.05 * sound / np.sqrt(np.mean(noise**2))).astype(np.float32)
