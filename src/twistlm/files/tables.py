"""Tables with a header line, of comma-separated values or tab-separated ones: the one place that reads them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from twistlm.errors import BadInput, TwistError, offenders
from twistlm.files.text import MOST_TEXT, is_text, read_text
from twistlm.files.urls import UrlPath

_FORMULA = ("=", "+", "-", "@")  # what spreadsheets run when such a cell is opened in them


def read_table(
    path: str | Path | UrlPath,
    kind: str,
    *,
    columns: Sequence[str] = (),
    separator: str = ",",
    most: int = MOST_TEXT,
    error: type[TwistError] = BadInput,
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, column -> cell) of each row; a quoted cell may hold separators and line ends.

    Args:
        path: the file, in UTF-8.
        kind: what it should be, in words that follow "it should be".
        columns: that must be there; others may be.
        separator: one character.
        most: bytes.
        error: what is raised.

    Raises:
        error: as `files.text.read_text`; no header, a column that is missing or stands there twice; rows with more or
            fewer cells than the header, found behind the last row; what is no such table.
    """
    text = read_text(path, kind, most=most, error=error)
    line, odd = 1, []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        header = [name.strip() for name in next((cells for cells in reader if cells), [])]
        _check_header(path, header, columns, kind, error)
        line = reader.line_num + 1
        for cells in reader:
            if not cells:  # a blank line
                line = reader.line_num + 1
                continue
            if len(cells) != len(header):
                odd.append(f"line {line} has {len(cells)}")
            elif not is_text("".join(cells)):
                raise error(f"{path}, line {line}: holds a NUL character, which no text has. It was damaged.")
            else:
                yield line, dict(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as wrong:
        raise error(f"{path}, line {line}: no row of a table ({wrong}). It should be {kind}.") from wrong
    if odd:
        raise error(
            f"{path}: rows without the {len(header)} columns of the first line: {offenders(odd)}. A cell that holds a "
            f"separator or a quote must be quoted. It should be {kind}."
        )


def separator_of(path: str | Path | UrlPath, kind: str) -> str:
    """Return what parts the columns in the first line of a table: the commonest of tab, comma, semicolon and bar.

    Raises:
        BadInput: as `files.text.read_text`.
    """
    first = read_text(path, kind).lstrip("\r\n").partition("\n")[0]
    return max("\t,;|", key=first.count)


def is_formula(cell: str) -> bool:
    """Return whether a spreadsheet would take a cell for a formula: "=1+1", "@SUM(A1)", and not "-" or "+3.5"."""
    if not cell.startswith(_FORMULA) or len(cell) == 1:
        return False
    return cell[0] in "=@" or not (cell[1].isspace() or _is_number(cell))


def formulas(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> list[str]:
    """Return where in a table cells are formulas: "row 3: word '=1+1'"."""
    return [
        f"row {number}: {column} {row[column][:40]!r}"
        for number, row in enumerate(rows, start=1)
        for column in columns
        if is_formula(row[column].strip())
    ]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _check_header(
    path: object, header: Sequence[str], columns: Sequence[str], kind: str, error: type[TwistError]
) -> None:
    has = offenders([ascii(name[:40])[1:-1] if not name.isprintable() else name[:40] for name in header], limit=20)
    if lost := [name for name in columns if name not in header]:
        raise error(
            f"{path} lacks the columns {offenders(lost)}; its first line has {has or 'nothing'}. It should be {kind}."
        )
    if double := [name for name, count in Counter(header).items() if count > 1]:
        raise error(f"{path}: its first line has the columns {offenders(double)} twice. It should be {kind}.")
