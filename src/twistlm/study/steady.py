"""Whether a claim holds over seeds *and* over numerics: one recipe, many seeds, each in several ways of rounding.

A training is chaotic where its gradients jump: another number of threads, another instruction set, another order of a
sum then decide which side wins. So every run here is a process of its own, with the environment that makes torch round
in one way, and the table has the spread over seeds and the spread over numerics apart.

What is finished is a line of study.jsonl (`grid.rows`) under the hash of everything that moves it: stopped at any
moment, the next call does what is missing, and several processes may share the work.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from twistlm.compute.devices import alone_with, own_card
from twistlm.config import PairConfig, QuickstartConfig, override
from twistlm.errors import BadInput, TrainingError, offenders
from twistlm.evaluate.stats import t_interval, updates_to_reach
from twistlm.files.jsonl import read_json
from twistlm.files.locks import LOCK
from twistlm.files.metrics import read_history
from twistlm.study.grid import rows
from twistlm.study.grid.rows import Row
from twistlm.study.judging import compared, curve
from twistlm.study.keys import digest, moving

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
    # One thing other than the recipe has it, at the side's own rate (adapters: five times the body's, as is usual).
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
        BadInput: an unknown name, or nothing held out. TrainingError: a run ended in another way than by its loss.
    """
    for given, known in ((numerics, NUMERICS), (arms, ARMS)):
        if unknown := sorted(set(given) - set(known)):
            raise BadInput(f"unknown: {offenders(unknown)}; there are {', '.join(known)}.")
    corpus, out = compared(units), Path(out)
    wanted = {
        key(config, corpus.fingerprint, arm=arm, seed=seed, numerics=name): (arm, seed, name)
        for seed in seeds
        for name in numerics
        for arm in arms
    }
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
                rows.append(out, {"key": run, "cell": {"arm": arm, "seed": seed, "numerics": name}, **row})
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
        "text_lm": config.text_lm,
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
    command += [word for name, value in changed.items() for word in ("--set", f"{name}={value}")]
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


def report(folder: str | Path, *, arm: str = "warm", against: str = "cold") -> Values | None:
    """Return what the finished runs in `folder` say of `arm` and `against`: only pairs of one seed and one numerics.

    None where no such pair is finished.

    Keys: `pairs`, a list of {seed, numerics, nll, against_nll, lead, share} (lead: nats by which `arm` is lower; share:
    of the updates after which it has the other's final loss, None if never); `lower`, how many leads are above 0, of
    `n`; `failed`, how many of `arm`'s runs diverged or ended no better than they began; `lead` and `share`: lowest,
    highest, and mean and ci (t) over seeds of each seed's mean over its numerics; `over_seeds`: standard deviation over
    seeds of each arm's loss; `over_numerics`: the largest difference within one seed; `grad_norm`: of each arm.

    Raises:
        BadInput: as `rows.by_cell`.
    """
    cells = rows.by_cell(folder, "arm", "seed", "numerics")
    pairs = []
    for (name, seed, numerics), mine in sorted(cells.items(), key=lambda item: item[0]):
        other = cells.get((against, seed, numerics))
        if name != arm or other is None or other["nll"] is None:
            continue
        updates = other["history"][-1]["update"]
        reached = updates_to_reach(mine["history"], other["nll"]) if mine["nll"] is not None else None
        lead = None if mine["nll"] is None else other["nll"] - mine["nll"]
        pairs.append({
            "seed": seed, "numerics": numerics, "nll": mine["nll"], "against_nll": other["nll"], "lead": lead,
            "share": None if reached is None else reached / updates,
        })  # fmt: skip
    if not pairs:
        return None
    return {
        "arm": arm,
        "against": against,
        "pairs": pairs,
        "n": len(pairs),
        "lower": sum(pair["lead"] is not None and pair["lead"] > 0 for pair in pairs),
        "failed": sum(
            row["nll"] is None or row["nll"] >= row["history"][0]["val_nll"]
            for (name, _, _), row in cells.items()
            if name == arm
        ),
        "lead": _summary(pairs, "lead"),
        "share": _summary(pairs, "share"),
        "over_seeds": {name: _over_seeds(cells, name) for name in (arm, against)},
        "over_numerics": {name: _over_numerics(cells, name) for name in (arm, against)},
        "grad_norm": {name: _norms(cells, name) for name in (arm, against)},
    }


def text(found: Values) -> str:
    """Return the report as a table in markdown."""
    lines = [
        f"| seed | numerics | {found['arm']} | {found['against']} | lead | updates to its final loss |",
        "|---|---|---|---|---|---|",
    ]
    for pair in found["pairs"]:
        share = "never" if pair["share"] is None else f"{pair['share']:.0%}"
        nll = "diverged" if pair["nll"] is None else f"{pair['nll']:.3f}"
        lead = "–" if pair["lead"] is None else f"{pair['lead']:+.3f}"
        lines.append(f"| {pair['seed']} | {pair['numerics']} | {nll} | {pair['against_nll']:.3f} | {lead} | {share} |")
    lead, share = found["lead"], found["share"]
    spread = ", ".join(
        f"{name} {found['over_seeds'][name]:.3f} over seeds, {found['over_numerics'][name]:.3f} at most over numerics"
        for name in (found["arm"], found["against"])
    )
    norms = ", ".join(f"{n} {g['median']:.1f} / {g['highest']:.1f}" for n, g in found["grad_norm"].items() if g)
    shares = "" if share is None else (
        f" Updates to {found['against']}'s final loss: {share['mean']:.1%} on average, {share['highest']:.1%} at most."
    )  # fmt: skip
    if lead is None:
        leads = "none, all diverged."
    elif len({pair["seed"] for pair in found["pairs"] if pair["lead"] is not None}) == 1:
        leads = f"{lead['mean']:.3f} nats a unit (one seed)."
    else:
        leads = (
            f"{lead['mean']:.3f} [{lead['ci'][0]:.3f}, {lead['ci'][1]:.3f}] nats a unit (t over seeds), "
            f"{lead['lowest']:.3f} to {lead['highest']:.3f}."
        )
    lines += ["", (
        f"{found['arm']} is lower in {found['lower']} of {found['n']}; {found['failed']} of its runs failed. Lead: "
        f"{leads}{shares} Spread of the final loss: {spread}. Gradient norm, median / highest: {norms}."
    )]  # fmt: skip
    return "\n".join(lines)


def overview(reports: Sequence[Values]) -> str:
    """Return several reports of one arm as one table, the other arms by their loss, lowest first."""
    arm = reports[0]["arm"]
    table = []
    for found in reports:
        pairs, lead = [pair for pair in found["pairs"] if pair["lead"] is not None], found["lead"]
        if pairs:
            other, mine = (statistics.fmean(pair[name] for pair in pairs) for name in ("against_nll", "nll"))
            low, high = lead["ci"]
            interval = "" if math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]"
            cells = (found["against"], str(len(pairs)), f"{other:.3f}", f"{mine:.3f}", f"{lead['mean']:+.3f}{interval}")
            table.append((other, f"| {' | '.join(cells)} | {found['lower']} of {found['n']} |"))
    return "\n".join([
        f"| arm | pairs | nats a unit | {arm}, same pairs | less {arm} [95 %, t over seeds] | {arm} lower in |",
        "|---|---|---|---|---|---|",
        *(line for _, line in sorted(table)),
    ])  # fmt: skip


def _summary(pairs: Sequence[Values], name: str) -> Values | None:
    """The mean over seeds, of each seed's mean, and its interval; None when no pair has such a value, or one has no
    share."""
    if any(pair[name] is None for pair in pairs):
        return None if name == "share" else _summary([p for p in pairs if p[name] is not None], name)
    if not pairs:
        return None
    seeds = sorted({pair["seed"] for pair in pairs})
    means = [statistics.fmean(pair[name] for pair in pairs if pair["seed"] == seed) for seed in seeds]
    values = [pair[name] for pair in pairs]
    return {
        "mean": statistics.fmean(means), "ci": t_interval(means), "lowest": min(values), "highest": max(values),
    }  # fmt: skip


def _by_seed(cells: Mapping[tuple[str, int, str], Row], arm: str) -> list[list[float]]:
    seeds = sorted({seed for name, seed, _ in cells if name == arm})
    found = [
        [r["nll"] for (name, at, _), r in cells.items() if (name, at) == (arm, seed) and r["nll"] is not None]
        for seed in seeds
    ]
    return [losses for losses in found if losses]


def _over_seeds(cells: Mapping[tuple[str, int, str], Row], arm: str) -> float:
    means = [statistics.fmean(losses) for losses in _by_seed(cells, arm)]
    return statistics.stdev(means) if len(means) > 1 else 0.0


def _over_numerics(cells: Mapping[tuple[str, int, str], Row], arm: str) -> float:
    return max((max(losses) - min(losses) for losses in _by_seed(cells, arm)), default=0.0)


def _norms(cells: Mapping[tuple[str, int, str], Row], arm: str) -> Values | None:
    of_arm = [row["grad_norm"] for (name, _, _), row in cells.items() if name == arm]
    known = [norms for norms in of_arm if norms is not None]
    if not known:
        return None
    return {"median": statistics.median(n["median"] for n in known), "highest": max(n["highest"] for n in known)}
