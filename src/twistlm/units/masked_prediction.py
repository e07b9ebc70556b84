"""What HuBERT learns from: the units of masked frames, predicted (Hsu et al., HuBERT, 2021, section II).

There may be several streams of targets, each with its own head, as in the paper's cluster ensembles. A departure from
the paper: unmasked frames count too, with `unmasked_weight` (0 there), which makes training from a good teacher much
shorter.

Shapes: B crops, N samples, F frames, S streams of targets, K targets of a stream, D model width.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import HubertConfig, HubertModel

# (kernels, strides) of the convolutions. "waveform" is HuBERT's own front end; at 25 Hz it has one more stride-2
# convolution, as in TWIST. "filterbank" starts from one 25 ms convolution every 10 ms, laid out as mel-spaced filters
# in four phases: a fraction of the arithmetic, and a short training need not discover frequencies first.
FRONT_ENDS = {
    ("waveform", 50): ((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)),
    ("waveform", 25): ((10, 3, 3, 3, 3, 2, 2, 2), (5, 2, 2, 2, 2, 2, 2, 2)),
    ("filterbank", 50): ((400, 2), (160, 2)),
    ("filterbank", 25): ((400, 2, 2), (160, 2, 2)),
}


@dataclass(frozen=True, kw_only=True)
class HubertPretrainConfig:
    """One pretraining run.

    Attributes:
        front_end: see FRONT_ENDS.
        frame_rate: 25 or 50 Hz.
        conv_dim: channels of each convolution of the front end; a filterbank's first is a multiple of 4.
        width, layers, heads, ffn: of the transformer.
        n_targets: K of each stream.
        crop_seconds, batch: crops of this length, this many an update, over all ranks.
        accumulate: the batch is computed in so many parts on one rank (on several, each in its share of them), which
            need so much less memory and give the same update up to rounding; but a batch norm before the positional
            convolution takes its statistics from each part's crops.
        updates, lr, warmup, weight_decay, clip_norm: AdamW, linear warm-up then cosine to a tenth.
        mask_start, mask_frames: share of frames that start a mask, and its length.
        unmasked_weight: weight of the loss on frames that are not masked (HuBERT: 0).
        augment: share of crops that get noise, room or gain (targets stay those of the clean speech).
        warp: an augmented crop is played up to this factor faster or slower, pitch and formants with it.
        position_kernel: frames that the positional convolution spans (HuBERT: 128 at 50 Hz).
        checkpoint_every: updates between checkpoints.
        compile: fuse the model with torch.compile (needs a C++ compiler; about 1.2 times faster on a CPU).
        bf16: matrix products in bfloat16 (autocast); weights, norms and the loss stay float32. "auto": where they are
            faster, which a CPU is asked by timing; what was found stands in choices.json and is kept on going on.
        seed: fixes weights, crops, masks and augmentation.
    """

    front_end: Literal["waveform", "filterbank"]
    frame_rate: int
    conv_dim: tuple[int, ...]
    width: int
    layers: int
    heads: int
    ffn: int
    n_targets: tuple[int, ...]
    crop_seconds: float
    batch: int
    updates: int
    lr: float
    warmup: int
    weight_decay: float = 0.01
    clip_norm: float = 5.0
    mask_start: float = 0.065
    mask_frames: int = 5
    unmasked_weight: float = 1.0
    augment: float = 0.6
    warp: float = 0.0
    position_kernel: int = 64
    checkpoint_every: int = 500
    accumulate: int = 1
    compile: bool = True
    bf16: bool | Literal["auto"] = False
    seed: int = 0

    def hubert(self) -> HubertConfig:
        """The HF configuration of the encoder; layer norm in the convolutions, so no statistic runs over time.

        Deep ones normalise before each block and not behind it, as HuBERT large does."""
        kernels, strides = FRONT_ENDS[self.front_end, self.frame_rate]
        return HubertConfig(
            conv_dim=self.conv_dim, conv_kernel=kernels, conv_stride=strides, conv_bias=True, feat_extract_norm="layer",
            hidden_size=self.width, num_hidden_layers=self.layers, num_attention_heads=self.heads,
            intermediate_size=self.ffn, num_conv_pos_embeddings=self.position_kernel, num_conv_pos_embedding_groups=16,
            hidden_dropout=0.0, activation_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0,
            conv_pos_batch_norm=True, apply_spec_augment=False, do_stable_layer_norm=self.layers > 12,
        )  # fmt: skip


class MaskedUnitPredictor(nn.Module):
    """A HuBERT with the paper's head: cosine similarity of projected frame and target embedding, over 0.1."""

    def __init__(self, config: HubertPretrainConfig) -> None:
        super().__init__()
        self.hubert = HubertModel(config.hubert())
        self.mask = nn.Parameter(torch.empty(config.width).uniform_())
        self.projections = nn.ModuleList(nn.Linear(config.width, config.width) for _ in config.n_targets)
        self.targets = nn.ParameterList(torch.randn(k, config.width) for k in config.n_targets)
        if config.front_end == "filterbank":
            first = cast(nn.Conv1d, self.hubert.get_submodule("feature_extractor.conv_layers.0.conv"))
            wavelets = mel_wavelets(first.out_channels // 4, first.kernel_size[0])
            first.weight.data.copy_(torch.from_numpy(wavelets)[:, None])
            nn.init.zeros_(cast(nn.Parameter, first.bias))
            # GELU rectifies only what is well above 1: without a gain weak bands would pass as waves, not as levels.
            nn.init.constant_(self.hubert.get_parameter("feature_extractor.conv_layers.0.layer_norm.weight"), 5.0)

    def forward(self, waves: Tensor, masked: Tensor) -> list[Tensor]:
        """Logits [B, F, K] of each stream for waves [B, N]; the transformer does not see frames that are `masked`
        (bool [B, F])."""
        features = self.hubert.feature_extractor(waves).transpose(1, 2)
        hidden = self.hubert.feature_projection(features)
        hidden = torch.where(masked[..., None], self.mask.to(hidden.dtype), hidden)
        hidden = self.hubert.encoder(hidden).last_hidden_state
        return [
            F.normalize(projection(hidden), dim=-1) @ F.normalize(targets, dim=-1).T / 0.1
            for projection, targets in zip(self.projections, self.targets, strict=True)
        ]


def mel_wavelets(n_bands: int, length: int) -> NDArray[np.float32]:
    """Windowed waves at `n_bands` mel-spaced frequencies in four phases each: float32 [4 n_bands, length].

    Rectified, the four phases of a band add up to nearly the band's magnitude, wherever in its period the wave stands.
    They grow with frequency, as a pre-emphasis does, so that the layer norm that follows hears the high bands too.
    """
    frequencies = 700 * (np.exp(np.linspace(np.log1p(80 / 700), np.log1p(7600 / 700), n_bands)) - 1)
    time_axis = (np.arange(length) - length / 2) / 16_000
    phases = np.arange(4) * np.pi / 2
    waves = np.cos(2 * np.pi * frequencies[:, None, None] * time_axis + phases[:, None]) * np.hanning(length)
    return (waves * (frequencies / 1000 + 0.3)[:, None, None] / np.sqrt(length)).reshape(-1, length).astype(np.float32)


def loss_of(
    model: nn.Module,
    batch: tuple[Tensor, Tensor, Tensor],
    config: HubertPretrainConfig,
    whole: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """Sum over streams of the cross entropy on masked frames plus `unmasked_weight` times that on the others, each a
    mean over its frames; and those parts and accuracies, one scalar a stream.

    `whole`: targets and masks of the batch of which this is a part: means are over its frames, so that parts add up.
    """
    waves, targets, masked = batch
    total = torch.zeros(())
    parts: dict[str, list[Tensor]] = defaultdict(list)
    all_targets, all_masked = (targets, masked) if whole is None else whole
    for logits, wanted, every in zip(model(waves, masked), targets, all_targets, strict=True):
        each = F.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=-100, reduction="none")
        known = wanted != -100
        right = (logits.argmax(-1) == wanted) & known
        for name, where, there, weight in (
            ("masked", masked, all_masked, 1.0),
            ("unmasked", ~masked, ~all_masked, config.unmasked_weight),
        ):
            count = (there & (every != -100)).sum().clamp(min=1)
            counted = where & known
            # Picking waits for a GPU to say how many there are; on a CPU it is the sum that it has always been.
            picked = torch.where(counted, each, 0.0) if each.is_cuda else each[counted]
            loss = picked.sum() / count
            total = total + weight * loss
            parts[f"{name}_loss"].append(loss.detach())
            parts[f"{name}_accuracy"].append((right & where).sum() / count)
    return total, parts
