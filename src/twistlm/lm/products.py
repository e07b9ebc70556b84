"""Float32 matrix products of inference by oneDNN instead of MKL, which on AMD leaves AVX-512 unused.

On two cores of an EPYC (Zen 5) MKL multiplies 100 GFLOP/s a core and oneDNN 225 (`benchmarks/scoring.py` shows what is
left of that). Both are float32 throughout; sums differ in their order, so in the last digits.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def onednn_products(model: nn.Module, *, rows: int | None = None) -> Iterator[None]:
    """Inside the block, the linear maps of `model` are multiplied by oneDNN; gradients cannot pass them.

    Nothing changes on other devices, for other types than float32, and for CPUs without AVX-512.

    Args:
        model: its modules of class `nn.Linear` exactly; those that wrap one (adapters) stay as they are.
        rows: of the products to come, when they are few and many products come. The weights are then laid out for
            them once, a second copy in memory. One row is left to MKL: it is bound by memory, where both are equal.
    """
    linears = [m for m in model.modules() if type(m) is nn.Linear and "forward" not in vars(m)]
    if rows == 1 or not _pays(linears):
        yield
        return
    for linear in linears:
        weight = linear.weight.detach()
        packed = weight if rows is None else torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        bias = None if linear.bias is None else linear.bias.detach()
        linear.forward = functools.partial(_product, weight=packed, bias=bias)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for linear in linears:
            del linear.forward  # the method of its class is seen again


def _product(rows: torch.Tensor, *, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")  # what inductor calls


def _pays(linears: list[nn.Linear]) -> bool:
    return (
        all(m.weight.dtype == torch.float32 and m.weight.device.type == "cpu" for m in linears)
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.cpu._is_avx512_supported()  # a private name, but the only one
    )
