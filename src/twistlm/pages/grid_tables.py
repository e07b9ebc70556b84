"""The tables of a grid and what may be said of them, as text and markdown. Nothing is claimed that is not in the
numbers; what is missing is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twistlm.pages.numbers import interval, percent, percent_interval, with_interval

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text; an interval follows its value in brackets."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str


def tables(results: Values) -> list[Table]:
    """Return the tables that have rows."""
    found = (_losses(results), _updates(results), _swuggy(results), _ablations(results), _tunings(results))
    return [table for table in found if table.rows]


def _losses(results: Values) -> Table:
    rows = []
    for pair, warm, cold in sides(results):
        nll, n = pair["nll"], len(pair["seeds"])
        rows.append(
            (
                where(pair),
                str(n),
                _nats(warm["nll"]["mean"], warm["nll"]["ci"]),
                _nats(cold["nll"]["mean"], cold["nll"]["ci"]),
                _nats(nll["mean"], nll["ci_seeds"], "+"),
                f"{interval(nll['ci_documents'], '+.3f')}, p {_p(nll['p_documents'])}",
                f"{nll['lower']} of {n}, p {_p(nll['p_seeds'])}",
                f"{warm['ppl']['mean']:.2f} / {cold['ppl']['mean']:.2f}",
            )
        )
    n_documents = max((pair["nll"]["n_documents"] for pair in results["pairs"]), default=0)
    return Table(
        title="Held-out loss",
        header=(
            "size, data",
            "seeds",
            "warm, nats a unit",
            "cold",
            "warm - cold",
            "the same, over documents",
            "seeds where warm is lower",
            "perplexity, warm / cold",
        ),
        rows=rows,
        note="Differences are paired: same seed, documents, order and budget. Intervals of 95 %: Student's t over "
        f"seeds; over documents, a bootstrap of the {n_documents} held-out ones. Tests, two-sided: permutation of the "
        "signs of the documents' differences; sign test over seeds.",
    )


def _updates(results: Values) -> Table:
    rows = []
    for pair, _, _ in sides(results):
        mean = pair["updates"]["mean"]
        shares = ", ".join("never" if share is None else percent(share, 0) for share in pair["updates"]["by_seed"])
        shown = with_interval(percent(mean), percent_interval(pair["updates"]["ci_seeds"]))
        rows.append((where(pair), "not by every seed" if mean is None else shown, shares))
    return Table(
        title="Updates to cold's final loss",
        header=("size, data", "share of cold's updates", "by seed"),
        rows=rows,
        note="Read off the curves of held-out loss, on straight lines between evaluations; t interval over seeds.",
    )


def _swuggy(results: Values) -> Table:
    rows = []
    for pair, *arms in sides(results):
        words = pair["swuggy"]
        cells = [with_interval(percent(a["swuggy"]["mean"]), percent_interval(a["swuggy"]["ci"])) for a in arms]
        points = with_interval(f"{100 * words['mean']:+.1f}", interval(words["ci_words"], "+.1f", 100.0))
        rows.append((where(pair), *cells, f"{points}, p {_p(words['p_words'])}"))
    n = max((arm["swuggy"]["n"] for arm in results["arms"]), default=0)
    return Table(
        title="Mini sWUGGY",
        header=("size, data", "warm", "cold", "warm - cold, points"),
        rows=rows,
        note=f"Means over seeds; chance is 50 %. Bootstrap and permutation test over {n} words.",
    )


def _ablations(results: Values) -> Table:
    arms = {(a["layers"], a["amount"], a["arm"]): a for a in results["arms"]}
    rows = []
    for pair in results["pairs"]:
        if pair["arm"] != "warm":
            arm, nll = arms[pair["layers"], pair["amount"], pair["arm"]], pair["nll"]
            rows.append(
                (
                    name(pair["arm"]),
                    f"{arm['rate']:g}",
                    str(len(pair["seeds"])),
                    _nats(arm["nll"]["mean"], arm["nll"]["ci"]),
                    f"less {name(pair['against'])}",
                    _nats(nll["mean"], nll["ci_seeds"], "+"),
                    f"{interval(nll['ci_documents'], '+.3f')}, p {_p(nll['p_documents'])}",
                )
            )
    return Table(
        title="What it is that helps",
        header=("start", "rate", "seeds", "nats a unit", "", "paired difference", "the same, over documents"),
        rows=rows,
        note="Shuffled: the values of each kept tensor permuted inside it. Frozen body: only the tables train. "
        "Random, covariance, mean, first rows: warm with these new rows. Starting from an image model is untested: its "
        "weights could not be had.",
    )


def _tunings(results: Values) -> Table:
    rows = []
    for t in results["tunings"]:
        start = name(t["arm"]) if t["as"] == t["arm"] else f"{name(t['arm'])}, as {name(t['as'])}"
        tried = ", ".join(f"{run['rate']:g}: {_tried(run)}" for run in t["tried"])
        taken = "–" if t["rate"] is None else f"{t['rate']:g}{' (at the edge)' if t['at_edge'] else ''}"
        rows.append((where(t), start, tried or "given", taken))
    return Table(
        title="Tuning",
        header=("size, data", "start", "rate: loss on the validation documents", "taken"),
        rows=rows,
        note="One run for each rate and seed of tuning, on seeds and on documents that no reported number is of.",
    )


def markdown(results: Values) -> str:
    """Return all tables as markdown."""
    lines = [f"**{headline(results)}** {state(results)}", ""]
    for table in tables(results):
        lines += [f"### {table.title}", "", f"| {' | '.join(table.header)} |", f"|{'---|' * len(table.header)}"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
        lines += ["", table.note, ""]
    return "\n".join([*lines, *(f"- {line}" for line in missing(results))]).rstrip() + "\n"


def headline(results: Values) -> str:
    """What the first point, the most telling one, allows to be said."""
    first = next((pair for pair, _, _ in sides(results)), None)
    if first is None:
        return "There is nothing to compare yet."
    at, (low, high) = f"{where(first)} of the data", first["nll"]["ci_seeds"]
    if low is None or high is None:
        return f"One seed so far ({at}): too few to compare warm with cold."
    if high < 0:
        return f"Starting from text ended at a lower loss than starting at random ({at})."
    if low > 0:
        return f"Starting from text ended at a higher loss than starting at random ({at})."
    return f"Warm and cold ended within the noise of {len(first['seeds'])} seeds of each other ({at})."


def state(results: Values) -> str:
    """What was run, and how much of it."""
    study, runs = results["study"], results["runs"]
    train, test, every = study["corpora"]["train"], study["corpora"]["test"], study["config"]["train"]
    machines = "; ".join(
        f"{m['cpu'] or m['device']}, {m['threads']} threads, {m['precision']}" for m in results["machines"]
    )
    seen = {arm["amount"]: arm["epochs"] for arm in results["arms"] if arm["arm"] == "cold"}
    times = ", ".join(f"{epochs:.2g} times at {100 * amount:g} %" for amount, epochs in seen.items())
    return (
        f"{runs['finished']} of {runs['wanted']} runs are finished. Trained on {train['hours']:.1f} hours of "
        f"{train['voices']:,} voices ({train['units']:,} units), tested on {test['documents']:,} documents "
        f"({test['units']:,} units). Every run, whatever its size and amount of data: {every['updates']:,} updates of "
        f"{every['batch_rows']} x {every['context']} tokens; each document is seen {times or '–'}. "
        f"Ran on: {machines or '–'}."
    )


def missing(results: Values) -> list[str]:
    """Lines on what is not in the tables."""
    lines = [f"Diverged: {what}." for what in results["diverged"]]
    if results["missing"]:
        lines.append(f"Not finished ({len(results['missing'])}): {'; '.join(results['missing'])}.")
    if other := results["runs"]["other"]:
        lines.append(f"{other} runs in study.jsonl are of other settings or documents, and left out.")
    if cut := results["study"]["config"]["cut"]:
        lines.append(f"Cut from the grid: {', '.join(map(name, cut))} (layers x share of the data).")
    return lines


def sides(results: Values) -> list[tuple[Values, Values, Values]]:
    """Return (pair, warm, cold) of every point where both sides have runs of one seed."""
    arms = {(a["layers"], a["amount"], a["arm"]): a for a in results["arms"]}
    return [
        (pair, *(arms[pair["layers"], pair["amount"], side] for side in ("warm", "cold")))
        for pair in results["pairs"]
        if pair["arm"] == "warm"
    ]


def where(of: Values) -> str:
    return f"{of['layers']} layers, {100 * of['amount']:g} %"


def name(arm: str) -> str:
    return arm.replace("_", " ")


def _nats(mean: float, ci: Sequence[float | None], sign: str = "") -> str:
    return with_interval(f"{mean:{sign}.3f}", interval(ci, f"{sign}.3f"))


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 0.001 else "<0.001"


def _tried(run: Values) -> str:
    if not run["finished"]:
        return "not finished"
    mean, *each = (f"{loss:.3f}" if loss is not None else "diverged" for loss in (run["nll"], *run["each"]))
    return mean if len(each) == 1 else f"{mean} [{' '.join(each)}]"
