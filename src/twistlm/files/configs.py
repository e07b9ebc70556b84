"""The configuration and the units of a model that somebody else wrote, looked at before anything is made after them.

A number in it can ask for more layers or memory than any machine has. What no model has is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from twistlm.errors import BadInput, TwistError, offenders
from twistlm.files.jsonl import DAMAGED, read_json
from twistlm.types import UnitSpec

MOST_LAYERS = 2_000  # DeepNet has 1,000, no published language model more than 200
MOST_WIDTH = 1 << 24  # of anything but a vocabulary; the widest published models have 2^16
MOST_ROWS = 1 << 27  # of a table
_LAYERS = re.compile(r"(^|_)(n_)?(layers?|blocks?|depth|stages?)$")
_ROWS = re.compile(r"vocab|embeddings|positions|(^|_)n_ctx$|seq_length|max_length")
_WIDTHS = re.compile(
    r"(^|_)(sizes?|dims?|width|inner|heads?|rates?|dilations?|embd|model|ff|ffn|experts?|channels?|kernel|groups?)$"
)
_COUNTS_NOTHING = re.compile(r"window|chunk")  # limits of attention, not of memory


def read_config(
    path: Path, kind: str, *, shape: Any = dict, fix: str = DAMAGED, error: type[TwistError] = BadInput
) -> dict[str, Any]:
    """Return what a model's JSON configuration says.

    Args:
        path, kind, shape, fix, error: as for `files.jsonl.read_json`.

    Raises:
        error: as of `read_json`, or a number in it is beyond what any model has.
    """
    found: dict[str, Any] = read_json(path, kind, shape=shape, fix=fix, error=error)
    check_sizes(found, where=str(path), error=error)
    return found


def read_unit_spec(path: Path, kind: str, *, error: type[TwistError] = BadInput) -> UnitSpec:
    """Return what units are, as a JSON file beside a tokenizer, a model or a vocoder tells.

    Args:
        path, kind, error: as for `files.jsonl.read_json`.

    Raises:
        error: as of `read_json`, or it is no UnitSpec.
    """
    fields = read_json(path, kind, error=error)
    try:
        return UnitSpec.from_dict(fields)
    except BadInput as wrong:
        raise error(f"{path}: {wrong}") from wrong


def check_sizes(fields: Mapping[str, Any], *, where: str, error: type[TwistError] = BadInput) -> None:
    """Raise `error`, which names the fields, where one asks for more layers, or more of a thing, than any model has."""
    absurd = [f"{name} is {value}" for name, value in _numbers(fields, "") if abs(value) > _most(name)]
    if absurd:
        raise error(
            f"{where}: {offenders(absurd)}, which no model has, and no memory could hold. It was damaged or changed: "
            "get it again from where the weights came."
        )


def _numbers(value: Any, name: str) -> Iterator[tuple[str, int | float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value


def _most(name: str) -> float:
    last = name.rpartition(".")[2].lower()
    if _COUNTS_NOTHING.search(last):
        return float("inf")
    if _LAYERS.search(last):
        return MOST_LAYERS
    if _ROWS.search(last):
        return MOST_ROWS
    return MOST_WIDTH if _WIDTHS.search(last) else float("inf")
