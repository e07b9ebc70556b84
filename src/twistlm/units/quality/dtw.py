"""Dynamic time warping between many short sequences at once.

Shapes: L, M frames of two sequences, D dimensions.

The distance of two sequences is the cost of the cheapest path from first to last frames (steps: one frame on in either
or in both) over the number of frame pairs on it. Where paths cost the same, the step in both goes first, then that in
the second sequence: the length of the path, and so the distance, depends on this choice. It is torchdtw's, on which
fastabx stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Distance = Literal["angular", "identical"]


def frame_distances(x: NDArray[np.generic], y: NDArray[np.generic], *, distance: Distance) -> NDArray[np.float64]:
    """Between all frames of two stacks: [L, D] and [M, D] (units: [L] and [M]) -> [L, M], in 0 … 1.

    Args:
        x, y: features, or units.
        distance: "angular": the angle between two feature vectors over π (a vector of length 0 is at right angles to
            all others). "identical": 0 for equal units, 1 for others.
    """
    if distance == "identical":
        return (x[:, None] != y[None, :]).astype(np.float64)
    return np.arccos(np.clip(_directions(x) @ _directions(y).T, -1, 1)) / np.pi


def warped(
    x: Sequence[NDArray[np.generic]], y: Sequence[NDArray[np.generic]], *, distance: Distance
) -> NDArray[np.float64]:
    """DTW distance of each sequence of `x` to each of `y`: [len(x), len(y)].

    Every pair is computed to its own lengths, without padding: sequences of `y` stand in order of falling length, so
    that at frame j those that have one are the first few.

    Args:
        x, y: sequences of at least one frame, [L, D] or [L] each.
        distance: between frames.
    """
    costs = frame_distances(np.concatenate(x), np.concatenate(y), distance=distance)
    x_sizes, y_sizes = np.array([len(s) for s in x]), np.array([len(s) for s in y])
    x_starts, y_starts = np.cumsum(x_sizes) - x_sizes, np.cumsum(y_sizes) - y_sizes
    order = np.argsort(-y_sizes, kind="stable")
    starts = y_starts[order]
    active = [int((y_sizes > j).sum()) for j in range(int(y_sizes.max()) + 1)]  # how many have a frame j
    out = np.empty((len(x), len(y)))
    for size in np.unique(x_sizes):
        rows = np.flatnonzero(x_sizes == size)
        total: list[NDArray[np.float64]] = []  # cheapest cost up to (i, j), one [rows, active[j]] for each j
        steps: list[NDArray[np.float64]] = []  # frame pairs on that path
        for i in range(size):
            at = x_starts[rows] + i
            before, total = total, []
            before_steps, steps = steps, []
            for j in range(len(active) - 1):
                n = active[j]
                here = costs[at[:, None], starts[None, :n] + j]
                if i == 0 and j == 0:
                    total.append(here)
                    steps.append(np.ones_like(here))
                elif i == 0:
                    total.append(here + total[j - 1][:, :n])
                    steps.append(steps[j - 1][:, :n] + 1)
                elif j == 0:
                    total.append(here + before[j])
                    steps.append(before_steps[j] + 1)
                else:
                    up, left, diagonal = before[j], total[j - 1][:, :n], before[j - 1][:, :n]
                    both = (diagonal <= left) & (diagonal <= up)
                    total.append(here + np.minimum(np.minimum(up, left), diagonal))
                    one = np.where(left <= up, steps[j - 1][:, :n], before_steps[j])
                    steps.append(np.where(both, before_steps[j - 1][:, :n], one) + 1)
        for j in range(len(active) - 1):
            done = slice(active[j + 1], active[j])  # these end with frame j
            out[np.ix_(rows, order[done])] = total[j][:, done] / steps[j][:, done]
    return out


def _directions(vectors: NDArray[np.generic]) -> NDArray[np.float64]:
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
