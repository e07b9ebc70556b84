"""What a measurement leaves: NAME.json with the numbers, NAME.parquet with a row for each continuation."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from twistlm.errors import BadInput
from twistlm.evaluate.generation.protocols import Protocol
from twistlm.evaluate.generation.speaking import System, Values
from twistlm.evaluate.generation.table import MEASURES
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import read_json, without_nan

_TEXTS = ("prompt", "group", "recording", "text", "sound", "reply")
_NUMBERS = tuple(sorted({name for m in MEASURES for name in m.columns} | {"start", "n_units"}))


def slug(protocol: Protocol) -> str:
    """Return what the files of a protocol's results are called: its name, and of a changed one its hash too."""
    plain = re.sub(r"[^a-z0-9]+", "-", protocol.name.lower()).strip("-")
    return plain if " " not in protocol.name else f"{plain[:40].rstrip('-')}-{protocol.fingerprint[:8]}"


def write_results(values: Values, path: Path) -> None:
    """Write numbers as JSON, null where there is none."""
    with atomic_write(path) as temporary:
        text = json.dumps(without_nan(values), indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def replaced(path: Path, values: Values) -> list[str]:
    """Return what to say of results that stand at `path` and are of something else than `values`, in one sentence."""
    try:
        before = read_json(path, "what models say", shape={"systems": [dict]}, nan=True)
    except BadInput:
        return []  # none, or something else, which is no loss
    then, now = ({system.get("model_sha256") for system in one["systems"]} for one in (before, values))
    others = ["models"] if then - now else []
    titles = {"prompts": "prompts", "seed": "seed", "heard_with": "vocoder, recogniser or judges"}
    others += [title for name, title in titles.items() if before.get(name) != values[name]]
    told = [f"of other {', '.join(others)}"] if others else []
    gone = [name for name in ("likelihoods", "judge") if before.get(name) and not values.get(name)]
    told += [f"with {' and '.join(gone)}, which these lack"] if gone else []
    return [f"{path} held results {' and '.join(told)}, and was replaced: --out keeps both"] if told else []


def write_rows(systems: Sequence[System], path: Path, *, facts: Values) -> None:
    """Write a Parquet table: system, kind, prompt, sample, text, sound (relative to the table's folder) and each
    number of each continuation; `facts` go into the table's metadata."""
    columns: dict[str, list[Any]] = {name: [] for name in ("system", "kind", "sample", *_TEXTS, *_NUMBERS)}
    for system in systems:
        for row in system.rows:
            columns["system"].append(system.name)
            columns["kind"].append(system.kind)
            columns["sample"].append(row["sample"])
            for name in _TEXTS:
                columns[name].append(row.get(name) or "")
            for name in _NUMBERS:
                number = row.get(name)
                columns[name].append(None if number is None else float(number))
    table = pa.table(
        {
            name: pa.array(
                values, pa.float64() if name in _NUMBERS else pa.int32() if name == "sample" else pa.string()
            )
            for name, values in columns.items()
        },
        metadata={"facts": json.dumps(without_nan(facts), ensure_ascii=False)},
    )
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
