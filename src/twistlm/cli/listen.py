"""Verbs of human evaluation, `twist listen …`: plan, serve, analyse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from twistlm.cli.command import Result, Seed, group, tell
from twistlm.errors import BadInput

verb = group("listen", help="Let people judge speech: plan a study, let raters in, analyse what they said.")

Study = Annotated[Path, typer.Argument(help="Folder that twist listen plan wrote.")]


@verb
def plan(
    samples: Annotated[list[str], typer.Argument(help="A folder of clips for each system: NAME=FOLDER, or FOLDER.")],
    out: Annotated[Path, typer.Option(help="Folder of the study to write.")],
    design: Annotated[Literal["mos", "ab"], typer.Option(help="Rate one clip from 1 to 5, or compare two.")],
    question: Annotated[Literal["meaning", "naturalness", "quality"], typer.Option(help="What raters are asked.")],
    clips: Annotated[int, typer.Option(help="Clips of every system (or pair) that a rater hears.", min=1)],
    ratings: Annotated[int, typer.Option(help="Raters who hear each clip, at least.", min=1)],
    truth: Annotated[str, typer.Option(help="System that is the resynthesised truth: the ceiling.")] = "",
    floor: Annotated[
        str, typer.Option(help="Made of the truth: shuffled, or noise; or a system of yours; or none.")
    ] = "none",
    natural: Annotated[Path | None, typer.Option(help="Natural recordings of items, for gold clips.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="What each item continues: played before its clips.")] = None,
    pause: Annotated[float, typer.Option(help="Seconds between a prompt and its continuation.")] = 0.0,
    pair: Annotated[list[str] | None, typer.Option(help="Compare A:B only. Can be repeated; default: all.")] = None,
    ties: Annotated[bool, typer.Option(help='Of ab, allow "no difference".')] = True,
    training: Annotated[int, typer.Option(help="Clips to practise on.")] = 3,
    gold: Annotated[
        int | None, typer.Option(help="Clips with a plain answer; default: 2 where there are such.")
    ] = None,
    traps: Annotated[int, typer.Option(help="Clips in which a voice says what to answer.")] = 2,
    language: Annotated[list[str] | None, typer.Option(help="en, de. Can be repeated; default: en.")] = None,
    sample_rate: Annotated[int | None, typer.Option(help="Hz of all clips; default: the highest of them.")] = None,
    lufs: Annotated[float, typer.Option(help="Loudness of all clips, ITU-R BS.1770.")] = -24.0,
    headphones: Annotated[bool, typer.Option(help="Check for headphones.")] = True,
    hearing: Annotated[bool, typer.Option(help="Check hearing, by digits in noise.")] = True,
    seed: Seed = 0,
    progress: bool = True,
) -> Result:
    """Plan a study: who hears what, in balanced blocks, every clip at one loudness and without a name."""
    from twistlm.jobs.listening_plan import plan_study, said
    from twistlm.listen.request import Request

    request = Request(
        design=design,
        question=question,
        clips_per_system=clips,
        ratings_per_clip=ratings,
        seed=seed,
        truth=truth,
        floor=floor,
        pairs=tuple(_pair(one) for one in pair or ()),
        ties=ties,
        training=training,
        gold=gold,
        traps=traps,
        languages=tuple(language or ["en"]),
        sample_rate=sample_rate,
        lufs=lufs,
        pause=pause,
        headphones=headphones,
        hearing=hearing,
    )
    facts = plan_study(samples, out, request, natural=natural, prompts=prompts, progress=progress)
    return Result(facts, said(facts))


@verb
def serve(
    study: Study,
    recruit: Annotated[
        Literal["invitations", "prolific", "mturk", "open"], typer.Option(help="Where raters come from.")
    ] = "invitations",
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8040,
    public_url: Annotated[str, typer.Option(help="Where raters reach it, when that is behind a proxy.")] = "",
    completion_code: Annotated[str, typer.Option(help="Given to who finishes.")] = "",
    screen_out_code: Annotated[str, typer.Option(help="Given to who does not pass the checks.")] = "",
    no_consent_code: Annotated[str, typer.Option(help="Given to who does not want to take part.")] = "",
    hold_hours: Annotated[float, typer.Option(help="A place left so long may go to another.", min=0.1)] = 24.0,
) -> Result:
    """Let raters in: one saved answer a click, until Ctrl-C."""
    from twistlm.jobs.listening_server import serve_study
    from twistlm.listen.recruiting import Recruiting

    recruiting = Recruiting(
        platform=recruit,
        completion_code=completion_code,
        screen_out_code=screen_out_code,
        no_consent_code=no_consent_code,
    )
    facts = serve_study(
        study, recruiting, host=host, port=port, public_url=public_url, hold_hours=hold_hours, tell=tell
    )
    ended = ", ".join(f"{n} {stage.replace('_', ' ')}" for stage, n in facts["sessions"].items())
    return Result(facts, f"{study}: raters: {ended or 'none'}")


@verb
def analyse(
    study: Annotated[Path, typer.Argument(help="A study's folder; or a CSV file of webMUSHRA or P.808.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: analysis in the study.")] = None,
    traps: Annotated[float, typer.Option(help="Share of trapping clips that a rater must get right.")] = 1.0,
    gold: Annotated[float, typer.Option(help="Share of gold clips that a rater must get right.")] = 0.5,
    played: Annotated[float, typer.Option(help="Share of clips that must be heard to the end.")] = 0.95,
    variance: Annotated[float, typer.Option(help="Of a rater's answers, at least.")] = 0.1,
    correlation: Annotated[
        float, typer.Option(help="With the other raters' mean, at least; -1 leaves nobody out.")
    ] = -1.0,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Keep who did not finish.")] = False,
    clip_pattern: Annotated[
        str | None, typer.Option(help="Of a CSV file: a clip's name as a regular expression with system and item.")
    ] = None,
    mixed: Annotated[bool, typer.Option(help="Fit a mixed model too.")] = True,
    seed: Seed = 0,
) -> Result:
    """Scores with intervals over raters and items, differences, agreement, and how many raters it takes."""
    from twistlm.jobs.listening_results import analyse_study
    from twistlm.listen.exclusions import Rules
    from twistlm.pages.listening import text

    rules = Rules(
        finished=not unfinished,
        traps=traps,
        gold=gold,
        played=played,
        variance=variance,
        correlation=None if correlation <= -1 else correlation,
    )
    results = analyse_study(study, out, rules=rules, clip_pattern=clip_pattern, mixed=mixed, seed=seed)
    return Result(results, f"{text(results)}\n{results['page']}")


def _pair(text: str) -> tuple[str, str]:
    first, mark, second = text.partition(":")
    if not (first and mark and second):
        raise BadInput(f"--pair {text!r}: write the names of two systems with a colon between them.")
    return first, second
