"""Frames of `blimp.py` on how words combine: arguments, control, polarity, gaps, islands, ellipsis, order of words.

`blimp_frames` says what a frame is.
"""

from __future__ import annotations

import blimp_words as w
from blimp_frames import Draw, Sides, fill

# --- argument structure ---------------------------------------------------------------------------------------------


def transitivity(draw: Draw, flip: bool) -> Sides:
    with_object, without, thing, preposition = draw.one(w.TRANSITIVITY)
    place = f"{preposition} the {thing}" if flip else f"the {thing}"
    return fill(f"the {draw.one(w.PEOPLE)[0]} _ {place}.", with_object, without, flip=flip)


def told_or_explained(draw: Draw, flip: bool) -> Sides:
    hearer = f"{'to ' if flip else ''}the {draw.one(w.PEOPLE)[1]}"
    frame = f"{draw.name()} _ {hearer} that {draw.one(w.NEWS)}."
    return fill(frame, draw.one(w.TELL), draw.one(w.EXPLAIN), flip=flip)


def preposition(draw: Draw, flip: bool) -> Sides:
    verb, thing = draw.one(w.TO if flip else w.ON)
    return fill(f"the {draw.one(w.PEOPLE)[0]} {verb} _ {thing}.", "on", "to", flip=flip)


# --- control and raising --------------------------------------------------------------------------------------------


def expletive(draw: Draw, flip: bool) -> Sides:
    subject, hearer = draw.couple()
    event = draw.one(w.EVENTS)
    frame = f"{subject} _ {hearer} that there was a {event}." if flip else f"{subject} _ there to be a {event}."
    return fill(frame, draw.one(w.EXPECT), draw.one(w.PERSUADE), flip=flip)


def gerund_or_infinitive(draw: Draw, flip: bool) -> Sides:
    action = draw.one(w.ACTIONS)
    frame = f"{draw.name()} _ {f'to {action.base}' if flip else action.ing} {action.rest}."
    return fill(frame, draw.one(w.GERUND), draw.one(w.INFINITIVE), flip=flip)


def hard_or_willing(draw: Draw, flip: bool) -> Sides:
    verb, thing = draw.one(w.CHORES)
    frame = f"the {draw.one(w.PEOPLE)[0]} was _ to {verb} the {thing}." if flip else f"the {thing} was _ to {verb}."
    return fill(frame, draw.one(w.HARD), draw.one(w.WILLING), flip=flip)


# --- negative polarity ----------------------------------------------------------------------------------------------


def nobody_ever(draw: Draw, _flip: bool) -> Sides:
    other, verb, done = f"the {draw.one(w.PEOPLE)[0]}", draw.one(w.MET), draw.one(w.EXPERIENCES)
    return f"nobody that {other} {verb} has ever {done}.", f"{other} that nobody {verb} has ever {done}."


def no_ever(draw: Draw, flip: bool) -> Sides:
    (one, other), verb, done = draw.two(w.PEOPLE), draw.one(w.MET), draw.one(w.EXPERIENCES)
    head, tail = one[flip], f"{'have' if flip else 'has'} ever {done}."
    return f"no {head} that the {other[1]} {verb} {tail}", f"the {head} that no {other[1]} {verb} {tail}"


def either_or_too(draw: Draw, flip: bool) -> Sides:
    (one, other), action = draw.couple(), draw.one(w.ACTIONS)
    if flip:
        return fill(f"{one} {action.past} {action.rest}, and {other} {action.past} _.", "either", "too", flip=True)
    denied = f"did not {action.base}"
    return fill(f"{one} {denied} {action.rest}, and {other} {denied} _.", "either", "too", flip=False)


# --- gaps and islands -----------------------------------------------------------------------------------------------


def gap(draw: Draw, flip: bool) -> Sides:
    task, (one, other) = draw.one(w.TASKS), draw.two(w.PEOPLE)
    end = f" {task.object}" if flip else ""
    frame = f"{draw.name()} {draw.one(['knows', 'forgot'])} _ the {one[0]} near the {other[0]} {task.past}{end}."
    return fill(frame, "what", "that", flip=flip)


def distant_gap(draw: Draw, flip: bool) -> Sides:
    task, (one, other) = draw.one(w.TASKS), draw.couple()
    end = f" {task.object}" if flip else ""
    frame = f"{one} heard _ {other} {draw.one(['said', 'thought'])} the {draw.one(w.PEOPLE)[1]} {task.past}{end}."
    return fill(frame, "what", "that", flip=flip)


def subject_gap(draw: Draw, flip: bool) -> Sides:
    task, (one, other) = draw.one(w.TASKS), draw.couple()
    frame = f"{one} wonders _ {f'{other} ' if flip else ''}{task.past} {task.object}."
    return fill(frame, "who", "whether", flip=flip)


def adjunct_island(draw: Draw, flip: bool) -> Sides:
    ing, (doing, thing) = draw.one([task.ing for task in w.TASKS if task.ing]), draw.one(w.MEANWHILE)
    start, middle = f"what was the {draw.one(w.PEOPLE)[0]}", f"while {'he' if flip else 'she'} was"
    return f"{start} {ing} {middle} {doing} {thing}?", f"{start} {doing} {thing} {middle} {ing}?"


def relative_island(draw: Draw, flip: bool) -> Sides:
    name, base = draw.name(), draw.one(["blame", "trust", "miss", "choose", "describe", "praise"])
    start = f"who did the {draw.one(w.PEOPLE)[flip]} that {draw.one(w.MET)}"
    return f"{start} {name} {base}?", f"{start} {base} {name}?"


def left_branch(draw: Draw, flip: bool) -> Sides:
    thing, verb = draw.one(w.THINGS)[flip], draw.one(["buy", "find", "want", "sell", "clean", "borrow"])
    asked, name = draw.one(["whose", "which"]), draw.name()
    return f"{asked} {thing} did {name} {verb}?", f"{asked} did {name} {verb} {thing}?"


def coordinate_island(draw: Draw, _flip: bool) -> Sides:
    (things, verb), (one, other) = draw.one(w.SONGS), draw.couple()
    start = f"{draw.one(['which', 'what', 'whose', 'how many'])} {things} did"
    return f"{start} {one} and {other} {verb}?", f"{start} {one} {verb} and {other}?"


# --- ellipsis -------------------------------------------------------------------------------------------------------


def left_out_noun(draw: Draw, _flip: bool) -> Sides:
    (one, other), look, thing = draw.couple(), draw.one(w.SIZES), draw.one(w.THINGS)[0]
    verb, number = draw.one(["bought", "has", "found", "sold"]), draw.one(w.NUMBERS)
    start, end = f"{one} {verb} one", f"and {other} {verb} {number}"
    return f"{start} {look} {thing}, {end}.", f"{start} {thing}, {end} {look}."


def left_out_verb(draw: Draw, flip: bool) -> Sides:
    (one, other), action, done = draw.couple(), draw.one(w.ACTIONS), draw.one(w.EXPERIENCES)
    if flip:
        return fill(f"{one} was {action.ing} {action.rest}, and {other} _ too.", "has", "was", flip=True)
    return fill(f"{one} has {done}, and {other} _ too.", "has", "was", flip=False)


# --- order of words: both sides hold the same words -----------------------------------------------------------------


def indirect_question(draw: Draw, flip: bool) -> Sides:
    name, start = draw.name(), draw.one(["I forgot", "we know", "she asked", "he remembers"])
    action = draw.one(["living", "working", "sleeping", "waiting", "going", "sitting"])
    if flip:
        when = draw.one(["now", "today", "tonight"])
        return f"where is {name} {action} {when}?", f"where {name} is {action} {when}?"
    return f"{start} where {name} is {action}.", f"{start} where is {name} {action}."


def particle(draw: Draw, flip: bool) -> Sides:
    (verb, away), name = draw.one(w.PARTICLES), draw.name()
    it, where = ("them" if flip else "it"), draw.one(["after lunch", "in the hall", "this morning", "at home", "again"])
    return f"{name} {verb} {it} {away} {where}.", f"{name} {verb} {away} {it} {where}."


def adverb(draw: Draw, flip: bool) -> Sides:
    who, how, verb, thing = draw.one(w.PEOPLE)[flip], draw.one(w.MANNERS), draw.one(w.HANDLED), draw.one(w.THINGS)[0]
    return f"the {who} {how} {verb} the {thing}.", f"the {who} {verb} {how} the {thing}."


def enough(draw: Draw, _flip: bool) -> Sides:
    thing, how, end = draw.one(w.ENOUGH)
    start = f"{draw.one(['the', 'this', 'that', 'his', 'our'])} {thing} {draw.one(['is', 'was'])}"
    return f"{start} {how} enough {end}.", f"{start} enough {how} {end}."


def how_much(draw: Draw, _flip: bool) -> Sides:
    (how, thing), name = draw.one(w.MEASURES), draw.name()
    start = f"{name} {draw.one(['asked', 'knew', 'guessed', 'forgot'])} how"
    return f"{start} {how} the {thing} was.", f"{start} the {thing} was {how}."
