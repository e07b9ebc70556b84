"""Train a vocoder of one voice or several for a tokenizer's units."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from twistlm.compute.devices import device
from twistlm.corpus.manifest import build
from twistlm.errors import ArtifactError, BadInput, offenders
from twistlm.files.known import Known
from twistlm.files.replacing import require_no_lm_run
from twistlm.files.text import read_text
from twistlm.jobs.parts import tokenizer_without_model
from twistlm.jobs.speech import clips_of
from twistlm.train.parallel import join
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.catalogue import vocoder_folder, vocoder_like
from twistlm.vocoder.configs import read_shape
from twistlm.vocoder.istft import ISTFTConfig, istft_like
from twistlm.vocoder.train import Pair, train_vocoder, with_voices
from twistlm.vocoder.training_state import VocoderConfig
from twistlm.vocoder.vocoder import Vocoder, require_only_a_vocoder
from twistlm.vocoder.voices import Voice


def fit_vocoder(
    speech: str | Path,
    tokenizer: str | Path | None,
    out: str | Path,
    *,
    speakers: Sequence[str],
    every_speaker: bool,
    updates: int,
    rows: int,
    seed: int,
    generator: Literal["hifigan", "istft"] | None = None,
    like: str | Path | None = None,
    units_of: str | Path | None = None,
    search: Sequence[str | Path] = (),
    progress: bool = False,
) -> tuple[Vocoder, Known, Known]:
    """Train a vocoder for a tokenizer's units, and write it to `out/vocoder`.

    It is trained on the GPU where there is one; under torchrun, on as many ranks as that starts.
    Returns it, the tokenizer, and the vocoder whose shape was taken.

    Args:
        speech: folder of sound files or with a manifest; its split "train" is used.
        tokenizer, units_of, search: whose units, as of `tokenizer_without_model`.
        out: folder of the run; a rerun goes on from its last checkpoint.
        speakers: whose clips, in any order; several make one of several voices. None named: the only one there is.
        every_speaker: take all there are.
        updates: generator updates; the critics join for the second half.
        rows: crops in a batch, over all ranks.
        seed: of the weights and of the crops.
        generator: "istft" for the one that works at the rate of frames (`vocoder/istft.py`), in place of the shape's
            own; "hifigan" asks that the shape be one; None takes what the shape is.
        like: the vocoder (name or folder) whose shape is taken; None: a bundled one of as many samples a unit.
        progress: show bars.

    Raises:
        BadInput: no such speaker, or several and none was named; no bundled vocoder has as many samples a unit;
            something else in `out` than a run of this kind.
        Otherwise as `tokenizer_without_model` and `train_vocoder`.
    """
    part = tokenizer_without_model(tokenizer=tokenizer, units_of=units_of, search=search)
    tok = SpeechTokenizer.load(part.folder).on(device())
    shaped = _like(like, tok, part)
    require_no_lm_run(out)  # before the speech is read
    require_only_a_vocoder(Path(out) / "vocoder", inputs=(speech, part.folder))
    chosen = _chosen(speech, speakers, every_speaker=every_speaker)
    shape = read_shape(read_text(shaped.folder / "config.json", "the shape of a vocoder"))
    if generator == "istft" and not isinstance(shape, ISTFTConfig):
        shape = istft_like(shape)
    elif generator is not None and shape.kind != generator:
        raise BadInput(
            f"the shape of {shaped.name} is that of a generator {shape.kind!r}, not {generator!r}: give --like with "
            f"one of {generator!r}."
        )
    with join(device()) as ranks:
        pairs: list[Pair] = []
        voices: list[Voice] = []
        for entry, clip in clips_of(speech, progress=progress and ranks.rank == 0, speakers=chosen):
            pairs.append((tok(clip), clip.samples))
            voices.append(Voice(speaker=entry.speaker))
        voiced, _ = with_voices(shape, voices)
        config = VocoderConfig(
            model=dataclasses.replace(voiced, num_embeddings=tok.spec.n_units),
            updates=updates,
            adversarial_from=updates // 2,
            rows=rows,
            seed=seed,
        )
        vocoder = train_vocoder(pairs, tok.spec, config, out, voices=voices, device=device(), progress=progress)
        if ranks.rank == 0:
            vocoder.save(Path(out) / "vocoder")
    return vocoder, part, shaped


def _chosen(speech: str | Path, speakers: Sequence[str], *, every_speaker: bool) -> set[str]:
    there = sorted({e.speaker for e in build(speech) if e.split == "train"})
    if every_speaker and speakers:
        raise BadInput("--every-speaker takes all speakers, so none can be named beside it.")
    if not speakers and not every_speaker and len(there) > 1:
        raise BadInput(
            f"{speech} has {len(there)} speakers: name one or several with --speaker, or take --every-speaker. "
            f"There are: {offenders(there, limit=40)}."
        )
    if unknown := sorted(set(speakers) - set(there)):
        raise BadInput(
            f"{speech} has no clips of {offenders(unknown)} to train on; there are: {offenders(there, limit=40)}."
        )
    if every_speaker and "" in there and len(there) > 1:
        raise BadInput(f"some clips of {speech} do not say who speaks: name them in the manifest, or name --speaker.")
    return set(speakers or there)


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
