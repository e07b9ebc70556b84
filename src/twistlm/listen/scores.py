"""Mean opinion scores with CrowdMOS's and two-way intervals, and differences of systems heard by the same raters."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from twistlm.evaluate.stats import holm
from twistlm.listen.resampling import Floats, Spread, sign_flip, two_way
from twistlm.listen.table import Table


class CrowdMos(NamedTuple):
    """A mean with CrowdMOS's interval.

    Attributes:
        mean: of all ratings.
        half: half the width of the 95 % interval.
        v_items, v_raters, v_rest: the parts of a rating's variance.
    """

    mean: float
    half: float
    v_items: float
    v_raters: float
    v_rest: float


def crowdmos(scores: Floats) -> CrowdMos:
    """Return the mean opinion score of raters x items (NaN: unrated), as Ribeiro et al. (2011) work it out.

    Variances are those of the sample (divided by n). Rows and columns with two ratings at least tell the parts apart; a
    part that nobody can tell is left to the rest. The half width is Student's quantile with min(raters, items) - 1
    degrees of freedom times the mean's standard error; NaN for one rater or item.
    """
    rated = ~np.isnan(scores)
    rows, columns = rated.sum(1), rated.sum(0)
    total = int(rated.sum())
    mean = float(np.nanmean(scores))
    c = float(np.nanvar(scores))
    has_a, has_b = bool((rows >= 2).any()), bool((columns >= 2).any())
    a = float(np.nanvar(scores[rows >= 2], axis=1).mean()) if has_a else math.nan  # items and rest
    b = float(np.nanvar(scores[:, columns >= 2], axis=0).mean()) if has_b else math.nan  # raters and rest
    if has_a and has_b:
        v_items, v_raters, v_rest = (max(part, 0.0) for part in (c - b, c - a, a + b - c))
    elif has_b:  # nobody rated two items: what items share cannot be told from the rest
        v_items, v_raters, v_rest = 0.0, max(c - b, 0.0), b
    elif has_a:
        v_items, v_raters, v_rest = max(c - a, 0.0), 0.0, a
    else:
        v_items, v_raters, v_rest = 0.0, 0.0, c
    squares = (float((columns.astype(float) ** 2).sum()), float((rows.astype(float) ** 2).sum()))
    variance = v_items * squares[0] / total**2 + v_raters * squares[1] / total**2 + v_rest / total
    df = min(int((rows > 0).sum()), int((columns > 0).sum())) - 1
    half = float(stdtrit(df, 0.975)) * math.sqrt(variance) if df >= 1 else math.nan
    return CrowdMos(mean, half, v_items, v_raters, v_rest)


class Difference(NamedTuple):
    """Two systems compared.

    Attributes:
        a, b: their names.
        mean: of a minus that of b.
        low, high: the two-way 95 % interval.
        p: of no difference, by the two-way standard error and Student's t.
        p_holm: corrected for the number of pairs.
        p_items, p_raters: of sign flips of the differences of items, and of raters, among raters who heard both; the
            first is NaN where that is one.
        items: how many of them were rated in both by such raters.
        raters: how many heard both.
    """

    a: str
    b: str
    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    p_items: float
    p_raters: float
    items: int
    raters: int


def mean_scores(table: Table, *, seed: int) -> Spread:
    """Return the mean of each condition with its two-way interval."""
    return two_way(table.means, table.rater, table.item, of=[table.of], seed=seed)


def differences(table: Table, *, seed: int) -> tuple[list[Difference], Spread]:
    """Return every pair of systems of a MOS study compared, and the spread behind it.

    Raters' biases cancel as far as the same raters heard both systems. Sign flips look at nobody else: what they said
    of an item counts from the middle between their own means of the two. (The mean of who heard one system only would
    take that system's effect away with the bias.)
    """
    pairs = list(itertools.combinations(range(len(table.conditions)), 2))
    if not pairs:
        return [], mean_scores(table, seed=seed)
    first, second = [a for a, _ in pairs], [b for _, b in pairs]

    def statistic(weights: Floats) -> Floats:
        means = table.means(weights)
        return means[:, first] - means[:, second]

    parts = [table.of[:, first], table.of[:, second]]
    spread = two_way(statistic, table.rater, table.item, of=parts, seed=seed)
    corrected = holm([float(p) for p in spread.p])
    scores = [table.matrix(i) for i in range(len(table.conditions))]
    own = [_mean(of_one, 1) for of_one in scores]  # of each rater; NaN where they did not hear it
    out = []
    for k, (a, b) in enumerate(pairs):
        middle = (own[a] + own[b])[:, None] / 2  # NaN: nothing of who did not hear both is counted
        by_item = _both(_mean(scores[a] - middle, 0), _mean(scores[b] - middle, 0))
        by_rater = _both(own[a], own[b])
        out.append(
            Difference(
                a=table.conditions[a][0],
                b=table.conditions[b][0],
                mean=float(spread.value[k]),
                low=float(spread.low[k]),
                high=float(spread.high[k]),
                p=float(spread.p[k]),
                p_holm=corrected[k],
                # Of one rater alone the items say nothing of what others would hear.
                p_items=sign_flip(by_item, seed=seed) if len(by_rater) > 1 else math.nan,
                p_raters=sign_flip(by_rater, seed=seed),
                items=len(by_item),
                raters=len(by_rater),
            )
        )
    return out, spread


def _mean(scores: Floats, axis: int) -> Floats:
    n = (~np.isnan(scores)).sum(axis)
    result: Floats = np.nansum(scores, axis) / np.where(n, n, np.nan)
    return result


def _both(one: Floats, other: Floats) -> Floats:
    found = one - other
    return found[~np.isnan(found)]
