"""Who rates what, and in which order: conditions x items x raters in balanced blocks.

A condition is a system (MOS) or a pair of systems (A/B); an item is a text or prompt that every system speaks.
Letters: C conditions, I items, R raters, k clips of every condition a rater.

Items stand in a circle, in random order. Rater j hears of each condition the k items of one window, the windows of its
C conditions side by side, the next rater those one window further. So a rater hears every condition exactly k times and
as many different items as there are, and once round the circle (a lap of I / gcd(I, k) raters) every clip is rated
equally often. Each lap shuffles the circle and the order of the windows anew. (A cyclic Latin square: compare the
design of 21 systems x 50 items x 10 raters in which each of 250 raters hears exactly 2 clips of every system.)
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from twistlm.errors import BadInput

T = TypeVar("T")


class Cell(NamedTuple):
    """One clip, or one pair of clips, that a rater hears.

    Attributes:
        condition: index of the system, or of the pair of systems.
        item: index of the item.
        flipped: of a pair, whether its second system is played first.
    """

    condition: int
    item: int
    flipped: bool


def lap(items: int, per_condition: int) -> int:
    """Return after how many raters every clip has been rated equally often."""
    return items // math.gcd(items, per_condition)


def raters_for(items: int, *, per_condition: int, ratings: int) -> int:
    """Return how many raters give every clip at least `ratings` ratings."""
    return math.ceil(items * ratings / per_condition)


def assign(conditions: int, items: int, *, per_condition: int, raters: int, sides: bool, seed: int) -> list[list[Cell]]:
    """Return what each of `raters` hears, not yet in order.

    Every rater hears each condition exactly `per_condition` times and no clip twice; an item comes
    ceil(C k / I) times at most, so once where C k <= I. Numbers of ratings of any two clips differ by one at most, and
    not at all after whole laps.

    With `sides`, conditions are pairs, of which each is played first in turn: equally often for each clip after two
    laps, and for each rater and condition up to one (two where I is even).

    Raises:
        BadInput: a number below 1, or more clips of a condition than there are items.
    """
    for name, value in (("conditions", conditions), ("items", items), ("clips a condition", per_condition)):
        if value < 1:
            raise BadInput(f"the number of {name} must be at least 1, got {value}.")
    if raters < 1:
        raise BadInput(f"the number of raters must be at least 1, got {raters}.")
    if per_condition > items:
        raise BadInput(
            f"a rater cannot hear {per_condition} clips of each system when there are {items} items. Ask for fewer "
            "clips, or add items."
        )
    whole = lap(items, per_condition)
    planned = []
    for rater in range(raters):
        n_lap, j = divmod(rater, whole)
        # Two laps of pairs share a circle, with the sides exchanged; others have one each.
        circle = np.random.default_rng([seed, 0, n_lap // 2 if sides else n_lap]).permutation(items)
        shifts = np.random.default_rng([seed, 1, n_lap // 2 if sides else n_lap]).permutation(conditions)
        cells = []
        for condition in range(conditions):
            for step in range(j * per_condition, (j + 1) * per_condition):
                item = int(circle[(step + int(shifts[condition]) * per_condition) % items])
                turn = 0 if items % 2 else step // items  # round an odd circle the sides change by themselves
                cells.append(Cell(condition, item, sides and (step + turn + n_lap) % 2 == 1))
        planned.append(cells)
    return planned


def in_order(things: Sequence[T], *, text: Callable[[T], Hashable], seed: Sequence[int]) -> list[T]:
    """Return `things` shuffled, so that no two neighbours have the same text.

    Things of one text are spread over rounds, each round shuffled by itself: a text comes back only when the next round
    does.

    Raises:
        BadInput: one text makes more than half of all, so that neighbours cannot be kept apart.
    """
    rng = np.random.default_rng(list(seed))
    counts = Counter(map(text, things))
    if counts and max(counts.values()) > (len(things) + 1) // 2:
        raise BadInput("a rater would hear one text twice in a row: there are too few items for so many systems.")
    by_text: defaultdict[Hashable, list[T]] = defaultdict(list)
    for thing in things:
        by_text[text(thing)].append(thing)
    rounds: list[list[T]] = [[] for _ in range(max(counts.values(), default=0))]
    for group in by_text.values():
        places = rng.permutation(len(rounds))[: len(group)]
        for place, i in zip(places, rng.permutation(len(group)), strict=True):
            rounds[place].append(group[i])
    out = [one[i] for one in rounds for i in rng.permutation(len(one))]
    return _apart(out, text, rng)


def _apart(things: list[T], text: Callable[[T], Hashable], rng: np.random.Generator) -> list[T]:
    """Exchange things until no neighbours share a text."""

    def clashes(at: int) -> bool:
        return any(i >= 0 and i + 1 < len(things) and text(things[i]) == text(things[i + 1]) for i in (at - 1, at))

    for i in range(1, len(things)):
        if text(things[i]) != text(things[i - 1]):
            continue
        for j in rng.permutation(len(things)):
            things[i], things[j] = things[j], things[i]
            if not clashes(i) and not clashes(int(j)):
                break
            things[i], things[j] = things[j], things[i]
        else:
            return _by_count(things, text)
    return things


def _by_count(things: Sequence[T], text: Callable[[T], Hashable]) -> list[T]:
    """Return `things` with no neighbours of one text: the commonest texts first, into every second place."""
    counts = Counter(map(text, things))
    ranked = sorted(things, key=lambda thing: (-counts[text(thing)], repr(text(thing))))
    out: list[T] = list(ranked)
    places = [*range(0, len(things), 2), *range(1, len(things), 2)]
    for place, thing in zip(places, ranked, strict=True):
        out[place] = thing
    return out


def spread(controls: Sequence[T], among: Sequence[T], *, seed: Sequence[int]) -> list[T]:
    """Return `among` with one of `controls` in each of as many equal parts of it, never as the first thing."""
    rng = np.random.default_rng(list(seed))
    parts = np.array_split(np.arange(len(among)), max(1, len(controls)))
    out: list[T] = []
    waiting = [controls[i] for i in rng.permutation(len(controls))]
    for part in parts:
        before = int(rng.integers(1, len(part) + 1)) if len(part) else 0
        out += [among[i] for i in part[:before]]
        if waiting:
            out.append(waiting.pop())
        out += [among[i] for i in part[before:]]
    return out + waiting
