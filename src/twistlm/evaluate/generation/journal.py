"""What a long measurement has done so far: one line of JSON for each finished item, kept over interruptions.

A line that a killed process left half-written is dropped when the journal is opened, and its item is done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from twistlm.compute.threads import in_order
from twistlm.files.atomic import writing
from twistlm.files.jsonl import parse_json
from twistlm.files.regular import read_regular
from twistlm.progress import track

Values = dict[str, Any]
_KIND = "what a measurement has finished, one item a line"
_FIX = "Remove it, and what it holds is measured again."


class Journal:
    """Finished items by key. Held by one process at a time: the caller has locked the folder.

    Attributes:
        path: the file; made with its first line.
        rows: key -> what was found.
    """

    def __init__(self, path: Path) -> None:
        """Open a journal, or begin one.

        Raises:
            BadInput: what is there is no journal.
        """
        self.path = path
        self.rows: dict[str, Values] = {}
        if not path.exists():
            return
        whole, good = read_regular(path, _KIND), 0
        for line in whole.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            where = f"{path} is damaged at byte {good}"
            row = parse_json(line, where=where, kind=_KIND, shape={"key": str, "found": dict}, fix=_FIX, nan=True)
            self.rows[row["key"]] = row["found"]
            good += len(line)
        if good < len(whole):
            with writing(path):
                os.truncate(path, good)

    def add(self, key: str, found: Values) -> None:
        """Write down a finished item; it is on the disk when this returns."""
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write((json.dumps({"key": key, "found": found}) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        self.rows[key] = found

    def fill(
        self, items: Iterable[tuple[str, Any]], work: Callable[[Any], Values], *, description: str, progress: bool
    ) -> dict[str, Values]:
        """Do what is missing, each core an item at a time; return key -> what was found, of all items, in their order.

        Args:
            items: key, and what `work` is called with.
            work: called from several threads.
            description, progress: of the bar.
        """
        asked = list(items)
        todo = [(key, item) for key, item in asked if key not in self.rows]
        with closing(in_order(lambda one: (one[0], work(one[1])), todo)) as made:
            shown = track(made, description=description, total=len(todo), enabled=progress and bool(todo))
            for key, found in shown:
                self.add(key, found)
        return {key: self.rows[key] for key, _ in asked}

    def fill_batches(
        self,
        keys: list[str],
        work: Callable[[list[str]], list[Values]],
        *,
        size: int,
        description: str,
        progress: bool,
    ) -> dict[str, Values]:
        """As `fill`, for work that is done for several items together. Batches are of the order of `keys`, whatever
        is there already, so that a rerun computes the sums of a first run."""
        batches = [keys[i : i + size] for i in range(0, len(keys), size)]
        todo = [batch for batch in batches if any(key not in self.rows for key in batch)]
        for batch in track(todo, description=description, enabled=progress and bool(todo)):
            for key, found in zip(batch, work(batch), strict=True):
                if key not in self.rows:
                    self.add(key, found)
        return {key: self.rows[key] for key in keys}
