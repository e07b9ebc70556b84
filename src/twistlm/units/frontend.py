"""From samples to the input of the first block: convolutions over the wave, and the one that tells positions.

They give what transformers' own modules give, in less time: frame by frame (channels last, so that a convolution is a
plain matrix product), a few seconds at a time (so that memory is used again while it is in the cache), and with the
group norm of base models, which needs a whole clip, worked out before there is anything to normalise.

Shapes: N samples, n steps of a convolution, C channels, F frames, D feature dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from twistlm.compute.products import linear

PIECE_SECONDS = 2  # of sound at a time: 13 MB behind HuBERT's first convolution
_SAMPLE_RATE = 16_000


class FrontEnd:
    """The convolutions of a model of encoder.FAMILIES, and its positional one. Its weights are the model's.

    Args:
        model: of transformers.
    """

    def __init__(self, model: Any) -> None:
        self._kernels, self._strides = model.config.conv_kernel, model.config.conv_stride
        first, *others = model.feature_extractor.conv_layers
        self._first, self._first_weight = first, first.conv.weight[:, 0]  # [C, k]
        self._others = [(layer, _Convolution(layer.conv)) for layer in others]
        self._positions = model.encoder.pos_conv_embed
        conv = getattr(self._positions, "conv", None)  # data2vec has a stack of them, which stays transformers'
        self._positional = None if conv is None else _Convolution(conv)

    def frames(self, wave: torch.Tensor) -> torch.Tensor:
        """What the convolutions make of a clip: float32 [N] -> float32 [F, C]."""
        weight, bias, norm = self._first_weight, self._first.conv.bias, getattr(self._first, "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):
            weight, bias = self._normalised(wave, norm)
            norm = None
        hop = receptive = 1
        for kernel, stride in zip(self._kernels, self._strides, strict=True):
            hop, receptive = hop * stride, receptive + (kernel - 1) * hop
        n_frames = (len(wave) - receptive) // hop + 1
        piece = max(1, PIECE_SECONDS * _SAMPLE_RATE // hop)
        return torch.cat(
            [
                self._piece(
                    wave[start * hop : (min(start + piece, n_frames) - 1) * hop + receptive], weight, bias, norm
                )
                for start in range(0, n_frames, piece)
            ]
        )

    def _piece(
        self, wave: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, norm: nn.Module | None
    ) -> torch.Tensor:
        hidden = linear(wave.unfold(0, self._kernels[0], self._strides[0]), weight, bias)  # [n, C]
        hidden = self._first.activation(hidden if norm is None else norm(hidden))
        for layer, convolution in self._others:
            hidden = convolution(hidden)
            if hasattr(layer, "layer_norm"):
                hidden = layer.layer_norm(hidden)
            hidden = layer.activation(hidden)
        return hidden

    def _normalised(self, wave: torch.Tensor, norm: nn.GroupNorm) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of the first convolution, group norm over the clip's time included.

        A channel is w.x over the windows x of the samples, so its mean is w.m and its variance w'Cw, with the windows'
        mean m and covariance C: k numbers and k x k, instead of a pass over C channels. The convolution's own bias
        falls out. In float64, for the sum of many squares.
        """
        windows = wave.double().unfold(0, self._kernels[0], self._strides[0])  # [n, k]
        mean = windows.mean(0)
        centred = windows - mean
        covariance = centred.T @ centred / len(windows)
        weight = self._first_weight.double()
        scale = norm.weight / ((weight @ covariance * weight).sum(1) + norm.eps).sqrt()
        return (weight * scale[:, None]).float(), (norm.bias - weight @ mean * scale).float()

    def positions(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the positional convolution adds to the frames: float32 [1, F, D] -> float32 [1, F, D]."""
        if self._positional is None:
            return self._positions(hidden)
        there = hidden.transpose(1, 2)
        if getattr(self._positions, "batch_norm", None) is not None:
            there = self._positions.batch_norm(there)
        added = self._positional(there[0].T.contiguous())[: hidden.shape[1]]
        return self._positions.activation(added)[None]


class _Convolution:
    """An nn.Conv1d over steps that lie one behind the other, [n, C] -> [n', C']."""

    def __init__(self, conv: nn.Conv1d) -> None:
        # Read once: behind a weight norm it is computed whenever it is asked for.
        weight = conv.weight.detach()[:, :, None]  # [C', C, 1, k]
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.bias = conv.bias
        self.how: dict[str, Any] = {
            "stride": (1, *conv.stride), "padding": (0, *conv.padding), "groups": conv.groups,
        }  # fmt: skip

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.conv2d(hidden.T[None, :, None], self.weight, self.bias, **self.how)[0, :, 0].T
