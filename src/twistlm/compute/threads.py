"""Many clips at once: as many threads as torch may use, each with one core and a clip of its own.

A clip's matrices are too small to be shared out: two threads that meet after every small product wait more than they
work (`benchmarks/tokenize_clips.py`).
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from twistlm.compute import underway
from twistlm.compute.shared import Shared
from twistlm.errors import TwistError

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController
    from threadpoolctl import _ThreadpoolLimiter as ThreadpoolLimits

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def apart(work: Callable[[], Result]) -> Result:
    """Return `work()`, done in a thread of its own that ends with it.

    Each thread that has computed keeps a team of OpenMP's threads, and while there are more of those than cores, all
    wait for each other asleep: a drafted unit of a 135M model on two cores then takes 20 ms instead of 13. A team ends
    with its thread. So what is done once before long work on another thread is done apart.
    """
    with ThreadPoolExecutor(1) as one:
        return one.submit(contextvars.copy_context().run, work).result()


_computed_in: int | None = None  # the process in which torch may have made threads


def require_threads() -> None:
    """Say that this process computes.

    Raises:
        TwistError: it was forked from one that did, and torch would wait for threads for ever that were not forked.
    """
    global _computed_in
    import torch

    if torch.get_num_threads() == 1:
        return
    if _computed_in is None:
        _computed_in = os.getpid()
    elif _computed_in != os.getpid():
        raise TwistError(
            f"this process was forked from one that had computed already ({_computed_in}), and torch would wait for "
            "ever for threads that are not here. Start processes with multiprocessing.get_context('spawn'), or begin "
            "each of them with torch.set_num_threads(1)."
        )


def in_order(work: Callable[[Item], Result], items: Iterable[Item], *, ahead: int | None = None) -> Generator[Result]:
    """Yield `work(item)` for each item, in their order; `ahead` items (a few) are under way or done, never more.

    `work` is called from several threads and must bear that; an error it raises comes when its item's turn does. Until
    the iterator ends or is closed, torch and numpy compute every operation on one thread. Closed, also by Ctrl-C, it
    waits for what is under way, which ends early where it calls `underway.heard`.
    """
    import torch

    threads = torch.get_num_threads()
    at_most = 2 * threads if ahead is None else ahead
    begun: deque[tuple[Future[Result], underway.Piece]] = deque()
    ended = threading.Event()
    # Whoever leaves `one_thread` meanwhile changes what a new thread gets.
    executor = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def begin(item: Item) -> None:
        piece, context = underway.Piece(ended), contextvars.copy_context()
        context.run(underway.piece.set, piece)
        begun.append((executor.submit(context.run, work, item), piece))

    def first() -> Result:
        future, piece = begun.popleft()
        result = future.result()
        if (bar := underway.listener.get()) is not None:
            bar.finished(piece.share)
        return result

    with one_thread():
        try:
            for item in items:
                begin(item)
                if len(begun) > at_most:
                    yield first()
            while begun:
                yield first()
        finally:
            ended.set()
            executor.shutdown(cancel_futures=True)


def _to_one() -> Callable[[], None]:
    import torch

    threads, blas = torch.get_num_threads(), one_blas_thread()

    def put_back() -> None:
        blas.restore_original_limits()  # of OpenMP's threads too, so torch's come after
        torch.set_num_threads(threads)

    return put_back


_one = Shared(_to_one)


@contextlib.contextmanager
def one_thread() -> Generator[None]:
    """Inside the block, or the function it decorates, let torch and numpy compute on one thread.

    For what must have the same digits with any number of threads: how a sum is shared out decides how it is rounded.
    Blocks of several threads may overlap: the last who leaves puts back what the first had found. torch's number is
    each thread's own, settled when it first asks; one that first asks while others are inside may keep one core.
    """
    import torch

    mine = torch.get_num_threads()
    with _one():
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(mine)


def one_blas_thread() -> ThreadpoolLimits:
    """Let numpy and scipy multiply on one thread from now on, until its block is left or its limits are restored.

    Their threads wait for the next product spinning, some 25 ms for each of the two libraries, on cores that torch's
    threads need: a prompt of 91 units, read after it was heard, takes 180 ms instead of 130.
    """
    return _pools(len(sys.modules)).limit(limits=1, user_api="blas")


@functools.lru_cache(maxsize=1)
def _pools(_n_modules: int) -> ThreadpoolController:
    """Return what holds the libraries that have threads: sought again, for 5 ms, only where more has been imported."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
