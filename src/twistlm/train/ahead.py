"""The next batch, made while a GPU computes this one."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from twistlm.corpus.stream import Batch, PackedStream
from twistlm.train.parallel import Ranks


class Ahead:
    """A rank's batches of a stream; use as a context manager.

    A batch is a function of its number, so what was made ahead and not taken is simply dropped. On a CPU nothing is
    made ahead: it would take a core from what is being computed.
    """

    def __init__(self, stream: PackedStream, ranks: Ranks, *, enabled: bool) -> None:
        self._stream, self._ranks = stream, ranks
        self._thread = ThreadPoolExecutor(1) if enabled else None
        self._next: tuple[int, Future[Batch]] | None = None

    def take(self, number: int) -> Batch:
        """Return batch `number`, and begin the one after it."""
        if self._thread is None:
            return self._make(number)
        made, self._next = self._next, None
        batch = made[1].result() if made is not None and made[0] == number else self._make(number)
        self._next = number + 1, self._thread.submit(self._make, number + 1)
        return batch

    def _make(self, number: int) -> Batch:
        return self._stream.batch(number, rank=self._ranks.rank, world=self._ranks.world)

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
