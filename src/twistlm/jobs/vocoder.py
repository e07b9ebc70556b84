"""Train a vocoder of one voice for a tokenizer's units."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twistlm.corpus.manifest import build
from twistlm.errors import ArtifactError, BadInput
from twistlm.files.artifacts import bundled
from twistlm.jobs.speech import clips_of
from twistlm.types import Units
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.hifigan import HiFiGANConfig
from twistlm.vocoder.train import VocoderConfig, train_vocoder
from twistlm.vocoder.vocoder import Vocoder


def fit_vocoder(
    speech: str | Path,
    tokenizer: str | Path,
    out: str | Path,
    *,
    speaker: str | None,
    updates: int,
    seed: int,
    like: str = "mini-25hz-500",
    progress: bool = False,
) -> Vocoder:
    """Train a vocoder of one voice for a tokenizer's units, write it to `out/vocoder` and return it.

    Args:
        speech: folder of sound files or with a manifest; its split "train" is used.
        tokenizer: name or folder.
        out: folder of the run; a rerun goes on from its last checkpoint.
        speaker: whose clips; None when there is only one.
        updates: generator updates; the critics join for the second half.
        seed: of the weights and of the crops.
        like: the vocoder (name or folder) whose shape is taken.
        progress: show bars.

    Raises:
        BadInput: no such speaker, or several and none was named.
    """
    tok = SpeechTokenizer.load(tokenizer)
    voices = sorted({e.speaker for e in build(speech) if e.split == "train"})
    if speaker is None and len(voices) > 1:
        raise BadInput(
            f"{speech} has {len(voices)} speakers and a vocoder has one voice: name one of {', '.join(voices)}."
        )
    if speaker is not None and speaker not in voices:
        raise BadInput(f"{speech} has no clips of {speaker!r} to train on; there are: {', '.join(voices)}.")
    folder = Path(like) if Path(like).is_dir() else bundled(f"vocoder/{like}")
    if not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder} is not a vocoder: it has no config.json.")
    shape = HiFiGANConfig.from_json((folder / "config.json").read_text())
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
    return vocoder
