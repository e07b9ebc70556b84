"""What must be the same however often a command was stopped: hashes of files, and plain values without clocks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

CLOCKS = {"seconds", "eval_seconds", "wall", "peak_rss_gb", "total"}


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(folder: Path, *patterns: str) -> dict[str, str]:
    found = {str(p.relative_to(folder)): sha(p) for pattern in patterns for p in folder.glob(pattern) if p.is_file()}
    if not found:
        raise FileNotFoundError(f"none of {patterns}")
    return dict(sorted(found.items()))


def heard(path: Path) -> list[Any]:
    """What a sound file holds: an Ogg stream has a random serial number."""
    import soundfile

    samples, rate = soundfile.read(path)
    return [len(samples), rate, hashlib.sha256(samples.tobytes()).hexdigest()]


def unclocked(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: unclocked(v) for k, v in value.items() if k not in CLOCKS}
    return [unclocked(v) for v in value] if isinstance(value, list) else value


def json_file(path: Path) -> Any:
    return unclocked(json.loads(path.read_text()))


def json_lines(path: Path) -> list[Any]:
    return [unclocked(json.loads(line)) for line in path.read_text().splitlines()]


def units(folder: Path) -> list[Any]:
    """The shards, and what is read through the cache that is made of them."""
    from twistlm.corpus.opened import open_corpus

    corpus = open_corpus(folder / "units", split=None)
    total = int(sum(corpus[i].ids.astype(int).sum() + corpus[i].runs.sum() for i in range(len(corpus))))
    return [
        files(folder, "units/shard-*.parquet"),
        corpus.fingerprint,
        total,
        (folder / "units/failures.jsonl").exists(),
    ]


def trained(folder: Path) -> list[Any]:
    return [
        files(folder, "run/lm/*"),
        json_lines(folder / "run/metrics.jsonl"),
        json_file(folder / "run/result.json"),
        sorted(p.name for p in (folder / "run").iterdir() if p.name != ".lock"),
    ]


def scores(folder: Path) -> list[Any]:
    import pyarrow.parquet as pq

    tables = {p.name: pq.read_table(p).to_pylist() for p in sorted((folder / "scores").glob("*.parquet"))}
    return [files(folder, "scores/*.json"), tables, files(folder, "sub/**/*")]


def study(folder: Path) -> list[Any]:
    rows = json_lines(folder / "study/study.jsonl")
    return [
        {row["key"]: row for row in rows},
        len(rows),
        files(folder, "study/best/*/lm/*.safetensors"),
        json_file(folder / "study/report.json"),
    ]


def lines_of_study(folder: Path) -> list[Any]:
    """The lines of `twist study steady`, in whatever order processes added them, and what is left beside them."""
    left = sorted(str(p.relative_to(folder)) for p in (folder / "study").rglob("*") if p.name != ".study.jsonl.lock")
    return [sorted(json_lines(folder / "study/study.jsonl"), key=lambda row: row["key"]), left]


def long_study(folder: Path) -> list[Any]:
    """The same of `twist study long`, and the models that longer runs would go on from."""
    return [*lines_of_study(folder), files(folder, "study/runs/*/*/lm/*.safetensors", "study/runs/*/*/stable/*")]


def run_of(folder: Path, made: str) -> list[Any]:
    """A run of `twist vocoder train` or `twist hubert`: what it made, its checkpoint, its log."""
    found = files(folder, f"run/{made}/*", "run/checkpoint/*.safetensors")
    return [found, json_lines(folder / "run/metrics.jsonl")]
