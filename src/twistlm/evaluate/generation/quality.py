"""How good speech sounds, as networks learnt it from listeners: DNSMOS and Distill-MOS, 1 to 5, without a reference.

Both are fetched as weights alone, out of the wheels of `speechmos` and `distillmos` (Microsoft, MIT); no code of
theirs runs here. Clips are judged one at a time: what stands beside a clip in a batch must not move its score.

Shapes: N samples at 16 kHz, B segments, T frames, D dimensions.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from twistlm.audio.clip import Clip, resample
from twistlm.compute.devices import device, no_autocast
from twistlm.errors import AudioError
from twistlm.evaluate.generation.mels import mel_power
from twistlm.files.artifacts import resolve
from twistlm.files.torch_files import Tensor as Stored
from twistlm.files.torch_files import plain, read_torch

RATE = 16_000
_WINDOW = int(
    9.01 * RATE
)  # samples that DNSMOS hears at once; shorter clips are repeated, longer ones seen every second
# From a network's output to the scale of the listeners, per scale: highest power first.
_TO_SCALE = {
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}
_SEGMENT, _HOP = 122_880, 16_000  # samples that Distill-MOS hears at once, and how far apart two segments are at most


@dataclass(frozen=True, eq=False)
class DnsMos:
    """DNSMOS P.808 (Reddy et al., 2021), and P.835 (2022: signal, background, overall), which takes 20 times as long.

    Attributes:
        p808: onnxruntime's session.
        p835: the same; None where it is not asked for.
    """

    p808: Any
    p835: Any = None

    @classmethod
    def load(cls, *, p835: bool) -> DnsMos:
        """Fetch it where it has to be.

        Raises:
            ArtifactError: it cannot be had.
        """
        folder = resolve("dnsmos")
        return cls(_session(folder / "model_v8.onnx"), _session(folder / "sig_bak_ovr.onnx") if p835 else None)

    def __call__(self, clip: Clip) -> dict[str, float]:
        """Return `dnsmos_p808` of a clip, and `dnsmos_sig`, `dnsmos_bak` and `dnsmos_ovrl` where P.835 was loaded.

        Raises:
            AudioError: no samples.
        """
        samples = np.clip(_samples(clip), -1, 1)
        while len(samples) < _WINDOW:
            samples = np.concatenate([samples, samples])
        found: dict[str, list[float]] = {name: [] for name in ("p808", *(() if self.p835 is None else _TO_SCALE))}
        for second in range(int(math.floor(len(samples) / RATE) - 9.01) + 1):
            # As its authors cut them: the end is rounded down by itself, which may leave a sample too few.
            part = samples[second * RATE : int((second + 9.01) * RATE)]
            if len(part) < _WINDOW:
                continue
            if self.p835 is not None:
                raw = self.p835.run(None, {"input_1": part[None]})[0][0]
                for name, value in zip(_TO_SCALE, raw, strict=True):
                    found[name].append(float(np.polyval(_TO_SCALE[name], value)))
            mels = mel_power(part[:-160], n_fft=321, hop=160, n_mels=120, rate=RATE)
            found["p808"].append(float(self.p808.run(None, {"input_1": _decibels(mels)[None]})[0][0][0]))
        return {f"dnsmos_{name}": float(np.mean(values)) for name, values in found.items()}


class DistillMos(nn.Module):
    """Distill-MOS (Stahl and Gamper, 2025): convolutions over a compressed spectrogram, then a transformer."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = (2, 64, 64, 128, 256, 256, 256)
        for i, (inner, outer) in enumerate(pairwise(channels)):
            stride = (2 if i else 1, 2 if i == len(channels) - 2 else 1)
            layers += [nn.Conv2d(inner, outer, 3, stride=stride, padding=(0, 1)), nn.LeakyReLU(0.1)]
        self.cnn = nn.Sequential(*layers)
        width = 256 * 4
        self.norms = nn.Sequential(nn.BatchNorm1d(width), nn.BatchNorm1d(width))
        self.project = nn.Linear(width, 200)
        self.register_buffer("places", torch.zeros(1, 384, 200))
        layer = nn.TransformerEncoderLayer(200, 8, dim_feedforward=400, dropout=0.0, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, 7)
        self.norm_out = nn.BatchNorm1d(200)
        self.attend = nn.Sequential(nn.Linear(200, 400), nn.ReLU(), nn.Linear(400, 1))
        self.score = nn.Linear(200, 1)

    @classmethod
    def load(cls) -> DistillMos:
        """Fetch it where it has to be.

        Raises:
            ArtifactError: it cannot be had.
        """
        stored = read_torch(resolve("distillmos") / "distill_mos_v7.pt")["model"]
        state = {}
        for name, value in stored.items():
            tensor = plain(value)
            assert isinstance(tensor, Stored)
            state[_renamed(name)] = torch.from_numpy(np.array(tensor.array()))
        with torch.random.fork_rng(devices=[]):
            model = cls()
        model.load_state_dict(state)
        return model.eval().to(device())

    @torch.inference_mode()
    @no_autocast()
    def forward(self, samples: Tensor) -> Tensor:
        """Return 1 … 5, [B], of segments [B, 122880]."""
        samples = samples / (samples.abs().amax(dim=1, keepdim=True) + 1e-8)
        x = self.cnn(_compressed(samples)).flatten(1, 2)  # [B, D, T]
        x = self.norms(x).transpose(1, 2)
        x = self.transformer(self.project(x) + self.get_buffer("places"))
        x = self.norm_out(x.transpose(1, 2)).transpose(1, 2)
        weights = self.attend(x).softmax(dim=1)
        return 1 + 4 * self.score((weights * x).sum(dim=1)).sigmoid()[:, 0]

    def judge(self, clip: Clip) -> dict[str, float]:
        """Return `distillmos` of a clip: the mean over segments of 7.68 s, the last one padded with silence.

        Raises:
            AudioError: no samples.
        """
        samples = torch.from_numpy(_samples(clip))
        over = max(0, len(samples) - _SEGMENT)
        samples = F.pad(samples, (0, max(0, _SEGMENT - len(samples))))
        n = math.ceil(over / _HOP) + 1
        starts = [int(share * over) for share in np.linspace(0, 1, n)]
        segments = torch.stack([samples[start : start + _SEGMENT] for start in starts])
        return {"distillmos": float(self(segments.to(next(self.parameters()).device)).mean())}


def _compressed(samples: Tensor) -> Tensor:
    """Return [B, 2, 161, T]: real and imaginary parts of an STFT whose magnitudes are raised to the power 0.3."""
    padded = F.pad(samples, (80, 80), mode="reflect")
    window = torch.hann_window(320, device=samples.device)
    spectrum = torch.stft(padded, 320, 160, 320, window, center=False, return_complex=True)
    scale = spectrum.abs().clamp(min=1e-12)
    return torch.stack([spectrum.real, spectrum.imag], dim=1) * (scale**0.3 / scale)[:, None]


def _renamed(name: str) -> str:
    """Return what a weight of the published file is called here."""
    rest = name.removeprefix("transformer_pool_attn.")
    for theirs, ours in (
        ("cnn.cnn.", "cnn."),
        ("norm_input.", "norms.0."),
        ("transformer.norm.", "norms.1."),
        ("transformer.linear_proj.", "project."),
        ("transformer.position_encoding.pe", "places"),
        ("transformer.transformer_encoder.", "transformer."),
        ("norm_trans.", "norm_out."),
        ("pool.linear1.", "attend.0."),
        ("pool.linear2.", "attend.2."),
        ("pool.linear3.", "score."),
    ):
        if rest.startswith(theirs):
            return ours + rest.removeprefix(theirs)
    return rest


def _decibels(mels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return power in dB below its peak, at most 80, shifted and scaled as P.808's network expects."""
    decibels = 10 * np.log10(np.maximum(mels, 1e-10)) - 10 * np.log10(max(float(mels.max()), 1e-10))
    return ((np.maximum(decibels, float(decibels.max()) - 80) + 40) / 40).astype(np.float32)


def _samples(clip: Clip) -> NDArray[np.float32]:
    if not len(clip.samples):
        raise AudioError(f"{clip.id or 'the clip'} has no samples: how good it sounds cannot be judged.")
    return np.ascontiguousarray(resample(clip, sample_rate=RATE).samples, dtype=np.float32)


def _session(path: Path) -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime  # type: ignore[import-untyped, unused-ignore]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # clips are shared out to cores, not their products
    options.log_severity_level = 3
    providers = [
        p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in onnxruntime.get_available_providers()
    ]
    return onnxruntime.InferenceSession(str(path), options, providers=providers)
