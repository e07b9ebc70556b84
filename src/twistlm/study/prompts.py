"""What a run lets people hear: which held-out clips it takes, and what its models make of the prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twistlm.audio.decoding import seconds_to_samples
from twistlm.compute.threads import in_order
from twistlm.corpus.manifest import Entry
from twistlm.corpus.sounds import read_clip
from twistlm.evaluate import asr
from twistlm.files.atomic import atomic_folder
from twistlm.lm.model import UnitLM
from twistlm.lm.sample import generate_batch
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.vocoder import Vocoder

Values = dict[str, Any]

PROMPTS = 3
PROMPT_SECONDS = 3.0
CONTINUATION_SECONDS = 6.0
TEMPERATURE = 0.8
PROTOCOL = (
    f"{PROMPT_SECONDS:g} s prompts, about {CONTINUATION_SECONDS:g} s more, temperature {TEMPERATURE}, "
    "<s> never sampled; the recording holds the prompt and its continuation"
)


def choose_resynthesis(entries: Sequence[Entry], *, n: int, seed: int) -> list[Entry]:
    """Return `n` held-out clips with words in their transcript, of the held-out voice where there is one."""
    spoken = [e for e in entries if e.split != "train" and asr.normalize(e.text)]
    unseen = [e for e in spoken if e.split == "heldout_voice"] or spoken
    order = np.random.default_rng(seed).permutation(len(unseen))[:n]
    return [unseen[i] for i in sorted(order)]


def choose_prompts(entries: Sequence[Entry], *, seed: int) -> list[Entry]:
    """Return `PROMPTS` held-out clips in a seeded order: long enough, and of different speakers as far as there are."""
    held = [e for e in entries if e.split != "train"]
    order = [held[i] for i in np.random.default_rng([seed, 1]).permutation(len(held))]
    long = [e for e in order if (e.seconds or 0.0) > PROMPT_SECONDS] or order
    first = [e for i, e in enumerate(long) if e.speaker not in {other.speaker for other in long[:i]}]
    return [*first, *(e for e in long if e not in first)][:PROMPTS]


def continuations(
    prompts: Sequence[Entry],
    out: Path,
    tok: SpeechTokenizer,
    voc: Vocoder,
    models: Iterable[tuple[str, UnitLM]],
    listener: asr.Whisper | None,
    *,
    seed: int,
) -> list[Values]:
    """Write each prompt, its resynthesis and every model's continuation as wav files below `out`, all or none.

    Args:
        prompts: clips; the first `PROMPT_SECONDS` of each are the prompt.
        out: folder of the sound files; their names in the result begin with its name.
        tok, voc: of one unit spec.
        models: (name, model), taken one at a time.
        listener: writes down what it hears, when given.
        seed: of the sampling; the same for every model.

    Returns:
        One row for each prompt, as `samples` of `twistlm.pages.report.write_report`.
    """
    clips = [read_clip(entry, sample_rate=tok.spec.sample_rate) for entry in prompts]
    clips = [
        dataclasses.replace(c, samples=c.samples[: seconds_to_samples(PROMPT_SECONDS, c.sample_rate)]) for c in clips
    ]
    units = [tok(clip) for clip in clips]
    rows: list[Values] = [
        {"id": entry.id, "text": entry.text, "units": {"ids": u.ids.tolist(), "runs": u.runs.tolist()}}
        for entry, u in zip(prompts, units, strict=True)
    ]
    spoken = {"prompt": clips, "resynth": [voc(prompt, durations="given") for prompt in units]}
    for name, lm in models:
        continued = generate_batch(
            lm,
            units,
            seconds=CONTINUATION_SECONDS,
            temperature=TEMPERATURE,
            seeds=[seed + i for i in range(len(units))],
            stop_at_end=False,
        )
        spoken[name] = [voc(made, durations="predicted") for made in continued]
    with atomic_folder(out) as folder:
        for kind, sounds in spoken.items():
            for i, clip in enumerate(sounds):
                clip.write(folder / f"{i + 1}-{kind}.wav")
                rows[i][kind] = f"{out.name}/{i + 1}-{kind}.wav"
            if listener is not None and kind != "prompt":
                for row, text in zip(rows, in_order(listener.transcribe, sounds), strict=True):
                    row[f"{kind}_text"] = text
    return rows
