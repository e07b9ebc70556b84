"""study.jsonl: one line a finished run, under the key of everything it depends on. A line is never done again.

Several processes may work on one file; files of several machines may be joined with `cat`: of lines with one key the
first counts. (But a run that was ended by a limit on rises of its loss may be made again under another limit.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from twistlm.errors import BadInput, offenders
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import parse_json, without_nan
from twistlm.files.text import read_text

NAME = "study.jsonl"
Row = dict[str, Any]
_ROW = {"key": str, "cell?": dict, "study?": str, "nll?": (float, None)}
_FIX = "twistlm writes the file whole: it was changed since. Take the line out; the run is then done again."


def read(folder: str | Path) -> dict[str, Row]:
    """Return key -> line of the file in `folder`; none when there is no file yet.

    Raises:
        BadInput: a line is not one of a study.
    """
    path = Path(folder) / NAME
    found: dict[str, Row] = {}
    lines = read_text(path, "the finished runs of a study").split("\n") if path.exists() else []
    for number, line in enumerate(filter(None, lines), start=1):
        row = parse_json(line, where=f"{path}, line {number}", kind="a finished run", shape=_ROW, fix=_FIX)
        if "max_loss_rise" in found.get(row["key"], {}):  # it was ended by a limit, and made again under another
            del found[row["key"]]
        found.setdefault(row["key"], row)
    return found


def by_cell(folder: str | Path, *names: str) -> dict[tuple[Any, ...], Row]:
    """Return what `names` of its cell say -> line.

    Raises:
        BadInput: as `read`; or two lines are of one cell, which means that they are of two recipes or corpora.
    """
    found: dict[tuple[Any, ...], Row] = {}
    for row in read(folder).values():
        cell = tuple(row["cell"][name] for name in names)
        if cell in found:
            raise BadInput(
                f"{Path(folder) / NAME} holds two runs of {', '.join(map(str, cell))} ({', '.join(names)}): of two "
                "recipes, or on two corpora, which no table may mix. Give each a folder of its own."
            )
        found[cell] = row
    return found


def require_same(
    folder: str | Path, wanted: Mapping[str, tuple[Any, ...]], *names: str, study: str, division: str
) -> None:
    """Do nothing where the lines of `folder` are of the same settings as what is wanted; to be called before training.

    Args:
        folder: of the file.
        wanted: key -> what `names` of its cell say.
        study: digest of what all its cells share. Lines of before it was noted have none, and go by their cells.
        division: digest of which documents are held out. Lines of before it was noted have none either.

    Raises:
        BadInput: a line is of another study, or of a wanted cell under another key.
    """
    cells = {cell: key for key, cell in wanted.items()}
    others = [
        cell
        for key, row in read(folder).items()
        if ((cell := tuple(row["cell"].get(name) for name in names)) in cells and cells[cell] != key)
        or row.get("study", study) != study
        or row.get("division", division) != division
    ]
    if others:
        said = offenders([", ".join(map(str, cell)) for cell in others])
        raise BadInput(
            f"{Path(folder) / NAME} holds runs of other settings or on another corpus, or with other documents held "
            f"out ({', '.join(names)}): {said}. No table may mix them: give these settings a folder of their own."
        )


def append(folder: str | Path, row: Mapping[str, Any]) -> None:
    """Add a line; the file is replaced in one step, under a lock that other processes respect.

    A number that is not finite (an interval over one document) is null there.
    """
    path = Path(folder) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{NAME}.lock")):
        before = read_text(path, "the finished runs of a study") if path.exists() else ""
        with atomic_write(path) as temporary:
            temporary.write_text(before + json.dumps(without_nan(row), allow_nan=False) + "\n", encoding="utf-8")
