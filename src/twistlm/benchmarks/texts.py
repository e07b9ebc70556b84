"""The written input of a benchmark: tables of strings with unique ids, as JSON lines or comma-separated values."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twistlm.errors import BadInput, offenders
from twistlm.evaluate.words import words_of
from twistlm.files import text as files_text
from twistlm.files.jsonl import read_objects
from twistlm.files.tables import formulas, read_table

# What is no letter, digit, blank or mark between words; a point or comma inside a number; a minus between blanks.
_SAID = re.compile(r"[^\w\s.,;:!?'\"()\[\]…–—-]|(?<=\d)[.,](?=\d)|(?<=\s)-(?=\s)")


def read_jsonl(path: str | Path, fields: Sequence[str]) -> list[dict[str, str]]:
    """Read a JSON-lines table of non-empty strings, unique in `id`.

    Raises:
        BadInput: no such file, a line that is no object, or a field that is missing or empty; an id that occurs twice.
    """
    path, rows = Path(path), []
    for _, row in read_objects(path, "the texts of a benchmark, with one JSON object on each line"):
        rows.append({field: str(row[field]) if isinstance(row.get(field), str | int) else "" for field in fields})
    return checked(rows, fields, where=str(path))


def read_csv(path: str | Path, fields: Sequence[str], *, optional: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read comma-separated values with a header; other columns are left alone. Raises as `read_jsonl`.

    Args:
        path: the file.
        fields: columns that must be there and filled.
        optional: columns that may be missing or empty; they are "" then.
    """
    kind = "the texts of a benchmark, as comma-separated values"
    rows = [
        {field: row.get(field, "") for field in (*fields, *optional)}
        for _, row in read_table(path, kind, columns=fields)
    ]
    return checked(rows, fields, where=str(path))


def checked(rows: list[dict[str, str]], fields: Sequence[str], *, where: str) -> list[dict[str, str]]:
    """Return `rows` with white space made single; raise BadInput where a field is empty or an id is doubled."""
    rows = [{field: " ".join(text.split()) for field, text in row.items()} for row in rows]
    if not rows:
        raise BadInput(f"{where} has no rows.")
    if empty := [f"row {n}: {field}" for n, row in enumerate(rows, start=1) for field in fields if not row[field]]:
        raise BadInput(f"{where}: {len(empty)} fields are missing or empty: {offenders(empty)}.")
    if run := formulas(rows, list(rows[0])):
        raise BadInput(
            f"{where}: {len(run)} fields are formulas, which spreadsheets that open the benchmark's table would run: "
            f"{offenders(run)}. Write what is to be said in words."
        )
    if doubled := sorted(id for id, n in Counter(row["id"] for row in rows).items() if n > 1):
        raise BadInput(f"{where}: {len(doubled)} ids occur more than once: {offenders(doubled)}.")
    return rows


def fingerprint_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the sha256 of a table: what `build.json` says of the texts."""
    return hashlib.sha256(json.dumps([dict(row) for row in rows], sort_keys=True).encode()).hexdigest()


def spoken_words(text: str) -> str:
    """Return what of `text` is heard: its words and what is said of signs, without case and punctuation."""
    signs = _SAID.findall(unicodedata.normalize("NFC", text))
    return " ".join([*words_of(text), *signs]) or text.casefold()


def read_text(path: str | Path) -> str:
    """Return a file of UTF-8 text with lines ended by "\\n"; a text may hold what else `splitlines` takes for an end.

    Raises:
        BadInput: it cannot be read, or is not UTF-8.
    """
    return files_text.read_text(path, "text of a benchmark").replace("\r\n", "\n")
