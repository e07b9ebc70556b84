"""Verbs about units themselves: `twist units quality`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twistlm.cli.command import MINI, MOST_SEED, Result, TokenizerName, group

verb = group("units", help="Judge units.")


@verb
def quality(
    speech: Annotated[Path, typer.Argument(help="Folder with sound files, or a manifest.")],
    alignment: Annotated[
        Path, typer.Option(help="Gold phones: .jsonl, .csv, .tsv, .TextGrid, or a folder of TextGrids.")
    ],
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0, max=MOST_SEED)],
    tokenizer: TokenizerName = MINI,
    against: Annotated[
        str | None, typer.Option(help="A second tokenizer (name or folder), or mfcc: k-means over MFCC.")
    ] = None,
    mfcc_speech: Annotated[
        Path | None,
        typer.Option(help="Folder or manifest that mfcc is fitted on; else the clips measured, which flatters it."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Measure clips of this split only.")] = None,
    phone_set: Annotated[str | None, typer.Option(help="Use the phones of this set, where .jsonl has several.")] = None,
    tier: Annotated[str | None, typer.Option(help="Tier of TextGrids that holds the phones.")] = None,
    max_clips: Annotated[int | None, typer.Option(help="Measure a seeded sample of so many clips.", min=1)] = None,
    max_items: Annotated[
        int, typer.Option(help="ABX: instances of each phone and speaker, as in ZeroSpeech; 0 takes all.", min=0)
    ] = 10,
    robustness_clips: Annotated[
        int, typer.Option(help="Clips that are heard again in noise, a room and codecs; 0 for none.", min=0)
    ] = 100,
    out: Annotated[Path | None, typer.Option(help="Folder for quality.json, clips.parquet and report.html.")] = None,
    progress: bool = True,
) -> Result:
    """PNMI, ABX, bitrate, speaker leakage and robustness of units."""
    from twistlm.jobs.unit_quality import unit_quality_of
    from twistlm.pages.unit_quality import text

    values = unit_quality_of(
        speech,
        alignment,
        tokenizer=tokenizer,
        against=against,
        seed=seed,
        mfcc_speech=mfcc_speech,
        split=split,
        phone_set=phone_set,
        tier=tier,
        max_clips=max_clips,
        max_items=max_items or None,
        robustness_clips=robustness_clips,
        out=out,
        progress=progress,
    )
    report = "" if out is None else f"\nreport: {out / 'report.html'}"
    return Result(values, text(values) + report)
