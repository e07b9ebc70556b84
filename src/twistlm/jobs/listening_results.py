"""From answers to results: what `twist listen analyse` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twistlm.errors import BadInput, offenders
from twistlm.files.atomic import atomic_folder
from twistlm.files.jsonl import read_json, read_toml
from twistlm.listen.analysis import analyse
from twistlm.listen.exclusions import Rules
from twistlm.listen.importing import read_results
from twistlm.listen.ratings import ratings_of, write_csv, write_parquet
from twistlm.listen.study import ANSWERS, open_study
from twistlm.pages.listening import write_page

RESULTS = "results.json"
FILES = (RESULTS, "ratings.csv", "ratings.parquet", "report.html")


def analyse_study(
    what: Path, out: Path | None, *, rules: Rules, clip_pattern: str | None, mixed: bool, seed: int
) -> dict[str, Any]:
    """Analyse a study, or a file of another tool's results, and write what was found.

    Args:
        what: a study's folder, or a CSV file as for `listen.importing.read_results`.
        out: folder to write; None: "analysis" in the study, or beside the file under its name.
        rules: who is left out.
        clip_pattern: of a file, what in a clip's name is system and item.
        mixed: fit a mixed model.
        seed: of all resampling.

    Returns:
        What `listen.analysis.analyse` returns, with "study" (what was asked), "unanswered" (how many clips or pairs of
        a file have no answer) and "page".

    Raises:
        BadInput: nothing to analyse there, or something else than an analysis where it is to be written.
    """
    unanswered = 0
    if what.is_dir():
        if clip_pattern is not None:
            raise BadInput(f"--clip-pattern is for files of other tools: {what} is a study, which knows its clips.")
        study = open_study(what)
        ratings = ratings_of(study, what / ANSWERS)
        conditions = [tuple(one) for one in study.facts["conditions"]]
        ask = read_toml(what / "texts" / f"{study.facts['languages'][0]}.toml", "texts of a study").get("ask", "")
        names = (
            "design",
            "clips_per_system",
            "ratings_per_clip",
            "truth",
            "floor",
            "lufs",
            "loudness_measure",
            "sample_rate",
        )
        asked = {
            "question": str(ask),
            **{name: study.facts[name] for name in names},
            "fingerprint": study.facts["fingerprint"],
        }
        asked |= {"study_seed": study.facts["seed"], "raters_planned": study.facts["raters"]}
        place = out or what / "analysis"
    else:
        (ratings, unanswered), conditions = read_results(what, clip_pattern=clip_pattern), []
        asked = {"question": "", "file": what.name, "clip_pattern": clip_pattern or "none"}
        place = out or what.with_name(f"{what.stem}-analysis")
    _require_replaceable(place)
    results = analyse(ratings, conditions=conditions, rules=rules, mixed=mixed, seed=seed)
    results |= {"study": asked, "unanswered": unanswered}
    with atomic_folder(place) as folder:
        (folder / RESULTS).write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_csv(ratings, folder / "ratings.csv")
        write_parquet(ratings, folder / "ratings.parquet")
        write_page(results, folder / "report.html")
    return {**results, "page": str(place / "report.html")}


def _require_replaceable(place: Path) -> None:
    """Raise `BadInput` where a folder holds anything but an earlier analysis: all of it is replaced."""
    if not place.exists():
        return
    there = sorted(path.name for path in place.iterdir()) if place.is_dir() else [place.name]
    if not there or (
        RESULTS in there and {"rules", "kept", "all"} <= set(read_json(place / RESULTS, "results of an analysis"))
    ):
        if others := [name for name in there if name not in FILES]:
            raise BadInput(
                f"{place} holds more than an analysis, which would be replaced as a whole: {offenders(others)}. Move "
                "these away, or choose another folder."
            )
        return
    raise BadInput(f"{place} is there and is no analysis. Choose another folder for it.")
