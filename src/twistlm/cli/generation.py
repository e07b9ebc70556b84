"""`twist eval --generation`: what its options mean, and what it prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twistlm.cli.command import Result
from twistlm.errors import BadInput


def evaluate_generation(
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

    if given := [name for name, value in refused.items() if value]:
        raise BadInput(f"{', '.join(given)}: not of what a model says. Measure that without --generation.")
    temperatures = options["temperature"] or []
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
        out=out,
        tokenizer=tokenizer,
        vocoder=options["vocoder"],
        search=search,
        seed=seed,
        progress=progress,
    )
    return Result(values, table(values))
