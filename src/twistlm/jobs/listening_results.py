"""From answers to results: what `twist listen analyse` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twistlm.errors import BadInput
from twistlm.files.atomic import atomic_folder
from twistlm.files.jsonl import read_toml
from twistlm.listen.analysis import analyse
from twistlm.listen.exclusions import Rules
from twistlm.listen.importing import read_results
from twistlm.listen.ratings import ratings_of, write_csv, write_parquet
from twistlm.listen.study import ANSWERS, open_study
from twistlm.pages.listening import write_page


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
        What `listen.analysis.analyse` returns, with "study" (what was asked) and "page".

    Raises:
        BadInput: nothing to analyse there.
    """
    if what.is_dir():
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
        ratings, conditions = read_results(what, clip_pattern=clip_pattern), []
        asked = {"question": "", "file": what.name, "clip_pattern": clip_pattern or "none"}
        place = out or what.with_name(f"{what.stem}-analysis")
    if place.exists() and not (place / "results.json").is_file() and (not place.is_dir() or any(place.iterdir())):
        raise BadInput(f"{place} is there and is no analysis. Choose another folder for it.")
    results = analyse(ratings, conditions=conditions, rules=rules, mixed=mixed, seed=seed) | {"study": asked}
    with atomic_folder(place) as folder:
        (folder / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_csv(ratings, folder / "ratings.csv")
        write_parquet(ratings, folder / "ratings.parquet")
        write_page(results, folder / "report.html")
    return {**results, "page": str(place / "report.html")}
