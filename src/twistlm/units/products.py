"""Matrix products through oneDNN: what an encoder spends its time on.

torch gives float32 products to MKL, which on a CPU that is not Intel's reaches less than half of what oneDNN does there
(`benchmarks/tokenize_throughput.py`). Both sum in float32; they differ in the order, as two machines do.

bfloat16 was tried (products only; norms, softmax and sums in float32): 1.75 times as fast again, but 0.7 to 0.9 % of
frames get another unit, with the bundled encoder as with random ones. So there is one precision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

# The operator torch.compile uses for the same purpose; without it (other processors, other builds) torch decides.
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`torch.nn.functional.linear`: [..., K], [M, K] and [M] -> [..., M], all of one type. It knows no gradients."""
    if _ONEDNN and x.is_cpu:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], None)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """nn.Linear by `linear`, for inference."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return linear(input, self.weight, self.bias)


def quicken(model: nn.Module) -> None:
    """Make every nn.Linear of the model a `Linear` over the same weights, in place."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear:
            quick = Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
            quick.weight, quick.bias = module.weight, module.bias
            model.set_submodule(name, quick)
