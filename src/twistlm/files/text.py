"""Text that somebody else may have written: read as UTF-8, in bounded memory, from regular files only.

Nothing here trusts a file: it may be a pipe that never ends, a device, a gzip file that unpacks to terabytes, one line
of gigabytes, or UTF-16.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from twistlm.errors import BadInput, TwistError
from twistlm.files.regular import open_kind
from twistlm.files.urls import UrlPath

MOST_LINE = 64 << 20  # bytes of one line, far above any clip's units or transcript
MOST_TEXT = 256 << 20  # bytes of a file that is read whole
_FREE, _RATIO = 64 << 20, 200  # a gzip file may unpack to the first, or to so many times its own size
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip"}


def read_bytes(
    path: str | Path | UrlPath, kind: str, *, most: int = MOST_TEXT, error: type[TwistError] = BadInput
) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Args:
        path: the file.
        kind: what it should be, in words that follow "it should be": "the metrics of a run".
        most: bytes.
        error: what is raised when it cannot be read: no such file, no regular one, too large.
    """
    with open_kind(path, kind, error=error) as file:
        data = _read(file, most + 1, path, kind, error)
    if len(data) > most:
        raise error(f"{path} has more than {most >> 20} MB, which is too much. It should be {kind}.")
    return data


def read_text(
    path: str | Path | UrlPath, kind: str, *, most: int = MOST_TEXT, error: type[TwistError] = BadInput
) -> str:
    """Return a file of UTF-8 text (a byte order mark is dropped); lines keep their ends. As `read_bytes`."""
    return decode(read_bytes(path, kind, most=most, error=error), where=str(path), kind=kind, error=error)


def decode(data: bytes, *, where: str, kind: str, error: type[TwistError] = BadInput) -> str:
    """Return the text of UTF-8 bytes, without a byte order mark. Raises `error`, which names `where`."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        found = next((name for mark, name in _BOMS.items() if data.startswith(mark)), "")
        found = f"it is {found}" if found else f"{wrong.reason} at byte {wrong.start}: perhaps Latin-1, or no text"
        raise error(f"{where} is not UTF-8 text ({found}). It should be {kind}; save it as UTF-8.") from wrong


def lines(path: str | Path | UrlPath, kind: str) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) of each line that is not blank, of a text file or a gzipped one (`.gz`); UTF-8.

    Only "\\n" ends a line: a transcript may hold what else `splitlines` would take for an end. A "\\r" before it and a
    byte order mark are dropped.

    Raises:
        BadInput: no such file, not UTF-8, a line over `MOST_LINE`, or a gzip file that is damaged or unpacks to more
            than any text does.
    """
    with open_kind(path, kind) as raw:
        packed = str(path).lower().endswith(".gz")
        file = cast(IO[bytes], io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 20)) if packed else raw
        number = unpacked = 0
        while line := _line(file, path, kind):
            number, unpacked = number + 1, unpacked + len(line)
            if len(line) > MOST_LINE:
                raise BadInput(
                    f"{path}, line {number} has more than {MOST_LINE >> 20} MB, which is too much. It should be {kind}."
                )
            if packed and unpacked > max(_FREE, _RATIO * raw.tell()):
                raise BadInput(
                    f"{path} unpacks to more than {_RATIO} times its size, which no text does: it is damaged, or made "
                    f"to fill the memory. It should be {kind}."
                )
            if line.strip():
                yield number, decode(line, where=f"{path}, line {number}", kind=kind).rstrip("\r\n")


def is_text(value: str) -> bool:
    """Return whether a text can be written and named: no NUL, and no half of a surrogate pair.

    Halves come from JSON's escapes, and from file names that are not UTF-8.
    """
    return not _NO_TEXT.search(value)


def _read(file: IO[bytes], most: int, path: str | Path | UrlPath, kind: str, error: type[TwistError]) -> bytes:
    try:
        return file.read(most)
    except OSError as wrong:
        raise error(f"{path} cannot be read: {wrong.strerror or wrong}. It should be {kind}.") from wrong


def _line(file: IO[bytes], path: str | Path | UrlPath, kind: str) -> bytes:
    try:
        return file.readline(MOST_LINE + 1)
    except (OSError, EOFError, zlib.error) as wrong:
        raise BadInput(
            f"{path} cannot be read ({wrong}): it is damaged, or cut short. It should be {kind}; fetch it again."
        ) from wrong
