"""The sections of a quickstart's report as plain values, for `templates/report.html`; `twistlm.pages.report` has the
layout of the results they are made from."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twistlm.audio.clip import Clip, encoded
from twistlm.errors import BadInput
from twistlm.pages import plots
from twistlm.pages.numbers import duration, finite, interval, percent, percent_interval, with_interval
from twistlm.pages.parts import Cell, Table, cell, drawing, facts
from twistlm.types import UnitSpec

Values = dict[str, Any]
SAID = {  # measure -> what it is, and how it is written
    "gen_ppl_not_empty": ("GenPPL, empty texts left out", ".1f"),
    "wins": ("likelier after its own prompt than after others, %", ".1f"),
    "auto_bleu_slamkit": ("repeated bigrams (auto-BLEU2, SlamKit), %", ".1f"),
    "self_bleu": ("likeness to the other texts (self-BLEU2)", ".1f"),
    "words_per_second": ("words a second", ".2f"),
    "silence": ("silence, %", ".1f"),
    "empty": ("empty transcripts, %", ".1f"),
}
Results = Mapping[str, Any]


def tiles(results: Results) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return the headline numbers: a title, and of each line its name, side and value."""
    warm, cold, pairs, resynth = results["warm"], results["cold"], results["mini_swuggy"], results["resynthesis"]
    fraction = results["updates_to_cold_loss"]
    two = {
        "Held-out perplexity": (f"{cold['val_ppl']:.1f}", f"{warm['val_ppl']:.1f}"),
        "Updates to cold’s final loss": ("100%", "never" if fraction is None else percent(fraction, 0)),
        "Mini sWUGGY, chance 50%": (percent(pairs["cold"]["accuracy"]), percent(pairs["warm"]["accuracy"])),
    }
    rates = [("original", "wer_original"), ("resynth.", "wer_resynth")]
    return [
        *((title, [("cold", "cold", of_cold), ("warm", "warm", of_warm)]) for title, (of_cold, of_warm) in two.items()),
        ("Word error rate", [(name, "", percent(resynth[key], 0)) for name, key in rates]),
    ]


def curves(results: Results) -> Values:
    histories = {side: results[side]["history"] for side in ("warm", "cold")}
    return {
        "drawing": drawing(lambda width: plots.loss_curves(histories, width=width)),
        "reached": results["updates_to_cold_loss"] is not None,
        "faint": any(row.get("train_loss") is not None for history in histories.values() for row in history),
        "rates": {side: f"{results[side]['lr']:g}" for side in ("cold", "warm")},
    }


def scores(results: Results) -> Values:
    rows = [(cell(name, after="("), cell(cold), cell(warm)) for name, cold, warm in score_rows(results)]
    points = []
    for label, key in (("all voices", None), ("seen voice", "seen_voice"), ("unseen voice", "unseen_voice")):
        for side in ("cold", "warm"):
            found = results["mini_swuggy"][side] if key is None else results["mini_swuggy"][side][key]
            if found is not None and finite(found["accuracy"]):
                ci = found["ci"] if interval(found["ci"], "g") else (math.nan, math.nan)
                points.append((label, side, found["accuracy"], ci))
    return {
        "table": Table(header=(Cell(text=""), *(Cell(text=s, side=s) for s in ("cold", "warm"))), rows=tuple(rows)),
        "drawing": drawing(lambda width: plots.intervals(points, chance=0.5, width=width)) if points else None,
    }


def samples(results: Results, folder: Path) -> list[Values]:
    """Return what can be heard: each prompt's text, and its sounds with what a recogniser hears in them."""
    columns = (
        ("prompt", "Prompt", ""),
        ("resynth", "Prompt, from its units", ""),
        ("cold", "Cold continues", "cold"),
        ("warm", "Warm continues", "warm"),
    )
    return [
        {
            "text": sample["text"] or sample["id"],
            "players": [
                {
                    "title": title,
                    "side": side,
                    "label": f"{title}: {sample['id']}",
                    "sound": _sound(_inside(folder, sample[key])),
                    "heard": None if (heard := sample.get(f"{key}_text")) is None else heard or "nothing",
                }
                for key, title, side in columns
            ],
        }
        for sample in results["samples"]
    ]


def said(results: Results) -> Values | None:
    """Return what the models say as a table, recordings and floors beside them; None where it was not measured."""
    found = results.get("generation")
    if not found:
        return None
    order = {"recordings": 0, "resynthesis": 1, "model": 2, "shuffled": 3, "words": 4}
    systems = sorted(found["systems"], key=lambda s: (order.get(s["kind"], 5), s["name"] != "cold"))
    rows = []
    for name, (title, form) in SAID.items():
        if not any(name in system for system in systems):
            continue
        cells = [Cell(text=title)]
        for system in systems:
            of = system.get(name)
            there = of is not None and finite(of["value"])
            text = f"{of['value']:{form}}" if of is not None and there else "" if of is None else "–"
            cells.append(Cell(text=text, small=interval(of["ci"], form) if of is not None and there else ""))
        rows.append(tuple(cells))
    header = (Cell(text=""), *(Cell(text=s["name"], side=s["name"] if s["kind"] == "model" else "") for s in systems))
    return {"n": found["n"], "table": Table(header=header, rows=tuple(rows)), "facts": facts(found["protocol"])}


def units(results: Results, folder: Path) -> Values:
    """Return the unit specification, and a drawing of the first prompt that has units."""
    sample = next((s for s in results["samples"] if s.get("units")), None)
    spec = UnitSpec.from_dict(results["unit_spec"])
    rate = float(spec.frame_rate)
    told = facts({**spec.to_dict(), "frame_rate": f"{rate:g} Hz", "fingerprint": spec.fingerprint})
    drawn = None
    if sample is not None:
        clip = Clip.read(folder / sample["prompt"], sample_rate=None)
        drawn = plots.waveform(
            clip.samples, clip.sample_rate, frame_rate=rate, ids=sample["units"]["ids"], runs=sample["units"]["runs"]
        )
    return {
        "drawing": drawn,
        "frame_rate": f"{rate:g}",
        "n_units": spec.n_units,
        "merged": spec.deduplicate,
        "fingerprint": spec.fingerprint,
        "facts": told,
    }


def resynthesis(results: Results) -> Values:
    found = results["resynthesis"]
    names = (("original recordings", "wer_original"), ("spoken again from their units", "wer_resynth"))
    rows = tuple(
        (Cell(text=name), Cell(text=percent(found[key]), small=percent_interval(found[f"{key}_ci"])))
        for name, key in names
    )
    return {"n": found["n"], "table": Table(header=(Cell(text=""), Cell(text="word error rate")), rows=rows)}


def trained_on(results: Results) -> Values:
    rows = []
    for name, split in results["speech"]["splits"].items():
        numbers = ["0", "0", "0", "0", "–"]
        if split["minutes"] > 0:
            counts = (f"{split[key]:,}" for key in ("voices", "documents", "units"))
            numbers = [f"{split['minutes']:,.1f}", *counts, f"{split['units'] / (60 * split['minutes']):.1f}"]
        rows.append(tuple(Cell(text=text) for text in (name.replace("_", " "), *numbers)))
    header = tuple(Cell(text=text) for text in ("", "minutes", "voices", "clips", "units", "units/s"))
    return {"source": results["speech"].get("source", ""), "table": Table(header=header, rows=tuple(rows))}


def environment(results: Results) -> Values:
    seconds = results["seconds"]
    stages = {name: value for name, value in seconds.items() if name != "total"}
    longest = max(stages.values(), default=0) or 1
    return {
        "total": duration(seconds.get("total", sum(stages.values()))),
        "memory": f"{results['peak_rss_gb']:.1f}",
        "stages": [
            (name.replace("_", " "), f"{100 * value / longest:.1f}", duration(value)) for name, value in stages.items()
        ],
        **{name: facts(results[name]) for name in ("hardware", "versions", "config")},
    }


def score_rows(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, cold, warm) as text; brackets hold what is secondary."""
    sides = [results["cold"], results["warm"]]
    fraction = results["updates_to_cold_loss"]
    rows = [
        [
            "held-out loss (nats per unit)",
            *(with_interval(f"{s['val_nll']:.3f}", interval(s["val_nll_ci"], ".3f")) for s in sides),
        ],
        [
            "held-out perplexity",
            *(with_interval(f"{s['val_ppl']:.1f}", interval(s["val_ppl_ci"], ".1f")) for s in sides),
        ],
    ]
    for split in sides[0].get("by_split", {}):
        cells = [s["by_split"][split] for s in sides]
        name = f"perplexity on {split.replace('_', ' ')}"
        rows.append([name, *(with_interval(f"{c['val_ppl']:.1f}", interval(c["val_ppl_ci"], ".1f")) for c in cells)])
    if all("bits_per_second" in s for s in sides):
        rows.append(["bits per second of speech", *(f"{s['bits_per_second']:.1f}" for s in sides)])
    rows.append(["updates to cold’s final loss", "100%", "never" if fraction is None else percent(fraction, 0)])
    for name, key in (("all", None), ("seen voice", "seen_voice"), ("unseen voice", "unseen_voice")):
        cells = [results["mini_swuggy"][s] if key is None else results["mini_swuggy"][s][key] for s in ("cold", "warm")]
        if None not in cells:
            n = f"{cells[0]['n']:,} words" + (f", {cells[0]['n_pairs']:,} pairs" if "n_pairs" in cells[0] else "")
            rows.append(
                [
                    f"mini sWUGGY, {name} ({n})",
                    *(with_interval(percent(c["accuracy"]), percent_interval(c["ci"])) for c in cells),
                ]
            )
    rows.append(["mini sWUGGY, chance", "50%", "50%"])
    return [(name, cold, warm) for name, cold, warm in rows]


def _inside(folder: Path, name: str) -> Path:
    """A file of a run. What somebody else's results name elsewhere would be shown to whoever the page is mailed to.

    Raises:
        BadInput: it lies outside the folder.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadInput(f"{folder / 'results.json'} names {name!r} as a sound, which is outside of {folder}: not shown.")
    return path


def _sound(path: Path) -> str:
    """A data URI with the sound as MP3: small, and the one compressed format every browser plays."""
    clip = Clip.read(path, sample_rate=None)
    data = encoded(clip, form="MP3", subtype="MPEG_LAYER_III", name=str(path))
    return f"data:audio/mpeg;base64,{base64.b64encode(data).decode()}"
