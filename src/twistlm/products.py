"""Float32 matrix products of inference by oneDNN: what encoders, scoring and sampling spend their time on.

torch gives float32 products to MKL, which on AMD leaves AVX-512 unused: 100 GFLOP/s a core of an EPYC (Zen 5) against
oneDNN's 225 (`benchmarks/tokenize_throughput.py`, `benchmarks/scoring.py`). Both sum in float32; they differ in the
order, so in the last digits, as two machines do. On other devices, for other types and for CPUs without AVX-512 torch
decides as ever. Gradients cannot pass these products.

bfloat16 was tried for the encoders (products only; norms, softmax and sums in float32): 1.75 times as fast again, but
0.7 to 0.9 % of frames get another unit, with the bundled encoder as with random ones. So there is one precision.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

# The operator torch.compile uses for the same purpose.
_ONEDNN = (
    torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and torch.cpu._is_avx512_supported()  # a private name, but the only one
)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`torch.nn.functional.linear`: [..., K], [M, K] and [M] -> [..., M], all of one type."""
    return _product(x, weight=weight, bias=bias) if _ONEDNN and x.is_cpu else F.linear(x, weight, bias)


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


@contextmanager
def onednn_products(model: nn.Module, *, rows: int | None = None) -> Iterator[None]:
    """Inside the block, the linear maps of a model that is also trained are multiplied by oneDNN.

    Args:
        model: its modules of class `nn.Linear` exactly; those that wrap one (adapters) stay as they are.
        rows: of the products to come, when they are few and many products come. The weights are then laid out for
            them once, a second copy in memory. One row is left to MKL: it is bound by memory, where both are equal.
    """
    linears = [m for m in model.modules() if type(m) is nn.Linear and "forward" not in vars(m)]
    plain = all(m.weight.dtype == torch.float32 and m.weight.device.type == "cpu" for m in linears)
    if rows == 1 or not plain or not _ONEDNN:
        yield
        return
    for module in linears:
        weight = module.weight.detach()
        packed = weight if rows is None else torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        bias = None if module.bias is None else module.bias.detach()
        module.forward = functools.partial(_product, weight=packed, bias=bias)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in linears:
            del module.forward  # the method of its class is seen again


def _product(rows: torch.Tensor, *, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
