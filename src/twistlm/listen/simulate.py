"""Studies that nobody rated, with a truth that is known: what the analysis is tried on.

A rating is what the rater would say of the clip, rounded to 1 … 5: the system's level, and normal deviations of the
rater, the item, the clip, the rater's own view of the system, and of the moment. Some raters only click.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from twistlm.listen import blocks
from twistlm.listen.ratings import Rating
from twistlm.listen.resampling import Floats


@dataclass(frozen=True, kw_only=True)
class World:
    """How raters rate.

    Attributes:
        levels: of each system, before rounding.
        sd_rater, sd_item, sd_clip, sd_view, sd_noise: standard deviations, points.
        spammers: share of raters who click anything, without listening.
        slips: share of trapping clips that an honest rater gets wrong, and of gold clips.
    """

    levels: tuple[float, ...] = (2.4, 2.6, 3.0, 3.6)
    sd_rater: float = 0.5
    sd_item: float = 0.3
    sd_clip: float = 0.4
    sd_view: float = 0.2
    sd_noise: float = 0.7
    spammers: float = 0.0
    slips: float = 0.02

    @property
    def truth(self) -> Floats:
        """The mean score of each system over all raters who listen, all items and all moments."""
        sd = float(np.sqrt(self.sd_rater**2 + self.sd_item**2 + self.sd_clip**2 + self.sd_view**2 + self.sd_noise**2))
        edges = np.array([1.5, 2.5, 3.5, 4.5])
        levels = np.array(self.levels)
        result: Floats = 1 + (1 - ndtr((edges[None] - levels[:, None]) / sd)).sum(1)
        return result


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A study as arrays; of n ratings, all raters' together, and of each rater's checks.

    Attributes:
        rater, item, system: [n].
        score: [n], 1 … 5.
        spammer: [R].
        traps, gold: [R], how many of two each answered right.
    """

    rater: np.ndarray
    item: np.ndarray
    system: np.ndarray
    score: np.ndarray
    spammer: np.ndarray
    traps: np.ndarray
    gold: np.ndarray


def simulate(world: World, *, raters: int, items: int, per_system: int, seed: int) -> Simulated:
    """Return a study in the blocks of `twist listen plan`, rated."""
    rng = np.random.default_rng([seed, 99])
    planned = blocks.assign(len(world.levels), items, per_condition=per_system, raters=raters, sides=False, seed=seed)
    rater = np.repeat(np.arange(raters), len(world.levels) * per_system)
    system = np.array([cell.condition for cells in planned for cell in cells])
    item = np.array([cell.item for cells in planned for cell in cells])
    shape = len(world.levels)
    value = (
        np.array(world.levels)[system]
        + world.sd_rater * rng.standard_normal(raters)[rater]
        + world.sd_item * rng.standard_normal(items)[item]
        + world.sd_clip * rng.standard_normal((shape, items))[system, item]
        + world.sd_view * rng.standard_normal((raters, shape))[rater, system]
        + world.sd_noise * rng.standard_normal(len(rater))
    )
    score = np.clip(np.round(value), 1, 5)
    spammer = rng.random(raters) < world.spammers
    score = np.where(spammer[rater], rng.integers(1, 6, len(rater)), score)
    chances = np.where(spammer[:, None], (1 / 5, 2 / 5), 1 - world.slips)
    traps, gold = rng.binomial(2, chances[:, 0]), rng.binomial(2, chances[:, 1])
    return Simulated(rater=rater, item=item, system=system, score=score, spammer=spammer, traps=traps, gold=gold)


def as_ratings(study: Simulated) -> list[Rating]:
    """Return a simulated study as the rows that the analysis takes, with its trapping and gold clips."""
    out = [
        Rating(f"rater-{r:04}", "rating", f"item-{i:03}", f"system-{s}", "", float(y))
        for r, i, s, y in zip(study.rater, study.item, study.system, study.score, strict=True)
    ]
    for r in range(len(study.spammer)):
        for kind, right in (("trap", study.traps[r]), ("gold", study.gold[r])):
            out += [Rating(f"rater-{r:04}", kind, f"{kind}-{k}", "check", "", 0.0, right=k < right) for k in range(2)]
    return out
