"""Which training runs a grid holds, the most telling first, and how learning rates are chosen.

A run is a `Cell`. Which cells are wanted depends on how those of the tuning ended, so `wanted` is asked again after
every one: it knows no state but the losses.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from twistlm.config import ArmConfig, GridConfig, Rows, TrainConfig
from twistlm.lm.likeness import cold_rows
from twistlm.study.keys import digest, moving

Arm = Literal[
    "warm", "cold", "shuffled", "frozen_body", "random_rows", "covariance_rows", "mean_rows", "first_rows", "tied_warm",
    "tied_cold",
]  # fmt: skip
SIDES: tuple[Arm, Arm] = ("warm", "cold")
COLD: tuple[Arm, ...] = ("cold", "tied_cold")  # those that have only the text LM's shape
ABLATIONS: tuple[Arm, ...] = get_args(Arm)[2:]
ROWS: dict[Arm, Rows] = {
    "random_rows": "random",
    "covariance_rows": "covariance",
    "mean_rows": "mean",
    "first_rows": "first-rows",
}

PROTOCOL = 1  # changes when a run of the same settings would give other numbers


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run.

    Attributes:
        arm: how it begins.
        layers: its size.
        amount: share of the training documents, 0 … 1.
        seed: of the new weights, the choice and the order of the documents.
        rate: the highest learning rate.
        split: the run is for tuning, and scored on "validation", or reported, and scored on "test".
    """

    arm: Arm
    layers: int
    amount: float
    seed: int
    rate: float
    split: Literal["validation", "test"]

    def __str__(self) -> str:
        kind = "tuning, seed" if self.split == "validation" else "seed"
        return (
            f"{place(self.layers, self.amount)}, {self.arm.replace('_', ' ')}, rate {self.rate:g}, {kind} {self.seed}"
        )


# What a finished tuning run ended at: nats per unit, inf when it diverged; None while it is not finished.
Known = Callable[[Cell], float | None]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How the rate of an arm was chosen; `rate` is None until all runs are done.

    Attributes:
        cells: one a seed for each rate, rates ascending.
        rate: the lowest one within `GridConfig.noise` of the best, see `GridConfig.choose_by`; None when
            each diverged at some seed.
        at_edge: the best, or the one that is taken, is the lowest or highest tried, although there are others.
    """

    cells: tuple[Cell, ...]
    rate: float | None
    at_edge: bool


def place(layers: int, amount: float) -> str:
    return f"{layers} layers, {100 * amount:g} %"


def wanted(config: GridConfig, known: Known) -> list[Cell]:
    """Return every cell that is wanted as far as is known, each once, the most telling first."""
    found = (cell for point in points(config) for cell in cells_at(config, *point, known))
    return list(dict.fromkeys(found))


def points(config: GridConfig) -> Iterator[tuple[int, float, tuple[Arm, ...]]]:
    """Yield (layers, amount, arms compared there): both sides, the ablations, smaller amounts, smaller sizes."""
    first = (config.layers[0], config.amounts[0])
    yield *first, SIDES
    for arm in ABLATIONS:
        if arm not in config.cut and ROWS.get(arm) != config.rows:
            yield *first, (arm,)
    for layers, amount in itertools.product(config.layers, config.amounts):
        if (layers, amount) != first and f"{layers}x{amount:g}" not in config.cut:
            yield layers, amount, SIDES


def cells_at(config: GridConfig, layers: int, amount: float, arms: Sequence[Arm], known: Known) -> Iterator[Cell]:
    """Yield the runs of a point: those of the tunings, and where a rate is chosen, those that are reported."""
    tunings = {arm: tune(config, arm, layers, amount, known) for arm in arms}
    for tuning in tunings.values():
        yield from tuning.cells
    for seed in config.seeds:
        for arm, tuning in tunings.items():
            if tuning.rate is not None:
                yield Cell(arm=arm, layers=layers, amount=amount, seed=seed, rate=tuning.rate, split="test")


def tune(config: GridConfig, arm: Arm, layers: int, amount: float, known: Known) -> Tuning:
    """Return the tuning of an arm as far as it is known.

    An arm without rates of its own has warm's. While the best rate is the lowest or highest tried, the next one beyond
    it is wanted too, up to `config.most_rates`. Best is the lowest mean or worst loss over the tuning seeds; which rate
    is then taken (the lowest within `config.noise` of it, by "worst-with-next" of the worse of it and the next higher)
    may be a lower one, and the lowest tried: beyond that no further one is tried, and `at_edge` says so.
    """
    arm = arm if of(config, arm).rates else "warm"
    amount = amount if config.tune_each_amount else config.amounts[0]
    rates = list(of(config, arm).rates)
    if len(rates) == 1:
        return Tuning(cells=(), rate=rates[0], at_edge=False)
    factor = rates[1] / rates[0]
    while True:
        cells = tuple(
            Cell(arm=arm, layers=layers, amount=amount, seed=seed, rate=rate, split="validation")
            for rate in rates
            for seed in config.tuning_seeds
        )
        losses = [known(cell) for cell in cells]
        done = [loss for loss in losses if loss is not None]
        if len(done) < len(losses):
            return Tuning(cells=cells, rate=None, at_edge=False)
        n_seeds = len(config.tuning_seeds)
        by_rate = [done[i : i + n_seeds] for i in range(0, len(done), n_seeds)]
        done = [sum(of_rate) / n_seeds if config.choose_by == "mean" else max(of_rate) for of_rate in by_rate]
        best = done.index(min(done))
        lowest, highest = best == 0, best == len(rates) - 1
        if len(rates) >= config.most_rates or not (lowest or highest):
            if config.choose_by == "worst-with-next":
                done = [max(pair) for pair in itertools.pairwise([*done, done[-1]])]
            taken = next(i for i, loss in enumerate(done) if loss <= min(done) + config.noise)
            found = rates[taken] if math.isfinite(done[taken]) else None
            at_edge = lowest or highest or taken in (0, len(rates) - 1)
            return Tuning(cells=cells, rate=found, at_edge=at_edge)
        rates = [_rounded(rates[0] / factor), *rates] if lowest else [*rates, _rounded(rates[-1] * factor)]


def of(config: GridConfig, arm: Arm) -> ArmConfig:
    return getattr(config, arm)


def new_rows(config: GridConfig, cell: Cell) -> Rows:
    """Return how a cell's unit rows begin."""
    return cold_rows(config.rows) if cell.arm in COLD else ROWS.get(cell.arm, config.rows)


def train_config(config: GridConfig, cell: Cell) -> TrainConfig:
    """Return the training run of a cell."""
    own = of(config, cell.arm)
    return dataclasses.replace(
        config.train,
        lr=cell.rate,
        lr_floor=cell.rate * config.train.lr_floor / config.train.lr,
        table_rate=own.table_rate,
        warmup=own.warmup,
        clip_norm=own.clip_norm,
        seed=cell.seed,
    )


def key(config: GridConfig, cell: Cell, inputs: str) -> str:
    """Return 16 hex digits over everything the result of a cell depends on.

    Args:
        config, cell: its settings.
        inputs: fingerprint of the documents, the text LM and the suite, see `running.Inputs`.
    """
    own = of(config, cell.arm)
    rows = new_rows(config, cell)
    as_it_was = (own.head, own.head_start) == ("as-is", "rows")
    made_from = {
        **({} if as_it_was else {"head": [own.head, own.head_start]}),
        "protocol": PROTOCOL,
        "cell": dataclasses.asdict(cell),
        "rows": None if cell.arm in COLD and rows == "random" else rows,
        "train": moving(train_config(config, cell)),
        "inputs": inputs,
    }
    return digest(made_from)


def losses(config: GridConfig, inputs: str, done: Mapping[str, Any]) -> Known:
    """Return what finished cells ended at, by the lines of study.jsonl; inf where the run diverged."""

    def known(cell: Cell) -> float | None:
        row = done.get(key(config, cell, inputs))
        return None if row is None else math.inf if row["nll"] is None else row["nll"]

    return known


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
