"""From scored pairs to publishable numbers: voices, then items, then groups; each with an interval, and differences.

Shapes: P pairs. An item is what the pairs of one cluster measure (a word, whoever says it). The rule is ZeroSpeech's,
and holds for every suite: a pair is 1, 0.5 (tie) or 0; an item is the mean of its pairs; a score is the mean of its
items. Where every item has as many pairs as the next, that is the mean over pairs. Where items have types (sBLIMP's
phenomena), the mean of the types' scores stands beside it (`BY_TYPE`), which some papers publish.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from twistlm.errors import BadInput, offenders
from twistlm.evaluate.stats import Paired, outcome_ci, outcome_difference
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import parse_json
from twistlm.files.regular import open_regular
from twistlm.types import Score

if TYPE_CHECKING:
    from twistlm.evaluate.suites.suite import Suite

Normalize = Literal["mean", "sum"]
PROTOCOLS = {
    "mean": "mean log-probability per unit, final <s> not counted; ties 0.5",
    "sum": "summed log-probability, final <s> not counted; ties 0.5",
}
END_COUNTED = {"end": "counted"}  # in the facts of scores that hold the final <s>, as SlamKit's do
_FIXED = {
    "id": pa.string(), "item": pa.string(), "positive": pa.string(), "negative": pa.string(),
    "positive_logprob": pa.float64(), "negative_logprob": pa.float64(), "n_positive": pa.int64(),
    "n_negative": pa.int64(),
}  # fmt: skip
_META = b"twistlm"
_FACTS = {"suite": str, "version": str, "checksum": str, "unit_spec": str, "opening?": (str, None)}
_AGAIN = "Delete it and run again."
BY_TYPE, _TYPE = "mean over types", "facet.type"


@dataclass(frozen=True, eq=False)
class ScoredPairs:
    """Every pair of a suite with what a model gave both sides, sorted by pair id.

    Attributes:
        table: P rows; columns id, item, positive and negative (clip ids), positive_logprob and negative_logprob
            (nats, summed), n_positive and n_negative (units), and one `facet.NAME` for each breakdown (null: in no
            group).
        facts: what was scored by what: at least suite, version, checksum, unit_spec.
    """

    table: pa.Table
    facts: Mapping[str, Any]

    @classmethod
    def join(cls, suite: Suite, sides: Mapping[str, tuple[float, int]], facts: Mapping[str, Any]) -> ScoredPairs:
        """Join the scores of clips to the pairs of `suite`, by clip id.

        Args:
            suite: the pairs.
            sides: clip id -> (log-probability in nats, units), from `score_sides`.
            facts: kept with them.

        Raises:
            BadInput: a clip has no score.
        """
        pairs = sorted(suite.pairs, key=lambda p: p.id)
        if lost := [i for i in suite.wanted() if i not in sides]:
            raise BadInput(f"{suite.name}: {len(lost)} clips have no score: {offenders(lost)}.")
        columns: dict[str, list[Any]] = {
            "id": [p.id for p in pairs],
            "item": [suite.clusters[p.id] for p in pairs],
            "positive": [p.positive for p in pairs],
            "negative": [p.negative for p in pairs],
        }
        for side in ("positive", "negative"):
            columns[f"{side}_logprob"] = [sides[getattr(p, side)][0] for p in pairs]
            columns[f"n_{side}"] = [sides[getattr(p, side)][1] for p in pairs]
        arrays = {name: pa.array(columns[name], type=kind) for name, kind in _FIXED.items()}
        for name, of in suite.facets.items():
            arrays[f"facet.{name}"] = pa.array([of.get(p.id) for p in pairs], type=pa.string())
        return cls(pa.table(arrays), dict(facts))

    def outcomes(self, normalize: Normalize) -> NDArray[np.float64]:
        """Return float64 [P]: 1, 0.5 or 0 a pair."""
        names = ("positive_logprob", "n_positive", "negative_logprob", "n_negative")
        return outcomes(*(self.table.column(name).to_numpy() for name in names), normalize=normalize)

    def groups(self) -> dict[str, NDArray[np.bool_]]:
        """Return [P] masks: "all", `BY_TYPE` where there are types, and "FACET=GROUP" of each breakdown."""
        masks = {"all": np.ones(self.table.num_rows, dtype=bool)}
        if _TYPE in self.table.column_names:
            masks[BY_TYPE] = self.table.column(_TYPE).is_valid().to_numpy()
        for column in self.table.column_names:
            if column.startswith("facet."):
                values = np.array(self.table.column(column).to_pylist(), dtype=object)
                for value in sorted({v for v in values if v is not None}, key=_order):
                    masks[f"{column.removeprefix('facet.')}={value}"] = values == value
        return masks

    def by_clip(self, normalize: Normalize) -> dict[str, float]:
        """Return clip id -> log-probability, per unit or whole: what a ZeroSpeech submission asks for."""
        scores: dict[str, float] = {}
        for side in ("positive", "negative"):
            total, n = (self.table.column(name).to_numpy() for name in (f"{side}_logprob", f"n_{side}"))
            value = total / n if normalize == "mean" else total
            scores |= dict(zip(self.table.column(side).to_pylist(), value.tolist(), strict=True))
        return scores

    def write(self, path: str | Path) -> None:
        """Write a Parquet table, atomically, with both outcomes (`outcome_mean`, `outcome_sum`) beside the rest."""
        table = self.table
        for normalize in PROTOCOLS:
            table = table.append_column(f"outcome_{normalize}", pa.array(self.outcomes(normalize)))  # type: ignore[arg-type]
        facts = dict(self.facts) | {"content": self._content()}
        with atomic_write(path) as temporary:
            pq.write_table(table.replace_schema_metadata({_META: json.dumps(facts)}), temporary)

    @classmethod
    def read(cls, path: str | Path) -> ScoredPairs:
        """Read what `write` wrote.

        Raises:
            BadInput: damaged, changed, or another table.
        """
        try:
            with open_regular(Path(path)) as file:
                table = pq.read_table(file)
            said = (table.schema.metadata or {})[_META]
        except (pa.ArrowException, OSError, KeyError) as error:
            raise BadInput(f"{path} is not a table of scored pairs ({error}): delete it and run again.") from error
        facts = parse_json(said, where=f"{path}", kind="a table of scored pairs", shape=_FACTS, fix=_AGAIN)
        kept = [name for name in table.column_names if not name.startswith("outcome_")]
        content = facts.pop("content", None)
        scored = cls(table.select(kept).replace_schema_metadata(None), facts)
        if content != scored._content():
            raise BadInput(f"{path}: its numbers are not those that were written: delete it and run again.")
        return scored

    def _content(self) -> str:
        """Return a sha256 over the numbers."""
        return hashlib.sha256(json.dumps(self.table.to_pydict()).encode()).hexdigest()


def protocol(normalize: Normalize, *, end: bool) -> str:
    """Return in words how a pair is compared; `end`: whether the final `<s>` is counted."""
    said = PROTOCOLS[normalize]
    return said.replace("not counted", "counted") if end else said


def averages(scored: ScoredPairs, *, normalize: Normalize, seed: int) -> dict[str, Score]:
    """Return a Score for all pairs ("all", `BY_TYPE`) and for each group of each breakdown ("frequency=1-5").

    Args:
        scored: at least one pair.
        normalize: compare log-probabilities per unit ("mean") or whole ("sum").
        seed: of the bootstrap over items.

    Raises:
        BadInput: another `normalize`.
    """
    if normalize not in PROTOCOLS:
        raise BadInput(f'normalize must be "mean" or "sum", got {normalize!r}.')
    facts = scored.facts
    opening = f"{facts['opening']}; " if facts.get("opening") else ""
    result, sizes = {}, n_pairs(scored)
    for group, (means, types) in _item_means(scored, normalize).items():
        steps = "pairs of an item, then items" + ("" if types is None else ", then types")
        result[group] = Score(
            name=f"{facts['suite']}.accuracy" + ("" if group == "all" else f"[{group}]"),
            value=float(
                means.mean() if types is None else np.mean([means[types == t].mean() for t in np.unique(types)])
            ),
            ci=outcome_ci(means, strata=types, seed=seed),
            n=len(means),
            unit_spec=facts["unit_spec"],
            protocol=(
                f"{opening}{protocol(normalize, end=END_COUNTED.items() <= scored.facts.items())}; {steps}; "
                f"95% bootstrap over {len(means)} items ({sizes[group]} pairs)"
            ),
            suite=f"{facts['suite']} version {facts['version']} sha256 {facts['checksum']}",
        )
    return result


def differences(a: ScoredPairs, b: ScoredPairs, *, normalize: Normalize, seed: int) -> dict[str, Paired]:
    """Return a - b for each group, paired item by item, with an interval and a sign-flip p-value.

    p-values are not corrected for there being several groups.

    Raises:
        BadInput: they were not measured on the same pairs of the same suite.
    """
    for fact in ("suite", "checksum"):
        if a.facts[fact] != b.facts[fact]:
            raise BadInput(
                f"scores of different suites cannot be compared: {fact} is {a.facts[fact]} in one and "
                f"{b.facts[fact]} in the other."
            )
    if a.table.column("id") != b.table.column("id"):
        raise BadInput(f"the two tables of {a.facts['suite']} do not hold the same pairs.")
    of_b = _item_means(b, normalize)
    return {
        group: outcome_difference(means, of_b[group][0], strata=types, seed=seed)
        for group, (means, types) in _item_means(a, normalize).items()
    }


def n_pairs(scored: ScoredPairs) -> dict[str, int]:
    """Return how many pairs each group holds."""
    return {group: int(mask.sum()) for group, mask in scored.groups().items()}


def _item_means(
    scored: ScoredPairs, normalize: Normalize
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.str_] | None]]:
    """Return group -> the mean outcome of each item's pairs in it, in order of item; of `BY_TYPE` the items' types."""
    wins, items = scored.outcomes(normalize), np.array(scored.table.column("item").to_pylist(), dtype=str)
    result = {}
    for group, mask in scored.groups().items():
        _, first, item = np.unique(items[mask], return_index=True, return_inverse=True)
        types = None
        if group == BY_TYPE:
            types = np.array(scored.table.column(_TYPE).to_pylist(), dtype=str)[mask][first]
        result[group] = (np.bincount(item, weights=wins[mask]) / np.bincount(item), types)
    return result


def _order(group: str) -> tuple[float, str]:
    """Numbers in their order ("1-5" before "21-100"), what has none first ("oov")."""
    number = re.search(r"\d+", group)
    return (float(number[0]) if number else -1.0, group)


def outcomes(
    up: ArrayLike, n_up: ArrayLike, down: ArrayLike, n_down: ArrayLike, *, normalize: Literal["mean", "sum"]
) -> NDArray[np.float64]:
    """Return 1 where the positive is likelier, 0 where the negative is, 0.5 where they tie.

    Args:
        up, down: log-probabilities of the positives and negatives, nats; numbers or [P].
        n_up, n_down: units they were summed over.
        normalize: compare per unit ("mean") or whole ("sum").
    """
    above, below = np.asarray(up, dtype=np.float64), np.asarray(down, dtype=np.float64)
    if normalize == "mean":
        above, below = above / np.asarray(n_up), below / np.asarray(n_down)
    return (np.sign(above - below) + 1) / 2
