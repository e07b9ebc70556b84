"""Small SVG drawings for the report: loss curves, accuracies with intervals, a waveform with its units.

Hand-written SVG and not a plotting library: colours are the page's CSS variables, so the drawings follow dark mode, and
the text stays text. Every function returns one `<svg>` element, marked safe for templates in `_svg`, the one place
where anything is: it holds numbers, names of classes, and text that `_text` and `_tip` escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from twistlm.evaluate.stats import updates_to_reach

SIDES = ("cold", "warm")
_UNIT_WIDTH = 11.6  # px a frame: room for a rotated three-digit id


def ticks(low: float, high: float, about: int) -> list[float]:
    """Return round numbers (1, 2, 2.5 or 5 times a power of ten apart) inside low … high, near `about` of them."""
    if high <= low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / about))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if (high - low) / (step * m) <= about)
    return [round(i * step, 10) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def loss_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], *, width: int) -> Markup:
    """Draw held-out loss of both sides against updates, training loss faint behind it.

    A ring marks where warm first reaches cold's final held-out loss, if it does.

    Args:
        histories: "warm" and "cold" -> records with `update` and `val_nll` and/or `train_loss`, nats per unit.
        width: px of the drawing (text is 13 px whatever the width).
    """
    val = {s: _series(histories[s], "val_nll") for s in SIDES}
    train = {s: _series(histories[s], "train_loss") for s in SIDES}
    shown = [p for s in SIDES for p in val[s]]
    last = max([u for u, _ in shown] + [u for s in SIDES for u, _ in train[s]]) or 1.0
    top = max(v for _, v in shown)
    bottom = min(v for _, v in shown + [p for s in SIDES for p in train[s] if p[1] <= top])
    pad = 0.14 * (top - bottom) or 0.5  # a strip under the curves for the marker's words
    bottom, top = bottom - pad, top + 0.3 * pad
    height, left, right, over, under = round(min(340, 120 + width * 0.32)), 40, 52, 12, 44

    def x(update: float) -> float:
        return left + (width - left - right) * update / last

    def y(loss: float) -> float:
        return over + (height - over - under) * (top - min(loss, top)) / (top - bottom)

    out = []
    for tick in ticks(bottom, top, 5):
        out.append(_line(left, y(tick), width - right, y(tick), "grid"))
        out.append(_text(left - 8, y(tick) + 4, f"{tick:g}", "axis", "end"))
    for tick in ticks(0, last, 6 if width > 500 else 4):
        out.append(_text(x(tick), height - under + 18, f"{tick:,.0f}", "axis", "middle"))
    out.append(_text((left + width - right) / 2, height - 8, "updates", "axis", "middle"))
    for side in SIDES:
        if train[side]:
            out.append(_polyline([(x(u), y(v)) for u, v in train[side]], f"curve faint {side}"))
    goal = val["cold"][-1][1]
    reached = updates_to_reach(histories["warm"], goal)
    if reached is not None:
        out.append(_line(x(reached), y(goal), x(val["cold"][-1][0]), y(goal), "goal"))
        out.append(_line(x(reached), y(goal), x(reached), height - under, "goal"))
    for side in SIDES:
        out.append(_polyline([(x(u), y(v)) for u, v in val[side]], f"curve {side}"))
        for update, loss in val[side]:
            tip = f"{side}, update {update:g}: {loss:.3f} nats per unit"
            out.append(
                f'<circle class="dot {side}" cx="{x(update):.1f}" cy="{y(loss):.1f}" r="2.6">{_tip(tip)}</circle>'
            )
    ends = {s: y(val[s][-1][1]) for s in SIDES}
    if abs(ends["warm"] - ends["cold"]) < 16:  # push the two names apart
        middle, sign = (ends["warm"] + ends["cold"]) / 2, 1 if ends["warm"] > ends["cold"] else -1
        ends = {"warm": middle + 8 * sign, "cold": middle - 8 * sign}
    for side in SIDES:
        out.append(_text(x(val[side][-1][0]) + 8, ends[side] + 4, side, f"name {side}", "start"))
    if reached is not None:
        out.append(f'<circle class="ring" cx="{x(reached):.1f}" cy="{y(goal):.1f}" r="5.5"/>')
        from_left = x(reached) < width * 0.52
        said = f"warm is where cold ends: update {reached:.0f}" if width > 500 else f"update {reached:.0f}"
        out.append(
            _text(
                x(reached) + (8 if from_left else -8), height - under - 7, said, "note", "start" if from_left else "end"
            )
        )
    return _svg(width, height, out, "Held-out loss of the warm and the cold model against updates")


def intervals(
    rows: Sequence[tuple[str, str, float, Sequence[float]]],
    *,
    chance: float | None,
    width: int,
    names: Mapping[str, str] | None = None,
    label: str = "Accuracies with 95% intervals, and chance",
    mark: str = "chance",
    scale: float = 100.0,
    unit: str = "%",
    longest: int | None = None,
) -> Markup:
    """Draw values with their intervals as dots and whiskers, and a line for chance.

    Args:
        rows: (label, side, value, (low, high)); rows with the same label stand together.
        chance: where the vertical line stands; None draws none.
        width: px.
        names: what a side is called when pointed at; None: as it is.
        label: what the drawing shows, for those who do not see it.
        mark: what stands at the line.
        scale, unit: how values are written: times `scale`, then `unit`.
        longest: of labels, in characters; of one that has more the end is shown, and all of it when pointed at.
    """
    spans = [end for _, _, value, ci in rows for end in (value, *ci) if math.isfinite(end)]
    spans += [] if chance is None else [chance]
    low, high = min(spans) - 0.02, max(spans) + 0.02
    left, right, over, gap = (120 if width > 500 else 104), 16, 24, 20

    def x(value: float) -> float:
        return left + (width - left - right) * (value - low) / (high - low)

    out, at, before = [], float(over), ""
    marks = []
    for row, side, value, ci in rows:
        at += 10 if row != before and before else 0
        if row != before:
            name = row if longest is None or len(row) <= longest else f"…{row[1 - longest :]}"
            marks.append(_text(left - 10, at + gap + 1, name, "axis", "end"))
        before, centre = row, at + gap / 2
        called = (names or {}).get(side, side)
        shown, ends = f"{scale * value:.4g}{unit}", ", ".join(f"{scale * end:.4g}" for end in ci)
        tip = f"{row}, {called}: {shown}" + (f" [{ends}]" if math.isfinite(sum(ci)) else "")
        whisker = _line(x(ci[0]), centre, x(ci[1]), centre, f"whisker {side}") if math.isfinite(ci[0]) else ""
        marks.append(
            f'<g>{whisker}<circle class="dot {side}" cx="{x(value):.1f}" cy="{centre:.1f}" r="5"/>{_tip(tip)}</g>'
        )
        at += gap
    bottom = at + 6
    for tick in ticks(low, high, 6 if width > 500 else 4):
        out.append(_line(x(tick), over, x(tick), bottom, "grid"))
        out.append(_text(x(tick), bottom + 18, f"{scale * tick:g}{unit}", "axis", "middle"))
    if chance is not None:
        out.append(_line(x(chance), over - 6, x(chance), bottom, "chance"))
        out.append(_text(x(chance), over - 11, mark, "note", "middle"))
    return _svg(width, round(bottom + 26), out + marks, label)


def phone_map(names: Sequence[str], counts: NDArray[np.int64], *, width: int) -> Markup:
    """Draw which phones each unit is heard in: a column a unit, a row a phone, the darker the likelier.

    Units stand in the order of their commonest phones, phones in the order given, so good units draw a diagonal.
    Shares below 2 % are left white.

    Args:
        names: [P], the phones.
        counts: int64 [P, K], frames of each phone and unit; units without frames are not drawn.
        width: px.
    """
    used = counts[:, counts.sum(0) > 0]
    shares = used / used.sum(0)
    shares = shares[:, np.lexsort((-shares.max(0), shares.argmax(0)))]
    left, row = 44, 15
    step = (width - left) / shares.shape[1]
    out = [_text(left - 8, row * (i + 1) - 3, name, "axis", "end") for i, name in enumerate(names)]
    for i, j in np.argwhere(shares >= 0.02):
        out.append(
            f'<rect class="dot warm" x="{left + j * step:.1f}" y="{row * i}" width="{step:.2f}" height="{row - 1}" '
            f'fill-opacity="{shares[i, j]:.2f}"/>'
        )
    return _svg(width, row * len(names) + 2, out, "Share of each phone in the frames of each unit")


def waveform(
    samples: NDArray[np.float32],
    sample_rate: int,
    *,
    ids: Sequence[int],
    runs: Sequence[int],
    frame_rate: float,
    max_seconds: float = 6.0,
) -> Markup:
    """Draw the first `max_seconds` of a sound with its units underneath, each id in its own colour.

    The width follows the sound (11.6 px a frame), so that every id can be read; the page lets it scroll.
    """
    per_second = _UNIT_WIDTH * frame_rate
    seconds = min(len(samples) / sample_rate, max_seconds)
    width, tall, strip, over = seconds * per_second, 110, 46, 4
    peak = float(np.abs(samples).max()) or 1.0
    columns = np.array_split(samples[: round(seconds * sample_rate)], max(1, round(width / 1.5)))
    columns = [c for c in columns if len(c)]
    middle, half = over + tall / 2, tall / 2 / peak
    up = [f"{i * 1.5:.1f},{middle - max(float(c.max()) * half, 0.4):.1f}" for i, c in enumerate(columns)]
    down = [f"{i * 1.5:.1f},{middle - min(float(c.min()) * half, -0.4):.1f}" for i, c in enumerate(columns)]
    out = [f'<path class="wave" d="M{" L".join(up + down[::-1])} Z"/>']
    start, top = 0, over + tall + 6
    for unit, run in zip(ids, runs, strict=True):
        begin, end = start / frame_rate, min((start + run) / frame_rate, seconds)
        start += run
        if begin >= seconds:
            break
        x, w = begin * per_second, (end - begin) * per_second
        hue = round(unit * 137.508) % 360  # the golden angle: neighbouring ids look different
        tip = f"unit {unit}: {begin:.2f} to {end:.2f} s"
        label = (
            _text(x + w / 2, top + strip / 2 + 4, str(unit), "unit", "middle")
            if w >= 26
            else f'<text class="unit" text-anchor="middle" '
            f'transform="translate({x + w / 2 + 3.6:.1f} {top + strip / 2})'
            f' rotate(-90)">{escape(str(unit))}</text>'
        )
        out.append(
            f'<g><rect x="{x:.1f}" y="{top}" width="{max(w - 1, 0.5):.1f}" height="{strip}" rx="2"'
            f' style="--hue:{hue}" class="unit"/>{label}{_tip(tip)}</g>'
        )
    floor = top + strip
    for i in range(math.floor(seconds * 2 + 1e-9) + 1):
        t = i / 2
        out.append(_line(t * per_second, floor + 3, t * per_second, floor + 9, "grid"))
        anchor = "start" if i == 0 else "end" if t * per_second > width - 20 else "middle"
        out.append(_text(t * per_second, floor + 23, f"{t:g} s", "axis", anchor))
    return _svg(width, floor + 28, out, "Waveform of the prompt with its units under it", fixed=True)


def _series(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(update, value) where the record has the key and a finite value."""
    pairs = [(float(r["update"]), r.get(key)) for r in history]
    return [(update, float(value)) for update, value in pairs if value is not None and math.isfinite(value)]


def _svg(width: float, height: float, parts: Sequence[str], label: str, *, fixed: bool = False) -> Markup:
    style = f' style="width:{width:.0f}px;max-width:none"' if fixed else ""
    return Markup(
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}"{style}>'
        + "".join(parts)
        + "</svg>"
    )


def _tip(words: str) -> str:
    """What is shown when the element around it is pointed at."""
    return f"<title>{escape(words)}</title>"


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _polyline(points: Sequence[tuple[float, float]], css: str) -> str:
    return f'<polyline class="{css}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def _text(x: float, y: float, words: str, css: str, anchor: str) -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
