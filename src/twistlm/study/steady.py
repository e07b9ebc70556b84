"""Whether a claim holds over seeds *and* over numerics: one recipe, many seeds, each in several ways of rounding.

A training is chaotic where its gradients jump: another number of threads, another instruction set, another order of a
sum then decide which side wins. So every run here is a process of its own, with the environment that makes torch round
in one way, and the table has the spread over seeds and the spread over numerics apart.

What is finished is a line of study.jsonl (`grid.rows`) under the hash of everything that moves it: stopped at any
moment, the next call does what is missing, and several processes may share the work.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from twistlm.compute.devices import alone_with, own_card
from twistlm.config import PairConfig, QuickstartConfig, override
from twistlm.errors import BadInput, TrainingError, offenders
from twistlm.files.jsonl import read_json
from twistlm.files.locks import LOCK
from twistlm.files.metrics import read_history
from twistlm.study.grid import rows
from twistlm.study.grid.rows import Row
from twistlm.study.judging import compared, curve, division
from twistlm.study.keys import digest, moving, starting

_PR_SET_PDEATHSIG = 1  # of Linux's prctl
Values = dict[str, Any]
Arm = tuple[str, Mapping[str, str]]
_TIED = {"--head": "as-is", "--head-start": "rows", "--rows": "covariance", "table_rate": "1.0"}
_ADAPTERS = {"lr": "1e-3", "lr_floor": "1e-4", "table_rate": "2.0"}
# The two sides of a recipe; both with the text LM's head and rows that are drawn one by one, as they were once, at the
# rates of `recipes.paper`; and warm with the paper's random rows.
ARMS: dict[str, Arm] = {
    "warm": ("warm", {}),
    "cold": ("cold", {}),
    "tied_warm": ("warm", {**_TIED, "lr": "4e-4", "lr_floor": "4e-5"}),
    "tied_cold": ("cold", {**_TIED, "lr": "5e-4", "lr_floor": "5e-5"}),
    "paper_warm": ("warm", {**_TIED, "--rows": "random", "lr": "4e-4", "lr_floor": "4e-5"}),
    # One thing other than the recipe has it, at the side's own rate (adapters: five times the body's).
    **{f"{rows}_rows": ("warm", {"--rows": rows}) for rows in ("random", "mean", "covariance", "centroids")},
    "first_rows": ("warm", {"--rows": "first-rows"}),
    "random_rows_cold": ("cold", {"--rows": "random"}),
    "fitted_warm": ("warm", {"--head-start": "fitted"}),
    "fitted_cold": ("cold", {"--head-start": "fitted"}),
    "frozen_body": ("warm", {"--freeze": "body"}),
    "frozen_first_half": ("warm", {"--freeze": "0-14"}),  # of 30 layers, SmolLM2-135M's
    "frozen_last_half": ("warm", {"--freeze": "15-29"}),
    "lora_8": ("warm", {"--lora-rank": "8", **_ADAPTERS}),
    "lora_64": ("warm", {"--lora-rank": "64", **_ADAPTERS}),
}


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """A way of rounding.

    Attributes:
        precision: of the matrix products.
        threads: torch's; sums over rows are cut into so many.
        parts: the batch is computed in so many, whose gradients are summed.
        environment: variables of the process.
    """

    precision: str
    threads: int = 1
    parts: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)


def _isa(onednn: str, mkl: str, aten: str) -> dict[str, str]:
    return {"ONEDNN_MAX_CPU_ISA": onednn, "MKL_ENABLE_INSTRUCTIONS": mkl, "ATEN_CPU_CAPABILITY": aten}


NUMERICS = {
    "bf16": Numerics(precision="bf16"),
    "float32": Numerics(precision="float32"),
    "bf16-2-threads": Numerics(precision="bf16", threads=2),
    "float32-2-threads": Numerics(precision="float32", threads=2),
    "float32-2-parts": Numerics(precision="float32", parts=2),
    "avx512": Numerics(precision="float32", environment=_isa("AVX512_CORE", "AVX512", "avx512")),
    "avx2": Numerics(precision="float32", environment=_isa("AVX2", "AVX2", "avx2")),
}


def steady(
    recipe: str,
    config: QuickstartConfig | PairConfig,
    units: str | Path,
    out: str | Path,
    *,
    seeds: Sequence[int],
    numerics: Sequence[str],
    arms: Sequence[str] = ("warm", "cold"),
    tell: Callable[[str], None],
) -> Path:
    """Make every run that is not in `out`'s study.jsonl yet, seed by seed; return that folder.

    Args:
        recipe: name or TOML file that `twist train --recipe` takes.
        config: what it says.
        units: folder of units with a held-out split.
        out: folder of the lines.
        seeds: of the new weights, the order of documents and the choice of held-out ones.
        numerics: names of NUMERICS.
        arms: names of ARMS.
        tell: called with a line of text for every finished run.

    Raises:
        BadInput: an unknown name, nothing held out, or lines of other settings in `out`.
        TrainingError: a run ended in another way than by its loss.
    """
    for given, known in ((numerics, NUMERICS), (arms, ARMS)):
        require_known(given, known)
    corpus, out = compared(units), Path(out)
    wanted = {
        key(config, corpus.fingerprint, arm=arm, seed=seed, numerics=name): (arm, seed, name)
        for seed in seeds
        for name in numerics
        for arm in arms
    }
    # What all cells share: the recipe of both sides, the text LM and the corpus.
    study = digest([key(config, corpus.fingerprint, arm=arm, seed=0, numerics="float32") for arm in ("warm", "cold")])
    same = {"study": study, "division": division(corpus)}
    rows.require_same(out, wanted, "arm", "seed", "numerics", **same)
    (out / "cells").mkdir(parents=True, exist_ok=True)
    for run, (arm, seed, name) in wanted.items():
        lock, home = out / "cells" / f"{run}.lock", out / "cells" / run
        try:
            with FileLock(lock, timeout=0), own_card(out) as card:
                if run in rows.read(out):
                    shutil.rmtree(home, ignore_errors=True)  # of a process that ended behind its line
                    lock.unlink(missing_ok=True)  # while it is held: no other process can hold the one that is gone
                    continue
                row = _run(recipe, config, units, home, arm=arm, seed=seed, numerics=name, card=card)
                cell = {"arm": arm, "seed": seed, "numerics": name}
                rows.append(out, {"key": run, **same, "cell": cell, **row})
                shutil.rmtree(home)
                lock.unlink(missing_ok=True)
        except Timeout:  # another process is at it
            continue
        ended = "diverged" if row["nll"] is None else f"{row['nll']:.3f} nats a unit"
        n_done = len(rows.read(out).keys() & wanted.keys())
        tell(f"{n_done} of {len(wanted)} runs: {arm}, seed {seed}, {name}: {ended}, {row['seconds']:.0f} s in updates")
    return out


def key(config: QuickstartConfig | PairConfig, corpus: str, *, arm: str, seed: int, numerics: str) -> str:
    """Return 16 hex digits over everything that the result of a run depends on, see `keys`.

    Args:
        config: the recipe.
        corpus: fingerprint of the documents.
        arm, seed, numerics: which run.
    """
    side, settings = ARMS[arm]
    changed = [f"{name}={value}" for name, value in _changes(config, arm=arm, seed=seed, numerics=numerics).items()]
    return digest({
        "cell": [arm, seed, numerics],
        "train": moving(override(getattr(config, side), changed)),
        "options": {name: value for name, value in settings.items() if name.startswith("--")},
        "start": [config.rows, config.head, config.head_start],
        "text_lm": starting(config.text_lm),
        "corpus": corpus,
        "how": to_plain(NUMERICS[numerics]),
    })  # fmt: skip


def _changes(config: QuickstartConfig | PairConfig, *, arm: str, seed: int, numerics: str) -> Values:
    """Return what a run changes in its side's settings."""
    side, settings = ARMS[arm]
    how = NUMERICS[numerics]
    parts = how.parts * getattr(config, side).accumulate
    changed = {"seed": seed, "precision": how.precision, "accumulate": parts, "checkpoint_every": 0}
    return changed | {name: value for name, value in settings.items() if not name.startswith("--")}


def to_plain(how: Numerics) -> Values:
    return {"precision": how.precision, "threads": how.threads, "parts": how.parts, **how.environment}


def _run(
    recipe: str,
    config: QuickstartConfig | PairConfig,
    units: str | Path,
    folder: Path,
    *,
    arm: str,
    seed: int,
    numerics: str,
    card: int | None,
) -> Row:
    """Train one model in a process of its own, and return its curve."""
    side, settings = ARMS[arm]
    how = NUMERICS[numerics]
    changed = _changes(config, arm=arm, seed=seed, numerics=numerics)
    command = [sys.executable, "-m", "twistlm", "train", str(units), "--out", str(folder), "--init", side]
    command += ["--recipe", recipe, "--seed", str(seed), "--json"]
    command += [word for name, value in settings.items() if name.startswith("--") for word in (name, value)]
    set_ = [f"{name}={value}" for name, value in changed.items() if name != "seed"]
    command += [word for change in set_ for word in ("--set", change)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(how.threads))
    if folder.exists():
        with FileLock(folder / LOCK):  # while the process of one is still there
            shutil.rmtree(folder)  # of a run that was stopped: so short a one begins again
    environment = {**os.environ, **threads, **how.environment, **alone_with(card)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, preexec_fn=_end_with_us)
    diverged = (folder / "bad_batch.json").exists()
    if done.returncode and not diverged:
        raise TrainingError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    found = curve(read_history(folder / "metrics.jsonl"))
    record = read_json(folder / "config.json", "the record of a run")
    return {
        "nll": None if diverged else found["history"][-1]["val_nll"],
        **found,
        "numerics": to_plain(how),
        "hardware": record["hardware"],
        "versions": record["versions"],
    }


def _end_with_us() -> None:
    """Be ended when the study is killed: a training that nobody waits for would write into the folder of its successor.

    Only Linux has that; elsewhere the successor waits.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def require_known(given: Sequence[str], known: Iterable[str] = ARMS) -> None:
    """Refuse a name, of an arm or what else is `known`, that there is not."""
    if unknown := sorted(set(given) - {*known}):
        raise BadInput(f"unknown: {offenders(unknown)}; there are {', '.join(known)}.")
