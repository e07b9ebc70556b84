"""Where this process computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def device() -> torch.device:
    """The GPU where there is one, of several that of this rank; else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if "LOCAL_RANK" in os.environ else torch.device("cuda")


@contextmanager
def float32_convolutions(where: torch.device) -> Iterator[None]:
    """Inside the block, convolutions on a GPU keep float32's digits; cuDNN rounds to TF32's 10 bits if not told so."""
    if where.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, allow_tf32=False, fp32_precision="ieee"):
        yield
