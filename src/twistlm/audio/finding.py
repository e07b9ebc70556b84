"""Which files are sounds, by their names: one rule for folders, corpora, archives and benchmarks.

Hidden names are none: "._a.wav" is what macOS writes beside a.wav where a disk or archive has no place for its notes.
Suffixes count in any case.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from twistlm.errors import AudioError, offenders
from twistlm.files.text import is_text
from twistlm.files.urls import UrlPath, as_path

SUFFIXES = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff", ".aifc", ".au", ".snd"),
    *(
        ".caf",
        ".w64",
        ".rf64",
        ".sph",
        ".nist",
        ".wv1",
        ".wv2",
        ".m4a",
        ".m4b",
        ".mp4",
        ".aac",
        ".3gp",
        ".3g2",
        ".mov",
        ".webm",
    ),
    *(".mka", ".mkv", ".weba", ".wma", ".asf", ".amr", ".awb", ".wv", ".wv1", ".wv2", ".tta", ".spx"),
)
# Of sounds too, but nothing here reads them. They are listed with the rest, so that somebody says so.
UNREAD = (
    *(".ape", ".mpc", ".shn", ".ra", ".rm", ".ac3", ".eac3", ".dts", ".dsf", ".dff", ".tak", ".ofr", ".m4p"),
    *(".raw", ".pcm", ".vox", ".gsm", ".sln", ".g722", ".g729", ".voc", ".avr", ".svx", ".8svx", ".avi", ".wmv"),
)
KNOWN = (*SUFFIXES, *UNREAD)
_log = logging.getLogger(__name__)
_BYTE = re.compile(rb"\\x([0-9a-f]{2})")


def is_hidden(name: str) -> bool:
    """Return whether a path, seen from where one looks, is hidden or lies in a hidden folder."""
    return any(part.startswith(".") and part not in (".", "..") for part in PurePosixPath(name).parts)


def has_suffix(name: str, suffixes: Iterable[str]) -> bool:
    """Return whether a name ends on one of `suffixes` (".wav"), in any case."""
    return name.lower().endswith(tuple(suffixes))


def is_sound(name: str, suffixes: Iterable[str] = KNOWN) -> bool:
    """Return whether a path, seen from where one looks, is that of a sound by its suffix, and not hidden."""
    return PurePosixPath(name).suffix.lower() in suffixes and not is_hidden(name)


def written(name: str) -> str:
    """Return a path as it can be written down: itself, or with its bytes that are not UTF-8 as "\\xe9".

    Under such a name no file is found, and `is_misnamed` says why.
    """
    return name if is_text(name) or "\0" in name else os.fsencode(name).decode("utf-8", "backslashreplace")


def is_misnamed(path: Path) -> bool:
    """Return whether a path, where no file is, is how `written` writes down one that is there."""
    there = _BYTE.sub(lambda found: bytes.fromhex(found[1].decode()), os.fsencode(path))
    return there != os.fsencode(path) and Path(os.fsdecode(there)).exists()


def visible(folder: Path, pattern: str, suffixes: Iterable[str] = ()) -> list[Path]:
    """Return the paths below a folder that match a pattern of `Path.glob`, sorted, but for hidden ones.

    Args:
        folder: where to look.
        pattern: as of `Path.glob`; one that begins with "**/" goes into folders that are links, too.
        suffixes: in any case; none takes every name.
    """
    above, everywhere, rest = pattern.rpartition("**/")
    places: Iterable[Path] = [folder]
    if everywhere:
        tops = folder.glob(above.rstrip("/")) if above else [folder]
        places = (Path(top) for home in tops for top, _, _ in _walk(home))
    matched = (path for place in places for path in place.glob(rest))
    found = (path for path in matched if not is_hidden(path.relative_to(folder).as_posix()))
    return sorted(path for path in found if not suffixes or has_suffix(path.name, suffixes))


def find_audio(folder: str | Path | UrlPath) -> list[Path] | list[UrlPath]:
    """Return every sound file (by suffix) below `folder`, sorted; links are followed, hidden names are not.

    A folder that can be reached in two ways is listed once, by its own place rather than by a link; a warning says so.
    Files of kinds that nothing here reads (`UNREAD`) are among them: whoever reads them is told.

    Raises:
        AudioError: no such folder, or no sound file in it.
    """
    folder = as_path(folder)
    if not folder.is_dir():
        raise AudioError(f"{folder}: no such folder. Give a folder with sound files below it.")
    found = _below_url(folder) if isinstance(folder, UrlPath) else sorted(_below(folder))
    if not found:
        raise AudioError(f"{folder}: no sound files below it; looked for {', '.join(SUFFIXES)}.")
    return found


def _below_url(folder: UrlPath) -> list[UrlPath]:
    return [path for path in folder.find() if is_sound(path.below(folder) or path.name)]


def _below(folder: Path) -> Iterator[Path]:
    again: list[str] = []
    for top, _, names in _walk(folder, again):
        yield from (Path(top) / name for name in names if is_sound(name))
    if again:
        _log.warning("%s: links to folders whose files are listed by another way: %s", folder, offenders(again))


def _unlisted(error: OSError) -> None:
    """Raise: what cannot be looked into is not left out."""
    raise AudioError(f"{error.filename}: this folder cannot be listed ({error.strerror}). Let it be read, or move it.")


def _walk(folder: Path, again: list[str] | None = None) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, nothing hidden and each folder once: by its own place, and only if it has none here by a link.

    What else leads to it is added to `again`.
    """
    seen: set[str] = set()
    waiting = [str(folder)]
    while waiting:
        links = []
        for home in waiting:
            for top, folders, names in os.walk(home, onerror=_unlisted):
                real = os.path.realpath(top)
                if real in seen:
                    folders.clear()
                    if again is not None:
                        again.append(os.path.relpath(top, folder))
                    continue
                seen.add(real)
                folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "lost+found")
                links += [str(place) for place in (Path(top, name) for name in folders) if place.is_symlink()]
                yield top, folders, names
        waiting = links
