"""Long pieces of work: how far they are, and whether anyone still waits for them.

A file of hours is one item of a job. Whoever works on it says now and then how much of it is done, which moves the bar
of the job, and is told there to stop when the job was ended: a thread cannot be ended from outside.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

LONG = 600.0  # seconds of sound from which an item's are told


class Unwanted(Exception):
    """The job that a piece of work belongs to was ended; nobody reads its result."""


@dataclass(eq=False)
class Piece:
    """One item that a thread works on.

    Attributes:
        ended: set when nobody waits for it any more.
        share: of it that is done, 0 … 1, as far as was said.
    """

    ended: threading.Event = field(default_factory=threading.Event)
    share: float = 0.0


class Listener(Protocol):
    """A bar: is told by several threads."""

    def heard(self, seconds: float, share: float) -> None: ...

    def part(self, share: float) -> float: ...

    def finished(self, share: float) -> None: ...


piece: ContextVar[Piece | None] = ContextVar("piece", default=None)
listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def require_wanted() -> None:
    """Do nothing while the piece of work that this thread is at is wanted.

    Raises:
        Unwanted: it is not.
    """
    mine = piece.get()
    if mine is not None and mine.ended.is_set():
        raise Unwanted


def heard(seconds: float, *, of: float) -> None:
    """Say that so many more seconds of sound are done, of all that the piece has; a bar shows them of long ones.

    Raises:
        Unwanted: it need not go on.
    """
    done(seconds / of if of > 0 else 0.0, seconds=seconds if of >= LONG else 0.0)


def done(share: float, *, seconds: float = 0.0) -> None:
    """Say that a further share of the piece is done, 0 … 1, where it is not measured in sound.

    Raises:
        Unwanted: it need not go on.
    """
    require_wanted()
    mine, bar = piece.get(), listener.get()
    if mine is not None:
        share = min(share, 1.0 - mine.share)
        mine.share += share
    if bar is not None:
        if mine is None:  # of the item that the bar counts next, maybe one of several sounds
            share = bar.part(share)
        bar.heard(seconds, share)
