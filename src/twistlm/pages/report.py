"""One self-contained HTML page from the numbers of a run: nothing is loaded from anywhere, it can be mailed as it is.

The sentences are made from the numbers, and say so when warm did not win.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from twistlm.errors import BadInput, offenders
from twistlm.pages import report_sections as sections
from twistlm.pages.numbers import percent, percent_interval, with_interval
from twistlm.pages.parts import facts
from twistlm.pages.rendering import render, write
from twistlm.pages.summary import summary

REQUIRED = (
    *(f"{side}.{key}" for side in ("warm", "cold") for key in
      ("val_nll", "val_nll_ci", "val_ppl", "val_ppl_ci", "history", "lr", "updates", "seconds")),
    "updates_to_cold_loss",
    *(f"mini_swuggy.{side}.{key}" for side in ("warm", "cold") for key in
      ("accuracy", "ci", "n", "seen_voice", "unseen_voice")),
    *(f"resynthesis.{key}" for key in ("wer_original", "wer_resynth", "n", "wer_original_ci", "wer_resynth_ci")),
    "unit_spec", "seconds", "peak_rss_gb", "versions", "hardware", "speech", "config", "samples", "commands",
)  # fmt: skip

_INTERVAL = [(float, None)]
_MEAN = {"accuracy": float, "ci": _INTERVAL, "n": int}
_SIDE = {
    "val_nll": float, "val_nll_ci": _INTERVAL, "val_ppl": float, "val_ppl_ci": _INTERVAL, "lr": float, "updates": int,
    "seconds": float, "history": [{"update": int, "train_loss?": (float, None), "val_nll?": (float, None)}],
}  # fmt: skip
_WORDS = {**_MEAN, "seen_voice?": (_MEAN, None), "unseen_voice?": (_MEAN, None)}
SHAPE = {  # of results.json, see `write_report`
    "warm": _SIDE, "cold": _SIDE, "updates_to_cold_loss": (float, None),
    "mini_swuggy": {"warm": _WORDS, "cold": _WORDS},
    "resynthesis": {
        "wer_original": (float, None), "wer_resynth": (float, None), "wer_original_ci": (_INTERVAL, None),
        "wer_resynth_ci": (_INTERVAL, None), "n": int,
    },
    "samples": [{"id": str, "text": str, "prompt": str, "resynth": str, "cold": str, "warm": str}],
    "unit_spec": dict, "speech": {"source": str, "splits": {str: dict}},
    "seconds": {str: float}, "versions": {str: str},
}  # fmt: skip


def write_report(results: Mapping[str, Any], out: Path) -> Path:
    """Write the report of a run and return its path.

    `results` is the content of results.json:

    - `warm`, `cold`: `val_nll` (nats per unit), `val_nll_ci` [low, high], `val_ppl`, `val_ppl_ci`, `lr`, `updates`,
      `seconds`, and `history`: a list of `{update, train_loss?, val_nll?}` in order of update; optional
      `bits_per_second`, and `by_split`: split -> `{val_ppl, val_ppl_ci}`.
    - `val_nll_difference` (optional): `{mean, ci, p}` of warm - cold, paired over documents.
    - `updates_to_cold_loss`: updates warm needs to reach cold's final held-out loss over cold's updates; null if never.
    - `mini_swuggy`: `warm`, `cold`: `{accuracy, ci, n, n_pairs?, seen_voice, unseen_voice}`, accuracies in 0 … 1; the
      last two `{accuracy, ci, n}` or null. `n` counts words, `n_pairs` pairs.
    - `resynthesis`: `{wer_original, wer_original_ci, wer_resynth, wer_resynth_ci, n}`, error rates as fractions; n = 0
      when it was not measured.
    - `samples`: a list of `{id, text, prompt, resynth, cold, warm}`; the last four are sound files, relative to the
      report's folder; `text` (may be empty) is of the clip that the prompt begins. Optional: `resynth_text`,
      `cold_text`, `warm_text` (what a recogniser hears), and `units`: `{ids, runs}` of the prompt; the first sample
      that has them is drawn.
    - `generation` (optional, may be null): `{systems, protocol, n}`, as of `twistlm.study.saying.say`.
    - `unit_spec`: `UnitSpec.to_dict()`.
    - `speech`: `{source, splits: {name: {minutes, voices, documents, units}}}`.
    - `seconds`: stage -> seconds, and `total`. `peak_rss_gb`: number.
    - `config`, `versions`, `hardware`: anything nested, shown as it is; `config.text_lm` is named in the summary.
    - `protocol` (optional): measure -> how it was measured. `commands`: what to do next, a list of `[what, command]`.

    An interval or a number that does not exist is null or NaN and is shown as a dash.

    Args:
        results: as above.
        out: the HTML file to write.

    Raises:
        BadInput: keys are missing.
        AudioError: a sample's sound file is missing or unreadable.
    """
    check(results)
    folder = out.parent
    page = render(
        "report.html",
        summary=summary(results),
        tiles=sections.tiles(results),
        curves=sections.curves(results),
        scores=sections.scores(results),
        samples=sections.samples(results, folder),
        said=sections.said(results),
        units=sections.units(results, folder),
        resynthesis=sections.resynthesis(results),
        trained_on=sections.trained_on(results),
        protocol=facts(results.get("protocol") or {}),
        environment=sections.environment(results),
        commands=results["commands"],
        version=results["versions"].get("twistlm", ""),
    )
    return write(page, out)


def check(results: Mapping[str, Any]) -> None:
    """Raise `BadInput` naming the keys that `results` lacks."""
    missing = [path for path in REQUIRED if not _has(results, path)]
    if missing:
        raise BadInput(
            f"the results lack {len(missing)} of {len(REQUIRED)} keys: {offenders(missing)}. Was the run whole?"
        )
    for side in ("warm", "cold"):
        if not any(r.get("val_nll") is not None for r in results[side]["history"]):
            raise BadInput(f"{side}.history has no record with val_nll: there is no curve to draw.")


def print_table(results: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Print the scores as a table on `console` (the terminal by default)."""
    check(results)
    table = Table(title="warm start against cold start", caption="95% confidence intervals in brackets")
    table.add_column("")
    table.add_column("cold", justify="right", style="blue")
    table.add_column("warm", justify="right", style="yellow")
    for name, cold, warm in sections.score_rows(results):
        table.add_row(name, cold, warm)
    resynth = results["resynthesis"]
    table.add_section()
    for name, key in (("word error rate, original", "wer_original"), ("word error rate, resynthesised", "wer_resynth")):
        table.add_row(name, "", with_interval(percent(resynth[key]), percent_interval(resynth[f"{key}_ci"])))
    (console or Console(markup=False)).print(table)


def _has(results: Mapping[str, Any], path: str) -> bool:
    node: Any = results
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return False
        node = node[key]
    return True
