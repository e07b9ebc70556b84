"""metrics.jsonl: the log of a training run, one JSON object a line, each of an update that was made.

The log comes first and the checkpoint behind it: `sync`, then save. So a stop between the two leaves lines that the
checkpoint does not know, which going on drops and makes again, and never a checkpoint that the log does not know.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from twistlm.errors import BadInput, CheckpointError, offenders
from twistlm.files.atomic import atomic_write, writing
from twistlm.files.jsonl import parse_json
from twistlm.files.text import decode, read_bytes

Row = dict[str, Any]
_KIND = "the metrics of a run, with one JSON object on each line"


def read_history(path: str | Path) -> list[Row]:
    """Return the lines of a metrics.jsonl as dicts; a last line that a kill cut short is left out.

    Raises:
        BadInput: no such file, or a line before the last is not JSON.
    """
    if not Path(path).is_file():
        raise BadInput(f"there is no {path}: it is written by `twist train`.")
    data = read_bytes(path, _KIND)
    whole = decode(data[: data.rfind(b"\n") + 1], where=str(path), kind=_KIND)
    return [
        parse_json(line, where=f"{path}, line {number}", kind=_KIND, shape={"update": int})
        for number, line in enumerate(whole.split("\n")[:-1], start=1)
    ]


class MetricsLog:
    """The open metrics file of a run; lines after update `keep` are dropped, they will be made again."""

    def __init__(self, path: Path, *, keep: int | None, every: bool = True, write: bool = True) -> None:
        """Open `path` for appending.

        Args:
            path: the file, created when missing.
            keep: the update the run goes on from; None starts an empty file.
            every: whether each update has a line, from update 0 (the untrained model's evaluation) on.
            write: False only reads, and keeps the new lines in memory: another process writes the file.

        Raises:
            CheckpointError: lines up to `keep` are missing.
        """
        self.path, self.write = path, write
        self.rows: list[Row] = []
        if keep is not None:
            self.rows = [row for row in (read_history(path) if path.exists() else []) if row["update"] <= keep]
            missing = sorted(set(range(keep + 1)) - {row["update"] for row in self.rows})
            if missing and every:
                raise CheckpointError(
                    f"{path} lacks updates {offenders(missing)} although the checkpoint is of update {keep}. "
                    "The file was changed or lost; train again in a new folder."
                )
        if write:
            with atomic_write(path) as temporary:
                temporary.write_text("".join(map(_line, self.rows)), encoding="utf-8")

    def append(self, row: Row) -> None:
        """Add one line."""
        self.rows.append(row)
        if self.write:
            with writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(_line(row))

    def sync(self) -> None:
        """Force the lines to disk; called before a checkpoint, which must not be ahead of them after a power cut."""
        with writing(self.path), self.path.open("rb") as file:
            os.fsync(file.fileno())


def _line(row: Row) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
