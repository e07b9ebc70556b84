"""What is to be rated: one folder of sound files a system, with the same names in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from twistlm.audio.finding import find_audio
from twistlm.errors import BadInput, offenders
from twistlm.files.text import is_text


@dataclass(frozen=True)
class Samples:
    """The clips of a study: every system has one of every item.

    Attributes:
        systems: names, in the order given.
        items: names, sorted.
        paths: (system, item) -> file.
    """

    systems: tuple[str, ...]
    items: tuple[str, ...]
    paths: Mapping[tuple[str, str], Path]


def find_samples(given: Sequence[str]) -> Samples:
    """Return the samples of folders given as "NAME=FOLDER" or as "FOLDER", whose own name is then the system's.

    An item is a file's path below its folder, without suffix.

    Raises:
        BadInput: two systems of one name, two files of one item, or an item that a system lacks.
        AudioError: no such folder, or no sound in it.
    """
    folders: dict[str, Path] = {}
    for one in given:
        name, mark, folder = one.partition("=")
        path = Path(folder if mark else one)
        name = name if mark else path.resolve().name
        if not name or not is_text(name):
            raise BadInput(f"{one!r}: give a folder of sound files, or NAME=FOLDER.")
        if name in folders:
            raise BadInput(f"two systems are called {name!r} ({folders[name]} and {path}). Name them: {name}-2={path}.")
        folders[name] = path
    if not folders:
        raise BadInput("give at least one folder of sound files, one a system: NAME=FOLDER.")
    found = {name: by_item(path) for name, path in folders.items()}
    items = sorted(set().union(*found.values()))
    missing = [f"{item} of {name}" for name, files in found.items() for item in items if item not in files]
    if missing:
        raise BadInput(
            f"every system needs every item, but there is no {offenders(missing)}. Make them, or remove the item from "
            "all folders: what is compared must be judged on the same items."
        )
    paths = {(name, item): files[item] for name, files in found.items() for item in items}
    return Samples(tuple(folders), tuple(items), paths)


def by_item(folder: Path) -> dict[str, Path]:
    """Return item -> file of the sounds below a folder. Raises BadInput where two files are one item."""
    out: dict[str, Path] = {}
    for path in find_audio(folder):
        item = Path(str(path)).relative_to(folder).with_suffix("").as_posix()
        if item in out:
            raise BadInput(f"{folder}: {out[item].name} and {path.name} are both item {item!r}. Keep one of them.")
        out[item] = Path(str(path))
    return out
