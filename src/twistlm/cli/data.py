"""Verbs about what goes in: fetch, manifest, tokenize, import-units, kmeans, hubert."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from twistlm.cli.command import MINI, Channel, Result, Search, Seed, clips, verb


@verb
def fetch(
    name: Annotated[str | None, typer.Argument(help="Artifact, e.g. smollm2-135m; without it, all are listed.")] = None,
) -> Result:
    """Fetch a named model into the cache."""
    from twistlm.files import artifacts
    from twistlm.jobs.doctor import fetched

    if name is None:
        facts = fetched()
        width = max(map(len, facts))
        return Result(facts, "\n".join(f"{key:{width}} {value}" for key, value in facts.items()))
    folder = artifacts.resolve(name)
    facts = {"folder": str(folder), **artifacts.provenance(folder)}
    return Result(facts, f"{folder}\nlicence: {facts.get('licence', 'see its card')}")


@verb
def manifest(
    speech: Annotated[str, typer.Argument(help="Folder with sound files (or its URL), or of an unpacked corpus.")],
    out: Annotated[Path, typer.Option(help="The manifest to write (JSON lines).")],
    corpus: Annotated[
        str,
        typer.Option(
            help="What lies there: folder, librispeech, libri-light, libritts, mls, ljspeech, common-voice, "
            "peoples-speech, gigaspeech, voxpopuli, vctk, fisher, stinystories; huggingface (Parquet, save_to_disk), "
            "audiofolder, webdataset (tar); tables: csv, lhotse (cuts), fairseq, nemo, kaldi."
        ),
    ] = "folder",
    path_column: Annotated[str | None, typer.Option(help="Column with the sounds; default: by its name.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column with what is said; '' for none.")] = None,
    speaker_column: Annotated[str | None, typer.Option(help="Column with who speaks; '' for none.")] = None,
    split_column: Annotated[str | None, typer.Option(help="Column with the split; '' for none.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column with ids; '' for none.")] = None,
    subset: Annotated[str, typer.Option(help="Of GigaSpeech, as much of the training set: XL, L, M, S, XS.")] = "",
    split: Annotated[list[str] | None, typer.Option(help="Keep this split only. Can be repeated.")] = None,
    heldout: Annotated[
        float | None,
        typer.Option(
            help="Share of the training clips to hold out; default: 0.1, or 0 where the corpus holds some out."
        ),
    ] = None,
    vad: Annotated[
        bool, typer.Option("--vad", help="Cut files into stretches of speech (voice activity), each heard whole.")
    ] = False,
    max_seconds: Annotated[
        float | None,
        typer.Option(
            help="Longest clip where files are cut, by --vad or by Libri-Light's marks of speech. [default: 30]"
        ),
    ] = None,
    channel: Channel = None,
    seed: Seed = 0,
    progress: bool = True,
) -> Result:
    """List a corpus's clips and hold some out."""
    from twistlm.audio.finding import UNREAD, is_misnamed, is_sound
    from twistlm.corpus.manifest import NAME, on_channel, write
    from twistlm.corpus.readers import Options, read_corpus
    from twistlm.corpus.readers.named import unread_tables
    from twistlm.errors import offenders
    from twistlm.files.urls import as_path

    own = as_path(speech) / NAME
    listed = own.is_file()  # before it may be written
    options = Options(
        max_seconds=None if vad else max_seconds, subset=subset, path=path_column, text=text_column,
        speaker=speaker_column, split=split_column, id=id_column,
    )  # fmt: skip
    entries = read_corpus(speech, corpus=corpus, splits=split or (), heldout=heldout, seed=seed, options=options)
    if channel is not None:
        entries = on_channel(entries, channel)
    facts: dict[str, Any] = {}
    notes = ""
    if corpus == "folder" and listed:
        facts["listed_by"] = str(own)
        notes = (
            f"; as {own} lists them, whatever other files there are, --heldout and --seed (without it "
            "the folder is listed anew)"
        )
    if unread := [entry.id for entry in entries if is_sound(entry.path.name, UNREAD)]:
        facts["unread"] = unread
        notes += f"; of kinds that are not read, and tokenizing counts as failures: {offenders(unread)}"
    if misnamed := [entry.id for entry in entries if isinstance(entry.path, Path) and is_misnamed(entry.path)]:
        facts["misnamed"] = misnamed
        notes += f"; with names that are not UTF-8, and tokenizing counts as failures: {offenders(misnamed)}"
    if corpus == "folder" and (tables := unread_tables(speech)):
        facts["metadata"] = tables
        notes += f"; transcripts are not read from {offenders(tables)}: --corpus audiofolder reads them"
    if vad:
        from twistlm.corpus.cuts import cut_by_voice, whole_again

        if listed and isinstance(own, Path) and out.resolve() == own.resolve():
            entries = whole_again(entries)  # what is listed there may be what was cut before
        journal = out.with_name(f"{out.name}.vad.jsonl")
        cuts = cut_by_voice(entries, journal, max_seconds=Options(max_seconds=max_seconds).longest, progress=progress)
        facts |= {"files": len(entries), "silent": cuts.silent, "unreadable": cuts.unreadable}
        notes = f" of {len(entries)} files{notes}"
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
    speech: Annotated[
        str, typer.Argument(help="Folder with sound files, one of them, or a manifest; URLs too (s3://…).")
    ],
    out: Annotated[str, typer.Option(help="Folder for the units (Parquet shards), or its URL.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(help=f"Name or folder of a speech tokenizer; default: that of the units in OUT, else {MINI}."),
    ] = None,
    search: Search = None,
    channel: Channel = None,
    max_failures: Annotated[float, typer.Option(help="Share of the clips that may be unusable.")] = 0.0,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Cut on a Ray cluster; local begins one on this machine.")
    ] = None,
    ray_workers: Annotated[
        int | None,
        typer.Option(help="Workers to ask Ray for; default: one for each GPU it has now, or else each core.", min=1),
    ] = None,
    progress: bool = True,
) -> Result:
    """Cut speech into units; a rerun adds what is missing.

    Clips over 34 s are heard in windows of 30 s: other units than if heard whole (twist manifest --vad cuts them).
    """
    from functools import partial

    from twistlm.compute.devices import device
    from twistlm.corpus.manifest import load, on_channel
    from twistlm.corpus.ray import cut_on_ray
    from twistlm.corpus.tokenize import TooManyFailures
    from twistlm.corpus.tokenize import tokenize as run
    from twistlm.errors import offenders
    from twistlm.jobs.parts import tokenizer_for_more
    from twistlm.units.tokenizer import SpeechTokenizer

    part = tokenizer_for_more(out, tokenizer=tokenizer, search=search or ())
    tok = SpeechTokenizer.load(part.folder)
    tok = tok.on(device()) if ray is None else tok
    cutter = None if ray is None else partial(cut_on_ray, address=ray, workers=ray_workers)
    source = speech if channel is None else on_channel(load(speech), channel)
    try:
        report = run(source, out, tok, max_failures=max_failures, cutter=cutter, progress=progress)
    except TooManyFailures as error:
        raise TooManyFailures(f"{error} Or allow a share of failures (--max-failures, now {max_failures:g}).") from None
    facts = {
        "units": str(out),
        "done": report.n_done,
        "skipped": report.n_skipped,
        "replaced": report.n_replaced,
        "marked": report.n_marked,
        "failed": len(report.failures),
        "notes": {note.id: note.note for note in report.notes},
        "unit_spec": tok.spec.fingerprint,
        "tokenizer": part.facts,
    }
    cut = report.n_done - report.n_marked
    text = f"{out}: {clips(cut)} cut, {report.n_skipped} were there, {len(report.failures)} failed"
    text += f"; tokenizer {part}"
    if report.n_marked:
        text += f"; {clips(report.n_marked)} got another split, speaker or text and kept their units"
    if heard := report.n_replaced - report.n_marked:
        text += (
            f"; {clips(heard)} replaced others of the same id, whose sound was different (sounds of several folders "
            "want ids of their own: one --out each, or one folder above all)"
        )
    if report.notes:
        text += f"; noted: {offenders([f'{note.id} ({note.note})' for note in report.notes])}"
    return Result(facts, text)


@verb
def import_units(
    source: Annotated[Path, typer.Argument(help="JSON lines of units (SlamKit's format), or a folder of such files.")],
    tokenizer: Annotated[
        str, typer.Option(help="Whose units they are: name or folder of a tokenizer, or a spec.json.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the units (Parquet shards).")],
    split: Annotated[str, typer.Option(help="Split of these clips.")] = "train",
    heldout: Annotated[float, typer.Option(help="Share of the clips to hold out instead.")] = 0.0,
    durations: Annotated[
        Literal["given", "unknown"],
        typer.Option(help="unknown: take each unit for one frame where no duration is given."),
    ] = "given",
    padding: Annotated[
        int | None,
        typer.Option(help="Zero samples on both sides of each clip (SlamKit: 40); default: the tokenizer's.", min=0),
    ] = None,
    seed: Seed = 0,
    progress: bool = True,
) -> Result:
    """Take over units that others published."""
    from twistlm.jobs.importing import take_units

    report, spec = take_units(
        source, tokenizer, out, split=split, heldout=heldout, durations=durations, seed=seed, padding=padding,
        progress=progress,
    )  # fmt: skip
    facts = {
        "units": str(out), "done": report.n_done, "skipped": report.n_skipped, "replaced": report.n_replaced,
        "unit_spec": spec.fingerprint,
    }  # fmt: skip
    text = f"{out}: {report.n_done} clips taken over, {report.n_skipped} were there, believed to be {tokenizer}'s"
    if report.n_replaced:
        text += (
            f"; {report.n_replaced} took the place of others of the same id (files whose ids are alike want folders of "
            "their own)"
        )
    return Result(facts, text)


@verb
def kmeans(
    speech: Annotated[Path, typer.Argument(help="Folder with sound files.")],
    encoder: Annotated[
        str,
        typer.Option(
            help="mini-25hz, a run of twist hubert, a transformers folder, a hub id (facebook/hubert-base-ls960), "
            "or a fairseq checkpoint (.pt)."
        ),
    ],
    layer: Annotated[int, typer.Option(help="Block whose output is clustered, from 1.", min=1)],
    out: Annotated[Path, typer.Option(help="Folder for the new tokenizer.")],
    k: Annotated[int, typer.Option("--k", help="Number of units.", min=2, max=65_535)] = 500,
    hop: Annotated[
        int | None,
        typer.Option(
            help="Samples between units; a divisor of the encoder's runs it in phases (mini-25hz: 320).", min=1
        ),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize/--raw", help="Scale each clip to zero mean and unit variance first, or not.")
    ] = False,
    padding: Annotated[int, typer.Option(help="Zero samples on both sides of each clip (SlamKit: 40).", min=0)] = 0,
    seed: Seed = 0,
    progress: bool = True,
) -> Result:
    """Fit a codebook: a tokenizer from an encoder."""
    from twistlm.jobs.codebook import fit_codebook

    made = fit_codebook(
        speech, encoder, out, layer=layer, k=k, hop=hop, normalize_input=normalize, padding=padding, seed=seed,
        progress=progress,
    )  # fmt: skip
    spec = made.spec
    facts = {
        "tokenizer": str(out),
        "unit_spec": spec.fingerprint,
        **spec.to_dict(),
        "frames": made.n_frames,
        "frames_used": made.n_used,
        "units_heard": made.n_heard,
        "inertia": made.inertia,
        "heldout_inertia": made.heldout_inertia,
    }
    judged = "" if made.heldout_inertia is None else f", {made.heldout_inertia:.4g} held out"
    dead = spec.n_units - made.n_heard
    judged += f"; {dead} of {spec.n_units} units are never heard: fewer (--k) or more speech would do" if dead else ""
    return Result(
        facts,
        f"{out}: {spec.n_units} units at {float(spec.frame_rate):g} Hz, spec {spec.fingerprint}; "
        f"inertia {made.inertia:.4g}{judged}",
    )


@verb
def hubert(
    speech: Annotated[Path, typer.Argument(help="Folder with sound files.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the encoder goes to its encoder/.")],
    updates: Annotated[int, typer.Option(help="Updates.", min=1)],
    teacher: Annotated[str, typer.Option(help="Targets: mfcc, or a tokenizer (name or folder).")] = "mfcc",
    front_end: Annotated[
        Literal["filterbank", "waveform"], typer.Option(help="Mel-spaced start, or HuBERT's own convolutions.")
    ] = "filterbank",
    frame_rate: Annotated[int, typer.Option(help="Frames per second: 25 or 50.")] = 25,
    k: Annotated[int, typer.Option("--k", help="Number of target units.", min=2, max=65_535)] = 500,
    size: Annotated[Literal["mini", "base", "large"], typer.Option(help="base and large hear waveforms.")] = "mini",
    precision: Annotated[
        Literal["float32", "bf16", "auto"], typer.Option(help="Of matrix products; auto: the faster one.")
    ] = "float32",
    seed: Seed = 0,
    progress: bool = True,
) -> Result:
    """Pretrain a HuBERT encoder, on one process or under torchrun."""
    from twistlm.jobs.hubert import hubert_config, pretrain_hubert

    config = hubert_config(
        front_end=front_end, frame_rate=frame_rate, n_targets=k, updates=updates, seed=seed, size=size,
        bf16="auto" if precision == "auto" else precision == "bf16",
    )  # fmt: skip
    folder = pretrain_hubert(speech, out, config, teacher=teacher, progress=progress)
    return Result({"encoder": str(folder)}, f"{folder}: go on with twist kmeans {speech} --encoder {folder} …")
