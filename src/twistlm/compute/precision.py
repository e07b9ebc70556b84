"""The number format of training's matrix products: bf16 only where it is the faster one, on the model's own shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from twistlm.compute.choices import Choice, choose, race
from twistlm.errors import ConfigError

Precision = Literal["float32", "bf16"]
Wanted = Literal["float32", "bf16", "auto"]
Shapes = Mapping[tuple[int, int], int]  # (inputs, outputs) of a linear map -> how many of them a model has

SECONDS = 0.5  # all trials together, at most about so long
# Larger products run at the rate of one of this size; more rows at that of so many.
_WIDEST, _ROWS, _SHAPES = 2048, 256, 4
# The quickstart's: SmolLM2-135M, two rows of 256 tokens.
SMOLLM2_135M: Shapes = {(576, 576): 60, (576, 192): 60, (576, 1536): 60, (1536, 576): 30}


def linear_shapes(model: nn.Module) -> Shapes:
    """Return the shapes of the model's linear maps and how often each stands in it."""
    found: Counter[tuple[int, int]] = Counter()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            found[module.in_features, module.out_features] += 1
        elif isinstance(module, Conv1D):  # GPT-2's name of a linear map
            found[module.weight.shape[0], module.weight.shape[1]] += 1
    return found


def choose_precision(wanted: Wanted, device: torch.device, shapes: Shapes, *, rows: int) -> tuple[Precision, Choice]:
    """Return the number format of the matrix products, and how it was chosen.

    `"auto"` on a CPU times both formats on products of these shapes, forward and backward with all that autocast casts,
    in less than a second, with this process's number of threads.

    Args:
        wanted: a format, or "auto".
        device: what is trained on.
        shapes: of the model's linear maps (`linear_shapes`).
        rows: tokens that are computed at once.

    Raises:
        ConfigError: bf16 is asked for on a device whose autocast does not know it.
    """
    if wanted == "float32":
        return "float32", Choice(took="float32", because="asked for")
    if wanted == "bf16":
        if not torch.amp.is_autocast_available(device.type):
            raise ConfigError(f"precision is 'bf16', which torch cannot do on {device.type}; use 'auto' or 'float32'.")
        return "bf16", Choice(took="bf16", because="asked for")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", Choice(took="bf16", because="the GPU computes bf16")
        return "float32", Choice(took="float32", because="the GPU does not compute bf16")
    if device.type != "cpu":
        return "float32", Choice(took="float32", because=f"bf16 is not known to be faster on {device.type}")
    if not _has_bf16():
        return "float32", Choice(took="float32", because="the CPU has no bf16 instructions")
    tried, threads = _tried(shapes), torch.get_num_threads()
    rows = min(rows, _ROWS)
    products = ", ".join(f"{n} of {inputs} x {outputs}" for (inputs, outputs), n in sorted(tried.items()))
    choice = choose("precision", f"{rows} rows, {products}, {threads} threads", lambda: _measure(tried, rows))
    return ("bf16" if choice.took == "bf16" else "float32"), choice


def _has_bf16() -> bool:
    # Private names, but the only ones in every torch the project supports.
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def _tried(shapes: Shapes) -> Shapes:
    """Return the shapes that take the most time, none wider than _WIDEST."""
    capped: Counter[tuple[int, int]] = Counter()
    for (inputs, outputs), n in shapes.items():
        capped[min(inputs, _WIDEST), min(outputs, _WIDEST)] += n
    heaviest = sorted(capped, key=lambda s: (-capped[s] * s[0] * s[1], s))[:_SHAPES]
    return {shape: capped[shape] for shape in heaviest}


def _measure(shapes: Shapes, rows: int) -> dict[str, float]:
    """Return the seconds of one product of each shape, forward and backward, times how many there are."""
    total = {"float32": 0.0, "bf16": 0.0}
    for (inputs, outputs), n in shapes.items():
        # Constants, for a random draw would touch the generator or take as long as the product.
        weight = torch.full((outputs, inputs), 0.01, requires_grad=True)
        x, gradient = torch.full((rows, inputs), 0.1, requires_grad=True), torch.full((rows, outputs), 0.1)

        def step(
            enabled: bool, weight: torch.Tensor = weight, x: torch.Tensor = x, gradient: torch.Tensor = gradient
        ) -> None:
            with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                made = nn.functional.linear(x, weight)
            torch.autograd.grad(made, (x, weight), gradient.to(made.dtype))

        taken = race(
            {"float32": lambda: step(False), "bf16": lambda: step(True)},
            seconds=SECONDS / len(shapes),
        )
        total = {way: total[way] + n * taken[way] for way in total}
    return total
