"""Progress bars with rate and time left, on standard error, so that `--json` output stays clean."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from twistlm.compute import underway
from twistlm.errors import visible

T = TypeVar("T")


class _Rate(ProgressColumn):
    """Items per second, or seconds per item when slower than one a second."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        if not rate:
            return Text("  –  ", style="progress.data.speed")
        return Text(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each", style="progress.data.speed")


class _Done(ProgressColumn):
    """Items done of all, and how much of the long ones was heard."""

    def render(self, task: Task) -> Text:
        total = "?" if task.total is None else f"{int(task.total)}"
        seconds = int(task.fields.get("seconds", 0))
        sound = f", {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} of long sound" if seconds else ""
        return Text(f"{int(task.completed + 1e-6)}/{total}{sound}", style="progress.download")


class Bar:
    """What `task` yields; call `advance` when items are done. Long items move it before, by `underway.heard`."""

    def __init__(self, progress: Progress | None = None, task_id: Any = None) -> None:
        self._progress, self._task_id = progress, task_id
        self._seconds = self._shown = 0.0  # of sound; of finished items, in items, shown before they were counted
        self._lock = threading.Lock()

    def advance(self, n: float = 1) -> None:
        with self._lock:
            shown = min(n, self._shown)
            self._shown -= shown
            self._move(n - shown)

    def heard(self, seconds: float, share: float) -> None:
        """Move by a share of an item that is under way."""
        with self._lock:
            self._seconds += seconds
            self._move(share)

    def part(self, share: float) -> float:
        """Note a share of the item that is counted next; return how much of it may be shown: no more than the item."""
        with self._lock:
            share = min(share, max(0.0, 1.0 - self._shown))
            self._shown += share
            return share

    def finished(self, share: float) -> None:
        """Note that the next item to be counted was shown so far already."""
        with self._lock:
            self._shown += share

    def _move(self, n: float) -> None:
        if self._progress is not None:
            self._progress.update(self._task_id, advance=n, seconds=self._seconds)


@contextmanager
def task(description: str, total: float | None = None, enabled: bool = False) -> Iterator[Bar]:
    """Show a bar while the block runs; a `total` of None pulses. Shows nothing unless `enabled`."""
    if not enabled:
        yield Bar()
        return
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), _Done(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = Bar(progress, progress.add_task(visible(description), total=total))
        before = underway.listener.get()
        underway.listener.set(bar)
        try:
            yield bar
        finally:
            underway.listener.set(before)


def track(iterable: Iterable[T], *, description: str, total: float | None = None, enabled: bool = False) -> Iterator[T]:
    """Yield from `iterable` under a bar; the total is its length when it has one."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with task(description, total, enabled) as bar:
        for item in iterable:
            yield item
            bar.advance()
