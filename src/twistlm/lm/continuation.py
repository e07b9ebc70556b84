"""What is fixed of a continuation before it is computed: the prompt, each place's random number, how a token is picked.

Nothing of it depends on what is computed beside it, so units are the same alone, in any batch, drafted or not.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from twistlm.errors import BadInput
from twistlm.lm.model import UnitLM
from twistlm.lm.noise import gumbel, seeds_of_places
from twistlm.types import Units

# What these have seen is kept in their modules, or in a cache of their own: sequences would overwrite each other's.
_OWN_STATE = frozenset({"minimax", "recurrent_gemma"})
Choose = Callable[[torch.Tensor, int, int], int]  # (logits [V], the token before, draw) -> the token


@dataclass(frozen=True, eq=False)
class Continuation:
    """What is fixed of a continuation before it begins: nothing of it depends on what is computed beside it.

    Attributes:
        start: the prompt.
        tokens: int64, the open document that is continued.
        draws: an int64 for each unit to come, from the seed: what is random there (`noise`).
        choose: picks each token.
    """

    start: Units
    tokens: NDArray[np.int64]
    draws: tuple[int, ...]
    choose: Choose

    def units(self, lm: UnitLM, new: Sequence[int]) -> Units:
        """Return the prompt and the units of the new tokens behind it, each of run length 1."""
        made = lm.vocab.decode(np.array(new))
        return Units(
            ids=np.concatenate([self.start.ids, made]),
            runs=np.concatenate([self.start.runs, np.ones(len(made), dtype=np.int32)]),
            spec=lm.spec,
            id=self.start.id,
        )


def begin(
    lm: UnitLM,
    prompt: Units | None,
    *,
    temperature: float,
    seed: int,
    seconds: float | None = None,
    mean_run: float | None = None,
    max_units: int | None = None,
    top_k: int | None = None,
    stop_at_end: bool = True,
) -> Continuation:
    """Return what `sample.generate` computes with these arguments; errors as there."""
    if not math.isfinite(temperature) or temperature < 0:
        raise BadInput(f"temperature is {temperature}; use 0 (the likeliest unit) or more.")
    if top_k is not None and top_k < 1:
        raise BadInput(f"top_k is {top_k}; use 1 or more, or None for all units.")
    start = _start(lm, prompt)
    limit = _limit(lm, start, seconds, mean_run, max_units)
    tokens = lm.vocab.prompt(start.ids)
    if not len(tokens):
        raise BadInput("this model has no <s> to begin from: give it a prompt of at least one unit.")
    if lm.max_tokens is not None and len(tokens) + limit > lm.max_tokens:
        raise BadInput(
            f"prompt and continuation make {len(tokens) + limit} tokens; the model has positions for {lm.max_tokens}."
        )
    if lm.model.config.model_type in _OWN_STATE:
        raise BadInput(
            f"a {lm.model.config.model_type} keeps what it has seen in a way of its own, which sampling cannot hand it "
            "sequence by sequence; scoring works."
        )
    if "past_key_values" not in inspect.signature(lm.model.forward).parameters:
        raise BadInput(f"{type(lm.model).__name__} keeps no key-value cache, which sampling needs; scoring works.")
    draws = tuple(seeds_of_places(seed, limit))
    return Continuation(start, tokens, draws, _chooser(lm, temperature, top_k, stop_at_end))


def _start(lm: UnitLM, prompt: Units | None) -> Units:
    if prompt is None:
        return Units(ids=np.zeros(0, dtype=np.uint16), runs=np.zeros(0, dtype=np.int32), spec=lm.spec)
    lm.require(prompt.spec, theirs=f"the prompt {prompt.id!r}")
    return prompt


def _limit(lm: UnitLM, start: Units, seconds: float | None, mean_run: float | None, max_units: int | None) -> int:
    """Return how many units one continuation may have."""
    limits = [] if max_units is None else [max_units]
    if seconds is not None:
        if not 0 < seconds < math.inf:
            raise BadInput(f"seconds (--seconds) is how long a continuation is, a number above 0: got {seconds:g}.")
        if mean_run is not None and not 0 < mean_run < math.inf:
            raise BadInput(f"mean_run is how many frames a unit lasts, a number above 0: got {mean_run:g}.")
        if mean_run is None and lm.spec.deduplicate and not len(start):
            raise BadInput("seconds become units through mean_run, and without a prompt it must be given.")
        run = mean_run or (float(start.runs.mean()) if lm.spec.deduplicate else 1.0)
        limits.append(round(seconds * float(lm.spec.frame_rate) / run))
    if not limits or min(limits) < 1:
        raise BadInput("give seconds (--seconds) or max_units, long enough for at least one unit.")
    return min(limits)


def _chooser(lm: UnitLM, temperature: float, top_k: int | None, stop_at_end: bool) -> Choose:
    """Return what picks a token: a unit (no unit after itself when deduplicated), or `<s>` where it may end."""
    vocab = lm.vocab
    allowed = torch.from_numpy(vocab.is_unit(np.arange(vocab.size)))
    if vocab.eos is not None and stop_at_end:
        allowed[vocab.eos] = True
    forbidden = ~allowed

    def choose(logits: torch.Tensor, last: int, draw: int) -> int:
        logits = logits.double().cpu().masked_fill(forbidden, -torch.inf)
        if lm.spec.deduplicate and vocab.offset <= last < vocab.offset + vocab.n_units:
            logits[last] = -torch.inf
        return pick(logits, temperature, top_k, draw)

    return choose


def pick(logits: torch.Tensor, temperature: float, top_k: int | None, draw: int) -> int:
    """Return the token that `draw` takes from the distribution; `logits` is float64 [V]."""
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None and top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    noise = gumbel(torch.tensor(draw), len(logits))
    # The greatest is brought to 0: a very low temperature would otherwise make it infinite.
    return int(((logits - logits.max()) / temperature + noise).argmax())
