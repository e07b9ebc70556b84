"""Everything that is said of a study's ratings: with the raters whom the rules leave out, and without them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from twistlm.errors import BadInput
from twistlm.files.jsonl import without_nan
from twistlm.listen.agreement import agreement
from twistlm.listen.exclusions import Rules, judge, kept
from twistlm.listen.mixed import MOST_RATINGS, mixed_model
from twistlm.listen.power import ALPHA, POWER, raters_needed
from twistlm.listen.preference import bradley_terry, preferences
from twistlm.listen.ratings import Rating
from twistlm.listen.resampling import DRAWS
from twistlm.listen.scores import crowdmos, differences, mean_scores
from twistlm.listen.table import Table, tabulate

TARGETS = (0.1, 0.2, 0.5)  # points of MOS whose price in raters is told


def analyse(
    ratings: Sequence[Rating],
    *,
    conditions: Sequence[tuple[str, ...]] = (),
    rules: Rules,
    mixed: bool,
    seed: int,
) -> dict[str, Any]:
    """Return all results as plain values; what cannot be told is None.

    Args:
        ratings: every answer, of all kinds.
        conditions: systems, or pairs, in the order wanted; others behind.
        rules: who is left out.
        mixed: fit a mixed model too (of MOS), in seconds to a minute.
        seed: of all resampling.

    Raises:
        BadInput: no ratings, or none of anybody whom the rules keep.
    """
    tabulate(ratings)  # raises where nobody rated
    verdicts = judge(ratings, rules)
    good = kept(ratings, verdicts)
    if not any(one.kind == "rating" for one in good):
        counts = {rule: sum(rule in v.broken for v in verdicts) for rule in asdict(rules)}
        said = ", ".join(f"{rule} {n}" for rule, n in counts.items() if n)
        raise BadInput(
            f"the rules leave out every rater ({said}). See the ratings, and loosen a rule that is too strict."
        )
    results: dict[str, Any] = without_nan(
        {
            "design": "ab" if any(one.other for one in ratings) else "mos",
            "seed": seed,
            "draws": DRAWS,
            "rules": asdict(rules),
            "raters": [{"rater": v.rater, "found": dict(v.found), "broken": list(v.broken)} for v in verdicts],
            "kept": _results(tabulate(good, conditions=conditions), mixed=mixed, seed=seed),
            "all": _results(tabulate(ratings, conditions=conditions), mixed=False, seed=seed),
        }
    )
    return results


def _results(table: Table, *, mixed: bool, seed: int) -> dict[str, Any]:
    counts = {"ratings": table.n, "raters": len(table.raters), "items": len(table.items), "alpha": agreement(table)}
    if any(len(condition) == 2 for condition in table.conditions):
        return {
            **counts,
            "pairs": [one._asdict() for one in preferences(table, seed=seed)],
            "strengths": [one._asdict() for one in bradley_terry(table, seed=seed)],
        }
    spread = mean_scores(table, seed=seed)
    systems = []
    for i, (name,) in enumerate(table.conditions):
        scores = table.score[table.condition == i]
        crowd = crowdmos(table.matrix(i))
        systems.append(
            {
                "system": name,
                "n": len(scores),
                "mean": float(spread.value[i]),
                "low": float(spread.low[i]),
                "high": float(spread.high[i]),
                "se": float(spread.se[i]),
                "crowdmos_half": crowd.half,
                "sd_items": math.sqrt(crowd.v_items),
                "sd_raters": math.sqrt(crowd.v_raters),
                "sd_rest": math.sqrt(crowd.v_rest),
                "counts": {f"{value:g}": int((scores == value).sum()) for value in _scale(table)},
            }
        )
    pairs, behind = differences(table, seed=seed)
    needs = []
    if pairs:
        n = {"raters": len(table.raters), "items": len(table.items)}
        needs = [one._asdict() for one in raters_needed(behind, **n, targets=TARGETS)]
    return {
        **counts,
        "systems": systems,
        "pairs": [one._asdict() for one in pairs],
        "power": {"alpha": ALPHA, "power": POWER, "needs": needs},
        "mixed": _mixed(table) if mixed else None,
    }


def _scale(table: Table) -> list[float]:
    """Return the values that are counted: 1 … 5 of such a study, none of finer scales."""
    fine = not np.isin(table.score, (1, 2, 3, 4, 5)).all()
    return [] if fine else [1, 2, 3, 4, 5]


def _mixed(table: Table) -> dict[str, Any]:
    if table.n > MOST_RATINGS:
        return {"skipped": f"{table.n:,} ratings; it is fitted to {MOST_RATINGS:,} at most"}
    if len(table.raters) < 2 or len(table.items) < 2:
        return {"skipped": "it takes two raters and two items at least"}
    fitted = mixed_model(table)
    if fitted is None:
        return {"skipped": "these ratings do not tell its parts apart"}
    return {**fitted._asdict(), "systems": [one._asdict() for one in fitted.systems]}
