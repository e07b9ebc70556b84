"""Regular files, and nothing else under their names: a pipe, a device or a socket may never answer.

Whatever is read is opened here, or looked at here first where a library opens it by its name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path

from twistlm.errors import BadInput, TwistError
from twistlm.files.urls import UrlPath

_ODD = "no regular file, but a pipe, a device or a socket"


class NotRegular(OSError):
    """Under the name of a file there is a pipe, a device or a socket."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, _ODD, str(path))

    def __str__(self) -> str:
        return _ODD


def open_regular(path: Path | UrlPath) -> BufferedReader:
    """Open a regular file for reading.

    Raises:
        OSError: as `Path.open`, and for what is no regular file.
    """
    if isinstance(path, UrlPath):
        return path.open("rb")
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except ValueError as error:  # a NUL in the path
        raise FileNotFoundError(f"{str(path)!r} holds a NUL, and is no file's path") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{path} is a folder")
        raise NotRegular(path)
    return os.fdopen(descriptor, "rb")


def open_kind(path: str | Path | UrlPath, kind: str, *, error: type[TwistError] = BadInput) -> BufferedReader:
    """Open a regular file, or raise `error` with what it should be.

    Args:
        path: the file.
        kind: in words that follow "it should be": "the metrics of a run".
        error: what is raised.
    """
    place = Path(path) if isinstance(path, str) else path
    try:
        return open_regular(place)
    except TwistError:  # of a URL, which is an OSError too
        raise
    except OSError as wrong:
        raise error(f"{_why(path, wrong)} It should be {kind}.") from wrong


def require_regular(path: str | Path, kind: str, *, error: type[TwistError] = BadInput) -> Path:
    """Return the path of a regular file that can be read, or raise `error`: for what a library opens by its name.

    Args:
        path, kind, error: as for `open_kind`.
    """
    open_kind(path, kind, error=error).close()
    return Path(path)


def require_regular_files(folder: Path, kind: str, *, error: type[TwistError] = BadInput) -> None:
    """Raise `error` where a name in a folder is neither a file nor a folder: for what a library looks for in there.

    Args:
        folder: whose names are looked at, not those in its folders; one that is not there has none.
        kind: what the folder should be.
        error: what is raised.
    """
    if odd := sorted(path.name for path in (folder.iterdir() if folder.is_dir() else ()) if is_odd(path)):
        raise error(f"{folder / odd[0]} is {_ODD}. {folder} should be {kind}, which has files alone.")


def read_regular(path: str | Path | UrlPath, kind: str, *, error: type[TwistError] = BadInput) -> bytes:
    """Return the whole content of a regular file of any size, or raise `error` as `open_kind`."""
    with open_kind(path, kind, error=error) as file:
        try:
            return file.read()
        except OSError as wrong:
            raise error(f"{_why(path, wrong)} It should be {kind}.") from wrong


def is_odd(path: Path) -> bool:
    """Return whether something is there that is neither a file nor a folder."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _why(path: object, error: OSError) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return f"{path}: no such file." if error.errno else f"{error}."
        case IsADirectoryError():
            return f"{path} is a folder."
        case _:
            said = error.strerror or str(error)
            return f"{path} is {said}." if said == _ODD else f"{path} cannot be read: {said}."


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file of any size, as 64 hex digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
