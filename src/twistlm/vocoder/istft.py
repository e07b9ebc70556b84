"""A generator that works at the rate of frames and ends in an inverse STFT.

Source: Vocos (Siuzdak 2023, "Closing the gap between time-domain and Fourier-based neural vocoders"): ConvNeXt blocks
(Liu et al. 2022) and a head of magnitudes and phases. Here half of the layers run at the units' own slow rate before
frames are split into spectral ones, and each layer looks less far ahead than back, so that streamed speech need not
wait for long.

Shapes: B batch, C channels of the features, F frames, U = F * upsample spectral frames, D channels inside,
K = n_fft // 2 + 1 bins, N samples (N = F * hop).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twistlm.compute.products import quicken
from twistlm.errors import BadInput
from twistlm.vocoder.generator import InputShape, Reach

LOUDEST = 1e2  # of a bin's magnitude: what an untrained head says must not overflow


@dataclass(frozen=True, kw_only=True)
class ISTFTConfig(InputShape):
    """Shape of a vocoder with this generator.

    Attributes:
        channels, layers: of the blocks at the rate of frames.
        upsample: spectral frames in a frame.
        fine_channels, fine_layers: of the blocks at the rate of spectral frames.
        kernel: of every convolution over time, in frames of its rate.
        lookahead: how many of the kernel's frames lie in the future; the rest but one lie in the past.
        n_fft, stft_hop: of the inverse STFT, in samples; n_fft is a multiple of the hop, at least twice, both are even.
    """

    kind: ClassVar[str] = "istft"
    JSON: ClassVar[dict[str, Any]] = {
        "channels": int, "layers": int, "upsample": int, "fine_channels": int, "fine_layers": int, "kernel": int,
        "lookahead": int, "n_fft": int, "stft_hop": int,
    }  # fmt: skip

    channels: int
    layers: int
    upsample: int
    fine_channels: int
    fine_layers: int
    kernel: int
    lookahead: int
    n_fft: int
    stft_hop: int

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = {name: getattr(self, name) for name in self.JSON if name != "lookahead"}
        if wrong := [f"{name} is {value}" for name, value in counts.items() if value < 1]:
            raise BadInput(f"vocoder config: these must be at least 1: {', '.join(wrong)}.")
        if not 0 <= self.lookahead < self.kernel:
            raise BadInput(f"vocoder config: lookahead is {self.lookahead}; it must be 0 to {self.kernel - 1}.")
        if self.stft_hop % 2 or self.n_fft % self.stft_hop or self.n_fft < 2 * self.stft_hop:
            raise BadInput(
                f"vocoder config: n_fft is {self.n_fft} and stft_hop {self.stft_hop}; the hop must be even and n_fft a "
                "multiple of it, at least twice, or the windows leave gaps."
            )

    @property
    def hop(self) -> int:
        """Samples a frame lasts."""
        return self.upsample * self.stft_hop

    @property
    def sides(self) -> tuple[int, int]:
        """Frames of each kernel before and behind the one it is centred on."""
        return self.kernel - 1 - self.lookahead, self.lookahead

    @property
    def reach(self) -> Reach:
        """Frames before and behind a frame that its samples depend on, exact."""
        # A sample hears the spectral frames whose windows cover it; a window spreads evenly from its frame's middle.
        windows = math.ceil((self.n_fft - self.stft_hop) / 2 / self.stft_hop)
        left, right = (
            math.ceil((windows + each * self.fine_layers) / self.upsample) + each * (self.layers + 1)
            for each in self.sides
        )
        return Reach(left=left, right=right)

    def build(self) -> ISTFTGenerator:
        """A generator with random weights."""
        return ISTFTGenerator(self)


def istft_like(shape: InputShape) -> ISTFTConfig:
    """Return the recipe's generator for the inputs, the hop and the rate of another vocoder's shape.

    Spectral frames are as near to 10 ms as the hop can be divided, most of the work is done at the units' own rate.

    Raises:
        BadInput: the hop has no even part, so that no window can be centred on it.
    """
    ways = [parts for parts in range(1, shape.hop // 2 + 1) if shape.hop % (2 * parts) == 0]
    if not ways:
        raise BadInput(f"an inverse STFT needs an even hop, got {shape.hop} samples a unit: use another generator.")
    wanted = shape.sampling_rate / 100
    upsample = min(ways, key=lambda parts: abs(math.log(shape.hop / parts / wanted)))
    stft_hop = shape.hop // upsample
    inputs = {f.name: getattr(shape, f.name) for f in dataclasses.fields(InputShape)}
    return ISTFTConfig(
        **inputs, channels=288, layers=4, upsample=upsample, fine_channels=96, fine_layers=3, kernel=7, lookahead=1,
        n_fft=4 * stft_hop, stft_hop=stft_hop,
    )  # fmt: skip


class Block(nn.Module):
    """ConvNeXt: x + scale * linear(gelu(linear(norm(depthwise conv(x))))). [B, T, D] to the same."""

    def __init__(self, channels: int, config: ISTFTConfig) -> None:
        super().__init__()
        self.sides = config.sides
        self.depthwise = nn.Conv1d(channels, channels, config.kernel, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide = nn.Linear(channels, 3 * channels)
        self.narrow = nn.Linear(3 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1 / (config.layers + config.fine_layers)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(F.pad(x.transpose(1, 2), self.sides)).transpose(1, 2)
        return x + self.scale * self.narrow(F.gelu(self.wide(self.norm(y))))


class ISTFTGenerator(nn.Module):
    """The generator."""

    window: Tensor

    def __init__(self, config: ISTFTConfig) -> None:
        super().__init__()
        self.config = config
        self.conv_pre = nn.Conv1d(config.model_in_dim, config.channels, config.kernel)
        self.norm = nn.LayerNorm(config.channels)
        self.blocks = nn.ModuleList(Block(config.channels, config) for _ in range(config.layers))
        self.up = nn.Linear(config.channels, config.upsample * config.fine_channels)
        self.fine_blocks = nn.ModuleList(Block(config.fine_channels, config) for _ in range(config.fine_layers))
        self.fine_norm = nn.LayerNorm(config.fine_channels)
        self.head = nn.Linear(config.fine_channels, config.n_fft + 2)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                assert module.bias is not None
                nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                nn.init.zeros_(module.bias)

    @property
    def hop(self) -> int:
        """Samples a frame lasts."""
        return self.config.hop

    @property
    def reach(self) -> Reach:
        """Frames before and behind a frame that its samples depend on."""
        return self.config.reach

    def forward(self, features: Tensor, *, trim: int = 0) -> Tensor:
        """Return the samples [B, (F - 2 * trim) * hop], in -1 … 1, of features [B, C, F]; see `Generator`."""
        config = self.config
        x = self.norm(self.conv_pre(F.pad(features, config.sides)).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        x = self.up(x).unflatten(2, (config.upsample, config.fine_channels)).flatten(1, 2)
        for block in self.fine_blocks:
            x = block(x)
        spectrum = self.head(self.fine_norm(x))
        if spectrum.dtype != torch.float64:
            spectrum = spectrum.float()  # under autocast: phases and FFTs need more than half precision
        log_magnitude, phase = spectrum.chunk(2, dim=2)
        magnitude = log_magnitude.exp().clamp(max=LOUDEST)
        samples = inverse_stft(torch.polar(magnitude, phase), self.window, config.stft_hop)
        edge = trim * config.hop
        return samples[:, edge : samples.shape[1] - edge].clamp(-1, 1)

    def fold(self) -> Self:
        """Make it ready to speak, in place: its products go to the library that is faster on this CPU."""
        quicken(self)
        return self


def inverse_stft(spectrum: Tensor, window: Tensor, hop: int) -> Tensor:
    """Return samples [B, U * hop] of a spectrum [B, U, K] whose frame u has its middle in u * hop … (u + 1) * hop.

    Each frame's inverse FFT is windowed and added to what it overlaps, and the sum is divided by the sum of the squared
    windows, at the ends too, where fewer overlap. So a sample depends on the frames whose windows cover it and on
    nothing else. `torch.istft` has no padding that gives U * hop samples ("same" in Vocos).
    """
    frames = torch.fft.irfft(spectrum, n=len(window), dim=2) * window
    total = overlap_add(frames, hop)
    weight = overlap_add(window.square().expand(1, frames.shape[1], -1), hop)
    edge = (len(window) - hop) // 2
    return total[:, edge : total.shape[1] - edge] / weight[:, edge : total.shape[1] - edge]


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    """Return [B, (U - 1) * hop + n] of frames [B, U, n], each added at its place, `hop` after the one before.

    n is a multiple of the hop: the k-th hops of all frames then follow on each other as one row, and n / hop such rows
    are added, each shifted by one hop.
    """
    batch, _, size = frames.shape
    parts = size // hop
    return (
        torch.stack([F.pad(frames[:, :, k * hop : (k + 1) * hop], (0, 0, k, parts - 1 - k)) for k in range(parts)])
        .sum(0)
        .view(batch, -1)
    )
