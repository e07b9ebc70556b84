"""Sample sequences that begin together, where the model is; no token is waited for, so a GPU is never idle between two.

Each sequence has its own draws, made before it begins, so its units are those it has alone: among a few or among
thousands, up to two units that come within float32 rounding of each other.

Keys and values stand in a table of fixed size, in which all sequences are at one column (prompts are padded on the
left). Then a step is the same kernels over the same memory each time, and a GPU is given it once, as a graph (a
SmolLM2 step launches a thousand kernels, each of which takes longer to launch than to run). On a CPU, which would look
at every column, those that are not yet written are left out, and a Llama-like model steps by `lean`. Models that do not
obey a mask and explicit positions (`model.MASKED`) have transformers' own cache, which grows, and no graph.

Shapes: B sequences, C columns, H heads, D channels of a head, V vocabulary.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Cache, DynamicCache

from twistlm.compute.devices import send
from twistlm.compute.products import product, quick_products
from twistlm.lm.lean import LeanStep, can_be_lean
from twistlm.lm.model import UnitLM
from twistlm.lm.noise import gumbel

_ASK = 64  # units between two questions whether all sequences have ended, each of which waits for a GPU
_CAPTURED_FROM = 16  # units to come from which a graph repays its making
_LEAN_FROM = 16  # units to come from which a lean step's own copy of the weights repays its making
_MANY = 10**6  # tokens: a row of a model that sets no limit


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a token is picked from logits, as of `sample.generate`."""

    temperature: float
    top_k: int | None
    stop_at_end: bool


def decode(
    lm: UnitLM, prompts: Sequence[NDArray[np.int64]], draws: Sequence[Sequence[int]], rule: Rule
) -> list[list[int]]:
    """Return the new tokens of each sequence, without the `<s>` that ends it.

    Args:
        lm: the model, inside `inference`.
        prompts: tokens of open documents, at least one each.
        draws: an int64 for each unit to come.
        rule: the same for all.
    """
    vocab, device, width = lm.vocab, lm.device, max(map(len, prompts))
    most = max(map(len, draws))
    fixed = lm.obeys_mask(lm.max_tokens or _MANY)
    # The longest prompt beside the longest continuation may be more than the model's own masks have columns for.
    too_wide = lm.max_tokens is not None and width + most - 1 > lm.max_tokens
    if not fixed and len(prompts) > 1 and (too_wide or (min(map(len, prompts)) < width and not _takes_positions(lm))):
        return [decode(lm, [prompt], [own], rule)[0] for prompt, own in zip(prompts, draws, strict=True)]
    tokens = np.full((len(prompts), width), vocab.pad, dtype=np.int64)
    seen = np.zeros((len(prompts), width), dtype=bool)
    numbers = np.zeros((most, len(prompts)), dtype=np.int64)
    for i, (prompt, own) in enumerate(zip(prompts, draws, strict=True)):
        tokens[i, width - len(prompt) :] = prompt
        seen[i, width - len(prompt) :] = True
        numbers[: len(own), i] = own
    picker = _Picker(lm, rule)
    last, drawn = send(tokens[:, -1], device), send(numbers, device)
    step = (_Fixed if fixed else _Growing)(lm, tokens, seen, width + most - 1)
    made = torch.zeros(most, len(prompts), dtype=torch.int64, device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    place = torch.zeros(1, dtype=torch.int64, device=device)
    ask = 1 if device.type == "cpu" else _ASK

    def take(logits: torch.Tensor) -> None:
        """Pick the next token of each, in place."""
        last.copy_(picker.pick(logits, last, drawn.index_select(0, place)[0]))
        made.index_copy_(0, place, last[None])
        if vocab.eos is not None:
            ended.logical_or_(last == vocab.eos)
        place.add_(1)

    def go_on() -> None:
        take(step.forward(last))

    with quick_products(lm.model, rows=len(prompts) if len(prompts) > 1 and step.lean is None else None):
        take(step.first())
        go_on = step.captured(go_on, (last, made, ended, place)) if most > _CAPTURED_FROM else go_on
        for n in range(1, most):
            if rule.stop_at_end and n % ask == 0 and bool(ended.all()):
                break
            go_on()
    found = made.cpu().numpy()
    return [_cut(found[: len(own), i].tolist(), vocab.eos) for i, own in enumerate(draws)]


def _takes_positions(lm: UnitLM) -> bool:
    """Tell whether the model may be told where tokens stand: BART's decoder counts columns, padding on the left too."""
    return "position_ids" in inspect.signature(lm.model.forward).parameters


def _cut(tokens: list[int], eos: int | None) -> list[int]:
    return tokens[: tokens.index(eos)] if eos is not None and eos in tokens else tokens


class _Picker:
    """`sample`'s choice, of many sequences at once, in float64 as there."""

    def __init__(self, lm: UnitLM, rule: Rule) -> None:
        vocab = lm.vocab
        allowed = vocab.is_unit(np.arange(vocab.size))
        units = allowed.copy()
        if vocab.eos is not None and rule.stop_at_end:
            allowed[vocab.eos] = True
        self.allowed, self.rule = send(allowed, lm.device), rule
        self.not_twice = send(units, lm.device) if lm.spec.deduplicate else None
        self.index = send(np.arange(vocab.size), lm.device)

    def pick(self, logits: torch.Tensor, last: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
        """[B, V], the tokens before [B] and draws [B] -> tokens [B]."""
        logits = logits.double().masked_fill(~self.allowed, -torch.inf)
        if self.not_twice is not None:
            logits = logits.masked_fill((self.index == last[:, None]) & self.not_twice, -torch.inf)
        if self.rule.temperature == 0:
            return logits.argmax(1)
        if self.rule.top_k is not None and self.rule.top_k < logits.shape[1]:
            logits = logits.masked_fill(logits < logits.topk(self.rule.top_k).values[:, -1:], -torch.inf)
        above = logits - logits.amax(1, keepdim=True)
        return (above / self.rule.temperature + gumbel(draw, logits.shape[1])).argmax(1)


class _Fixed:
    """Steps of a model over a table of keys and values of fixed size."""

    def __init__(self, lm: UnitLM, tokens: NDArray[np.int64], seen: NDArray[np.bool_], columns: int) -> None:
        self.lm, self.tokens, width = lm, send(tokens, lm.device), seen.shape[1]
        positions = (seen.cumsum(1) - 1).clip(min=0)
        self.prompt_positions = send(positions, lm.device)
        self.positions = send(positions[:, -1:], lm.device)
        first = np.pad(seen, ((0, 0), (0, columns - width)), constant_values=True)
        self.real = send(first, lm.device)  # [B, C]: columns that are no padding
        self.index = send(np.arange(columns), lm.device)
        self.cache = _Columns(columns, send(np.arange(width), lm.device))
        self.column = send(np.array([width - 1]), lm.device)
        self.last = (lm.max_tokens or _MANY) - 1  # position; sequences that are done go on with those that are not
        self.padded = not seen.all()
        on_cpu = lm.device.type == "cpu"
        self.cache.written = width if on_cpu else None
        lean = on_cpu and columns - width >= _LEAN_FROM and can_be_lean(lm.model)
        self.lean = LeanStep(lm.model, functools.partial(product, rows=len(seen))) if lean else None

    def first(self) -> torch.Tensor:
        """Read the prompts: [B, V]."""
        width = self.tokens.shape[1]
        allowed = self.real[:, None, None] & (self.index <= self.index[:width, None])  # [B, 1, width, C]
        # A row of the mask that allows nothing would give NaN: padding sees itself.
        allowed = allowed | (self.index == self.index[:width, None])
        return self._logits(self.tokens, self.prompt_positions, allowed[..., : self.cache.written])

    def forward(self, last: torch.Tensor) -> torch.Tensor:
        """Read the last tokens [B]: [B, V]. All that changes is changed in place."""
        self.column.add_(1)
        self.positions.add_(1).clamp_(max=self.last)
        self.cache.place = self.column
        if self.cache.written is None:
            return self._logits(last[:, None], self.positions, (self.real & (self.index <= self.column))[:, None, None])
        self.cache.written += 1
        seen = self.real[:, None, None, : self.cache.written] if self.padded else None
        if self.lean is not None:
            return self.lean(last[:, None], self.positions, self.cache, seen)[:, 0]
        return self._logits(last[:, None], self.positions, seen)

    def _logits(self, tokens: torch.Tensor, positions: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
        model = self.lm.model
        if allowed is not None and model.config._attn_implementation != "sdpa":
            blocked = torch.finfo(model.dtype).min
            allowed = torch.zeros_like(allowed, dtype=model.dtype).masked_fill(~allowed, blocked)
        with self.lm.attention_of_one():
            return model(
                input_ids=tokens,
                attention_mask=allowed,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]  # fmt: skip

    def captured(self, go_on: Callable[[], None], buffers: Sequence[torch.Tensor]) -> Callable[[], None]:
        """Return `go_on` as a graph of the GPU's; as it is where there is no GPU or it cannot be made one.

        Args:
            go_on: a step, which changes only the buffers, this object's and the cache's column of the step.
            buffers: what the step changes besides.
        """
        if not (torch.cuda.is_available() and self.column.is_cuda):
            return go_on
        changed = (*buffers, self.column, self.positions)
        before = [tensor.clone() for tensor in changed]

        def put_back() -> None:
            for tensor, was in zip(changed, before, strict=True):
                tensor.copy_(was)

        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for _ in range(3):  # kernels choose themselves and get their workspaces
                    put_back()
                    go_on()
                put_back()
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                go_on()
        except RuntimeError:  # a model that waits for the GPU inside its step, say
            torch.cuda.current_stream().wait_stream(stream)
            put_back()
            return go_on
        put_back()
        return graph.replay


class _Growing:
    """Steps of a model by transformers' own cache."""

    lean = None

    def __init__(self, lm: UnitLM, tokens: NDArray[np.int64], seen: NDArray[np.bool_], columns: int) -> None:  # noqa: ARG002
        self.lm, self.tokens = lm, send(tokens, lm.device)
        self.padded = not seen.all()
        self.seen = send(seen.astype(np.int64), lm.device)
        self.positions = send((seen.cumsum(1) - 1).clip(min=0), lm.device)
        self.cache = DynamicCache(config=lm.model.config)

    def first(self) -> torch.Tensor:
        """Read the prompts: [B, V]."""
        return self._logits(self.tokens)

    def forward(self, last: torch.Tensor) -> torch.Tensor:
        """Read the last tokens [B]: [B, V]."""
        self.seen = torch.cat([self.seen, self.seen.new_ones(len(last), 1)], dim=1)
        self.positions = self.positions[:, -1:] + 1
        return self._logits(last[:, None])

    def _logits(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.lm.model(
            input_ids=tokens,
            attention_mask=self.seen if self.padded else None,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip

    def captured(self, go_on: Callable[[], None], buffers: Sequence[torch.Tensor]) -> Callable[[], None]:  # noqa: ARG002
        """Return `go_on`: what grows is no graph."""
        return go_on


class _Columns(Cache):
    """Keys and values, [B, H, C, D] in each layer; what is not yet written is zero."""

    def __init__(self, columns: int, place: torch.Tensor) -> None:
        super().__init__(layers=[])
        self.columns, self.place = columns, place  # int64 [T], which columns the next tokens have
        self.written: int | None = None  # on a CPU only so many are looked at; None: all
        self.held: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_args: object, **_more: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if layer_idx not in self.held:
            rows, heads, _, width = key_states.shape
            self.held[layer_idx] = (
                key_states.new_zeros(rows, heads, self.columns, width),
                value_states.new_zeros(rows, heads, self.columns, value_states.shape[-1]),
            )
        keys, values = self.held[layer_idx]
        for held, states in ((keys, key_states), (values, value_states)):
            held.index_copy_(2, self.place, states)
        return keys[:, :, : self.written], values[:, :, : self.written]

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002  (of transformers, as below)
        # Of tokens before these, where no mask is given, which is on CPUs alone; elsewhere positions and masks are.
        return 0 if self.written is None else self.written - len(self.place)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:  # noqa: ARG002
        return self.written or self.columns, 0
