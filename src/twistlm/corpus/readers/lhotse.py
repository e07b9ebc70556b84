"""Lhotse's cut manifests. Read as JSON; the library is not needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twistlm.corpus.manifest import Entry
from twistlm.corpus.readers.tables import all_there, objects, split_of
from twistlm.errors import BadInput, offenders
from twistlm.files.jsonl import read_json


def lhotse(folder: Path) -> list[Entry]:
    """Cuts of Lhotse (github.com/lhotse-speech/lhotse), whatever corpus they are of.

    Source and licence: those of the corpus.

    Layout: `folder` is a cut manifest, `.jsonl`, `.jsonl.gz` or `.json`, or holds such files with "cuts" in their
    names. Each cut has `id`, `start`, `duration` and a `recording` with one source of the type "file", of one channel;
    checked against Lhotse's documentation and the manifests in its tests. A relative path is relative to the working
    directory, as for Lhotse. The text joins those of the cut's supervisions; the speaker is theirs, if they agree.

    Splits: by the words in the manifest's name: train, validation (valid, val, dev), test (eval); "train" without one.

    Raises:
        BadInput: no cut manifest; cuts that cannot be read exactly, listed: mixed, padded or of several channels,
            without a recording, changed in speed, volume or rate, or whose sound a command, a URL or memory gives
            (commands are never run).
    """
    paths = [folder] if folder.is_file() else sorted(path for path in folder.iterdir() if _is_cuts(path.name))
    if not paths:
        raise BadInput(f"{folder}: no cut manifests in it (…cuts….jsonl.gz). Make them with `lhotse`, or give one.")
    entries, odd = [], []
    for path in paths:
        split = split_of(path.name, where=path.parent)
        for where, cut in _cuts(path):
            try:
                entries.append(_entry(cut, split))
            except _Unreadable as error:
                odd.append(f"{cut.get('id', where)!r} ({error})")
    if odd:
        raise BadInput(
            f"{folder}: cuts that cannot be read exactly: {offenders(odd)}. Save their sound with Lhotse "
            "(`cuts.save_audios`) or leave them out."
        )
    return all_there(entries, folder)


class _Unreadable(Exception):
    """Why a cut cannot be read."""


def _is_cuts(name: str) -> bool:
    return "cuts" in name and name.endswith((".jsonl", ".jsonl.gz", ".json"))


def _cuts(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix != ".json":
        yield from ((f"line {number}", cut) for number, cut in objects(path))
        return
    found = read_json(path, "a list of Lhotse's cuts", shape=[dict], most=1 << 30)
    yield from ((f"cut {number}", cut) for number, cut in enumerate(found, start=1))


def _objects(found: object) -> bool:
    return isinstance(found, list) and all(isinstance(one, dict) for one in found)


def _entry(cut: dict[str, Any], split: str) -> Entry:
    kind = cut.get("type", "MonoCut")
    if kind not in ("MonoCut", "Cut"):
        raise _Unreadable(f"a {kind}")
    recording = cut.get("recording")
    if not isinstance(recording, dict):
        raise _Unreadable("no recording, perhaps features alone")
    if recording.get("transforms"):
        raise _Unreadable("its recording is changed by transforms")
    sources = recording.get("sources") or [{}]
    if not _objects(sources):
        raise _Unreadable("its sources are no list of objects")
    channels = sources[0].get("channels")
    if len(sources) != 1 or not isinstance(channels, list) or len(channels) != 1:
        raise _Unreadable("not one source of one channel")
    if sources[0].get("type") != "file":
        raise _Unreadable(f"its source is a {sources[0].get('type')!r}, not a file")
    try:
        start, seconds, held = float(cut["start"]), float(cut["duration"]), float(recording["duration"])
        id, path, one_sample = str(cut["id"]), Path(sources[0]["source"]), 1 / float(recording["sampling_rate"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise _Unreadable(f"a field is missing or wrong: {error!r}") from error
    supervisions = cut.get("supervisions") or []
    if not _objects(supervisions):
        raise _Unreadable("its supervisions are no list of objects")
    if any(
        not isinstance(s.get("text"), str | None) or not isinstance(s.get("speaker"), str | int | None)
        for s in supervisions
    ):
        raise _Unreadable("a text or speaker is no text")
    speakers = {str(s["speaker"]) for s in supervisions if s.get("speaker") is not None}
    whole = start == 0 and abs(seconds - held) <= one_sample
    return Entry(
        id=id,
        path=path.absolute(),
        speaker=speakers.pop() if len(speakers) == 1 else "",
        split=split,
        text=" ".join(s["text"] for s in supervisions if s.get("text")),
        seconds=seconds,
        start=None if whole else start,
    )
