"""What a study is to be, checked against the samples: which systems, which items, how many raters."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from twistlm.errors import BadInput, offenders
from twistlm.listen import blocks, controls
from twistlm.listen.loudness import SOFTEST, TARGET
from twistlm.listen.samples import Samples
from twistlm.listen.study import MADE_FLOOR, QUESTIONS
from twistlm.listen.texts import known_languages

MOST_CLIPS = 150  # that one person rates in one go


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a study is to be.

    Attributes:
        design: "mos" rates one clip from 1 to 5, "ab" compares two.
        question: what is asked.
        clips_per_system: clips of every system (of A/B: of every pair) that each rater hears.
        ratings_per_clip: how many raters hear each clip, at least.
        truth: which system is the resynthesised truth, the ceiling; "" for none.
        floor: which system is the floor; "shuffled" or "noise" makes one of the truth; "none" for none.
        pairs: of A/B, the pairs compared; all where there are none.
        ties: of A/B, whether "no difference" may be said.
        training, gold, traps: how many of such clips each rater hears; gold of None: 2 where there is a floor, or
            (of MOS) natural recordings.
        languages: that raters may choose from; the first is the default.
        seed: of everything random.
        sample_rate: Hz of all clips; None: the highest of the samples, at most 48,000.
        lufs: loudness, if no clip's peaks forbid it.
        pause: s between a prompt and what continues it.
        headphones, hearing: whether they are checked.
    """

    design: Literal["mos", "ab"]
    question: str
    clips_per_system: int
    ratings_per_clip: int
    seed: int
    truth: str = ""
    floor: str = "none"
    pairs: tuple[tuple[str, str], ...] = ()
    ties: bool = True
    training: int = 3
    gold: int | None = None
    traps: int = 2
    languages: tuple[str, ...] = ("en",)
    sample_rate: int | None = None
    lufs: float = TARGET
    pause: float = 0.0
    headphones: bool = True
    hearing: bool = True

    @property
    def makes_floor(self) -> bool:
        """Whether the floor is made of the truth."""
        return self.floor in controls.FLOORS

    @property
    def floor_system(self) -> str:
        """The name of the floor's system, or ""."""
        return MADE_FLOOR if self.makes_floor else "" if self.floor == "none" else self.floor


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A request that can be met.

    Attributes:
        conditions: what is rated: systems, each by itself, or pairs of them.
        systems: every system that is rated.
        kept: items kept for "training", "gold" and "trap" clips; no rater hears them otherwise.
        rated: the other items.
        raters: how many there have to be.
    """

    conditions: tuple[tuple[str, ...], ...]
    systems: tuple[str, ...]
    kept: dict[str, list[str]]
    rated: list[str]
    raters: int


def lay_out(request: Request, samples: Samples, *, natural: set[str]) -> Layout:
    """Check a request.

    Args:
        request: what is wanted.
        samples: what there is.
        natural: items that there are natural recordings of.

    Raises:
        BadInput: what cannot be, and what to change.
    """
    conditions = _conditions(request, samples)
    if len(conditions) * request.clips_per_system > MOST_CLIPS:
        raise BadInput(
            f"{len(conditions)} systems or pairs with {request.clips_per_system} clips each are more than anybody "
            f"rates in one go ({MOST_CLIPS} clips). Ask for fewer clips of each."
        )
    if request.ratings_per_clip < 1 or request.clips_per_system < 1:
        raise BadInput("clips of each system and ratings of each clip must be at least 1.")
    if request.question not in QUESTIONS:
        known = ", ".join(QUESTIONS)
        raise BadInput(f"no question {request.question!r}; there are {known}. Take one, and edit the study's texts.")
    if not request.languages:
        raise BadInput("name at least one language.")
    if unknown := [language for language in request.languages if language not in known_languages()]:
        raise BadInput(f"no texts in {offenders(unknown)}; there are {', '.join(known_languages())}.")
    if request.sample_rate is not None and not 8_000 <= request.sample_rate <= 48_000:
        raise BadInput(f"the sample rate must be from 8,000 to 48,000 Hz, got {request.sample_rate}.")
    if not SOFTEST <= request.lufs <= 0:
        raise BadInput(f"the loudness must be from {SOFTEST:g} to 0 LUFS, got {request.lufs:g}.")
    if not 0 <= request.pause <= 5:
        raise BadInput(f"the pause behind a prompt must be from 0 to 5 s, got {request.pause}.")
    kept, rated = _keep(request, samples, natural)
    if natural and not kept["gold"]:
        raise BadInput(
            "natural recordings are played as gold clips, and there are none: comparisons need a floor too (--floor), "
            "and there must be as many recordings as gold clips. Or leave --natural out."
        )
    raters = blocks.raters_for(len(rated), per_condition=request.clips_per_system, ratings=request.ratings_per_clip)
    systems = [*samples.systems, MADE_FLOOR] if request.makes_floor and request.design == "mos" else samples.systems
    return Layout(conditions=conditions, systems=tuple(systems), kept=kept, rated=rated, raters=raters)


def _conditions(request: Request, samples: Samples) -> tuple[tuple[str, ...], ...]:
    for name in (request.truth, *itertools.chain(*request.pairs)):
        if name and name not in samples.systems:
            raise BadInput(f"there is no system {name!r}; there are {', '.join(samples.systems)}.")
    if request.makes_floor and not request.truth:
        raise BadInput(f"a floor of {request.floor} speech is made of the truth: say which system that is, by --truth.")
    if request.makes_floor and MADE_FLOOR in samples.systems:
        raise BadInput(f"a system is called {MADE_FLOOR!r} already: say --floor {MADE_FLOOR}, or rename it.")
    if not request.makes_floor and request.floor != "none" and request.floor not in samples.systems:
        known = [*controls.FLOORS, "none", *samples.systems]
        raise BadInput(f"no floor {request.floor!r}: it is one of {', '.join(known)}.")
    if request.design == "mos":
        if request.pairs or not request.ties:
            raise BadInput("pairs and ties (--pair, --no-ties) are of comparisons: leave them out, or say --design ab.")
        return tuple((system,) for system in (*samples.systems, *([MADE_FLOOR] if request.makes_floor else [])))
    if len(samples.systems) < 2:
        raise BadInput("a comparison needs two systems at least: give two folders.")
    named = [frozenset(pair) for pair in request.pairs]
    if doubled := [f"{a}:{b}" for a, b in request.pairs if a == b or named.count(frozenset((a, b))) > 1]:
        raise BadInput(f"a pair is two systems, named once: {offenders(doubled)}.")
    return request.pairs or tuple(itertools.combinations(samples.systems, 2))


def _gold(request: Request, natural: set[str]) -> int:
    wanted = 2 if request.gold is None else request.gold
    floor, enough = bool(request.floor_system), len(natural) >= max(1, wanted)  # one natural recording a gold clip
    possible = (floor or enough) if request.design == "mos" else floor and (bool(request.truth) or enough)
    if request.gold and not possible:
        raise BadInput(
            "gold clips have an answer that is plain: they need a floor (--floor) or as many natural recordings "
            "(--natural); comparisons need a floor, and truth or natural recordings that are plainly better (--truth, "
            "--natural). Or say --gold 0."
        )
    return wanted if possible else 0


def _keep(request: Request, samples: Samples, natural: set[str]) -> tuple[dict[str, list[str]], list[str]]:
    wanted = {"gold": _gold(request, natural), "training": request.training, "trap": request.traps}
    if min(wanted.values()) < 0:
        raise BadInput("numbers of training, gold and trapping clips cannot be negative.")
    n = sum(wanted.values())
    if len(samples.items) - n < request.clips_per_system:
        raise BadInput(
            f"{len(samples.items)} items are too few: {n} are kept for training, gold and trapping clips, and of the "
            f"others every rater hears {request.clips_per_system} by every system. Give more items, or ask for fewer."
        )
    order = [samples.items[i] for i in np.random.default_rng([request.seed, 2]).permutation(len(samples.items))]
    order.sort(key=lambda item: item not in natural)  # gold clips come first, of items that have one
    kept, at = {}, 0
    for kind, n_kept in wanted.items():
        kept[kind] = order[at : at + n_kept]
        at += n_kept
    return kept, sorted(order[at:])
