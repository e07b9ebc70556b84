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

Columns = tuple[NDArray[np.int64], ...]  # of pieces: document, start, length, row


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
    full = np.repeat(np.arange(len(steps)), whole)
    n_full = len(full)
    full_start = (np.arange(n_full) - np.repeat(np.cumsum(whole) - whole, whole)) * context

    document = np.random.default_rng(seed).permutation(np.flatnonzero(rest))
    room = (context - rest[document]).astype(np.min_scalar_type(context))  # 16 bits are sorted several times as fast
    document = document[np.argsort(room, kind="stable")]
    start, length = whole[document] * context, rest[document]
    row, used = _best_fit(length, context)
    needed = int(np.ceil(rest.sum() / (context * (1 - max_padding)))) if max_padding < 1 else len(used)
    pieces: Columns = (document, start, length, row)
    if needed < len(used):
        pieces = _dissolve(pieces, used, needed, context)
    filled = (full, full_start, np.full(n_full, context), np.arange(n_full) - n_full)
    document, start, length, row = (np.concatenate(both) for both in zip(filled, pieces, strict=True))
    order = np.argsort(row, kind="stable")
    starts = np.flatnonzero(np.diff(row[order], prepend=np.iinfo(np.int64).min))
    return Layout(document[order], start[order], length[order], np.append(starts, len(order)))


def _best_fit(lengths: NDArray[np.int64], context: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Put each length into the row with the least room that still suffices; return its row, and what each row holds.

    Lengths come longest first, so those that are equal are laid down together: the best row for one is, with what room
    it has left, the best for the next, as often as they fit. Of rows with equal room the latest is taken.
    """
    rows = np.empty(len(lengths), dtype=np.int64)
    open_rows: dict[int, list[NDArray[np.int64]]] = {}  # room -> rows with that much room, the latest last
    rooms: list[int] = []  # the keys of open_rows, sorted
    n_rows = at = 0

    def leave(some: NDArray[np.int64], room: int) -> None:
        if room and len(some):
            if room not in open_rows:
                open_rows[room] = []
                insort(rooms, room)
            open_rows[room].append(some)

    changes = np.flatnonzero(np.diff(lengths)) + 1
    for end in [*changes.tolist(), len(lengths)] if len(lengths) else []:
        length = int(lengths[at])
        while at < end:
            place = bisect_left(rooms, length)
            room = context if place == len(rooms) else rooms[place]
            each = room // length
            wanted = -(-(end - at) // each)
            if place == len(rooms):
                taken = np.arange(n_rows, n_rows + wanted)
                n_rows += wanted
            else:
                latest = open_rows[room].pop()
                taken, others = latest[::-1][:wanted], latest[:-wanted]
                if len(others):
                    open_rows[room].append(others)
                elif not open_rows[room]:
                    del open_rows[room], rooms[place]
            laid = min(end - at, len(taken) * each)
            rows[at : at + laid] = np.repeat(taken, each)[:laid]
            at += laid
            in_last = laid - (len(taken) - 1) * each
            leave(taken if in_last == each else taken[:-1], room - each * length)
            if in_last < each:
                leave(taken[-1:], room - in_last * length)
    return rows, np.bincount(rows, weights=lengths, minlength=n_rows).astype(np.int64)


def _dissolve(pieces: Columns, used: NDArray[np.int64], needed: int, context: int) -> Columns:
    """Keep the `needed` fullest rows and cut what lay in the others into their gaps, the widest gaps first."""
    by_use = np.argsort(-used, kind="stable")
    gone = np.zeros(len(used), dtype=bool)
    gone[by_use[needed:]] = True
    spilled = gone[pieces[3]]
    document, start, length, _ = (column[spilled][::-1] for column in pieces)
    # Laid end to end, gaps and pieces are two divisions of one line: it is cut where either ends.
    kept = by_use[:needed][::-1]
    gap_ends, piece_ends = np.cumsum(context - used[kept]), np.cumsum(length)
    cuts = np.union1d(gap_ends[gap_ends < piece_ends[-1]], piece_ends)
    begins = np.concatenate([[0], cuts[:-1]])
    piece, gap = (np.searchsorted(ends, begins, side="right") for ends in (piece_ends, gap_ends))
    poured = (document[piece], start[piece] + begins - (piece_ends - length)[piece], cuts - begins, kept[gap])
    document, start, length, row = (
        np.concatenate([old[~spilled], new]) for old, new in zip(pieces, poured, strict=True)
    )
    return document, start, length, row
