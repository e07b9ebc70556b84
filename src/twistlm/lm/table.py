"""Keys and values of rows that have come to different columns.

A column is a position: nothing is padded, a mask says how far each row may look, and what was written is taken back by
writing over it.

Shapes: B rows that are stepped, T tokens, H heads, C columns, D width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import Cache

from twistlm.lm.lean import LeanStep
from twistlm.lm.model import UnitLM

COLUMNS = 256  # it grows by at least so many


class Table(Cache):
    """Keys and values, [rows, H, C, D] in each layer."""

    def __init__(self, rows: int) -> None:
        """Make room for so many rows."""
        super().__init__(layers=[])
        self.rows, self.columns, self.width = rows, 0, 0
        self.written = slice(0, 0)  # the rows that are stepped
        self.spot: tuple[slice, slice] | tuple[torch.Tensor, torch.Tensor] = (slice(0, 0), slice(0, 0))
        self.held: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def at(self, first: int, starts: Sequence[int], positions: torch.Tensor) -> Table:
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


def placed(
    table: Table, first: int, starts: Sequence[int], width: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Say to the table that rows `first` … get so many tokens each, behind their starts.

    Returns:
        Their positions, int64 [B, T], and which columns each looks at, bool [B, 1, T, C], or None: as far as it is.
    """
    positions = torch.tensor(starts)[:, None] + torch.arange(width)
    mask = None
    if len(starts) > 1 or (width > 1 and starts[0]):
        mask = (torch.arange(max(starts) + width) <= positions[:, None, :, None]).to(device)
    positions = positions.to(device)
    table.at(first, starts, positions)
    return positions, mask


def read(
    lm: UnitLM,
    table: Table,
    tokens: Sequence[Sequence[int]],
    *,
    first: int,
    starts: Sequence[int],
    lean: LeanStep | None = None,
) -> torch.Tensor:
    """Let rows `first` … of the table read so many tokens each, behind their starts; by `lean` where it is given.

    Returns:
        The logits, [B, T, V], on the CPU.
    """
    positions, mask = placed(table, first, starts, len(tokens[0]), lm.device)
    if lean is not None:
        return lean(torch.tensor(tokens), positions, table, mask)
    if mask is not None and lm.model.config._attn_implementation != "sdpa":
        blocked = torch.finfo(lm.model.dtype).min
        mask = torch.zeros_like(mask, dtype=lm.model.dtype).masked_fill(~mask, blocked)
    return lm.model(
        input_ids=torch.tensor(tokens, device=lm.device),
        attention_mask=mask,
        position_ids=positions,
        past_key_values=table,
        use_cache=True,
    ).logits.cpu()  # fmt: skip
