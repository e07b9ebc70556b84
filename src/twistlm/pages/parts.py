"""What pages are made of, as plain values: cells, tables, drawings, facts. `templates/parts.html` shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

WIDE, NARROW = 900, 340  # px of a drawing at a desk and on a phone


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it says.
        small: a second line, in small letters.
        side: "warm" or "cold" gives it that colour.
        title: shown when pointed at.
    """

    text: str
    small: str = ""
    side: str = ""
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: its header, and rows that begin with what they are about."""

    header: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One drawing for a desk and one for a phone: SVG text shrinks with its drawing, so one size cannot serve both."""

    wide: Markup
    narrow: Markup


def cell(text: Any, *, after: str = "[", side: str = "") -> Cell:
    """Return a cell in which what follows the first bracket `after` stands on the small second line."""
    main, bracket, rest = str(text).partition(f" {after}")
    return Cell(text=main, small=f"{after}{rest}" if bracket else "", side=side)


def drawing(draw: Callable[[int], Markup]) -> Drawing:
    """Return what `draw` makes for both widths (px)."""
    return Drawing(wide=draw(WIDE), narrow=draw(NARROW))


def facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values of anything nested as text; those of a group are named group.name."""
    return _flat(values, "")


def _flat(values: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            flat.append((f"{prefix}{key}", ", ".join(map(str, value))))
        else:
            flat.append((f"{prefix}{key}", f"{value:g}" if isinstance(value, float) else str(value)))
    return flat
