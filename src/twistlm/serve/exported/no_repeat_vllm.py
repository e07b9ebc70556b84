"""The rules of a twistlm model for vLLM: only units are made, and no unit follows itself.

    vllm serve FOLDER --skip-tokenizer-init --logits-processors no_repeat:NoRepeat   (with FOLDER on PYTHONPATH)

Written for vLLM's v1 logits processors (update_state, apply, is_argmax_invariant).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

_HERE = Path(__file__).parent
_VOCAB = json.loads((_HERE / "vocab.json").read_text())
_DEDUPLICATED = json.loads((_HERE / "unit_spec.json").read_text())["deduplicate"]


class NoRepeat(LogitsProcessor):
    """Forbid what is no unit, and the unit before. `<s>` may end a request whose extra_args are {"end": true}."""

    def __init__(self, *_vllm: object) -> None:
        self.rows: dict[int, tuple[list[int], list[int], bool]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for index in batch_update.removed:
            self.rows.pop(index, None)
        for index, params, prompt, output in batch_update.added:
            self.rows[index] = prompt or [], output, bool((params.extra_args or {}).get("end"))
        for one, other, direction in batch_update.moved:
            first, second = self.rows.pop(one, None), self.rows.pop(other, None)
            if first is not None:
                self.rows[other] = first
            if second is not None and direction == MoveDirectionality.SWAP:
                self.rows[one] = second

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        first, n = _VOCAB["offset"], _VOCAB["n_units"]
        for row, (prompt, output, end) in self.rows.items():
            eos = _VOCAB["eos"]
            kept = logits[row, eos].clone() if end and eos is not None else None
            logits[row, :first] = -torch.inf
            logits[row, first + n :] = -torch.inf
            if kept is not None:
                logits[row, eos] = kept
            last = output[-1] if output else prompt[-1] if prompt else -1
            if _DEDUPLICATED and first <= last < first + n:
                logits[row, last] = -torch.inf
        return logits
