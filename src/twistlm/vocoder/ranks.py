"""Several processes that train one vocoder: each takes its share of a batch, and all stay alike.

The promise is that of one process up to rounding. Means over rows are means of the ranks' means. What is a ratio of
sums over the batch needs the sums of all ranks first (`total`); through those, gradients flow back to every rank.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.nn.functional import all_reduce


def place() -> tuple[int, int]:
    """Which rank this is, and of how many."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def total(value: Tensor) -> Tensor:
    """The sum of every rank's scalar; the gradient of what is made of it reaches them all. Alone: `value` itself."""
    return value if place()[1] == 1 else all_reduce(value)


def norm(value: Tensor) -> Tensor:
    """The Euclidean norm of every rank's numbers together, as `total` is their sum."""
    return value.norm() if place()[1] == 1 else total(value.square().sum()).sqrt()


def mean(value: Tensor) -> Tensor:
    """The mean of every rank's tensor, without gradient. Alone: `value` itself."""
    ranks = place()[1]
    if ranks == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / ranks


def mean_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every rank the mean of their gradients, in place, in one message."""
    if place()[1] == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = mean(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
