"""Whether a continuation keeps the voice of its prompt: the cosine of two speaker embeddings.

The encoder is Resemblyzer's (GE2E, Wan et al., 2018; Apache-2.0), its weights taken out of the wheel. Papers use
WavLM-SV or ECAPA, whose cosines are not comparable. A vocoder of one voice makes the measure meaningless: whoever
spoke, the answer comes in that voice.

Shapes: N samples at 16 kHz, P parts, 256 dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twistlm.audio.clip import Clip, resample
from twistlm.compute.devices import device, no_autocast
from twistlm.errors import ArtifactError, AudioError
from twistlm.evaluate.generation.hearing import version
from twistlm.evaluate.generation.mels import mel_power
from twistlm.files.artifacts import resolve
from twistlm.files.torch_files import Tensor as Stored
from twistlm.files.torch_files import plain, read_torch
from twistlm.lm.pretrained import REFUSALS, quiet
from twistlm.lm.weights import first_line

RESEMBLYZER = "resemblyzer"
RATE, _HOP = 16_000, 160
_FRAMES = 160  # of a part: 1.6 s
_STEP = round(RATE / 1.3 / _HOP)  # frames between two parts: 1.3 parts a second
_COVERED = 0.75  # of a last part that must be sound
_LEVEL = -30.0  # dBFS to which quieter clips are raised


class VoiceEncoder(nn.Module):
    """Three layers of LSTM over 40 mel bands."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    @classmethod
    def load(cls) -> VoiceEncoder:
        """Fetch it where it has to be.

        Raises:
            ArtifactError: it cannot be had.
        """
        stored = read_torch(resolve("resemblyzer") / "pretrained.pt")["model_state"]
        with torch.random.fork_rng(devices=[]):
            model = cls()
        state = {}
        for name in model.state_dict():
            tensor = plain(stored[name])
            assert isinstance(tensor, Stored)
            state[name] = torch.from_numpy(np.array(tensor.array()))
        model.load_state_dict(state)
        return model.eval().to(device())

    @torch.inference_mode()
    @no_autocast()
    def forward(self, mels: Tensor) -> Tensor:
        """Return [P, 256], each of length 1, of parts [P, 160, 40]."""
        found = self.linear(self.lstm(mels)[1][0][-1]).relu()
        return found / found.norm(dim=1, keepdim=True)

    def embed(self, clip: Clip) -> NDArray[np.float32]:
        """Return the embedding [256] of a clip, of length 1: the mean over parts of 1.6 s.

        Resemblyzer also cuts silence out with webrtcvad before; that is not done here.

        Raises:
            AudioError: no samples.
        """
        if not len(clip.samples):
            raise AudioError(f"{clip.id or 'the clip'} has no samples: nobody can be heard in it.")
        samples = louder(resample(clip, sample_rate=RATE).samples)
        starts = _starts(len(samples))
        wanted = (starts[-1] + _FRAMES) * _HOP
        samples = np.pad(samples, (0, max(0, wanted - len(samples))))
        mels = mel_power(samples, n_fft=400, hop=_HOP, n_mels=40, rate=RATE)
        parts = torch.from_numpy(np.stack([mels[start : start + _FRAMES] for start in starts]))
        mean = self(parts.to(next(self.parameters()).device)).cpu().numpy().mean(axis=0)
        return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)


class Voices(Protocol):
    """Gives a voice a place."""

    def embed(self, clip: Clip) -> NDArray[np.float32]:
        """Return a vector of length 1."""
        ...


@dataclass(frozen=True, eq=False)
class XVectors:
    """A speaker verifier of transformers, as WavLM-SV (microsoft/wavlm-base-plus-sv). One clip at a time."""

    extractor: Any
    model: Any

    def embed(self, clip: Clip) -> NDArray[np.float32]:
        """Return the embedding of a clip, of length 1. Raises AudioError: no samples."""
        if not len(clip.samples):
            raise AudioError(f"{clip.id or 'the clip'} has no samples: nobody can be heard in it.")
        rate = self.extractor.sampling_rate
        inputs = self.extractor(resample(clip, sample_rate=rate).samples, sampling_rate=rate, return_tensors="pt")
        with torch.inference_mode(), no_autocast():
            found = self.model(**inputs.to(self.model.device)).embeddings[0].float().cpu().numpy()
        return (found / max(float(np.linalg.norm(found)), 1e-12)).astype(np.float32)


def open_voices(name: str) -> tuple[Voices, str]:
    """Return a voice encoder and what identifies it: "resemblyzer", or a folder or model of the hub (OWNER/NAME) that
    transformers reads as AutoModelForAudioXVector.

    Raises:
        ArtifactError: it cannot be had.
    """
    if name == RESEMBLYZER:
        return VoiceEncoder.load(), "Resemblyzer 0.1.4"
    from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

    try:
        with quiet():
            extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
            model: Any = AutoModelForAudioXVector.from_pretrained(name, trust_remote_code=False, use_safetensors=None)
    except REFUSALS as error:
        raise ArtifactError(f"the voice encoder {name} cannot be had: {first_line(error)}") from error
    return XVectors(extractor, model.eval().to(device())), f"{name} {version(name, model.config)}"


def louder(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return samples raised to -30 dBFS where they are quieter; silence stays."""
    level = 10 * math.log10(max(float(np.mean(samples.astype(np.float64) ** 2)), 1e-20))
    return samples if level >= _LEVEL or level < -190 else (samples * 10 ** ((_LEVEL - level) / 20)).astype(np.float32)


def _starts(n: int) -> list[int]:
    """Return the frames at which the parts of n samples begin."""
    frames = math.ceil((n + 1) / _HOP)
    starts = list(range(0, max(1, frames - _FRAMES + _STEP + 1), _STEP))
    if len(starts) > 1 and (n - starts[-1] * _HOP) / (_FRAMES * _HOP) < _COVERED:
        starts.pop()
    return starts
