"""Where this process computes."""

from __future__ import annotations

import os

import torch


def device() -> torch.device:
    """The GPU where there is one, of several that of this rank; else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if "LOCAL_RANK" in os.environ else torch.device("cuda")
