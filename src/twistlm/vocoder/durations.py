"""How long each unit lasts: the predictor of the published vocoders, and their rule for frames.

Shapes: B batch, R units before expansion, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twistlm.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class DurationConfig:
    """The duration predictor, in the published names."""

    encoder_embed_dim: int
    var_pred_hidden_dim: int
    var_pred_kernel_size: int
    var_pred_dropout: float

    def __post_init__(self) -> None:
        if self.var_pred_kernel_size % 2 == 0:
            raise BadInput(
                f"vocoder config: the duration predictor's kernel must be odd, got {self.var_pred_kernel_size}."
            )

    @property
    def reach(self) -> int:
        """Units on each side that a unit's duration depends on."""
        return self.var_pred_kernel_size - 1


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


def durations(log_durations: Tensor) -> Tensor:
    """Published rule for frames from the predictor's output: exp(d) - 1, rounded, at least 1. int64, same shape."""
    return torch.clamp(torch.round(torch.exp(log_durations) - 1), min=1).long()
