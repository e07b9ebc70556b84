"""One training run from a folder of units: the starting model, a cheap held-out score along the way, the loop."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from twistlm.compute.devices import device
from twistlm.config import Head, HeadStart, Rows, TrainConfig, override
from twistlm.corpus.opened import UnitCorpus, open_corpus
from twistlm.errors import BadInput
from twistlm.files.jsonl import read_json
from twistlm.lm.folders import place
from twistlm.lm.heads import FIT_TOKENS
from twistlm.lm.likeness import by_centroids, by_neighbours, cold_rows
from twistlm.lm.model import UnitLM
from twistlm.lm.phases import phases
from twistlm.lm.slices import Slices, warm_slices
from twistlm.lm.trainable import Freeze, LoRA
from twistlm.lm.warmstart import cold_start, continued, warm_start
from twistlm.study.judging import perplexity
from twistlm.train.fork import fork
from twistlm.train.loop import OnEval, TrainResult, train
from twistlm.train.network import Gpu
from twistlm.train.plan import Plan, plan
from twistlm.train.record import inputs_of
from twistlm.units.catalogue import tokenizer_of
from twistlm.units.kmeans import Codebook

Init = Literal["warm", "cold"]
VAL_UNITS = 1000  # units of the held-out subset that is scored while training
NEIGHBOUR_UNITS = 20_000_000  # in so many it is counted which units follow each other: seconds, and enough of them


def train_units(
    units: str | Path,
    text_lm: str | Path,
    config: TrainConfig,
    out: str | Path,
    *,
    init: Init,
    rows: Rows,
    head: Head,
    head_start: HeadStart,
    layers: int | None = None,
    freeze: Freeze | None = None,
    lora: LoRA | None = None,
    forked: str | Path | None = None,
    seed: int,
    trackers: Sequence[str] = (),
    progress: bool = False,
) -> TrainResult:
    """Train a warm or a cold model on the split "train" of `units`, or go on with the run in `out`.

    With the same `config` (learning rate, warm-up and clip aside) and `seed`, warm and cold see the same batches in the
    same order and are scored on the same held-out documents: `val_nll` in the history, absent when nothing is held out.

    Args:
        units: folder that `tokenize` wrote.
        text_lm: artifact name, or folder of a causal LM; of a cold model it gives the shape.
        config: the run.
        out: its folder.
        init: with the text LM's weights, or with random ones.
        rows: how the new unit rows begin, see `warm_start`; of a cold model, see `cold_start`.
        head, head_start: of the output layer, see `warm_start`; a head is "fitted" to training documents.
        layers, freeze, lora: which layers are kept and what trains; see `warm_start`.
        forked: a shorter run of the same settings that this one goes on from, see `train.fork`.
        seed: of the new weights and of the choice of held-out documents.
        trackers: where the metrics are shown as well.
        progress: show a bar.

    Raises:
        As `warm_start`, `open_corpus`, `fork` and `train`.
    """
    corpus = open_corpus(units, split=None)
    train_corpus = open_corpus(units, split="train")
    fit_on = to_fit(train_corpus, seed=seed) if head_start == "fitted" else None
    start: dict[str, Any] = {"head": head, "head_start": head_start, "fit_on": fit_on, "seed": seed, "layers": layers}
    start |= {"freeze": freeze, "lora": lora}
    rows = rows if init == "warm" else cold_rows(rows)
    start |= {"rows": rows, "alike": likeness(rows, train_corpus)}
    found: tuple[UnitLM, Slices | None] | None = None
    if init == "warm" and lora is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        found = warm_slices(
            text_lm, corpus.spec, rows=rows, seed=seed, head=head, head_start=head_start, alike=start["alike"],
            layers=layers, freeze=freeze,
        )  # fmt: skip
    if found is None:
        begin = warm_start if init == "warm" else cold_start
        found = place(begin(text_lm, corpus.spec, **start)), None
    lm, slices = found
    if forked is not None:
        fork(forked, config, out, inputs=inputs_of(lm, train_corpus) if slices is None else None)
    on_eval = _on_eval(units, corpus, config, seed=seed)
    return train(lm, train_corpus, config, out, on_eval=on_eval, slices=slices, trackers=trackers, progress=progress)


def train_more(
    units: str | Path,
    out: str | Path,
    more: int,
    *,
    changes: Sequence[str] = (),
    freeze: Freeze | Literal["none"] | None = None,
    lora: LoRA | None = None,
    trackers: Sequence[str] = (),
    progress: bool = False,
) -> TrainResult:
    """Go on with the finished run in `out` by `more` updates under a schedule of their own, or with those that stopped.

    They are a run in `out/more-1` (then `more-2`, …), with its record, metrics and model: it begins with the weights of
    the one before it, with AdamW's moments at zero, takes the rows that follow (of a stream that another `context` or
    `seed` lays out anew), and is resumed as exactly. `out` stands for the last finished one, see `lm.phases.phases`.

    Args:
        units: the folder of units of the run.
        out: the run.
        more: updates.
        changes: of the run's own settings, as of `config.override`: the rate, the warm-up, ….
        freeze, lora: what trains, see `warm_start`; "none": all; neither given: what trained before.
        trackers, progress: as of `train_units`.

    Raises:
        BadInput: the run is not finished, or `units` are other documents than it trained on.
        As `train`.
    """
    out = Path(out)
    whole = out.absolute()
    if re.fullmatch(r"more-\d+", whole.name) and (whole.parent / "config.json").is_file():
        raise BadInput(f"{out} is a part of the run {whole.parent}, which goes on as a whole: give that to --out.")
    done = phases(out)
    if not (done[0] / "result.json").is_file():
        raise BadInput(
            f"{out} holds no finished run, so there is nothing to go on with: run twist train without --more until it "
            "is done. To go on with a model of elsewhere, give it to --text-lm."
        )
    records = [
        read_json(phase / "config.json", "the record of a run", shape={"config": dict, "inputs": dict, "start": dict})
        for phase in done
    ]
    corpus = open_corpus(units, split=None)
    train_corpus = open_corpus(units, split="train")
    if train_corpus.fingerprint != records[0]["inputs"].get("corpus"):
        raise BadInput(
            f"{units} are other documents than {out} trained on. To go on with its model on them, begin a run in a "
            f"new folder with --text-lm {out}."
        )
    try:
        config = dataclasses.replace(TrainConfig(**records[-1]["config"]), updates=more)
    except TypeError as error:
        raise BadInput(f"{done[-1] / 'config.json'} is the record of another version of twistlm: {error}.") from error
    if any(change.partition("=")[0].strip() == "updates" for change in changes):
        raise BadInput(f"--more {more} says how many updates: leave --set updates=… out.")
    config = override(config, changes)
    rows_before = sum(r["config"]["updates"] * r["config"]["batch_rows"] for r in records)
    if rows_before % config.batch_rows:
        raise BadInput(
            f"{out} has trained on {rows_before} rows, which batches of {config.batch_rows} do not divide: some rows "
            "would be trained on twice or never. Take a batch_rows that divides them."
        )
    seed = records[0]["start"].get("seed", 0)
    if freeze is None and lora is None:
        freeze, lora = _restricted(out / f"more-{len(done)}" / "config.json", records[-1]["start"])
    lm = continued(out, done[-1] / "lm", corpus.spec, seed=seed, freeze=None if freeze == "none" else freeze, lora=lora)
    return train(
        place(lm),
        train_corpus,
        config,
        out / f"more-{len(done)}",
        on_eval=_on_eval(units, corpus, config, seed=seed),
        first_batch=rows_before // config.batch_rows,
        trackers=trackers,
        progress=progress,
    )


def _restricted(path: Path, before: Mapping[str, Any]) -> tuple[Freeze | None, LoRA | None]:
    """Return what is frozen, and the adapters, of the part that began at `path`, or else of the one `before` it."""
    start = read_json(path, "the record of a run", shape={"start": dict})["start"] if path.is_file() else before
    freeze, lora = start.get("freeze"), start.get("lora")
    return range(*freeze) if isinstance(freeze, list) else freeze, None if lora is None else LoRA(**lora)


def _on_eval(units: str | Path, corpus: UnitCorpus, config: TrainConfig, *, seed: int) -> OnEval:
    """Return what scores a model on some held-out documents while it trains; it says nothing where there are none."""
    held = None
    if set(corpus.splits) != {"train"}:
        held = subset(open_corpus(units, split="heldout"), units=VAL_UNITS, seed=seed)

    def on_eval(lm: UnitLM, _update: int) -> dict[str, float]:
        if held is None:
            return {}
        return {"val_nll": perplexity(lm, held, context=config.context, seed=seed, n_resamples=1).nll}

    return on_eval


def to_fit(corpus: UnitCorpus, *, seed: int) -> list[NDArray[np.uint16]]:
    """Return documents that a head can be fitted to, in a seeded choice."""
    chosen = subset(corpus, units=FIT_TOKENS, seed=seed)
    return [chosen.unit_ids(i) for i in range(len(chosen))]


def likeness(rows: Rows, corpus: UnitCorpus) -> NDArray[np.float32] | None:
    """Return what rows that keep which units are alike need to know; None for all others.

    Args:
        rows: see `warm_start`.
        corpus: what is trained on.

    Raises:
        BadInput: "centroids", and the tokenizer of these units is not here.
    """
    if rows == "neighbours":
        counted = subset(corpus, units=NEIGHBOUR_UNITS, seed=0)
        return by_neighbours((counted.unit_ids(i) for i in range(len(counted))), corpus.spec.n_units)
    if rows != "centroids":
        return None
    found = tokenizer_of(corpus.spec)
    if found is None:
        raise BadInput(
            f"rows='centroids' needs the centroids of these units, and no tokenizer here makes them "
            f"({corpus.spec.encoder}; the bundled ones and the cache were looked through). Import it (twist tokenizer "
            "import), or take other rows."
        )
    return by_centroids(Codebook.load(found.folder / "codebook.safetensors").centroids)


def plan_units(
    units: str | Path,
    text_lm: str | Path,
    config: TrainConfig,
    *,
    share: float,
    flops_per_second: float | None = None,
    head: Head,
    layers: int | None = None,
    freeze: Freeze | None = None,
    ranks: int = 1,
    gpu: Gpu | None = None,
    network: float | None = None,
) -> Plan:
    """Return what `train_units` with these arguments will take on this machine, warm or cold; nothing is written.

    Args:
        units, text_lm, config, head, layers, freeze: as of `train_units`.
        share, flops_per_second, ranks, gpu, network: as of `train.plan.plan`.

    Raises:
        As `open_corpus` and `plan`.
    """
    corpus = open_corpus(units, split="train")
    return plan(
        text_lm,
        corpus.spec,
        corpus.lengths,
        config,
        device=device(),
        share=share,
        flops_per_second=flops_per_second,
        head=head,
        layers=layers,
        freeze=freeze,
        ranks=ranks,
        gpu=gpu,
        network=network,
    )


def subset(corpus: UnitCorpus, *, units: int, seed: int) -> UnitCorpus:
    """Return documents in a seeded choice, as many as it takes to make `units` units, or all."""
    return corpus.select(choose(corpus, units=units, seed=seed))


def choose(corpus: UnitCorpus, *, units: int, seed: int) -> NDArray[np.int64]:
    """Return which documents `subset` takes, ascending: more units with the same seed only add to them."""
    order = np.random.default_rng(seed).permutation(len(corpus))
    n = int(np.searchsorted(np.cumsum(corpus.lengths[order]), units)) + 1
    return np.sort(order[:n])
