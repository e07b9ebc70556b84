"""The tables and plots of a grid as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from twistlm.pages import plots
from twistlm.pages.grid_tables import headline, missing, name, sides, state, tables, where
from twistlm.pages.numbers import ends
from twistlm.pages.parts import Cell, Drawing, Table, drawing
from twistlm.pages.rendering import render

Values = Mapping[str, Any]
Point = tuple[str, str, float, tuple[float, float]]  # label, side, value, interval


def html(results: Values) -> str:
    """Return the page."""
    figures = (_differences(results), _updates(results), _swuggy(results), _ablations(results))
    return render(
        "grid.html",
        headline=headline(results),
        state=state(results),
        curves=_curves(results),
        figures=[figure for figure in figures if figure is not None],
        tables=[
            {
                "title": table.title,
                "note": table.note,
                "cells": Table(header=_cells(table.header), rows=tuple(_cells(row) for row in table.rows)),
            }
            for table in tables(results)
        ],
        missing=missing(results),
    )


def _curves(results: Values) -> list[tuple[str, Drawing]]:
    drawn = []
    for pair, warm, cold in sides(results):
        histories = {"warm": warm["history"], "cold": cold["history"]}
        drawn.append((where(pair), drawing(partial(_curve, histories))))
    return drawn


def _curve(histories: Mapping[str, Any], width: int) -> Markup:
    return plots.loss_curves(histories, width=width)


def _differences(results: Values) -> dict[str, Any] | None:
    found = [(where(p), "warm", p["nll"]["mean"], _ends(p["nll"]["ci_seeds"])) for p, _, _ in sides(results)]
    caption = "Held-out loss of warm less cold’s, nats a unit. Whiskers: 95% t intervals over seeds."
    return _figure("Paired differences", found, caption, line=0.0, mark="no difference", scale=1.0, unit="")


def _updates(results: Values) -> dict[str, Any] | None:
    found = [
        (where(p), "warm", p["updates"]["mean"], _ends(p["updates"]["ci_seeds"]))
        for p, _, _ in sides(results)
        if p["updates"]["mean"] is not None
    ]
    caption = "Share of cold’s updates after which warm has cold’s final loss. Whiskers: 95% t intervals over seeds."
    return _figure("Updates to cold’s final loss", found, caption, line=1.0, mark="cold")


def _swuggy(results: Values) -> dict[str, Any] | None:
    found = [
        (where(arm), arm["arm"], arm["swuggy"]["mean"], _ends(arm["swuggy"]["ci"]))
        for _, warm, cold in sides(results)
        for arm in (cold, warm)
    ]
    caption = "How often the model finds a spoken word likelier than a pseudo-word. Whiskers: 95% intervals over words."
    return _figure("Mini sWUGGY", found, caption, line=0.5, mark="chance")


def _ablations(results: Values) -> dict[str, Any] | None:
    first = where(results["arms"][0]) if results["arms"] else ""
    found = [
        (name(a["arm"]), "cold" if a["arm"] == "cold" else "warm", a["nll"]["mean"], _ends(a["nll"]["ci"]))
        for a in results["arms"]
        if where(a) == first
    ]
    caption = f"Held-out loss by start, nats a unit; {first}. Whiskers: 95% t intervals over seeds."
    return _figure("What it is that helps", found if len(found) > 2 else [], caption, scale=1.0, unit="")


def _figure(
    title: str, found: Sequence[Point], caption: str, *, line: float | None = None, **how: Any
) -> dict[str, Any] | None:
    if not found:
        return None
    drawn = drawing(lambda width: plots.intervals(found, chance=line, width=width, label=title, **how))
    return {"title": title, "drawing": drawn, "caption": caption}


def _cells(row: Sequence[str]) -> tuple[Cell, ...]:
    return tuple(Cell(text=text) for text in row)


def _ends(ci: Sequence[float | None]) -> tuple[float, float]:
    return ends(ci) or (math.nan, math.nan)
