"""Make a study from samples: who hears what, and every clip at one loudness, under a name that says nothing."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from twistlm.errors import BadInput, offenders
from twistlm.files.atomic import atomic_folder
from twistlm.files.jsonl import read_json
from twistlm.files.regular import file_sha256
from twistlm.listen import blocks, controls
from twistlm.listen.loudness import MEASURE, common_level
from twistlm.listen.places import Key, Planned, places_of
from twistlm.listen.request import Layout, Request, lay_out
from twistlm.listen.samples import Samples
from twistlm.listen.sounds import Sounds
from twistlm.listen.study import CHECKS, CLIPS, FORMAT, INVITATIONS, STUDY, SUMS, TOKEN, TRIALS, Trial, verify
from twistlm.listen.texts import copy_texts
from twistlm.listen.wave import size_of, wav
from twistlm.progress import track

HEARING, HEADPHONES = 3, 6  # trials of the checks
PASSES = {"hearing": 2, "headphones": 5}  # of them right; guessing passes less than 1 in 20,000, and 1.8 %
_SPARE = 2  # times as many check clips as one rater hears


def plan(
    samples: Samples,
    out: str | Path,
    request: Request,
    *,
    natural: Path | None = None,
    prompts: Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Write the folder of a study, whole or not at all. The same samples and request give the same study.

    Args:
        samples: one clip of every item by every system.
        out: the folder; if the same study lies there, nothing is done.
        request: what it is to be.
        natural: folder of natural recordings of items, for gold clips whose answer is the best one.
        prompts: folder of what each item continues; played before every clip of the item.
        progress: draw a bar.

    Returns:
        What study.json says, where it is ("out"), and whether it was "written" or was there.

    Raises:
        BadInput: a request that cannot be met, another study in `out`, or a clip that cannot be rated.
        AudioError: a sample that cannot be read, is silent or is too short.
    """
    out = Path(out)
    sounds = Sounds(request, samples, natural=natural, prompts=prompts)
    layout = lay_out(request, samples, natural=sounds.natural)
    facts = _facts(request, layout, sounds)
    if (there := _there(out, facts)) is not None:
        return there
    places = places_of(request, samples, layout, natural=sounds.natural)
    keys = sorted({key for trials in places for one in trials for keys in one.clips.values() for key in keys})
    frames = {key: sounds.measure(key) for key in track(keys, description="measuring loudness", enabled=progress)}
    lufs = common_level(sounds.levels, target=request.lufs)
    names = {key: _name(request.seed, "/".join(key)) for key in keys}
    seconds = {key: n / sounds.rate for key, n in frames.items()}
    facts |= {"lufs": round(lufs, 2), "minutes": _minutes(places, seconds, request)}
    size = size_of(max(frames.values()), 1)
    with atomic_folder(out) as folder:
        (folder / "clips").mkdir()
        rows = []
        for key in track(keys, description="writing clips", enabled=progress):
            clip, gain = sounds.at_level(key, lufs)
            (folder / "clips" / f"{names[key]}.wav").write_bytes(wav(clip.samples, sounds.rate, size=size))
            rows.append(
                {"clip": names[key], **key._asdict(), "seconds": seconds[key], "gain_db": round(gain, 2)},
            )
        _lines(folder / CLIPS, sorted(rows, key=lambda row: str(row["clip"])))
        _lines(folder / CHECKS, _write_checks(folder / "checks", request, sounds.rate))
        _lines(
            folder / TRIALS,
            [{"place": i, "trials": [asdict(_trial(one, names)) for one in trials]} for i, trials in enumerate(places)],
        )
        copy_texts(folder / "texts", languages=request.languages, question=request.question, design=request.design)
        (folder / STUDY).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        _write_sums(folder)
        _write_secrets(folder, len(places))
        folder.chmod(0o700)  # what each clip is lies in it
    return {**facts, "out": str(out), "written": True}


def _facts(request: Request, layout: Layout, sounds: Sounds) -> dict[str, Any]:
    facts = {
        **asdict(request),
        "format": FORMAT,
        "systems": layout.systems,
        "conditions": layout.conditions,
        "floor_system": request.floor_system,
        "items": layout.rated,
        "kept_items": layout.kept,
        "gold": len(layout.kept["gold"]),
        "raters": layout.raters,
        "lap": blocks.lap(len(layout.rated), request.clips_per_system),
        "sample_rate": sounds.rate,
        "loudness_measure": MEASURE,
        "lufs_wanted": request.lufs,
        "check_trials": {"hearing": HEARING, "headphones": HEADPHONES},
        "passes": {name: right for name, right in PASSES.items() if getattr(request, name)},
        "sources": sounds.sources(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    plain["fingerprint"] = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return plain


def _there(out: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """Return the facts of the same study in `out`, or None where nothing is."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / STUDY).is_file():
        raise BadInput(f"{out} is there and is no study. Choose another folder for it.")
    found = read_json(out / STUDY, "what a study asks")
    if found.get("fingerprint") == facts["fingerprint"]:
        verify(out)
        return {**found, "out": str(out), "written": False}
    changed = sorted(name for name in facts if facts[name] != found.get(name) and name not in ("fingerprint", "lufs"))
    raise BadInput(
        f"{out} holds another study; what differs: {offenders(changed)}. Choose another folder, or remove this one."
    )


def _trial(planned: Planned, names: dict[Key, str]) -> Trial:
    first = next(iter(planned.clips.values()))
    spoken = {code: tuple(names[key] for key in keys) for code, keys in planned.clips.items() if code}
    systems = tuple(key.system for key in first)
    return Trial(planned.kind, planned.item, systems, tuple(names[key] for key in first), spoken, planned.expected)


def _minutes(places: list[list[Planned]], seconds: dict[Key, float], request: Request) -> float:
    """Return about how long one takes: each clip 1.2 times, 4 s for an answer, a minute for each check and the rest."""
    took = [
        sum(4 + 1.2 * sum(seconds[key] for key in next(iter(one.clips.values()))) for one in trials)
        for trials in places
    ]
    return round((sum(took) / len(took)) / 60 + 1 + request.headphones + request.hearing, 1)


def _write_checks(folder: Path, request: Request, rate: int) -> list[dict[str, Any]]:
    """Write the clips of the hearing and headphone checks, all of one size, and return what they are."""
    rng = np.random.default_rng([request.seed, 8])
    made: list[tuple[str, str, str, controls.Samples]] = []
    for language in request.languages if request.hearing else ():
        for _ in range(HEARING * _SPARE):
            digits = [controls.DIGITS[i] for i in rng.choice(len(controls.DIGITS), 3, replace=False)]
            clip = controls.digits_in_noise(digits, language=language, sample_rate=rate, rng=rng)
            made.append(("hearing", "".join(digits), language, np.stack([clip.samples] * 2, axis=1)))
    for i in range(HEADPHONES * _SPARE if request.headphones else 0):
        where = i % controls.INTERVALS
        made.append(("headphones", str(where + 1), "", controls.huggins(where, sample_rate=rate, rng=rng)))
    folder.mkdir()
    size = max((size_of(len(samples), 2) for *_, samples in made), default=0)
    rows = []
    for i, (kind, answer, language, samples) in enumerate(made):
        name = _name(request.seed, f"check/{i}")
        (folder / f"{name}.wav").write_bytes(wav(samples, rate, size=size))
        seconds = len(samples) / rate
        rows.append({"kind": kind, "clip": name, "answer": answer, "language": language, "seconds": seconds})
    return sorted(rows, key=lambda row: str(row["clip"]))


def _write_sums(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "texts")
    lines = [f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def _write_secrets(folder: Path, places: int) -> None:
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerows([["invitation"], *([secrets.token_urlsafe(12)] for _ in range(places))])
    for name, text in ((TOKEN, secrets.token_urlsafe(24) + "\n"), (INVITATIONS, table.getvalue())):
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)


def _lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _name(seed: int, what: str) -> str:
    return hashlib.blake2b(what.encode(), key=f"twistlm listen {seed}".encode(), digest_size=8).hexdigest()
