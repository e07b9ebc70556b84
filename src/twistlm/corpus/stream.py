"""Endless batches of packed documents, each a pure function of (seed, update): resuming is asking for the next one.

Shapes: B rows, T context.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from twistlm.corpus.packing import pack
from twistlm.errors import BadInput

IGNORE = -100  # torch's cross_entropy ignores this target


class Encoder(Protocol):
    """What the stream needs of `twistlm.lm.vocab.Vocab`: `<s> units <s>` as tokens, and the padding token."""

    @property
    def pad(self) -> int: ...

    def encode(self, unit_ids: NDArray[np.integer], /) -> NDArray[np.int64]: ...


class Documents(Protocol):
    """What the stream needs of a `UnitCorpus`."""

    @property
    def lengths(self) -> NDArray[np.int64]: ...

    def unit_ids(self, index: int, /) -> NDArray[np.uint16]: ...


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch.

    Attributes:
        tokens: int64 [B, T], padded with the vocabulary's pad token.
        segments: int32 [B, T], 1 … for the documents of a row, 0 where padded. A token may attend only to its segment.
        positions: int64 [B, T], place in the segment, from 0.
        targets: int64 [B, T], the token that follows, -100 where there is none.
    """

    tokens: NDArray[np.int64]
    segments: NDArray[np.int32]
    positions: NDArray[np.int64]
    targets: NDArray[np.int64]

    @property
    def n_targets(self) -> int:
        """Predictions this batch trains."""
        return int((self.targets != IGNORE).sum())

    def parts(self, n: int) -> list[Batch]:
        """Return the batch as `n` batches of consecutive rows; views, not copies. The first have a row more if any."""
        arrays = (self.tokens, self.segments, self.positions, self.targets)
        return [Batch(*cut) for cut in zip(*(np.array_split(array, n) for array in arrays), strict=True)]


class PackedStream:
    """Batches over a corpus, epoch after epoch.

    Documents are laid into rows once (see `packing`); an epoch is a seeded order of the rows. Within an epoch every
    token that has a predecessor in its document is a target exactly once. Where an epoch ends inside a batch, the batch
    goes on with the next epoch. A cut document's later pieces have no `<s>` and are segments of their own.

    Args:
        corpus: a `UnitCorpus`, or anything with `lengths` and `unit_ids`.
        vocab: a `Vocab`.
        rows: B.
        context: T.
        seed: of the layout and of the order.
        max_padding: see `packing.pack`.
    """

    def __init__(
        self, corpus: Documents, vocab: Encoder, *, rows: int, context: int, seed: int, max_padding: float = 0.08
    ) -> None:
        if rows < 1:
            raise BadInput(f"a batch needs at least 1 row, got {rows}.")
        if not len(corpus.lengths):
            raise BadInput("the corpus has no documents to train on.")
        self.corpus, self.vocab, self.rows, self.context, self.seed = corpus, vocab, rows, context, seed
        self.layout = pack(corpus.lengths + 1, context=context, seed=seed, max_padding=max_padding)
        self._order = lru_cache(maxsize=2)(self._permutation)

    @property
    def rows_per_epoch(self) -> int:
        return len(self.layout)

    @property
    def tokens_per_epoch(self) -> int:
        """Targets in an epoch: each document's units and its closing `<s>`."""
        return int(self.layout.length.sum())

    @property
    def updates_per_epoch(self) -> float:
        return self.rows_per_epoch / self.rows

    @property
    def padding(self) -> float:
        """Share of the places that are padding."""
        return 1 - self.tokens_per_epoch / (self.rows_per_epoch * self.context)

    def state(self, update: int) -> dict[str, int]:
        """Where the batch of `update` begins, `{"epoch": …, "row": …}` from 0: for logs only."""
        epoch, row = divmod(update * self.rows, self.rows_per_epoch)
        return {"epoch": epoch, "row": row}

    def batch(self, update: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Return the batch of `update` (from 0), or the part of it that is `rank`'s: the same whenever it is asked for.

        Args:
            update: which batch.
            rank, world: of the batch's rows, in order, the `rank`-th of `world` equal shares; `world` must divide B.
        """
        if update < 0:
            raise BadInput(f"updates count from 0, got {update}.")
        rows = self._rows_of(update)[rank * self.rows // world : (rank + 1) * self.rows // world]
        shape = (len(rows), self.context)
        batch = Batch(
            tokens=np.full(shape, self.vocab.pad, dtype=np.int64),
            segments=np.zeros(shape, dtype=np.int32),
            positions=np.zeros(shape, dtype=np.int64),
            targets=np.full(shape, IGNORE, dtype=np.int64),
        )
        for b, row in enumerate(rows):
            self._fill(batch, b, row)
        return batch

    def pieces(self, update: int) -> list[list[tuple[int, int, int]]]:
        """Return what lies in each row of the batch of `update`: (document, first token, tokens) of every piece."""
        table = np.stack([self.layout.document, self.layout.start, self.layout.length], axis=1)
        bounds = self.layout.rows
        return [[tuple(p) for p in table[bounds[row] : bounds[row + 1]].tolist()] for row in self._rows_of(update)]

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches from update 0 on, without end."""
        update = 0
        while True:
            yield self.batch(update)
            update += 1

    def _rows_of(self, update: int) -> list[int]:
        """Return which rows of the layout the batch of `update` holds."""
        places = [divmod(update * self.rows + b, self.rows_per_epoch) for b in range(self.rows)]
        return [int(self._order(epoch)[place]) for epoch, place in places]

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(self.rows_per_epoch)

    def _fill(self, batch: Batch, b: int, row: int) -> None:
        at = 0
        first, last = self.layout.rows[row : row + 2].tolist()
        for segment, piece in enumerate(range(first, last), start=1):
            start, length = int(self.layout.start[piece]), int(self.layout.length[piece])
            tokens = self.vocab.encode(self.corpus.unit_ids(int(self.layout.document[piece])))[
                start : start + length + 1
            ]
            here = slice(at, at + length)
            batch.tokens[b, here] = tokens[:-1]
            batch.targets[b, here] = tokens[1:]
            batch.segments[b, here] = segment
            batch.positions[b, here] = np.arange(length)
            at += length
