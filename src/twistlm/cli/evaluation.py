"""`twist eval`: a model judged by perplexity and suites of pairs, or by what it says."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from twistlm.cli.command import (
    FoundTokenizer,
    FoundVocoder,
    Language,
    Result,
    Search,
    Seed,
    Speaker,
    Style,
    clips,
    verb,
)
from twistlm.errors import BadInput


@verb
def eval_(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model or of its run.")],
    suites: Annotated[
        list[str] | None,
        typer.Argument(
            help="Suites of pairs: mini-swuggy, -sblimp, -storycloze, -topic-storycloze, or NAME=FOLDER. With neither "
            "SUITES nor --units: all that are bundled, and the perplexity of what the training held out."
        ),
    ] = None,
    normalize: Annotated[
        Literal["mean", "sum", "both"], typer.Option(help="Compare the pairs of SUITES per unit, whole, or both.")
    ] = "both",
    against: Annotated[
        Path | None, typer.Option(help="Second model, compared on SUITES (then of the same units) and in perplexity.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results; default: eval/ in the model's run, of a bundled one runs/NAME/eval."
        ),
    ] = None,
    submission: Annotated[
        Path | None, typer.Option(help="Folder for a ZeroSpeech submission, where SUITES have one.")
    ] = None,
    topline: Annotated[
        str | None, typer.Option(help="Text LM (as of twist train) that reads the transcripts, where SUITES have them.")
    ] = None,
    end_token: Annotated[
        bool, typer.Option("--end-token", help="Count the final <s> of SUITES' clips too, as SlamKit does.")
    ] = False,
    units: Annotated[
        Path | None, typer.Option(help="Folder of units: gives perplexity, and nothing else if no SUITES are named.")
    ] = None,
    against_units: Annotated[
        Path | None,
        typer.Option(help="The clips of --units in those of --against, where they are others: bits per second."),
    ] = None,
    split: Annotated[str, typer.Option(help="Which clips of the units.")] = "heldout",
    context: Annotated[
        int | None, typer.Option(help="Window in tokens; default: the one of training, or 256.", min=2)
    ] = None,
    tokenizer: FoundTokenizer = None,
    generation: Annotated[
        bool,
        typer.Option("--generation", help="Measure what MODEL says instead (and --against): it continues prompts."),
    ] = False,
    protocol: Annotated[
        str | None, typer.Option(help="How --generation is measured: ours, slam, gslm, tgslm; default: ours.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="What is continued: mini-prompts, NAME=FOLDER, or folder=FOLDER; default: the protocol's."),
    ] = None,
    n_prompts: Annotated[int | None, typer.Option(min=2, help="Take the first so many prompts.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Continuations of each prompt.")] = None,
    temperature: Annotated[
        list[float] | None, typer.Option(help="Sample at this temperature. Repeated: a curve, PPX against VERT.")
    ] = None,
    asr: Annotated[
        str | None, typer.Option(help="Recogniser: whisper-tiny.en, a folder, or a model of the hub.")
    ] = None,
    text_lm: Annotated[str | None, typer.Option(help="Text LM (as of twist train) that reads what was said.")] = None,
    quality: Annotated[
        list[str] | None, typer.Option(help="Judge of sound: distillmos, dnsmos-p808, dnsmos, utmos. Can be repeated.")
    ] = None,
    voices: Annotated[
        str | None, typer.Option(help="Tells voices apart: resemblyzer, or a model of the hub, as WavLM-SV.")
    ] = None,
    embedder: Annotated[
        str | None, typer.Option(help="Places texts: wordllama-256, or a model of sentence-transformers.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Judge of texts: address of an OpenAI-compatible server, or a text LM.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="Model that the server of --judge is asked for.")] = None,
    judge_price: Annotated[
        str | None,
        typer.Option(help="Price of a million tokens in and out, as 0.15,0.60: what the judge cost is told."),
    ] = None,
    vocoder: FoundVocoder = None,
    speaker: Speaker = None,
    style: Style = None,
    language: Language = None,
    search: Search = None,
    seed: Seed = 0,
    progress: bool = True,
) -> Result:
    """Judge a model: perplexity, suites of pairs; what it says."""
    speaking = {
        "protocol": protocol,
        "prompts": prompts,
        "n_prompts": n_prompts,
        "samples": samples,
        "temperature": temperature,
        "asr": asr,
        "text_lm": text_lm,
        "quality": quality,
        "voices": voices,
        "embedder": embedder,
        "judge": judge,
        "judge_model": judge_model,
        "judge_price": judge_price,
        "vocoder": vocoder,
        "speaker": speaker,
        "style": style,
        "language": language,
    }
    if generation:
        other = {
            "--submission": submission, "--topline": topline, "--end-token": end_token, "--units": units,
            "--against-units": against_units, "--context": context, "--split": split != "heldout",
            "--normalize": normalize != "both",
        }  # fmt: skip
        return _generation(
            model,
            against=against,
            suites=suites or (),
            out=out,
            tokenizer=tokenizer,
            search=search or (),
            seed=seed,
            progress=progress,
            refused=other,
            options=speaking,
        )
    if given := [f"--{name.replace('_', '-')}" for name, value in speaking.items() if value]:
        raise BadInput(f"{', '.join(given)}: of what a model says, which is measured with --generation. Add that.")
    from twistlm.lm.folders import model_spec

    for named in (model, against):
        if named is not None:
            model_spec(named)  # what is no model is told before torch is imported, for five seconds
    from twistlm.jobs.evaluating import table
    from twistlm.jobs.judging import judge as judge_model_on_pairs

    facts = judge_model_on_pairs(
        model,
        suites or (),
        normalize=normalize,
        against=against,
        out=out,
        submission=submission,
        topline=topline,
        end_token=end_token,
        units=units,
        against_units=against_units,
        split=split,
        context=context,
        tokenizer=tokenizer,
        search=search or (),
        seed=seed,
        progress=progress,
    )
    lines = list(facts["notes"])
    if "perplexity" in facts:
        lines.append(_perplexity(facts["perplexity"]))
    if "perplexity_against" in facts:
        gap = facts["bits_per_second_difference"]
        lines.append(f"against {_perplexity(facts['perplexity_against'])}")
        around = _interval(gap["ci"], "+.2f")
        p = "no test of one clip" if gap["p"] is None or not around else f"p = {gap['p']:.2g}"
        lines.append(f"difference {gap['mean']:+.2f} {around + ' ' if around else ''}bits a second, {p}")
    if "suites" in facts:
        lines.append(table(facts))
        lines.append("tokenizer {name} ({found})".format(**facts["tokenizer"]))
    return Result(facts, "\n".join([*lines, f"results: {facts['results']}"]))


def _perplexity(p: Mapping[str, Any]) -> str:
    """Per unit, and what compares across tokenizers; the perplexity of a second is too large a number to read."""

    def told(name: str) -> str:
        return f"{p[name]:.2f} {_interval(p[f'{name}_ci'], '.2f')}".rstrip()

    n = p["n_documents"]
    return (
        f"perplexity {told('val_ppl')} a unit; {told('nll_per_second')} nats and {told('bits_per_second')} bits "
        f"a second; on {clips(n)}{'' if n > 1 else ', so there is no interval'}"
    )


def _interval(ci: Sequence[float | None], form: str) -> str:
    low, high = ci
    return "" if low is None or high is None or math.isnan(low) else f"[{low:{form}}, {high:{form}}]"


def _generation(
    model: Path,
    *,
    against: Path | None,
    suites: Sequence[str],
    out: Path | None,
    tokenizer: str | None,
    search: Sequence[Path],
    seed: int,
    progress: bool,
    refused: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Result:
    """Measure what a model says, and say it.

    Args:
        model, against, suites, out, tokenizer, search, seed, progress: as of the verb.
        refused: options of the verb that do not go together with this one, and whether they were given.
        options: those that are of generation alone.
    """
    from twistlm.jobs.generation import QUALITY, RESEMBLYZER, WORDLLAMA, measure_generation, protocol_of, table
    from twistlm.vocoder.voices import Voice

    if given := [name for name, value in refused.items() if value]:
        raise BadInput(f"{', '.join(given)}: not of what a model says. Measure that without --generation.")
    temperatures = options["temperature"] or []
    if len(set(temperatures)) < len(temperatures):
        raise BadInput(f"--temperature {', '.join(map(str, temperatures))}: name each once.")
    if options["judge_model"] is not None and options["judge"] is None:
        raise BadInput("--judge-model is asked of a judge's server: name it with --judge.")
    protocol = protocol_of(
        options["protocol"] or "ours",
        prompts=options["prompts"],
        most_prompts=options["n_prompts"],
        samples=options["samples"],
        temperature=temperatures[0] if len(temperatures) == 1 else None,
        asr=options["asr"],
        lm=options["text_lm"],
    )
    values = measure_generation(
        model,
        against=against,
        protocol=protocol,
        suites=suites,
        temperatures=temperatures,
        quality=options["quality"] or QUALITY,
        voices=options["voices"] or RESEMBLYZER,
        embedder=options["embedder"] or WORDLLAMA,
        judge=options["judge"],
        judge_model=options["judge_model"],
        judge_price=_price(options["judge_price"], judge=options["judge"]),
        out=out,
        tokenizer=tokenizer,
        vocoder=options["vocoder"],
        voice=Voice(speaker=options["speaker"], style=options["style"], language=options["language"]),
        search=search,
        seed=seed,
        progress=progress,
    )
    return Result(values, table(values, width=shutil.get_terminal_size((0, 0)).columns or None))


def _price(given: str | None, *, judge: str | None) -> tuple[float, float] | None:
    if given is None:
        return None
    if judge is None:
        raise BadInput("--judge-price is of a judge: name one with --judge.")
    try:
        prices = [float(part) for part in given.split(",")]
    except ValueError:
        prices = []
    if len(prices) != 2 or not all(0 <= price < math.inf for price in prices):
        raise BadInput(f"--judge-price {given}: give two prices of a million tokens, read and written, as 0.15,0.60.")
    return prices[0], prices[1]
