"""The quality of units as a table for the terminal, and as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from twistlm.files.atomic import atomic_write
from twistlm.pages import page, plots
from twistlm.pages.words import interval, percent, percent_interval, with_interval

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
    found.append(["PNMI of shuffled units", *(f"{tok['pnmi_shuffled']:.3f}" for tok in toks)])
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
    table = Table(caption="95% confidence intervals in brackets")
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
    head = "".join(f"<th class={side} scope=col>{escape(name)}</th>" for side, name in names.items())
    body = "".join(
        f"<tr><th scope=row>{escape(row[0])}</th>" + "".join(f"<td>{_small(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows(values)
    )
    title = f"What {' and '.join(names.values())} keep{'s' if len(names) == 1 else ''} of speech"
    sections = [
        f'<p class="brand">twistlm</p>\n<h1>{escape(title)}</h1>\n'
        f'<p class="lead">{escape(_heard(values))}</p>',
        f"<div class=scroll><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        + "".join(f'<p class="note">{escape(line)}</p>' for line in _not_measured(values)),
        _figure("Agreement with phones", [(n, k, tok.get(k)) for n, k in _AGREEMENT for tok in toks], names, None,
                "Of frames that have a phone. Higher is better."),
        _figure("ABX error", [(n, k, tok["abx"][k]) for n, k in _ABX for tok in toks], names, 0.5,
                "How often a phone is nearer to another phone than to itself. Lower is better; guessing gives 50%."),
        _figure("Units unchanged", [(what, what, tok["robustness"][what]) for what in toks[0]["robustness"]
                                    for tok in toks], names, None,
                f"Share of frames whose unit stays the same when the sound is disturbed; "
                f"{values['speech']['clips_disturbed']} clips."),
        *(_map(tok, side) for side, tok in zip(SIDES, toks, strict=False)),
        "<h2>How it was measured</h2>\n<dl>"
        + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in values["protocol"].items())
        + f"<dt>alignment</dt><dd>{escape(values['alignment']['source'])}, sha256 {values['alignment']['sha256'][:16]}"
        + f"</dd><dt>seed</dt><dd>{values['seed']}</dd></dl>",
    ]  # fmt: skip
    footer = "Every number on this page is in quality.json beside it, each clip’s in clips.parquet."
    html = page.document("twistlm: unit quality", sections, footer=footer)
    with atomic_write(out) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return out


def _figure(
    title: str,
    cells: Sequence[tuple[str, str, Mapping[str, Any] | None]],
    names: Mapping[str, str],
    chance: float | None,
    caption: str,
) -> str:
    """A drawing of values with intervals; each row of the table gives one cell for each tokenizer, in their order."""
    points = [
        (name, SIDES[i % len(names)], cell["value"], tuple(float("nan") if end is None else end for end in cell["ci"]))
        for i, (name, _, cell) in enumerate(cells)
        if cell is not None
    ]
    if not points:
        return ""
    wide, narrow = (
        plots.intervals(points, chance=chance, width=width, names=names, label=title) for width in (900, 340)
    )
    key = ", ".join(f"<b class={side}>{escape(name)}</b>" for side, name in names.items())
    return (
        f'<h2>{title}</h2>\n<figure><div class="card"><div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
        f"</div><figcaption>{key}. {escape(caption)} Whiskers are 95% intervals.</figcaption></figure>"
    )


def _map(tok: Mapping[str, Any], side: str) -> str:
    drawn = plots.phone_map(tok["phones"]["names"], np.array(tok["phones"]["counts"]), width=900)
    return (
        f"<h2>Units and phones of <b class={side}>{escape(tok['tokenizer'])}</b></h2>\n"
        f'<figure><div class="card scroll">{drawn}</div><figcaption>A column is a unit, a row a phone, the darker the '
        "larger its share of the unit’s frames. Units stand by their commonest phones.</figcaption></figure>"
    )


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


def _number(cell: Mapping[str, Any]) -> str:
    return with_interval(f"{cell['value']:.3f}", interval(cell["ci"], ".3f"))


def _share(cell: Mapping[str, Any] | None) -> str:
    return "–" if cell is None else with_interval(percent(cell["value"]), percent_interval(cell["ci"]))


def _small(cell: str) -> str:
    main, bracket, rest = cell.partition(" [")
    return f"{escape(main)}<small>[{escape(rest)}</small>" if bracket else escape(main)
