"""The report's sentences and formatted numbers: what may be claimed follows from the numbers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def summary(results: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return (headline, sentences), text with <b>; what they claim follows from the numbers alone."""
    warm, cold, fraction = results["warm"], results["cold"], results["updates_to_cold_loss"]
    minutes = sum(s["minutes"] for name, s in results["speech"]["splits"].items() if name.startswith("train"))
    change = warm["val_ppl"] / cold["val_ppl"] - 1
    difference = results.get("val_nll_difference")
    ends = _ends(difference["ci"]) if difference else None
    sure = ends is not None and (ends[0] > 0 or ends[1] < 0)
    won = warm["val_nll"] < cold["val_nll"]
    if ends is not None and not sure:
        headline = "In this run, warm and cold ended within noise of each other"
    elif won and fraction is not None and fraction < 1:
        headline = f"Starting from text reached the same loss in {percent(fraction, 0)} of the updates"
    elif won:
        headline = "Starting from text ended at a lower loss"
    else:
        headline = "In this run, starting from text did not win"
    text = [
        f"Two speech language models of the same shape were trained on the same {minutes:.0f} minutes of speech, with "
        "the same units in the same order. The <b class=warm>warm</b> one began with the weights of the text model "
        f"{escape(str(results['config'].get('text_lm', 'it was given')))}, the <b class=cold>cold</b> one with random "
        "weights."
    ]
    ended = f"Warm ended at a held-out perplexity of <b>{warm['val_ppl']:.1f}</b> against <b>{cold['val_ppl']:.1f}</b>"
    amount = (
        f"{abs(change) * 100:.0f}% {'lower' if change < 0 else 'higher'}" if abs(change) >= 0.005 else "no difference"
    )
    if ends is None:
        text.append(f"{ended} ({amount}).")
    elif sure:
        text.append(f"{ended} ({amount}; the difference is beyond the noise of the held-out documents).")
    else:
        text.append(f"{ended} ({amount}; no more than the noise of the held-out documents).")
    if fraction is None:
        text.append("It never reached cold’s final loss.")
    elif fraction < 1:
        text.append(f"It passed cold’s final loss after <b>{percent(fraction, 0)}</b> of cold’s updates.")
    text.append(_swuggy_sentence(results["mini_swuggy"]))
    return headline, text


def _swuggy_sentence(pairs: Mapping[str, Any]) -> str:
    warm, cold = pairs["warm"], pairs["cold"]
    scores = f"cold chose the word in {percent(cold['accuracy'])} of cases and warm in {percent(warm['accuracy'])}"
    text = f"Asked to tell spoken words from pseudo-words, {scores}"
    ends = {"cold": _ends(cold["ci"]), "warm": _ends(warm["ci"])}
    above = [name for name, ci in ends.items() if ci is not None and ci[0] > 0.5]
    if not above:
        return f"{text}: neither is clearly above chance (50%)."
    apart = sorted(ci for ci in ends.values() if ci is not None)
    if len(apart) == 2 and apart[0][1] < apart[1][0]:
        return f"{text}, a clear difference (chance is 50%)."
    who = "both are" if len(above) == 2 else f"only {above[0]} is"
    return f"{text}: {who} clearly above chance (50%), but their intervals overlap."


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


def percent(value: float | None, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}%" if value is not None and math.isfinite(value) else "–"


def interval(ci: Sequence[float | None] | None, form: str, scale: float = 1.0) -> str:
    """Return "[low, high]", or "" for an interval that does not exist."""
    ends = _ends(ci)
    return "" if ends is None else f"[{ends[0] * scale:{form}}, {ends[1] * scale:{form}}]"


def _ends(ci: Sequence[float | None] | None) -> tuple[float, float] | None:
    """Return (low, high), or None when an end is missing or not finite."""
    low, high = ci or (None, None)
    return None if low is None or high is None or not finite(low) or not finite(high) else (low, high)


def percent_interval(ci: Sequence[float | None] | None) -> str:
    return interval(ci, ".1f", 100.0)


def with_interval(value: str, ci: str) -> str:
    return f"{value} {ci}" if ci else value


def finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
