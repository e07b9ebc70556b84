"""What each rater hears, in order: practice, then the clips that count with gold and trapping clips among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from twistlm.listen import blocks
from twistlm.listen.request import Layout, Request
from twistlm.listen.samples import Samples
from twistlm.listen.study import Kind

NATURAL = "natural"  # the name of natural recordings among systems; nobody rates them


class Key(NamedTuple):
    """What a clip is.

    Attributes:
        kind: "sample", or of a trapping clip "trap/LANGUAGE/what-is-said".
        system: whose clip.
        item: of which text.
    """

    kind: str
    system: str
    item: str


class Planned(NamedTuple):
    """A trial before its clips have names.

    Attributes:
        kind: what it is for.
        item: the text.
        clips: in each language, or in all ("").
        expected: the right answers; empty where there are none.
    """

    kind: Kind
    item: str
    clips: dict[str, list[Key]]
    expected: tuple[int, ...]


def places_of(request: Request, samples: Samples, layout: Layout, *, natural: set[str]) -> list[list[Planned]]:
    """Return what each of the raters hears; `natural` are the items with natural recordings."""
    planned = blocks.assign(
        len(layout.conditions),
        len(layout.rated),
        per_condition=request.clips_per_system,
        raters=layout.raters,
        sides=request.design == "ab",
        seed=request.seed,
    )
    training = _training(request, samples, layout)
    checks = [*_golds(request, layout.kept["gold"], natural), *_traps(request, samples, layout.kept["trap"])]
    places = []
    for j, cells in enumerate(planned):
        rating = [
            _plain("rating", layout.rated[cell.item], layout.conditions[cell.condition][:: -1 if cell.flipped else 1])
            for cell in blocks.in_order(cells, text=lambda cell: cell.item, seed=[request.seed, 3, j])
        ]
        places.append([*training, *blocks.spread(checks, rating, seed=[request.seed, 4, j])])
    return places


def _plain(kind: Kind, item: str, systems: Sequence[str], expected: tuple[int, ...] = ()) -> Planned:
    return Planned(kind, item, {"": [Key("sample", system, item) for system in systems]}, expected)


def _training(request: Request, samples: Samples, layout: Layout) -> list[Planned]:
    """Return the clips to practise on: the ceiling first and the floor last where there are such, others between."""
    rng, items = np.random.default_rng([request.seed, 6]), layout.kept["training"]
    if request.design == "ab":
        order = rng.permutation(len(layout.conditions))
        pairs = [layout.conditions[order[i % len(order)]] for i in range(len(items))]
        return [_plain("training", item, pair) for item, pair in zip(items, pairs, strict=True)]
    others = [name for name in samples.systems if name not in (request.truth, request.floor_system)]
    heard = [(others or samples.systems)[int(i)] for i in rng.integers(len(others or samples.systems), size=len(items))]
    if len(items) >= 2:
        heard[0], heard[-1] = request.truth or heard[0], request.floor_system or heard[-1]
    return [_plain("training", item, [system]) for item, system in zip(items, heard, strict=True)]


def _golds(request: Request, items: list[str], natural: set[str]) -> list[Planned]:
    floor, out = request.floor_system, []
    for i, item in enumerate(items):
        if request.design == "ab":
            best = NATURAL if item in natural else request.truth
            out.append(_plain("gold", item, [best, floor][:: 1 if i % 2 == 0 else -1], (1 + i % 2,)))
        elif item in natural and (i % 2 == 0 or not floor):
            out.append(_plain("gold", item, [NATURAL], (4, 5)))  # 5, within one step
        else:
            out.append(_plain("gold", item, [floor], (1, 2)))  # 1, within one step
    return out


def _traps(request: Request, samples: Samples, items: list[str]) -> list[Planned]:
    rng, out = np.random.default_rng([request.seed, 7]), []
    asked = [2, 4, 1, 5, 3] if request.design == "mos" else [1, 2]
    for i, item in enumerate(items):
        answer = asked[i % len(asked)]
        system = samples.systems[int(rng.integers(len(samples.systems)))]
        says = f"score-{answer}" if request.design == "mos" else ("first", "second")[answer - 1]
        before = [] if request.design == "mos" else [Key("sample", system, item)]
        clips = {code: [*before, Key(f"trap/{code}/{says}", system, item)] for code in request.languages}
        out.append(Planned("trap", item, clips, (answer,)))
    return out
