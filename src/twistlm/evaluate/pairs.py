"""Minimal-pair accuracy: how often the model finds the real word, sentence or story likelier than its twin.

Pairs are joined to their units by id, never by order. A tie counts one half, so that swapping the two sides turns an
accuracy a into exactly 1 - a. (ZeroSpeech scores pairs the same way: 1, 0.5, 0.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from twistlm.errors import BadInput, offenders
from twistlm.evaluate.averages import PROTOCOLS, outcomes
from twistlm.evaluate.stats import bootstrap_ci
from twistlm.lm.score import score
from twistlm.types import Pair, Score, Units

if TYPE_CHECKING:
    from twistlm.lm.model import UnitLM


class Row(TypedDict):
    """One pair's outcome. `cluster` names what is resampled as one; log-probabilities are sums in nats."""

    id: str
    group: str
    cluster: str
    positive_logprob: float
    negative_logprob: float
    n_positive: int
    n_negative: int
    outcome: float


def by_id(units: Iterable[Units]) -> dict[str, Units]:
    """Index units by their clip's id.

    Raises:
        BadInput: an id occurs twice.
    """
    found = list(units)
    _refuse_doubled([u.id for u in found], "clip ids")
    return {u.id: u for u in found}


def score_pairs(
    lm: UnitLM,
    units_by_id: Mapping[str, Units],
    pairs: Sequence[Pair],
    *,
    normalize: Literal["mean", "sum"],
    seed: int,
    name: str = "pairs",
    clusters: Mapping[str, str] | None = None,
    batch_tokens: int | None = None,
) -> tuple[Score, list[Row]]:
    """Score every pair and return the accuracy and one row per pair, in order of pair id.

    Args:
        lm: the model.
        units_by_id: clip id -> Units; may hold more than the pairs ask for. See `by_id`.
        pairs: their order does not matter.
        normalize: compare log-probabilities per unit ("mean") or whole ("sum"). Published numbers use
            both; it moves them.
        seed: of the bootstrap.
        name: the score's name; ".accuracy" is added.
        clusters: pair id -> what is resampled together (the same word said by two voices). Default: each pair alone.
        batch_tokens: passed to `score`; affects speed and memory only.

    Returns:
        The Score (its `n` counts clusters, the independent items) and the rows.

    Raises:
        BadInput: no pairs, ids that are doubled or have no units, an empty clip, or a score that is not finite.
        UnitSpecMismatch: units made by another tokenizer than the model's.
    """
    if normalize not in ("mean", "sum"):
        raise BadInput(f'normalize must be "mean" or "sum", got {normalize!r}.')
    if clusters is not None and (lost := sorted(p.id for p in pairs if p.id not in clusters)):
        raise BadInput(f"pairs without a cluster: {offenders(lost)}.")
    total = score_sides(lm, units_by_id, pairs, batch_tokens=batch_tokens)

    rows: list[Row] = []
    for pair in sorted(pairs, key=lambda p: p.id):
        (up, n_up), (down, n_down) = total[pair.positive], total[pair.negative]
        rows.append(
            Row(
                id=pair.id,
                group=pair.group,
                cluster=pair.id if clusters is None else clusters[pair.id],
                positive_logprob=up,
                negative_logprob=down,
                n_positive=n_up,
                n_negative=n_down,
                outcome=float(outcomes(up, n_up, down, n_down, normalize=normalize)),
            )
        )
    protocol = ("" if lm.vocab.bos is not None else f"{lm.vocab.opening}; ") + PROTOCOLS[normalize]
    return accuracy(rows, name=f"{name}.accuracy", unit_spec=lm.spec.fingerprint, protocol=protocol, seed=seed), rows


def score_sides(
    lm: UnitLM,
    units_by_id: Mapping[str, Units],
    pairs: Sequence[Pair],
    *,
    batch_tokens: int | None = None,
    include_end: bool = False,
    known: Mapping[bytes, tuple[float, int]] | None = None,
) -> dict[str, tuple[float, int]]:
    """Return clip id -> (log-probability in nats, units it was summed over) for every clip the pairs name.

    Args, Raises: as `score_pairs`.

    Args:
        include_end: count the final `<s>` too, as SlamKit does; the protocol must say so (`averages.protocol`).
        known: what this model gave to other unit sequences, by their ids' bytes: these are not scored again. Two
            suites may share clips, as the two StoryCloze share stories and right endings.
    """
    if not pairs:
        raise BadInput("there are no pairs to score.")
    _refuse_doubled([p.id for p in pairs], "pair ids")
    wanted = sorted({side for p in pairs for side in (p.positive, p.negative)})
    if missing := [i for i in wanted if i not in units_by_id]:
        raise BadInput(
            f"{len(missing)} of {len(wanted)} clips named by the pairs have no units: {offenders(missing)}. "
            "A score over part of a benchmark is another benchmark: tokenize the missing clips and try again."
        )
    for i in wanted:
        lm.spec.require(units_by_id[i].spec, mine="the language model", theirs=f"the units of {i}")
    if empty := [i for i in wanted if len(units_by_id[i]) == 0]:
        raise BadInput(f"clips without a single unit cannot be scored: {offenders(empty)}.")

    # Equal unit sequences are scored once, so that two clips that sound alike to the tokenizer tie exactly: scored in
    # different batches they would differ in the last digits, and noise would decide.
    key = {i: units_by_id[i].ids.tobytes() for i in wanted}
    found = dict(known or {})
    fresh = {key[i]: units_by_id[i].ids for i in wanted if key[i] not in found}
    scores = score(lm, list(fresh.values()), include_end=include_end, batch_tokens=batch_tokens)
    found |= {units: (float(one.sum_logprob), one.n) for units, one in zip(fresh, scores, strict=True)}
    total = {i: found[key[i]] for i in wanted}
    if bad := [i for i in wanted if not np.isfinite(total[i][0])]:
        raise BadInput(
            f"the model's log-probability is not finite for {offenders(bad)}: its weights may have diverged."
        )
    return total


def accuracy(rows: Sequence[Row], *, name: str, unit_spec: str, protocol: str, seed: int) -> Score:
    """Return the mean outcome of `rows`, with a bootstrap over clusters: the pairs of a cluster are averaged first.

    Raises:
        BadInput: no rows.
    """
    if not rows:
        raise BadInput(f"{name}: there are no pairs to average.")
    _, cluster = np.unique([r["cluster"] for r in rows], return_inverse=True)
    outcome = np.array([r["outcome"] for r in rows])
    sizes = np.bincount(cluster)
    means = np.bincount(cluster, weights=outcome) / sizes
    how = "pairs" if len(sizes) == len(rows) else f"{len(sizes)} items ({len(rows)} pairs)"
    return Score(
        name=name,
        value=float(means.mean()),
        ci=bootstrap_ci(means, seed=seed),
        n=len(sizes),
        unit_spec=unit_spec,
        protocol=f"{protocol}; 95% bootstrap over {how}",
    )


def accuracy_by_group(rows: Sequence[Row], *, of: Score, seed: int) -> dict[str, Score]:
    """Return one Score per group of `rows`, sorted by group. `of` is the whole's Score, whose protocol is kept."""
    protocol = of.protocol.rpartition(";")[0] or of.protocol
    return {
        group: accuracy(
            [r for r in rows if r["group"] == group],
            name=f"{of.name}[{group}]",
            unit_spec=of.unit_spec,
            protocol=protocol,
            seed=seed,
        )
        for group in sorted({r["group"] for r in rows})
    }


def _refuse_doubled(ids: Sequence[str], what: str) -> None:
    if doubled := sorted(i for i, count in Counter(ids).items() if count > 1):
        raise BadInput(f"{len(doubled)} {what} occur more than once: {offenders(doubled)}. Ids must be unique.")
