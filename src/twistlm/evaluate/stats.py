"""Confidence intervals by resampling. numpy only, seeded by the caller, no global random state.

Shapes: M items (documents, clips, word pairs), B resamples.

All intervals are 95% percentile bootstrap intervals (Efron & Tibshirani 1993, chapter 13). Whole items are resampled,
never the tokens inside them: tokens of one document are not independent, and counting them as if they were
makes intervals several times too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twistlm.errors import BadInput

LEVEL = 0.95
RESAMPLES = 10_000
_CHUNK = 4_000_000  # indices held at once: 32 MB


class Paired(NamedTuple):
    """The difference of two systems on the same items.

    Attributes:
        mean: a - b (per unit of size when sizes are given).
        ci: 95% bootstrap interval of it.
        p: two-sided sign-flip permutation p-value, at least 1 / (n + 1); 1 when all differences are zero.
    """

    mean: float
    ci: tuple[float, float]
    p: float


def bootstrap_ci(values: ArrayLike, *, seed: int, n: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95% interval of the mean of independent `values` [M].

    One value says nothing about its own spread: (nan, nan) is returned then.

    Raises:
        BadInput: no values, not one-dimensional, or not finite.
    """
    values = _vector(values, "values")
    return ratio_ci(values, np.ones_like(values), seed=seed, n=n)


def ratio_ci(numerators: ArrayLike, denominators: ArrayLike, *, seed: int, n: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95% interval of sum(numerators) / sum(denominators), resampling items [M] whole.

    For perplexity the numerators are each document's summed negative log-probability and the denominators its units;
    for word error rate, each clip's errors and its words. (nan, nan) for one item.

    Raises:
        BadInput: empty, of unequal length, not finite, or a denominator that is not positive.
    """
    top, bottom = _vector(numerators, "numerators"), _vector(denominators, "denominators")
    if len(top) != len(bottom):
        raise BadInput(f"{len(top)} numerators and {len(bottom)} denominators: they must belong to the same items.")
    if bottom.min() <= 0:
        raise BadInput(f"every denominator must be positive; item {int(bottom.argmin())} has {bottom.min():g}.")
    if len(top) == 1:
        return (math.nan, math.nan)
    rng = np.random.default_rng(seed)
    draws = [top[i].sum(axis=1) / bottom[i].sum(axis=1) for i in _resamples(len(top), n, rng)]
    return _interval(np.concatenate(draws))


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, sizes: ArrayLike | None = None, seed: int, n: int = RESAMPLES
) -> Paired:
    """Compare two systems measured on the same items, item by item.

    Args:
        a, b: [M], the two systems' values in the same order.
        sizes: [M] when the values are sums (nats of a document): the units in each. The difference is then
            sum(a - b) / sum(sizes). None counts every item once.
        seed: of the resampling.
        n: resamples, and sign flips.

    Raises:
        BadInput: as `ratio_ci`.
    """
    a, b = _vector(a, "a"), _vector(b, "b")
    if len(a) != len(b):
        raise BadInput(f"a has {len(a)} values and b {len(b)}: a paired comparison needs the same items in both.")
    difference = a - b
    weight = np.ones_like(a) if sizes is None else _vector(sizes, "sizes")
    ci = ratio_ci(difference, weight, seed=seed, n=n)
    # Under the null hypothesis each item's difference is as likely to have the other sign. The total size is the same
    # in every flip, so sums are compared.
    observed = _least(difference.sum(), np.abs(difference).sum())
    rng = np.random.default_rng([seed, 1])
    extreme = sum(int((np.abs(signs @ difference) >= observed).sum()) for signs in _sign_flips(len(difference), n, rng))
    return Paired(float(difference.sum() / weight.sum()), ci, (extreme + 1) / (n + 1))


def outcome_ci(
    outcomes: ArrayLike, *, strata: ArrayLike | None = None, seed: int, n: int = RESAMPLES
) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean of `outcomes` [M], which take few distinct values (0, 0.5, 1).

    Which items a resample holds matters only through how many of each value, and those counts are multinomial: drawing
    them is the same bootstrap, in time that does not grow with M.

    Args:
        outcomes: [M].
        strata: [M] labels. The mean is then that of the strata's means, and each is resampled by itself.
        seed: of the resampling.
        n: resamples.

    Returns:
        The interval; (nan, nan) where one item is all there is of a stratum.

    Raises:
        BadInput: as `bootstrap_ci`, or as many strata as outcomes are not given.
    """
    parts = [_levels(part) for part in _strata(_vector(outcomes, "outcomes"), strata)]
    if any(counts.sum() == 1 for _, counts in parts):
        return (math.nan, math.nan)
    rng = np.random.default_rng(seed)
    means = [rng.multinomial(k.sum(), k / k.sum(), size=n) @ values / k.sum() for values, k in parts]
    return _interval(np.mean(means, axis=0))


def outcome_difference(
    a: ArrayLike, b: ArrayLike, *, strata: ArrayLike | None = None, seed: int, n: int = RESAMPLES
) -> Paired:
    """Compare two systems' outcomes [M] on the same items: `paired_difference`, drawn by counts as in `outcome_ci`.

    Raises:
        BadInput: as `paired_difference`.
    """
    a, b = _vector(a, "a"), _vector(b, "b")
    if len(a) != len(b):
        raise BadInput(f"a has {len(a)} values and b {len(b)}: a paired comparison needs the same items in both.")
    difference = a - b
    parts = _strata(difference, strata)
    rng, flipped, total, size = np.random.default_rng([seed, 1]), np.zeros(n), 0.0, 0.0
    for part in parts:
        # Heads among m fair flips of items that differ by v: their signed sum is v (2 heads - m).
        values, counts = _levels(np.abs(part))
        heads = rng.binomial(counts, 0.5, size=(n, len(counts)))
        flipped += (2 * heads - counts) @ values / len(part)
        total += float(part.sum()) / len(part)
        size += float(np.abs(part).sum()) / len(part)
    extreme = int((np.abs(flipped) >= _least(total, size)).sum())
    return Paired(total / len(parts), outcome_ci(difference, strata=strata, seed=seed, n=n), (extreme + 1) / (n + 1))


def t_interval(values: ArrayLike) -> tuple[float, float]:
    """Return Student's 95% interval of the mean of a few independent `values` [M], such as one a seed.

    A bootstrap of three values would be too narrow. (nan, nan) for one value.

    Raises:
        BadInput: as `bootstrap_ci`.
    """
    from scipy.special import stdtrit

    values = _vector(values, "values")
    if len(values) == 1:
        return (math.nan, math.nan)
    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return (float(values.mean()) - half, float(values.mean()) + half)


def sign_test(differences: ArrayLike) -> float:
    """Return the two-sided p-value of the exact sign test of `differences` [M]; zeros say nothing and are left out.

    It cannot be below 2 / 2^M, 0.25 for three. 1 when nothing is left.

    Raises:
        BadInput: as `bootstrap_ci`.
    """
    signs = np.sign(_vector(differences, "differences"))
    n, fewer = int((signs != 0).sum()), int(min((signs > 0).sum(), (signs < 0).sum()))
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's method, in the same order; NaN is passed over."""
    order = sorted((i for i in range(len(p)) if not math.isnan(p[i])), key=p.__getitem__)
    out, worst = [math.nan] * len(p), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, p[i] * (len(order) - rank)))
        out[i] = worst
    return out


def updates_to_reach(history: Sequence[Mapping[str, Any]], loss: float) -> float | None:
    """Return the first update at which held-out loss is at or below `loss`, straight lines drawn between evaluations.

    Args:
        history: records with `update` and `val_nll` (others are passed over), in order of update.
        loss: nats per unit.

    Returns:
        Updates (fractional), or None when `loss` is never reached, or not kept: the last evaluation is above it. So
        nobody reaches by being untrained what the other side was trained to, and then loses to it.
    """
    before: tuple[float, float] | None = None
    seen = [(float(r["update"]), float(r["val_nll"])) for r in history if r.get("val_nll") is not None]
    if not seen or seen[-1][1] > loss:
        return None
    for update, value in seen:
        if value <= loss:
            if before is None or before[1] == value:
                return update
            return before[0] + (update - before[0]) * (before[1] - loss) / (before[1] - value)
        before = (update, value)
    return None


def _resamples(items: int, n: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield index blocks [b, M] of with-replacement samples, `n` rows in all, in bounded memory."""
    rows = max(1, _CHUNK // items)
    for start in range(0, n, rows):
        yield rng.integers(items, size=(min(rows, n - start), items))


def _sign_flips(items: int, n: int, rng: np.random.Generator) -> Iterator[NDArray[np.floating]]:
    rows = max(1, _CHUNK // items)
    for start in range(0, n, rows):
        yield rng.integers(2, size=(min(rows, n - start), items)) * 2.0 - 1.0


def _strata(values: NDArray[np.float64], labels: ArrayLike | None) -> list[NDArray[np.float64]]:
    """Return the values of each label; all of them where there are no labels."""
    if labels is None:
        return [values]
    names, of = np.unique(np.asarray(labels), return_inverse=True)
    if len(of) != len(values):
        raise BadInput(f"{len(of)} strata for {len(values)} outcomes: each outcome has one.")
    return [values[of == i] for i in range(len(names))]


def _levels(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return distinct values and how often each occurs; means of the same outcomes in another order are one value."""
    _, first, counts = np.unique(np.round(values, 12), return_index=True, return_counts=True)
    return values[first], counts  # as they were: what rounding adds to a sum would be more than `_least` allows


def _least(total: float, size: float) -> float:
    """Return what the sum of a flip must have to be as far from zero as `total`: a little less, since equal sums differ
    in their last digits when they are added up in another order. `size`: the sum of what is added up, without signs."""
    return float(abs(total) - 1e-12 * size)


def _interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)


def _vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or vector.size == 0:
        raise BadInput(f"{name} must be a list of at least one number, got shape {vector.shape}.")
    bad = np.flatnonzero(~np.isfinite(vector))
    if bad.size:
        raise BadInput(f"{name} must be finite; {bad.size} are not, the first at index {int(bad[0])}.")
    return vector
