"""Intervals of any statistic of ratings, whose raters and items are both samples of more.

Ratings of one rater are alike, and so are ratings of one item: intervals that take ratings for independent are several
times too narrow. Resampling raters and items both (two-way, or pigeonhole, bootstrap) keeps what they share, but counts
what a single rating has of its own about three times (Owen 2007, "The pigeonhole bootstrap"). So its draws are brought
to the spread V_raters + V_items - V_ratings (Cameron, Gelbach & Miller 2011), each the jackknife's variance when one
rater, item or rating at a time is left out, and widened from the normal's to Student's quantile with
min(raters, items) - 1 degrees of freedom. docs/results/listening.md tells how often such intervals hold the truth.

A statistic of some of the ratings (the mean of one system) has only their raters and items behind it: those who rated
other systems tell nothing of how much they would differ on this one.

Letters: n ratings, B draws, K statistics, R raters, I items.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit

LEVEL = 0.95
DRAWS = 2_000
_CHUNK = 4_000_000  # weights held at once: 32 MB
_ROUNDING = 1e-24  # variances below are of rounding: nothing varies

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # weights of ratings [B, n] -> statistics [B, K]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Spread:
    """How sure statistics are.

    Attributes:
        value: [K], of the ratings as they are.
        low, high: [K], ends of the 95 % intervals.
        se: [K], standard errors.
        p: [K], two-sided p-values of the statistics being 0, by Student's t with `df`.
        v_raters, v_items, v_ratings: [K], the jackknife variances, leaving out one of these at a time.
        df: [K], degrees of freedom; 0 where nothing can be said of others.
    """

    value: Floats
    low: Floats
    high: Floats
    se: Floats
    p: Floats
    v_raters: Floats
    v_items: Floats
    v_ratings: Floats
    df: NDArray[np.int64]


def two_way(
    statistic: Statistic,
    raters: NDArray[np.int64],
    items: NDArray[np.int64],
    *,
    of: Sequence[Bools],
    seed: int,
    draws: int = DRAWS,
) -> Spread:
    """Return statistics with their two-way intervals.

    Where one rater, or one item, is all there is behind a statistic, and where nothing varies, nothing can be said of
    others: ends, errors and p-values are NaN.

    Args:
        statistic: of weights; smooth in them, such as means, their differences, or a model's strengths.
        raters, items: [n], of each rating, counted from 0 without gaps.
        of: the parts of the statistics, such as the two means of a difference: [n, K] each, which ratings are in it.
        seed: of the resampling.
        draws: how many.
    """
    n, n_raters, n_items = len(raters), int(raters.max()) + 1, int(items.max()) + 1
    rng = np.random.default_rng(seed)
    value = statistic(np.ones((1, n)))[0]
    parts = [(_bear(part, raters, n_raters), _bear(part, items, n_items)) for part in of]
    fewest = np.min([[rated.sum(0), heard.sum(0)] for rated, heard in parts], axis=(0, 1))  # of raters or items, [K]
    df = np.where(fewest > 1, fewest - 1, 0)
    if not df.any():
        none = np.full_like(value, math.nan)
        return Spread(value, none, none, none, none, none, none, none, df)

    both = np.concatenate(
        [
            statistic(_counts(n_raters, size, rng)[:, raters] * _counts(n_items, size, rng)[:, items])
            for size in _chunks(draws, n)
        ]
    )
    v_raters = _jackknife(statistic, raters, np.logical_or.reduce([rated for rated, _ in parts]))
    v_items = _jackknife(statistic, items, np.logical_or.reduce([heard for _, heard in parts]))
    v_ratings = _jackknife(statistic, np.arange(n), np.logical_or.reduce(list(of)))
    # Where raters and items share nothing the sum may fall, by chance, below what cannot be.
    variance = np.maximum(v_raters + v_items - v_ratings, np.minimum(v_raters, v_items))
    variance = np.where((df > 0) & (variance > _ROUNDING * (1 + value**2)), variance, math.nan)
    tail = 50 * (1 - LEVEL)
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of what is NaN in every draw
        se = np.sqrt(variance)
        spread = value + (both - np.nanmean(both, axis=0)) * (se / np.nanstd(both, axis=0))
        wide = stdtrit(np.maximum(df, 1), (1 + LEVEL) / 2) / ndtri((1 + LEVEL) / 2)
        low, high = value + (np.nanpercentile(spread, [tail, 100 - tail], axis=0) - value) * wide
        p = np.minimum(1.0, 2 * stdtr(np.maximum(df, 1), -np.abs(value) / se))
    return Spread(value, low, high, se, p, v_raters, v_items, v_ratings, df)


def _bear(part: Bools, of: NDArray[np.int64], groups: int) -> Bools:
    """Return which groups have ratings in each statistic's part: [n, K] -> [groups, K]."""
    found = np.zeros((groups, part.shape[1]), bool)
    np.logical_or.at(found, of, part)
    return found


def _jackknife(statistic: Statistic, of: NDArray[np.int64], bear: Bools) -> Floats:
    """Return the jackknife variances [K] of a statistic when one of the groups `of` [n] that bear on it [groups, K] is
    left out at a time; NaN where there is no statistic without one of them."""
    groups, found = len(bear), []
    rows = max(1, _CHUNK // len(of))
    for start in range(0, groups, rows):
        left_out = np.arange(start, min(start + rows, groups))
        found.append(statistic((of[None, :] != left_out[:, None]).astype(np.float64)))
    values = np.concatenate(found)
    n = np.maximum(bear.sum(0), 1)
    mean = np.where(bear, values, 0.0).sum(0) / n
    result: Floats = np.where(bear, (values - mean) ** 2, 0.0).sum(0) / n * (n - 1)
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
