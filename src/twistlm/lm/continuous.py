"""Continue many sequences at once that begin and end at different times (continuous batching).

Each sequence has a row of the cache of keys and values, in which a column is a position: nothing is padded, a mask
says how far each may look, and a draft is taken back by writing over it. Each gives the units that `sample.generate`
gives alone, with its promise: up to two units that come within float32 rounding of each other.

Shapes: B sequences, T tokens, H heads, C columns, D width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import Cache, DynamicCache

from twistlm.compute.products import Product, int8_products, multiplied_by, quick_products
from twistlm.errors import BadInput
from twistlm.lm.model import UnitLM
from twistlm.lm.sample import DRAFTS, Continuation, pays

CHUNK = 64  # tokens of a new prompt that are read between two steps of the others, which would wait for them
COLUMNS = 256  # the cache grows by at least so many
_LONG = 10**6  # tokens: a row of a model that sets no limit


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
    ahead: int = DRAFTS  # drafts that are worth making: as many as were right last time and one
    alone: DynamicCache | None = None  # its own cache, of a model whose rows cannot share one


class Batch:
    """Sequences that are continued together. Used from one thread, inside `computing`.

    Models that do not obey a mask and explicit positions (`model.MASKED`) compute each sequence by itself.
    """

    def __init__(self, lm: UnitLM, *, rows: int) -> None:
        """Take at most `rows` sequences at once."""
        if rows < 1:
            raise BadInput(f"a batch of {rows} rows; use 1 or more.")
        self.lm, self.size = lm, rows
        self._together = lm.obeys_mask(lm.max_tokens or _LONG)
        self._rows: list[Row] = []  # the i-th has row i of the cache
        self._joining: list[Row] = []  # the first of them reads its prompt into the row behind those
        self._cache = _Rows(rows)
        self._drafts: list[Mapping[nn.Linear, Product]] | None = None  # what one row is drafted with, two, …

    def __len__(self) -> int:
        return len(self._rows) + len(self._joining)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Inside the block the model may be stepped; it is entered on the thread that steps.

        What is faster here is tried when it is entered for the first time, so that no listener waits for it.
        """
        if self._drafts is None:
            drafts = int8_products(self.lm.model, laid_out=True) if self._together else {}
            few = drafts if drafts and pays(self.lm, drafts) else {}
            many = drafts if drafts and self.size > 1 and pays(self.lm, drafts, rows=self.size) else {}
            self._drafts = [few if 2 * n < self.size else many for n in range(self.size)]
        rows = DRAFTS + 1 if any(self._drafts) else self.size
        with self.lm.inference(), quick_products(self.lm.model, rows=rows):
            yield

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
            self._cache.copy(last, at)
            if self._joining:
                self._cache.copy(last + 1, last)
            self._rows.pop()

    def clear(self) -> None:
        """Drop all sequences and the cache, whatever state a step that failed has left them in."""
        for row in [*self._rows, *self._joining]:
            row.done = True
        self._rows.clear()
        self._joining.clear()
        self._cache = _Rows(self.size)

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
        """Return the new tokens of rows that stand in the cache from its beginning."""
        drafts = self._drafts[len(rows) - 1] if self._drafts else {}
        guesses = [[row.new[-1]] for row in rows]
        with multiplied_by(drafts):
            for n in range(self._worth(rows) if drafts else 0):
                found = self._logits(rows, 0, [guess[-1:] for guess in guesses], ahead=n)
                for row, guess, logits in zip(rows, guesses, found[:, 0], strict=True):
                    at = len(row.new) + n
                    last = at + 1 >= len(row.asked.draws)  # nothing comes after it: what stands here is not looked at
                    guess.append(guess[-1] if last else row.asked.choose(logits, guess[-1], row.asked.draws[at]))
        found = self._logits(rows, 0, guesses)
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
        row.ahead = min(DRAFTS, len(taken))
        return self._take(row, taken)

    def _take(self, row: Row, tokens: list[int]) -> list[int]:
        ended = tokens[-1] == self.lm.vocab.eos
        new = tokens[:-1] if ended else tokens
        row.new += new
        row.done = ended or len(row.new) == len(row.asked.draws)
        return new

    def _logits(self, rows: Sequence[Row], first: int, tokens: list[list[int]], *, ahead: int = 0) -> torch.Tensor:
        """Return [B, T, V] on the CPU: rows `first` … of the cache read so many tokens behind what they have seen."""
        lm = self.lm
        given = torch.tensor(tokens)
        starts = [row.seen + ahead for row in rows]
        positions = torch.tensor(starts)[:, None] + torch.arange(given.shape[1])
        cache: Cache
        if self._together:
            cache = self._cache.at(first, starts, positions.to(lm.device))
            mask = None
            if len(rows) > 1 or (starts[0] and given.shape[1] > 1):
                mask = self._mask(torch.arange(self._cache.columns) <= positions[:, None, :, None])
        else:
            cache = rows[0].alone = rows[0].alone or DynamicCache(config=lm.model.config)
            mask = None
        return lm.model(
            input_ids=given.to(lm.device),
            attention_mask=mask,
            position_ids=positions.to(lm.device),
            past_key_values=cache,
            use_cache=True,
        ).logits.cpu()  # fmt: skip

    def _mask(self, allowed: torch.Tensor) -> torch.Tensor:
        allowed = allowed.to(self.lm.device)
        if self.lm.model.config._attn_implementation == "sdpa":
            return allowed
        blocked = torch.finfo(self.lm.model.dtype).min
        return torch.zeros_like(allowed, dtype=self.lm.model.dtype).masked_fill(~allowed, blocked)


class _Rows(Cache):
    """Keys and values, [B, H, C, D] in each layer, of rows that have come to different columns."""

    def __init__(self, rows: int) -> None:
        super().__init__(layers=[])
        self.rows, self.columns, self.width = rows, 0, 0
        self.written = slice(0, 0)  # its rows that are stepped
        self.spot: tuple[slice, slice] | tuple[torch.Tensor, torch.Tensor] = (slice(0, 0), slice(0, 0))
        self.held: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def at(self, first: int, starts: Sequence[int], positions: torch.Tensor) -> _Rows:
        """Say where the next tokens stand: in rows from `first` on, each from its start on, at `positions` [B, T]."""
        self.width = positions.shape[1]
        self.columns = max(starts) + self.width
        self.written = slice(first, first + len(starts))
        if len(starts) == 1:  # a slice is far cheaper than an index, in every layer of every step
            self.spot = self.written, slice(starts[0], self.columns)
        else:
            self.spot = torch.arange(first, first + len(starts), device=positions.device)[:, None], positions
        return self

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_args: object, **_more: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        before = self.held.get(layer_idx, (None, None))
        keys, values = (self._grown(*pair) for pair in zip(before, (key_states, value_states), strict=True))
        self.held[layer_idx] = keys, values
        row, column = self.spot
        keys.transpose(1, 2)[row, column] = key_states.transpose(1, 2)
        values.transpose(1, 2)[row, column] = value_states.transpose(1, 2)
        return keys[self.written, :, : self.columns], values[self.written, :, : self.columns]

    def copy(self, source: int, to: int) -> None:
        """Copy a row over another."""
        for tensor in (t for pair in self.held.values() for t in pair if source != to):
            tensor[to].copy_(tensor[source])

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002  (of transformers, as below)
        return self.columns - self.width

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:  # noqa: ARG002
        return self.columns, 0

    def _grown(self, held: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
        """Return what was held with room for as many columns as are needed; free ones are zero."""
        wide = 0 if held is None else held.shape[2]
        if held is not None and wide >= self.columns:
            return held
        size = max(self.columns, 2 * wide, COLUMNS)
        grown = states.new_zeros(self.rows, states.shape[1], size, states.shape[3])
        if held is not None:
            grown[:, :, :wide] = held
        return grown
