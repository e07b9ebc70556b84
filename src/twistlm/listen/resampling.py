"""Intervals of any statistic of ratings, whose raters and items are both samples of more.

Ratings of one rater are alike, and so are ratings of one item: intervals that take ratings for independent are several
times too narrow. Resampling raters and items both (two-way, or pigeonhole, bootstrap) keeps what they share, but counts
what a single rating has of its own about three times (Owen 2007, "The pigeonhole bootstrap"). So its draws are brought
to the spread V_raters + V_items - V_ratings (Cameron, Gelbach & Miller 2011), each the jackknife's variance when one
rater, item or rating at a time is left out, and widened from the normal's to Student's quantile with
min(raters, items) - 1 degrees of freedom. docs/results/listening.md tells how often such intervals hold the truth.

Letters: n ratings, B draws, K statistics, R raters, I items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit

LEVEL = 0.95
DRAWS = 2_000
_CHUNK = 4_000_000  # weights held at once: 32 MB

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # weights of ratings [B, n] -> statistics [B, K]


@dataclass(frozen=True)
class Spread:
    """How sure statistics are.

    Attributes:
        value: [K], of the ratings as they are.
        low, high: [K], ends of the 95 % intervals.
        se: [K], standard errors.
        p: [K], two-sided p-values of the statistics being 0, by Student's t with `df`.
        v_raters, v_items, v_ratings: [K], the jackknife variances, leaving out one of these at a time.
        df: degrees of freedom.
    """

    value: Floats
    low: Floats
    high: Floats
    se: Floats
    p: Floats
    v_raters: Floats
    v_items: Floats
    v_ratings: Floats
    df: int


def two_way(
    statistic: Statistic, raters: NDArray[np.int64], items: NDArray[np.int64], *, seed: int, draws: int = DRAWS
) -> Spread:
    """Return a statistic with its two-way interval.

    Where there is one rater, or one item, nothing can be said of others: ends, errors and p-values are NaN.

    Args:
        statistic: of weights; smooth in them, such as means, their differences, or a model's strengths.
        raters, items: [n], of each rating, counted from 0 without gaps.
        seed: of the resampling.
        draws: how many.
    """
    n, n_raters, n_items = len(raters), int(raters.max()) + 1, int(items.max()) + 1
    rng = np.random.default_rng(seed)
    value = statistic(np.ones((1, n)))[0]
    none = np.full_like(value, math.nan)
    if n_raters < 2 or n_items < 2:
        return Spread(value, none, none, none, none, none, none, none, 0)

    both = np.concatenate(
        [
            statistic(_counts(n_raters, size, rng)[:, raters] * _counts(n_items, size, rng)[:, items])
            for size in _chunks(draws, n)
        ]
    )
    v_raters, v_items, v_ratings = (_jackknife(statistic, of) for of in (raters, items, np.arange(n)))
    # Where raters and items share nothing the sum may fall, by chance, below what cannot be.
    variance = np.maximum(v_raters + v_items - v_ratings, np.minimum(v_raters, v_items))
    df = min(n_raters, n_items) - 1
    deviations = both - np.nanmean(both, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(variance > 0, np.sqrt(variance) / np.nanstd(both, axis=0), 0.0)
        t = np.where(variance > 0, np.abs(value) / np.sqrt(variance), np.where(value == 0, 0.0, math.inf))
    spread = value + deviations * scale
    wide = stdtrit(df, (1 + LEVEL) / 2) / ndtri((1 + LEVEL) / 2)
    tail = 50 * (1 - LEVEL)
    low, high = value + (np.nanpercentile(spread, [tail, 100 - tail], axis=0) - value) * wide
    p = np.minimum(1.0, 2 * stdtr(df, -t))
    return Spread(value, low, high, np.sqrt(variance), p, v_raters, v_items, v_ratings, df)


def _jackknife(statistic: Statistic, of: NDArray[np.int64]) -> Floats:
    """Return the jackknife variances [K] of a statistic when one of the groups `of` [n] at a time is left out."""
    groups, found = int(of.max()) + 1, []
    rows = max(1, _CHUNK // len(of))
    for start in range(0, groups, rows):
        left_out = np.arange(start, min(start + rows, groups))
        found.append(statistic((of[None, :] != left_out[:, None]).astype(np.float64)))
    values = np.concatenate(found)
    result: Floats = np.nanvar(values, axis=0) * (groups - 1)
    return result


def sign_flip(values: Floats, *, seed: int, n: int = 9_999) -> float:
    """Return the two-sided p-value of independent `values` [M] being as often above as below 0, at least 1 / (n + 1).

    All 2^M changes of signs are tried where these are fewer than `n`. NaN without values.
    """
    if not len(values):
        return math.nan
    rng, m = np.random.default_rng(seed), len(values)
    exact = m <= math.log2(n)
    if exact:
        signs = 1 - 2.0 * ((np.arange(2**m)[:, None] >> np.arange(m)) & 1)
    else:
        signs = rng.integers(2, size=(n, m)) * 2.0 - 1.0
    rounding = 1e-12 * np.abs(values).sum()  # equal sums differ in their last digits by the order of addition
    extreme = int((np.abs(signs @ values) >= abs(values.sum()) - rounding).sum())
    return extreme / len(signs) if exact else (extreme + 1) / (n + 1)


def _chunks(draws: int, n: int) -> Iterator[int]:
    rows = max(1, _CHUNK // n)
    for start in range(0, draws, rows):
        yield min(rows, draws - start)


def _counts(n: int, size: int, rng: np.random.Generator) -> Floats:
    """Return how often each of n things is in each of `size` samples of n with replacement: [size, n]."""
    drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
