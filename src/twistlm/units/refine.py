"""Refining a codebook: projection and centroids moved so that a frame's unit tells more about its label (phone, say).

The result is a codebook like any other. Shapes: F frames, D dimensions, P of the projection, K centroids, L labels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from twistlm.compute.seeds import torch_seed
from twistlm.errors import BadInput
from twistlm.units.kmeans import Codebook

BATCH = 4096  # frames
BALANCE = 0.1  # weight of the entropy of the units, in nats: none may fall out of use


def refine(
    book: Codebook, features: NDArray[np.float32], labels: NDArray[np.integer], *, updates: int, noise: float,
    seed: int, lr: float = 5e-3, twins: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    alike: float = 0.1, balance: float = BALANCE,
) -> Codebook:  # fmt: skip
    """Return `book` after `updates` steps of Adam on the likelihood of frames' labels given their softly assigned unit.

    A frame x belongs to unit u by p(u|x), a softmax of -|xP - c|^2 / 2: in the space of `discriminant` frames of one
    label have variance 1. The loss is -log sum_u p(u|x) q(label|u), with q learnt beside. Noise in that space keeps
    borders away from frames: those of speakers who were not in the encoder's training lie farther from the centroids.

    With `twins`, frames at the same place of the same text in two voices, `alike` times -log sum_u p(u|x) p(u|x') is
    added: such two are to be one unit, and units to bear less of who speaks. Alone it would make all frames one unit,
    so it wants a larger `balance`.

    Args:
        book: with a projection, see `kmeans.discriminant`.
        features: float32 [F, D].
        labels: [F]; frames with a negative one are left out.
        updates: steps of 4096 frames.
        noise: standard deviation, in each dimension of the projection.
        seed: fixes frames and noise.
        lr: peak learning rate; a cosine from there.
        twins: float32 [T, D] twice, the one's frames and, in the same rows, the other's.
        alike: weight of the twins' loss.
        balance: weight of the entropy of the units.
    """
    known = np.flatnonzero(labels >= 0)
    if book.projection is None or not len(known):
        raise BadInput("refining needs a codebook with a projection, and labelled frames.")
    x, y = torch.from_numpy(features[known]), torch.from_numpy(labels[known].astype(np.int64))
    counts = np.full((book.n_units, int(labels.max()) + 1), 0.1)
    np.add.at(counts, (book.assign(features[known]), labels[known]), 1)
    projection, centroids = (torch.from_numpy(a.copy()).requires_grad_() for a in (book.projection, book.centroids))
    told = torch.from_numpy(np.log(counts).astype(np.float32)).requires_grad_()  # log q, but for its sum
    # Each rate in the size of what it moves.
    rates = {projection: 0.3 * float(np.abs(book.projection).mean()), centroids: 3.0, told: 5.0}
    optimizer = torch.optim.Adam([{"params": [p], "lr": lr * by} for p, by in rates.items()], betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates, eta_min=0)
    rng = torch.Generator().manual_seed(torch_seed(seed))
    pairs = None if twins is None else tuple(torch.from_numpy(side) for side in twins)

    def assigned(here: torch.Tensor) -> torch.Tensor:
        return torch.softmax(here @ centroids.T - centroids.square().sum(1) / 2, 1)

    for _ in range(updates):
        frames = torch.randint(len(x), (BATCH,), generator=rng)
        here = x[frames] @ projection
        here = here + noise * torch.randn(here.shape, generator=rng)
        units = assigned(here)
        likelihood = (units @ torch.softmax(told, 1)).gather(1, y[frames, None])
        used = units.mean(0)
        loss = -likelihood.clamp_min(1e-9).log().mean() + balance * (used * (used + 1e-9).log()).sum()
        if pairs is not None:
            frames = torch.randint(len(pairs[0]), (BATCH,), generator=rng)
            one, other = (assigned(side[frames] @ projection) for side in pairs)
            loss = loss - alike * (one * other).sum(1).clamp_min(1e-9).log().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return Codebook(centroids.detach().numpy(), projection.detach().numpy())
