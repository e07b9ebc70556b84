"""One process at a time where a job writes step by step: two would mix logs and remove each other's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from twistlm.errors import TwistError
from twistlm.files.atomic import remove_stale, writing
from twistlm.files.urls import UrlPath

LOCK = ".lock"


@contextmanager
def held(folder: Path | UrlPath, doing: str, *, lock: Path | None = None) -> Iterator[None]:
    """Hold `folder` for this process inside the block; the lock goes when the process does, however it ends.

    What a killed one left half-written in `folder` is removed: a job that goes on need not write it again.

    Args:
        folder: made when it is missing.
        doing: what the other process is at, for the error: "training".
        lock: the file that is locked; by default LOCK in `folder`. For a URL it must be given.

    Raises:
        TwistError: another process holds it, or it cannot be written to.
    """
    place = lock or Path(str(folder)) / LOCK
    held_by_us = FileLock(place)
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            held_by_us.acquire(timeout=0)
        except Timeout as error:
            raise TwistError(
                f"{folder}: another process is {doing} here. Wait for it, or choose another folder."
            ) from error
    try:
        if not isinstance(folder, UrlPath) and folder.is_dir():
            remove_stale(folder)
        yield
    finally:
        held_by_us.release()
