"""Frames of `blimp.py` on the form of words: agreement, reflexives, verb forms, quantifiers, pronouns, comparison.

The idea of paradigms that differ in one point of grammar is BLiMP's (Warstadt et al. 2020); frames and words are ours.

A frame is a function of (draw, flip) that returns (good, bad) without capitals. What is right where `flip` is false is
wrong where it is true ("the key ... is" / "the keys ... are"), or both sides hold the same words in another order. So
no word and no length marks the good side. Where it can be, something stands between the words that decide, so that
pairs of neighboring words do not suffice either. Both sides always have equally many words.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import blimp_words as w

T = TypeVar("T")
Sides = tuple[str, str]


class Draw:
    """Choices from lists, reproducible from the seed."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def one(self, items: Sequence[T]) -> T:
        return self._random.choice(items)

    def two(self, items: Sequence[T]) -> tuple[T, T]:
        """Two different items."""
        first, second = self._random.sample(range(len(items)), 2)
        return items[first], items[second]

    def couple(self) -> tuple[str, str]:
        """A woman's and a man's name, in either order."""
        names = self.one(w.WOMEN), self.one(w.MEN)
        return names if self._random.random() < 0.5 else names[::-1]

    def name(self) -> str:
        return self.one(w.WOMEN + w.MEN)


def fill(frame: str, good: str, bad: str, *, flip: bool) -> Sides:
    """Put `good` and `bad` into the frame's gap `_`; flipped, the other one is the good one."""
    sides = frame.replace("_", good), frame.replace("_", bad)
    return (sides[1], sides[0]) if flip else sides


Frame = Callable[["Draw", bool], Sides]
# --- agreement of subject and verb: flipped, the subject is plural --------------------------------------------------


def simple_verb(draw: Draw, flip: bool) -> Sides:
    noun, action = draw.one(w.PEOPLE), draw.one(w.ACTIONS)
    return fill(f"every day the {noun[flip]} _ {action.rest}.", action.third, action.base, flip=flip)


def across_preposition(draw: Draw, flip: bool) -> Sides:
    part, preposition, whole = draw.one(w.PARTS)
    verbs = draw.one([("is", "are"), ("was", "were")])
    return fill(f"the {part[flip]} {preposition} the {whole[not flip]} _ {draw.one(w.STATES)}.", *verbs, flip=flip)


def across_relative(draw: Draw, flip: bool) -> Sides:
    (noun, other), action = draw.two(w.PEOPLE), draw.one(w.ACTIONS)
    frame = f"the {noun[flip]} that the {other[not flip]} {draw.one(w.MET)} _ {action.rest}."
    return fill(frame, action.third, action.base, flip=flip)


def in_questions(draw: Draw, flip: bool) -> Sides:
    part, preposition, whole = draw.one(w.PARTS)
    verbs = draw.one([("is", "are"), ("was", "were")])
    return fill(
        f"why _ the {part[flip]} {preposition} the {whole[not flip]} so {draw.one(w.STATES)}?", *verbs, flip=flip
    )


def coordinated(draw: Draw, flip: bool) -> Sides:
    (noun, other), action = draw.two(w.PEOPLE), draw.one(w.ACTIONS)
    link = "and" if flip else draw.one(["near", "beside", "behind"])
    return fill(f"the {noun[0]} {link} the {other[0]} _ {action.rest}.", action.third, action.base, flip=flip)


# --- agreement of determiner and noun: flipped, the noun is plural --------------------------------------------------


def determiner(draw: Draw, flip: bool) -> Sides:
    words = draw.one([("this", "these"), ("that", "those")])
    frame = f"{draw.name()} {draw.one(w.HANDLED)} _ {draw.one(w.LOOKS)} {draw.one(w.THINGS)[flip]}."
    return fill(frame, *words, flip=flip)


def noun(draw: Draw, flip: bool) -> Sides:
    word = draw.one([("this", "these"), ("that", "those")])[flip]
    return fill(f"{draw.name()} wanted {word} {draw.one(w.LOOKS)} _ for the kitchen.", *draw.one(w.THINGS), flip=flip)


def irregular_noun(draw: Draw, flip: bool) -> Sides:
    word = draw.one([("this", "these"), ("that", "those")])[flip]
    return fill(f"{draw.name()} looked at {word} {draw.one(w.STATES[:5])} _.", *draw.one(w.IRREGULAR_NOUNS), flip=flip)


# --- reflexives -----------------------------------------------------------------------------------------------------


def _reflexives(flip: bool) -> Sides:
    return ("himself", "herself") if flip else ("herself", "himself")


def across_clause(draw: Draw, flip: bool) -> Sides:
    her, him = draw.one(w.WOMEN), draw.one(w.MEN)
    near, far = (him, her) if flip else (her, him)
    frame = f"{far} {draw.one(['said', 'heard', 'thought', 'knew'])} that {near} {draw.one(w.REFLEXIVE_VERBS)} _."
    good, bad = _reflexives(flip)
    return fill(frame, good, bad, flip=False)


def across_owner(draw: Draw, flip: bool) -> Sides:
    good, bad = _reflexives(flip)
    owner = draw.one(w.WOMEN if flip else w.MEN)
    head = draw.one([person for person in w.KIN if person.reflexive == good])
    return fill(f"the {head.singular} of {owner} {draw.one(w.REFLEXIVE_VERBS)} _.", good, bad, flip=False)


def reflexive_number(draw: Draw, flip: bool) -> Sides:
    head, other = draw.two(w.GENDERED)
    frame = f"the {head[flip]} beside the {other[not flip]} {draw.one(w.REFLEXIVE_VERBS)} _."
    return fill(frame, *((other if flip else head).reflexive, "themselves"), flip=flip)


# --- forms of verbs: flipped, the plain past or the plain form is right ---------------------------------------------


def participle(draw: Draw, flip: bool) -> Sides:
    task, person = draw.one(w.STRONG), draw.one(w.PEOPLE)[0]
    before = draw.one(["then", "soon", "again"]) if flip else f"has {draw.one(['already', 'often', 'just'])}"
    return fill(f"the {person} {before} _ {task.object}.", task.participle, task.past, flip=flip)


def passive(draw: Draw, flip: bool) -> Sides:
    task, person = draw.one(w.STRONG), draw.one(w.PEOPLE)[0]
    frame = f"it was the {person} who _ {task.object}." if flip else f"{task.object} was _ by the {person}."
    return fill(frame, task.participle, task.past, flip=flip)


def will_or_is(draw: Draw, flip: bool) -> Sides:
    action, when = draw.one(w.ACTIONS), draw.one(["now", "again", "probably", "certainly"])
    frame = f"the {draw.one(w.PEOPLE)[0]} {'will' if flip else 'is'} {when} _ {action.rest}."
    return fill(frame, action.ing, action.base, flip=flip)


def did_or_has(draw: Draw, flip: bool) -> Sides:
    action = draw.one(w.ACTIONS)
    frame = f"the {draw.one(w.PEOPLE)[0]} {'did' if flip else 'has'} not _ {action.rest}."
    return fill(frame, action.past, action.base, flip=flip)


# --- quantifiers ----------------------------------------------------------------------------------------------------


def much_or_many(draw: Draw, flip: bool) -> Sides:
    what = draw.one(w.THINGS)[1] if flip else draw.one(w.MASS)
    words = draw.one([("much", "many"), ("little", "few")])
    frame = f"there {'were' if flip else 'was'} too _ {what} in the {draw.one(['kitchen', 'shop', 'boat', 'cellar'])}."
    return fill(frame, *words, flip=flip)


def every_or_all(draw: Draw, flip: bool) -> Sides:
    who, got = draw.one(w.PEOPLE)[flip], draw.one(["got", "bought", "lost", "found"])
    return fill(f"_ {draw.one(w.AGES)} {who} {got} a {draw.one(w.THINGS)[0]}.", "every", "all", flip=flip)


def each_or_all(draw: Draw, flip: bool) -> Sides:
    who, done = draw.one(w.PEOPLE)[1], draw.one(w.EXPERIENCES)
    return fill(f"_ of the {who} {'have' if flip else 'has'} {done}.", "each", "all", flip=flip)


# --- pronouns and comparison ----------------------------------------------------------------------------------------


def case_of_both(draw: Draw, _flip: bool) -> Sides:
    one, other = draw.two(w.PRONOUNS)
    when, verb = draw.one(["after lunch", "last night", "on Monday", "in the park"]), draw.one(w.MET)
    return f"{when} {one[0]} {verb} {other[1]}.", f"{when} {other[1]} {verb} {one[0]}."


def case(draw: Draw, flip: bool) -> Sides:
    pronoun, person = draw.one(w.PRONOUNS), draw.one(w.PEOPLE)[0]
    when, verb = draw.one(["today", "last night", "on Monday", "this week"]), draw.one(w.MET)
    frame = f"{when} the {person} {verb} _." if flip else f"{when} _ {verb} the {person}."
    return fill(frame, *pronoun, flip=flip)


def who_or_which(draw: Draw, flip: bool) -> Sides:
    head = draw.one(w.THINGS if flip else w.PEOPLE)[0]
    frame = f"the {head} _ {draw.name()} {draw.one(['found', 'saw', 'liked', 'wanted'])} was {draw.one(w.STATES)}."
    return fill(frame, "who", "which", flip=flip)


def comparison(draw: Draw, flip: bool) -> Sides:
    one, other = draw.couple()
    than = "as _ as" if flip else f"{draw.one(['much', 'even'])} _ than"
    plain, comparative = draw.one(w.COMPARED)
    return fill(f"{one} was {than} {other}.", comparative, plain, flip=flip)
