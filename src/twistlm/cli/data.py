"""Verbs about what goes in: fetch, manifest, tokenize, kmeans, hubert."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from twistlm.cli.command import MINI, Result, Seed, TokenizerName, verb


@verb
def fetch(
    name: Annotated[str | None, typer.Argument(help="Artifact, e.g. smollm2-135m; without it, all are listed.")] = None,
) -> Result:
    """Fetch a named model into the cache."""
    from twistlm import artifacts
    from twistlm.study.inspecting import fetched

    if name is None:
        facts = fetched()
        return Result(facts, "\n".join(f"{key:18} {value}" for key, value in facts.items()))
    folder = artifacts.resolve(name)
    return Result({"folder": str(folder), **artifacts.provenance(folder)}, str(folder))


@verb
def manifest(
    speech: Annotated[Path, typer.Argument(help="Folder with sound files.")],
    out: Annotated[Path, typer.Option(help="The manifest to write (JSON lines).")],
    heldout: Annotated[float, typer.Option(help="Share of the clips to hold out.")] = 0.1,
    vad: Annotated[bool, typer.Option("--vad", help="Cut files into stretches of speech (voice activity).")] = False,
    max_seconds: Annotated[float | None, typer.Option(help="Longest stretch; needed with --vad.")] = None,
    seed: Seed = 0,
    progress: bool = True,
) -> Result:
    """List a folder's clips and hold some out."""
    from twistlm.corpus.manifest import build, write
    from twistlm.errors import BadInput, offenders

    if vad != (max_seconds is not None):
        raise BadInput("--vad and --max-seconds go together: the longest clip decides what the units are cut from.")
    entries = build(speech, heldout=heldout, seed=seed)
    facts: dict[str, Any] = {}
    notes = ""
    if max_seconds is not None:
        from twistlm.corpus.cuts import cut_by_voice

        journal = out.with_name(f"{out.name}.vad.jsonl")
        cuts = cut_by_voice(entries, journal, max_seconds=max_seconds, progress=progress)
        facts = {"files": len(entries), "silent": cuts.silent, "unreadable": cuts.unreadable}
        notes = f" of {len(entries)} files"
        if cuts.silent:
            notes += f"; nobody speaks in {offenders(cuts.silent)}"
        if cuts.unreadable:
            notes += f"; listed whole, since they cannot be read: {offenders(cuts.unreadable)}"
        entries = list(cuts.entries)
    write(entries, out)
    splits = dict(Counter(entry.split for entry in entries))
    parts = ", ".join(f"{n} {split}" for split, n in splits.items())
    return Result(
        {"manifest": str(out), "clips": len(entries), "splits": splits, **facts},
        f"{out}: {len(entries)} clips ({parts}){notes}",
    )


@verb
def tokenize(
    speech: Annotated[Path, typer.Argument(help="Folder with sound files, or a manifest.")],
    out: Annotated[Path, typer.Option(help="Folder for the units (Parquet shards).")],
    tokenizer: TokenizerName = MINI,
    max_failures: Annotated[float, typer.Option(help="Share of the clips that may be unusable.")] = 0.0,
    progress: bool = True,
) -> Result:
    """Cut speech into units; a rerun adds what is missing."""
    from twistlm.corpus.tokenize import tokenize as run
    from twistlm.units.tokenizer import SpeechTokenizer

    tok = SpeechTokenizer.load(tokenizer)
    report = run(speech, out, tok, max_failures=max_failures, progress=progress)
    facts = {
        "units": str(out),
        "done": report.n_done,
        "skipped": report.n_skipped,
        "failed": len(report.failures),
        "unit_spec": tok.spec.fingerprint,
    }
    text = f"{out}: {report.n_done} clips cut, {report.n_skipped} were there, {len(report.failures)} failed"
    return Result(facts, text)


@verb
def kmeans(
    speech: Annotated[Path, typer.Argument(help="Folder with sound files.")],
    encoder: Annotated[str, typer.Option(help="Folder with encoder.json and encoder.safetensors, or mini-25hz.")],
    layer: Annotated[int, typer.Option(help="Block whose output is clustered, from 1.")],
    out: Annotated[Path, typer.Option(help="Folder for the new tokenizer.")],
    k: Annotated[int, typer.Option("--k", help="Number of units.")] = 500,
    seed: Seed = 0,
    progress: bool = True,
) -> Result:
    """Fit a codebook: a tokenizer from an encoder."""
    from twistlm.study.making import fit_codebook

    spec = fit_codebook(speech, encoder, out, layer=layer, k=k, seed=seed, progress=progress)
    facts = {"tokenizer": str(out), "unit_spec": spec.fingerprint, **spec.to_dict()}
    return Result(facts, f"{out}: {spec.n_units} units at {float(spec.frame_rate):g} Hz, spec {spec.fingerprint}")


@verb
def hubert(
    speech: Annotated[Path, typer.Argument(help="Folder with sound files.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the encoder goes to its encoder/.")],
    updates: Annotated[int, typer.Option(help="Updates.")],
    teacher: Annotated[str, typer.Option(help="Targets: mfcc, or a tokenizer (name or folder).")] = "mfcc",
    front_end: Annotated[
        Literal["filterbank", "waveform"], typer.Option(help="Mel-spaced start, or HuBERT's own convolutions.")
    ] = "filterbank",
    frame_rate: Annotated[int, typer.Option(help="Frames per second: 25 or 50.")] = 25,
    k: Annotated[int, typer.Option("--k", help="Number of target units.")] = 500,
    seed: Seed = 0,
    progress: bool = True,
) -> Result:
    """Pretrain a HuBERT encoder."""
    from twistlm.study.making import hubert_config, pretrain_hubert

    config = hubert_config(front_end=front_end, frame_rate=frame_rate, n_targets=k, updates=updates, seed=seed)
    folder = pretrain_hubert(speech, out, config, teacher=teacher, progress=progress)
    return Result({"encoder": str(folder)}, f"{folder}: go on with twist kmeans {speech} --encoder {folder} …")
