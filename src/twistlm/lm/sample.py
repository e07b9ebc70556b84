"""Continue unit sequences: seeded sampling with a key-value cache.

A continuation that is made alone on a CPU is drafted where that is faster (`drafting`); all others are computed
together, where the model is (`batched`).

What is promised of units: a seed gives the same ones alone, in any batch, drafted or not, and whichever library
multiplies, unless two units come within float32 rounding of each other (a millionth or so), since sums are then made in
another order. On one machine, with the same choices (TWISTLM_CHOICES), it gives the same ones always.

Shapes: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

from twistlm.compute.memory import in_halves
from twistlm.errors import BadInput
from twistlm.lm.batched import Rule, decode
from twistlm.lm.continuation import begin
from twistlm.lm.continuous import Batch
from twistlm.lm.drafting import can_be_drafted, worth_a_draft
from twistlm.lm.model import UnitLM
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
        mean_run: mean frames a unit lasts, above 0; None takes the prompt's, or 1 when units are not deduplicated.
        max_units: how many units the continuation may have. Give this, `seconds`, or both (the smaller counts).
        top_k: sample among the k likeliest units; None among all.
        stop_at_end: whether sampling `<s>` ends the continuation early; when False `<s>` is never sampled. A model
            without `<s>` (TWIST's published layout) goes on to the given length.

    Returns:
        Units with the prompt's id and run lengths; each new unit has run length 1, because the model knows nothing of
        durations: a vocoder predicts them. When units are deduplicated no unit follows itself.

    Raises:
        BadInput: no length, or one the model has no positions for; a temperature, top_k or mean_run out of range; no
            prompt for a model without `<s>`.
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
    alone = len(asked) == 1 and lm.device.type == "cpu"
    if alone and can_be_drafted(lm) and worth_a_draft(lm, len(asked[0].draws)):
        batch = Batch(lm, rows=1, units=len(asked[0].draws))
        with batch.computing():
            row = batch.join(asked[0])
            while not row.done:
                batch.step()
        made = [row.new]
    else:
        rule = Rule(temperature=temperature, top_k=top_k, stop_at_end=stop_at_end)
        with lm.inference():
            made = in_halves(lambda some: decode(lm, [o.tokens for o in some], [o.draws for o in some], rule), asked)
    return [one.units(lm, new) for one, new in zip(asked, made, strict=True)]
