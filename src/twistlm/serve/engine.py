"""Several listeners, one thread that computes: units for all of them together, sound for each as its units come.

A listener waits in a bounded queue, gets a row of its model's batch (`lm.continuous`), and is told of each piece of
units and sound as it is made, then of the end. Whoever leaves, waits too long or takes too long loses the row at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from twistlm.compute.memory import give_back_now
from twistlm.compute.threads import one_blas_thread
from twistlm.errors import TwistError
from twistlm.lm.continuation import Continuation
from twistlm.lm.continuous import Batch, Row
from twistlm.lm.model import UnitLM

# Units that are spoken at once: few until the first sound, then as many as come while what was sent is played, since
# each piece has a cost of its own. When less than RESERVE seconds of that are left, they are not waited for.
FIRST, MOST = 2, 32
RESERVE = 0.5
IDLE = 10  # seconds without a listener after which the memory of the busy time before is given back

Reason = Literal["done", "cancelled", "late", "failed"]


class Busy(TwistError):
    """As many listeners are being served and waiting as may."""


class Stream(Protocol):
    """A voice that speaks units as they come, in so many samples a second."""

    sample_rate: int

    def push(self, ids: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Take units; return the samples that no later unit can change, maybe none."""

    def finish(self) -> NDArray[np.float32]:
        """Return the rest."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many the engine serves.

    Attributes:
        listeners: continued at once, at least 1.
        waiting: in the queue behind those.
        wait_seconds: in the queue, before a listener is told that it is too late.
        work_seconds: from leaving the queue to the end.
    """

    listeners: int = 4
    waiting: int = 16
    wait_seconds: float = 30.0
    work_seconds: float = 180.0


@dataclass(frozen=True, eq=False)
class Piece:
    """New units, and new sound: of these units or of earlier ones.

    Attributes:
        ids: uint16 [R], maybe none.
        samples: float32 [N] at the voice's rate, maybe none.
    """

    ids: NDArray[np.uint16]
    samples: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class End:
    """The last a listener hears.

    Attributes:
        reason: "done"; "cancelled"; "late", after a limit of time; "failed".
        message: why, in words; "" when done.
        waited: seconds in the queue.
        first: seconds from leaving the queue to the first sound; None when there was none.
        worked: seconds from leaving the queue to the end.
        samples: how many there were.
        units: how many there were.
    """

    reason: Reason
    message: str
    waited: float
    first: float | None
    worked: float
    samples: int
    units: int


@dataclass(eq=False)
class Listener:
    """One continuation that is waited for."""

    model: str
    asked: Continuation
    stream: Stream
    deliver: Callable[[Piece | End], None]
    came: float
    began: float | None = None
    first: float | None = None
    row: Row | None = None
    held: list[int] = field(default_factory=list)  # units that are not spoken yet
    samples: int = 0
    plays_until: float = 0.0  # when what was made is over, for who plays it as it comes and waits where there is none
    leaving: bool = False

    def waits_for_sound(self) -> bool:
        """Whether what it has yet to hear is to be spoken now."""
        if self.first is None:
            return len(self.held) >= FIRST
        return len(self.held) >= MOST or self.plays_until - time.monotonic() < RESERVE


class Engine:
    """Continue for many listeners. `start` it, `submit` to it from any thread, `close` it."""

    def __init__(self, models: Mapping[str, UnitLM], room: Room) -> None:
        """Take models by name; nothing is computed before `start`."""
        self.models, self.room = dict(models), room
        self._batches = {name: Batch(lm, rows=room.listeners) for name, lm in self.models.items()}
        self._waiting: deque[Listener] = deque()
        self._served: list[Listener] = []
        self._change = threading.Condition()
        self._closing = False
        self._warm = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to compute; returns when the models are ready.

        Raises:
            TwistError: they could not be made ready.
        """
        self._thread.start()
        while self._thread.is_alive() and not self._warm.wait(0.1):
            pass
        if not self._warm.is_set():
            raise TwistError("the engine could not start: the traceback above says why.")

    @property
    def alive(self) -> bool:
        """Whether it computes; when False it never will again."""
        return self._thread.is_alive() and not self._closing

    @property
    def load(self) -> tuple[int, int]:
        """How many are being served, and how many wait."""
        with self._change:
            return len(self._served), len(self._waiting)

    def submit(
        self, model: str, asked: Continuation, stream: Stream, deliver: Callable[[Piece | End], None]
    ) -> Listener:
        """Queue a continuation.

        Args:
            model: its name.
            asked: made by `lm.sample.begin` with that model.
            stream: speaks its units.
            deliver: is given each `Piece` and at last one `End`, on the engine's thread or, in the queue, on that of
                `cancel` or `tend`; it must return at once and raise nothing.

        Raises:
            Busy: the queue is full, or the engine has stopped.
        """
        listener = Listener(model, asked, stream, deliver, came=time.monotonic())
        with self._change:
            if not self.alive:
                raise Busy("the engine has stopped: start the server again.")
            # A free seat is taken between two steps only, and a step may be long.
            if len(self._waiting) + len(self._served) >= self.room.waiting + self.room.listeners:
                raise Busy(
                    f"{len(self._served)} listeners are being served and {len(self._waiting)} wait: try again in a "
                    "few seconds."
                )
            self._waiting.append(listener)
            self._change.notify()
        return listener

    def cancel(self, listener: Listener) -> None:
        """Stop a continuation; its `End` still comes, unless it came already."""
        with self._change:
            listener.leaving = True
            self._change.notify()
        self.tend()

    def tend(self) -> None:
        """Tell those in the queue who have waited too long, or leave. The engine does it between two steps only."""
        now = time.monotonic()
        with self._change:
            over = [(one, why) for one in self._waiting if (why := self._over(one, now)) is not None]
            for one, _ in over:
                self._waiting.remove(one)
        for one, why in over:
            self._end(one, *why)

    def position(self, listener: Listener) -> int:
        """How many listeners wait before this one; 0 when it is next, or being served."""
        with self._change:
            return self._waiting.index(listener) if listener in self._waiting else 0

    def close(self) -> None:
        """Stop computing; everyone is told. Returns when the thread has ended."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                stack.enter_context(one_blas_thread())
                for batch in self._batches.values():
                    stack.enter_context(batch.computing())
                self._warm.set()
                while self._admit():
                    for name, batch in self._batches.items():
                        if len(batch):
                            self._step(name, batch)
        finally:
            self._closing = True
            with self._change:
                everyone = [*self._served, *self._waiting]
                self._waiting.clear()
            for listener in everyone:
                self._end(listener, "failed", "the server is stopping.")

    def _admit(self) -> bool:
        """Let listeners in and out until there is something to compute; False when the engine closes."""
        idle = 0
        while not self._closing:
            self.tend()
            now = time.monotonic()
            for one in list(self._served):
                if (why := self._over(one, now)) is not None:
                    self._end(one, *why)
            with self._change:
                while self._waiting and len(self._served) < self.room.listeners:
                    one = self._waiting.popleft()
                    one.began = time.monotonic()
                    one.row = self._batches[one.model].join(one.asked)
                    self._served.append(one)
                if self._served:
                    return not self._closing
                if not self._closing and not self._change.wait(1.0):
                    idle += 1
            if idle == IDLE:
                give_back_now()
        return False

    def _over(self, one: Listener, now: float) -> tuple[Reason, str] | None:
        """Return how and why a listener's time is over, if it is."""
        if one.leaving:
            return "cancelled", "the listener left."
        if one.began is None and now - one.came > self.room.wait_seconds:
            return "late", f"not done after {self.room.wait_seconds:g} s in the queue."
        if one.began is not None and now - one.began > self.room.work_seconds:
            return "late", f"not done after {self.room.work_seconds:g} s of computing."
        return None

    def _step(self, name: str, batch: Batch) -> None:
        here = {one.row: one for one in self._served if one.model == name}
        try:
            made = batch.step()
        except (RuntimeError, MemoryError) as error:  # of torch: no memory, a device that failed
            batch.clear()
            for one in here.values():
                self._end(one, "failed", f"the model could not go on: {error}")
            return
        for row, new in made.items():
            one = here[row]
            one.held += [token - batch.lm.vocab.offset for token in new]
            if row.done or one.waits_for_sound():
                self._speak(one, last=row.done)

    def _speak(self, one: Listener, *, last: bool) -> None:
        ids = np.array(one.held, dtype=np.uint16)
        one.held.clear()
        try:
            with torch.inference_mode():
                samples = one.stream.push(ids) if len(ids) else np.zeros(0, np.float32)
                if last:
                    samples = np.concatenate([samples, one.stream.finish()])
        except (RuntimeError, MemoryError, TwistError) as error:
            self._end(one, "failed", f"the voice could not go on: {error}")
            return
        if len(samples):
            now = time.monotonic()
            one.first = one.first or now
            one.samples += len(samples)
            one.plays_until = max(one.plays_until, now) + len(samples) / one.stream.sample_rate
        if len(ids) or len(samples):
            one.deliver(Piece(ids, samples))
        if last:
            self._end(one, "done", "")

    def _end(self, one: Listener, reason: Reason, message: str) -> None:
        now = time.monotonic()
        if one.row is not None:
            self._batches[one.model].leave(one.row)
        with self._change:
            if one in self._served:
                self._served.remove(one)
        began = now if one.began is None else one.began
        one.deliver(
            End(
                reason=reason,
                message=message,
                waited=began - one.came,
                first=None if one.first is None else one.first - began,
                worked=now - began,
                samples=one.samples,
                units=0 if one.row is None else len(one.row.new),
            )
        )
