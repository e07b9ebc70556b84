"""The numbers of a grid, from the lines of study.jsonl alone: what each arm ended at, and paired differences.

Uncertainty has two sources, and each has its interval. Over seeds: Student's t interval of the mean, n the seeds. Over
what was scored: whole documents (or words) are resampled, the mean over the seeds being taken of each first, since all
runs are scored on the same ones. Tests: a permutation test over documents (random signs of their differences), and the
sign test over seeds, whose smallest p with n seeds is 2 / 2^n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from twistlm.config import GridConfig
from twistlm.evaluate.stats import bootstrap_ci, paired_difference, sign_test, t_interval, updates_to_reach
from twistlm.files.jsonl import without_nan
from twistlm.study.grid.cells import Arm, Cell, Known, key, place, points, tune
from twistlm.study.grid.rows import Row

Values = dict[str, Any]

# What an arm is compared with.
AGAINST: dict[Arm, tuple[Arm, ...]] = {
    "warm": ("cold",),
    "cold": (),
    "shuffled": ("cold", "warm"),
    "frozen_body": ("cold", "warm"),
    "random_rows": ("cold", "warm"),
    "covariance_rows": ("cold", "warm"),
    "mean_rows": ("cold", "warm"),
    "first_rows": ("cold", "warm"),
    "tied_warm": ("cold", "warm"),
    "tied_cold": ("cold", "warm"),
}


def compare(config: GridConfig, inputs: str, done: Mapping[str, Row], known: Known) -> Values:
    """Return every table of the study; what is not finished is missing in it, and counted.

    Args:
        config: the grid.
        inputs: fingerprint of what it was given.
        done: lines of study.jsonl; those of other settings are passed over.
        known: what the tunings ended at.

    Returns:
        `tunings`, `arms` and `pairs` (lists, in the order of work), `missing` and `diverged` (descriptions of cells),
        `machines` (what the runs ran on).
    """
    arms: list[Values] = []
    pairs: list[Values] = []
    tunings: list[Values] = []
    missing: list[str] = []
    diverged: list[str] = []
    used: list[Row] = []
    for layers, amount, compared in points(config):
        for arm in compared:
            found = _tuning(config, arm, layers, amount, known)
            if found not in tunings:
                tunings.append(found)
            of_seed = {arm: _runs(config, arm, layers, amount, inputs, done, known)}
            for other in AGAINST[arm]:
                of_seed[other] = _runs(config, other, layers, amount, inputs, done, known)
            what = f"{place(layers, amount)}, {arm.replace('_', ' ')}"
            missing += [f"{what}, seed {s}" for s, row in of_seed[arm].items() if row is None]
            diverged += [
                f"{what}, seed {s}" for s, row in of_seed[arm].items() if row is not None and row["nll"] is None
            ]
            whole = {a: {s: r for s, r in runs.items() if r is not None and r["nll"] is not None}
                     for a, runs in of_seed.items()}  # fmt: skip
            used += whole[arm].values()
            where = {"layers": layers, "amount": amount}
            if whole[arm]:
                arms.append({**where, "arm": arm, **_arm(whole[arm])})
            for other in AGAINST[arm]:
                seeds = sorted(whole[arm].keys() & whole[other].keys())
                if seeds:
                    rows = [(whole[arm][seed], whole[other][seed]) for seed in seeds]
                    pairs.append({**where, "arm": arm, "against": other, "seeds": seeds, **_pair(rows)})
    machines = {(r["hardware"]["cpu"], r["hardware"]["device"], r["hardware"]["threads"], r["precision"]) for r in used}
    return without_nan(
        {
            "tunings": tunings,
            "arms": arms,
            "pairs": pairs,
            "missing": missing,
            "diverged": diverged,
            "machines": [
                dict(zip(("cpu", "device", "threads", "precision"), m, strict=True)) for m in sorted(machines)
            ],
            "rule": next((row["rule"] for row in used), None),
        }
    )


def _runs(
    config: GridConfig, arm: Arm, layers: int, amount: float, inputs: str, done: Mapping[str, Row], known: Known
) -> dict[int, Row | None]:
    """Return seed -> line of the reported runs of an arm at the rate that its tuning chose; None where not finished."""
    rate = tune(config, arm, layers, amount, known).rate
    cells = {
        seed: None if rate is None else Cell(arm=arm, layers=layers, amount=amount, seed=seed, rate=rate, split="test")
        for seed in config.seeds
    }
    return {seed: None if cell is None else done.get(key(config, cell, inputs)) for seed, cell in cells.items()}


def _tuning(config: GridConfig, arm: Arm, layers: int, amount: float, known: Known) -> Values:
    tuning = tune(config, arm, layers, amount, known)
    losses: dict[float, list[float | None]] = {}
    for cell in tuning.cells:
        losses.setdefault(cell.rate, []).append(known(cell))
    tried = [
        {"rate": rate, "nll": _mean(found), "each": [*map(_finite, found)], "finished": None not in found}
        for rate, found in losses.items()
    ]
    own = tuning.cells[0] if tuning.cells else None
    return {
        "layers": layers,
        "amount": amount if own is None else own.amount,
        "arm": arm,
        "as": arm if own is None else own.arm,
        "tried": tried,
        "rate": tuning.rate,
        "at_edge": tuning.at_edge,
    }


def _mean(losses: Sequence[float | None]) -> float | None:
    done = [loss for loss in losses if loss is not None]
    return _finite(sum(done) / len(done)) if len(done) == len(losses) else None


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None


def _arm(runs: Mapping[int, Row]) -> Values:
    """The numbers of one arm at one point, over its seeds."""
    rows = [runs[seed] for seed in sorted(runs)]
    losses = [row["nll"] for row in rows]
    mean, (low, high) = float(np.mean(losses)), t_interval(losses)
    words = _words(rows)
    accuracies = [float(np.mean(_words([row]))) for row in rows]
    return {
        "seeds": sorted(runs),
        "rate": rows[0]["cell"]["rate"],
        "nll": {"mean": mean, "ci": (low, high), "by_seed": losses},
        "ppl": {"mean": math.exp(mean), "ci": (math.exp(low), math.exp(high))},
        "swuggy": {
            "mean": float(np.mean(accuracies)),
            "ci": bootstrap_ci(words, seed=0),
            "by_seed": accuracies,
            "n": len(words),
        },
        "epochs": float(np.mean([row["epochs"] for row in rows])),
        "tokens": float(np.mean([row["tokens"] for row in rows])),
        "history": _mean_history(rows),
    }


def _pair(rows: Sequence[tuple[Row, Row]]) -> Values:
    """The paired differences of two arms at one point: the first less the second."""
    by_seed, nll, words = [], [], []
    for a, b in rows:
        sizes = a["documents"]["n_units"]
        difference = paired_difference(a["documents"]["nll"], b["documents"]["nll"], sizes=sizes, seed=0)
        by_seed.append(difference._asdict())
        nll.append(difference.mean)
        words.append(float(np.mean(_words([a])) - np.mean(_words([b]))))
    firsts, seconds = [a for a, _ in rows], [b for _, b in rows]
    over_documents = paired_difference(_documents(firsts), _documents(seconds), sizes=sizes, seed=0)
    of_words = _words(firsts)
    over_words = paired_difference(of_words, _words(seconds), seed=0)
    reached = [_reached(a, b) for a, b in rows]
    whole = [share for share in reached if share is not None]
    return {
        "nll": {
            "mean": float(np.mean(nll)),
            "ci_seeds": t_interval(nll),
            "by_seed": by_seed,
            "lower": sum(value < 0 for value in nll),
            "p_seeds": sign_test(nll),
            "ci_documents": over_documents.ci,
            "p_documents": over_documents.p,
            "n_documents": len(sizes),
        },
        "swuggy": {
            "mean": float(np.mean(words)),
            "ci_seeds": t_interval(words),
            "by_seed": words,
            "ci_words": over_words.ci,
            "p_words": over_words.p,
            "n_words": len(of_words),
        },
        "updates": {
            "mean": float(np.mean(whole)) if len(whole) == len(reached) else None,
            "ci_seeds": t_interval(whole) if len(whole) == len(reached) else (math.nan, math.nan),
            "by_seed": reached,
        },
    }


def _reached(a: Row, b: Row) -> float | None:
    """Return after which share of the updates `a` is at the loss that `b` ends with; None if never."""
    update = updates_to_reach(a["history"], b["history"][-1]["val_nll"])
    return None if update is None else update / b["history"][-1]["update"]


def _documents(rows: Sequence[Row]) -> list[float]:
    """Each document's nats, the mean over the runs."""
    return np.mean([row["documents"]["nll"] for row in rows], axis=0).tolist()


def _words(rows: Sequence[Row]) -> list[float]:
    """Each word's share of its pairs won, the mean over the runs."""
    wins = np.mean([row["words"]["wins"] for row in rows], axis=0)
    return (wins / np.array(rows[0]["words"]["pairs"])).tolist()


def _mean_history(rows: Sequence[Row]) -> list[Values]:
    """The curve of the mean over the runs."""
    return [
        {"update": points[0]["update"], "val_nll": float(np.mean([point["val_nll"] for point in points]))}
        for points in zip(*(row["history"] for row in rows), strict=True)
    ]
