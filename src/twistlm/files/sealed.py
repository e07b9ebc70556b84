"""Files of a cache that are not believed: each has its size and sha256 beside it, and is held against them when read.

What a file is made from is its name's matter (a hash of it); what it is, its seal's. Disks, copies and people change
files, and a cache that is believed turns that into other numbers without a word.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from twistlm.errors import BadInput
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import read_json
from twistlm.files.regular import file_sha256

_log = logging.getLogger(__name__)
_seen: set[tuple[object, ...]] = set()  # states of files that this process found to be right


def seal_of(path: Path) -> Path:
    """Return where the seal of a file lies."""
    return path.with_name(f"{path.name}.seal")


def seal(path: Path) -> None:
    """Note what a file is, which is whole and will not be changed any more."""
    with atomic_write(seal_of(path)) as temporary:
        temporary.write_text(json.dumps(_measured(path)))


def is_sealed(path: Path) -> bool:
    """Whether a file is there, and is what it was when it was sealed. One that is not is said to be made again.

    It is hashed once for each state of it that a process sees.
    """
    if not path.is_file() or not seal_of(path).is_file():  # stopped between the two, or of a version without seals
        return False
    state = (path, *((s.st_ino, s.st_size, s.st_mtime_ns) for s in (path.stat(), seal_of(path).stat())))
    if state in _seen:
        return True
    try:
        told = read_json(seal_of(path), "the size and hash of the file beside it", shape={"size": int, "sha256": str})
    except BadInput as error:
        _log.warning("%s cannot be checked (%s); it is made again", path, error)
        return False
    found = _measured(path)
    if found != told:
        _log.warning("%s is not what was written (its size or hash is another); it is made again", path)
        return False
    _seen.add(state)
    return True


def remove(path: Path) -> None:
    """Remove a file and its seal."""
    path.unlink(missing_ok=True)
    seal_of(path).unlink(missing_ok=True)


def _measured(path: Path) -> dict[str, object]:
    return {"size": path.stat().st_size, "sha256": file_sha256(path)}
