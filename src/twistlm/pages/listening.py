"""The results of a listening study as a table for the terminal, and as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Printed

from twistlm.pages import plots
from twistlm.pages.numbers import interval, percent, percent_interval, with_interval
from twistlm.pages.parts import Cell, Drawing, Table, cell, drawing, facts
from twistlm.pages.rendering import render, write

_LABEL = 16  # characters of a name in a drawing
_SIDES = {"warm": "raters who are kept", "cold": "all raters"}  # the page's two colours
_RULES = {
    "finished": "did not finish",
    "traps": "trapping clips missed",
    "gold": "gold clips judged wrong",
    "played": "clips not heard to the end",
    "variance": "always the same answer",
    "correlation": "does not agree with the others",
}


def text(results: Mapping[str, Any]) -> str:
    """Return the main table for the terminal, and who was left out."""
    table = _scores(results) if results["design"] == "mos" else _preferences(results)
    printed = Printed(caption="95% confidence intervals in brackets, over raters and items")
    for i, head in enumerate(table.header):
        printed.add_column(head.text, justify="right" if i else "left")
    for row in table.rows:
        printed.add_row(*(f"{one.text} {one.small}".strip() for one in row))
    console = Console(markup=False, force_terminal=False, width=110)
    with console.capture() as captured:
        console.print(printed)
    return "\n".join([_heard(results), captured.get().rstrip(), _left_out(results)])


def write_page(results: Mapping[str, Any], out: Path) -> Path:
    """Write the page, atomically, and return its path. `results` is what `listen.analysis.analyse` returns, and what
    the study asked under "study"."""
    mos, kept = results["design"] == "mos", results["kept"]
    study = results["study"]
    page = render(
        "listening.html",
        title=study["question"] if study["question"] else "What raters said",
        heard=_heard(results),
        left_out=_left_out(results),
        mos=mos,
        main=_scores(results) if mos else _preferences(results),
        figure=_figure(results),
        names=list(_SIDES.items()),
        strengths=None if mos or not kept["strengths"] else _strengths(kept["strengths"]),
        scale=drawing(lambda width: _strength_drawing(kept["strengths"], width))
        if not mos and kept["strengths"]
        else None,
        pairs=_differences(kept["pairs"]) if mos and kept["pairs"] else None,
        counts=_counts(kept["systems"]) if mos else None,
        power=_power(kept) if mos and kept["power"]["needs"] else None,
        raters_now=kept["raters"],
        items_now=kept["items"],
        mixed=_mixed(kept) if mos else None,
        alpha={name: _number(value) for name, value in kept["alpha"].items()},
        raters=_raters(results["raters"]),
        protocol=facts({**study, "rules": results["rules"], "seed": results["seed"], "draws": results["draws"]}),
    )
    return write(page, out)


def _heard(results: Mapping[str, Any]) -> str:
    kept = results["kept"]
    return (
        f"{kept['ratings']:,} ratings of {kept['items']:,} items by {kept['raters']:,} raters; "
        f"Krippendorff's alpha (ordinal) {_number(kept['alpha']['ordinal'])}." + _unanswered(results)
    )


def _unanswered(results: Mapping[str, Any]) -> str:
    n = results.get("unanswered", 0)
    return f" {n:,} clips or pairs in the file have no answer." if n else ""


def _left_out(results: Mapping[str, Any]) -> str:
    broken = [one["broken"] for one in results["raters"] if one["broken"]]
    if not broken:
        return f"All {len(results['raters'])} raters are kept: no rule leaves anybody out."
    why = [f"{_RULES[rule]} {n}" for rule in _RULES if (n := sum(rule in one for one in broken))]
    return f"{len(broken)} of {len(results['raters'])} raters are left out ({', '.join(why)})."


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _ends(row: Mapping[str, Any]) -> tuple[float, float]:
    return tuple(math.nan if row[end] is None else row[end] for end in ("low", "high"))  # type: ignore[return-value]


def _scores(results: Mapping[str, Any]) -> Table:
    kept = {row["system"]: row for row in results["kept"]["systems"]}
    rows = []
    for other in _every(results, "systems", _system):
        row = kept.get(_system(other), {"mean": None, "low": None, "high": None, "crowdmos_half": None, "n": 0})
        crowd = "–" if row["crowdmos_half"] is None else f"± {row['crowdmos_half']:.2f}"
        rows.append(
            (
                Cell(text=other["system"]),
                cell(with_interval(_number(row["mean"]), interval(_ends(row), ".2f"))),
                Cell(text=crowd),
                cell(with_interval(f"{other['mean']:.2f}", interval(_ends(other), ".2f"))),
                Cell(text=f"{row['n']:,}"),
            )
        )
    header = ("system", "mean", "CrowdMOS", "with everybody", "ratings")
    return Table(header=tuple(Cell(text=one) for one in header), rows=tuple(rows))


def _system(row: Mapping[str, Any]) -> str:
    return str(row["system"])


def _pair(row: Mapping[str, Any]) -> str:
    return f"{row['a']} > {row['b']}"


def _every(results: Mapping[str, Any], key: str, name: Callable[[Mapping[str, Any]], str]) -> list[Mapping[str, Any]]:
    """Return the rows of all raters, in the order of those who are kept: who rated a system may all be left out."""
    order = [name(row) for row in results["kept"][key]]
    rows = results["all"][key]
    return sorted(rows, key=lambda row: order.index(name(row)) if name(row) in order else len(order))


def _preferences(results: Mapping[str, Any]) -> Table:
    kept = {_pair(row): row for row in results["kept"]["pairs"]}
    nobody = dict.fromkeys(("rate", "low", "high", "ties", "p", "p_holm", "p_items", "p_raters")) | {"n": 0}
    rows = [
        (
            Cell(text=f"{row['a']} over {row['b']}"),
            cell("–" if row["rate"] is None else with_interval(percent(row["rate"]), percent_interval(_ends(row)))),
            Cell(text="–" if row["ties"] is None else percent(row["ties"])),
            Cell(text=_p(row["p_holm"]), title=f"uncorrected {_p(row['p'])}"),
            Cell(text=_p(row["p_items"])),
            Cell(text=_p(row["p_raters"])),
            Cell(text=f"{row['n']:,}"),
        )
        for other in _every(results, "pairs", _pair)
        for row in [{**other, **kept.get(_pair(other), nobody)}]
    ]
    header = ("", "preferred", "no difference", "p, corrected", "p by item", "p by rater", "comparisons")
    return Table(header=tuple(Cell(text=one) for one in header), rows=tuple(rows))


def _figure(results: Mapping[str, Any]) -> Drawing:
    def points(key: str, name: Any, value: str) -> list[tuple[str, str, float, Sequence[float]]]:
        both = {
            side: {name(row): row for row in results[which][key]} for side, which in (("warm", "kept"), ("cold", "all"))
        }
        return [
            (label, side, both[side][label][value], _ends(both[side][label]))
            for label in map(name, _every(results, key, name))
            for side in _SIDES
            if label in both[side]
        ]

    if results["design"] == "mos":
        rows = points("systems", _system, "mean")
        label = "Mean scores with 95% intervals"
        return drawing(
            lambda width: plots.intervals(
                rows, chance=None, width=width, names=_SIDES, label=label, scale=1.0, unit="", longest=_LABEL
            )
        )
    rows = points("pairs", _pair, "rate")
    label = "How often a system was preferred, with 95% intervals"
    return drawing(
        lambda width: plots.intervals(
            rows, chance=0.5, width=width, names=_SIDES, label=label, mark="even", longest=_LABEL
        )
    )


def _strength_drawing(strengths: Sequence[Mapping[str, Any]], width: int) -> Any:
    rows = [(row["system"], "warm", row["strength"], _ends(row)) for row in strengths]
    return plots.intervals(
        rows,
        chance=None,
        width=width,
        names=_SIDES,
        label="Strengths with 95% intervals",
        scale=1.0,
        unit="",
        longest=_LABEL,
    )


def _strengths(strengths: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (Cell(text=row["system"]), cell(with_interval(f"{row['strength']:.2f}", interval(_ends(row), ".2f"))))
        for row in strengths
    ]
    return Table(header=(Cell(text="system"), Cell(text="log strength")), rows=tuple(rows))


def _differences(pairs: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (
            Cell(text=f"{row['a']} − {row['b']}"),
            cell(with_interval(f"{row['mean']:+.2f}", interval(_ends(row), "+.2f"))),
            Cell(text=_p(row["p_holm"]), title=f"uncorrected {_p(row['p'])}"),
            Cell(text=_p(row["p_items"])),
            Cell(text=_p(row["p_raters"])),
            Cell(text=f"{row['raters']:,}"),
        )
        for row in pairs
    ]
    header = ("", "difference", "p, corrected", "p by item", "p by rater", "raters of both")
    return Table(header=tuple(Cell(text=one) for one in header), rows=tuple(rows))


def _counts(systems: Sequence[Mapping[str, Any]]) -> Table | None:
    values = list(systems[0]["counts"])
    if not values:
        return None
    rows = [
        (Cell(text=row["system"]), *(Cell(text=percent(row["counts"][v] / max(1, row["n"]), 0)) for v in values))
        for row in systems
    ]
    return Table(header=(Cell(text="system"), *(Cell(text=v) for v in values)), rows=tuple(rows))


def _power(kept: Mapping[str, Any]) -> Table:
    rows = [
        (
            Cell(text=f"{need['difference']:g} points"),
            Cell(text="no number is enough" if need["raters"] is None else f"{need['raters']:,}"),
            Cell(text=f"{need['items']:,}"),
        )
        for need in kept["power"]["needs"]
    ]
    header = ("to see a difference of", "raters, on as many items", "items, however many raters")
    return Table(header=tuple(Cell(text=one) for one in header), rows=tuple(rows))


def _mixed(kept: Mapping[str, Any]) -> dict[str, Any] | None:
    fitted = kept["mixed"]
    if fitted is None or "skipped" in fitted:
        return None if fitted is None else {"skipped": fitted["skipped"], "table": None, "sds": ""}
    ours = {row["system"]: row for row in kept["systems"]}
    rows = [
        (
            Cell(text=row["system"]),
            Cell(text=f"{row['mean']:.2f} ± {1.96 * row['se']:.2f}"),
            Cell(text=f"{ours[row['system']]['mean']:.2f}"),
        )
        for row in fitted["systems"]
    ]
    sds = ", ".join(f"{n} {_number(fitted[f'sd_{n}'])}" for n in ("raters", "items", "clips", "rest"))
    warning = "" if fitted["converged"] else " The fit did not converge: do not rely on it."
    table = Table(header=tuple(Cell(text=h) for h in ("system", "mixed model", "mean of ratings")), rows=tuple(rows))
    return {"skipped": "", "table": table, "sds": f"Standard deviations, points: {sds}.{warning}"}


def _raters(raters: Sequence[Mapping[str, Any]]) -> Table:
    known = [rule for rule in _RULES if any(rule in one["found"] for one in raters) and rule != "finished"]
    rows = [
        (
            Cell(text=one["rater"]),
            *(Cell(text=_number(one["found"].get(rule))) for rule in known),
            Cell(text=", ".join(_RULES[rule] for rule in one["broken"]) or "kept"),
        )
        for one in sorted(raters, key=lambda one: (not one["broken"], one["rater"]))
    ]
    return Table(header=tuple(Cell(text=h) for h in ("rater", *known, "")), rows=tuple(rows))
