"""A child of this process: it has imported torch and transformers already, on which a new one spends five seconds."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

import torch


def fork(work: Callable[[], object]) -> int:
    """Return the id of a child that does `work` and ends: with 0, or with 1 when it raised, which it writes to stderr.

    The child computes on one thread: it has no thread pool, whose threads are not forked.
    """
    if (child := os.fork()) == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            work()
            code = 0
        except BaseException:  # noqa: BLE001  what it was is said by the child, whose parent cannot catch it
            traceback.print_exc()
        finally:
            os._exit(code)  # nothing of the tests' own end is done twice
    return child
