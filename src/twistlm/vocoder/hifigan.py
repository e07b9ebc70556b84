"""HiFi-GAN: a waveform generator of transposed convolutions.

Source: Kong et al. 2020 (residual block "1"), with the configuration keys and the parameter names of the published
textless vocoders (Polyak et al. 2021), so that their checkpoints load here.

Shapes: B batch, F frames, C channels, N samples (N = F * hop, hop = the product of the upsampling rates).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from twistlm.errors import BadInput
from twistlm.vocoder.generator import InputShape, Reach

SLOPE = 0.1  # of every leaky ReLU but the last, which has torch's default of 0.01


@dataclass(frozen=True, kw_only=True)
class HiFiGANConfig(InputShape):
    """Shape of a vocoder with this generator, in the published names.

    Attributes:
        upsample_rates: their product is the hop in samples.
        upsample_kernel_sizes: of the transposed convolutions; each at least its rate, and even or odd as its rate is,
            so that F frames give exactly F * hop samples.
        upsample_initial_channel: channels at the frame rate; each upsampling halves them.
        resblock_kernel_sizes, resblock_dilation_sizes: one residual block for each pair, averaged.
        padding: what convolutions take for the outside of a clip: "zeros", as published by most, or "reflect" for the
            clip mirrored at its ends, as SpeechBrain does, which needs a few frames at least.
    """

    kind: ClassVar[str] = "hifigan"
    JSON: ClassVar[dict[str, Any]] = {
        "upsample_rates": [int], "upsample_kernel_sizes": [int], "upsample_initial_channel": int,
        "resblock_kernel_sizes": [int], "resblock_dilation_sizes": [[int]], "padding?": str,
    }  # fmt: skip

    upsample_rates: tuple[int, ...]
    upsample_kernel_sizes: tuple[int, ...]
    upsample_initial_channel: int
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    padding: Literal["zeros", "reflect"] = "zeros"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.padding not in ("zeros", "reflect"):
            raise BadInput(f'vocoder config: padding is "zeros" or "reflect", not {self.padding!r}.')
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
        if self.upsample_initial_channel % 2 ** len(self.upsample_rates):
            raise BadInput("vocoder config: upsample_initial_channel must be divisible by 2 at every upsampling.")

    @property
    def hop(self) -> int:
        """Samples a frame lasts."""
        return math.prod(self.upsample_rates)

    @property
    def reach(self) -> Reach:
        """Frames before and behind a frame that its samples depend on, exact: followed back through every layer."""
        first, last = 0, self.hop - 1  # samples of the frame 0, then what they are made of
        widest = max(
            sum((kernel - 1) // 2 * (dilation + 1) for dilation in dilations)
            for kernel, dilations in zip(self.resblock_kernel_sizes, self.resblock_dilation_sizes, strict=True)
        )
        first, last = first - 3, last + 3  # conv_post
        for rate, kernel in zip(reversed(self.upsample_rates), reversed(self.upsample_kernel_sizes), strict=True):
            padding = (kernel - rate) // 2
            # Output t of the transposed convolution hears inputs i with 0 <= t + padding - i * rate < kernel.
            first = -((kernel - 1 - padding - (first - widest)) // rate)
            last = (last + widest + padding) // rate
        return Reach(left=3 - first, right=last + 3)  # conv_pre

    @property
    def least_frames(self) -> int:
        """Frames that the shortest clip has: a mirrored end must be shorter than what it mirrors."""
        if self.padding == "zeros":
            return 1
        widest = max(
            (kernel - 1) // 2 * max(dilations)
            for kernel, dilations in zip(self.resblock_kernel_sizes, self.resblock_dilation_sizes, strict=True)
        )
        return max(4, widest // self.upsample_rates[0] + 1)

    def build(self) -> HiFiGAN:
        """A generator with random weights, and weight normalisation."""
        return HiFiGAN(self)

    def fields(self) -> dict[str, Any]:
        """The published form, which does not name its generator."""
        return {name: value for name, value in super().fields().items() if name != "generator"}


class ResidualBlock(nn.Module):
    """For each dilation: x + conv(act(dilated conv(act(x)))). [B, C, T] to the same."""

    def __init__(
        self, channels: int, kernel: int, dilations: tuple[int, ...], outside: Literal["zeros", "reflect"]
    ) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Module:
            padding = (kernel - 1) // 2 * dilation
            return weight_norm(
                nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=padding, padding_mode=outside)
            )

        self.convs1 = nn.ModuleList(conv(dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(conv(1) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            # In place: a convolution does not need its own output for the backward pass.
            x = x + second(F.leaky_relu_(first(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class HiFiGAN(nn.Module):
    """The generator. It is built with weight normalisation; `Synthesizer.fold` removes it."""

    def __init__(self, config: HiFiGANConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.upsample_initial_channel
        self.conv_pre = weight_norm(nn.Conv1d(config.model_in_dim, channels, 7, padding=3, padding_mode=config.padding))
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            up = nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2)
            self.ups.append(weight_norm(up))
            channels //= 2
            for width, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(ResidualBlock(channels, width, dilations, config.padding))
        self.conv_post = weight_norm(nn.Conv1d(channels, 1, 7, padding=3, padding_mode=config.padding))

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
        if features.shape[-1] < self.config.least_frames:
            raise BadInput(
                f"this vocoder mirrors a clip at its ends and needs {self.config.least_frames} frames at least, not "
                f"{features.shape[-1]}: give it more units, or longer ones."
            )
        x = self.conv_pre(features)
        x = x[..., trim : x.shape[-1] - trim]
        blocks = len(self.config.resblock_kernel_sizes)
        for stage, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            parallel = [block(x) for block in self.resblocks[stage * blocks : (stage + 1) * blocks]]
            x = sum(parallel[1:], start=parallel[0]) / blocks
        return torch.tanh(self.conv_post(F.leaky_relu(x))).squeeze(1)
