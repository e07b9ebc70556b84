"""From prompts to sound: units of the prompt, units that a model adds, speech of both by a vocoder."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twistlm.audio.clip import Clip
from twistlm.audio.decoding import seconds_to_samples
from twistlm.errors import BadInput, offenders
from twistlm.evaluate.generation.protocols import Protocol
from twistlm.lm.model import UnitLM
from twistlm.lm.sample import generate_batch
from twistlm.types import Units, UnitSpec
from twistlm.vocoder.vocoder import Vocoder

BATCH = 32  # continuations sampled together on a CPU: a step of few takes as long as reading the weights
BATCH_GPU = 128


@dataclass(frozen=True, eq=False)
class Spoken:
    """A continuation as sound.

    Attributes:
        clip: prompt and continuation.
        start: sample of `clip` at which the continuation begins.
    """

    clip: Clip
    start: int

    @property
    def continuation(self) -> Clip:
        """What follows the prompt."""
        return dataclasses.replace(self.clip, samples=self.clip.samples[self.start :])


def seed_of(seed: int, prompt: str, sample: int) -> int:
    """Return the seed of one continuation: of the run's seed, the prompt's id and the number of the sample alone, so
    that it does not depend on which other prompts there are."""
    digest = hashlib.sha256(f"{seed}\t{prompt}\t{sample}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 1) % 2**32  # the bits that once counted


def require_room(lm: UnitLM, prompts: Sequence[Units | None], protocol: Protocol) -> None:
    """Raise unless the model has positions for every prompt and what may follow it.

    Raises:
        BadInput: prompts that are too long, by id.
    """
    if lm.max_tokens is None:
        return
    most = [(unit_limit(lm.spec, prompt, protocol), 0 if prompt is None else len(prompt)) for prompt in prompts]
    long = [
        f"{'' if prompt is None else prompt.id} ({n} units and {more} more)"
        for prompt, (more, n) in zip(prompts, most, strict=True)
        if n + more + 1 > lm.max_tokens
    ]
    if long:
        raise BadInput(
            f"the model has positions for {lm.max_tokens} tokens, {len(long)} of {len(prompts)} prompts need more: "
            f"{offenders(long)}. Take shorter prompts or continuations, or a model with a longer context; a number "
            "over some of the prompts would be of another suite."
        )


def unit_limit(spec: UnitSpec, prompt: Units | None, protocol: Protocol) -> int:
    """Return how many units may follow a prompt."""
    limits = [] if protocol.max_units is None else [protocol.max_units]
    if protocol.seconds is not None and prompt is not None and len(prompt):
        run = float(prompt.runs.mean()) if spec.deduplicate else 1.0
        limits.append(round(protocol.seconds * float(spec.frame_rate) / run))
    return min(limits, default=0)


def continued(
    lm: UnitLM, prompts: Sequence[Units | None], protocol: Protocol, *, temperature: float, seeds: Sequence[int]
) -> list[Units]:
    """Return each prompt with what the model adds to it.

    Raises:
        As `generate_batch`.
    """
    return generate_batch(
        lm,
        prompts,
        temperature=temperature,
        seeds=seeds,
        seconds=protocol.seconds,
        max_units=protocol.max_units,
        top_k=protocol.top_k,
        stop_at_end=protocol.stop_at_end,
    )


def prompt_length(whole: Units, seconds: float) -> int:
    """Return how many units of `whole` begin within its first `seconds`: those of the prompt, where both were cut
    into units together."""
    starts = np.cumsum(whole.runs) - whole.runs
    return int((starts < seconds * float(whole.spec.frame_rate)).sum())


def speak(voc: Vocoder, units: Units, *, n_prompt: int) -> Spoken:
    """Speak units with the vocoder's own durations, and say where the first `n_prompt` of them end.

    Raises:
        As `Vocoder.__call__`.
    """
    if voc.spec.deduplicate:
        units = dataclasses.replace(units, runs=voc.predict_runs(units).astype(np.int32))
    clip = voc(units, durations="given")
    return Spoken(clip, int(units.runs[:n_prompt].sum()) * (len(clip.samples) // int(units.runs.sum())))


def cut_to(spoken: Spoken, *, seconds: float) -> Spoken:
    """Return a continuation that ends `seconds` after the clip begins, or as it is where it is shorter."""
    last = seconds_to_samples(seconds, spoken.clip.sample_rate)
    clip = dataclasses.replace(spoken.clip, samples=spoken.clip.samples[:last])
    return Spoken(clip, min(spoken.start, len(clip.samples)))


def derangement(n: int, *, seed: int) -> list[int]:
    """Return for each of n prompts another one: one cycle through all of them, in an order drawn from `seed`.

    Raises:
        BadInput: a single prompt has no other.
    """
    if n < 2:
        raise BadInput("shuffled continuations, the floor, need at least two prompts.")
    order = np.random.default_rng([seed, 2]).permutation(n)
    found = np.empty(n, dtype=np.int64)
    found[order] = np.roll(order, 1)
    return found.tolist()
