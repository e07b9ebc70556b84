"""A recording spoken again from its units, or gone on with by a model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from twistlm.audio.clip import Clip, check
from twistlm.audio.decoding import seconds_to_samples
from twistlm.lm.folders import load_model
from twistlm.lm.sample import generate
from twistlm.types import Units
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.vocoder import Vocoder


def resynthesise(
    recording: str | Path, *, tokenizer: str | Path, vocoder: str | Path, durations: Literal["given", "predicted"]
) -> tuple[Clip, Units]:
    """Speak a recording again from nothing but its units; return the sound and the units.

    Raises:
        AudioError: an unusable file. UnitSpecMismatch: the vocoder is of other units than the tokenizer's.
    """
    tok, voc = SpeechTokenizer.load(tokenizer), Vocoder.load(vocoder)
    clip = Clip.read(recording, sample_rate=tok.spec.sample_rate)
    check(clip)
    units = tok(clip)
    return voc(units, durations=durations), units


def continue_recording(
    model: str | Path,
    recording: str | Path,
    *,
    tokenizer: str | Path,
    vocoder: str | Path,
    seconds: float,
    prompt_seconds: float | None,
    temperature: float,
    top_k: int | None,
    seed: int,
) -> Clip:
    """Let a model continue a recording and speak the whole: the recording from its units, then about `seconds` more.

    Args:
        model: folder of a unit LM, or of its training run.
        recording: the prompt; `prompt_seconds` takes only its beginning.
        tokenizer, vocoder: names or folders, of the model's units.
        seconds, temperature, top_k, seed: see `twistlm.lm.sample.generate`.

    Raises:
        AudioError: an unusable file. UnitSpecMismatch: the three do not speak the same units.
    """
    lm, tok, voc = load_model(model), SpeechTokenizer.load(tokenizer), Vocoder.load(vocoder)
    lm.spec.require(tok.spec, mine=f"the model {model}", theirs=f"the tokenizer {tokenizer}")
    lm.spec.require(voc.spec, mine=f"the model {model}", theirs=f"the vocoder {vocoder}")
    clip = Clip.read(recording, sample_rate=tok.spec.sample_rate)
    if prompt_seconds is not None:
        n = seconds_to_samples(prompt_seconds, clip.sample_rate)
        clip = dataclasses.replace(clip, samples=clip.samples[:n])
    check(clip)
    units = generate(lm, tok(clip), seconds=seconds, temperature=temperature, top_k=top_k, seed=seed, stop_at_end=False)
    return voc(units, durations="predicted")
