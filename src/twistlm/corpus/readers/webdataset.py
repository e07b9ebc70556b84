"""Tar shards in the WebDataset manner."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from twistlm.audio.finding import KNOWN, is_hidden, visible
from twistlm.corpus.archives import tar_members
from twistlm.corpus.manifest import Entry
from twistlm.corpus.readers.tables import split_of
from twistlm.errors import BadInput, offenders
from twistlm.files.jsonl import parse_json
from twistlm.files.regular import open_regular

_MAX_TEXT = 1 << 20  # bytes of a transcript or a JSON: anything longer is neither


def webdataset(folder: Path) -> list[Entry]:
    """Tar shards: plain tar files of sounds, with transcripts beside them or without.

    Source and licence: whoever made them says.

    Layout: `*.tar` at any depth below `folder`, not compressed. As in WebDataset, files with the same name up to the
    first dot are one sample: one sound (by suffix), and if it likes `.txt` with the transcript and `.json` with an
    object whose strings "text" and "speaker" are used. Other files are not read. The id is the shard's path and the
    sample's name. Sounds are read in place, in the order of the shard.

    Splits: as for Hugging Face data sets, by the words in names of shards and folders: train, validation (valid, val,
    dev), test (eval); without such a word "train". Where all is train, clips are held out.

    Raises:
        BadInput: no shards; a broken, compressed or hostile one; a sample with two sounds or with text and no sound; a
            sound that is a link; a transcript that cannot be read; a name that tells two splits.
    """
    names = [path.relative_to(folder).as_posix() for path in visible(folder, "**/*", (".tar",))]
    if not names:
        raise BadInput(f"{folder}: no .tar files below it. Compressed ones (.tar.gz) must be decompressed first.")
    return [entry for name in names for entry in _samples(folder, name)]


def _samples(folder: Path, name: str) -> list[Entry]:
    path = folder / name
    sounds: dict[str, list[str]] = defaultdict(list)
    notes: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    linked: list[str] = []
    for member in tar_members(path):
        key, suffix = _key(member.name)
        if is_hidden(member.name):
            continue
        if suffix in KNOWN:
            (sounds[key] if member.isreg() else linked).append(member.name)
        elif suffix in (".txt", ".json") and member.isreg():
            notes[key][suffix] = (member.offset_data, member.size)
    if linked:
        raise BadInput(f"{path}: these sounds are links, not files: {offenders(linked)}. Pack the files themselves.")
    if double := [key for key, found in sounds.items() if len(found) > 1]:
        raise BadInput(f"{path}: ids must be unique, but more than one sound belongs to {offenders(double)}.")
    if mute := [key for key in notes if key not in sounds and ".txt" in notes[key]]:
        raise BadInput(f"{path}: transcripts without a sound: {offenders(mute)}. The shard is not whole.")
    split, shard = split_of(name, where=folder), name.removesuffix(".tar")
    entries = []
    with open_regular(path) as file:
        for key, (member_name,) in sounds.items():
            told = {"text": "", "speaker": ""}
            for suffix, (offset, size) in sorted(notes[key].items()):  # .json first: a .txt overrules it
                where = f"{path}: {key}{suffix}"
                if size > _MAX_TEXT:
                    raise BadInput(f"{where} has {size} bytes, too many for a transcript.")
                file.seek(offset)
                told |= _told(file.read(size), suffix, where)
            entries.append(
                Entry(
                    id=f"{shard}/{key}",
                    path=path,
                    split=split,
                    member=member_name,
                    text=told["text"],
                    speaker=told["speaker"],
                )
            )
    return entries


def _key(member: str) -> tuple[str, str]:
    """Return a member's sample, which is its name up to the first dot of its last part, and its suffix."""
    folders, slash, last = member.removeprefix("./").rpartition("/")
    stem, dot, rest = last.partition(".")
    return f"{folders}{slash}{stem}", f".{rest.rpartition('.')[2].lower()}" if dot else ""


def _told(data: bytes, suffix: str, where: str) -> dict[str, str]:
    try:
        text = data.decode("utf-8-sig")
    except ValueError as error:  # not UTF-8
        raise BadInput(f"{where} cannot be read ({error}). Mend the shard.") from error
    if suffix == ".txt":
        return {"text": text.strip()}
    fields = parse_json(text, where=where, kind="a JSON object with what is known of a clip", fix="Mend the shard.")
    return {key: fields[key] for key in ("text", "speaker") if isinstance(fields.get(key), str)}
