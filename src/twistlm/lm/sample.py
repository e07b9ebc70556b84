"""Continue unit sequences: seeded sampling with a key-value cache.

A continuation that is made alone is drafted where that is faster (`drafting`), several are computed together. On a GPU
all sequences are sampled there, together (`on_gpu`).

What is promised of units: a seed gives the same ones alone, in any batch, drafted or not, and whichever library
multiplies, unless two units come within float32 rounding of each other (a millionth or so), since sums are then made in
another order. On one machine, with the same choices (TWISTLM_CHOICES), it gives the same ones always.

Shapes: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from twistlm.compute.memory import in_halves
from twistlm.compute.products import quick_products
from twistlm.errors import BadInput
from twistlm.lm.continuation import Continuation, begin
from twistlm.lm.continuous import Batch
from twistlm.lm.drafting import can_be_drafted, worth_a_draft
from twistlm.lm.model import UnitLM
from twistlm.lm.on_gpu import Rule, decode
from twistlm.types import Units


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
    if len(asked) == 1 and can_be_drafted(lm) and worth_a_draft(lm, len(asked[0].draws)):
        batch = Batch(lm, rows=1, units=len(asked[0].draws))
        with batch.computing():
            row = batch.join(asked[0])
            while not row.done:
                batch.step()
        made = [row.new]
    else:
        with lm.inference(), quick_products(lm.model, rows=len(asked) if len(asked) > 1 else None):
            made = _decode(lm, asked)
    return [one.units(lm, new) for one, new in zip(asked, made, strict=True)]


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
