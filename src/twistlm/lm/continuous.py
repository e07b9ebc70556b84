"""Continue many sequences at once that begin and end at different times (continuous batching).

Each sequence has a row of a `Table` of keys and values. Each gives the units that `sample.generate` gives alone, with
its promise: up to two units that come within float32 rounding of each other.

Shapes: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache

from twistlm.compute.products import product, quick_products
from twistlm.errors import BadInput
from twistlm.lm.continuation import Continuation
from twistlm.lm.drafting import DRAFTS, FEWEST_DRAFTS, FIRST_DRAFTS, LAID_OUT_FROM, Drafter, can_be_drafted, drafters
from twistlm.lm.lean import LeanStep, can_be_lean
from twistlm.lm.model import UnitLM
from twistlm.lm.table import Table, read

CHUNK = 64  # tokens of a new prompt that are read between two steps of the others, which would wait for them


@dataclass(eq=False)
class Row:
    """One sequence that is being continued.

    Attributes:
        asked: what it computes.
        new: its new tokens, without the `<s>` that ends it.
        done: whether it has ended, or has left.
    """

    asked: Continuation
    new: list[int] = field(default_factory=list)
    done: bool = False
    seen: int = 0  # tokens whose keys and values are in the cache
    ahead: int = FIRST_DRAFTS  # drafts that are worth making: about as many as were right last time and one
    alone: DynamicCache | None = None  # its own cache, of a model whose rows cannot share one


class Batch:
    """Sequences that are continued together. Used from one thread, inside `computing`.

    Models that do not obey a mask and explicit positions (`model.MASKED`) compute each sequence by itself.
    """

    def __init__(self, lm: UnitLM, *, rows: int, units: int | None = None) -> None:
        """Take at most `rows` sequences at once. One that is all there is may say how many units it wants."""
        if rows < 1:
            raise BadInput(f"a batch of {rows} rows; use 1 or more.")
        self.lm, self.size, self.units = lm, rows, units
        self._together = can_be_drafted(lm)
        self._rows: list[Row] = []  # the i-th has row i of the table
        self._joining: list[Row] = []  # the first of them reads its prompt into the row behind those
        self._table = Table(rows)
        self._drafters: list[Drafter | None] | None = None  # what one row is drafted with, two, …
        self._lean: LeanStep | None = None  # of the model's own weights, where many steps repay its making

    def __len__(self) -> int:
        return len(self._rows) + len(self._joining)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Inside the block the model may be stepped; it is entered on the thread that steps.

        What is faster here is tried when it is entered for the first time, so that no listener waits for it.
        """
        with self.lm.inference():
            if self._drafters is None:
                alone: list[Drafter | None] = [None] * self.size
                self._drafters = drafters(self.lm, rows=self.size, units=self.units) if self._together else alone
            few = DRAFTS + 1 if any(self._drafters) else self.size
            rows = few if self.units is None or self.units >= LAID_OUT_FROM else None
            lean = self.units is not None and rows is not None and self._together and can_be_lean(self.lm.model)
            with quick_products(self.lm.model, rows=None if lean else rows, instead=self.units is None):
                # A second copy of the weights, in few products; a server, which has one alone, goes without.
                self._lean = LeanStep(self.lm.model, functools.partial(product, rows=rows)) if lean else None
                yield
                self._lean = None

    def join(self, asked: Continuation) -> Row:
        """Add a sequence; its first unit comes from one of the next steps.

        Raises:
            BadInput: all rows are taken.
        """
        if len(self) >= self.size:
            raise BadInput(f"all {self.size} rows are taken: wait until one is done.")
        row = Row(asked)
        self._joining.append(row)
        return row

    def leave(self, row: Row) -> None:
        """Drop a sequence before its end; one that is done already is left as it is."""
        row.done = True
        if row in self._joining:
            self._joining.remove(row)
        elif row in self._rows:
            at, last = self._rows.index(row), len(self._rows) - 1
            self._rows[at] = self._rows[last]
            self._table.copy(last, at)
            if self._joining:
                self._table.copy(last + 1, last)
            self._rows.pop()

    def clear(self) -> None:
        """Drop all sequences and the cache, whatever state a step that failed has left them in."""
        for row in [*self._rows, *self._joining]:
            row.done = True
        self._rows.clear()
        self._joining.clear()
        self._table = Table(self.size)

    def step(self) -> dict[Row, list[int]]:
        """Compute on; return the new tokens of each sequence that has some. Those that are done have left."""
        made: dict[Row, list[int]] = {}
        ready = list(self._rows)
        if self._joining and (row := self._joining[0]) and (first := self._read(row)) is not None:
            self._joining.pop(0)
            self._rows.append(row)
            made[row] = self._take(row, [first])
        if self._together:
            made |= zip(ready, self._advance(ready), strict=True) if ready else {}
        else:
            made |= {row: self._advance([row])[0] for row in ready}
        for row in [row for row in made if row.done]:
            self.leave(row)
        return made

    def _read(self, row: Row) -> int | None:
        """Read a part of a prompt; return the first new token when it is read."""
        size = CHUNK if self._rows else len(row.asked.tokens)
        tokens = row.asked.tokens[row.seen : row.seen + size].tolist()
        found = self._logits([row], len(self._rows), [tokens])[0, -1]
        row.seen += len(tokens)
        if row.seen < len(row.asked.tokens):
            return None
        return row.asked.choose(found, tokens[-1], row.asked.draws[0])

    def _advance(self, rows: Sequence[Row]) -> list[list[int]]:
        """Return the new tokens of rows that stand in the table from its beginning."""
        drafter = self._drafters[len(rows) - 1] if self._drafters else None
        guesses = [[row.new[-1]] for row in rows]
        if drafter is not None:
            for n in range(self._worth(rows)):
                found = drafter.read(self._table, [guess[-1] for guess in guesses], [row.seen + n for row in rows])
                for row, guess, logits in zip(rows, guesses, found, strict=True):
                    at = len(row.new) + n
                    last = at + 1 >= len(row.asked.draws)  # nothing comes after it: what stands here is not looked at
                    guess.append(guess[-1] if last else row.asked.choose(logits, guess[-1], row.asked.draws[at]))
        found = self._logits(rows, 0, guesses, self._lean)
        return [self._judged(row, guess, logits) for row, guess, logits in zip(rows, guesses, found, strict=True)]

    def _worth(self, rows: Sequence[Row]) -> int:
        """How many drafts to make: as the most lucky row would have them, no more than any has positions for."""
        wanted = max(min(row.ahead, len(row.asked.draws) - len(row.new) - 1) for row in rows)
        if self.lm.max_tokens is not None:
            wanted = min(wanted, self.lm.max_tokens - 1 - max(row.seen for row in rows))
        return max(0, wanted)

    def _judged(self, row: Row, guess: list[int], logits: torch.Tensor) -> list[int]:
        """Take the model's tokens as long as what they follow was right."""
        taken: list[int] = []
        for place, found in enumerate(logits):
            at = len(row.new) + len(taken)
            if at == len(row.asked.draws):
                break
            taken.append(row.asked.choose(found, guess[place], row.asked.draws[at]))
            row.seen += 1
            if guess[place + 1 : place + 2] != taken[-1:] or taken[-1] == self.lm.vocab.eos:
                break
        row.ahead = min(DRAFTS, max(FEWEST_DRAFTS, len(taken)))
        return self._take(row, taken)

    def _take(self, row: Row, tokens: list[int]) -> list[int]:
        ended = tokens[-1] == self.lm.vocab.eos
        new = tokens[:-1] if ended else tokens
        row.new += new
        row.done = ended or len(row.new) == len(row.asked.draws)
        return new

    def _logits(
        self, rows: Sequence[Row], first: int, tokens: list[list[int]], lean: LeanStep | None = None
    ) -> torch.Tensor:
        """Return [B, T, V] on the CPU: rows `first` … of the table read so many tokens behind what they have seen."""
        if self._together:
            return read(self.lm, self._table, tokens, first=first, starts=[row.seen for row in rows], lean=lean)
        row, places = rows[0], torch.arange(rows[0].seen, rows[0].seen + len(tokens[0]))
        row.alone = row.alone or DynamicCache(config=self.lm.model.config)
        return self.lm.model(
            input_ids=torch.tensor(tokens, device=self.lm.device),
            position_ids=places[None].to(self.lm.device),
            past_key_values=row.alone,
            use_cache=True,
        ).logits.cpu()  # fmt: skip
