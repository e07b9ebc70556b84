"""Unit HiFi-GAN: a waveform generator that reads discrete units, and the predictor of how long each unit lasts.

Source: Kong et al. 2020 (HiFi-GAN, residual block "1") and Polyak et al. 2021 (units instead of mels), with the
configuration keys and the parameter names of the published textless vocoders, so that their checkpoints load here.

Shapes: B batch, R units before expansion, F frames, C channels, N samples (N = F * hop, hop = the product of the
upsampling rates).
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from twistlm.errors import BadInput
from twistlm.files.jsonl import check_shape, parse_json

SLOPE = 0.1  # of every leaky ReLU but the last, which has torch's default of 0.01


@dataclass(frozen=True, kw_only=True)
class DurationConfig:
    """The duration predictor, in the published names."""

    encoder_embed_dim: int
    var_pred_hidden_dim: int
    var_pred_kernel_size: int
    var_pred_dropout: float


_DURATION = {"encoder_embed_dim": int, "var_pred_hidden_dim": int, "var_pred_kernel_size": int}
_SHAPE = {
    "num_embeddings": int, "embedding_dim": int, "model_in_dim": int, "upsample_rates": [int],
    "upsample_kernel_sizes": [int], "upsample_initial_channel": int, "resblock_kernel_sizes": [int],
    "resblock_dilation_sizes": [[int]], "sampling_rate": int,
    "dur_predictor_params?": ({**_DURATION, "var_pred_dropout": float}, None),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HiFiGANConfig:
    """Shape of the generator, in the published names.

    Attributes:
        num_embeddings: units it can speak, K.
        embedding_dim, model_in_dim: width of a unit's embedding; equal, for there is one speaker.
        upsample_rates: their product is the hop in samples.
        upsample_kernel_sizes: of the transposed convolutions; each at least its rate, and even or odd as its rate is,
            so that F frames give exactly F * hop samples.
        upsample_initial_channel: channels at the frame rate; each upsampling halves them.
        resblock_kernel_sizes, resblock_dilation_sizes: one residual block for each pair, averaged.
        sampling_rate: Hz.
        dur_predictor_params: None for a vocoder without duration predictor.
    """

    num_embeddings: int
    embedding_dim: int
    model_in_dim: int
    upsample_rates: tuple[int, ...]
    upsample_kernel_sizes: tuple[int, ...]
    upsample_initial_channel: int
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    sampling_rate: int
    dur_predictor_params: DurationConfig | None = None

    def __post_init__(self) -> None:
        if len(self.upsample_rates) != len(self.upsample_kernel_sizes):
            raise BadInput("vocoder config: upsample_rates and upsample_kernel_sizes must be equally long.")
        if len(self.resblock_kernel_sizes) != len(self.resblock_dilation_sizes):
            raise BadInput("vocoder config: resblock_kernel_sizes and resblock_dilation_sizes must be equally long.")
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True):
            if kernel < rate or (kernel - rate) % 2:
                raise BadInput(
                    f"vocoder config: an upsampling kernel of {kernel} does not give exactly {rate} samples for one; "
                    "use a kernel that is at least the rate, and odd or even as the rate is."
                )
        if any(kernel % 2 == 0 for kernel in self.resblock_kernel_sizes):
            raise BadInput(f"vocoder config: residual kernels must be odd, got {self.resblock_kernel_sizes}.")
        if self.model_in_dim != self.embedding_dim:
            raise BadInput(
                f"vocoder config: model_in_dim is {self.model_in_dim} and embedding_dim {self.embedding_dim}; they "
                "differ only in vocoders with speaker or style embeddings, which are not supported: "
                "use a single-speaker one."
            )
        if self.upsample_initial_channel % 2 ** len(self.upsample_rates):
            raise BadInput("vocoder config: upsample_initial_channel must be divisible by 2 at every upsampling.")

    @property
    def hop(self) -> int:
        """Samples a frame lasts."""
        return math.prod(self.upsample_rates)

    @property
    def context(self) -> int:
        """Frames on each side that a frame's samples depend on, at most."""
        reach = 3  # samples, of conv_post
        widest = max(
            sum((kernel - 1) // 2 * (dilation + 1) for dilation in dilations)
            for kernel, dilations in zip(self.resblock_kernel_sizes, self.resblock_dilation_sizes, strict=True)
        )
        for rate, kernel in zip(reversed(self.upsample_rates), reversed(self.upsample_kernel_sizes), strict=True):
            reach = math.ceil((reach + widest + kernel) / rate)
        return reach + 3  # of conv_pre

    def to_json(self) -> str:
        """The published JSON form; `from_json` reads it back."""
        return json.dumps({**dataclasses.asdict(self), "multispkr": None, "multistyle": None}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the published JSON form. Keys that only matter for training are ignored, as they are many there.

        Raises:
            BadInput: a key is missing, the vocoder has several speakers or styles, or uses another residual block.
        """
        fields: dict[str, Any] = parse_json(text, where="vocoder config", kind="the shape of a unit HiFi-GAN")
        if fields.get("multispkr") or fields.get("multistyle") or str(fields.get("resblock", "1")) != "1":
            raise BadInput('vocoder config: only one speaker, one style and resblock "1" are supported.')
        known = {f.name: f for f in dataclasses.fields(cls)}
        missing = [name for name, f in known.items() if name not in fields and f.default is dataclasses.MISSING]
        if missing:
            raise BadInput(f"vocoder config: keys missing: {', '.join(missing)}. Is it a unit HiFi-GAN config?")
        check_shape(fields, _SHAPE, where="vocoder config", kind="the shape of a unit HiFi-GAN")
        kept = {name: _tuples(value) for name, value in fields.items() if name in known}
        if kept.get("dur_predictor_params"):
            params = kept["dur_predictor_params"]
            kept["dur_predictor_params"] = DurationConfig(
                **{f.name: params[f.name] for f in dataclasses.fields(DurationConfig)}
            )
        return cls(**kept)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class ResidualBlock(nn.Module):
    """For each dilation: x + conv(act(dilated conv(act(x)))). [B, C, T] to the same."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Module:
            padding = (kernel - 1) // 2 * dilation
            return weight_norm(nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=padding))

        self.convs1 = nn.ModuleList(conv(dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(conv(1) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            # In place: a convolution does not need its own output for the backward pass.
            x = x + second(F.leaky_relu_(first(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class DurationPredictor(nn.Module):
    """Predict log(frames + 1) of each unit from the units around it: [B, R, C] to [B, R]."""

    def __init__(self, config: DurationConfig) -> None:
        super().__init__()
        width, kernel = config.var_pred_hidden_dim, config.var_pred_kernel_size
        padding = (kernel - 1) // 2
        # nn.Sequential gives the published names conv1.0 and conv2.0.
        self.conv1 = nn.Sequential(nn.Conv1d(config.encoder_embed_dim, width, kernel, padding=padding), nn.ReLU())
        self.ln1 = nn.LayerNorm(width)
        self.conv2 = nn.Sequential(nn.Conv1d(width, width, kernel, padding=padding), nn.ReLU())
        self.ln2 = nn.LayerNorm(width)
        self.proj = nn.Linear(width, 1)
        self.dropout = config.var_pred_dropout

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in ((self.conv1, self.ln1), (self.conv2, self.ln2)):
            x = norm(conv(x.transpose(1, 2)).transpose(1, 2))
            x = F.dropout(x, self.dropout, self.training)
        return self.proj(x).squeeze(2)


class UnitHiFiGAN(nn.Module):
    """The generator: units, one per frame, to a waveform.

    It is built with weight normalisation (for training, and for published checkpoints); `fold` removes it.
    """

    def __init__(self, config: HiFiGANConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.upsample_initial_channel
        self.dict = nn.Embedding(config.num_embeddings, config.embedding_dim)
        self.conv_pre = weight_norm(nn.Conv1d(config.model_in_dim, channels, 7, padding=3))
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            up = nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2)
            self.ups.append(weight_norm(up))
            channels //= 2
            for width, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(ResidualBlock(channels, width, dilations))
        self.conv_post = weight_norm(nn.Conv1d(channels, 1, 7, padding=3))
        duration = config.dur_predictor_params
        self.dur_predictor = None if duration is None else DurationPredictor(duration)

    def forward(self, frames: Tensor, *, trim: int = 0) -> Tensor:
        """Return the samples [B, (F - 2 * trim) * hop], in -1 … 1, of units int64 [B, F], one per frame.

        Args:
            frames: units, one per frame.
            trim: frames at each end that are heard by the first convolution but not spoken. Training crops use the 3
                it reaches, so that a crop's edges sound as they do within a sentence.
        """
        x = self.conv_pre(self.dict(frames).transpose(1, 2))
        x = x[..., trim : x.shape[-1] - trim]
        blocks = len(self.config.resblock_kernel_sizes)
        for stage, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            parallel = [block(x) for block in self.resblocks[stage * blocks : (stage + 1) * blocks]]
            x = sum(parallel[1:], start=parallel[0]) / blocks
        return torch.tanh(self.conv_post(F.leaky_relu(x))).squeeze(1)

    def log_durations(self, units: Tensor) -> Tensor:
        """Return predicted log(frames + 1), [B, R], of units int64 [B, R]; `durations` turns it into frames."""
        if self.dur_predictor is None:
            raise BadInput("this vocoder has no duration predictor: use durations='given'.")
        return self.dur_predictor(self.dict(units))

    def fold(self) -> Self:
        """Multiply the weight normalisation out, in place; what the generator computes stays the same."""
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
        return self


def durations(log_durations: Tensor) -> Tensor:
    """Published rule for frames from the predictor's output: exp(d) - 1, rounded, at least 1. int64, same shape."""
    return torch.clamp(torch.round(torch.exp(log_durations) - 1), min=1).long()
