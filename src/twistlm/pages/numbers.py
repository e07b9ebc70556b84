"""Numbers as pages and tables write them; a number or an interval that does not exist is a dash or nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def percent(value: float | None, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}%" if value is not None and math.isfinite(value) else "–"


def interval(ci: Sequence[float | None] | None, form: str, scale: float = 1.0) -> str:
    """Return "[low, high]", or "" for an interval that does not exist."""
    found = ends(ci)
    return "" if found is None else f"[{plain(found[0] * scale):{form}}, {plain(found[1] * scale):{form}}]"


def ends(ci: Sequence[float | None] | None) -> tuple[float, float] | None:
    """Return (low, high), or None when an end is missing or not finite."""
    low, high = ci or (None, None)
    return None if low is None or high is None or not finite(low) or not finite(high) else (low, high)


def percent_interval(ci: Sequence[float | None] | None) -> str:
    return interval(ci, ".1f", 100.0)


def plain(number: float) -> float:
    """Return a number, and 0 for one so small that it stands for none (products of the smallest float)."""
    return 0.0 if abs(number) < 1e-9 else number


def with_interval(value: str, ci: str) -> str:
    return f"{value} {ci}" if ci else value


def finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
