"""Fit the duration predictor: how many frames each unit lasts, from the units around it.

Shapes: B batch, R units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from twistlm.compute.seeds import torch_seed
from twistlm.types import Units
from twistlm.vocoder.durations import durations
from twistlm.vocoder.synthesizer import Synthesizer

ROWS, LENGTH = 8, 64  # of a batch: rows of so many consecutive units


def fit_durations(
    synthesizer: Synthesizer, corpus: Sequence[Units], *, updates: int, seed: int, lr: float = 1e-3
) -> None:
    """Train `synthesizer.dur_predictor` in place on the runs of a corpus; the embeddings stay as they are.

    The loss is the mean squared error of log(run + 1), the published one. Its optimum is a geometric mean, which makes
    speech too fast, so at the end one constant is added to all predictions that makes the predicted total duration of
    the corpus the true one.

    Units that are not deduplicated have no durations, and a vocoder may have no predictor: then nothing is done.
    """
    if synthesizer.dur_predictor is None or not corpus or not corpus[0].spec.deduplicate:
        return
    ids = torch.from_numpy(np.concatenate([u.ids for u in corpus]).astype(np.int64))
    runs = torch.from_numpy(np.concatenate([u.runs for u in corpus]).astype(np.int64))
    length = min(LENGTH, len(ids))
    predictor = synthesizer.dur_predictor.train()
    optimizer = torch.optim.AdamW(predictor.parameters(), lr, weight_decay=0.0)
    rng = np.random.default_rng([seed, 1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed))  # of the dropout
        for update in range(updates):
            optimizer.param_groups[0]["lr"] = lr * (1 - update / updates)
            at = torch.from_numpy(rng.integers(0, len(ids) - length + 1, (ROWS, 1)) + np.arange(length))
            embedded = synthesizer.dict(ids[at]).detach()
            loss = (predictor(embedded) - (runs[at] + 1).float().log()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    predictor.eval()
    with torch.no_grad():
        predicted = torch.cat([synthesizer.log_durations(part[None])[0] for part in ids.split(4096)])
        predictor.proj.bias.add_(_offset(predicted, int(runs.sum())))


def _offset(predicted: Tensor, total: int) -> float:
    """The constant that, added to log durations, makes them last `total` frames; found by bisection."""
    low, high = -3.0, 3.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if int(durations(predicted + middle).sum()) < total else (low, middle)
    return (low + high) / 2
