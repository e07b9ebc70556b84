"""Likelihoods that look where the difference is: of the next half second alone, and less what is likely anyway.

The mean log-probability of a whole recording is mostly about its shared beginning and about how common its units are.
Two other scores of a pair (after Lin et al., arXiv 2601.06329):

- local: log-probability per unit of the first `seconds` of each side after what both have in common;
- normalised: log-probability per unit of all that follows it, less that of the same units without what comes before.

What both sides share is the longest run of equal units at their beginning. A pair without any, or of which one side is
nothing else, has no such score: it is counted and left out. Shapes: P pairs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import BadInput
from twistlm.evaluate.stats import outcome_ci
from twistlm.lm.model import UnitLM
from twistlm.lm.score import score as score_sequences
from twistlm.types import Pair, Units

SECONDS = 0.5


def shared(one: Units, other: Units) -> int:
    """Return how many units both begin with."""
    n = min(len(one), len(other))
    differ = np.flatnonzero(one.ids[:n] != other.ids[:n])
    return int(differ[0]) if len(differ) else n


def window(units: Units, start: int, *, seconds: float) -> int:
    """Return where the units end that begin within `seconds` of that of number `start`; at least one is inside."""
    begins = np.cumsum(units.runs[start:]) - units.runs[start:]
    return start + max(1, int((begins < seconds * float(units.spec.frame_rate)).sum()))


def pair_scores(
    lm: UnitLM, units: Mapping[str, Units], pairs: Sequence[Pair], *, seconds: float = SECONDS
) -> dict[str, NDArray[np.float64]]:
    """Return for each score [P, 2]: of the positive and the negative side of each pair, nats a unit; NaN without one.

    Scores: `local`, `normalised`, and `after`: all that follows what is shared, given it, which the second one starts
    from.

    Raises:
        As `score_sequences`.
    """
    sides = [(p, k, units[p.positive if k == 0 else p.negative]) for p in pairs for k in (0, 1)]
    common = {p.id: shared(units[p.positive], units[p.negative]) for p in pairs}
    usable = [(p, k, of) for p, k, of in sides if common[p.id] and all(common[p.id] < len(units[s]) for s in
                                                                      (p.positive, p.negative))]  # fmt: skip
    found = {name: np.full((len(pairs), 2), np.nan) for name in ("local", "normalised", "after")}
    if not usable:
        return found
    place = {p.id: i for i, p in enumerate(pairs)}
    whole = score_sequences(lm, [of.ids for _, _, of in usable], include_end=False)
    rests = [dataclasses.replace(of, ids=of.ids[common[p.id] :], runs=of.runs[common[p.id] :]) for p, _, of in usable]
    # Without <s> the first unit of a sequence has no probability: it is left out on both sides then.
    skip = 0 if lm.vocab.bos is not None else 1
    scorable = [len(rest) > skip for rest in rests]
    alone = iter(
        score_sequences(lm, [r.ids for r, ok in zip(rests, scorable, strict=True) if ok], include_end=False)
        if any(scorable)
        else []
    )
    for (p, k, of), score, rest, ok in zip(usable, whole, rests, scorable, strict=True):
        start = common[p.id]
        logprobs = score.token_logprobs[len(score.token_logprobs) - len(rest) :].astype(np.float64)
        end = window(of, start, seconds=seconds) - start
        row = place[p.id]
        found["local"][row, k] = logprobs[:end].mean()
        found["after"][row, k] = logprobs.mean()
        if ok:
            found["normalised"][row, k] = (logprobs[skip:].sum() - next(alone).sum_logprob) / (len(rest) - skip)
    return found


def accuracies(
    scores: Mapping[str, NDArray[np.float64]], pairs: Sequence[Pair], clusters: Mapping[str, str], *, seed: int
) -> dict[str, Any]:
    """Return for each score its accuracy over items (a tie is one half), 95% interval, `n` items, and `n_without`, the
    pairs that have none.

    Raises:
        BadInput: no pairs.
    """
    if not pairs:
        raise BadInput("there are no pairs to be scored.")
    told: dict[str, Any] = {}
    for name, values in scores.items():
        won = np.where(values[:, 0] > values[:, 1], 1.0, np.where(values[:, 0] == values[:, 1], 0.5, 0.0))
        there = [not math.isnan(positive + negative) for positive, negative in values.tolist()]
        items: dict[str, list[float]] = {}
        for pair, outcome, ok in zip(pairs, won, there, strict=True):
            if ok:
                items.setdefault(clusters[pair.id], []).append(float(outcome))
        means = [float(np.mean(of)) for of in items.values()]
        ci = outcome_ci(means, seed=seed) if len(means) > 1 else (None, None)
        told[name] = {
            "accuracy": float(np.mean(means)) if means else None,
            "ci": ci,
            "n": len(means),
            "n_without": there.count(False),
        }
    return told
