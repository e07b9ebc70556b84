"""What readers share: tables of transcripts, sounds checked against them, and splits that names tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from twistlm.audio.finding import visible
from twistlm.corpus.manifest import Entry, is_safe
from twistlm.errors import BadInput, offenders
from twistlm.files.jsonl import read_objects
from twistlm.files.text import lines as read_lines

# The words by which file and folder names tell a split, as the Hugging Face hub reads them.
WORDS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) of each line of a corpus's table, gzipped or not, as `files.text.lines`."""
    yield from read_lines(path, "a table of the corpus, in UTF-8, as unpacking the corpus leaves it")


def columns(path: Path, *, sep: str, n: int) -> Iterator[list[str]]:
    """Yield each line's `n` columns or more. BadInput, naming the line, where there are fewer."""
    for number, line in lines(path):
        fields = line.split(sep)
        if len(fields) < n:
            raise BadInput(f"{path}, line {number}: {len(fields)} columns where {n} are needed; parted by {sep!r}.")
        yield fields


def headed(path: Path, *, sep: str, names: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield each row of a table with a header line, as a dict. BadInput for a column that is missing."""
    rows = columns(path, sep=sep, n=1)
    header = next(rows, [])
    if missing := [name for name in names if name not in header]:
        raise BadInput(f"{path}: lacks the columns {', '.join(missing)}; it has: {', '.join(header)}.")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise BadInput(f"{path}, row {number}: {len(row)} columns where the header has {len(header)}.")
        yield dict(zip(header, row, strict=True))


def objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a JSON-lines file, gzipped or not, as `files.jsonl.read_objects`."""
    yield from read_objects(path, "a file with one JSON object on each line")


def pair(listed: Iterable[str], found: Mapping[str, Path], *, where: str) -> None:
    """Check that a table and a folder speak of the same sounds.

    Raises:
        BadInput: ids that are listed twice, listed without a sound, or sounds that no line lists.
    """
    seen: set[str] = set()
    double = [id for id in listed if id in seen or seen.add(id)]  # type: ignore[func-returns-value]
    if double:
        raise BadInput(f"{where}: ids must be unique, these are listed twice: {offenders(double)}.")
    if lost := [id for id in seen if id not in found]:
        raise BadInput(
            f"{where}: no sound for the transcripts of {offenders(sorted(lost))}. The corpus is not whole: unpack or "
            "fetch it again."
        )
    if mute := [id for id in found if id not in seen]:
        raise BadInput(
            f"{where}: no transcripts for the sounds {offenders(sorted(mute))}. The corpus is not whole; to use sounds "
            "without transcripts, make the manifest of a plain folder."
        )


def below(folder: Path, name: str, *, where: str) -> Path:
    """Return `folder / name`. BadInput when a table's name points out of the folder."""
    if not name or not is_safe(name):
        raise BadInput(f"{where}: names the file {name!r}, which points out of {folder}. Do not use this table.")
    return folder / name


def all_there(entries: list[Entry], folder: Path) -> list[Entry]:
    """Return the entries, or raise BadInput, naming the first ones, where their sound files are not there."""
    files = {entry.path: None for entry in entries}
    if lost := sorted(str(path) for path in files if not path.is_file()):
        raise BadInput(f"{folder}: lists sounds that are not there: {offenders(lost)}. The copy is not whole.")
    return entries


def by_stem(folder: Path, suffixes: tuple[str, ...], *, pattern: str) -> dict[str, Path]:
    """Return the sounds below a folder that match a pattern, by name without suffix. BadInput when two share it."""
    found: dict[str, Path] = {}
    for path in visible(folder, pattern, suffixes):
        if path.stem in found:
            raise BadInput(f"{folder}: ids must be unique, but two sounds are {path.stem}: {found[path.stem]}, {path}.")
        found[path.stem] = path
    return found


def split_of(name: str, *, where: Path) -> str:
    """Return the split that a relative path tells: "train", "validation" or "test"; "train" when it tells none.

    The file's name counts first, then its folders from the innermost out; words are parted by anything but letters.

    Raises:
        BadInput: one name tells two splits.
    """
    for part in reversed(PurePosixPath(name).parts):
        told = {WORDS[word] for word in words(part) if word in WORDS}
        if len(told) > 1:
            raise BadInput(f"{where}: {name!r} does not tell one split but {', '.join(sorted(told))}. Rename it.")
        if told:
            return told.pop()
    return "train"


def words(name: str) -> list[str]:
    """Return the words of a name, in small letters; whatever is no letter parts them."""
    return re.split(r"[^a-z]+", name.lower())
