"""How often the intervals of `twist listen analyse` hold the truth, over simulated studies whose truth is known.

    python runs/listening_coverage.py --studies 1000 --out coverage.json

Each study is a design of `twist listen plan`, rated by simulated raters with a bias, views and noise of their own
(`listen/simulate.py`), and rounded to 1 … 5. The truth is the mean over all raters who listen, all items and all
moments. Seeds are 0 … studies - 1 in each world. Prints a table; the same numbers go to --out.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.special import ndtr

from twistlm.files.atomic import atomic_write
from twistlm.listen.exclusions import Rules, judge, kept
from twistlm.listen.preference import preferences
from twistlm.listen.ratings import Rating
from twistlm.listen.scores import crowdmos, differences, mean_scores
from twistlm.listen.simulate import World, as_ratings, simulate
from twistlm.listen.table import Table, tabulate

LEVELS = (2.6, 2.6, 3.0, 3.6)  # two are equal: how often they are said to differ is the rate of false alarms
BASE = World(levels=LEVELS)
NOISE = replace(BASE, sd_rater=0.2, sd_item=0.1, sd_clip=0.1, sd_view=0.0, sd_noise=1.0)
WORLDS = {  # name -> how raters are, raters, items, clips of each system a rater
    "40 raters, 40 items": (BASE, 40, 40, 5),
    "12 raters, 20 items": (BASE, 12, 20, 5),
    "100 raters, 25 items": (BASE, 100, 25, 2),
    "raters alike, much noise": (NOISE, 40, 40, 5),
    "15 % spammers": (replace(BASE, spammers=0.15), 40, 40, 5),
}  # fmt: skip
SYSTEMS = tuple((f"system-{i}",) for i in range(len(LEVELS)))


def share(hits: Sequence[bool]) -> dict[str, float]:
    """Return a share and its standard error, were its parts independent."""
    p = float(np.mean(hits))
    return {"share": p, "n": len(hits), "se": math.sqrt(p * (1 - p) / len(hits))}


def measured(table: Table, world: World, seed: int) -> dict[str, list[bool]]:
    """Return what held the truth in one study."""
    truth, means = world.truth, mean_scores(table, seed=seed)
    crowds = [crowdmos(table.matrix(i)) for i in range(len(truth))]
    naive = [table.score[table.condition == i] for i in range(len(truth))]
    pairs, _ = differences(table, seed=seed)
    at = {name: i for i, (name,) in enumerate(table.conditions)}
    return {
        "mean, two-way": [bool(low <= t <= high) for low, t, high in zip(means.low, truth, means.high, strict=True)],
        "mean, CrowdMOS": [abs(c.mean - t) <= c.half for c, t in zip(crowds, truth, strict=True)],
        "mean, ratings taken for independent": [
            abs(float(y.mean()) - t) <= 1.96 * float(y.std(ddof=1)) / math.sqrt(len(y))
            for y, t in zip(naive, truth, strict=True)
        ],
        "difference, two-way": [p.low <= truth[at[p.a]] - truth[at[p.b]] <= p.high for p in pairs],
        "false alarms, p": [p.p < 0.05 for p in pairs if truth[at[p.a]] == truth[at[p.b]]],
        "false alarms, p by item": [p.p_items < 0.05 for p in pairs if truth[at[p.a]] == truth[at[p.b]]],
        "false alarms, p by rater": [p.p_raters < 0.05 for p in pairs if truth[at[p.a]] == truth[at[p.b]]],
    }


def scores(name: str, studies: int) -> dict[str, dict[str, float]]:
    world, raters, items, per_system = WORLDS[name]
    out: dict[str, list[bool]] = {}
    for seed in range(studies):
        ratings = as_ratings(simulate(world, raters=raters, items=items, per_system=per_system, seed=seed))
        sets = {"": ratings}
        if world.spammers:
            # Only the rules that do not look at the ratings themselves, and with the correlation, which does.
            sets = {"everybody: ": ratings}
            for label, rules in (("rules: ", Rules()), ("rules and correlation: ", Rules(correlation=0.25))):
                sets[label] = kept(ratings, judge(ratings, rules))
        for label, some in sets.items():
            for key, hits in measured(tabulate(some, conditions=SYSTEMS), world, seed).items():
                out.setdefault(label + key, []).extend(hits)
    return {key: share(hits) for key, hits in out.items()}


def comparisons(studies: int) -> dict[str, dict[str, float]]:
    """Return the same of A/B studies: 40 raters, 20 items, three systems, each pair three times a rater."""
    levels, hits, alarms = (2.6, 2.6, 3.2), [], []
    shared = 2 * (0.4**2 + 0.2**2)  # clips' and views' own; raters' and items' cancel
    for seed in range(studies):
        rng = np.random.default_rng([seed, 5])
        clip, view = rng.normal(0, 0.4, (3, 20)), rng.normal(0, 0.2, (40, 3))
        ratings, truth = [], {}
        for k, (a, b) in enumerate(((0, 1), (0, 2), (1, 2))):
            truth[f"{a}", f"{b}"] = ndtr((levels[a] - levels[b]) / math.sqrt(shared + 2 * 0.7**2))
            for rater in range(40):
                for step in range(3):
                    item = (3 * rater + 7 * k + step) % 20
                    parts = [levels[s] + clip[s, item] + view[rater, s] + rng.normal(0, 0.7) for s in (a, b)]
                    score = float(np.sign(parts[0] - parts[1]))
                    ratings.append(Rating(f"r{rater:02}", "rating", f"i{item:02}", f"{a}", f"{b}", score))
        for one in preferences(tabulate(ratings), seed=seed):
            hits.append(one.low <= truth[one.a, one.b] <= one.high)
            if truth[one.a, one.b] == 0.5:
                alarms.append(one.p < 0.05)
    return {"rate, two-way": share(hits), "false alarms, p": share(alarms)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    found = {}
    for name in (*WORLDS, "comparisons"):
        found[name] = comparisons(given.studies) if name == "comparisons" else scores(name, given.studies)
        print(name, flush=True)
        for key, value in found[name].items():
            print(f"  {key:60} {100 * value['share']:6.2f} %  (n {value['n']}, se {100 * value['se']:.2f})", flush=True)
        with atomic_write(given.out) as temporary:
            temporary.write_text(json.dumps({"studies": given.studies, "worlds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
