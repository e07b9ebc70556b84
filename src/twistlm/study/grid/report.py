"""The report of a grid, at any moment: report.md and report.html for people, report.json for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twistlm.config import ArmConfig, GridConfig, TrainConfig
from twistlm.errors import BadInput
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import read_json
from twistlm.pages.grid import html
from twistlm.pages.grid_tables import markdown
from twistlm.study.grid import rows
from twistlm.study.grid.cells import key, losses, wanted
from twistlm.study.grid.compare import compare
from twistlm.study.grid.planning import foreseen
from twistlm.study.grid.running import STUDY


def report(folder: str | Path) -> dict[str, Any]:
    """Write the report of the study in `folder` there, and return what report.json holds.

    Besides the tables of `compare.compare`: `study`, the content of study.json, and `runs`: how many of those that are
    wanted are `finished`, and how many lines are of `other` settings.

    Raises:
        BadInput: there is no study in the folder.
    """
    folder = Path(folder)
    try:
        study = read_json(folder / STUDY, "the settings of a study", shape={"config": dict, "inputs": str})
        config = _grid(study["config"])
    except (BadInput, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{folder} holds no study ({error!r}): name the folder that `twist study run` works in (its --out)."
        ) from error
    done, inputs = rows.read(folder), study["inputs"]
    known = losses(config, inputs, done)
    keys = [key(config, cell, inputs) for cell in wanted(config, foreseen(config, known))]
    runs = {"finished": sum(k in done for k in keys), "wanted": len(keys), "other": len(done.keys() - set(keys))}
    results = {"study": study, "runs": runs, **compare(config, inputs, done, known)}
    for name, text in (
        ("report.json", json.dumps(results, indent=1, allow_nan=False) + "\n"),
        ("report.md", markdown(results)),
        ("report.html", html(results)),
    ):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return results


def _grid(values: dict[str, Any]) -> GridConfig:
    """Return the grid whose `to_dict` is `values`."""
    arms = {name: value for name, value in values.items() if isinstance(value, dict) and name != "train"}
    if "choose_by" not in values:  # a study from before the head and the tables' rate were settings
        values = {**values, "choose_by": "mean", "noise": 0.0, "train": {**values["train"], "table_rate": 1.0}}
        arms = {name: {**arm, "table_rate": 1.0, "head": "as-is", "head_start": "rows"} for name, arm in arms.items()}
        values["cut"] = [*values["cut"], "tied_warm", "tied_cold"]
        arms |= {"tied_warm": arms["warm"], "tied_cold": arms["cold"]}
    inner = {name: ArmConfig(**arm) for name, arm in arms.items()}
    return GridConfig(**{**values, **inner, "train": TrainConfig(**values["train"])})
