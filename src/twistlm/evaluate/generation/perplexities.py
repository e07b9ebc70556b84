"""From the likelihoods of texts to one number: GenPPL, mean perplexity, PPX, and curves over temperatures.

Two numbers are called the perplexity of generated speech. GenPPL (Slam, SIMS, Spirit-LM's line) is exp of the mean of
the texts' losses; GSLM's PPX is the mean of the texts' own perplexities, far larger where a few texts are odd. They
have two names here. Losses are nats a token, one for each text, each the mean over that text's tokens.

Shapes: M texts, T temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twistlm.errors import BadInput


class Spread(NamedTuple):
    """What GSLM prints of losses or perplexities.

    Attributes:
        mean: over texts.
        sem: population standard deviation / sqrt(n).
        median, low, high: the 50th, 10th and 90th percentile.
        n: texts that count.
        n_without: texts that had no loss (nothing was said) and do not count.
    """

    mean: float
    sem: float
    median: float
    low: float
    high: float
    n: int
    n_without: int


class Curve(NamedTuple):
    """A model at several temperatures: `vert` and `ppx` [T], in ascending order of VERT."""

    vert: NDArray[np.float64]
    ppx: NDArray[np.float64]


def gen_ppl(losses: ArrayLike) -> float:
    """Return GenPPL: exp of the mean of `losses` [M]. NaN where one of them is NaN, as in SlamKit.

    Raises:
        BadInput: no losses.
    """
    return float(np.exp(_vector(losses).mean()))


def mean_ppl(losses: ArrayLike) -> float:
    """Return the mean over texts of exp(loss); NaN where one of them is NaN. It is never below `gen_ppl`.

    Raises:
        BadInput: no losses.
    """
    return float(np.exp(_vector(losses)).mean())


def ppx(losses: ArrayLike) -> Spread:
    """Return GSLM's PPX: the texts' perplexities as its script prints them. Texts without a loss (NaN) are left out.

    GSLM's protocol counts the end token, lower-cases and reads with a news LM: that is of `protocols`, not of this.

    Raises:
        BadInput: no text has a loss.
    """
    return spread(np.exp(_vector(losses)))


def spread(values: ArrayLike) -> Spread:
    """Return mean, standard error, median and percentiles of the values [M] that are no NaN.

    Raises:
        BadInput: there are none.
    """
    vector = _vector(values)
    there = vector[~np.isnan(vector)]
    if not len(there):
        raise BadInput(f"none of the {len(vector)} texts has a perplexity: nothing was said in any of them.")
    low, median, high = (float(p) for p in np.percentile(there, [10, 50, 90]))
    sem = float(there.std()) / math.sqrt(len(there))
    return Spread(float(there.mean()), sem, median, low, high, len(there), len(vector) - len(there))


def curve(verts: Sequence[float], ppxs: Sequence[float]) -> Curve:
    """Return the points of several temperatures in ascending order of VERT; those of one VERT are averaged.

    Raises:
        BadInput: not as many of one as of the other, fewer than two different VERTs, or a value that is not finite.
    """
    v, p = _vector(verts), _vector(ppxs)
    if len(v) != len(p):
        raise BadInput(f"{len(v)} VERTs and {len(p)} PPXs: each temperature has one of both.")
    if not (np.isfinite(v).all() and np.isfinite(p).all()):
        raise BadInput(
            "a VERT or a PPX is not finite: a temperature at which nothing was said has no place on a curve."
        )
    places, of = np.unique(v, return_inverse=True)
    if len(places) < 2:
        raise BadInput("a curve of PPX over VERT needs temperatures that give at least two different VERTs.")
    return Curve(places, np.bincount(of, weights=p) / np.bincount(of))


def ppx_at(points: Curve, vert: float) -> float:
    """Return PPX where the curve has this VERT (the oracle's), on straight lines between temperatures.

    NaN beyond the curve's ends: it is not extended. GSLM's own interpolation is not known.
    """
    inside = points.vert[0] <= vert <= points.vert[-1]
    return float(np.interp(vert, points.vert, points.ppx)) if inside else math.nan


def vert_at(points: Curve, ppx: float) -> float:
    """Return the lowest VERT at which the curve has this PPX (the oracle's), on straight lines; NaN for none."""
    v, p = points
    for i in range(len(v) - 1):
        low, high = sorted((p[i], p[i + 1]))
        if low <= ppx <= high:
            share = 0.0 if p[i] == p[i + 1] else (ppx - p[i]) / (p[i + 1] - p[i])
            return float(v[i] + share * (v[i + 1] - v[i]))
    return math.nan


def cubic_ppx_at(points: Curve, vert: float) -> float:
    """Return PPX at `vert` by tGSLM's rule: a cubic in VERT, fitted by least squares to the temperatures' points.

    NaN beyond the curve's ends.

    Raises:
        BadInput: fewer than four points.
    """
    if len(points.vert) < 4:
        raise BadInput(f"a cubic needs at least 4 temperatures of different VERT, got {len(points.vert)}.")
    if not points.vert[0] <= vert <= points.vert[-1]:
        return math.nan
    return float(np.polynomial.Polynomial.fit(points.vert, points.ppx, 3)(vert))


def area(points: Curve, *, low: float, high: float) -> float:
    """Return the area under PPX over VERT between two VERTs, on straight lines: lower is better.

    GSLM's grid, axes and bounds for its AUC are not known, so the bounds have no default and this is our definition.
    Models are comparable on bounds that lie within the curves of all of them.

    Raises:
        BadInput: bounds in the wrong order, or beyond the curve's ends.
    """
    v, p = points
    if not v[0] <= low < high <= v[-1]:
        raise BadInput(
            f"the area from VERT {low:g} to {high:g} is asked for, and the curve goes from {v[0]:g} to {v[-1]:g}: give "
            "bounds within it, or sample at more temperatures."
        )
    inner = v[(v > low) & (v < high)]
    places = np.concatenate([[low], inner, [high]])
    return float(np.trapezoid(np.interp(places, v, p), places))


def _vector(values: ArrayLike) -> NDArray[np.float64]:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not vector.size:
        raise BadInput(f"a list of at least one number is needed, got shape {vector.shape}.")
    return vector
