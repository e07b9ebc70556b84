"""Running a grid: one process or several in the same folder, each cell once, stopped anywhere and gone on with."""

from __future__ import annotations

import dataclasses
import gc
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from twistlm.compute.devices import own_card
from twistlm.config import GridConfig, to_dict
from twistlm.corpus.opened import UnitCorpus
from twistlm.errors import BadInput, TrainingError
from twistlm.evaluate.pairs import score_pairs
from twistlm.files.atomic import atomic_folder
from twistlm.files.jsonl import read_json
from twistlm.lm.folders import place
from twistlm.lm.model import UnitLM
from twistlm.lm.warmstart import cold_start, warm_start
from twistlm.study.grid import rows
from twistlm.study.grid.cells import COLD, SIDES, Cell, key, losses, new_rows, of, train_config, wanted
from twistlm.study.grid.inputs import Inputs, open_inputs
from twistlm.study.grid.planning import Speed, hours_left, in_words, measure
from twistlm.study.grid.rows import Row
from twistlm.study.judging import perplexity
from twistlm.study.run import likeness, to_fit
from twistlm.train.loop import train
from twistlm.train.record import hardware, versions, write_json

STUDY = "study.json"
_POLL = 2.0  # seconds between two looks at what the other processes finished


class _BlownUp(TrainingError):
    """A rate so high that held-out losses are no numbers: an outcome of the run."""


def run(config: GridConfig, *, tell: Callable[[str], None], progress: bool = False) -> Path:
    """Make every run of the grid that is not in `config.out`'s study.jsonl yet; return that folder.

    Any number of processes may do this at once: each takes the next cell that nobody works on, and waits only for
    tunings that others are at; where a machine has several GPUs, each takes one that no other has. Stopped (a signal,
    kill -9), finished runs stay, and the cell that was being trained goes on from its last checkpoint. The folder gets
    study.json (what was asked), study.jsonl, `cells/` (runs under way) and `best/warm/`, `best/cold/` (of the reported
    runs of each side the one with the lowest test loss).

    Args:
        config: the grid.
        tell: called with a line of text for every finished run, with an estimate of the time left.
        progress: show a bar within each run.

    Raises:
        As `open_inputs`. TrainingError: a signal ended a run; its state is saved.
    """
    inputs = open_inputs(config, progress=progress)
    out = Path(config.out)
    write_json(out / STUDY, describe(config, inputs))
    _remove_finished(config, out)
    speeds: dict[int, Speed] = {}
    with own_card(out):
        while todo := _todo(config, inputs, done := _counted(config, rows.read(out))):
            speeds = speeds or {layers: measure(config, inputs, layers) for layers in config.layers}
            with _claim(config, inputs, out, todo) as cell:
                if cell is None:
                    time.sleep(_POLL)
                    continue
                keys = {_key(config, c, inputs) for c in wanted(config, losses(config, inputs.fingerprint, done))}
                home = out / "cells" / _key(config, cell, inputs)
                row = _run_cell(config, cell, inputs, home, keys, progress=progress)
            done[row["key"]] = row
            known = losses(config, inputs.fingerprint, done)
            n_done, n, hours = hours_left(config, inputs, known, done, speeds)
            ended = "diverged" if row["nll"] is None else f"{row['nll']:.3f} nats a unit"
            left = f"about {in_words(hours)} of one process left"
            tell(f"{n_done} of {n} runs: {cell}: {ended}, {row['wall']:.0f} s; {left}")
    return out


def describe(config: GridConfig, inputs: Inputs) -> dict[str, Any]:
    """Return the content of study.json: the grid and what it is given."""
    corpora = {name: getattr(inputs, name) for name in ("train", "validation", "test", "curve")}
    return {
        "config": to_dict(config),
        "inputs": inputs.fingerprint,
        "unit_spec": inputs.train.spec.fingerprint,
        "corpora": {name: _size(corpus) for name, corpus in corpora.items()},
        "mini_swuggy": {"version": inputs.spoken.suite.version, "pairs": len(inputs.spoken.suite.pairs)},
    }


def begin(config: GridConfig, cell: Cell, text_lm: Path, documents: UnitCorpus) -> UnitLM:
    """Return the model a cell begins with; `documents` are what it will be trained on."""
    rows, own = new_rows(config, cell), of(config, cell.arm)
    start: dict[str, Any] = {
        "rows": rows,
        "alike": likeness(rows, documents),
        "head": own.head,
        "head_start": own.head_start,
        "fit_on": to_fit(documents, seed=cell.seed) if own.head_start == "fitted" else None,
        "seed": cell.seed,
        "layers": cell.layers,
    }
    if cell.arm in COLD:
        return cold_start(text_lm, documents.spec, **start)
    start |= {"freeze": "body" if cell.arm == "frozen_body" else None, "shuffled": cell.arm == "shuffled"}
    return warm_start(text_lm, documents.spec, **start)


def _counted(config: GridConfig, done: dict[str, Row]) -> dict[str, Row]:
    """Return the lines that count: a run that another `max_loss_rise` ended has not been made under this one."""
    limit = config.train.max_loss_rise
    return {name: row for name, row in done.items() if row.get("max_loss_rise", limit) == limit}


def _key(config: GridConfig, cell: Cell, inputs: Inputs) -> str:
    return key(config, cell, inputs.fingerprint)


def _todo(config: GridConfig, inputs: Inputs, done: Mapping[str, Row]) -> list[Cell]:
    """Return what is wanted and not finished, as far as is known now."""
    cells = wanted(config, losses(config, inputs.fingerprint, done))
    return [cell for cell in cells if _key(config, cell, inputs) not in done]


def _remove_finished(config: GridConfig, out: Path) -> None:
    """Remove what a process that was killed right behind its line left of the cell: weights, a lock."""
    for name in _counted(config, rows.read(out)):
        lock = FileLock(out / "cells" / f"{name}.lock")
        if not (out / "cells" / name).exists() and not Path(lock.lock_file).exists():
            continue
        with suppress(Timeout), lock.acquire(timeout=0):  # who holds it removes it
            shutil.rmtree(out / "cells" / name, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)


@contextmanager
def _claim(config: GridConfig, inputs: Inputs, out: Path, todo: Sequence[Cell]) -> Iterator[Cell | None]:
    """Hold the first cell that no other process holds inside the block; None when all are held."""
    for cell in todo:
        name = _key(config, cell, inputs)
        lock = FileLock(out / "cells" / f"{name}.lock")
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        try:
            if name in _counted(config, rows.read(out)):  # finished by another process since we looked
                Path(lock.lock_file).unlink(missing_ok=True)
                continue
            yield cell
            Path(lock.lock_file).unlink(missing_ok=True)
            return
        finally:
            lock.release()
    yield None


def _run_cell(
    config: GridConfig, cell: Cell, inputs: Inputs, folder: Path, keys: Collection[str], *, progress: bool
) -> Row:
    """Train and judge one cell in `folder`, add its line to study.jsonl, and remove the folder.

    `keys` are those that the grid asks for.
    """
    started = time.perf_counter()
    documents = inputs.documents(cell.amount, seed=cell.seed)
    scored = inputs.validation if cell.split == "validation" else inputs.curve
    settings = train_config(config, cell)

    def on_eval(lm: UnitLM, update: int) -> dict[str, float]:
        try:
            return {"val_nll": perplexity(lm, scored, context=settings.context, seed=0, n_resamples=1).nll}
        except BadInput as error:
            if all(torch.isfinite(p).all() for p in lm.model.parameters()):
                raise
            raise _BlownUp(f"weights are not finite after update {update}: {error}") from error

    lm = place(begin(config, cell, inputs.text_lm, documents))
    row: Row = {"key": folder.name, "cell": dataclasses.asdict(cell)}
    try:
        result = train(lm, documents, settings, folder, on_eval=on_eval, progress=progress)
    except TrainingError as error:
        bad, kept = folder / "bad_batch.json", Path(config.out) / "diverged" / f"{folder.name}.json"
        if not (bad.exists() or isinstance(error, _BlownUp)):  # a signal: not an outcome
            raise
        row |= {"nll": None, "diverged": str(error)}
        row |= {"max_loss_rise": settings.max_loss_rise} if "max_loss_rise" in str(error) else {}
        if bad.exists():
            kept.parent.mkdir(exist_ok=True)
            bad.replace(kept)
            row["diverged"] = str(error).replace(str(bad), str(kept))
    else:
        history = [row for row in result.history if "val_nll" in row]
        row |= {
            "nll": history[-1]["val_nll"],
            "history": [{"update": r["update"], "train_loss": r.get("loss"), "val_nll": r["val_nll"]} for r in history],
            "tokens": result.tokens,
            "epochs": result.tokens / int((documents.lengths + 1).sum()),
            "seconds": result.seconds,
        }
        if cell.split == "test":
            row |= _judge(result.lm, config, inputs)
    record = read_json(folder / "config.json", "the record of a run")
    row |= {"precision": record["precision"], "start": record["start"], "wall": time.perf_counter() - started}
    row |= {"hardware": hardware(lm.device), "versions": versions()}
    out = Path(config.out)
    if cell.split == "test" and cell.arm in SIDES and row["nll"] is not None:
        _keep_best(out / "best" / cell.arm, row, folder / "lm", keys)
    rows.append(out, row)
    shutil.rmtree(folder)
    del lm
    gc.collect()  # models sit in reference cycles, and two at once would double the peak memory
    return row


def _judge(lm: UnitLM, config: GridConfig, inputs: Inputs) -> Row:
    """Return the final numbers of a reported run, document by document and word by word."""
    lm = place(lm)
    found = perplexity(lm, inputs.test, context=config.train.context, seed=0, n_resamples=1)
    suite = inputs.spoken.suite
    _, outcomes = score_pairs(
        lm, inputs.spoken.units, suite.pairs, normalize="mean", seed=0, name=suite.name, clusters=suite.clusters
    )
    words: dict[str, list[float]] = {}
    for pair in outcomes:
        words.setdefault(pair["cluster"], []).append(pair["outcome"])
    return {
        "nll": found.nll,
        "rule": found.rule,
        "documents": {"nll": [d.nll for d in found.documents], "n_units": [d.n_units for d in found.documents]},
        "words": {"wins": [sum(words[w]) for w in sorted(words)], "pairs": [len(words[w]) for w in sorted(words)]},
    }


def _keep_best(home: Path, row: Row, model: Path, keys: Collection[str]) -> None:
    """Put the model in `home`, unless a better one of these `keys` is there: other settings have other test losses."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_name(f".{home.name}.lock")):
        there = home / "cell.json"
        if there.exists():
            best = read_json(there, "the best run of a side", shape={"key": str, "nll": float})
            if best["key"] in keys and best["nll"] <= row["nll"]:
                return
        with atomic_folder(home) as temporary:
            shutil.copytree(model, temporary / "lm", copy_function=os.link)
            write_json(temporary / "cell.json", {name: row[name] for name in ("key", "cell", "nll")})


def _size(corpus: UnitCorpus) -> dict[str, Any]:
    return {
        "documents": len(corpus),
        "units": int(corpus.lengths.sum()),
        "hours": sum(corpus.seconds) / 3600,
        "voices": len(set(corpus.speakers)),
    }
