"""Verbs about vocoders: `twist vocoder train`, `twist vocoder import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
