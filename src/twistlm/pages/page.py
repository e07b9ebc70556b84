"""The report's sections, each a string of HTML made from the results (see `twistlm.pages.report` for their layout), and
what stands around them on every page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import soundfile

from twistlm.audio.clip import Clip
from twistlm.pages import plots
from twistlm.pages.words import duration, finite, interval, percent, percent_interval, score_rows, summary
from twistlm.types import UnitSpec


def document(title: str, sections: Sequence[str], *, footer: str) -> str:
    """Return a whole page of HTML in the report's style; empty sections are left out.

    Args:
        title, footer: text, escaped here.
        sections: HTML.
    """
    css = files("twistlm.pages").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, sections))
        + f"\n<footer>{escape(footer)}</footer>\n</main>\n</body>\n</html>\n"
    )


def head(results: Mapping[str, Any]) -> str:
    headline, sentences = summary(results)
    warm, cold, pairs, resynth = results["warm"], results["cold"], results["mini_swuggy"], results["resynthesis"]
    fraction = results["updates_to_cold_loss"]
    tiles = [
        ("Held-out perplexity", [("cold", f"{cold['val_ppl']:.1f}"), ("warm", f"{warm['val_ppl']:.1f}")]),
        (
            "Updates to cold’s final loss",
            [("cold", "100%"), ("warm", "never" if fraction is None else percent(fraction, 0))],
        ),
        ("Mini sWUGGY, chance 50%", [(s, percent(pairs[s]["accuracy"])) for s in ("cold", "warm")]),
        (
            "Word error rate",
            [("original", percent(resynth["wer_original"], 0)), ("resynth.", percent(resynth["wer_resynth"], 0))],
        ),
    ]
    boxes = "".join(
        f"<div><h3>{title}</h3>"
        + "".join(f"<p><b class={name.strip('.')}>{name}</b><strong>{value}</strong></p>" for name, value in lines)
        + "</div>"
        for title, lines in tiles
    )
    lead = f'<p class="lead">{sentences[0]}</p>\n<p class="lead">{" ".join(sentences[1:])}</p>'
    return f'<p class="brand">twistlm</p>\n<h1>{headline}</h1>\n{lead}\n<div class="tiles">{boxes}</div>'


def curves(results: Mapping[str, Any]) -> str:
    histories = {side: results[side]["history"] for side in ("warm", "cold")}
    drawn = both_widths(lambda width: plots.loss_curves(histories, width=width), wide=900)
    faint = any(r.get("train_loss") is not None for h in histories.values() for r in h)
    fraction = results["updates_to_cold_loss"]
    mark = "Warm did not reach cold’s final loss." if fraction is None else (
        "The ring marks where warm reaches the loss that cold ends with."
    )  # fmt: skip
    return (
        f'<h2>Learning curves</h2>\n<figure><div class="card">{drawn}</div>'
        f"<figcaption>Held-out loss in nats per unit. {mark}{' Faint: training loss.' if faint else ''} "
        f"Peak learning rates: cold {results['cold']['lr']:g}, warm {results['warm']['lr']:g}.</figcaption></figure>"
    )


def scores(results: Mapping[str, Any]) -> str:
    body = "".join(
        f"<tr><th scope=row>{_small(name)}</th><td>{_small(cold, after='[')}</td>"
        f"<td>{_small(warm, after='[')}</td></tr>"
        for name, cold, warm in score_rows(results)
    )
    rows = []
    for label, key in (("all voices", None), ("seen voice", "seen_voice"), ("unseen voice", "unseen_voice")):
        for side in ("cold", "warm"):
            cell = results["mini_swuggy"][side] if key is None else results["mini_swuggy"][side][key]
            if cell is not None and finite(cell["accuracy"]):
                ci = cell["ci"] if interval(cell["ci"], "g") else (math.nan, math.nan)
                rows.append((label, side, cell["accuracy"], ci))
    drawn = both_widths(lambda width: plots.intervals(rows, chance=0.5, width=width), wide=900)
    return (
        "<h2>Scores</h2>\n<div class=scroll><table><thead><tr><th></th><th class=cold scope=col>cold</th>"
        f"<th class=warm scope=col>warm</th></tr></thead><tbody>{body}</tbody></table></div>\n"
        '<p class="note">In brackets: 95% confidence intervals.</p>\n'
        f'<figure><div class="card">{drawn}</div><figcaption>Mini sWUGGY: how often the model finds a spoken '
        "word likelier than a pseudo-word made to sound like one. Whiskers are 95% intervals; guessing gives 50%."
        "</figcaption></figure>"
    )


def listen(results: Mapping[str, Any], folder: Path) -> str:
    if not results["samples"]:
        return ""
    columns = (
        ("prompt", "Prompt", ""),
        ("resynth", "Prompt, from its units", ""),
        ("cold", "Cold continues", "cold"),
        ("warm", "Warm continues", "warm"),
    )
    out = ["<h2>Listen</h2>\n<p>The first seconds of held-out clips, the same spoken again from nothing but their "
           "units, and what each model says next. Sampled with a fixed seed, not selected.</p>"]  # fmt: skip
    for sample in results["samples"]:
        players = []
        for key, title, css in columns:
            heard = sample.get(f"{key}_text")
            line = "" if heard is None else f'<p class="heard">Whisper hears: {_e(heard) or "nothing"}</p>'
            label = _e(f"{title}: {sample['id']}")
            players.append(
                f"<div><h3 class='{css}'>{title}</h3><audio controls preload=metadata aria-label='{label}' "
                f'src="{_audio(folder / sample[key])}"></audio>{line}</div>'
            )
        out.append(
            f'<div class="sample"><blockquote>{_e(sample["text"] or sample["id"])}</blockquote>'
            f'<div class="players">{"".join(players)}</div></div>'
        )
    return "\n".join(out)


def units(results: Mapping[str, Any], folder: Path) -> str:
    sample = next((s for s in results["samples"] if s.get("units")), None)
    spec = UnitSpec.from_dict(results["unit_spec"])
    facts = _list({**spec.to_dict(), "frame_rate": f"{float(spec.frame_rate):g} Hz", "fingerprint": spec.fingerprint})
    details = f"<details><summary>The unit specification, fingerprint {spec.fingerprint}</summary>{facts}</details>"
    if sample is None:
        return f"<h2>Units</h2>\n{details}"
    clip = Clip.read(folder / sample["prompt"], sample_rate=None)
    drawn = plots.waveform(
        clip.samples, clip.sample_rate, frame_rate=float(spec.frame_rate),
        ids=sample["units"]["ids"], runs=sample["units"]["runs"],
    )  # fmt: skip
    merged = (
        " Neighbouring frames with the same unit are one unit; its width is how long it lasts."
        if spec.deduplicate
        else ""
    )
    return (
        f'<h2>What the models see</h2>\n<figure><div class="card scroll">{drawn}</div><figcaption>'
        f"The first prompt, cut into {float(spec.frame_rate):g} frames a second, each the nearest of "
        f"{spec.n_units} units.{merged}</figcaption></figure>\n"
        f"{details}"
    )


def resynthesis(results: Mapping[str, Any]) -> str:
    cell = results["resynthesis"]
    if not cell["n"]:
        return "<h2>How much speech the units keep</h2>\n<p>Not measured: no held-out clip had a transcript.</p>"
    rows = "".join(
        f"<tr><th scope=row>{name}</th>"
        f"<td>{percent(cell[key])}<small>{percent_interval(cell[f'{key}_ci'])}</small></td></tr>"
        for name, key in (("original recordings", "wer_original"), ("spoken again from their units", "wer_resynth"))
    )
    return (
        f"<h2>How much speech the units keep</h2>\n<p>{cell['n']} held-out clips, transcribed by a "
        "recogniser before and after they went through units and vocoder.</p>\n"
        f"<table class=short><thead><tr><th></th><th>word error rate</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def trained_on(results: Mapping[str, Any]) -> str:
    speech = results["speech"]
    rows = "".join(
        f"<tr><th scope=row>{_e(name.replace('_', ' '))}</th><td>{s['minutes']:,.1f}</td><td>{s['voices']:,}</td>"
        f"<td>{s['documents']:,}</td><td>{s['units']:,}</td>"
        f"<td>{s['units'] / (60 * s['minutes']):.1f}</td></tr>"
        if s["minutes"] > 0
        else f"<tr><th scope=row>{_e(name)}</th><td>0</td><td>0</td><td>0</td><td>0</td><td>–</td></tr>"
        for name, s in speech["splits"].items()
    )
    return (
        f"<h2>What it was trained on</h2>\n<p>{_e(speech.get('source', ''))}</p>\n"
        "<div class=scroll><table><thead><tr><th></th><th>minutes</th><th>voices</th>"
        "<th>clips</th><th>units</th><th>units/s</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def measured(results: Mapping[str, Any]) -> str:
    protocol = results.get("protocol")
    return f"<h2>How it was measured</h2>\n{_list(protocol)}" if protocol else ""


def environment(results: Mapping[str, Any]) -> str:
    seconds = results["seconds"]
    stages = {name: value for name, value in seconds.items() if name != "total"}
    total = seconds.get("total", sum(stages.values()))
    longest = max(stages.values(), default=0) or 1
    rows = "".join(
        f"<tr><td>{_e(name.replace('_', ' '))}</td>"
        f"<td><span class=bar style='width:{100 * value / longest:.1f}%'></span></td>"
        f"<td>{duration(value)}</td></tr>"
        for name, value in stages.items()
    )
    return (
        f"<h2>Time, machine, versions</h2>\n<p>{duration(total)} in all, "
        f"at most {results['peak_rss_gb']:.1f} GB of memory.</p>\n"
        f"<table class=times><tbody>{rows}</tbody></table>\n"
        f"<div class=two><div><h3>Hardware</h3>{_list(results['hardware'])}</div>"
        f"<div><h3>Versions</h3>{_list(results['versions'])}</div></div>\n"
        f"<details><summary>The whole configuration</summary>{_list(results['config'])}</details>"
    )


def go_on(results: Mapping[str, Any]) -> str:
    lines = (f"<p class=say>{_e(what)}</p><pre>{_e(command)}</pre>" for what, command in results["commands"])
    return f"<h2>Go on</h2>\n{''.join(lines)}"


def both_widths(draw: Callable[[int], str], *, wide: int) -> str:
    """The drawing for a desk and for a phone: SVG text shrinks with its drawing, so one size cannot serve both."""
    return f'<div class="wide">{draw(wide)}</div><div class="narrow">{draw(340)}</div>'


def _audio(path: Path) -> str:
    """A data URI with the sound as MP3: small, and the one compressed format every browser plays."""
    clip = Clip.read(path, sample_rate=None)
    buffer = io.BytesIO()
    soundfile.write(buffer, clip.samples, clip.sample_rate, format="MP3")
    return f"data:audio/mpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _list(facts: Mapping[str, Any]) -> str:
    return "<dl>" + "".join(f"<dt>{_e(k)}</dt><dd>{_e(v)}</dd>" for k, v in _flat(facts)) + "</dl>"


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
            flat.append((f"{prefix}{key}", f"{shown:g}" if isinstance(shown, float) else shown))
    return flat


def _small(text: str, *, after: str = "(") -> str:
    """Put what follows the first bracket on a small second line."""
    main, bracket, rest = text.partition(f" {after}")
    return f"{_e(main)}<small>{_e(after + rest)}</small>" if bracket else _e(main)


def _e(value: Any) -> str:
    return escape(str(value))
