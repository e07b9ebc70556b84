"""Whose answers are left out, by rules that are stated before anybody looks at the results.

Each rule looks at one rater at a time; where a study tells nothing of what a rule is about (it had no gold clips, or
was imported without times of playing), the rule does not apply. What was found is reported for every rater, and results
are given with and without.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from twistlm.errors import BadInput
from twistlm.listen.ratings import Rating

_MIN_SHARED = 4  # clips that others rated too, for a correlation to be looked at


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When a rater is left out; None switches a rule off.

    Attributes:
        finished: the rater must have answered everything.
        traps: share of trapping clips answered as the voice said, at least.
        gold: share of gold clips answered right, at least.
        played: share of clips heard to the end, at least.
        variance: of the answers that were clicked, at least; 0.1 as of P.808. Who always clicks the same has none.
        correlation: of a rater's scores with the mean of all others' on the same clips, at least.
    """

    finished: bool = True
    traps: float | None = 1.0
    gold: float | None = 0.5
    played: float | None = 0.95
    variance: float | None = 0.1
    correlation: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value, low = getattr(self, field.name), -1.0 if field.name == "correlation" else 0.0
            high = 10.0 if field.name == "variance" else 1.0
            if value is not None and not low <= value <= high:
                what = "a share from" if high == 1 else "from"
                raise BadInput(f"the rule {field.name} is {what} {low:g} to {high:g}, got {value:g}.")


@dataclass(frozen=True)
class Verdict:
    """What was found of a rater.

    Attributes:
        rater: who.
        found: rule -> value; only rules that apply.
        broken: rules that leave the rater out.
    """

    rater: str
    found: Mapping[str, float]
    broken: tuple[str, ...]


def judge(ratings: Sequence[Rating], rules: Rules) -> list[Verdict]:
    """Return a verdict on each rater, in order of names.

    The correlation is taken with those whom no other rule leaves out, so that spammers do not spoil the mean.
    """
    by_rater: defaultdict[str, list[Rating]] = defaultdict(list)
    for one in ratings:
        by_rater[one.rater].append(one)
    found = {rater: _look(mine) for rater, mine in sorted(by_rater.items())}
    broken = {rater: _broken(values, rules) for rater, values in found.items()}
    honest = [one for one in ratings if one.kind == "rating" and not broken[one.rater]]
    total: defaultdict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for one in honest:
        total[one.system, one.other, one.item][0] += one.score
        total[one.system, one.other, one.item][1] += 1
    for rater, mine in by_rater.items():
        r = _correlation(mine, total, among=not broken[rater])
        if not math.isnan(r):
            found[rater]["correlation"] = r
            if rules.correlation is not None and r < rules.correlation:
                broken[rater] = (*broken[rater], "correlation")
    return [Verdict(rater, values, broken[rater]) for rater, values in found.items()]


def kept(ratings: Sequence[Rating], verdicts: Sequence[Verdict]) -> list[Rating]:
    """Return the ratings of raters who broke no rule."""
    out = {one.rater for one in verdicts if one.broken}
    return [one for one in ratings if one.rater not in out]


def _look(mine: Sequence[Rating]) -> dict[str, float]:
    found = {"finished": float(all(one.finished for one in mine))}
    for rule, kind in (("traps", "trap"), ("gold", "gold")):
        right = [one.right for one in mine if one.kind == kind and one.right is not None]
        if right:
            found[rule] = sum(right) / len(right)
    played = [
        one.plays >= (2 if one.other else 1) and (one.took is None or one.took >= one.seconds)
        for one in mine
        if one.plays is not None and one.seconds is not None
    ]
    if played:
        found["played"] = sum(played) / len(played)
    # Of a comparison whose file says who won and not what was clicked, nothing is known of this.
    told = [one for one in mine if one.kind == "rating" and (one.answer is not None or not one.other)]
    clicked = [one.score if one.answer is None else one.answer for one in told]
    if len(clicked) > 1:
        found["variance"] = float(np.var(clicked, ddof=1))
    return found


def _broken(found: Mapping[str, float], rules: Rules) -> tuple[str, ...]:
    out = ["finished"] if rules.finished and not found["finished"] else []
    for rule in ("traps", "gold", "played", "variance"):
        least = getattr(rules, rule)
        if least is not None and rule in found and found[rule] < least - 1e-9:
            out.append(rule)
    return tuple(out)


def _correlation(
    mine: Sequence[Rating], total: Mapping[tuple[str, str, str], Sequence[float]], *, among: bool
) -> float:
    """Return the correlation of a rater's scores with the others' means; NaN where it cannot be told."""
    pairs = []
    for one in mine:
        if one.kind != "rating" or (one.system, one.other, one.item) not in total:
            continue
        summed, n = total[one.system, one.other, one.item]
        if among:
            summed, n = summed - one.score, n - 1
        if n >= 1:
            pairs.append((one.score, summed / n))
    if len(pairs) < _MIN_SHARED:
        return math.nan
    a, b = np.array(pairs).T
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else math.nan
