"""The manifest: which clips there are, who speaks, and which of them training may see.

A manifest is a JSON-lines file; each line needs `id` and `path` (relative to the manifest's folder, absolute, or a URL)
and may have `speaker`, `split`, `text` and `seconds`. A clip that is a part of its file also has `start`, one inside an
archive or a Parquet file has `member`, one channel of a recording has `channel`. Other keys are left to whoever
wrote them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from twistlm.audio.finding import find_audio, is_sound, written
from twistlm.errors import BadInput, offenders
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import read_objects
from twistlm.files.text import is_text
from twistlm.files.urls import UrlPath, as_path

NAME = "manifest.jsonl"
_KIND = "a manifest, with one JSON object on each line"
_BEGIN = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM", b".snd", b"caff", b"NIST")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One clip.

    Attributes:
        id: unique in its manifest.
        path: the sound file, or the tar or Parquet file it lies in; a local path or a URL (`urls.as_path`).
        speaker: who speaks; "" when unknown.
        split: "train", or the name of a set that training never sees.
        text: what is said; "" when unknown.
        seconds: duration of the clip; None when nobody measured it, never so for a part of a file.
        start: seconds into the file where the clip begins, when it is a part of one; None for a whole file.
        member: which sound of `path`: its name in a tar, or column and row of a Parquet file, "audio[17]"; "" when
            `path` is the sound itself.
        channel: which channel of the sound is heard, from 1; None mixes them.

    Raises:
        BadInput: a start below 0 or without a positive length; a member that points out of its archive; a text, name
            or path that cannot be written down.
    """

    id: str
    path: Path | UrlPath
    speaker: str = ""
    split: str = "train"
    text: str = ""
    seconds: float | None = None
    start: float | None = None
    member: str = ""
    channel: int | None = None

    def __post_init__(self) -> None:
        if self.channel is not None and self.channel < 1:
            raise BadInput(f"the clip {self.id!r} asks for channel {self.channel}; channels are counted from 1.")
        if self.start is not None:
            length = self.seconds or 0.0
            if not (0 <= self.start < math.inf and 0 < length < math.inf):
                raise BadInput(
                    f"the clip {self.id!r} is a part of {self.path} from {self.start} s, {self.seconds} s long: a part "
                    "needs a start of 0 or more and a positive length, both finite."
                )
        if self.member and not is_safe(self.member):
            raise BadInput(
                f"the clip {self.id!r} names the member {self.member!r} of {self.path}, which points out of the "
                "archive. Nobody makes such names by accident: do not use that manifest or archive."
            )
        texts = {name: str(getattr(self, name)) for name in ("id", "path", "speaker", "split", "text", "member")}
        if odd := [name for name, text in texts.items() if not is_text(text)]:
            raise BadInput(
                f"the clip {self.id!r} of {str(self.path)!r:.200} has a NUL or half a character in {', '.join(odd)}: a "
                "file name that is not UTF-8, or a damaged text. Rename the file, or mend the manifest."
            )

    @property
    def part(self) -> str:
        """Which part of the file at `path` the clip is, as text: "" for all of it, "#a/b.flac@0.4+11.92~2"."""
        cut = "" if self.start is None else f"@{float(self.start)!r}+{float(self.seconds or 0)!r}"
        cut += "" if self.channel is None else f"~{self.channel}"
        return f"#{self.member}{cut}" if self.member or cut else ""


def is_safe(member: str) -> bool:
    """Return whether a name in an archive or a table is a plain path below where it stands."""
    return not (member.startswith(("/", "\\")) or ".." in member.replace("\\", "/").split("/") or "\0" in member)


def build(folder: str | Path | UrlPath, *, heldout: float = 0.1, seed: int = 0) -> list[Entry]:
    """Return the clips of a folder: those of its `manifest.jsonl`, or every sound file below it.

    Of a bare folder, the id is the path below it, the speaker is the folder the file lies in, and the split follows
    from the sha256 of seed and id: it does not change when other files come or go. (Only when chance leaves one of the
    two splits empty does the nearest clip change sides.) A file whose name is not UTF-8 is listed by a name that can be
    written down, under which nobody finds it: whoever reads it is told.

    Args:
        folder: where to look.
        heldout: share of the clips for the split "heldout", 0 … 1.
        seed: another seed is another division.

    Raises:
        BadInput: a broken manifest, or a share outside 0 … 1. AudioError: no sound files.
    """
    folder = as_path(folder)
    if (folder / NAME).is_file():
        return read(folder / NAME)
    paths = [(written(_below(path, folder)), path) for path in find_audio(folder)]
    chosen = held_out((id for id, _ in paths), share=heldout, seed=seed)
    entries = [
        _whole(path, id=id, speaker=folder_of(path).name, split="heldout" if id in chosen else "train")
        for id, path in paths
    ]
    return checked(entries, where=str(folder))  # two may be written alike: one whose name is not UTF-8, and "\xe9"


def folder_of(path: Path | UrlPath) -> Path | UrlPath:
    """Return the folder that a file lies in, whole; by a name that says something where the path ends it on ".."."""
    folder = path.absolute().parent
    return folder.resolve() if isinstance(folder, Path) and folder.name in ("", "..") else folder


def _whole(path: Path | UrlPath, *, id: str, speaker: str, split: str) -> Entry:
    """A sound file of which nothing is known but where it lies."""
    there = path if isinstance(path, UrlPath) else Path(written(str(path)))
    return Entry(id=id, path=there, speaker=written(speaker), split=split)


def held_out(names: Iterable[str], *, share: float, seed: int) -> set[str]:
    """Choose which names (of clips, of speakers) are held out.

    Each is chosen by the sha256 of seed and name, whatever others there are. Only when chance leaves one side empty
    does the nearest name change sides.

    Args:
        names: whose held-out ones are wanted; one that occurs again is the same name.
        share: of the names, 0 … 1.
        seed: another seed is another choice.

    Raises:
        BadInput: a share outside 0 … 1.
    """
    if not 0 <= share <= 1:
        raise BadInput(f"heldout must be a share in 0 … 1, got {share}.")
    place = {name: int(hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()[:12], 16) / 16**12 for name in names}
    chosen = {name for name in place if place[name] < share}
    if 0 < share < 1 and len(place) > 1:
        chosen = chosen or {min(place, key=place.__getitem__)}
        if len(chosen) == len(place):
            chosen.remove(max(place, key=place.__getitem__))
    return chosen


def read(path: str | Path | UrlPath) -> list[Entry]:
    """Read a manifest file, in its order. Whether the sound files exist is found out when they are read.

    Raises:
        BadInput: no such file, a line that is not a JSON object or lacks `id` or `path`, a field of the wrong type,
            an id that occurs twice, or no lines at all.
    """
    path = as_path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such manifest. Make one with `twist manifest`, or give the folder with the sounds.")
    entries = [
        _entry(fields, path.parent, where=f"{path}, line {number}")
        for number, fields in read_objects(path, _KIND, fix="Mend the line, or make the manifest again.")
    ]
    return checked(entries, where=str(path))


def write(entries: Iterable[Entry], path: str | Path | UrlPath) -> None:
    """Write a manifest atomically; sounds below its folder get relative paths, so that the folder can move."""
    path = as_path(path)
    lines = []
    for entry in checked(entries, where=str(path)):
        fields = {**asdict(entry), "path": _below(entry.path, path.parent)}
        for key, whole in (("start", None), ("member", ""), ("channel", None)):
            if fields[key] == whole:
                del fields[key]
        lines.append(json.dumps(fields, ensure_ascii=False))
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def on_channel(entries: Iterable[Entry], channel: int) -> list[Entry]:
    """Return the clips on one channel of their sounds, from 1.

    Raises:
        BadInput: clips that name another one themselves.
    """
    entries = list(entries)
    other = [entry.id for entry in entries if entry.channel not in (None, channel)]
    if other:
        raise BadInput(
            f"channel {channel} is asked for, but these clips name another: {offenders(other)}. Leave out "
            "--channel, or give a manifest without channels."
        )
    return [replace(entry, channel=channel) for entry in entries]


def _below(path: Path | UrlPath, folder: Path | UrlPath) -> str:
    """The path as text, seen from `folder` where it lies below it, else in full."""
    sound, home = path.absolute(), folder.absolute()
    if isinstance(sound, UrlPath) or isinstance(home, UrlPath):
        below = sound.below(home) if isinstance(sound, UrlPath) and isinstance(home, UrlPath) else None
        return str(sound) if below is None else below
    return (sound.relative_to(home) if sound.is_relative_to(home) else sound).as_posix()


def load(source: str | Path | UrlPath | Iterable[Entry]) -> list[Entry]:
    """Return the entries of a folder, of a manifest file, of one sound file (to train on), or those given.

    Raises:
        BadInput: as `build` and `read`; ids of the list that occur twice.
    """
    if not isinstance(source, str | Path | UrlPath):
        return checked(source, where="the list of entries")
    place = as_path(source)
    if is_sound(place.name) and place.is_file():
        return [_whole(place, id=written(place.name), speaker=folder_of(place).name, split="train")]
    if place.is_dir():
        return build(place)
    if isinstance(place, Path) and not place.suffix and _begins_as_sound(place):
        raise BadInput(
            f"{place} begins as a sound does, and its name does not end as one's, so it would be a manifest. Give it "
            "the suffix of its kind (.wav, .flac, …)."
        )
    return read(place)


def _begins_as_sound(path: Path) -> bool:
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with path.open("rb") as file:
            return file.read(4).startswith(_BEGIN)
    except OSError:
        return False  # whoever reads it says why it cannot be


def _entry(fields: dict[str, Any], folder: Path | UrlPath, *, where: str) -> Entry:
    defaults = (("speaker", ""), ("split", "train"), ("text", ""), ("member", ""))
    strings = {key: fields.get(key, default) for key, default in defaults}
    for key, value in {"id": fields.get("id"), "path": fields.get("path"), **strings}.items():
        if not isinstance(value, str) or (key in ("id", "path", "split") and not value):
            raise BadInput(f"{where}: {key!r} must be a string{'' if value == '' else f', got {value!r}'}.")
    numbers: dict[str, Any] = {key: fields.get(key) for key in ("seconds", "start")}
    for key, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise BadInput(f"{where}: {key!r} must be a number, got {value!r}.")
    channel = fields.get("channel")
    if channel is not None and type(channel) is not int:
        raise BadInput(f"{where}: 'channel' must be a whole number from 1, got {channel!r}.")
    numbers["channel"] = channel
    try:
        return Entry(id=fields["id"], path=as_path(fields["path"], below=folder), **strings, **numbers)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


def checked(entries: Iterable[Entry], *, where: str) -> list[Entry]:
    entries = list(entries)
    double = [id for id, n in Counter(entry.id for entry in entries).items() if n > 1]
    if double:
        raise BadInput(f"{where}: ids must be unique, these are not: {offenders(double)}.")
    if not entries:
        raise BadInput(f"{where}: lists no clips.")
    return entries
