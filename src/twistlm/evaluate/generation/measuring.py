"""One measurement of what models say, from prompts to numbers: recordings, resynthesis and shuffled continuations stand
beside every model, and two models are compared prompt by prompt.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twistlm.errors import BadInput
from twistlm.evaluate.generation import perplexities
from twistlm.evaluate.generation.embedding import Embedder
from twistlm.evaluate.generation.judge import Judge, Price, bill, scores, summary, verdicts
from twistlm.evaluate.generation.prompts import checksum
from twistlm.evaluate.generation.protocols import Protocol
from twistlm.evaluate.generation.reading import TextLM
from twistlm.evaluate.generation.speaking import PARTS, Session, System, Values, require_heard
from twistlm.evaluate.generation.table import (
    BY_NAME,
    MEASURES,
    Columns,
    Measure,
    Resamples,
    columns_of,
    difference,
    drawn_values,
    value,
    with_interval,
)
from twistlm.evaluate.generation.texts import (
    against_truth,
    corpus_counts,
    count,
    other_prompts,
    read,
    scored_text,
    shuffled_words,
    with_numbers,
)
from twistlm.evaluate.stats import ratio_ci
from twistlm.lm.model import UnitLM

_CURVE_RESAMPLES = 1000
_OWN = ("recordings", "resynthesis", "shuffled", "shuffled words", "transcripts")  # systems that are no models


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """A model to be measured.

    Attributes:
        name: in tables.
        folder, sha256: where it lies, and what its weights are.
        load: gives it.
    """

    name: str
    folder: str
    sha256: str
    load: Callable[[], UnitLM]


def speak_all(
    session: Session, models: Sequence[Model], temperatures: Sequence[float]
) -> tuple[list[Values], list[System]]:
    """Return the prompts as heard, and everything that speaks: recordings, resynthesis, shuffled, then the models.

    Raises:
        AudioError: prompts that cannot be used, or a sound in which nobody is ever heard.
        BadInput: two models of one name, one that is called as what stands beside them, two equal temperatures, one
            below 0, or prompts that a model has no room for.
    """
    names = [model.name for model in models]
    if len({*names, *_OWN}) < len(names) + len(_OWN):
        raise BadInput(f"models need names of their own, and not {', '.join(_OWN)}: got {', '.join(names)}.")
    if len(set(temperatures)) < len(temperatures) or not all(0 <= t < math.inf for t in temperatures):
        raise BadInput(
            f"temperatures are numbers from 0 on, each once: got {', '.join(f'{t:g}' for t in temperatures)}."
        )
    prompts = session.hear_prompts()
    recordings = session.recordings(prompts)
    require_heard(recordings.rows, what="the recordings")
    resynthesis = session.resynthesis(prompts)
    shuffled = session.shuffled(prompts, resynthesis)
    systems = [recordings, resynthesis, *([] if shuffled is None else [shuffled])]
    for model in models:
        for temperature in temperatures:
            name = model.name if len(temperatures) == 1 else f"{model.name} at {temperature:g}"
            systems.append(
                session.model(
                    name, model.load, prompts, folder=model.folder, sha256=model.sha256, temperature=temperature
                )
            )
    return prompts, systems


def read_all(
    session: Session,
    prompts: Sequence[Values],
    systems: Sequence[System],
    *,
    lm: Callable[[], TextLM],
    lm_identity: str,
    embedder: Embedder | None,
) -> tuple[list[System], dict[str, Values]]:
    """Return the systems with their numbers of text, a floor of shuffled words among them, and corpus counts by name.

    Where prompt and continuation are scored together, the recordings' own transcripts are a system too ("transcripts"):
    the oracle that no recogniser stands before.
    """
    protocol = session.protocol
    said = [row["text"] for row in prompts]
    others = other_prompts(said, seed=session.seed)
    dealt = None if session.unconditional else session.dealt()
    others_of_dealt = other_prompts(said, seed=session.seed, dealt=dealt)
    truths = [scored_text(row["text"], protocol) or "" for row in systems[0].rows]
    texts_alone = []
    known = [prompt.text for prompt in session.suite.prompts]
    if protocol.scored == "prompt and continuation" and all(known):
        texts_alone.append(_of_texts("transcripts", "transcripts", systems[0], known))
    shuffled = shuffled_words([row["text"] for row in systems[1].rows], seed=session.seed)
    texts_alone.append(_of_texts("shuffled words", "words", systems[1], shuffled))

    found, corpora = [], {}
    for system in [*systems, *texts_alone]:
        n = system.n_samples
        texts = [scored_text(row["text"], protocol) for row in system.rows]
        with_prompts = not session.unconditional and protocol.scored == "continuation" and system.kind != "words"
        spread = [i for i in range(len(prompts)) for _ in range(n)]
        rest = others_of_dealt if system.kind == "shuffled" else others
        read_by_lm = read(
            texts,
            [said[i] for i in spread] if with_prompts else None,
            [rest[i] for i in spread] if with_prompts else [],
            protocol,
            lm=lm,
            identity=lm_identity,
            folder=session.out / PARTS,
            description=f"{system.name}, read",
            progress=session.progress,
        )
        parts = [count(texts, protocol), read_by_lm]
        truths_known = not session.unconditional and system.kind not in ("recordings", "words", "transcripts")
        if embedder is not None and truths_known:
            parts.append(against_truth(texts, truths, protocol, embedder, n_samples=n))
        found.append(dataclasses.replace(system, rows=with_numbers(system.rows, *parts)))
        corpora[system.name] = corpus_counts(texts, protocol)
    return found, corpora


def require_judged_apart(protocol: Protocol) -> None:
    """Do nothing where a judge can be shown what a protocol makes.

    Raises:
        BadInput: there are no prompts to go on from, or they are scored together with what follows.
    """
    if protocol.prompt_seconds <= 0 or protocol.scored != "continuation":
        raise BadInput(
            f"a judge is shown prompt and continuation apart, and the protocol {protocol.name} transcribes them "
            "together or has no prompts. Judge in the protocol ours."
        )


def judged(
    session: Session,
    prompts: Sequence[Values],
    systems: Sequence[System],
    judge: Judge,
    *,
    price: Price | None = None,
) -> tuple[list[System], Values]:
    """Return the systems with a judge's scores of their continuations, and what it was asked; where there are two
    models, how it finds the first one's continuations against the second's, in both orders. `price`: as of `bill`.

    Raises:
        BadInput: as `require_judged_apart`.
    """
    require_judged_apart(session.protocol)
    said, folder = [row["text"] for row in prompts], session.out / PARTS
    found, unread = [], 0
    for system in systems:
        if system.kind in ("words", "transcripts"):
            found.append(system)
            continue
        pairs = [(said[i // system.n_samples], row["text"]) for i, row in enumerate(system.rows)]
        rows = scores(judge, pairs, folder=folder, description=f"{system.name}, judged", progress=session.progress)
        unread += sum(row["judge"] is None for row in rows)
        found.append(dataclasses.replace(system, rows=with_numbers(system.rows, rows)))
    told: Values = {"unread": unread}
    if (pair := _pair([system for system in systems if system.kind == "model"])) is not None:
        one, other = pair
        triples = [
            (said[i // one.n_samples], a["text"], b["text"])
            for i, (a, b) in enumerate(zip(one.rows, other.rows, strict=True))
        ]
        rows = verdicts(judge, triples, folder=folder, description="both, judged", progress=session.progress)
        told["pairwise"] = {"between": [one.name, other.name], **summary(rows, "verdict")}
        by_prompt: dict[int, list[float]] = {}
        for i, row in enumerate(rows):
            if row["verdict"] is not None:
                by_prompt.setdefault(i // one.n_samples, []).append(row["verdict"])
        if len(by_prompt) > 1:
            sums, counts = [sum(known) for known in by_prompt.values()], [len(known) for known in by_prompt.values()]
            told["pairwise"]["ci"] = ratio_ci(sums, counts, seed=session.seed)
        told["unread"] += told["pairwise"]["unread"]
    return found, told | {"bill": bill(folder, judge, price=price)}


def results(
    session: Session, systems: Sequence[System], corpora: Mapping[str, Values], *, facts: Mapping[str, Any]
) -> Values:
    """Return the content of results.json: protocol, prompts, systems with measures and intervals, differences of the
    first two models, curves over temperatures.

    Args:
        session: what was measured.
        systems: with all their numbers (`read_all`).
        corpora: counts of the corpus of each, by name.
        facts: what else is to be told of how it was made.
    """
    draws = {
        n: Resamples.draw(len(session.suite.prompts), n, seed=session.seed) for n in {s.n_samples for s in systems}
    }
    # Where texts are cut to so many words, these are not all that was said in the seconds.
    cut = session.protocol.words is not None
    measured = [m for m in MEASURES if not (cut and m.name == "words_per_second")]
    columns = {system.name: columns_of(system.rows, n_samples=system.n_samples) for system in systems}
    told = []
    for system in systems:
        of = columns[system.name]
        measures = {m.name: with_interval(m, of, draws[system.n_samples]) for m in measured if _has(m.columns, of)}
        told.append(
            {
                "name": system.name,
                "kind": system.kind,
                "model": system.model,
                "model_sha256": system.model_sha256,
                "temperature": system.temperature,
                "n_samples": system.n_samples,
                "n_texts": len(system.rows),
                "n_scored": sum("words" in row for row in system.rows),
                "n_empty": int(sum(row.get("empty") or 0 for row in system.rows)),
                "n_one_word": int(sum(row.get("one_word") or 0 for row in system.rows)),
                "measures": measures,
                "corpus": corpora[system.name],
            }
        )
    models = [system for system in systems if system.kind == "model"]
    gaps = {}
    if (pair := _pair(models)) is not None:
        one, two = (columns[system.name] for system in pair)
        shared = draws[pair[0].n_samples]
        gaps = {
            "between": [system.name for system in pair],
            "measures": {m.name: difference(m, one, two, shared) for m in measured if _has(m.columns, one)},
        }
    suite = session.suite
    return {
        "protocol": session.protocol.facts(),
        "protocol_fingerprint": session.protocol.fingerprint,
        "prompts": {
            "name": suite.name,
            "version": suite.version,
            "checksum": checksum(suite, session.digests),
            "n": len(suite.prompts),
            "ids": [prompt.id for prompt in suite.prompts],
        },
        "seed": session.seed,
        "heard_with": dict(session.ears.facts),
        "systems": told,
        "differences": gaps,
        "curves": curves(systems, columns, draws, seed=session.seed),
        **facts,
    }


def curves(
    systems: Sequence[System], columns: Mapping[str, Columns], draws: Mapping[int, Resamples], *, seed: int
) -> Values:
    """Return what can be said of models sampled at several temperatures: the points, PPX at the oracle's VERT, VERT at
    its PPX, and the area under the curve over the VERTs that all models' curves have; nothing where there are none.

    Intervals are over 1,000 resamples of prompts; resamples in which a number does not exist are left out of them, and
    `missing` counts them. VERT as of `table` (times 100), PPX the mean of the texts' perplexities.
    """
    by_model: dict[str, list[System]] = {}
    for system in systems:
        if system.kind == "model":
            by_model.setdefault(f"{system.model} {system.model_sha256}", []).append(system)
    several = {key: found for key, found in by_model.items() if len(found) >= 2}
    if not several:
        return {}
    vert, ppx = BY_NAME["vert"], BY_NAME["mean_ppl"]
    oracle = columns[systems[0].name]
    o_vert, o_ppx = value(vert, oracle), value(ppx, oracle)
    points = {
        key: [(value(vert, columns[s.name]), value(ppx, columns[s.name])) for s in found]
        for key, found in several.items()
    }
    if not all(math.isfinite(x) for found in points.values() for point in found for x in point):
        return {
            "oracle": {"vert": o_vert, "ppx": o_ppx},
            "models": {},
            "missing": "a temperature at which nothing was said",
        }
    low = max(min(v for v, _ in found) for found in points.values())
    high = min(max(v for v, _ in found) for found in points.values())

    def numbers(found: Sequence[tuple[float, float]]) -> Values:
        # In a resample there may be no text that has a perplexity.
        if len({v for v, _ in found}) < 2 or not all(math.isfinite(x) for point in found for x in point):
            return dict.fromkeys(
                ("ppx_at_oracle_vert", "vert_at_oracle_ppx", "area", "cubic_ppx_at_oracle_vert"), math.nan
            )
        line = perplexities.curve([v for v, _ in found], [p for _, p in found])
        inside = line.vert[0] <= low < high <= line.vert[-1]
        return {
            "ppx_at_oracle_vert": perplexities.ppx_at(line, o_vert),
            "vert_at_oracle_ppx": perplexities.vert_at(line, o_ppx),
            "area": perplexities.area(line, low=low, high=high) if inside else math.nan,
            "cubic_ppx_at_oracle_vert": (perplexities.cubic_ppx_at(line, o_vert) if len(line.vert) >= 4 else math.nan),
        }

    told: dict[str, Values] = {}
    for key, found in several.items():
        drawn = []
        rng = np.random.default_rng([seed, 5])
        chosen = rng.integers(len(draws[found[0].n_samples].counts), size=_CURVE_RESAMPLES)
        picked = {
            s.name: [_of_resamples(m, columns[s.name], draws[s.n_samples], chosen) for m in (vert, ppx)] for s in found
        }
        for b in range(_CURVE_RESAMPLES):
            drawn.append(numbers([(picked[s.name][0][b], picked[s.name][1][b]) for s in found]))
        estimate = numbers(points[key])
        told[key] = {name: {"value": x, **_interval([d[name] for d in drawn])} for name, x in estimate.items()} | {
            "model": found[0].model,
            "points": [
                {"temperature": s.temperature, "vert": v, "ppx": p}
                for s, (v, p) in zip(found, points[key], strict=True)
            ],
        }
    bounds = [low, high] if low < high else None
    return {"oracle": {"vert": o_vert, "ppx": o_ppx}, "area_between_verts": bounds, "models": told}


def _of_resamples(measure: Measure, columns: Columns, draws: Resamples, chosen: Any) -> Any:
    return drawn_values(measure, columns, dataclasses.replace(draws, counts=draws.counts[chosen]))


def _interval(values: Sequence[float]) -> Values:
    there = [x for x in values if math.isfinite(x)]
    if len(there) < 2:
        return {"ci": (math.nan, math.nan), "missing": len(values) - len(there)}
    low, high = np.percentile(there, [2.5, 97.5])
    return {"ci": (float(low), float(high)), "missing": len(values) - len(there)}


def _pair(models: Sequence[System]) -> tuple[System, System] | None:
    """Return the first system and the first of another model at its temperature."""
    for other in models[1:]:
        if other.model_sha256 != models[0].model_sha256 and other.temperature == models[0].temperature:
            return models[0], other
    return None


def _of_texts(name: str, kind: str, like: System, texts: Sequence[str | None]) -> System:
    rows = [
        {"prompt": row["prompt"], "sample": row["sample"], "group": row["group"], "text": text or ""}
        for row, text in zip(like.rows, texts, strict=True)
    ]
    return System(name=name, kind=kind, rows=rows, n_samples=like.n_samples)


def _has(names: Sequence[str], columns: Columns) -> bool:
    return all(name in columns for name in names)
