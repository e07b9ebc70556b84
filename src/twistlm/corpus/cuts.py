"""Long files cut by voice activity into clips of bounded length; what is cut is kept, file by file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twistlm.audio.vad import VERSION, check_limit, speech_segments
from twistlm.compute.threads import in_order
from twistlm.corpus.manifest import Entry
from twistlm.corpus.shards import PLACE
from twistlm.corpus.sounds import place_of
from twistlm.errors import AudioError, BadInput, offenders
from twistlm.files.atomic import atomic_write, writing
from twistlm.files.jsonl import check_shape, parse_json
from twistlm.files.locks import held
from twistlm.files.text import decode, read_bytes
from twistlm.progress import task

Segments = list[tuple[float, float]]  # (start, length) in seconds


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """What `cut_by_voice` made of a manifest.

    Attributes:
        entries: the clips, in the order of their files, and the files that could not be read, whole.
        silent: ids of files in which nobody speaks: no clip is left of them.
        unreadable: what is wrong with each file that could not be read.
    """

    entries: tuple[Entry, ...]
    silent: tuple[str, ...]
    unreadable: tuple[str, ...]


def cut_by_voice(entries: Sequence[Entry], journal: str | Path, *, max_seconds: float, progress: bool = False) -> Cuts:
    """Replace each file of a manifest by its stretches of speech (`audio.vad`), none longer than `max_seconds`.

    A clip's id is its file's with the place behind it, "talk.flac@12.400-31.032", so that other cuts are other clips;
    speaker and split are the file's, and the text is not known any more. A file that cannot be read stays in the
    manifest as it is: tokenizing names it and counts it as a failure.

    Each finished file is a line of `journal`: a killed run starts again only the files that were under way, and a
    rerun cuts only files that are new, changed (size, modification time), or were cut by another rule.

    Args:
        entries: whole files.
        journal: JSON lines, made when missing.
        max_seconds: longest clip, at least 2.
        progress: show a bar.

    Raises:
        BadInput: an entry that is a part of a file already, `max_seconds` out of range, or nobody speaks in any file.
        TwistError: another process writes to that journal, or it cannot be written.
    """
    check_limit(max_seconds)
    parts = [entry.id for entry in entries if entry.start is not None or entry.member]
    if parts:
        raise BadInput(f"these clips are parts of files, and only whole files are cut: {offenders(parts)}.")
    journal = Path(journal)
    with held(journal, "cutting by voice activity", lock=journal.with_name(f".{journal.name}.lock")):
        return _cut_by_voice(entries, journal, max_seconds, progress)


def whole_again(entries: Sequence[Entry]) -> list[Entry]:
    """Return the files that `cut_by_voice` made clips of, from those clips; other entries as they are.

    A manifest of clips that lies where the folder's own is looked for can so be made again. Files in which nobody
    speaks left no clip, and are not among them.
    """
    files: dict[str, Entry] = {}
    for entry in entries:
        start, seconds = entry.start, entry.seconds or 0.0
        id = entry.id if start is None else entry.id.removesuffix(_place(start, seconds))
        file = entry if id == entry.id else dataclasses.replace(entry, id=id, start=None, seconds=None)
        files.setdefault(file.id, file)
    return list(files.values())


def _place(start: float, seconds: float) -> str:
    return f"@{start:.3f}-{start + seconds:.3f}"


def _cut_by_voice(entries: Sequence[Entry], journal: Path, max_seconds: float, progress: bool) -> Cuts:
    done = _read(journal, max_seconds)
    found: dict[str, Segments] = {}
    unreadable: dict[str, str] = {}
    pending = []
    for entry in entries:
        if (key := _key(entry)) in done:
            found[entry.id] = done[key]
        else:
            pending.append(entry)
    with writing(journal):
        lines = journal.open("a", encoding="utf-8")
    with lines, task("voice activity", len(entries), progress) as bar:
        bar.advance(len(entries) - len(pending))
        with closing(in_order(lambda entry: _cut(entry, max_seconds), pending)) as made:
            for entry, cut in zip(pending, made, strict=True):
                if isinstance(cut, AudioError):
                    unreadable[entry.id] = str(cut)
                else:
                    key, found[entry.id] = cut
                    with writing(journal):
                        lines.write(
                            json.dumps([VERSION, max_seconds, *key, found[entry.id]], ensure_ascii=False) + "\n"
                        )
                        lines.flush()
                bar.advance()
    silent = tuple(id for id, segments in found.items() if not segments)
    if len(silent) == len(entries):
        raise BadInput(f"nobody speaks in any of the {len(entries)} files: {offenders(silent)}. Is this speech?")
    clips = [clip for entry in entries for clip in (_clips(entry, found[entry.id]) if entry.id in found else [entry])]
    return Cuts(entries=tuple(clips), silent=silent, unreadable=tuple(unreadable.values()))


def _clips(entry: Entry, segments: Segments) -> list[Entry]:
    return [
        dataclasses.replace(entry, id=f"{entry.id}{_place(start, seconds)}", start=start, seconds=seconds, text="")
        for start, seconds in segments
    ]


def _cut(entry: Entry, max_seconds: float) -> tuple[tuple[Any, ...], Segments] | AudioError:
    key = _key(entry)  # before the file is read: one that changes meanwhile is cut again
    try:
        return key, speech_segments(entry.path, max_seconds=max_seconds, channel=entry.channel)
    except AudioError as error:
        return error


def _key(entry: Entry) -> tuple[Any, ...]:
    stat = entry.path.stat() if entry.path.is_file() else None
    size, changed = (stat.st_size, stat.st_mtime_ns) if stat else (-1, -1)
    return f"{entry.id}{entry.part}{PLACE}{place_of(entry)}", size, changed


def _read(journal: Path, max_seconds: float) -> dict[tuple[Any, ...], Segments]:
    """What the journal holds by this rule. A line that a kill left half is dropped from it."""
    if not journal.is_file():
        return {}
    kind, fix = "the journal of files cut by voice activity", "Remove it, and the files are cut again."
    data = read_bytes(journal, kind)
    whole = decode(data[: data.rfind(b"\n") + 1], where=str(journal), kind=kind).removesuffix("\n")
    done: dict[tuple[Any, ...], Segments] = {}
    for number, line in enumerate(whole.split("\n"), start=1):
        if line:
            where = f"{journal}, line {number}"
            row = parse_json(line, where=where, kind=kind, shape=list, fix=fix)
            if row[:2] == [VERSION, max_seconds]:
                names = dict(zip(("version", "most", "id", "size", "changed", "cuts"), row, strict=False))
                check_shape(
                    names, {"id": str, "size": int, "changed": int, "cuts": [[float]]}, where=where, kind=kind, fix=fix
                )
                if not all(len(cut) == 2 and min(cut) >= 0 for cut in names["cuts"]):
                    raise BadInput(f"{where}: a cut is no [start, length] in seconds. {fix}")
                done[tuple(row[2:5])] = [(start, seconds) for start, seconds in row[5]]
    if not data.endswith(b"\n"):
        with atomic_write(journal) as temporary:
            temporary.write_text(f"{whole}\n" if whole else "", encoding="utf-8")
    return done
