"""Settings of the whole process that several threads may want at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Shared:
    """A setting that holds as long as anybody is inside: the first who enters makes it, the last who leaves undoes it.

    If each put back what it had found, the second who came would put back the setting of the first, for good.
    """

    def __init__(self, make: Callable[[], Callable[[], object]]) -> None:
        """Take what makes the setting, and returns what puts back what was before."""
        self._make, self._lock, self._inside = make, threading.Lock(), 0
        self._undo: Callable[[], object] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Inside the block the setting holds."""
        with self._lock:
            if not self._inside:
                self._undo = self._make()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside and self._undo is not None:
                    undo, self._undo = self._undo, None  # it may hold what should not be kept
                    undo()
