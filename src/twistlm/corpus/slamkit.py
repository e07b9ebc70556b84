"""Published unit corpora, read as they are: JSON lines of units in SlamKit's format become our shards.

R units of one clip.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from twistlm.audio.finding import visible
from twistlm.corpus.manifest import held_out
from twistlm.corpus.readers.tables import objects
from twistlm.corpus.shards import Row, ShardWriter, drop, read_facts
from twistlm.corpus.tokenize import locked
from twistlm.errors import BadInput, offenders
from twistlm.progress import task
from twistlm.types import Units, UnitSpec

SUFFIXES = (".jsonl", ".jsonl.gz")
PADDING = 40  # samples that SlamKit puts before and behind each clip
_MOST_SECONDS = 24 * 3600  # of a clip; longer ones are durations of something else
_ONE = re.compile(r"<Un(\d{1,9})>")
_ALL = re.compile(r"(?:<Un\d{1,9}>)+")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What a run of `import_units` did.

    Attributes:
        out: the folder of the shards.
        n_done: clips written now.
        n_skipped: clips that were there already, the same.
        n_replaced: clips of `n_done` that took the place of another of the same id.
    """

    out: Path
    n_done: int
    n_skipped: int
    n_replaced: int = 0


def import_units(
    source: str | Path,
    out: str | Path,
    spec: UnitSpec,
    *,
    split: str = "train",
    heldout: float = 0.0,
    seed: int = 0,
    durations: Literal["given", "unknown"] = "given",
    progress: bool = False,
) -> Imported:
    """Store units that somebody else cut, as `tokenize` would have stored them.

    Each line of a file is one clip: `file_name` (its id), and either `units` with `duration`, lists of R integers (what
    SlamKit's extract_features writes), or `audio_repr`, "<Un3><Un49>…" (its prepare_tokens), which has lost the
    durations. `text` is kept where it is a string; other keys are not read. Checked against SlamKit's example data.

    Equal neighbours become one unit when the spec says that units are deduplicated, and durations are written out when
    it says that they are not: no frame is lost either way. Every line is checked before the first is stored. A clip
    that `out` holds already, the same, is skipped, a changed one replaced: a run that was killed can be run again, and
    several files can go to one folder.

    Args:
        source: a file of `SUFFIXES`, or a folder with such files below it.
        out: folder for `shard-00000.parquet` …
        spec: what the units are. Nothing in the files says so: it is believed, save that no unit may be too large.
        split: the clips' split.
        heldout: share of the clips, 0 … 1, to put into the split "heldout" instead.
        seed: another seed holds out others.
        durations: "given" refuses lines without; "unknown" takes every unit for one frame long, so that seconds are
            less than they were and a vocoder must predict durations.
        progress: show a bar.

    Raises:
        BadInput: no such file, a line that cannot be read or does not fit the spec (the first five, and how many), an
            id that occurs twice, a share out of range. UnitSpecMismatch: `out` holds other units.
        TwistError: a full disk; another process is writing to `out`.
    """
    paths, out = _paths(Path(source)), Path(out)
    if not split:
        raise BadInput("a split needs a name.")
    if durations not in ("given", "unknown"):
        raise BadInput(f"durations is {durations!r}; use 'given' or 'unknown'.")
    ids = _check(paths, spec, durations)
    chosen = held_out(ids, share=heldout, seed=seed)
    with locked(out), ShardWriter(out, spec) as writer, task("import", len(ids), progress) as bar:
        there = {fact["id"]: fact for fact in read_facts(out)}
        # Changed clips leave first, all at once: dropping rewrites shards.
        rows = (_row(item, spec, durations, split, chosen) for path in paths for _, item in objects(path))
        changed = {row.units.id for row in rows if row.units.id in there and not _is_same(row, there[row.units.id])}
        drop(out, changed)
        there = {fact["id"]: fact for fact in read_facts(out)}
        for path in paths:
            for _, item in objects(path):
                row = _row(item, spec, durations, split, chosen)
                if row.units.id not in there:
                    writer.add(row)
                bar.advance()
        n_skipped = len(there.keys() & set(ids))
    return Imported(out=out, n_done=len(ids) - n_skipped, n_skipped=n_skipped, n_replaced=len(changed))


def _paths(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    found = visible(source, "**/*", SUFFIXES)
    if not found:
        raise BadInput(f"{source}: no {' or '.join(SUFFIXES)} files below it. Give the file or folder of the units.")
    return found


def _check(paths: list[Path], spec: UnitSpec, durations: str) -> list[str]:
    """Return the ids of all clips, having looked at every line."""
    ids: dict[str, None] = {}
    bad: list[str] = []
    double: list[str] = []
    for path in paths:
        for number, item in objects(path):
            try:
                id = _units(item, spec, durations).id
            except BadInput as error:
                bad.append(f"{path.name}, line {number}: {error}")
                continue
            if id in ids:
                double.append(id)
            ids[id] = None
    if bad:
        raise BadInput(f"{paths[0].parent}: lines that cannot be used: {offenders(bad)} Nothing was stored.")
    if double:
        raise BadInput(f"{paths[0].parent}: ids must be unique, these occur again: {offenders(double)}.")
    if not ids:
        raise BadInput(f"{paths[0]}: has no lines.")
    return list(ids)


def _row(item: dict[str, Any], spec: UnitSpec, durations: str, split: str, chosen: set[str]) -> Row:
    units = _units(item, spec, durations)
    text = item.get("text")
    return Row(
        units=units,
        seconds=units.seconds,
        split="heldout" if units.id in chosen else split,
        text=text if isinstance(text, str) else "",
        source_sha256=hashlib.sha256(units.ids.tobytes() + units.runs.tobytes()).hexdigest(),
    )


def _is_same(row: Row, fact: dict[str, Any]) -> bool:
    return all(getattr(row, name) == fact[name] for name in ("split", "text", "source_sha256"))


def _units(item: dict[str, Any], spec: UnitSpec, durations: str) -> Units:
    """Return one line's units. BadInput says what is wrong with it."""
    id, text = item.get("file_name"), item.get("audio_repr")
    if not isinstance(id, str) or not id:
        raise BadInput("no file_name, which is the clip's id.")
    if "units" in item:
        ids = _integers(item["units"], "units")
        lasting = item.get("duration")
    elif isinstance(text, str) and _ALL.fullmatch(text):
        ids, lasting = np.array([int(unit) for unit in _ONE.findall(text)], dtype=np.int64), None
    else:
        raise BadInput("neither units nor an audio_repr of <Un0> … alone (text between units is not speech alone).")
    if ids.min() < 0 or ids.max() >= spec.n_units:
        raise BadInput(f"the units {ids.min()} … {ids.max()} do not fit the {spec.n_units} of the tokenizer named.")
    if lasting is None and durations == "given":
        raise BadInput(
            'no duration. To do without, say that durations are "unknown": each unit is then one frame long.'
        )
    runs = np.ones_like(ids) if lasting is None else _integers(lasting, "duration")
    most = math.floor(_MOST_SECONDS * spec.frame_rate)
    if len(runs) != len(ids) or runs.min() < 1 or len(runs) > most or runs.max() > most or runs.sum() > most:
        raise BadInput(
            f"{len(ids)} units but {len(runs)} durations, or one of them is not 1 or more, or all together are more "
            f"than a day ({most} frames)."
        )
    if spec.deduplicate:
        begins = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
        ids, runs = ids[begins], np.add.reduceat(runs, begins)
    else:
        ids = np.repeat(ids, runs)
        runs = np.ones_like(ids)
    return Units(ids.astype(np.uint16), runs.astype(np.int32), spec, id=id)


def _integers(values: object, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return int64 [R], R at least 1."""
    if not isinstance(values, list) or not values or not all(type(value) is int for value in values):
        raise BadInput(f"{name} must be a list of integers, with at least one.")
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError as error:
        raise BadInput(f"{name} holds a number that is no unit and no count of frames.") from error
