"""What the finished runs of `steady` say: who is lower in how many pairs, by how much, and what moves it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twistlm.evaluate.stats import t_interval, updates_to_reach
from twistlm.study.grid import rows
from twistlm.study.grid.rows import Row

Values = dict[str, Any]


def report(folder: str | Path, *, arm: str = "warm", against: str = "cold") -> Values | None:
    """Return what the finished runs in `folder` say of `arm` and `against`: only pairs of one seed and one numerics.

    None where no such pair is finished.

    Keys: `pairs`, a list of {seed, numerics, nll, against_nll, lead, share} (lead: nats by which `arm` is lower; share:
    of the updates after which it has the other's final loss, None if never; a loss is None where its run diverged, and
    so are then the lead and the share); `lower`, in how many of `n` the lead is above 0 or the other alone diverged;
    `failed` and `against_failed`, how many of each arm's runs diverged or ended no better than they began; `lead` and
    `share`: lowest, highest, and mean and ci (t) over seeds of each seed's mean over its numerics, of the pairs that
    have one; `over_seeds`: standard deviation over seeds of each arm's loss, None for one seed; `over_numerics`: the
    largest difference within one seed, None where no seed has two; `grad_norm`: of each arm.

    Raises:
        BadInput: as `rows.by_cell`.
    """
    cells = rows.by_cell(folder, "arm", "seed", "numerics")
    pairs = []
    for (name, seed, numerics), mine in sorted(cells.items(), key=lambda item: item[0]):
        other = cells.get((against, seed, numerics))
        if name != arm or other is None:
            continue
        updates = other["history"][-1]["update"]
        both = mine["nll"] is not None and other["nll"] is not None
        reached = updates_to_reach(mine["history"], other["nll"]) if both else None
        lead = other["nll"] - mine["nll"] if both else None
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
        "lower": sum(pair["nll"] is not None and (pair["against_nll"] is None or pair["lead"] > 0) for pair in pairs),
        "failed": _failed(cells, arm),
        "against_failed": _failed(cells, against),
        "lead": _summary(pairs, "lead"),
        "share": _summary([pair for pair in pairs if pair["against_nll"] is not None], "share"),
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
        share = "–" if pair["against_nll"] is None else share
        nll, other = ("diverged" if v is None else f"{v:.3f}" for v in (pair["nll"], pair["against_nll"]))
        lead = "–" if pair["lead"] is None else f"{pair['lead']:+.3f}"
        lines.append(f"| {pair['seed']} | {pair['numerics']} | {nll} | {other} | {lead} | {share} |")
    lead, share = found["lead"], found["share"]
    spread = ", ".join(
        f"{name} {_known(found['over_seeds'][name])} over seeds, {_known(found['over_numerics'][name])} at most over "
        "numerics"
        for name in (found["arm"], found["against"])
    )
    norms = ", ".join(f"{n} {g['median']:.1f} / {g['highest']:.1f}" for n, g in found["grad_norm"].items() if g)
    shares = "" if share is None else (
        f" Updates to {found['against']}'s final loss: {share['mean']:.1%} on average, {share['highest']:.1%} at most."
    )  # fmt: skip
    if lead is None:
        leads = "none, in each pair one diverged."
    elif len({pair["seed"] for pair in found["pairs"] if pair["lead"] is not None}) == 1:
        leads = f"{lead['mean']:.3f} nats a unit (one seed)."
    else:
        leads = (
            f"{lead['mean']:.3f} [{lead['ci'][0]:.3f}, {lead['ci'][1]:.3f}] nats a unit (t over seeds), "
            f"{lead['lowest']:.3f} to {lead['highest']:.3f}."
        )
    lines += ["", (
        f"{found['arm']} is lower in {found['lower']} of {found['n']}; {found['failed']} of its runs failed, "
        f"{found['against_failed']} of {found['against']}'s. Lead: {leads}{shares} Spread of the final loss: {spread}. "
        f"Gradient norm, median / highest: {norms}."
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


def _over_seeds(cells: Mapping[tuple[str, int, str], Row], arm: str) -> float | None:
    means = [statistics.fmean(losses) for losses in _by_seed(cells, arm)]
    return statistics.stdev(means) if len(means) > 1 else None


def _over_numerics(cells: Mapping[tuple[str, int, str], Row], arm: str) -> float | None:
    return max((max(losses) - min(losses) for losses in _by_seed(cells, arm) if len(losses) > 1), default=None)


def _failed(cells: Mapping[tuple[str, int, str], Row], arm: str) -> int:
    return sum(
        row["nll"] is None or row["nll"] >= row["history"][0]["val_nll"]
        for (name, _, _), row in cells.items()
        if name == arm
    )


def _known(spread: float | None) -> str:
    return "unknown" if spread is None else f"{spread:.3f}"


def _norms(cells: Mapping[tuple[str, int, str], Row], arm: str) -> Values | None:
    of_arm = [row["grad_norm"] for (name, _, _), row in cells.items() if name == arm]
    known = [norms for norms in of_arm if norms is not None]
    if not known:
        return None
    return {"median": statistics.median(n["median"] for n in known), "highest": max(n["highest"] for n in known)}
