"""What models say, on one page: measures with intervals, and every prompt's continuations side by side, to be heard.

The sounds are files beside the page (some hundred of them would make a page of tens of MB): move both together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from twistlm.pages.numbers import finite, interval, plain, with_interval
from twistlm.pages.parts import Cell, Table, facts
from twistlm.pages.rendering import render, write

# What samples can be sorted by: column of a row, name, how it is written.
SORTED = (
    ("loss", "loss of the text, nats a token", ".2f"),
    ("wins", "beats shuffled prompts", ".2f"),
    ("gain", "gain by the own prompt", ".2f"),
    ("similarity", "likeness to the truth", ".2f"),
    ("auto_bleu_slamkit", "repeated bigrams", ".2f"),
    ("self_bleu", "likeness to other texts", ".2f"),
    ("unit_repetition", "repeated units", ".2f"),
    ("words", "words", ".0f"),
    ("seconds", "seconds", ".1f"),
    ("silence", "silence", ".2f"),
    ("distillmos", "Distill-MOS", ".2f"),
    ("dnsmos_ovrl", "DNSMOS overall", ".2f"),
    ("dnsmos_p808", "DNSMOS P.808", ".2f"),
    ("utmos", "UTMOS", ".2f"),
    ("voice", "likeness of the voice", ".2f"),
    ("judge", "judge", ".0f"),
)


class System(Protocol):
    """What is shown of a system: its name, its kind, and a row for each prompt and sample."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def rows(self) -> Sequence[Mapping[str, Any]]: ...


def write_page(
    results: Mapping[str, Any], systems: Sequence[System], out: Path, *, measures: Sequence[tuple[str, str, str]]
) -> Path:
    """Write the page and return its path.

    Args:
        results: content of the results' JSON (no NaN: null).
        systems: what speaks; those without sounds have no place among the samples.
        out: the HTML file; sounds are named relative to its folder.
        measures: name, title and what it is, in order.
    """
    heard = [system for system in systems if any(row.get("sound") for row in system.rows)]
    page = render(
        "generation.html",
        protocol=results["protocol"]["name"],
        prompts=results["prompts"],
        table=_table(results, measures),
        about=[(title, what) for name, title, what in measures if _shown(results, name)],
        differences=results["differences"],
        curves=curves(results),
        sorted_by=[(key, title) for key, title, _ in SORTED if any(finite(r.get(key)) for s in heard for r in s.rows)],
        systems=[(system.name, _side(system.name)) for system in heard],
        samples=_samples(heard),
        facts=facts(_protocol(results)),
        made=facts({k: results[k] for k in ("heard_with", "read_by", "embedder", "seed") if k in results}),
    )
    return write(page, out)


def _table(results: Mapping[str, Any], measures: Sequence[tuple[str, str, str]]) -> Table:
    order = {"recordings": 0, "transcripts": 1, "resynthesis": 2, "model": 3, "shuffled": 4, "words": 5}
    systems = sorted(results["systems"], key=lambda system: order.get(system["kind"], 6))
    gaps = results["differences"].get("measures", {})
    header = [Cell(text=""), *(Cell(text=s["name"], side=_side(s["name"])) for s in systems)]
    if gaps:
        header.append(Cell(text=" less ".join(results["differences"]["between"])))
    rows = []
    for name, title, what in measures:
        if not _shown(results, name):
            continue
        cells = [Cell(text=title, title=what), *(_number(s["measures"].get(name)) for s in systems)]
        if gaps:
            cells.append(_gap(gaps.get(name)))
        rows.append(tuple(cells))
    return Table(header=tuple(header), rows=tuple(rows))


def _protocol(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the protocol's fields, with the temperatures that were sampled at in the place of its own."""
    fields = dict(results["protocol"])
    sampled = list(dict.fromkeys(s.get("temperature") for s in results["systems"] if s["kind"] == "model"))
    if "temperature" in fields and None not in sampled and len(sampled) > 1:
        fields["temperature"] = ", ".join(f"{at:g}" for at in sampled)
    return fields


def _shown(results: Mapping[str, Any], name: str) -> bool:
    return any(name in system["measures"] for system in results["systems"])


def _number(found: Mapping[str, Any] | None) -> Cell:
    if found is None:
        return Cell(text="")
    if not finite(found["value"]):
        return Cell(text="–", title="undefined")
    return Cell(text=f"{plain(found['value']):.4g}", small=interval(found["ci"], ".4g"), title=f"over {found['n']}")


def _gap(found: Mapping[str, Any] | None) -> Cell:
    if found is None or not finite(found["mean"]):
        return Cell(text="")
    p = f" p {found['p']:.2g}" if finite(found["p"]) else ""  # of one prompt there is none
    return Cell(text=f"{plain(found['mean']):+.4g}", small=interval(found["ci"], "+.4g") + p)


def curves(results: Mapping[str, Any]) -> list[list[tuple[str, str]]]:
    """Return what each model's curve over temperatures says, as names and values; none where there is one temperature.

    Args:
        results: as of `write_page`.
    """
    found = results.get("curves") or {}
    if "missing" in found:
        return [[("no curve", found["missing"])]]
    if not found:
        return []
    bounds = found["area_between_verts"]
    vert, ppx = (f"{n:.4g}" if finite(n) else "which is none" for n in (found["oracle"][k] for k in ("vert", "ppx")))
    at = f"the recordings’ VERT, {vert}"
    told = []
    for of in found["models"].values():
        lines = [("model", str(of["model"]))]
        lines += [
            (f"VERT and PPX at temperature {p['temperature']:g}", f"{p['vert']:.4g}, {p['ppx']:.4g}")
            for p in of["points"]
        ]
        lines.append((f"PPX at {at}", _on_curve(of["ppx_at_oracle_vert"])))
        if len(of["points"]) >= 4:
            lines.append((f"PPX at {at}, on a cubic", _on_curve(of["cubic_ppx_at_oracle_vert"])))
        lines.append((f"VERT at the recordings’ PPX, {ppx}", _on_curve(of["vert_at_oracle_ppx"])))
        if bounds is not None:
            lines.append((f"area from VERT {bounds[0]:.4g} to {bounds[1]:.4g}", _on_curve(of["area"])))
        told.append(lines)
    return told


def _on_curve(found: Mapping[str, Any]) -> str:
    """A number with its interval, and in how many of the resamples there is none."""
    none = f" (none in {found['missing']:,} of 1,000 resamples)" if found.get("missing") else ""
    if not finite(found["value"]):
        return f"none: the curve does not get there{none}"
    return with_interval(f"{found['value']:.4g}", interval(found["ci"], ".4g")) + none


def _samples(systems: Sequence[System]) -> list[dict[str, Any]]:
    """Return for each prompt and sample its players, one for each system that has it; systems with one sample of each
    prompt stand beside every one."""
    samples: dict[str, set[int]] = {}
    for row in (row for system in systems for row in system.rows):
        samples.setdefault(str(row["prompt"]), set()).add(int(row["sample"]))
    by: dict[tuple[str, int], list[dict[str, Any]]] = {(p, k): [] for p, ks in samples.items() for k in sorted(ks)}
    for system in systems:
        once = not any(row["sample"] for row in system.rows)
        for row in system.rows:
            prompt = str(row["prompt"])
            player = {
                "system": system.name,
                "side": _side(system.name),
                "sound": row.get("sound") or "",
                "start": f"{row.get('start') or 0.0:.2f}",
                "text": row.get("text") or "",
                "numbers": {key: row[key] for key, _, _ in SORTED if finite(row.get(key))},
                "told": ", ".join(f"{t} {row[k]:{form}}" for k, t, form in SORTED if finite(row.get(k))),
                "reply": row.get("reply") or "",
            }
            for sample in samples[prompt] if once else [int(row["sample"])]:
                by[prompt, sample].append(player)
    said = {str(row["prompt"]): str(row.get("recording") or "") for system in systems for row in system.rows}
    return [
        {"prompt": prompt, "sample": sample, "recording": said[prompt], "players": players}
        for (prompt, sample), players in by.items()
    ]


def _side(name: str) -> str:
    return name if name in ("warm", "cold") else ""
