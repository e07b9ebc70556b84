"""Whether a rule beats chance on a suite, over all its pairs and voice by voice; and whether a text LM does.

Shapes: P pairs of a suite, in order of their ids. p-values are of a sign-flip test over items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twistlm.evaluate.stats import holm, outcome_ci, outcome_difference
from twistlm.evaluate.suites.suite import Suite


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a rule says of each pair.

    Attributes:
        name: in words.
        won: float64 [P]: 1 where it finds the right side, 0.5 for a tie, else 0.
        one_sided: whether only "more often than chance" counts.
    """

    name: str
    won: NDArray[np.float64]
    one_sided: bool = False


@dataclass(frozen=True, kw_only=True)
class Tested:
    """How often a rule is right.

    Attributes:
        rule: in words.
        group: "all", or a voice.
        accuracy: mean outcome of items, ties one half.
        ci: 95% bootstrap interval over items.
        p: of chance.
        n: items.
        shortcut: whether chance does not explain it, where it should.
    """

    rule: str
    group: str
    accuracy: float
    ci: tuple[float, float]
    p: float
    n: int
    shortcut: bool = False


def shortcuts(suite: Suite, rules: list[Rule], *, alpha: float, seed: int) -> tuple[Tested, ...]:
    """Test each rule on all pairs and on those of each voice, where there are several.

    The p-values are corrected for the number of tests (Holm 1979); one below `alpha` is a shortcut.
    """
    pairs = sorted(suite.pairs, key=lambda pair: pair.id)
    everything = np.ones(len(pairs), dtype=bool)
    groups: dict[str, NDArray[np.bool_]] = {}
    for facet in ("voice", "speaker"):
        of = suite.facets.get(facet, {})
        if len(names := sorted(set(of.values()))) > 1:
            groups |= {name: np.array([of.get(pair.id) == name for pair in pairs]) for name in names}
    each = [("all", everything), *groups.items()]  # a voice may be called "all"
    found = [_test(suite, rule, group, mask, seed=seed) for rule in rules for group, mask in each]
    corrected = holm([test.p for test in found])
    return tuple(replace(test, p=float(p), shortcut=bool(p < alpha)) for test, p in zip(found, corrected, strict=True))


def toplines(suite: Suite, text_lm: str | Path, *, seed: int) -> tuple[Tested, ...]:
    """Return how often a text LM finds the right side's transcript likelier, per text token and summed.

    Args:
        suite: with texts of both sides.
        text_lm: its folder.
        seed: of resampling.

    Raises: as `score_texts`.
    """
    # They bring torch, which rules do without.
    from twistlm.evaluate.averages import outcomes
    from twistlm.evaluate.topline import score_texts

    read = score_texts(text_lm, suite.texts)
    pairs = sorted(suite.pairs, key=lambda pair: pair.id)
    sides = np.array([[*read[pair.positive], *read[pair.negative]] for pair in pairs]).T
    won = {
        "text LM, per token": outcomes(*sides, normalize="mean"),
        "text LM, summed": outcomes(*sides, normalize="sum"),
    }
    everything = np.ones(len(pairs), dtype=bool)
    rules = [Rule(name=name, won=each, one_sided=True) for name, each in won.items()]
    return tuple(_test(suite, rule, "all", everything, seed=seed) for rule in rules)


def _test(suite: Suite, rule: Rule, group: str, mask: NDArray[np.bool_], *, seed: int) -> Tested:
    """Test a rule on the pairs of `mask`, item by item."""
    clusters = [suite.clusters[pair.id] for pair in sorted(suite.pairs, key=lambda pair: pair.id)]
    _, item = np.unique(clusters, return_inverse=True)
    n = np.bincount(item[mask])
    means = np.bincount(item[mask], weights=rule.won[mask])[n > 0] / n[n > 0]
    test = outcome_difference(means, np.full(len(means), 0.5), seed=seed)
    # Flips that are drawn give no p below one in their number, which the many tests of a suite of many voices make
    # chance again. A sum of d_i of random signs is beyond t with at most 2 exp(-t^2 / 2 sum d_i^2) (Hoeffding 1963).
    far, size = (means - 0.5).sum() ** 2, ((means - 0.5) ** 2).sum()
    p = min(test.p, 2 * math.exp(-far / (2 * size))) if size else test.p
    above = p / 2 if test.mean > 0 else 1 - p / 2
    return Tested(
        rule=rule.name, group=group, accuracy=test.mean + 0.5, ci=outcome_ci(means, seed=seed),
        p=above if rule.one_sided else p, n=len(means),
    )  # fmt: skip
