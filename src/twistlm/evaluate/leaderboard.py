"""What `twist eval` measured of one or more runs, beside what others published, apart by benchmark and by protocol.

Two accuracies belong side by side only if they were measured in the same way. Four things are known to move them:
`normalize` (log-probabilities compared per unit, "mean", or whole, "sum"), `end` (whether the token that ends a
document is counted), `split` (dev or test, where a benchmark has them) and `rendering` (which recordings, where several
exist). Papers seldom state all four. So every published block says what it states, what differs from ours and what is
unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from twistlm.errors import BadInput, offenders
from twistlm.evaluate.averages import BY_TYPE
from twistlm.files.jsonl import check_shape, parse_toml, read_json

_CELL = {"accuracy": float, "ci": [(float, None)], "n": int, "n_pairs": int}
_SUITE = {
    "suite": str, "version": str, "checksum": str, "unit_spec": str,
    "scores": {str: [{"model": str, "model_sha256": str, "groups": {str: _CELL}}]},
}  # fmt: skip
FIELDS = ("normalize", "end", "split", "rendering")
_SPLIT = ("swuggy", "sblimp", "prosaudit")  # benchmarks of two splits
_RENDERED = ("storycloze", "topic-storycloze")  # benchmarks that were spoken more than once
Protocol = Mapping[str, str]  # field -> what is stated; a field that is not there is not known


@dataclass(frozen=True, kw_only=True)
class Row:
    """One accuracy, as a share.

    Attributes:
        benchmark: key of `Section`.
        protocol: what is stated of how it was measured.
        model: a name, or the folder of ours.
        accuracy, ci, n: `ci` and `n` (independent items) are None where they were not published.
        source: where it was read; "" for ours.
        remark: "recalled, …" for numbers that nobody looked up again, or another caution.
        facts: of ours: model_sha256, unit_spec, suite, version, checksum, n_pairs.
    """

    benchmark: str
    protocol: Protocol
    model: str
    accuracy: float
    ci: tuple[float, float] | None = None
    n: int | None = None
    source: str = ""
    remark: str = ""
    facts: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows of one benchmark and one protocol; of ours, of one copy of the suite too (its checksum).

    Attributes:
        rows: best first.
        ours: whether they were measured here.
        differs, unknown: published blocks: fields in which every block of ours differs, and those not stated. A block
            with neither is comparable; None where we did not measure the benchmark.
    """

    rows: tuple[Row, ...]
    ours: bool
    differs: tuple[str, ...] | None = None
    unknown: tuple[str, ...] | None = None

    @property
    def comparable(self) -> bool:
        return self.differs == () and self.unknown == ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """One benchmark: blocks of ours, then published ones, the most comparable first."""

    key: str
    title: str
    blocks: tuple[Block, ...]

    @property
    def published(self) -> bool:
        """Whether others published numbers on it."""
        return any(not block.ours for block in self.blocks)


def leaderboard(runs: Sequence[str | Path]) -> list[Section]:
    """Return every benchmark that the runs were scored on or others published on.

    Raises:
        BadInput: a run without results of `twist eval`, or with ones that cannot be read.
    """
    ours = [row for run in runs for row in _measured(Path(run))]
    ours = list({(r.benchmark, _stated(r.protocol), repr(r.facts)): r for r in ours}.values())
    others, titles = published()
    keys = list(dict.fromkeys([*titles, *(r.benchmark for r in ours)]))
    return [Section(key=key, title=titles.get(key, key), blocks=tuple(_blocks(key, ours, others))) for key in keys]


def published() -> tuple[list[Row], dict[str, str]]:
    """Return the published accuracies, and the benchmarks' titles by key."""
    data = parse_toml(
        files("twistlm.evaluate").joinpath("published.toml").read_text(encoding="utf-8"),
        where="published.toml",
        kind="what others published",
    )
    parts, source = data["salmon"]["order"], data["sources"]
    entries = list(data["models"]["rows"])
    for row in data["salmon"]["rows"]:
        scores = {f"salmon-{part}": score for part, score in zip(parts, row["scores"], strict=True)}
        entries.append(row | {"source": "SAL", "scores": scores})
    rows = []
    for entry in entries:
        for benchmark, score in entry["scores"].items():
            sure = entry.get("memory", {}).get(benchmark)
            remarks = [entry.get("note", ""), f"recalled, not confirmed; confidence: {sure}" if sure else ""]
            rows.append(
                Row(
                    benchmark=benchmark,
                    protocol=data["protocols"].get(entry.get("protocol"), {}),
                    model=entry["name"],
                    accuracy=score / 100,
                    source=f"{entry['source']}: {source[entry['source']]}",
                    remark="; ".join(filter(None, remarks)),
                )
            )
    return rows, data["benchmarks"]


def _measured(run: Path) -> list[Row]:
    """Read what `twist eval` wrote into `run` (or into its `eval`)."""
    if not run.is_dir():
        raise BadInput(f"{run}: no such folder.")
    own = (run / "eval").is_dir()
    folder = run / "eval" if own else run
    rows, broken = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            numbers = read_json(path, "what twist eval measured", shape=(dict, list), nan=True)
        except BadInput as error:
            if own:  # elsewhere it may be anybody's
                broken.append(f"{path} ({error})")
            continue
        try:
            if isinstance(numbers, dict) and {"suite", "scores", "checksum"} <= numbers.keys():
                check_shape(numbers, _SUITE, where=str(path), kind="what twist eval measured on a suite")
                rows += _of_suite(numbers)
        except (BadInput, KeyError) as error:
            broken.append(f"{path} ({type(error).__name__}: {error})")
    if broken:
        raise BadInput(
            f"{len(broken)} results cannot be read: {offenders(broken)}. Delete them and run twist eval again."
        )
    if not rows and (run / "results.json").is_file():
        raise BadInput(
            f"{run} is a whole quickstart, which twist report shows alone. Among other runs name its models, "
            f"{run / 'warm'} and {run / 'cold'}, after twist eval of each."
        )
    if not rows:
        has = (
            "a perplexity, and nothing about suites"
            if (folder / "perplexity.json").is_file()
            else "no results.json of a quickstart and nothing judged"
        )
        raise BadInput(
            f"{run} holds {has}, so no table has a place for it: "
            f"run twist eval {run} mini-swuggy (or other suites) first."
        )
    return rows


def _of_suite(numbers: Mapping[str, Any]) -> list[Row]:
    name, dash, split = numbers["suite"].rpartition("-")
    if not dash or split not in ("dev", "test"):
        name, split = numbers["suite"], ""
    rows = []
    made_by = f" ({by})" if (by := numbers.get("made_by")) else ""  # laid out like a published one, and none
    for rule, models in numbers["scores"].items():
        for model in models:
            groups = model["groups"]
            protocol = {"normalize": rule, "end": numbers.get("end", "not counted")}
            if split:
                protocol["split"] = split
            if name in _RENDERED and not any(group.startswith("speaker=") for group in groups):
                protocol["rendering"] = "original"  # only the first release has no speakers
            for key, group in _headlines(name, groups).items():
                cell = groups[group]
                facts = {k: numbers[k] for k in ("suite", "version", "checksum", "unit_spec")}
                facts |= {"model_sha256": model["model_sha256"], "n_pairs": cell["n_pairs"]}
                ci = None if cell["ci"][0] is None else (float(cell["ci"][0]), float(cell["ci"][1]))
                rows.append(
                    Row(benchmark=key + made_by, protocol=protocol, model=model["model"],
                        accuracy=cell["accuracy"], ci=ci, n=cell["n"], facts=facts)
                )  # fmt: skip
    return rows


def _headlines(name: str, groups: Mapping[str, Any]) -> dict[str, str]:
    """Return benchmark -> the group of a suite's scores that stands for it."""
    if name == "salmon":
        return {f"salmon-{g.removeprefix('part=')}": g for g in groups if g.startswith("part=")}
    if name == "swuggy" and "vocabulary=in" in groups:
        return {"swuggy": "all", "swuggy-in": "vocabulary=in"}
    if name == "sblimp" and BY_TYPE in groups:
        return {"sblimp": "all", "sblimp-macro": BY_TYPE}
    return {name: "all"}


def _blocks(key: str, ours: Sequence[Row], others: Sequence[Row]) -> list[Block]:
    mine: dict[Any, list[Row]] = {}
    for row in ours:
        if row.benchmark == key:
            assert row.facts is not None
            mine.setdefault((_stated(row.protocol), row.facts["checksum"]), []).append(row)
    theirs: dict[Any, list[Row]] = {}
    for row in others:
        if row.benchmark == key:
            theirs.setdefault(_stated(row.protocol), []).append(row)
    blocks = [Block(rows=_best_first(rows), ours=True) for rows in mine.values()]
    apart = [
        Block(rows=_best_first(rows), ours=False, **_gaps(key, rows[0].protocol, [b.rows[0].protocol for b in blocks]))
        for rows in theirs.values()
    ]
    return blocks + sorted(apart, key=lambda b: (len(b.differs or ()), len(b.unknown or ())))


def _gaps(key: str, theirs: Protocol, ours: Sequence[Protocol]) -> dict[str, Any]:
    """Say in which fields a published protocol differs from the nearest of ours, and which are open on either side."""
    if not ours:
        return {}
    base = key.removesuffix("-in").removesuffix("-macro")
    kinds = {"split": _SPLIT, "rendering": _RENDERED}
    matter = [field for field in FIELDS if field not in kinds or base in kinds[field]]
    gaps = [
        (
            tuple(f for f in matter if f in theirs and f in mine and theirs[f] != mine[f]),
            tuple(f for f in matter if f not in theirs or f not in mine),
        )
        for mine in ours
    ]
    differs, unknown = min(gaps, key=lambda gap: (len(gap[0]), len(gap[1])))
    return {"differs": differs, "unknown": unknown}


def _best_first(rows: Sequence[Row]) -> tuple[Row, ...]:
    return tuple(sorted(rows, key=lambda row: -row.accuracy))


def _stated(protocol: Protocol) -> tuple[tuple[str, str], ...]:
    return tuple((field, protocol[field]) for field in FIELDS if field in protocol)
