"""Which units are like each other, for new rows that keep it (`rows` of `warm_start`). numpy only.

Shapes: K units, d dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from twistlm.compute.threads import one_thread
from twistlm.config import Rows
from twistlm.errors import BadInput

ALIKE: tuple[Rows, ...] = ("centroids", "neighbours")  # rows that keep which units are alike
_SMOOTHED = 0.75  # power of the neighbours' counts: rare ones would otherwise seem telling
_RANK = 64  # of what is kept of the neighbours: the rest is mostly chance


@one_thread()
def by_centroids(centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors of length 1, float32 [K, d], of which two are as near as the units sound alike to the encoder.

    Args:
        centroids: float32 [K, d], of the units' codebook.
    """
    return _directions(centroids.astype(np.float64))


@one_thread()
def by_neighbours(documents: Iterable[NDArray[np.integer]], n_units: int) -> NDArray[np.float32]:
    """Return vectors of length 1, float32 [K, K], of which two are as near as the units have the same neighbours.

    The positive pointwise mutual information of each unit with the one before and the one behind it, cut to its largest
    singular values, whose roots weigh them. Source: Levy, Goldberg and Dagan 2015, "Improving distributional similarity
    with lessons learned from word embeddings". A unit that is never heard has the vector 0. Vectors are turned
    back from the axes of the decomposition, whose signs a library may choose: every machine is to draw the same rows.

    Args:
        documents: unit ids of each, int [N].
        n_units: K.
    """
    follows = np.zeros((n_units, n_units))  # [unit, the one behind it]
    for ids in documents:
        np.add.at(follows, (ids[:-1], ids[1:]), 1)
    found = np.concatenate([_informed(follows), _informed(follows.T)], axis=1)
    heard = np.flatnonzero(found.sum(1))
    if not len(heard):  # documents of one unit each
        return np.zeros((n_units, n_units), np.float32)
    left, sizes, _ = np.linalg.svd(found[heard] - found[heard].mean(0), full_matrices=False)
    left = left[:, :_RANK]
    vectors = np.zeros((n_units, n_units))
    vectors[np.ix_(heard, heard)] = left * np.sqrt(sizes[:_RANK]) @ left.T
    return _directions(vectors, centre=False)


def cold_rows(rows: Rows) -> Rows:
    """Return how a cold twin's rows begin where its warm twin's begin with `rows`: it has no text rows to take from."""
    return rows if rows in ALIKE else "random"


def check(alike: NDArray[np.float32] | None, rows: Rows, n_units: int) -> None:
    """Raise BadInput where `rows` is no name of any, or needs vectors of the units and `alike` are not these."""
    if rows not in get_args(Rows):
        raise BadInput(f"rows is {rows!r}; use {', '.join(map(repr, get_args(Rows)))}.")
    if rows in ALIKE and (alike is None or len(alike) != n_units):
        there = "none were given" if alike is None else f"{len(alike)} were given"
        raise BadInput(f"rows={rows!r} needs a vector of each of the {n_units} units (alike); {there}.")


def _informed(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positive pointwise mutual information, [K, K], of rows with columns."""
    columns = counts.sum(0) ** _SMOOTHED
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = counts / (counts.sum(1, keepdims=True) * columns / columns.sum())
    return np.log(np.maximum(np.nan_to_num(ratio), 1))


def _directions(vectors: NDArray[np.float64], *, centre: bool = True) -> NDArray[np.float32]:
    vectors = vectors - vectors.mean(0) if centre else vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-9).astype(np.float32)
