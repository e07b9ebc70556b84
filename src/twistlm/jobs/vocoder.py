"""Train a vocoder of one voice for a tokenizer's units."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twistlm.compute.devices import device
from twistlm.corpus.manifest import build
from twistlm.errors import ArtifactError, BadInput
from twistlm.files.known import Known
from twistlm.files.text import read_text
from twistlm.jobs.parts import tokenizer_without_model
from twistlm.jobs.speech import clips_of
from twistlm.types import Units
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.catalogue import vocoder_folder, vocoder_like
from twistlm.vocoder.configs import read_shape
from twistlm.vocoder.train import VocoderConfig, train_vocoder
from twistlm.vocoder.vocoder import Vocoder


def fit_vocoder(
    speech: str | Path,
    tokenizer: str | Path | None,
    out: str | Path,
    *,
    speaker: str | None,
    updates: int,
    seed: int,
    like: str | Path | None = None,
    units_of: str | Path | None = None,
    search: Sequence[str | Path] = (),
    progress: bool = False,
) -> tuple[Vocoder, Known, Known]:
    """Train a vocoder of one voice for a tokenizer's units, and write it to `out/vocoder`.

    Returns it, the tokenizer, and the vocoder whose shape was taken.

    Args:
        speech: folder of sound files or with a manifest; its split "train" is used.
        tokenizer, units_of, search: whose units, as of `tokenizer_without_model`.
        out: folder of the run; a rerun goes on from its last checkpoint.
        speaker: whose clips; None when there is only one.
        updates: generator updates; the critics join for the second half.
        seed: of the weights and of the crops.
        like: the vocoder (name or folder) whose shape is taken; None: a bundled one of as many samples a unit.
        progress: show bars.

    Raises:
        BadInput: no such speaker, or several and none was named; no bundled vocoder has as many samples a unit.
        Otherwise as `tokenizer_without_model`.
    """
    part = tokenizer_without_model(tokenizer=tokenizer, units_of=units_of, search=search)
    tok = SpeechTokenizer.load(part.folder).on(device())
    shaped = _like(like, tok, part)
    voices = sorted({e.speaker for e in build(speech) if e.split == "train"})
    if speaker is None and len(voices) > 1:
        raise BadInput(
            f"{speech} has {len(voices)} speakers and a vocoder has one voice: name one of {', '.join(voices)}."
        )
    if speaker is not None and speaker not in voices:
        raise BadInput(f"{speech} has no clips of {speaker!r} to train on; there are: {', '.join(voices)}.")
    shape = read_shape(read_text(shaped.folder / "config.json", "the shape of a vocoder"))
    config = VocoderConfig(
        model=dataclasses.replace(shape, num_embeddings=tok.spec.n_units),
        updates=updates,
        adversarial_from=updates // 2,
        seed=seed,
    )
    pairs: list[tuple[Units, NDArray[np.float32]]] = [
        (tok(clip), clip.samples)
        for entry, clip in clips_of(speech, progress=progress)
        if speaker in (None, entry.speaker)
    ]
    vocoder = train_vocoder(pairs, tok.spec, config, out, progress=progress)
    vocoder.save(Path(out) / "vocoder")
    return vocoder, part, shaped


def _like(like: str | Path | None, tok: SpeechTokenizer, part: Known) -> Known:
    """Return the vocoder whose shape is taken."""
    if like is not None:
        folder = vocoder_folder(like)
        if not (folder / "config.json").is_file():
            raise ArtifactError(f"{folder} is not a vocoder: it has no config.json.")
        return Known(str(like), folder, "given")
    found = vocoder_like(tok.spec)
    if found is None:
        raise BadInput(
            f"no bundled vocoder makes {tok.spec.hop} samples a unit at {tok.spec.sample_rate} Hz, as the units of "
            f"{part.name} need: give --like with one that does (its config.json alone is read)."
        )
    return found
