"""A recording spoken again from its units, or gone on with by a model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from twistlm.audio.clip import Clip, check
from twistlm.audio.decoding import seconds_to_samples
from twistlm.compute.devices import device
from twistlm.errors import BadInput
from twistlm.jobs.parts import Parts, parts_of_model, parts_without_model
from twistlm.lm.folders import load_model
from twistlm.lm.sample import generate
from twistlm.progress import task
from twistlm.types import Units
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.vocoder import ANY, Vocoder
from twistlm.vocoder.voices import Voice

LONG = 60.0  # seconds of sound for which a bar is worth showing


def resynthesise(
    recording: str | Path,
    *,
    tokenizer: str | Path | None,
    vocoder: str | Path | None,
    voice: Voice = ANY,
    durations: Literal["given", "predicted"],
    units_of: str | Path | None = None,
    search: Sequence[str | Path] = (),
    channel: int | None = None,
    progress: bool = False,
) -> tuple[Clip, Units, Parts]:
    """Speak a recording again from nothing but its units; return the sound, the units, and what made them.

    Args:
        recording: a sound file.
        tokenizer, vocoder, units_of, search: as of `parts_without_model`.
        voice: who speaks and how, where the vocoder has several.
        durations: as of `Vocoder`.
        channel: of the recording, from 1; None mixes them.
        progress: show bars, of a recording of more than LONG seconds.

    Raises:
        AudioError: an unusable file. UnitSpecMismatch: the vocoder is of other units than the tokenizer's.
        Otherwise as `parts_without_model`.
    """
    parts = parts_without_model(tokenizer=tokenizer, vocoder=vocoder, units_of=units_of, search=search)
    tok, voc = _loaded(parts, voice)
    clip = Clip.read(recording, sample_rate=tok.spec.sample_rate, channel=channel)
    check(clip)
    shown = progress and clip.seconds > LONG
    with task("units", 1, shown):
        units = tok(clip)
    with task("speaking", 1, shown):
        return voc(units, durations=durations), units, parts


def continue_recording(
    model: str | Path,
    recording: str | Path,
    *,
    tokenizer: str | Path | None,
    vocoder: str | Path | None,
    voice: Voice = ANY,
    seconds: float,
    prompt_seconds: float | None,
    temperature: float,
    top_k: int | None,
    seed: int,
    search: Sequence[str | Path] = (),
    channel: int | None = None,
) -> tuple[Clip, Parts]:
    """Let a model continue a recording and speak the whole: the recording from its units, then about `seconds` more.

    Returns the sound, and the tokenizer and vocoder that were taken.

    Args:
        model: folder of a unit LM, or of its training run.
        recording: the prompt; `prompt_seconds` takes only its beginning.
        tokenizer, vocoder: names or folders, of the model's units; None: found by the model's UnitSpec.
        voice: who speaks and how, where the vocoder has several.
        seconds, temperature, top_k, seed: see `twistlm.lm.sample.generate`.
        search: folders in which a tokenizer or vocoder may lie.
        channel: of the recording, from 1; None mixes them.

    Raises:
        BadInput: prompt seconds that are not above 0.
        AudioError: an unusable file. UnitSpecMismatch: the three do not speak the same units.
        Otherwise as `parts_of_model`.
    """
    if prompt_seconds is not None and not 0 < prompt_seconds < math.inf:
        raise BadInput(f"prompt_seconds (--prompt-seconds) is how much of the prompt is heard, got {prompt_seconds:g}.")
    parts = parts_of_model(model, tokenizer=tokenizer, vocoder=vocoder, speaks=True, search=search)
    tok, voc = _loaded(parts, voice)
    require_durations(voc, str(parts.vocoder))
    lm = load_model(model)
    clip = Clip.read(recording, sample_rate=tok.spec.sample_rate, channel=channel)
    if prompt_seconds is not None:
        n = seconds_to_samples(prompt_seconds, clip.sample_rate)
        clip = dataclasses.replace(clip, samples=clip.samples[:n])
    check(clip)
    units = generate(lm, tok(clip), seconds=seconds, temperature=temperature, top_k=top_k, seed=seed, stop_at_end=False)
    return voc(units, durations="predicted"), parts


def require_durations(voc: Vocoder, name: str) -> None:
    """Raise `BadInput` where nothing says how long a model's units last: they have no runs, so it is predicted."""
    if voc.spec.deduplicate and not voc.predicts_durations:
        raise BadInput(
            f"the vocoder {name} does not predict how long units last, and those of a model do not say. Take one that "
            "does with --vocoder."
        )


def _loaded(parts: Parts, voice: Voice) -> tuple[SpeechTokenizer, Vocoder]:
    assert parts.tokenizer is not None and parts.vocoder is not None
    tok = SpeechTokenizer.load(parts.tokenizer.folder).on(device())
    voc = Vocoder.load(parts.vocoder.folder).on(device())
    voc = voc.speaking_as(speaker=voice.speaker, style=voice.style, language=voice.language)
    voc.require_voice()  # before minutes go into what could not be spoken
    tok.spec.require(voc.spec, mine=f"the tokenizer {parts.tokenizer}", theirs=f"the vocoder {parts.vocoder}")
    return tok, voc
