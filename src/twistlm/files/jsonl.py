"""JSON, JSON lines and TOML: the one place that reads them.

What is read may be anybody's, and damaged or hostile. So all of it is bounded in size and depth, and what parsers let
through but nothing behind them expects is refused here: NaN, numbers beyond 64 bits, characters that are no text. What
is wrong is said of the file, with what it should be.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from twistlm.errors import BadInput, TwistError
from twistlm.files.text import MOST_TEXT, is_text, lines, read_text
from twistlm.files.urls import UrlPath

# A shape is a type (int is no bool, float takes int), None, a tuple of shapes (any of them), [shape] (a list of such),
# {str: shape} (an object with values of it) or {"key": shape, "other?": shape} (an object with these; others may be).
Shape = Any

MOST_DEPTH = 64  # of lists and objects in each other
MOST_TOML = 64 << 10  # bytes
_MOST_INTEGER = 2**64
DAMAGED = "It was changed or damaged: fetch or make it again."
_NUMBERS = re.compile(r"\d{19}|[eE]\+?\d{3}")  # where a number may be too large; seldom, as looking at each costs time
_CHARACTERS = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
_LONG_KEY = re.compile(rf"(?<![^\s.=,\[\]])(?:[^\s.=,\[\]]++\s*+\.\s*+){{{MOST_DEPTH}}}")
_NAMES = {
    str: "text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a JSON object",
}


def read_json(
    path: str | Path | UrlPath,
    kind: str,
    *,
    shape: Shape = dict,
    fix: str = DAMAGED,
    nan: bool = False,
    most: int = MOST_TEXT,
    error: type[TwistError] = BadInput,
) -> Any:
    """Return what a JSON file holds.

    Args:
        path: the file.
        kind: what it should be, in words: "the metrics of a run".
        shape: what its content must be, see `Shape`; by default an object.
        fix: what helps.
        nan: whether NaN and infinite numbers may stand in it.
        most: bytes.
        error: what is raised.

    Raises:
        error: no such file, no regular one, too large, not UTF-8, not JSON, of another shape.
    """
    text = read_text(path, kind, most=most, error=error)
    return parse_json(text, where=str(path), kind=kind, shape=shape, fix=fix, nan=nan, error=error)


def parse_json(
    text: str | bytes,
    *,
    where: str,
    kind: str,
    shape: Shape = dict,
    fix: str = DAMAGED,
    nan: bool = False,
    error: type[TwistError] = BadInput,
) -> Any:
    """Return what a JSON text holds. As `read_json`; `where` begins the error."""
    try:
        found = _parsed(text.decode("utf-8") if isinstance(text, bytes) else text, nan)
    except (ValueError, RecursionError) as wrong:
        why = "it is nested too deeply" if isinstance(wrong, RecursionError) else str(wrong)
        raise error(f"{where}: not JSON that can be used ({why}). It should be {kind}. {fix}") from wrong
    check_shape(found, shape, where=where, kind=kind, fix=fix, error=error)
    return found


def read_objects(
    path: str | Path | UrlPath, kind: str, *, shape: Shape = dict, fix: str = DAMAGED
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of each line of a JSON-lines file, gzipped (`.gz`) or not; blank lines are none.

    Raises:
        BadInput: as of `text.lines`, or a line that is no JSON object of that shape.
    """
    for number, line in lines(path, kind):
        yield number, parse_json(line, where=f"{path}, line {number}", kind=kind, shape=shape, fix=fix)


def read_toml(path: str | Path, kind: str, *, error: type[TwistError] = BadInput) -> dict[str, Any]:
    """Return what a TOML file holds. Raises `error`: as `read_json`."""
    return parse_toml(read_text(path, kind, most=MOST_TOML, error=error), where=str(path), kind=kind, error=error)


def parse_toml(text: str, *, where: str, kind: str, error: type[TwistError] = BadInput) -> dict[str, Any]:
    """Return what a TOML text holds. Raises `error`, which `where` begins."""
    try:
        if _LONG_KEY.search(text):  # tomllib takes N² steps for a name of N parts
            raise ValueError(f"a name in it has more than {MOST_DEPTH} parts")
        found = tomllib.loads(text)
        if _depth(found) > MOST_DEPTH:
            raise RecursionError
        if not all(is_text(value) if isinstance(value, str) else _is_small(value) for value in _leaves(found)):
            raise ValueError("a number in it is beyond 64 bits, or a text holds a NUL character")
    except (ValueError, RecursionError) as wrong:
        why = "it is nested too deeply" if isinstance(wrong, RecursionError) else str(wrong)
        raise error(f"{where}: not TOML that can be used ({why}). It should be {kind}.") from wrong
    return found


def check_shape(
    value: Any, shape: Shape, *, where: str, kind: str, fix: str = DAMAGED, error: type[TwistError] = BadInput
) -> None:
    """Raise `error` unless `value` is of the shape; the first place that is not is named."""
    if wrong := _misfit(value, shape, ""):
        raise error(f"{where}: {wrong}. It should be {kind}. {fix}")


def without_nan(value: Any) -> Any:
    """Return `value` with null for each number that is not finite: JSON has no others."""
    if isinstance(value, Mapping):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parsed(text: str, nan: bool) -> Any:
    """Parse. Raises ValueError with the reason, or RecursionError."""
    hooks: dict[str, Any] = {} if nan else {"parse_constant": _no_constant}
    if _NUMBERS.search(text):
        hooks |= {"parse_int": _integer} | ({} if nan else {"parse_float": _finite})
    found = json.loads(text, **hooks)
    if _CHARACTERS.search(text):
        plain = json.dumps(found, ensure_ascii=False)
        try:
            plain.encode()
        except UnicodeEncodeError as wrong:
            raise ValueError("a text in it holds half a surrogate pair, which is no character") from wrong
        if "\\u0000" in plain.replace("\\\\", ""):
            raise ValueError("a text in it holds a NUL character")
    if text.count("[") + text.count("{") > MOST_DEPTH and _depth(found) > MOST_DEPTH:
        raise RecursionError
    return found


def _depth(value: Any) -> int:
    return sum(1 for _ in _levels(value))


def _levels(value: Any) -> Iterator[list[Any]]:
    """Yield the lists and objects at each depth."""
    level = [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        yield level
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]


def _leaves(value: Any) -> Iterator[Any]:
    for level in _levels(value):
        for item in level:
            yield from item.values() if isinstance(item, dict) else item


def _is_small(value: Any) -> bool:
    return not isinstance(value, int) or abs(value) < _MOST_INTEGER


def _integer(digits: str) -> int:
    if len(digits) > 21 or abs(int(digits)) >= _MOST_INTEGER:
        raise ValueError(f"the integer {digits[:24]}… of {len(digits)} digits is beyond 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(float(digits)):
        raise ValueError(f"the number {digits[:24]} is beyond what a float holds")
    return float(digits)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} stands where a number should")


def _misfit(value: Any, shape: Shape, name: str) -> str:
    """Return what in `value` is not of the shape, or ""."""
    if isinstance(shape, tuple):
        wrong = [_misfit(value, one, name) for one in shape]
        return "" if "" in wrong else next((w for w in wrong if not w.startswith(f"{name or 'it'} is ")), wrong[0])
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _is(name, value, "a list")
        return next((w for i, item in enumerate(value) if (w := _misfit(item, shape[0], f"{name}[{i}]"))), "")
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            return _is(name, value, "a JSON object")
        if str in shape:
            return next((w for key, item in value.items() if (w := _misfit(item, shape[str], _below(name, key)))), "")
        for key, inner in shape.items():
            bare = key.removesuffix("?")
            if bare not in value:
                if bare == key:
                    return f"{_below(name, bare)} is missing"
            elif wrong_one := _misfit(value[bare], inner, _below(name, bare)):
                return wrong_one
        return ""
    if shape is object or (shape is None and value is None):
        return ""
    if shape is None:
        return _is(name, value, "null")
    right = type(value) in (int, float) if shape is float else type(value) is shape
    return "" if right else _is(name, value, _NAMES[shape])


def _below(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _is(name: str, value: Any, wanted: str) -> str:
    return f"{name or 'it'} is {reprlib.repr(value)}, which is not {wanted}"
