"""Speech with its target units, and the batches that are drawn from it: crops, disturbed and masked.

Speech is one long waveform with one target a frame. Crops are of one length, so nothing is padded and there is nothing
to bucket. Shapes: B crops, N samples, F frames, S streams of targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from twistlm.errors import BadInput
from twistlm.units.encoder import frames_of
from twistlm.units.masked_prediction import HubertPretrainConfig


@dataclass(frozen=True, eq=False)
class LabelledSpeech:
    """All training speech as one waveform and its targets.

    Attributes:
        samples: int16 [N], clips back to back, each zero-padded to a whole number of hops (may be a memory map).
        targets: int32 [S, N / hop]; -1 where a frame has no target (it would straddle two clips, or none is known).
        hop: samples a frame.
    """

    samples: NDArray[np.int16]
    targets: NDArray[np.int32]
    hop: int

    def __post_init__(self) -> None:
        if self.targets.ndim != 2 or len(self.samples) != self.targets.shape[1] * self.hop:
            raise BadInput(
                f"{len(self.samples)} samples need targets of shape [streams, {len(self.samples) / self.hop}], "
                f"got {list(self.targets.shape)}."
            )


def augment(wave: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.float32]:
    """Colour (a smooth filter, 5 dB standard deviation), a synthetic room, noise (5 to 30 dB SNR, any colour) and gain:
    what changes a sound but not what is said."""
    if rng.random() < 0.6:
        spectrum = np.fft.rfft(wave)
        bands = np.linspace(0, 1, 7)  # even on a scale close to mel's
        scale = np.log1p(np.linspace(0, 8000 / 700, len(spectrum))) / np.log1p(8000 / 700)
        wave = np.fft.irfft(spectrum * 10 ** (np.interp(scale, bands, rng.normal(0, 5, 7)) / 20), len(wave))
    if rng.random() < 0.5:  # exponentially decaying noise as the room's response, direct path first
        decay = rng.uniform(0.02, 0.25)
        length = int(decay * 16_000)
        room = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length) * rng.uniform(0.02, 0.12)
        room[0] = 1.0
        size = 1 << (len(wave) + length - 1).bit_length()
        wave = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(room, size), size)[: len(wave)]
    if rng.random() < 0.7:
        spectrum = np.fft.rfft(rng.standard_normal(len(wave)))
        spectrum *= (1 + np.arange(len(spectrum))) ** rng.uniform(-1.0, 0.0)
        noise = np.fft.irfft(spectrum, len(wave))
        power = np.sqrt(np.mean(wave**2) / (np.mean(noise**2) + 1e-12))
        wave = wave + noise * power * 10 ** (-rng.uniform(5, 30) / 20)
    return (wave * 10 ** (rng.uniform(-10, 6) / 20)).astype(np.float32)


def require_a_crop(speech: LabelledSpeech, config: HubertPretrainConfig) -> None:
    """Raise BadInput where there is less speech than one crop wants."""
    if _starts(speech, _longest(speech, config)) < 1:
        raise BadInput(
            f"{speech.targets.shape[1] * speech.hop / 16_000:.2f} s of speech are less than one crop of "
            f"{config.crop_seconds:g} s, with what faster speech needs: give more speech, or shorter crops."
        )


def _longest(speech: LabelledSpeech, config: HubertPretrainConfig) -> int:
    """Return the samples that a crop may be made from."""
    return round(round(config.crop_seconds * 16_000) * (1 + config.warp)) + speech.hop


def _starts(speech: LabelledSpeech, longest: int) -> int:
    """Return at how many frames a crop may begin."""
    return speech.targets.shape[1] - longest // speech.hop - 1


def draw_batch(
    speech: LabelledSpeech, config: HubertPretrainConfig, update: int, *, rank: int = 0, ranks: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """A rank's crops of one update: waves float32 [B, N], targets int64 [S, B, F] (-100: none), masks bool [B, F].

    A pure function of (seed, update, rank): that is what makes resuming exact. B is the rank's share of `config.batch`.
    """
    rng = np.random.default_rng((config.seed, update, rank))
    n_crops = config.batch // ranks
    hubert = config.hubert()
    n = round(config.crop_seconds * 16_000)
    frames = frames_of(n, hubert.conv_kernel, hubert.conv_stride)
    longest = _longest(speech, config)
    waves = np.empty((n_crops, n), np.float32)
    targets = np.empty((len(speech.targets), n_crops, frames), np.int64)
    masks = np.zeros((n_crops, frames + config.mask_frames), bool)
    for row in range(n_crops):
        first = int(rng.integers(0, _starts(speech, longest)))
        begin = first * speech.hop
        source = np.arange(frames)
        if rng.random() < config.augment:
            speed = rng.uniform(1 - config.warp, 1 + config.warp)
            wave = speech.samples[begin : begin + round(n * speed) + speech.hop].astype(np.float32) / 32768
            if config.warp:
                wave = soxr.resample(wave, 16_000 * speed, 16_000, quality="MQ")
                source = np.round(source * speed + (speed - 1) / 2).astype(int)  # whose centre is nearest in time
            waves[row] = augment(wave[:n], rng)
        else:
            waves[row] = speech.samples[begin : begin + n].astype(np.float32) / 32768
        targets[:, row] = speech.targets[:, first + source]
        for start in np.flatnonzero(rng.random(frames) < config.mask_start):
            masks[row, start : start + config.mask_frames] = True
    targets[targets < 0] = -100
    return torch.from_numpy(waves), torch.from_numpy(targets), torch.from_numpy(masks[:, :frames])
