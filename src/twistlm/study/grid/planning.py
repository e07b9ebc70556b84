"""How long a grid takes on this machine: a short trial of each size, and the runs that are finished."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twistlm.compute.precision import choose_precision, linear_shapes
from twistlm.config import GridConfig
from twistlm.corpus.stream import PackedStream
from twistlm.lm.folders import place as to_device
from twistlm.lm.warmstart import cold_start
from twistlm.study.grid import rows
from twistlm.study.grid.cells import Cell, Known, cells_at, key, losses, place, points, train_config, wanted
from twistlm.study.grid.inputs import Inputs, open_inputs
from twistlm.study.grid.rows import Row
from twistlm.study.judging import perplexity
from twistlm.study.run import subset
from twistlm.train.optim import adamw
from twistlm.train.step import take_step

_TRIAL_UNITS = 500


_FAR = 1e9  # a loss that is not the best; finite, as that of a rate that may be taken


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds an update takes, and seconds a scored unit takes."""

    update: float
    unit: float


def measure(config: GridConfig, inputs: Inputs, layers: int) -> Speed:
    """Make three updates of a cold model, the first of which is not counted, and score a few documents."""
    settings = train_config(config, Cell(arm="cold", layers=layers, amount=1, seed=0, rate=1e-6, split="validation"))
    lm = to_device(cold_start(inputs.text_lm, inputs.train.spec, seed=0, layers=layers))
    optimizer, rows = adamw(lm.model, settings), settings.batch_rows // settings.accumulate * settings.context
    precision, _ = choose_precision(settings.precision, lm.device, linear_shapes(lm.model), rows=rows)
    stream = PackedStream(inputs.train, lm.vocab, rows=settings.batch_rows, context=settings.context, seed=0)
    steps = [
        take_step(lm, optimizer, stream.batch(update), settings, update=update, precision=precision)["seconds"]
        for update in range(3)
    ]
    documents = subset(inputs.validation, units=_TRIAL_UNITS, seed=0)
    started = time.perf_counter()
    perplexity(lm, documents, context=settings.context, seed=0, n_resamples=1)
    return Speed(update=min(steps[1:]), unit=(time.perf_counter() - started) / int(documents.lengths.sum()))


def seconds(
    config: GridConfig, inputs: Inputs, cell: Cell, speeds: Mapping[int, Speed], done: Mapping[str, Row]
) -> float:
    """Return what a run takes: the mean of finished ones of its size and kind, else by the trial, loading aside.

    `done` holds the lines of this grid alone: those of other settings took other times.
    """
    like = [row["wall"] for row in done.values() if row["nll"] is not None and _alike(row["cell"], cell)]
    if like:
        return sum(like) / len(like)
    speed, train = speeds[cell.layers], config.train
    evaluations = 2 + ((train.updates - 1) // train.eval_every if train.eval_every else 0)
    scored = inputs.validation if cell.split == "validation" else inputs.curve
    units = evaluations * int(scored.lengths.sum())
    if cell.split == "test":
        units += int(inputs.test.lengths.sum()) + sum(map(len, inputs.spoken.units.values()))
    return train.updates * speed.update + units * speed.unit


def hours_left(
    config: GridConfig, inputs: Inputs, known: Known, done: Mapping[str, Row], speeds: Mapping[int, Speed]
) -> tuple[int, int, float]:
    """Return (runs finished, runs in all, hours of one process for the rest), as far as the tunings can be foreseen."""
    cells = wanted(config, foreseen(config, known))
    todo = [cell for cell in cells if key(config, cell, inputs.fingerprint) not in done]
    own = own_rows(config, inputs, known, done)
    hours = sum(seconds(config, inputs, cell, speeds, own) for cell in todo) / 3600
    return len(cells) - len(todo), len(cells), hours


def own_rows(config: GridConfig, inputs: Inputs, known: Known, done: Mapping[str, Row]) -> dict[str, Row]:
    """Return the lines of `done` that this grid asks for, and not those of other settings in the same file."""
    keys = {key(config, cell, inputs.fingerprint) for cell in wanted(config, known)}
    return {name: row for name, row in done.items() if name in keys}


def plan(config: GridConfig, *, progress: bool = False) -> dict[str, Any]:
    """Return what the grid takes on this machine, by a trial of each size and the runs that are finished.

    Returns:
        `parts`, in the order of work: what is compared, its runs, how many are finished, hours for the rest;
        `seconds`: layers -> seconds of an update and of a scored unit; `finished`, `wanted`, `hours_left`, of one
        process. Rates that a tuning may try beyond those given are not in it.
    """
    inputs = open_inputs(config, progress=progress)
    done = rows.read(config.out)
    speeds = {layers: measure(config, inputs, layers) for layers in config.layers}
    known = losses(config, inputs.fingerprint, done)
    own, expected = own_rows(config, inputs, known, done), foreseen(config, known)
    seen: set[Cell] = set()
    parts = []
    for layers, amount, arms in points(config):
        new = [c for c in dict.fromkeys(cells_at(config, layers, amount, arms, expected)) if c not in seen]
        seen |= set(new)
        todo = [cell for cell in new if key(config, cell, inputs.fingerprint) not in done]
        parts.append(
            {
                "what": f"{place(layers, amount)}: {' and '.join(arm.replace('_', ' ') for arm in arms)}",
                "tuning": sum(cell.split == "validation" for cell in new),
                "reported": sum(cell.split == "test" for cell in new),
                "finished": len(new) - len(todo),
                "hours_left": sum(seconds(config, inputs, cell, speeds, own) for cell in todo) / 3600,
            }
        )
    return {
        "parts": parts,
        "seconds": {layers: dataclasses.asdict(speed) for layers, speed in speeds.items()},
        "finished": sum(part["finished"] for part in parts),
        "wanted": len(seen),
        "hours_left": sum(part["hours_left"] for part in parts),
    }


def in_words(hours: float) -> str:
    minutes = round(60 * hours)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def foreseen(config: GridConfig, known: Known) -> Known:
    """Return `known`, but of the tuning runs that are not finished the one in the middle ends best."""

    def guess(cell: Cell) -> float | None:
        loss = known(cell)
        if loss is not None or cell.split == "test":
            return loss
        rates = getattr(config, cell.arm).rates
        return -1.0 if cell.rate == rates[len(rates) // 2] else _FAR

    return guess


def _alike(of: Mapping[str, Any], cell: Cell) -> bool:
    frozen = "frozen_body"  # computes no gradients of the body
    same = of["layers"] == cell.layers and of["split"] == cell.split
    return same and (of["arm"] == frozen) == (cell.arm == frozen)
