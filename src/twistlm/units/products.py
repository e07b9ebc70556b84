"""Matrix products through oneDNN, in float32 or bfloat16: what an encoder spends its time on.

torch gives float32 products to MKL, which on a CPU that is not Intel's reaches less than half of what oneDNN does there
(`benchmarks/tokenize_throughput.py`). Both sum in float32; they differ in the order, as two machines do.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

# The operator torch.compile uses for the same purpose; without it (other processors, other builds) torch decides.
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

Precision = Literal["float32", "bfloat16"]


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`torch.nn.functional.linear`: [..., K], [M, K] and [M] -> [..., M], all of one type. It knows no gradients."""
    if _ONEDNN and x.is_cpu:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], None)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """nn.Linear by `linear`, for inference. What comes out has the type of what goes in, whatever its weights have."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return linear(input.to(self.weight.dtype), self.weight, self.bias).to(input.dtype)


def quicken(model: nn.Module) -> None:
    """Make every nn.Linear of the model a `Linear` over the same weights, in place."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear:
            quick = Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
            quick.weight, quick.bias = module.weight, module.bias
            model.set_submodule(name, quick)


def in_bfloat16(model: Any) -> Any:
    """A copy of a quickened transformers model whose products are in bfloat16; all else stays in float32."""
    model = copy.deepcopy(model)
    for module in model.modules():
        # WavLM's attention reads the weights of its layers and multiplies by itself.
        inside = [] if type(module).__name__ == "WavLMAttention" else module.children()
        for layer in inside:
            if isinstance(layer, Linear):
                layer.to(torch.bfloat16)
    return model
