"""The quality of units as a table for the terminal, and as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from rich.console import Console
from rich.table import Table as Printed

from twistlm.pages import plots
from twistlm.pages.numbers import interval, percent, percent_interval, with_interval
from twistlm.pages.parts import WIDE, Cell, Table, cell, drawing, facts
from twistlm.pages.rendering import render, write

SIDES = ("warm", "cold")  # the page's two colours: the first tokenizer has the first

_AGREEMENT = (("PNMI", "pnmi"), ("phone purity", "phone_purity"), ("cluster purity", "cluster_purity"))
_ABX = (
    ("units, within", "units_within"),
    ("units, across", "units_across"),
    ("features, within", "features_within"),
    ("features, across", "features_across"),
)


def rows(values: Mapping[str, Any]) -> list[list[str]]:
    """The table's rows: a name, then a cell for each tokenizer."""
    toks = values["tokenizers"]
    found = [[name, *(_number(tok[key]) for tok in toks)] for name, key in _AGREEMENT]
    if values["pnmi_ratio"] is not None:
        found.insert(1, [f"PNMI, times that of {toks[1]['tokenizer']}", _number(values["pnmi_ratio"]), "1"])
    found.append(
        ["PNMI of shuffled units", *("–" if (told := tok["pnmi_shuffled"]) is None else f"{told:.3f}" for tok in toks)]
    )
    found += [[f"ABX error of {name} speakers", *(_share(tok["abx"][key]) for tok in toks)] for name, key in _ABX]
    usages = [tok["usage"] for tok in toks]
    found += [
        ["frames per second", *(f"{u['frames_per_second']:.2f}" for u in usages)],
        [
            "units per second, deduplicated",
            *(with_interval(f"{u['units_per_second']:.2f}", interval(u["units_per_second_ci"], ".2f")) for u in usages),
        ],
        ["bits per second", *(f"{u['bits_per_second']:.1f}" for u in usages)],
        ["bits per second, with durations", *(f"{u['bits_per_second_frames']:.1f}" for u in usages)],
        ["share of units used", *(percent(u["used"]) for u in usages)],
        ["perplexity of units", *(f"{t['usage']['perplexity']:.1f} of {t['spec']['n_units']}" for t in toks)],
        ["speaker guessed from units", *(_share(tok["speaker_probe"]) for tok in toks)],
        ["speaker guessed, chance", *(percent((tok["speaker_probe"] or {}).get("chance")) for tok in toks)],
    ]  # fmt: skip
    for what in toks[0]["robustness"]:
        found.append([f"units unchanged: {what}", *(_share(tok["robustness"][what]) for tok in toks)])
    return found


def text(values: Mapping[str, Any]) -> str:
    """The table for the terminal, and why anything was not measured."""
    table = Printed(caption="95% confidence intervals in brackets")
    table.add_column("")
    for tok in values["tokenizers"]:
        table.add_column(tok["tokenizer"], justify="right")
    for row in rows(values):
        table.add_row(*row)
    console = Console(markup=False, force_terminal=False)  # names are not markup; what is printed holds no controls
    with console.capture() as captured:
        console.print(table)
    return "\n".join([_heard(values), captured.get().rstrip(), *_not_measured(values)])


def write_page(values: Mapping[str, Any], out: Path) -> Path:
    """Write the page, atomically, and return its path. `values` is what `unit_quality_of` returns."""
    toks = values["tokenizers"]
    names = {side: tok["tokenizer"] for side, tok in zip(SIDES, toks, strict=False)}
    disturbed = values["speech"]["clips_disturbed"]
    figures = (
        _figure(
            "Agreement with phones",
            [(name, tok.get(key)) for name, key in _AGREEMENT for tok in toks],
            names,
            caption="Of frames that have a phone. Higher is better.",
        ),
        _figure(
            "ABX error",
            [(name, tok["abx"][key]) for name, key in _ABX for tok in toks],
            names,
            chance=0.5,
            caption="How often a phone is nearer to another phone than to itself. Lower is better; guessing gives 50%.",
        ),
        _figure(
            "Units unchanged",
            [(what, tok["robustness"][what]) for what in toks[0]["robustness"] for tok in toks],
            names,
            caption=f"Share of frames whose unit stays the same when the sound is disturbed; {disturbed} clips.",
        ),
    )
    alignment = f"{values['alignment']['source']}, sha256 {values['alignment']['sha256'][:16]}"
    page = render(
        "unit_quality.html",
        title=f"What {' and '.join(names.values())} keep{'s' if len(names) == 1 else ''} of speech",
        heard=_heard(values),
        table=Table(
            header=(Cell(text=""), *(Cell(text=name, side=side) for side, name in names.items())),
            rows=tuple((Cell(text=name), *map(cell, cells)) for name, *cells in rows(values)),
        ),
        not_measured=_not_measured(values),
        figures=[figure for figure in figures if figure is not None],
        names=list(names.items()),
        maps=[(side, tok["tokenizer"], _map(tok)) for side, tok in zip(SIDES, toks, strict=False)],
        protocol=facts({**values["protocol"], "alignment": alignment, "seed": values["seed"]}),
    )
    return write(page, out)


def _figure(
    title: str,
    cells: Sequence[tuple[str, Mapping[str, Any] | None]],
    names: Mapping[str, str],
    *,
    chance: float | None = None,
    caption: str,
) -> dict[str, Any] | None:
    """Values with intervals, drawn; each row of the table gives one cell for each tokenizer, in their order."""
    points = [
        (name, SIDES[i % len(names)], found["value"], tuple(math.nan if end is None else end for end in found["ci"]))
        for i, (name, found) in enumerate(cells)
        if found is not None
    ]
    if not points:
        return None
    drawn = drawing(lambda width: plots.intervals(points, chance=chance, width=width, names=names, label=title))
    return {"title": title, "drawing": drawn, "caption": caption}


def _map(tok: Mapping[str, Any]) -> Markup:
    return plots.phone_map(tok["phones"]["names"], np.array(tok["phones"]["counts"]), width=WIDE)


def _heard(values: Mapping[str, Any]) -> str:
    speech = values["speech"]
    left_out = speech["clips_without_alignment"]
    more = f"; {left_out:,} more have no alignment" if left_out else ""
    return (
        f"{speech['clips']:,} clips, {speech['seconds'] / 60:.1f} minutes, speakers: {speech['speakers']:,}, "
        f"frames with a phone: {values['tokenizers'][0]['frames_with_phone']:,}{more}."
    )


def _not_measured(values: Mapping[str, Any]) -> list[str]:
    reasons = {name: why for tok in values["tokenizers"] for name, why in tok["not_measured"].items()}
    return [f"Not measured: {name.replace('_', ' ')}: {why}" for name, why in reasons.items()]


def _number(cell: Mapping[str, Any] | None) -> str:
    return "–" if cell is None else with_interval(f"{cell['value']:.3f}", interval(cell["ci"], ".3f"))


def _share(cell: Mapping[str, Any] | None) -> str:
    return "–" if cell is None else with_interval(percent(cell["value"]), percent_interval(cell["ci"]))
