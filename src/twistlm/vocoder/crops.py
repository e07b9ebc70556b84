"""The vocoder's training data: a voice laid end to end, and crops cut out of it.

Shapes: B crops, F frames, N samples (N = F * hop).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twistlm.errors import BadInput, TrainingError, offenders
from twistlm.types import Units, UnitSpec
from twistlm.vocoder.mel import SpectralLoss
from twistlm.vocoder.synthesizer import Synthesizer

TRIM = 3  # frames at each end of a crop that are heard but not spoken: what conv_pre reaches


class Crops:
    """All clips laid end to end, and batches cut out of them.

    A crop may run across the seam of two clips, where a voice is silent; so no clip is too short to be used, and every
    sample is as likely as any other.
    """

    def __init__(self, pairs: Iterable[tuple[Units, NDArray[np.float32]]], spec: UnitSpec) -> None:
        frames, samples, bad = [], [], []
        self.units: list[Units] = []
        for units, wave in pairs:
            spec.require(units.spec, mine="the vocoder to be trained", theirs=f"the units of {units.id!r}")
            n = len(units.frames)
            # An encoder drops up to a frame or two at the end of a clip; more means that they do not belong together.
            if not n * spec.hop - spec.hop <= len(wave) <= n * spec.hop + 3 * spec.hop:
                bad.append(f"{units.id!r} ({n} frames of {spec.hop}, {len(wave)} samples)")
                continue
            self.units.append(units)
            frames.append(units.frames)
            wave = np.pad(wave[: n * spec.hop], (0, max(0, n * spec.hop - len(wave))))
            samples.append(np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16))
        if bad:
            raise BadInput(f"vocoder training: units and waveform differ in length for {offenders(bad)}.")
        if not frames:
            raise TrainingError("vocoder training: no pairs of units and waveform were given.")
        self.hop = spec.hop
        self.frames, self.samples = np.concatenate(frames), np.concatenate(samples)

    def __len__(self) -> int:
        """Frames in all."""
        return len(self.frames)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.frames.tobytes() + self.samples.tobytes()).hexdigest()

    def cut(self, starts: NDArray[np.int64], frames: int) -> tuple[Tensor, Tensor]:
        """Return (units int64 [B, frames + 2 * TRIM], samples float32 [B, frames * hop]) of crops at `starts`."""
        units = self.frames[starts[:, None] + np.arange(frames + 2 * TRIM)]
        at = (starts[:, None] + TRIM) * self.hop + np.arange(frames * self.hop)
        return torch.from_numpy(units.astype(np.int64)), torch.from_numpy(self.samples[at].astype(np.float32) / 32767)

    def batch(self, update: int, *, rows: int, frames: int, seed: int) -> tuple[Tensor, Tensor]:
        """The batch of an update: random places, decided by (seed, update)."""
        places = len(self) - frames - 2 * TRIM + 1
        if places < 1:
            raise TrainingError(f"vocoder training: {len(self)} frames are fewer than one crop of {frames + 2 * TRIM}.")
        return self.cut(np.random.default_rng([seed, update]).integers(0, places, rows), frames)


def heldout_distance(synthesizer: Synthesizer, crops: Crops, spectral: SpectralLoss) -> float:
    """Log-mel L1 in nepers over clips not trained on, in crops of 50 frames, or one shorter one if there are fewer."""
    frames = min(50, len(crops) - 2 * TRIM)
    if frames < 1:
        raise TrainingError(f"vocoder training: the held-out clips have fewer than {2 * TRIM + 1} frames together.")
    starts = np.arange(0, len(crops) - frames - 2 * TRIM + 1, frames)
    total = 0.0
    with torch.no_grad():
        for part in np.array_split(starts, math.ceil(len(starts) / 8)):  # a few at a time, to bound memory
            units, true = crops.cut(part, frames)
            total += float(spectral(synthesizer(units, trim=TRIM), true)[0]) * len(part)
    return round(total / len(starts), 5)
