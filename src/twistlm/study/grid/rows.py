"""study.jsonl: one line a finished run, under the key of everything it depends on. A line is never done again.

Several processes may work on one file; files of several machines may be joined with `cat`: of lines with one key the
first counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from twistlm.errors import BadInput
from twistlm.files.atomic import atomic_write

NAME = "study.jsonl"
Row = dict[str, Any]


def read(folder: str | Path) -> dict[str, Row]:
    """Return key -> line of the file in `folder`; none when there is no file yet.

    Raises:
        BadInput: a line is not one of a study.
    """
    path = Path(folder) / NAME
    found: dict[str, Row] = {}
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    for number, line in enumerate(filter(None, lines), start=1):
        try:
            row = json.loads(line)
            found.setdefault(row["key"], row)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise BadInput(
                f"{path}, line {number} is not a finished run ({error!r}). twistlm writes the file whole: it was "
                "changed since. Take the line out; the run is then done again."
            ) from error
    return found


def append(folder: str | Path, row: Mapping[str, Any]) -> None:
    """Add a line; the file is replaced in one step, under a lock that other processes respect."""
    path = Path(folder) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{NAME}.lock")):
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        with atomic_write(path) as temporary:
            temporary.write_text(before + json.dumps(row, allow_nan=False) + "\n", encoding="utf-8")
