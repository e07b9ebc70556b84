"""Praat's TextGrid files, long and short: the intervals of one tier.

Praat reads both forms by one rule ("TextGrid file formats" in its manual): what counts are texts in double quotes,
numbers that stand alone and flags in angle brackets; the rest, such as `xmin =` or `intervals [3]:`, is for people.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from twistlm.errors import BadInput, offenders
from twistlm.files.text import read_bytes

_TOKEN = re.compile(
    r'"(?P<text>(?:[^"]|"")*)"|(?<!\S)(?P<number>[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?!\S)|(?P<flag><\w+>)|(?:![^\n]*)'
)
_PHONE_TIERS = ("phones", "phone", "mau")


def read_textgrid(path: str | Path, *, tier: str | None) -> list[tuple[str, float, float]]:
    """Return (text, start s, end s) of each interval of a tier, in the file's order; empty texts are kept.

    Args:
        path: UTF-8, or UTF-16 with a byte order mark.
        tier: the tier's name; None takes the only interval tier, or the one called phones, phone or MAU (any case, and
            with a speaker in front: "anna - phones").

    Raises:
        BadInput: not a TextGrid, truncated, or no such tier.
    """
    path = Path(path)
    tokens = _tokens(_decoded(path))
    try:
        tiers = _interval_tiers(tokens, path)
    except StopIteration as error:
        raise BadInput(f"{path}: the TextGrid ends in the middle of a tier: truncated. Export it again.") from error
    if tier is not None:
        chosen = [name for name in tiers if name == tier]
    else:
        chosen = [name for name in tiers if name.lower().rsplit(" - ", 1)[-1] in _PHONE_TIERS]
        chosen = list(tiers) if len(tiers) == 1 else chosen
    if len(chosen) != 1:
        wanted = "one that is called phones" if tier is None else f"one called {tier!r}"
        raise BadInput(
            f"{path}: needs {wanted} among its interval tiers and has {offenders(list(tiers) or ['none'])}. "
            "Say which tier holds the phones."
        )
    return tiers[chosen[0]]


def _interval_tiers(tokens: Iterator[str | float], path: Path) -> dict[str, list[tuple[str, float, float]]]:
    head = [next(tokens, "") for _ in range(2)]
    if head != ["ooTextFile", "TextGrid"]:
        raise BadInput(f"{path}: not a TextGrid: it begins with {head[0]!r}, {head[1]!r}. Save it as text from Praat.")
    _number(tokens, path), _number(tokens, path)  # the grid's own times
    if next(tokens) != "<exists>":
        raise BadInput(f"{path}: a TextGrid without tiers.")
    tiers: dict[str, list[tuple[str, float, float]]] = {}
    for _ in range(int(_number(tokens, path))):
        kind, name = next(tokens), str(next(tokens))
        _number(tokens, path), _number(tokens, path)  # the tier's times
        size = int(_number(tokens, path))
        if kind == "TextTier":  # points: a time and a mark each
            for _ in range(size):
                _number(tokens, path), next(tokens)
        elif kind == "IntervalTier":
            rows = [(_number(tokens, path), _number(tokens, path), str(next(tokens))) for _ in range(size)]
            if name in tiers:
                raise BadInput(f"{path}: has two tiers called {name!r}. Rename one.")
            tiers[name] = [(text.strip(), start, end) for start, end, text in rows]
        else:
            raise BadInput(f"{path}: an unknown kind of tier, {kind!r}.")
    return tiers


def _tokens(text: str) -> Iterator[str | float]:
    for match in _TOKEN.finditer(text):
        if match["text"] is not None:
            yield match["text"].replace('""', '"')
        elif match["number"] is not None:
            yield float(match["number"])
        elif match["flag"] is not None:
            yield match["flag"]


def _number(tokens: Iterator[str | float], path: Path) -> float:
    token = next(tokens)
    if not isinstance(token, float):
        raise BadInput(f"{path}: expected a number where {token!r} stands: not a TextGrid, or damaged.")
    return token


def _decoded(path: Path) -> str:
    raw = read_bytes(path, "a TextGrid of Praat")
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: is neither UTF-8 nor UTF-16 text. In Praat, set text writing to UTF-8.") from error
