"""Laying documents into rows of equal length, so that little of a batch is padding. Pure numpy; R rows, P pieces.

A document of n tokens trains n-1 predictions ("steps": one input token and the token after it); it is steps that are
laid out. A document may be cut between any two steps: the next piece begins with the token the last piece ended by
predicting, so each step is in exactly one piece and no target is lost or doubled.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import BadInput


@dataclass(frozen=True, eq=False)
class Layout:
    """Which piece of which document lies in which row; row r holds the pieces `rows[r]` … `rows[r + 1]`.

    Attributes:
        document, start, length: int64 [P]: steps `start` … `start + length` of a document.
        rows: int64 [R+1], where each row's pieces begin.
    """

    document: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows) - 1


def pack(steps: NDArray[np.integer], *, context: int, seed: int, max_padding: float = 0.08) -> Layout:
    """Lay documents into rows of `context` steps.

    Documents longer than a row are cut into whole rows and a rest. Rests and short documents go, longest first, into
    the row they fill best. When more than `max_padding` of those places would stay empty, the emptiest rows are
    dissolved and their documents cut to fill the gaps of the others: cutting costs a document some context, so no more
    than needed is cut.

    Args:
        steps: int [D], steps of each document (its tokens minus one), at least 1.
        context: T, steps in a row.
        seed: which documents of equal length lie together.
        max_padding: share of the places that may stay empty (beyond the last row), 0 … 1.
    """
    steps = np.asarray(steps, dtype=np.int64)
    if context < 1:
        raise BadInput(f"context must be at least 1 token, got {context}.")
    if len(steps) and steps.min() < 1:
        raise BadInput("a document needs at least two tokens, <s> and <s>.")

    whole, rest = np.divmod(steps, context)
    documents = np.arange(len(steps))
    full = np.repeat(documents, whole)
    full_start = (np.arange(len(full)) - np.repeat(np.cumsum(whole) - whole, whole)) * context

    order = np.random.default_rng(seed).permutation(documents[rest > 0])
    order = order[np.argsort(-rest[order], kind="stable")]
    row_of, used = _best_fit(rest[order], context)
    pieces = np.stack([order, whole[order] * context, rest[order], row_of], axis=1)  # document, start, length, row

    needed = int(np.ceil(rest.sum() / (context * (1 - max_padding)))) if max_padding < 1 else len(used)
    if needed < len(used):
        pieces = _dissolve(pieces, np.array(used), needed, context)
    filled = np.stack([full, full_start, np.full(len(full), context), np.arange(len(full)) - len(full)], axis=1)
    pieces = np.concatenate([filled, pieces])
    pieces = pieces[np.argsort(pieces[:, 3], kind="stable")]
    starts = np.flatnonzero(np.diff(pieces[:, 3], prepend=np.iinfo(np.int64).min))
    return Layout(pieces[:, 0], pieces[:, 1], pieces[:, 2], np.append(starts, len(pieces)))


def _best_fit(lengths: NDArray[np.int64], context: int) -> tuple[NDArray[np.int64], list[int]]:
    """Put each length into the open row with the least room that still suffices; return its row, and what rows hold."""
    rows = np.empty(len(lengths), dtype=np.int64)
    used: list[int] = []
    open_rows: dict[int, list[int]] = {}  # room -> rows with that much room
    rooms: list[int] = []  # the keys of open_rows, sorted
    for i, length in enumerate(lengths.tolist()):
        place = bisect_left(rooms, length)
        if place == len(rooms):
            row, room = len(used), context
            used.append(0)
        else:
            room = rooms[place]
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room], rooms[place]
        rows[i] = row
        used[row] += length
        if left := room - length:
            if left not in open_rows:
                open_rows[left] = []
                insort(rooms, left)
            open_rows[left].append(row)
    return rows, used


def _dissolve(pieces: NDArray[np.int64], used: NDArray[np.int64], needed: int, context: int) -> NDArray[np.int64]:
    """Keep the `needed` fullest rows and cut what lay in the others into their gaps, the widest gaps first."""
    by_use = np.argsort(-used, kind="stable")
    kept, gone = by_use[:needed], np.zeros(len(used), dtype=bool)
    gone[by_use[needed:]] = True
    spilled = gone[pieces[:, 3]]
    homeless = pieces[spilled].tolist()
    poured = []
    for row in kept[::-1].tolist():
        room = context - int(used[row])
        while room and homeless:
            document, start, length, _ = homeless.pop()
            taken = min(room, length)
            poured.append([document, start, taken, row])
            if taken < length:
                homeless.append([document, start + taken, length - taken, row])
            room -= taken
    return np.concatenate([pieces[~spilled], np.array(poured, dtype=np.int64).reshape(-1, 4)])
