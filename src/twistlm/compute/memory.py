"""What glibc does with the memory of freed tensors: by default something between the two settings here.

Scoring and sampling are faster when it stays with the process: handed back to the kernel, it comes again page by page,
each zeroed first (scoring 2 rows of 250 tokens with a 135M model faulted 70,000 pages, a sixth of its time). Training
on several ranks takes less when it goes back: layers that are put together and let go among slices that stay leave
holes, and a rank took 1.6 to 1.7 times what it used (`benchmarks/plan_memory.py`).
"""

from __future__ import annotations

import ctypes
import functools
import platform
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_... of glibc's malloc.h; set by hand, the second no longer grows
# Bytes of a block, and of what lies free at the heap's end. Giving back from 128 KiB on makes updates a third slower.
_KEPT, _GIVEN_BACK = 2**30, 2**20


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks of up to 1 GiB, from now on; where there is no glibc, nothing changes.

    It is given back at the end. Other work beside it may take as much again: quickstart's peak went from 4.2 to 5.3 GB.
    """
    _set(_KEPT)


def give_back_freed_memory() -> None:
    """Have glibc return every freed block of 1 MiB or more to the system, from now on."""
    _set(_GIVEN_BACK)


def give_back_now() -> None:
    """Have glibc return to the system what is free at this moment; what is freed later is treated as before."""
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def in_halves(work: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]) -> list[Result]:
    """Return `work(items)`, or where a GPU's memory is too small for all of them, that of each half, and so on.

    Nothing may depend on what is worked on together. A warning says that it happened: smaller batches are slower.

    Raises:
        torch.OutOfMemoryError: one item alone does not fit.
    """
    import torch

    try:
        return list(work(items))
    except torch.OutOfMemoryError:
        if len(items) < 2:
            raise
    # Outside of the except block, where the error's frames still hold the tensors of the failed try.
    say_too_small(f"a batch of {len(items)}")
    half = len(items) // 2
    return [*in_halves(work, items[:half]), *in_halves(work, items[half:])]


def say_too_small(what: str) -> None:
    """Warn that a GPU's memory was too small for what is now tried again in halves, and let go of what is free."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    warnings.warn(
        f"{what} does not fit the GPU's memory: it is computed in halves, the same numbers more slowly.",
        RuntimeWarning,
        stacklevel=3,
    )


def _set(threshold: int) -> None:
    if _has_glibc():
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, threshold)
        libc.mallopt(_MMAP_THRESHOLD, threshold)


@functools.cache
def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
