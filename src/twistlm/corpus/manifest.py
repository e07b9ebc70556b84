"""The manifest: which clips there are, who speaks, and which of them training may see.

A manifest is a JSON-lines file; each line needs `id` and `path` (relative to the manifest's folder, or absolute) and
may have `speaker`, `split`, `text`, `start` and `seconds`. Other keys are left to whoever wrote them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from twistlm.atomic import atomic_write
from twistlm.audio.io import find_audio
from twistlm.errors import BadInput, offenders

NAME = "manifest.jsonl"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One clip.

    Attributes:
        id: unique in its manifest.
        path: the sound file.
        speaker: who speaks; "" when unknown.
        split: "train", or the name of a set that training never sees.
        text: what is said; "" when unknown.
        seconds: duration, None when nobody measured it.
        start: seconds into the file where the clip begins, when it is a part of `seconds` of it; None for a whole file.
    """

    id: str
    path: Path
    speaker: str = ""
    split: str = "train"
    text: str = ""
    seconds: float | None = None
    start: float | None = None


def build(folder: str | Path, *, heldout: float = 0.1, seed: int = 0) -> list[Entry]:
    """Return the clips of a folder: those of its `manifest.jsonl`, or every sound file below it.

    Of a bare folder, the id is the path below it, the speaker is the folder the file lies in, and the split follows
    from the sha256 of seed and id: it does not change when other files come or go. (Only when chance leaves one of the
    two splits empty does the nearest clip change sides.)

    Args:
        folder: where to look.
        heldout: share of the clips for the split "heldout", 0 … 1.
        seed: another seed is another division.

    Raises:
        BadInput: a broken manifest, or a share outside 0 … 1. AudioError: no sound files.
    """
    folder = Path(folder)
    if (folder / NAME).is_file():
        return read(folder / NAME)
    if not 0 <= heldout <= 1:
        raise BadInput(f"heldout must be a share in 0 … 1, got {heldout}.")
    paths = {path.relative_to(folder).as_posix(): path for path in find_audio(folder)}
    place = {id: int(hashlib.sha256(f"{seed}:{id}".encode()).hexdigest()[:12], 16) / 16**12 for id in paths}
    chosen = {id for id in paths if place[id] < heldout}
    if 0 < heldout < 1 and len(paths) > 1:
        chosen = chosen or {min(place, key=place.__getitem__)}
        if len(chosen) == len(paths):
            chosen.remove(max(place, key=place.__getitem__))
    return [
        Entry(
            id=id,
            path=path,
            speaker=path.parent.name or folder.resolve().name,
            split="heldout" if id in chosen else "train",
        )
        for id, path in paths.items()
    ]


def read(path: str | Path) -> list[Entry]:
    """Read a manifest file, in its order. Whether the sound files exist is found out when they are read.

    Raises:
        BadInput: no such file, a line that is not a JSON object or lacks `id` or `path`, a field of the wrong type,
            an id that occurs twice, or no lines at all.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such manifest. Make one with `twist manifest`, or give the folder with the sounds.")
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            entries.append(_parse(line, path.parent, where=f"{path}, line {number}"))
    return _checked(entries, where=str(path))


def write(entries: Sequence[Entry], path: str | Path) -> None:
    """Write a manifest atomically; sounds below its folder get relative paths, so that the folder can move."""
    path = Path(path)
    lines = []
    for entry in _checked(entries, where=str(path)):
        sound, home = entry.path.absolute(), path.parent.absolute()
        relative = sound.relative_to(home) if sound.is_relative_to(home) else sound
        lines.append(json.dumps({**asdict(entry), "path": relative.as_posix()}, ensure_ascii=False))
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def load(source: str | Path | Sequence[Entry]) -> list[Entry]:
    """Return the entries of a folder, of a manifest file, or of a list (checked for double ids)."""
    if not isinstance(source, str | Path):
        return _checked(source, where="the list of entries")
    return build(source) if Path(source).is_dir() else read(source)


def _parse(line: str, folder: Path, *, where: str) -> Entry:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where}: not JSON ({error}). A manifest has one JSON object on each line.") from error
    if not isinstance(fields, dict):
        raise BadInput(f"{where}: not a JSON object. A manifest has one JSON object on each line.")
    strings = {key: fields.get(key, default) for key, default in (("speaker", ""), ("split", "train"), ("text", ""))}
    for key, value in {"id": fields.get("id"), "path": fields.get("path"), **strings}.items():
        if not isinstance(value, str) or (key in ("id", "path", "split") and not value):
            raise BadInput(f"{where}: {key!r} must be a string{'' if value == '' else f', got {value!r}'}.")
    numbers = {key: fields.get(key) for key in ("seconds", "start")}
    for key, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise BadInput(f"{where}: {key!r} must be a number, got {value!r}.")
    if numbers["start"] is not None and numbers["seconds"] is None:
        raise BadInput(f"{where}: a clip with a 'start' is a part of its file and needs 'seconds', its length.")
    place = folder / fields["path"]
    return Entry(id=fields["id"], path=place, seconds=numbers["seconds"], start=numbers["start"], **strings)


def _checked(entries: Sequence[Entry], *, where: str) -> list[Entry]:
    double = [id for id, n in Counter(entry.id for entry in entries).items() if n > 1]
    if double:
        raise BadInput(f"{where}: ids must be unique, these are not: {offenders(double)}.")
    if not entries:
        raise BadInput(f"{where}: lists no clips.")
    return list(entries)
