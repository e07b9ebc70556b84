"""Continue unit sequences: seeded sampling with a key-value cache.

One step of one sequence on a CPU takes as long as reading the weights. So a continuation that is made alone is drafted,
where that is faster (`choices`), a few units ahead with int8 copies of them, and one step of the model itself judges
all drafts: a sequence's random numbers (`noise`) are fixed before it begins, so each draft either is the unit that the
model takes there or is replaced by it (self-speculative decoding after Leviathan et al., 2023, but with equality in
place of their rejection rule).

What is promised of units: a seed gives the same ones alone, in any batch, drafted or not, and whichever library
multiplies, unless two units come within float32 rounding of each other (a millionth or so), since sums are then made in
another order. On one machine, with the same choices (TWISTLM_CHOICES), it gives the same ones always.

On a GPU all sequences are sampled there, together (`on_gpu`).

Shapes: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from twistlm.compute import choices
from twistlm.compute.memory import in_halves
from twistlm.compute.products import Product, int8_products, multiplied_by, quick_products
from twistlm.errors import BadInput
from twistlm.lm.model import UnitLM
from twistlm.lm.noise import gumbel, seeds_of_places
from twistlm.lm.on_gpu import Rule, decode
from twistlm.types import Units

DRAFTS = 6  # units at most that one step judges
# Units to come from which one sequence repays its preparations: int8 weights, and all weights laid out.
DRAFTED_FROM, LAID_OUT_FROM = 12, 128
# Units to come from which it is tried whether drafts are faster here, in about so many seconds; and the share of drafts
# that are right of a trained model at temperature 0.8 to 1 (94 to 98 %: 6 units a judging step).
TRIED_FROM, TRIAL_SECONDS, RIGHT = 64, 0.3, 0.95

Choose = Callable[[torch.Tensor, int, int], int]  # (logits [V], the token before, draw) -> the token


def generate(
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
) -> Units:
    """Return the prompt followed by its sampled continuation.

    Args:
        lm: the model; its training mode is put back afterwards.
        prompt: units to be continued, made with the model's own spec; None or no units starts from `<s>` alone.
        temperature: divides the logits; 0 takes the likeliest unit.
        seed: of this sequence's own generator; the global generator is not used. The same seed gives the same
            continuation alone and in any batch.
        seconds: about how long the continuation should be; it becomes seconds x frame rate / `mean_run` units.
        mean_run: mean frames a unit lasts; None takes the prompt's, or 1 when units are not deduplicated.
        max_units: how many units the continuation may have. Give this, `seconds`, or both (the smaller counts).
        top_k: sample among the k likeliest units; None among all.
        stop_at_end: whether sampling `<s>` ends the continuation early; when False `<s>` is never sampled. A model
            without `<s>` (TWIST's published layout) goes on to the given length.

    Returns:
        Units with the prompt's id and run lengths; each new unit has run length 1, because the model knows nothing of
        durations: a vocoder predicts them. When units are deduplicated no unit follows itself.

    Raises:
        BadInput: no length, or one the model has no positions for; a temperature or top_k out of range; no prompt for a
            model without `<s>`.
        UnitSpecMismatch: the prompt is in other units than the model's.
    """
    return generate_batch(
        lm,
        [prompt],
        temperature=temperature,
        seeds=[seed],
        seconds=seconds,
        mean_run=mean_run,
        max_units=max_units,
        top_k=top_k,
        stop_at_end=stop_at_end,
    )[0]


def generate_batch(
    lm: UnitLM,
    prompts: Sequence[Units | None],
    *,
    temperature: float,
    seeds: Sequence[int],
    seconds: float | None = None,
    mean_run: float | None = None,
    max_units: int | None = None,
    top_k: int | None = None,
    stop_at_end: bool = True,
) -> list[Units]:
    """Return `generate` of each prompt with its own seed, computed together; arguments and errors as there."""
    if len(seeds) != len(prompts):
        raise BadInput(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}.")
    asked = [
        begin(
            lm,
            prompt,
            temperature=temperature,
            seed=seed,
            seconds=seconds,
            mean_run=mean_run,
            max_units=max_units,
            top_k=top_k,
            stop_at_end=stop_at_end,
        )
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    if not asked:
        return []
    if lm.device.type == "cuda":
        rule = Rule(temperature=temperature, top_k=top_k, stop_at_end=stop_at_end)
        with lm.inference():
            made = in_halves(lambda some: decode(lm, [o.tokens for o in some], [o.draws for o in some], rule), asked)
        return [one.units(lm, new) for one, new in zip(asked, made, strict=True)]
    alone = asked[0] if len(asked) == 1 else None
    drafts = drafting(lm, len(alone.draws)) if alone else {}
    rows = len(asked) if alone is None else DRAFTS + 1 if drafts and len(alone.draws) >= LAID_OUT_FROM else None
    with lm.inference(), quick_products(lm.model, rows=rows):
        made = [_decode_drafted(lm, alone, drafts)] if alone and drafts else _decode(lm, asked)
    return [one.units(lm, new) for one, new in zip(asked, made, strict=True)]


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
    """Return what `generate` computes with these arguments; errors as there."""
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
        if mean_run is None and lm.spec.deduplicate and not len(start):
            raise BadInput("seconds become units through mean_run, and without a prompt it must be given.")
        run = mean_run or (float(start.runs.mean()) if lm.spec.deduplicate else 1.0)
        limits.append(round(seconds * float(lm.spec.frame_rate) / run))
    if not limits or min(limits) < 1:
        raise BadInput("give seconds or max_units, long enough for at least one unit.")
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
        return _pick(logits, temperature, top_k, draw)

    return choose


def _decode(lm: UnitLM, asked: Sequence[Continuation]) -> list[list[int]]:
    """Return the new tokens of each sequence. Prompts are padded on the left, so that all continue at one column."""
    prompts = [one.tokens for one in asked]
    vocab, n_rows, width = lm.vocab, len(prompts), max(map(len, prompts))
    tokens = torch.full((n_rows, width), vocab.pad)
    seen = torch.zeros(n_rows, width, dtype=torch.int64)
    for i, prompt in enumerate(prompts):
        tokens[i, width - len(prompt) :] = torch.from_numpy(prompt)
        seen[i, width - len(prompt) :] = 1
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    padded = bool((seen == 0).any())
    tokens, seen, positions = tokens.to(lm.device), seen.to(lm.device), positions.to(lm.device)
    cache = DynamicCache(config=lm.model.config)
    new: list[list[int]] = [[] for _ in prompts]
    running = [True] * n_rows
    last = [int(prompt[-1]) for prompt in prompts]
    while any(running):
        logits = lm.model(
            input_ids=tokens,
            attention_mask=seen if padded else None,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1].cpu()  # fmt: skip
        for i in range(n_rows):
            if not running[i]:
                continue
            last[i] = asked[i].choose(logits[i], last[i], asked[i].draws[len(new[i])])
            if last[i] == vocab.eos:
                running[i] = False
            else:
                new[i].append(last[i])
                running[i] = len(new[i]) < len(asked[i].draws)
        tokens = torch.tensor(last, device=lm.device)[:, None]
        seen = torch.cat([seen, seen.new_ones(n_rows, 1)], dim=1)
        positions = positions[:, -1:] + 1
    return new


def drafting(lm: UnitLM, limit: int) -> Mapping[nn.Linear, Product]:
    """Return what drafts are multiplied by; nothing where they are not faster, or were not tried and are not worth it.

    They are tried once for a shape of model and number of threads, on steps of the model itself: a plain one, a drafted
    one and one that judges DRAFTS, when as many units are to come as make that a small part of the work.
    """
    if limit < DRAFTED_FROM or not _can_go_back(lm):
        return {}
    choice = choices.known("drafts", _in_words(lm, 1))
    if choice is not None and choice.took == "none":
        return {}
    if choice is None and limit < TRIED_FROM:
        return {}
    drafts = int8_products(lm.model, laid_out=limit >= LAID_OUT_FROM)
    return drafts if drafts and pays(lm, drafts) else {}


def pays(lm: UnitLM, drafts: Mapping[nn.Linear, Product], *, rows: int = 1) -> bool:
    """Tell whether `rows` sequences are continued faster with drafts; tried here if it never was."""
    seconds = functools.partial(_step_seconds, lm, drafts, rows)
    return choices.choose("drafts", _in_words(lm, rows), seconds).took != "none"


def _in_words(lm: UnitLM, rows: int) -> str:
    n_weights = sum(p.numel() for p in lm.model.parameters())
    threads = f"{torch.get_num_threads()} threads{f', {rows} rows' if rows > 1 else ''}"
    return f"{lm.model.config.model_type} of {n_weights} weights, {threads}"


def _step_seconds(lm: UnitLM, drafts: Mapping[nn.Linear, Product], rows: int) -> dict[str, float]:
    """Return the seconds a unit takes plainly, and with as many drafts as serve best where RIGHT of them are right."""
    seen = min(64, (lm.max_tokens or 10**6) - DRAFTS - 1)
    cache, token = DynamicCache(config=lm.model.config), torch.full((rows, DRAFTS + 1), lm.vocab.offset)

    def step(n: int) -> None:
        places = torch.arange(seen, seen + n).expand(rows, n)
        lm.model(input_ids=token[:, :n], position_ids=places, past_key_values=cache, use_cache=True)
        _forget(cache, n)

    def drafted() -> None:
        with multiplied_by(drafts):
            step(1)

    def judged() -> None:
        step(DRAFTS + 1)

    with lm.inference():
        with quick_products(lm.model):
            lm.model(input_ids=token[:, :1].expand(rows, seen), past_key_values=cache, use_cache=True)
            found = choices.race({"none": lambda: step(1), "a draft": drafted}, seconds=TRIAL_SECONDS / 2)
        with quick_products(lm.model, rows=DRAFTS + 1):
            judging = choices.race({"judging": judged}, seconds=TRIAL_SECONDS / 2)["judging"]
    plain, draft = found["none"], found["a draft"]
    unit = min(
        (n * draft + plain + n / DRAFTS * (judging - plain)) * (1 - RIGHT) / (1 - RIGHT ** (n + 1))
        for n in range(1, DRAFTS + 1)
    )
    return {**found, "judging": judging, "int8": unit}


def _can_go_back(lm: UnitLM) -> bool:
    """Tell whether a key-value cache of this model can forget its last tokens: a sliding window's has lost what was
    before them, a recurrent state cannot be undone."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=lm.model.config).layers)


def _decode_drafted(lm: UnitLM, asked: Continuation, drafts: Mapping[nn.Linear, Product]) -> list[int]:
    """Return the new tokens of one sequence: `_decode`'s, whatever `drafts` multiplies by.

    While drafts are made they stand in the cache with keys and values of `drafts`, after exact ones of all before.
    """
    prompt, draws, choose = asked.tokens, asked.draws, asked.choose
    cache = DynamicCache(config=lm.model.config)

    def logits(tokens: list[int]) -> torch.Tensor:
        """Return [T, V]; the cache holds these tokens afterwards."""
        n = cache.get_seq_length()
        places = torch.arange(n, n + len(tokens))[None]
        return lm.model(
            input_ids=torch.tensor([tokens]), position_ids=places, past_key_values=cache, use_cache=True
        ).logits[0]

    first = int(prompt[-1])
    new = [choose(logits(prompt.tolist())[-1], first, draws[0])]
    ahead = DRAFTS
    while new[-1] != lm.vocab.eos and len(new) < len(draws):
        guess = [new[-1]]
        with multiplied_by(drafts):
            for draw in draws[len(new) : min(len(new) + ahead, len(draws) - 1)]:
                guess.append(choose(logits(guess[-1:])[0], guess[-1], draw))
        _forget(cache, len(guess) - 1)
        for place, found in enumerate(logits(guess)):
            new.append(choose(found, guess[place], draws[len(new)]))
            if guess[place + 1 : place + 2] != new[-1:] or new[-1] == lm.vocab.eos:
                break
        _forget(cache, len(guess) - 1 - place)
        ahead = min(DRAFTS, place + 1)  # as many as were right and one, so that poor drafts cost little
    return new[:-1] if new[-1] == lm.vocab.eos else new


def _forget(cache: DynamicCache, n: int) -> None:
    if n:  # older versions take none for all
        cache.crop(-n)


def _pick(logits: torch.Tensor, temperature: float, top_k: int | None, draw: int) -> int:
    """Return the token that `draw` takes from the distribution; `logits` is float64 [V]."""
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None and top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    noise = gumbel(torch.tensor(draw), len(logits))
    # The greatest is brought to 0: a very low temperature would otherwise make it infinite.
    return int(((logits - logits.max()) / temperature + noise).argmax())
