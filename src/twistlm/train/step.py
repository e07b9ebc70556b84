"""One optimiser step: the gradient of a batch, whole or in parts, and what the metrics say of it.

Shapes: B rows, T tokens of a row, V tokens of the vocabulary.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from twistlm.compute.devices import send
from twistlm.compute.memory import say_too_small
from twistlm.compute.precision import Precision
from twistlm.config import TrainConfig
from twistlm.corpus.stream import IGNORE, Batch
from twistlm.files.metrics import Row
from twistlm.lm.model import UnitLM
from twistlm.train.optim import learning_rate, set_rate
from twistlm.train.parallel import ALONE, Adding, Ranks


def take_step(
    lm: UnitLM,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: TrainConfig,
    *,
    update: int,
    precision: Precision,
    loss_limit: float = math.inf,
    ranks: Ranks = ALONE,
    adding: Adding | None = None,
    at_least: int = 1,
) -> Row:
    """Make one optimiser step; return its line of metrics. The loss is the mean over target tokens, before the step.

    `batch` is this rank's share of the update's; all ranks return the same numbers, which are those of the whole. When
    loss or gradient is not finite, or the loss above `loss_limit`, no step is made: the line has no `tokens`.

    Where a GPU's memory is too small, the batch is computed anew in twice as many parts, the same numbers up to
    rounding; the line then says in how many (`parts`), and `at_least` so many are the next update's. Ranks that share
    the model out cannot do that: one's error leaves the others waiting.
    """
    started = time.perf_counter()
    lr = learning_rate(update, config)
    set_rate(optimizer, lr)
    targets = int(ranks.sum(batch.n_targets))
    parts, seed = ranks.parts(config), (config.seed, update, ranks.rank)
    parts = max(parts, at_least)
    part = None
    while part is None:
        try:
            part = backward(lm, batch, parts=parts, targets=targets, precision=precision, seed=seed, adding=adding)
        except torch.OutOfMemoryError:
            if lm.sharded or parts >= len(batch.tokens) or (adding is not None and adding.begun):
                raise  # other ranks wait for what this one would have sent, or a row alone does not fit
        if part is None:  # outside of the except block, whose error still holds the failed try's tensors
            optimizer.zero_grad(set_to_none=True)
            say_too_small(f"update {update + 1}, in parts of {-(-len(batch.tokens) // parts)} rows,")
            parts = min(2 * parts, len(batch.tokens))
    norm = torch.nn.utils.clip_grad_norm_(lm.model.parameters(), config.clip_norm)
    whole_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    mine, size = torch.stack([part, whole_norm]).tolist()  # the one moment that waits for a GPU
    row = {"update": update + 1, "loss": ranks.sum(mine), "lr": lr, "grad_norm": size}
    if parts > ranks.parts(config):
        row["parts"] = parts
    good = math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) and row["loss"] <= loss_limit
    if good:
        for parameter in lm.model.parameters():  # of a layer that was dropped: AdamW would not count this update for it
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # now, so that an evaluation does not hold the gradients' memory
    if not good:
        return row
    return row | {"tokens": targets, "seconds": time.perf_counter() - started}


def backward(
    lm: UnitLM,
    batch: Batch,
    *,
    parts: int,
    targets: int,
    precision: Precision,
    seed: tuple[int, ...],
    adding: Adding | None = None,
) -> torch.Tensor:
    """Add the gradient of the loss of `batch`, summed and divided by `targets`, to the parameters; return it, in nats.

    It is a float32 scalar on the model's device, which nobody has waited for.

    Each part counts by its share of the targets, so the parts add up to the whole whatever their padding.

    Args:
        lm: put in training mode.
        batch: of `parts` rows or more.
        parts: how many the batch is computed in, one after the other; the first may have a row more.
        targets: of the whole of which `batch` is a share: its own give the mean.
        precision: "bf16" computes under autocast.
        adding: adds the ranks' gradients, where each rank holds the whole model.
        seed: of dropout, where the model has any. It draws from torch's global generator, which is given back after.
    """
    device = lm.device
    lm.model.train()
    losses = []
    with lm.packed_attention(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        for at, part in enumerate(batch.parts(parts)):
            if adding is not None:
                adding.begin(last=at + 1 == parts)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
                loss = mean_nll(lm, part) * (part.n_targets / targets)
            loss.backward()
            losses.append(loss.detach())
    if adding is not None:
        adding.finish()
    return torch.stack(losses).sum()


def mean_nll(lm: UnitLM, batch: Batch) -> torch.Tensor:
    """Return the mean negative log-likelihood of the targets of `batch`, nats per token, a float32 scalar.

    Logits are made at every position: V is some hundred, so leaving out the padding would save well under a percent.
    """
    tokens, positions, targets = (send(part, lm.device) for part in (batch.tokens, batch.positions, batch.targets))
    logits = lm.forward_logits(tokens, torch.from_numpy(batch.segments), positions)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
