"""What one update depends on besides the batch: the optimiser and the learning rate."""

from __future__ import annotations

import math

import torch

from twistlm.config import TrainConfig


def adamw(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters of `model`; norms and biases (below 2-D) are not decayed.

    The fused kernel is asked for by name: on CPU it is about ten times faster than the loop torch would choose.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tables = _tables(model) if config.table_rate != 1 else set()
    groups = [
        {
            "params": [p for p in trainable if (p.ndim >= 2) == decayed and (id(p) in tables) == table],
            "weight_decay": config.weight_decay if decayed else 0.0,
            "rate": config.table_rate if table else 1.0,
        }
        for table in (False, True)
        for decayed in (True, False)
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in trainable)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Let the next step of `adamw` be at the rate `lr`, and at its own multiple of it for the tables."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["rate"]


def _tables(model: torch.nn.Module) -> set[int]:
    """Return which parameters are those of the embedding and of the output layer, by id."""
    both = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[operator]  # of transformers
    return {id(parameter) for table in both for parameter in table.parameters()}


def learning_rate(update: int, config: TrainConfig) -> float:
    """Return the rate of update 0 … updates-1: a linear rise to `lr` over `warmup` updates, then the schedule.

    All schedules continue at `lr` where the rise ends and never go below `lr_floor`; the cosine and "wsd" reach it at
    the last update. (But "wsd" falls in the last fifth, however long the rise: where that ends later, the rate drops
    there to what it would be without; and a rise that ends with the last update but one leaves the cosine no fall.)
    During the rise the floor does not hold. "wsd" falls as one less the square root (Hägele et al.
    2024, arXiv 2405.18392), from `decay_begins` on.
    """
    if update < config.warmup:
        return config.lr * (update + 1) / config.warmup
    if config.schedule == "inverse_sqrt":
        # Counted from 1, so that the first update after the rise goes on falling from lr.
        return max(config.lr_floor, config.lr * math.sqrt(max(config.warmup, 1) / (update + 1)))
    if config.schedule == "wsd":
        begins = decay_begins(config)
        progress = max(update + 1 - begins, 0) / (config.updates - begins)
        return config.lr_floor + (config.lr - config.lr_floor) * (1 - math.sqrt(progress))
    falling = max(config.updates - 1 - config.warmup, 1)
    progress = min((update - config.warmup) / falling, 1.0)
    return config.lr_floor + (config.lr - config.lr_floor) * (1 + math.cos(math.pi * progress)) / 2


def decay_begins(config: TrainConfig) -> int:
    """Return the first update of the last fifth, in which the rate of "wsd" falls (0.2: as in Hägele et al.)."""
    return config.updates - max(config.updates // 5, 1)
