"""What every stage can be told: frozen dataclasses, checked when made. Only TOML files and `--set` change them.

A configuration is complete: a recipe (`twistlm.recipes`) returns every field with a value; a TOML file names a recipe
as its `base` and holds only what differs from it.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import itertools
import json
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from twistlm.errors import BadInput, ConfigError
from twistlm.files.jsonl import parse_toml, read_toml

# How the units' rows begin, see `warm_start`; of a cold model, see `cold_start`.
Rows = Literal["random", "mean", "covariance", "first-rows", "centroids", "neighbours"]
Head = Literal["as-is", "own"]  # whether the output is the embedding where the text LM has it so, see `warm_start`
HeadStart = Literal["rows", "zero", "fitted"]  # how the output layer begins, see `lm.heads`


@functools.cache  # a study makes thousands of configurations, and each annotation is compiled anew
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


class _Checked:
    """Checks each field's type, then the class's own ranges. An int given for a float becomes one, a list a tuple."""

    __slots__ = ()

    def __post_init__(self) -> None:
        kind: type = type(self)
        hints = _hints(kind)
        for name in hints:
            object.__setattr__(self, name, _coerce(getattr(self, name), hints[name], name))
        self._check()

    def _check(self) -> None:
        """Raise ConfigError for values out of range."""

    def _at_least(self, low: float, *names: str) -> None:
        for name in names:
            if getattr(self, name) < low:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be at least {low}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(_Checked):
    """One training run of a unit language model.

    Attributes:
        updates: how many optimiser steps.
        batch_rows: B, rows of a batch.
        accumulate: the batch is computed in so many equal parts, whose gradients add up to that of the whole; more
            parts need less memory for activations, and give the same update up to float rounding (where the model has
            dropout, another draw of it). Must divide `batch_rows`; 1 computes the batch at once.
        context: T, tokens of a row; documents are packed into rows and do not see each other.
        lr: the highest learning rate, reached after the warm-up.
        table_rate: the embedding and the output layer, which are new, learn at this multiple of the rate.
        lr_floor: the lowest learning rate after the warm-up.
        schedule: how the rate falls: `"inverse_sqrt"` of the update, or half a `"cosine"` that ends at the floor, or
            `"wsd"` (warm-up, stable, decay): not before the last fifth of the updates. The state where that begins is
            kept in the run's `stable/`, and longer runs go on from there (`twist train --fork`).
        warmup: updates during which the rate rises linearly.
        weight_decay: of AdamW; weight matrices and embeddings only, not norms and biases.
        betas: of AdamW.
        clip_norm: the gradient is scaled down to this norm when it is larger.
        max_loss_rise: training stops before an update whose loss is this many nats above the median of the 50 before
            it; 0 never stops for that. A run that stopped may go on with another value: it moves no number.
        checkpoint_activations: compute each layer's inner activations again when its gradient is, instead of keeping
            them: about a third more work for a fraction of their memory, the same numbers.
        compile: run layers through torch.compile: faster updates after a first one that takes half a minute longer, and
            the same numbers up to rounding. For runs of more than a few minutes. A CPU needs a C++ compiler.
        precision: `"float32"`, `"bf16"` (autocast; weights and optimiser stay float32), or `"auto"`: bf16 where the
            device computes it faster than float32; on a CPU both are timed on the model's shapes. The choice and the
            times are written in the run's config.json, and a resumed run keeps it.
        eval_every: updates between two evaluations; one is always made before the first update and after the last.
            0 makes only those two.
        checkpoint_every: updates between two checkpoints, each three times the model's size on disk. 0 writes none
            (an interrupt still does).
        seed: of the order of documents, and of dropout where the model has any.
        sharing: what each of several ranks holds: the `"whole"` model, whose gradients are added up, or `"slices"` of
            it (FSDP2) that are put together layer by layer, travelling in float32, or as bf16 where products are bf16
            (`"slices-bf16"`: gradients are still added up in float32; norms and biases inside layers are rounded on the
            way, all else is as before). `"auto"`: on GPUs whole while 16 bytes a parameter fit in half of one's memory,
            else slices-bf16 where products are bf16; on CPUs slices. What it came to is in the run's config.json. One
            process alone holds the whole model.
        deterministic: on a GPU, only kernels that give the same bits each time, so that a resumed run is the run that
            was not stopped, bit for bit, as it always is on a CPU. What it costs has not been measured.
    """

    updates: int
    batch_rows: int
    accumulate: int
    context: int
    lr: float
    table_rate: float
    lr_floor: float
    schedule: Literal["inverse_sqrt", "cosine", "wsd"]
    warmup: int
    weight_decay: float
    betas: tuple[float, float]
    clip_norm: float
    max_loss_rise: float
    checkpoint_activations: bool
    compile: bool
    precision: Literal["float32", "bf16", "auto"]
    eval_every: int
    checkpoint_every: int
    seed: int
    # What comes later has a default that means what was done before it came: the keys of finished runs rest on that.
    sharing: Literal["auto", "whole", "slices", "slices-bf16"] = "auto"
    deterministic: bool = False

    def _check(self) -> None:
        self._at_least(1, "updates", "batch_rows", "accumulate")
        if self.batch_rows % self.accumulate:
            raise ConfigError(
                f"accumulate is {self.accumulate}; it must divide batch_rows, which is {self.batch_rows}."
            )
        self._at_least(2, "context")
        self._at_least(
            0, "warmup", "weight_decay", "lr_floor", "max_loss_rise", "eval_every", "checkpoint_every", "seed"
        )
        for name in ("lr", "table_rate", "clip_norm"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be above 0.")
        if self.lr_floor > self.lr:
            raise ConfigError(f"lr_floor is {self.lr_floor!r}, above lr, which is {self.lr!r}; lower it as well.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas is {self.betas!r}; both must be at least 0 and below 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PairConfig(_Checked):
    """A warm run and its cold twin.

    Attributes:
        text_lm: name or folder of the text LM; of the cold run it gives the shape.
        rows: how the units' rows begin, see `warm_start`; of the cold model, see `cold_start`.
        head, head_start: of both models' output layers, see `warm_start`.
        warm, cold: the two training runs; they differ in rates, warm-up and clipping only, if that is to be fair.
    """

    text_lm: str
    rows: Rows
    head: Head
    head_start: HeadStart
    warm: TrainConfig
    cold: TrainConfig

    def _check(self) -> None:
        if not self.text_lm:
            raise ConfigError("text_lm is empty.")


@dataclass(frozen=True, kw_only=True, slots=True)
class QuickstartConfig(_Checked):
    """The whole loop: units, a warm and a cold model, their evaluation, continuations, a report.

    Attributes:
        speech: folder with speech files, or `"bundled"`.
        tokenizer, text_lm, vocoder: artifact names or folders.
        rows: how the units' rows begin, see `warm_start`; of the cold model, see `cold_start`.
        head, head_start: of both models' output layers, see `warm_start`.
        warm, cold: the two training runs; they differ in rates, warm-up and clipping only, if that is to be fair.
        seed: of the new weights and of sampling.
        n_resynth: held-out clips that are spoken again and transcribed; 0 for none.
        out: folder for everything the run makes.
    """

    speech: str
    tokenizer: str
    text_lm: str
    vocoder: str
    rows: Rows
    head: Head
    head_start: HeadStart
    warm: TrainConfig
    cold: TrainConfig
    seed: int
    n_resynth: int
    out: str

    def _check(self) -> None:
        self._at_least(0, "seed", "n_resynth")
        for name in ("speech", "tokenizer", "text_lm", "vocoder", "out"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmConfig(_Checked):
    """What is an arm's own in a grid: its learning rate is tuned, all else is given.

    Attributes:
        rates: tried on the tuning seed, each the same factor above the one before; while the best is at an edge, the
            next one beyond it is tried too. A single one is taken as it is; none takes what warm's tuning found.
        warmup, clip_norm, table_rate: as of `TrainConfig`.
        head, head_start: of the output layer, see `warm_start`.
    """

    rates: tuple[float, ...]
    warmup: int
    clip_norm: float
    table_rate: float
    head: Head
    head_start: HeadStart

    def _check(self) -> None:
        self._at_least(0, "warmup")
        if self.clip_norm <= 0 or self.table_rate <= 0 or any(rate <= 0 for rate in self.rates):
            raise ConfigError(
                f"rates is {self.rates!r}, table_rate {self.table_rate!r} and clip_norm {self.clip_norm!r}; they must "
                "be above 0."
            )
        steps = [high / low for low, high in itertools.pairwise(self.rates)]
        if any(not (step > 1 and math.isclose(step, steps[0], rel_tol=0.05)) for step in steps):
            raise ConfigError(f"rates is {self.rates!r}; each must be the same factor above the one before.")


@dataclass(frozen=True, kw_only=True, slots=True)
class GridConfig(_Checked):
    """Warm against cold over sizes and amounts of data, and ablations at the first size and amount.

    Attributes:
        text_lm, tokenizer: artifact names or folders.
        units: folder of units; its split "train" is trained on, but for the documents of the validation.
        heldout: folder of units whose other splits are the test; it may be the same.
        rows: how the units' rows begin, see `warm_start`; of warm, shuffled, frozen_body and the tied arms, and as far
            as a cold model can have them (`cold_start`) of cold.
        layers: sizes: the first so many layers of the text LM. The first one is the most telling, and goes first.
        amounts: shares of the training documents, nested in each other, 0 … 1. Likewise.
        seeds: of the new weights, the order and the choice of the documents; reported.
        tuning_seeds: the same for tuning, a run each for every rate; none of `seeds`. With one alone, a rate that
            diverges at every third seed may look best.
        choose_by: what a rate is judged by: the "mean" of the losses over the tuning seeds, the "worst" of them, or the
            "worst-with-next" of them and of those at the next higher rate, so that none is taken beside one that fails.
        noise: the lowest rate is taken that ended within so many nats a unit of the best.
        most_rates: how many rates a side may try.
        tune_each_amount: tune for each amount of data, or at the first one only.
        validation_units: about how many units of training documents are held back; rates are chosen on them.
        curve_units: about how many units of the test are scored at every evaluation.
        test_units: about how many units of the test the final numbers are over; 0 takes all.
        cut: what is left out: "12x0.1" for 12 layers and a tenth of the data, or an ablation's name.
        train: what all runs share; `lr`, `warmup`, `clip_norm` and `seed` are the cell's, `lr_floor` follows `lr`.
        warm, cold: the two sides: the text LM's weights under new rows, and its shape with random weights.
        shuffled: warm, with the values of each kept tensor permuted inside it.
        frozen_body: warm, where only the tables train.
        random_rows, covariance_rows, mean_rows, first_rows: warm, with other new rows than `rows`; the one that is the
            same is no run of its own.
        tied_warm, tied_cold: the two sides as the text LM has its head, that is with the settings of these arms.
        out: folder of the study.
    """

    text_lm: str
    tokenizer: str
    units: str
    heldout: str
    rows: Rows
    layers: tuple[int, ...]
    amounts: tuple[float, ...]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    choose_by: Literal["worst-with-next", "worst", "mean"]
    noise: float
    most_rates: int
    tune_each_amount: bool
    validation_units: int
    curve_units: int
    test_units: int
    cut: tuple[str, ...]
    train: TrainConfig
    warm: ArmConfig
    cold: ArmConfig
    shuffled: ArmConfig
    frozen_body: ArmConfig
    random_rows: ArmConfig
    covariance_rows: ArmConfig
    mean_rows: ArmConfig
    first_rows: ArmConfig
    tied_warm: ArmConfig
    tied_cold: ArmConfig
    out: str

    def _check(self) -> None:
        lists = ("layers", "amounts", "seeds", "tuning_seeds")
        for name in ("text_lm", "tokenizer", "units", "heldout", "out", *lists):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty.")
        for name in lists:
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; one is named twice.")
        self._at_least(1, "most_rates", "validation_units", "curve_units")
        self._at_least(0, "test_units", "noise")
        if both := sorted({*self.seeds} & {*self.tuning_seeds}):
            raise ConfigError(f"{both} are tuning_seeds and seeds: what was tuned on is not reported.")
        if (
            not all(0 < amount <= 1 for amount in self.amounts)
            or min(self.layers) < 1
            or min(*self.seeds, *self.tuning_seeds) < 0
        ):
            raise ConfigError("amounts must be above 0 to 1, layers at least 1 and seeds at least 0.")
        if not self.warm.rates or not self.cold.rates:
            raise ConfigError("warm.rates and cold.rates must not be empty: each side is tuned by itself.")
        cells = {f"{layers}x{amount:g}" for layers in self.layers for amount in self.amounts}
        cells |= {"shuffled", "frozen_body", "random_rows", "covariance_rows", "mean_rows", "first_rows"}
        cells |= {"tied_warm", "tied_cold"}
        cells.discard(f"{self.layers[0]}x{self.amounts[0]:g}")  # all else is compared with it
        if unknown := sorted(set(self.cut) - cells):
            raise ConfigError(f"cut names {', '.join(unknown)}, which are not in the grid: {', '.join(sorted(cells))}.")


def to_dict(config: Any) -> dict[str, Any]:
    """Return the configuration as nested plain dicts, ready for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def fingerprint(config: Any) -> str:
    """Return 16 hex digits that name this configuration: equal exactly when every field is equal."""
    canonical = json.dumps({type(config).__name__: to_dict(config)}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def load_toml(path: str | Path, *, bases: Mapping[str, Callable[[], Any]]) -> Any:
    """Read a TOML file that names its `base` and holds what differs from it.

    Args:
        path: the file.
        bases: what `base` may name: functions that return a whole configuration. `twistlm.recipes.load` passes its own.

    Raises:
        ConfigError: no such file, not TOML, no or an unknown base, an unknown key (with the nearest known one), a value
            of the wrong type or out of range.
    """
    path = Path(path)
    table = read_toml(path, "a recipe in TOML: what differs from its base", error=ConfigError)
    base = table.pop("base", None)
    if base is None:
        raise ConfigError(f'{path} names no base; its first line should be base = "NAME", one of: {", ".join(bases)}.')
    if not isinstance(base, str) or base not in bases:
        raise ConfigError(f"{path}: base is {base!r}{_nearest(str(base), bases)}.")
    return _changed(bases[base](), table, where=str(path))


def override(config: Any, assignments: Sequence[str]) -> Any:
    """Return a copy of `config` with each `"name.name=value"` applied; all are applied before ranges are checked.

    A value is written as in TOML (`1e-3`, `[0.9, 0.95]`), without quotes for text.

    Raises:
        ConfigError: no `=`, an unknown name, a value of the wrong type or out of range.
    """
    table: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, raw = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: write it as name=value.")
        *parents, name = (part.strip() for part in key.split("."))
        inner = table
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {assignment}: {parent} was given a value before.")
        value = _parse(raw.strip())
        if isinstance(value, dict) and isinstance(inner.get(name), dict):
            value = inner[name] | value
        inner[name] = value
    return _changed(config, table, where="--set")


def _parse(raw: str) -> Any:
    try:
        return parse_toml(f"value = {raw}", where="--set", kind="a value as in TOML")["value"]
    except BadInput:
        return raw  # bare text: warm.schedule=cosine


def _changed(config: Any, table: Mapping[str, Any], *, where: str) -> Any:
    """Return a copy of `config` with the values of `table`; `where` begins every error."""
    known = {field.name for field in dataclasses.fields(config)}
    values = {}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{_nearest(key, known)}.")
        old = getattr(config, key)
        if dataclasses.is_dataclass(old):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: {key} is a section, with keys of its own; it cannot be {value!r}.")
            value = _changed(old, value, where=f"{where}: {key}")
        values[key] = value
    try:
        return dataclasses.replace(config, **values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; the known ones are {', '.join(sorted(known))}"


def _coerce(value: Any, hint: Any, name: str) -> Any:
    """Return `value` as the type `hint`, only where that loses nothing."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value in typing.get_args(hint) and isinstance(value, str):
            return value
        raise ConfigError(f"{name} is {value!r}{_nearest(str(value), typing.get_args(hint))}.")
    if origin is tuple:
        inner = typing.get_args(hint)
        if inner[-1] is Ellipsis and isinstance(value, (list, tuple)):
            inner = inner[:1] * len(value)
        if isinstance(value, (list, tuple)) and len(value) == len(inner):
            return tuple(_coerce(v, h, f"{name}[{i}]") for i, (v, h) in enumerate(zip(value, inner, strict=True)))
        size = "" if inner[-1] is Ellipsis else f" of {len(inner)} values"
        raise ConfigError(f"{name} is {value!r}; it must be a list{size}.")
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        raise ConfigError(f"{name} is {value!r}; it must be of type {hint.__name__}.")
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}; it must be finite.")
    return value
