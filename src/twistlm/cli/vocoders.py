"""Verbs about vocoders: `twist vocoder train`, `twist vocoder import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from twistlm.cli.command import MINI, Result, Search, Seed, UnitsOf, group

verb = group("vocoder", help="Make vocoders: train one, or take over what others published.")


@verb
def train(
    speech: Annotated[Path, typer.Argument(help="Folder with sound files, or with a manifest.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the vocoder goes to its vocoder/.")],
    updates: Annotated[int, typer.Option(help="Generator updates.", min=1)],
    speaker: Annotated[
        list[str] | None, typer.Option(help="Whose clips, when there are several speakers. Can be repeated.")
    ] = None,
    every_speaker: Annotated[
        bool, typer.Option("--every-speaker", help="Train on all speakers, each under its own name.")
    ] = False,
    tokenizer: Annotated[
        str | None, typer.Option(help=f"Name or folder of a speech tokenizer; default: {MINI}.")
    ] = None,
    units_of: UnitsOf = None,
    like: Annotated[
        str | None, typer.Option(help="Vocoder whose shape is taken; default: a bundled one of as many samples a unit.")
    ] = None,
    generator: Annotated[
        Literal["hifigan", "istft"] | None,
        typer.Option(help="Unit HiFi-GAN, or the one that ends in an inverse STFT; default: as --like."),
    ] = None,
    rows: Annotated[int, typer.Option(help="Crops in a batch, over all ranks.", min=1)] = 8,
    search: Search = None,
    seed: Seed = 0,
    progress: bool = True,
) -> Result:
    """Train a vocoder of one voice or several; on several GPUs under torchrun."""
    from twistlm.jobs.vocoder import fit_vocoder

    made, tok, shape = fit_vocoder(
        speech,
        tokenizer,
        out,
        speakers=speaker or (),
        every_speaker=every_speaker,
        updates=updates,
        rows=rows,
        seed=seed,
        like=like,
        generator=generator,
        units_of=units_of,
        search=search or (),
        progress=progress,
    )
    voices = list(made.voices.speakers)
    facts = {
        "vocoder": str(out / "vocoder"),
        "unit_spec": made.spec.fingerprint,
        "speakers": voices,
        "tokenizer": tok.facts,
        "like": shape.facts,
    }
    text = f"{out / 'vocoder'}: speaks {made.spec.n_units} units, spec {made.spec.fingerprint}"
    text += f", as {', '.join(voices)}" if voices else ""
    return Result(facts, f"{text}; tokenizer {tok}, shaped like {shape}")


@verb
def import_(
    vocoder: Annotated[
        str,
        typer.Argument(help="Folder of a published vocoder, its file of weights, or a published name (twist fetch)."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the vocoder; default, of a published name: the cache.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Whose units it speaks: a tokenizer's name or folder, or a spec.json; default: as published."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Its config, if not beside the weights.")] = None,
    speakers: Annotated[
        Path | None, typer.Option(help="Names of its speakers, one a line; default: speakers.txt beside the weights.")
    ] = None,
    styles: Annotated[
        Path | None, typer.Option(help="Names of its styles, one a line; default: styles.txt beside the weights.")
    ] = None,
    voices: Annotated[str | None, typer.Option(help="Voices known by name: seamless-m4t-v1, seamless-m4t-v2.")] = None,
) -> Result:
    """Take over a vocoder of textlesslib, fairseq, Spirit-LM, Seamless, transformers, unit-hifigan or SpeechBrain."""
    from twistlm.jobs.vocoder_importing import take_vocoder

    made, taken, licence = take_vocoder(
        vocoder, out, tokenizer=tokenizer, config=config, speakers=speakers, styles=styles, voices=voices
    )
    voices_of = {kind: list(names) for kind, names in made.voices.to_dict().items() if kind != "of_language"}
    facts = {
        "vocoder": made.name,
        "layout": taken.layout,
        "licence": licence,
        "unit_spec": made.spec.fingerprint,
        "predicts_durations": made.predicts_durations,
        "notes": list(taken.notes),
        **voices_of,
    }
    lines = [
        f"{made.name}: layout {taken.layout}, {made.spec.n_units} units, spec {made.spec.fingerprint}",
        f"licence: {licence}",
        "durations: predicted or given" if made.predicts_durations else "durations: given only, it predicts none",
        *(
            f"{kind}: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}"
            for kind, names in voices_of.items()
            if names
        ),
        *taken.notes,
    ]
    return Result(facts, "\n".join(lines))
