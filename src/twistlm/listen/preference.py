"""Comparisons: how often a system is preferred, and one scale for all of them (Bradley & Terry 1952)."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import numpy as np

from twistlm.evaluate.stats import holm
from twistlm.listen.resampling import LEVEL, Floats, Spread, sign_flip, two_way
from twistlm.listen.table import Table

_ROUNDS = 200  # of the fit: enough where strengths are within reach
_PRIOR = 0.1  # of a comparison, lost and won, between any two: strengths stay finite where one never loses


class Preference(NamedTuple):
    """One system against another.

    Attributes:
        a, b: their names.
        rate: how often a was preferred; no difference counts half.
        low, high: the two-way 95 % interval; where all said the same, that of Clopper & Pearson (1934) of as many
            independent comparisons as there are raters, or items where these are fewer.
        ties: share of "no difference".
        p: of neither being preferred, by the two-way standard error and Student's t; where all said the same, of as
            many coins falling so.
        p_holm: corrected for the number of pairs.
        p_items, p_raters: of sign flips by item, and by rater.
        n: comparisons.
    """

    a: str
    b: str
    rate: float
    low: float
    high: float
    ties: float
    p: float
    p_holm: float
    p_items: float
    p_raters: float
    n: int


class Strength(NamedTuple):
    """A system on the scale of all comparisons.

    Attributes:
        system: its name.
        strength: natural log of its odds against the average system.
        low, high: the two-way 95 % interval.
    """

    system: str
    strength: float
    low: float
    high: float


def preferences(table: Table, *, seed: int) -> list[Preference]:
    """Return each pair of an A/B study; scores are 1, 0 and -1."""
    spread = two_way(table.means, table.rater, table.item, of=[table.of], seed=seed)
    found = [_unanimous(table, k) or _rate(spread, k) for k in range(len(table.conditions))]
    corrected = holm([p for *_, p in found])
    out = []
    for k, (a, b) in enumerate(table.conditions):
        scores, of = table.matrix(k), table.condition == k
        by = [np.nansum(scores, axis)[(~np.isnan(scores)).any(axis)] for axis in (0, 1)]
        rate, low, high, p = found[k]
        out.append(
            Preference(
                a,
                b,
                rate,
                low,
                high,
                float((table.score[of] == 0).mean()),
                p,
                corrected[k],
                sign_flip(by[0], seed=seed),
                sign_flip(by[1], seed=seed),
                int(of.sum()),
            )
        )
    return out


def _rate(spread: Spread, k: int) -> tuple[float, float, float, float]:
    """Return a preference rate, its interval and its p-value."""
    rate, low, high = ((1 + float(x[k])) / 2 for x in (spread.value, spread.low, spread.high))
    if not math.isnan(low):
        low, high = max(0.0, low), min(1.0, high)
    return rate, low, high, float(spread.p[k])


def _unanimous(table: Table, k: int) -> tuple[float, float, float, float] | None:
    """Return the same where every comparison went one way: what varies not at all has no standard error. None where
    they did not, or where one rater or one item is all there is."""
    of = table.condition == k
    n = min(len(np.unique(table.rater[of])), len(np.unique(table.item[of])))
    if n < 2 or not (table.score[of] == table.score[of][0]).all() or table.score[of][0] == 0:
        return None
    rate, end = (1 + float(table.score[of][0])) / 2, ((1 - LEVEL) / 2) ** (1 / n)
    return rate, end if rate else 0.0, 1.0 if rate else 1 - end, min(1.0, 2 * 0.5**n)


def bradley_terry(table: Table, *, seed: int) -> list[Strength]:
    """Return every system's strength, the best first; "no difference" is half a win for each.

    Systems that were never compared, not even by way of others, cannot be on one scale: then there is none.
    """
    systems = sorted({name for pair in table.conditions for name in pair})
    index = {name: i for i, name in enumerate(systems)}
    a = np.array([index[pair[0]] for pair in table.conditions])
    b = np.array([index[pair[1]] for pair in table.conditions])
    if not _connected(len(systems), a, b):
        return []
    onehot = (table.condition[:, None] == np.arange(len(table.conditions))).astype(np.float64)

    def statistic(weights: Floats) -> Floats:
        won, n = weights * (1 + table.score) / 2 @ onehot, weights @ onehot
        wins = np.zeros((len(weights), len(systems), len(systems)))
        wins[:, a, b], wins[:, b, a] = won, n - won
        return strengths(wins)

    took_part = (a[table.condition] == np.arange(len(systems))[:, None]) | (
        b[table.condition] == np.arange(len(systems))[:, None]
    )
    spread = two_way(statistic, table.rater, table.item, of=[took_part.T], seed=seed, draws=500)
    found = [
        Strength(name, *(float(x[i]) for x in (spread.value, spread.low, spread.high))) for name, i in index.items()
    ]
    return sorted(found, key=lambda one: -one.strength)


def strengths(wins: Floats) -> Floats:
    """Return log strengths [B, S], of mean 0, of wins [B, S, S] (of the row over the column).

    By the minorising steps of Hunter (2004), with a tenth of a win for each side of each pair that met.
    """
    met = (wins + wins.transpose(0, 2, 1)).sum(0) > 0
    wins = wins + _PRIOR * met
    games, total = wins + wins.transpose(0, 2, 1), wins.sum(2)
    power = np.ones(wins.shape[:2])
    for _ in range(_ROUNDS):
        power = total / (games / (power[:, :, None] + power[:, None, :])).sum(2)
        power /= np.exp(np.log(power).mean(1, keepdims=True))
    return cast(Floats, np.log(power))


def _connected(n: int, a: np.ndarray, b: np.ndarray) -> bool:
    reached = {0}
    for _ in range(n):
        reached |= {int(j) for i, j in zip(a, b, strict=True) if int(i) in reached}
        reached |= {int(i) for i, j in zip(a, b, strict=True) if int(j) in reached}
    return len(reached) == n
