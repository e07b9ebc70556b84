"""Progress bars with rate and time left, on standard error, so that `--json` output stays clean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from twistlm.errors import visible

T = TypeVar("T")


class _Rate(ProgressColumn):
    """Items per second, or seconds per item when slower than one a second."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        if not rate:
            return Text("  –  ", style="progress.data.speed")
        return Text(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each", style="progress.data.speed")


class Bar:
    """What `task` yields; call `advance` when items are done."""

    def __init__(self, progress: Progress | None = None, task_id: Any = None) -> None:
        self._progress, self._task_id = progress, task_id

    def advance(self, n: float = 1) -> None:
        if self._progress is not None:
            self._progress.advance(self._task_id, n)


@contextmanager
def task(description: str, total: float | None = None, enabled: bool = False) -> Iterator[Bar]:
    """Show a bar while the block runs; a `total` of None pulses. Shows nothing unless `enabled`."""
    if not enabled:
        yield Bar()
        return
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bar(progress, progress.add_task(visible(description), total=total))


def track(iterable: Iterable[T], *, description: str, total: float | None = None, enabled: bool = False) -> Iterator[T]:
    """Yield from `iterable` under a bar; the total is its length when it has one."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with task(description, total, enabled) as bar:
        for item in iterable:
            yield item
            bar.advance()
