"""The vocoder's training data: a voice laid end to end, and crops cut out of it.

Shapes: B crops, F frames, N samples (N = F * hop).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twistlm.errors import BadInput, TrainingError, offenders
from twistlm.types import Units, UnitSpec
from twistlm.vocoder.mel import SpectralLoss
from twistlm.vocoder.synthesizer import Synthesizer

TRIM = 3  # frames at each end of a crop that are heard but not spoken: what conv_pre reaches


class Batch(NamedTuple):
    """Crops to train on.

    Attributes:
        units: int64 [B, frames + 2 * TRIM].
        voice: int64 [B, frames + 2 * TRIM, V], a row for each table of the vocoder; None for one voice.
        samples: float32 [B, frames * hop].
    """

    units: Tensor
    voice: Tensor | None
    samples: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        voice = None if self.voice is None else self.voice.to(device)
        return Batch(self.units.to(device), voice, self.samples.to(device))


class Crops:
    """All clips laid end to end, and batches cut out of them.

    A crop may run across the seam of two clips, where a voice is silent; so no clip is too short to be used, and every
    sample is as likely as any other.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[Units, NDArray[np.float32]]],
        spec: UnitSpec,
        rows: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Take units and waveforms; `rows` says for each pair which rows of the vocoder's tables its voice has.

        Raises:
            UnitSpecMismatch: units of another tokenizer. TrainingError: nothing to train on.
            BadInput: units and waveform differ in length; or there are not as many rows as pairs.
        """
        frames, samples, bad, voices = [], [], [], []
        self.units: list[Units] = []
        pairs = list(pairs)
        if rows is not None and len(rows) != len(pairs):
            raise BadInput(f"vocoder training: {len(pairs)} pairs were given {len(rows)} voices.")
        for i, (units, wave) in enumerate(pairs):
            spec.require(units.spec, mine="the vocoder to be trained", theirs=f"the units of {units.id!r}")
            n = len(units.frames)
            # An encoder drops up to a frame or two at the end of a clip; more means that they do not belong together.
            if not n * spec.hop - spec.hop <= len(wave) <= n * spec.hop + 3 * spec.hop:
                bad.append(f"{units.id!r} ({n} frames of {spec.hop}, {len(wave)} samples)")
                continue
            self.units.append(units)
            frames.append(units.frames)
            if rows is not None:
                voices.append(np.tile(np.asarray(rows[i], np.int16), (n, 1)))
            wave = np.pad(wave[: n * spec.hop], (0, max(0, n * spec.hop - len(wave))))
            samples.append(np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16))
        if bad:
            raise BadInput(f"vocoder training: units and waveform differ in length for {offenders(bad)}.")
        if not frames:
            raise TrainingError("vocoder training: no pairs of units and waveform were given.")
        self.hop = spec.hop
        self.frames, self.samples = np.concatenate(frames), np.concatenate(samples)
        self.voices = np.concatenate(voices) if voices else None  # int16 [F, V]: a crop over a seam has two

    def __len__(self) -> int:
        """Frames in all."""
        return len(self.frames)

    @property
    def sha256(self) -> str:
        voices = b"" if self.voices is None else self.voices.tobytes()
        return hashlib.sha256(self.frames.tobytes() + self.samples.tobytes() + voices).hexdigest()

    def cut(self, starts: NDArray[np.int64], frames: int) -> Batch:
        """Return the crops of `frames` frames (and TRIM at each end) that begin at `starts`."""
        heard = starts[:, None] + np.arange(frames + 2 * TRIM)
        at = (starts[:, None] + TRIM) * self.hop + np.arange(frames * self.hop)
        return Batch(
            torch.from_numpy(self.frames[heard].astype(np.int64)),
            None if self.voices is None else torch.from_numpy(self.voices[heard].astype(np.int64)),
            torch.from_numpy(self.samples[at].astype(np.float32) / 32767),
        )

    def batch(self, update: int, *, rows: int, frames: int, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The batch of an update, or a rank's share of it: random places, decided by (seed, update)."""
        places = len(self) - frames - 2 * TRIM + 1
        if places < 1:
            raise TrainingError(f"vocoder training: {len(self)} frames are fewer than one crop of {frames + 2 * TRIM}.")
        starts = np.random.default_rng([seed, update]).integers(0, places, rows)
        return self.cut(starts[rank * rows // ranks : (rank + 1) * rows // ranks], frames)


def heldout_distance(synthesizer: Synthesizer, crops: Crops, spectral: SpectralLoss) -> float:
    """Log-mel L1 in nepers over clips not trained on, in crops of 50 frames, or one shorter one if there are fewer."""
    frames = min(50, len(crops) - 2 * TRIM)
    if frames < 1:
        raise TrainingError(f"vocoder training: the held-out clips have fewer than {2 * TRIM + 1} frames together.")
    starts = np.arange(0, len(crops) - frames - 2 * TRIM + 1, frames)
    total = 0.0
    with torch.no_grad():
        for part in np.array_split(starts, math.ceil(len(starts) / 8)):  # a few at a time, to bound memory
            batch = crops.cut(part, frames).to(synthesizer.dict.weight.device)
            spoken = synthesizer(batch.units, batch.voice, trim=TRIM)
            total += float(spectral.mel(spoken, batch.samples)) * len(part)
    return round(total / len(starts), 5)
