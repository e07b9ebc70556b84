"""Deduplication: F frames become R runs and back. `expand(*dedup(frames)) == frames`, always."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import BadInput


def dedup(frames: NDArray[np.uint16]) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """Collapse consecutive equal units.

    Args:
        frames: uint16 [F], one unit per frame; may be empty.

    Returns:
        ids uint16 [R], consecutive ids differ; runs int32 [R], frames each lasts, summing to F.
    """
    frames = np.asarray(frames, dtype=np.uint16)
    starts = np.flatnonzero(np.concatenate(([True], frames[1:] != frames[:-1]))) if len(frames) else np.zeros(0, int)
    return frames[starts], np.diff(starts, append=len(frames)).astype(np.int32)


def expand(ids: NDArray[np.uint16], runs: NDArray[np.int32]) -> NDArray[np.uint16]:
    """Write runs out: uint16 [F], F the sum of `runs` (each at least 0)."""
    if len(ids) != len(runs):
        raise BadInput(f"{len(ids)} units but {len(runs)} run lengths; they must pair up.")
    return np.repeat(np.asarray(ids, dtype=np.uint16), runs)
