"""The tables and plots of a grid as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

from twistlm.pages import page, plots
from twistlm.pages.grid_tables import Table, headline, missing, name, sides, state, tables, where

Values = Mapping[str, Any]
Point = tuple[str, str, float, tuple[float, float]]  # label, side, value, interval


def html(results: Values) -> str:
    """Return the page."""
    lines = missing(results)
    sections = [
        f'<p class="brand">twistlm</p>\n<h1>{escape(headline(results))}</h1>',
        f'<p class="lead">{escape(state(results))}</p>',
        _curves(results),
        _differences(results),
        _updates(results),
        _swuggy(results),
        _ablations(results),
        *map(_table, tables(results)),
        "<h2>What is not there</h2>\n" + "".join(f"<p>{escape(line)}</p>" for line in lines) if lines else "",
    ]
    footer = "Every number on this page is in report.json beside it, every run in study.jsonl."
    return page.document("twistlm: warm against cold", sections, footer=footer)


def _curves(results: Values) -> str:
    drawn = []
    for pair, warm, cold in sides(results):
        histories = {"warm": warm["history"], "cold": cold["history"]}
        curve = page.both_widths(partial(_curve, histories), wide=900)
        drawn.append(f"<h3>{where(pair)}</h3>{curve}")
    if not drawn:
        return ""
    more = f"<details><summary>Other sizes and amounts</summary>{''.join(drawn[1:])}</details>" if drawn[1:] else ""
    return (
        f'<h2>Learning curves</h2>\n<figure><div class="card">{drawn[0]}{more}</div><figcaption>Held-out loss in nats '
        "per unit, the mean over the seeds. The ring marks where warm reaches the loss that cold ends with."
        "</figcaption></figure>"
    )


def _curve(histories: Mapping[str, Any], width: int) -> str:
    return plots.loss_curves(histories, width=width)


def _differences(results: Values) -> str:
    found = [(where(p), "warm", p["nll"]["mean"], _ends(p["nll"]["ci_seeds"])) for p, _, _ in sides(results)]
    caption = "Held-out loss of warm less cold’s, nats a unit. Whiskers: 95% t intervals over seeds."
    return _figure("Paired differences", found, caption, line=0.0, mark="no difference", scale=1.0, unit="")


def _updates(results: Values) -> str:
    found = [
        (where(p), "warm", p["updates"]["mean"], _ends(p["updates"]["ci_seeds"]))
        for p, _, _ in sides(results)
        if p["updates"]["mean"] is not None
    ]
    caption = "Share of cold’s updates after which warm has cold’s final loss. Whiskers: 95% t intervals over seeds."
    return _figure("Updates to cold’s final loss", found, caption, line=1.0, mark="cold")


def _swuggy(results: Values) -> str:
    found = [
        (where(arm), arm["arm"], arm["swuggy"]["mean"], _ends(arm["swuggy"]["ci"]))
        for _, warm, cold in sides(results)
        for arm in (cold, warm)
    ]
    caption = "How often the model finds a spoken word likelier than a pseudo-word. Whiskers: 95% intervals over words."
    return _figure("Mini sWUGGY", found, caption, line=0.5, mark="chance")


def _ablations(results: Values) -> str:
    first = where(results["arms"][0]) if results["arms"] else ""
    found = [
        (name(a["arm"]), "cold" if a["arm"] == "cold" else "warm", a["nll"]["mean"], _ends(a["nll"]["ci"]))
        for a in results["arms"]
        if where(a) == first
    ]
    caption = f"Held-out loss by start, nats a unit; {first}. Whiskers: 95% t intervals over seeds."
    return _figure("What it is that helps", found if len(found) > 2 else [], caption, scale=1.0, unit="")


def _figure(title: str, found: Sequence[Point], caption: str, *, line: float | None = None, **how: Any) -> str:
    if not found:
        return ""
    drawn = page.both_widths(
        lambda width: plots.intervals(found, chance=line, width=width, label=title, **how), wide=900
    )
    return f'<h2>{title}</h2>\n<figure><div class="card">{drawn}</div><figcaption>{caption}</figcaption></figure>'


def _table(table: Table) -> str:
    head = "".join(f"<th scope=col>{escape(title)}</th>" for title in table.header)
    body = "".join(
        f"<tr><th scope=row>{escape(row[0])}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in table.rows
    )
    return (
        f"<h2>{escape(table.title)}</h2>\n<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        f'</table></div>\n<p class="note">{escape(table.note)}</p>'
    )


def _ends(ci: Sequence[float | None]) -> tuple[float, float]:
    low, high = ci
    return (math.nan, math.nan) if low is None or high is None else (low, high)
