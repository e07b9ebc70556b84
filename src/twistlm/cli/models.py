"""Verbs about models and sound: train, import, generate, resynth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from twistlm.cli.command import (
    MINI,
    MOST_SEED,
    Channel,
    FoundTokenizer,
    FoundVocoder,
    Language,
    Recipe,
    Result,
    Search,
    Seed,
    Set,
    Speaker,
    Style,
    UnitsOf,
    verb,
)
from twistlm.config import Head, HeadStart, Rows
from twistlm.errors import BadInput, offenders

if TYPE_CHECKING:
    from twistlm.config import PairConfig, QuickstartConfig, TrainConfig
    from twistlm.lm.trainable import Freeze
    from twistlm.train.loop import TrainResult
    from twistlm.train.plan import Plan

Model = Annotated[Path, typer.Argument(help="Folder of a trained model or of its run, or a bundled name (mini-lm).")]


@verb
def train(
    units: Annotated[Path, typer.Argument(help="Folder of units, from twist tokenize.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; run again to go on.")],
    init: Annotated[
        Literal["warm", "cold"], typer.Option(help="Begin from the text LM's weights, or at random.")
    ] = "warm",
    text_lm: Annotated[
        str | None,
        typer.Option(
            help="Text LM: a name, a folder, a model of the hub (OWNER/NAME[@REVISION]), or a unit LM to go on with."
        ),
    ] = None,
    rows: Annotated[
        Rows | None,
        typer.Option(
            help="How the units' rows begin (the last two: units that are alike begin alike); default: the recipe's."
        ),
    ] = None,
    head: Annotated[
        Head | None, typer.Option(help="Output layer: as the text LM has it, or its own; default: as in the recipe.")
    ] = None,
    head_start: Annotated[
        HeadStart | None, typer.Option(help="How an output layer of its own begins; default: as in the recipe.")
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Keep only the first so many layers.")] = None,
    freeze: Annotated[
        str | None,
        typer.Option(
            help='Do not train: "body" (all but the tables), or layers from 0, as 0-11; "none" undoes that with --more.'
        ),
    ] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Train adapters of this rank and the tables only.")] = None,
    lora_alpha: Annotated[float | None, typer.Option(help="Scale of the adapters; default: twice the rank.")] = None,
    more: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Go on with the finished run by so many updates, in its settings and --set's; what was frozen "
            "stays so.",
        ),
    ] = None,
    fork: Annotated[
        Path | None,
        typer.Option(help='A shorter run on schedule "wsd", same settings: begin where its rate began to fall.'),
    ] = None,
    recipe: Recipe = "quickstart",
    set_: Set = None,
    track: Annotated[
        list[str] | None,
        typer.Option(help="Show the metrics in tensorboard, trackio or wandb too. Can be repeated."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it will take, and do nothing.")] = False,
    flops: Annotated[
        float | None, typer.Option(help="FLOP/s of the hardware, for --plan; default: a matrix product measured here.")
    ] = None,
    mfu: Annotated[
        float | None, typer.Option(help="Share of the FLOP/s that training reaches, for --plan; default: 0.4.")
    ] = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Processes under torchrun, for --plan; default: 1.")] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Plan for so many H100 instead of this machine, by their data sheet.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="What each of --gpus can receive from other machines in a second, as 400Gb.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of everything random; default: the recipe's.", min=0, max=MOST_SEED)
    ] = None,
    progress: bool = True,
) -> Result:
    """Train a warm or a cold speech LM on units."""
    from twistlm.corpus.shards import require_shards

    require_shards(units)  # that there is nothing to train on is told before torch is imported, for five seconds
    from twistlm import recipes
    from twistlm.config import override
    from twistlm.lm.text_lms import text_lm_folder
    from twistlm.lm.trainable import LoRA, parse_freeze
    from twistlm.study.run import plan_units, train_more, train_units
    from twistlm.train.network import H100, parse_rate

    chosen = recipes.load_training(recipe)
    planned_with = {"--flops": flops, "--mfu": mfu, "--ranks": ranks, "--gpus": gpus, "--network": network}
    if not plan and (of_plans := [name for name, given in planned_with.items() if given is not None]):
        raise BadInput(f"{offenders(of_plans)}: for --plan, and no number of them changes a training. Add --plan.")
    lora = None
    if lora_rank is not None:
        lora = LoRA(rank=lora_rank, alpha=2.0 * lora_rank if lora_alpha is None else lora_alpha)
    elif lora_alpha is not None:
        raise BadInput("--lora-alpha scales adapters of --lora-rank: give that too.")
    if more is not None:
        kept: Freeze | Literal["none"] | None = None
        if freeze is not None:
            kept = "none" if freeze == "none" else parse_freeze(freeze)
        others = (plan, fork, text_lm, rows, head, head_start, layers, init == "cold", recipe != "quickstart")
        if any(others) or seed is not None:
            raise BadInput(
                "--more goes on with the model and the settings of the run itself: change them with --set, and what "
                "trains with --freeze or --lora-rank; leave other options out."
            )
        gone_on = train_more(
            units, out, more, changes=set_ or [], freeze=kept, lora=lora, trackers=track or (), progress=progress
        )
        return _trained(gone_on)
    frozen = None if freeze is None else parse_freeze(freeze)
    if seed is not None and any(change.partition("=")[0].strip() == "seed" for change in set_ or []):
        raise BadInput("--seed and --set seed=… say the same thing twice: leave one of them out.")
    config = getattr(chosen, init)
    config = override(config if seed is None else dataclasses.replace(config, seed=seed), set_ or [])
    text_lm = text_lm or chosen.text_lm
    begins = {"--rows": rows, "--head": head, "--head-start": head_start}
    idle = ", ".join(name for name, given in begins.items() if given is not None)
    if init == "warm" and idle and (text_lm_folder(text_lm) / "unit_spec.json").is_file():
        raise BadInput(f"{text_lm} is a unit LM, which goes on with its rows and its head: leave out {idle}.")
    if plan:
        if lora is not None:
            raise BadInput("--plan cannot count adapters: leave --lora-rank out, the whole model takes more.")
        if fork is not None:
            raise BadInput("--plan counts a run from its first update: leave --fork out.")
        if ranks is not None and gpus is not None:
            raise BadInput("--gpus plans for so many GPUs, a rank on each: leave --ranks out.")
        if network is not None and gpus is None:
            raise BadInput("--network is that of --gpus: say how many.")
        planned = plan_units(
            units,
            text_lm,
            config,
            share=0.4 if mfu is None else mfu,
            flops_per_second=flops,
            head=head or chosen.head,
            layers=layers,
            freeze=frozen,
            ranks=gpus or ranks or 1,
            gpu=None if gpus is None else H100,
            network=None if network is None else parse_rate(network),
        )
        return Result(dataclasses.asdict(planned), _plan_text(planned))
    result = train_units(
        units,
        text_lm,
        config,
        out,
        init=init,
        rows=rows or chosen.rows,
        head=head or chosen.head,
        head_start=head_start or chosen.head_start,
        layers=layers,
        freeze=frozen,
        lora=lora,
        forked=fork,
        seed=_start_seed(chosen, config, seed, set_ or []),
        trackers=track or (),
        progress=progress,
    )
    return _trained(result)


def _start_seed(
    chosen: QuickstartConfig | PairConfig, config: TrainConfig, seed: int | None, changes: Sequence[str]
) -> int:
    """Return the seed of the new weights: --seed, or --set's, or that of the recipe."""
    if seed is not None:
        return seed
    changed = any(change.partition("=")[0].strip() == "seed" for change in changes)
    return config.seed if changed else getattr(chosen, "seed", config.seed)


def _trained(result: TrainResult) -> Result:
    from twistlm.files.jsonl import read_json

    last, made = result.history[-1], read_json(result.lm_path.parent / "config.json", "the record of a run")["config"]
    facts = {"model": str(result.lm_path), "updates": result.updates, "tokens": result.tokens, "last": last}
    held = f", held-out {last['val_nll']:.3f} nats a unit" if "val_nll" in last else ""
    note = ""
    if made["warmup"] > made["updates"]:
        of = f"{made['warmup']} of {made['updates']} updates"
        note = f"\nnote: warm-up is {of}: the rate never got to lr, {made['lr']:g}"
    return Result(facts, f"{result.lm_path}: {result.updates} updates, loss {last['loss']:.3f}{held}{note}")


def _plan_text(plan: Plan) -> str:
    sent = ""
    if plan.traffic is not None:
        waits, takes = plan.traffic.seconds, plan.seconds
        hidden = "hidden behind computing" if waits < takes else "which is what an update takes"
        sent = (
            f"network {plan.traffic.between / 1e9:,.1f} GB into each GPU an update between machines, "
            f"{plan.traffic.inside / 1e9:,.1f} GB inside: {waits:.2f} s of {takes:.2f} s, {hidden}\n"
        )
    held = f", each holds {plan.sharing}" if plan.ranks > 1 else ""
    once, each = plan.update, f" on each of {plan.ranks} ranks" if plan.ranks > 1 else ""
    holes = f"; with {(plan.memory - once.peak) / 1e9:.2f} that lie free between" if plan.memory > once.peak else ""
    return (
        f"model   {once.parameters / 1e6:,.1f} M parameters, {once.trainable / 1e6:,.1f} M of them train\n"
        f"data    {plan.tokens:,} tokens, {plan.epochs:.2f} epochs, {plan.padding:.1%} of the rows is padding\n"
        f"work    {plan.flops:.2e} FLOPs in {plan.precision}, {plan.ranks * once.flops:.2e} an update\n"
        f"memory  {plan.memory / 1e9:.2f} GB{each} beside Python and its libraries: weights {once.weights / 1e9:.2f}, "
        f"gradients {once.gradients / 1e9:.2f}, optimizer {once.optimizer / 1e9:.2f}, "
        f"activations {once.activations / 1e9:.2f}, not all at once{holes}\n"
        f"disk    {plan.disk / 1e9:.2f} GB\n"
        f"{sent}"
        f"time    {plan.hours:,.2f} hours at {plan.share:.0%} of {plan.flops_per_second:.2e} FLOP/s{each}, "
        f"evaluations aside{held}{f'; {plan.gpu}' if plan.gpu else ''}"
    )


@verb
def import_(
    folder: Annotated[Path, typer.Argument(help="Unpacked speech LM: TWIST's release, SlamKit's, or a plain one.")],
    tokenizer: Annotated[str, typer.Option(help="Name or folder of the speech tokenizer it was trained with.")],
    out: Annotated[Path, typer.Option(help="Folder of the model to write.")],
    padding: Annotated[
        int | None,
        typer.Option(help="Zero samples on both sides of each clip (SlamKit: 40); default: the tokenizer's.", min=0),
    ] = None,
) -> Result:
    """Read a published speech LM, for eval and generate."""
    from twistlm.jobs.importing import import_published

    lm = import_published(folder, tokenizer, out, padding=padding)
    facts = {"model": str(out), "unit_spec": lm.spec.fingerprint, **lm.provenance}
    return Result(
        facts, f"{out}: {lm.provenance['layout']} layout, {lm.spec.n_units} units, believed to be {tokenizer}'s"
    )


def _require_other(out: Path, recording: Path) -> None:
    """Raise BadInput where a sound would be written over the recording that is read, by this or another name."""
    if out.exists() and recording.exists() and out.samefile(recording):
        raise BadInput(f"--out {out} is the recording itself, which would be lost: name another file.")


@verb
def generate(
    model: Model,
    prompt: Annotated[Path, typer.Argument(help="Sound file to be continued.")],
    out: Annotated[Path, typer.Option(help="Sound file to write: the prompt from its units, and what follows.")],
    seconds: Annotated[float, typer.Option(help="About how long the continuation is.")] = 8.0,
    prompt_seconds: Annotated[float | None, typer.Option(help="Use only the beginning of the prompt.")] = None,
    channel: Channel = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest unit.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Sample among the k likeliest units.")] = None,
    tokenizer: FoundTokenizer = None,
    vocoder: FoundVocoder = None,
    speaker: Speaker = None,
    style: Style = None,
    language: Language = None,
    search: Search = None,
    seed: Seed = 0,
) -> Result:
    """Let a model continue a recording."""
    from twistlm.lm.folders import model_spec

    model_spec(model)  # what is no model is told before torch is imported, for five seconds
    _require_other(out, prompt)
    from twistlm.jobs.speaking import continue_recording
    from twistlm.vocoder.voices import Voice

    clip, parts = continue_recording(
        model,
        prompt,
        tokenizer=tokenizer,
        vocoder=vocoder,
        voice=Voice(speaker=speaker, style=style, language=language),
        seconds=seconds,
        prompt_seconds=prompt_seconds,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        search=search or (),
        channel=channel,
    )
    clip.write(out)
    facts = {"audio": str(out), "seconds": clip.seconds, "unit_spec": parts.spec.fingerprint, **parts.facts}
    return Result(facts, f"{out}: {clip.seconds:.1f} s; {parts}")


@verb
def resynth(
    recording: Annotated[Path, typer.Argument(help="Sound file.")],
    out: Annotated[Path, typer.Option(help="Sound file to write.")],
    durations: Annotated[
        Literal["given", "predicted"], typer.Option(help="Keep each unit's length, or let the vocoder predict it.")
    ] = "given",
    channel: Channel = None,
    tokenizer: Annotated[
        str | None, typer.Option(help=f"Name or folder of a speech tokenizer; default: --vocoder's, else {MINI}.")
    ] = None,
    vocoder: FoundVocoder = None,
    speaker: Speaker = None,
    style: Style = None,
    language: Language = None,
    units_of: UnitsOf = None,
    search: Search = None,
    *,
    progress: bool,
) -> Result:
    """Speak a recording again from its units."""
    _require_other(out, recording)
    from twistlm.jobs.speaking import resynthesise
    from twistlm.vocoder.voices import Voice

    clip, units, parts = resynthesise(
        recording,
        tokenizer=tokenizer,
        vocoder=vocoder,
        voice=Voice(speaker=speaker, style=style, language=language),
        durations=durations,
        units_of=units_of,
        search=search or (),
        channel=channel,
        progress=progress,
    )
    clip.write(out)
    facts = {"audio": str(out), "seconds": clip.seconds, "units": len(units), "unit_spec": units.spec.fingerprint}
    return Result(facts | parts.facts, f"{out}: {clip.seconds:.1f} s from {len(units)} units; {parts}")
