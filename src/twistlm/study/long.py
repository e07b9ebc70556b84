"""Does the lead last? One long training a side and seed, whose rate falls at several budgets on its way.

The rate is on schedule "wsd": constant, and in the last fifth falling. A longer run goes on from where a shorter one's
rate began to fall (`train.fork`), so that all budgets together cost a fifth of each more than the longest alone, and
each is exactly the run of that budget. Every one that is finished is a line of study.jsonl, with its curve and scores.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout

from twistlm.compute.devices import own_card
from twistlm.config import PairConfig, QuickstartConfig, TrainConfig
from twistlm.corpus.opened import UnitCorpus, open_corpus
from twistlm.errors import BadInput
from twistlm.evaluate.stats import t_interval, updates_to_reach
from twistlm.evaluate.unit_cache import SpokenSuite
from twistlm.lm.model import UnitLM
from twistlm.study.grid import rows
from twistlm.study.judging import compared, curve, division, pair_values, perplexity, perplexity_values
from twistlm.study.keys import digest, moving, starting
from twistlm.study.laws import laws
from twistlm.study.run import train_units

Values = dict[str, Any]
Side = Literal["warm", "cold"]
SIDES: tuple[Side, Side] = ("warm", "cold")


def long(
    config: QuickstartConfig | PairConfig,
    units: str | Path,
    out: str | Path,
    *,
    budgets: Sequence[int],
    seeds: Sequence[int],
    sides: Sequence[Side] = SIDES,
    layers: int | None = None,
    spoken: Sequence[SpokenSuite] = (),
    progress: bool = False,
    tell: Callable[[str], None],
) -> Path:
    """Train every budget of every side and seed that is not in `out`'s study.jsonl yet; return that folder.

    The last finished run of each side and seed stays in `out/runs`, with the state that longer ones go on from.

    Args:
        config: of its `warm` and `cold` all but the updates and the schedule is kept.
        units: folder of units with something held out.
        out: folder of the lines.
        budgets: updates, each of `batch_rows` x `context` tokens.
        seeds: of the new weights, the order of documents and the choice of held-out ones for the curve.
        sides: which; several processes may share the work, a side and seed each, and of several GPUs one each.
        layers: the first so many of the text LM's, of a cold model as many; None for all.
        spoken: suites that every finished model is judged on.
        progress: show a bar for each training.
        tell: called with a line of text for every finished run.

    Raises:
        BadInput: budgets that are not rising, nothing held out, or lines of other settings in `out`.
        As `train_units` and `pair_values`.
    """
    if list(budgets) != sorted(set(budgets)) or not budgets or budgets[0] < 2:
        raise BadInput(f"budgets are {list(budgets)}; they must be rising numbers of updates, from 2 on.")
    corpus, out = compared(units), Path(out)
    cells = itertools.product(budgets, seeds, sides)
    wanted = {
        key(config, _at(config, side, seed, updates), corpus.fingerprint, side, spoken, layers): (updates, seed, side)
        for updates, seed, side in cells
    }
    shared = study(config, corpus.fingerprint, layers)
    rows.require_same(out, wanted, "updates", "seed", "side", study=shared, division=division(corpus))
    with own_card(out):
        for seed, side in itertools.product(seeds, sides):
            home = out / "runs" / f"{side}-{seed}"
            home.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(home.with_suffix(".lock"), timeout=0):
                    _climb(config, units, corpus, out, budgets, side, seed, layers, spoken, progress, tell)
            except Timeout:  # another process is at it
                continue
    return out


def _at(config: QuickstartConfig | PairConfig, side: Side, seed: int, updates: int) -> TrainConfig:
    """The training of one side and seed to a budget."""
    return dataclasses.replace(getattr(config, side), updates=updates, schedule="wsd", seed=seed)


def _climb(
    config: QuickstartConfig | PairConfig,
    units: str | Path,
    corpus: UnitCorpus,
    out: Path,
    budgets: Sequence[int],
    side: Side,
    seed: int,
    layers: int | None,
    spoken: Sequence[SpokenSuite],
    progress: bool,
    tell: Callable[[str], None],
) -> None:
    """One side and seed, budget by budget."""
    home, before = out / "runs" / f"{side}-{seed}", None
    for updates in budgets:
        train = _at(config, side, seed, updates)
        line, run = key(config, train, corpus.fingerprint, side, spoken, layers), home / str(updates)
        if line not in rows.read(out):
            result = train_units(
                units,
                config.text_lm,
                train,
                run,
                init=side,
                rows=config.rows,
                head=config.head,
                head_start=config.head_start,
                layers=layers,
                forked=before,
                seed=seed,
                progress=progress,
            )
            row = {**curve(result.history), **_scores(result.lm, units, train, spoken, seed=seed)}
            cell = {"side": side, "seed": seed, "updates": updates, "tokens": result.tokens, **_cut(layers)}
            shared = study(config, corpus.fingerprint, layers)
            rows.append(out, {"key": line, "study": shared, "division": division(corpus), "cell": cell, **row})
            tell(f"{side}, seed {seed}: {result.tokens:,} tokens: {row['nll']:.3f} nats a unit")
        if (run / "stable").is_dir():
            if before is not None:
                _remove(before)
            before = run


def _remove(run: Path) -> None:
    """Remove a shorter run that a longer one has gone on from; what others measured of it stays, as `eval-UPDATES`."""
    measured = run / "eval"
    if measured.is_dir() and not (kept := run.with_name(f"eval-{run.name}")).exists():
        measured.rename(kept)
    shutil.rmtree(run)


def key(
    config: QuickstartConfig | PairConfig,
    train: TrainConfig,
    corpus: str,
    side: Side,
    spoken: Sequence[SpokenSuite],
    layers: int | None = None,
) -> str:
    """Return 16 hex digits over everything that the line of a run depends on, see `keys`.

    Args:
        config: the recipe.
        train: of its `side`, with the run's updates, schedule and seed.
        corpus: fingerprint of the documents.
        spoken: suites that it is judged on.
        layers: how many of the text LM's first ones it has; None for all.
    """
    return digest({
        "cell": [side, train.seed, train.updates],
        "train": moving(train),
        "start": [config.rows, config.head, config.head_start],
        "text_lm": starting(config.text_lm),
        "corpus": corpus,
        "suites": sorted((s.suite.name, s.checksum) for s in spoken),
        **_cut(layers),
    })  # fmt: skip


def study(config: QuickstartConfig | PairConfig, corpus: str, layers: int | None) -> str:
    """Return 16 hex digits over what all lines of a folder share: what `key` has, of both sides, but for suites."""
    return digest([key(config, _at(config, side, 0, 2), corpus, side, (), layers) for side in SIDES])


def _cut(layers: int | None) -> Values:
    """Of a line and its key: nothing where all layers are kept, as in lines of before there was a choice."""
    return {} if layers is None else {"layers": layers}


def _scores(lm: UnitLM, units: str | Path, config: TrainConfig, spoken: Sequence[SpokenSuite], *, seed: int) -> Values:
    """The loss over all that is held out, and the suites."""
    held = perplexity(lm, open_corpus(units, split="heldout"), context=config.context, seed=seed)
    suites: dict[str, Values] = {
        s.suite.name: {**pair_values(lm, s.suite, s.units, seed=seed), "checksum": s.checksum} for s in spoken
    }
    return {"nll": held.nll, "heldout": perplexity_values(held), "suites": suites}


def report(folder: str | Path) -> Values:
    """Return what the finished runs say: `budgets`, `alone`, and of four budgets or more, the `law` of `laws.laws`.

    Each of `budgets` is {updates, tokens, seeds, warm, cold, lead, share, suites}. `warm`, `cold`: nats a unit by seed.
    `lead`: cold less warm, mean and t interval over seeds. `share`: of cold's updates after which warm's curve has
    cold's final loss, by seed, None if never; warm's rate has not fallen there yet and cold's has, so it is
    pessimistic. `suites`: name -> side -> accuracies by seed, of those that all these runs were judged on. Only seeds
    that have both sides count.

    Each of `alone` is {side, updates, tokens, seeds, nll, suites} (`suites`: name -> accuracies by seed): runs whose
    other side is not finished, which no lead can be told of.

    Raises:
        BadInput: no run is finished; as `rows.by_cell`, or some have another number of layers.
    """
    cells = rows.by_cell(folder, "updates", "seed", "side")
    if not cells:
        raise BadInput(f"{folder} holds no finished run of a long study.")
    if len(sizes := {row["cell"].get("layers") for row in cells.values()}) > 1:
        names = ", ".join("all" if size is None else str(size) for size in sorted(sizes, key=lambda s: s or 0))
        raise BadInput(f"{folder} holds runs of {names} layers, which no table may mix. Give each a folder of its own.")
    budgets, alone = [], []
    for updates in sorted({key[0] for key in cells}):
        of = {side: {s: row for (u, s, x), row in cells.items() if (u, x) == (updates, side)} for side in SIDES}
        seeds = sorted(of["warm"].keys() & of["cold"].keys())
        for side in SIDES:
            single = {seed: of[side][seed] for seed in sorted(of[side].keys() - seeds)}
            if single:
                mine = list(single.values())
                alone.append({
                    "side": side, "updates": updates, "tokens": mine[0]["cell"]["tokens"], "seeds": list(single),
                    "nll": [row["nll"] for row in mine],
                    "suites": {name: [row["suites"][name] for row in mine] for name in _judged(mine)},
                })  # fmt: skip
        if not seeds:
            continue
        pairs = [(of["warm"][seed], of["cold"][seed]) for seed in seeds]
        leads = [cold["nll"] - warm["nll"] for warm, cold in pairs]
        reached = [updates_to_reach(warm["history"], cold["history"][-1]["val_nll"]) for warm, cold in pairs]
        budgets.append({
            "updates": updates, "tokens": pairs[0][0]["cell"]["tokens"], "seeds": seeds,
            "warm": [warm["nll"] for warm, _ in pairs], "cold": [cold["nll"] for _, cold in pairs],
            "lead": {"mean": float(np.mean(leads)), "ci": t_interval(leads)},
            "share": [None if r is None else r / updates for r in reached],
            "suites": {
                name: {side: [pair[i]["suites"][name] for pair in pairs] for i, side in enumerate(SIDES)}
                for name in _judged([row for pair in pairs for row in pair])
            },
        })  # fmt: skip
    told = [{"nll": r["nll"], **{k: r["cell"][k] for k in ("side", "seed", "tokens")}} for r in cells.values()]
    fitted = laws(told, seed=0)
    if fitted is not None:
        fitted |= {side: dataclasses.asdict(fitted[side]) for side in SIDES}
    return {"budgets": budgets, "alone": alone, "law": fitted}


def _judged(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the suites that all of `runs` were judged on."""
    return [name for name in runs[0]["suites"] if all(name in row["suites"] for row in runs)]


def text(found: Mapping[str, Any]) -> str:
    """Return the report as tables in markdown."""
    lines = []
    if found["budgets"]:
        lines += _paired(found["budgets"])
        lines += ["", "Losses in nats a unit; suites in %, warm / cold, means over seeds."]
    if found["alone"]:
        lines += ["", "Of one side alone; no lead can be told until the other has finished the same seed:", ""]
        lines += _single(found["alone"])
        lines += [] if found["budgets"] else ["", "Losses in nats a unit; suites in %, means over seeds."]
    if law := found.get("law"):
        of = (
            f"{side}: {v['floor']:.3f} + {v['scale']:.3f} x^-{v['power']:.3f} (rms {v['rms']:.3f})"
            for side in ("warm", "cold")
            for v in [law[side]]
        )
        lines += ["", f"Laws, x in millions of tokens: {'; '.join(of)}. By them cold {_caught_up(law)}."]
    return "\n".join(lines).lstrip("\n")


def _caught_up(law: Mapping[str, Any]) -> str:
    """Where cold is no higher than warm, in words."""
    if law["never_behind"]:
        return "is no higher than warm at any number of tokens from the shortest budget on"
    ends = [end for end in law.get("crossing_ci", ()) if end is not None]
    if law["crossing"] is None and all(math.isinf(end) for end in ends):
        return "has not caught up as far as 1e12 tokens" + (", by any resample of the seeds" if ends else "")
    at = "never, as far as 1e12 tokens" if law["crossing"] is None else f"at {law['crossing']:.2g} tokens"
    ci = ", ".join("never" if math.isinf(end) else f"{end:.2g}" for end in ends)
    return f"has caught up {at}" + (f" [{ci}]" if ends else "")


def _paired(budgets: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of both sides, a line for each budget."""
    names = _columns(budgets)
    lines = _heading(["tokens", "seeds", "warm", "cold", "lead", "cold's loss after", *names])
    for at in budgets:
        low, high = at["lead"]["ci"]
        ci = "" if np.isnan(low) else f" [{low:+.3f}, {high:+.3f}]"
        share = ", ".join("never" if s is None else f"{s:.0%}" for s in at["share"])
        suites = [
            " / ".join(_percent(at["suites"][name][side]) for side in SIDES) if name in at["suites"] else "-"
            for name in names
        ]
        cells = [f"{at['tokens']:,}", str(len(at["seeds"])), *(f"{np.mean(at[s]):.3f}" for s in SIDES)]
        lines.append("| " + " | ".join([*cells, f"{at['lead']['mean']:+.3f}{ci}", share, *suites]) + " |")
    return lines


def _single(alone: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of runs without their other side."""
    names = _columns(alone)
    lines = _heading(["side", "tokens", "seeds", "loss", *names])
    for at in alone:
        suites = [_percent(at["suites"][name]) if name in at["suites"] else "-" for name in names]
        cells = [at["side"], f"{at['tokens']:,}", str(len(at["seeds"])), f"{np.mean(at['nll']):.3f}", *suites]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _heading(names: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def _columns(rows_of_table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of suites in any row, in the order they come."""
    return list(dict.fromkeys(name for at in rows_of_table for name in at["suites"]))


def _percent(scores: Sequence[Mapping[str, Any]]) -> str:
    return f"{100 * np.mean([score['accuracy'] for score in scores]):.1f}"
