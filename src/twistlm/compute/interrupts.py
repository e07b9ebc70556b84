"""Ctrl-C and SIGTERM end a run between two updates, so that what was computed is kept."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from signal import Signals
from types import FrameType
from typing import Any, Self

import torch
from torch import distributed as dist

from twistlm.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While open, the first signal is only noted, in `number`; a second one acts as it would without us.

    One that came too late for the block, which ends well in spite of it, acts when the block has ended: what goes on
    after a training is not gone on with. (Not where later ones are only noted too: ranks end together.)

    Python gives signals to the main thread; in any other nothing is caught and nothing noted.

    Args:
        again: whether later signals are only noted too. Under torchrun one Ctrl-C or one scontrol reaches a rank twice,
            from the terminal or the scheduler and from torchrun, which kills in the end what does not end by itself.
    """

    number: int = 0

    def __init__(self, *, again: bool = False) -> None:
        self._again = again

    def __enter__(self) -> Self:
        self._old: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                old = signal.getsignal(number)
                if old not in (signal.SIG_IGN, None):  # ignored (nohup), or not Python's to give back
                    self._old[number] = old
                    signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._restore()
        if kind is None and self.number and not self._again:
            signal.raise_signal(self.number)

    def agreed(self) -> int:
        """Return the highest number that any rank of a run noted, the same on all; alone, `number`."""
        if not dist.is_initialized():
            return self.number
        highest = torch.tensor(self.number)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return int(highest)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.number = number
        if not self._again:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}


def stopped(number: int, done: int, updates: int, state: Path) -> Stopped:
    """Return the error that ends a training by the signal `number`, after its state is saved."""
    return Stopped(
        f"training was stopped by {Signals(number).name} after update {done} of {updates}; its state is in {state}. "
        "Run the same command again to go on from there.",
        number=number,
    )
