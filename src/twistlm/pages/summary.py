"""What a quickstart may be said to have shown: it follows from the numbers alone. `templates/report.html` says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twistlm.pages.numbers import ends, percent

Values = dict[str, Any]


def summary(results: Mapping[str, Any]) -> Values:
    """Return what the head of the report is made of, as text.

    - `headline`: what was found.
    - `minutes` of speech for training; `text_lm`; `warm` and `cold`: held-out perplexities; `amount`: how far apart.
    - `noise`: whether the difference is "beyond" or "within" the noise of the held-out documents; "" when not known.
    - `reached`: the share of cold's updates after which warm has cold's loss; "never"; "" where it took as many.
    - `pairs`: what the scores on spoken words and pseudo-words say.
    """
    warm, cold, fraction = results["warm"], results["cold"], results["updates_to_cold_loss"]
    minutes = sum(s["minutes"] for name, s in results["speech"]["splits"].items() if name.startswith("train"))
    change = warm["val_ppl"] / cold["val_ppl"] - 1
    difference = results.get("val_nll_difference")
    found = ends(difference["ci"]) if difference else None
    noise = "" if found is None else "beyond" if found[0] > 0 or found[1] < 0 else "within"
    won = warm["val_nll"] < cold["val_nll"]
    if noise == "within":
        headline = "In this run, warm and cold ended within noise of each other"
    elif won and fraction is not None and fraction < 1:
        headline = f"Starting from text reached the same loss in {percent(fraction, 0)} of the updates"
    elif won:
        headline = "Starting from text ended at a lower loss"
    else:
        headline = "In this run, starting from text did not win"
    direction = "lower" if change < 0 else "higher"
    return {
        "headline": headline,
        "minutes": f"{minutes:.0f}",
        "text_lm": str(results["config"].get("text_lm", "it was given")),
        "warm": f"{warm['val_ppl']:.1f}",
        "cold": f"{cold['val_ppl']:.1f}",
        "amount": f"{abs(change) * 100:.0f}% {direction}" if abs(change) >= 0.005 else "no difference",
        "noise": noise,
        "reached": "never" if fraction is None else percent(fraction, 0) if fraction < 1 else "",
        "pairs": _pairs(results["mini_swuggy"]),
    }


def _pairs(pairs: Mapping[str, Any]) -> str:
    warm, cold = pairs["warm"], pairs["cold"]
    scores = f"cold chose the word in {percent(cold['accuracy'])} of cases and warm in {percent(warm['accuracy'])}"
    text = f"Asked to tell spoken words from pseudo-words, {scores}"
    found = {"cold": ends(cold["ci"]), "warm": ends(warm["ci"])}
    above = [name for name, ci in found.items() if ci is not None and ci[0] > 0.5]
    if not above:
        return f"{text}: neither is clearly above chance (50%)."
    apart = sorted(ci for ci in found.values() if ci is not None)
    if len(apart) == 2 and apart[0][1] < apart[1][0]:
        return f"{text}, a clear difference (chance is 50%)."
    who = "both are" if len(above) == 2 else f"only {above[0]} is"
    return f"{text}: {who} clearly above chance (50%), but their intervals overlap."
