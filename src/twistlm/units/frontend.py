"""From samples to the input of the first block: convolutions over the wave, and the one that tells positions.

They give what transformers' own modules give, in less time: frame by frame (channels last, so that a convolution is a
plain matrix product), a few seconds at a time (so that memory is used again while it is in the cache), and with the
group norm of base models, which needs a whole clip, worked out before there is anything to normalise.

A GPU, which waits longer for a kernel than it computes one for a clip, is given many clips one behind the other, as if
they were one (`together`).

Shapes: N samples, n steps of a convolution, k taps, C channels, B clips, F frames, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from twistlm.compute.devices import send
from twistlm.compute.products import linear

PIECE_SECONDS = 2  # of sound at a time: 13 MB behind HuBERT's first convolution
PIECE_TOGETHER = 64  # likewise of many clips: 0.4 GB
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
        hop, receptive = self._reach()
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

    def together(self, waves: Sequence[NDArray[np.float32]], device: torch.device) -> list[torch.Tensor]:
        """What the convolutions make of several clips: B times float32 [N] -> B times float32 [F, C] on `device`.

        Each clip begins at a multiple of the hop on one long wave, so that its frames fall on those of the whole. A
        frame sees its own clip alone; those that see the next one as well are left out.
        """
        found: list[torch.Tensor] = []
        piece: list[NDArray[np.float32]] = []
        for wave in waves:
            if piece and sum(map(len, piece)) + len(wave) > PIECE_TOGETHER * _SAMPLE_RATE:
                found += self._one_behind_the_other(piece, device)
                piece = []
            piece.append(wave)
        return found + (self._one_behind_the_other(piece, device) if piece else [])

    def _one_behind_the_other(self, waves: Sequence[NDArray[np.float32]], device: torch.device) -> list[torch.Tensor]:
        hop, receptive = self._reach()
        starts = np.cumsum([0, *(-(-len(wave) // hop) * hop for wave in waves)])
        there = torch.empty(int(starts[-1]), pin_memory=device.type == "cuda")  # from torch's own store of such memory
        whole = there.numpy()
        for start, end, wave in zip(starts, starts[1:], waves, strict=False):
            whole[start : start + len(wave)] = wave
            whole[start + len(wave) : end] = 0.0
        there = there.to(device, non_blocking=True)
        hidden = self._first_steps(there, starts, [len(wave) for wave in waves])
        for layer, convolution in self._others:
            hidden = convolution.by_taps(hidden)
            if hasattr(layer, "layer_norm"):
                hidden = layer.layer_norm(hidden)
            hidden = layer.activation(hidden)
        firsts = starts[:-1] // hop
        return [hidden[at : at + (len(wave) - receptive) // hop + 1] for at, wave in zip(firsts, waves, strict=True)]

    def _first_steps(self, whole: torch.Tensor, starts: NDArray[np.int64], lengths: Sequence[int]) -> torch.Tensor:
        """The first convolution of clips that lie one behind the other on a wave: [N] -> [n, C]."""
        weight, bias, norm = self._first_weight, self._first.conv.bias, getattr(self._first, "layer_norm", None)
        kernel, stride = self._kernels[0], self._strides[0]
        windows = whole.unfold(0, kernel, stride)  # [n, k]
        if not isinstance(norm, nn.GroupNorm):
            hidden = linear(windows, weight, bias)
            return self._first.activation(hidden if norm is None else norm(hidden))
        hidden = whole.new_zeros(len(windows), len(weight))  # what sees two clips stays finite
        steps = [(length - kernel) // stride + 1 for length in lengths]
        weights, biases = self._all_normalised(whole, starts, steps, norm)
        for start, n, own, shift in zip(starts, steps, weights, biases, strict=False):
            first = start // stride
            torch.addmm(shift, windows[first : first + n], own.T, out=hidden[first : first + n])
        return self._first.activation(hidden)

    def _all_normalised(
        self, whole: torch.Tensor, starts: NDArray[np.int64], steps: Sequence[int], norm: nn.GroupNorm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`_normalised` of clips on one wave, `steps` windows each: weights [B, C, k] and biases [B, C]."""
        windows = whole.unfold(0, self._kernels[0], self._strides[0])
        places = starts[:-1, None] // self._strides[0] + np.arange(max(steps))  # [B, n]
        there = np.arange(max(steps)) < np.array(steps)[:, None]
        index = send(np.minimum(places, len(windows) - 1), whole.device)
        real = send(there, whole.device)[..., None].double()
        count = real.sum(1)  # [B, 1]
        padded = windows[index].double() * real  # [B, n, k]
        mean = padded.sum(1) / count
        centred = (padded - mean[:, None]) * real
        covariance = centred.mT @ centred / count[..., None]  # [B, k, k]
        weight = self._first_weight.double()
        scale = norm.weight / ((weight @ covariance * weight).sum(2) + norm.eps).sqrt()  # [B, C]
        return (weight * scale[..., None]).float(), (norm.bias - mean @ weight.T * scale).float()

    def _reach(self) -> tuple[int, int]:
        """Samples between two frames, and that one frame sees."""
        hop = receptive = 1
        for kernel, stride in zip(self._kernels, self._strides, strict=True):
            hop, receptive = hop * stride, receptive + (kernel - 1) * hop
        return hop, receptive

    def all_positions(self, hidden: torch.Tensor, n_frames: Sequence[int]) -> torch.Tensor:
        """`positions` of clips of so many frames each: float32 [B, F, D], padded with zeros -> float32 [B, F, D]."""
        if self._positional is None:  # a stack, which would see what it made of the padding
            each = [self._positions(own[None, :n])[0] for own, n in zip(hidden, n_frames, strict=True)]
            return pad_sequence(each, batch_first=True)
        there = hidden.transpose(1, 2)
        if getattr(self._positions, "batch_norm", None) is not None:
            real = send(np.arange(hidden.shape[1]) < np.array(n_frames)[:, None], hidden.device)
            there = self._positions.batch_norm(there) * real[:, None]
        added = self._positional.of_many(there)[..., : hidden.shape[1]]
        return self._positions.activation(added).transpose(1, 2)

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

    def by_taps(self, hidden: torch.Tensor) -> torch.Tensor:
        """The same, without padding or groups, as products of as many taps as the stride has steps, which lie together.

        So nothing is copied: row r of a product begins at step r * stride and is a row of `hidden`'s memory.
        """
        _, stride = self.how["stride"]
        taps = self.weight[:, :, 0].permute(2, 1, 0)  # [k, C, C']
        n, channels = (len(hidden) - len(taps)) // stride + 1, hidden.shape[1]
        made: torch.Tensor | None = None
        for first in range(0, len(taps), stride):
            weight = taps[first : first + stride].reshape(-1, taps.shape[2])
            rows = hidden.as_strided(
                (n, len(weight)), (stride * channels, 1), hidden.storage_offset() + first * channels
            )
            if made is not None:
                made.addmm_(rows, weight)
            else:
                made = rows @ weight if self.bias is None else torch.addmm(self.bias, rows, weight)
        assert made is not None
        return made

    def of_many(self, hidden: torch.Tensor) -> torch.Tensor:
        """The same of [B, C, n], padding and groups and all, as a product of spectra: [B, C', n'], stride 1.

        cuDNN's float32 kernels of HuBERT's 128 taps in 16 groups took 30 of 224 ms of a batch on an H100.
        """
        weight, groups, padding = self.weight[:, :, 0], self.how["groups"], self.how["padding"][1]
        n = hidden.shape[2] + 2 * padding - weight.shape[2] + 1
        size = next_fast_len(hidden.shape[2] + 2 * padding, real=True)
        padded = F.pad(hidden, (padding, size - padding - hidden.shape[2]))
        spectra = torch.fft.rfft(padded).unflatten(1, (groups, -1)).permute(3, 1, 0, 2)  # [f, G, B, C / G]
        taps = torch.fft.rfft(weight, n=size).conj().unflatten(0, (groups, -1))  # [G, C' / G, C / G, f]
        made = (spectra @ taps.permute(3, 0, 2, 1)).permute(2, 1, 3, 0).flatten(1, 2)
        found = torch.fft.irfft(made, n=size)[..., :n]
        return found if self.bias is None else found + self.bias[:, None]
