"""How often the intervals of `twist listen analyse` hold the truth, over simulated studies whose truth is known.

    python runs/listening_coverage.py --studies 1000 --out coverage.json

Each study is a design of `twist listen plan`, rated by simulated raters with a bias, views and noise of their own
(`listen/simulate.py`), and rounded to 1 … 5. The truth is the mean over all raters who listen, all items and all
moments. Seeds are 0 … studies - 1 in each world. Prints a table; the same numbers go to --out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from twistlm.files.atomic import atomic_write
from twistlm.listen.exclusions import Rules, judge, kept
from twistlm.listen.ratings import Rating
from twistlm.listen.resampling import Floats, two_way
from twistlm.listen.scores import crowdmos
from twistlm.listen.simulate import Simulated, World, as_ratings, simulate
from twistlm.listen.table import Table, tabulate

DRAWS = 800  # of the bootstrap; the analysis has 2,000
LEVELS = (2.6, 2.6, 3.0, 3.6)  # two are equal: how often they are said to differ is the rate of false alarms
BASE = World(levels=LEVELS)
NOISE = replace(BASE, sd_rater=0.2, sd_item=0.1, sd_clip=0.1, sd_view=0.0, sd_noise=1.0)
WORLDS = {  # name -> how raters are, raters, items, clips of each system a rater
    "40 raters, 40 items": (BASE, 40, 40, 5),
    "12 raters, 20 items": (BASE, 12, 20, 5),
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
    n = len(world.levels)
    first, second = (np.array(side) for side in zip(*itertools.combinations(range(n), 2), strict=True))

    def statistic(weights: Floats) -> Floats:  # means, and differences of each two: one resampling serves both
        means = table.means(weights)
        return np.concatenate([means, means[:, first] - means[:, second]], axis=1)

    truth = statistic_of(world.truth, first, second)
    of = table.of
    parts = [np.concatenate([of, of[:, side]], axis=1) for side in (first, second)]
    found = two_way(statistic, table.rater, table.item, of=parts, seed=seed, draws=DRAWS)
    held = (found.low <= truth) & (truth <= found.high)
    crowds = [crowdmos(table.matrix(i)) for i in range(n)]
    naive = [table.score[table.condition == i] for i in range(n)]
    return {
        "mean, two-way": list(held[:n]),
        "mean, CrowdMOS": [abs(c.mean - t) <= c.half for c, t in zip(crowds, truth[:n], strict=True)],
        "mean, ratings taken for independent": [
            abs(float(y.mean()) - t) <= 1.96 * float(y.std(ddof=1)) / math.sqrt(len(y))
            for y, t in zip(naive, truth[:n], strict=True)
        ],
        "difference, two-way": list(held[n:]),
        "false alarms of two equal systems": list(found.p[n:][truth[n:] == 0] < 0.05),
    }


def statistic_of(means: Floats, first: NDArray[np.int64], second: NDArray[np.int64]) -> Floats:
    return np.concatenate([means, means[first] - means[second]])


def table_of(study: Simulated, raters: int, items: int) -> Table:
    names = tuple(tuple(f"{kind}-{i}" for i in range(n)) for kind, n in (("rater", raters), ("item", items)))
    return Table(names[0], names[1], SYSTEMS, study.rater, study.item, study.system, study.score)


def scores(name: str, studies: int) -> dict[str, dict[str, float]]:
    world, raters, items, per_system = WORLDS[name]
    out: dict[str, list[bool]] = {}
    for seed in range(studies):
        study = simulate(world, raters=raters, items=items, per_system=per_system, seed=seed)
        tables = {"": table_of(study, raters, items)}
        if world.spammers:
            ratings = as_ratings(study)
            left = kept(ratings, judge(ratings, Rules(correlation=0.25)))
            tables = {"everybody: ": tables[""], "by the rules: ": tabulate(left, conditions=SYSTEMS)}
        for label, table in tables.items():
            for key, hits in measured(table, world, seed).items():
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
        table = tabulate(ratings)
        found = two_way(table.means, table.rater, table.item, of=[table.of], seed=seed, draws=DRAWS)
        for (a, b), low, high, p in zip(table.conditions, found.low, found.high, found.p, strict=True):
            hits.append((1 + low) / 2 <= truth[a, b] <= (1 + high) / 2)
            if truth[a, b] == 0.5:
                alarms.append(p < 0.05)
    return {"rate, two-way": share(hits), "false alarms of two equal systems": share(alarms)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=(*WORLDS, "comparisons"), action="append", help="default: all")
    given = parser.parse_args()
    found = {}
    for name in given.only or (*WORLDS, "comparisons"):
        found[name] = comparisons(given.studies) if name == "comparisons" else scores(name, given.studies)
        print(name, flush=True)
        for key, value in found[name].items():
            print(f"  {key:60} {100 * value['share']:6.2f} %  (n {value['n']}, se {100 * value['se']:.2f})", flush=True)
        with atomic_write(given.out) as temporary:
            temporary.write_text(json.dumps({"studies": given.studies, "worlds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
