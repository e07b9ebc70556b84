"""What C libraries print while they decode: nobody asked for it, and what matters of it is said as an error or a note.

libmpg123, inside libsndfile, writes to C's `stderr`, and no setting of libsndfile keeps it from that. Where the C
library lets itself be asked, that variable shows to the null device for the moment. Python's own stderr, and the
descriptor below both, stay as they are, so bars and errors of other threads are not touched.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager

from twistlm.compute.shared import Shared


def _to_null() -> Callable[[], None]:
    if (place := _stderr()) is None:
        return lambda: None
    variable, null = place
    before, variable.value = variable.value, null

    def put_back() -> None:
        variable.value = before

    return put_back


_seen_by_nobody = Shared(_to_null)


def quiet_decoder() -> AbstractContextManager[None]:
    """Nothing that C code prints to `stderr` inside the block is seen. Blocks may overlap, in any threads."""
    return _seen_by_nobody()


@functools.cache
def _stderr() -> tuple[ctypes.c_void_p, int] | None:
    """Return C's variable `stderr`, and an open FILE of the null device; None where there is no such variable."""
    try:
        libc = ctypes.CDLL(None)
        variable = ctypes.c_void_p.in_dll(libc, "stderr")
        libc.fopen.restype = ctypes.c_void_p
        null = libc.fopen(os.fsencode(os.devnull), b"w")
    except (OSError, ValueError, AttributeError):
        return None
    return (variable, null) if null and variable.value else None
