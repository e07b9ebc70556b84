"""Models judged on suites of pairs: one tokenizer pass, scores that are kept, a table, and a submission folder.

In the folder of the results, `SUITE.MODEL.parquet` holds every pair's log-probabilities (MODEL: the first digits of its
weights' sha256) and is what a rerun takes instead of scoring again; `SUITE.json` holds the numbers.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from twistlm.compute.devices import device
from twistlm.errors import BadInput, CheckpointError, offenders
from twistlm.evaluate.averages import END_COUNTED, Normalize, ScoredPairs, averages, differences, n_pairs
from twistlm.evaluate.pairs import score_sides
from twistlm.evaluate.suites.catalogue import open_suite
from twistlm.evaluate.suites.zerospeech import write_submission
from twistlm.evaluate.topline import PROTOCOL as TOPLINE_PROTOCOL
from twistlm.evaluate.topline import load_text_tokenizer, score_texts
from twistlm.evaluate.unit_cache import SpokenSuite, tokenize_suite
from twistlm.files.artifacts import cache_to_write
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import read_json, without_nan
from twistlm.files.regular import file_sha256
from twistlm.lm.folders import lm_folder, load_model
from twistlm.lm.text_lms import text_lm_folder
from twistlm.progress import task
from twistlm.types import Score, UnitSpec
from twistlm.units.catalogue import read_spec
from twistlm.units.tokenizer import SpeechTokenizer

_log = logging.getLogger(__name__)
MOST_GROUPS = 20  # of one kind, in the table; more would bury what it says

Values = dict[str, Any]
Sides = Mapping[str, tuple[float, int]]  # clip id -> (log-probability in nats, units or text tokens)


def evaluate(
    model: str | Path,
    suites: Sequence[str],
    *,
    against: str | Path | None,
    normalize: Literal["mean", "sum", "both"],
    tokenizer: str | Path,
    out: str | Path,
    submission: str | Path | None = None,
    topline: str | Path | None = None,
    end_token: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Values:
    """Score one model, or two for comparison, on every suite; write and return the numbers.

    Args:
        model: folder of a model or of its run.
        suites: names as `open_suite` takes them.
        against: a second model of the same units; differences are the first less the second.
        normalize: compare log-probabilities per unit, whole, or report both. Published numbers use either.
        tokenizer: name or folder.
        out: where results go.
        submission: where to write a ZeroSpeech submission of `model`; needs one `normalize`, and suites that have one.
        topline: name or folder of a text LM that reads the transcripts, where a suite has them.
        end_token: count the final `<s>` of both sides too, as SlamKit does. It is in the protocols, and these results
            lie apart from those without, as `SUITE.end.json`.
        seed: of the bootstrap.
        progress: show bars.

    Returns:
        `model`, `unit_spec`, `suites`: suite name -> its numbers, as in `SUITE.json`; and `notes`: which numbers that
        stood there are no more.

    Raises:
        BadInput: an unknown or broken suite, or a suite named twice. TwistError: the cache cannot be written to.
        UnitSpecMismatch: a model was made for other units than the tokenizer's.
    """
    if submission is not None and normalize == "both":
        raise BadInput("a submission holds one score a file: give --normalize mean or --normalize sum.")
    cache = cache_to_write("eval-units")
    opened = [open_suite(name) for name in suites]
    names = [suite.name for suite in opened]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"suites named twice: {offenders(doubled)}. Evaluate them one by one, each with its own --out.")
    if submission is not None and not any(suite.submission for suite in opened):
        raise BadInput(f"none of the suites {offenders(names)} has a ZeroSpeech submission.")
    tok = SpeechTokenizer.load(tokenizer).on(device())
    models = [Path(model)] if against is None else [Path(model), Path(against)]
    weights = [_weights(folder, tok.spec) for folder in models]
    text_lm = None if topline is None else text_lm_folder(topline)
    if text_lm is not None:
        load_text_tokenizer(text_lm)  # before any work: without one there is no topline
    spoken = [tokenize_suite(suite, tok, cache=cache, progress=progress) for suite in opened]

    out = Path(out)
    scored = [
        _score(folder, sha, spoken, tok.spec, out, end_token, progress=progress)
        for folder, sha in zip(models, weights, strict=True)
    ]
    read = [None] * len(spoken) if text_lm is None else _read(text_lm, spoken, out)
    rules: list[Normalize] = ["mean", "sum"] if normalize == "both" else [normalize]
    values: Values = {"model": str(model), "unit_spec": tok.spec.fingerprint, "results": str(out), "suites": {}}
    values["notes"] = []
    for i, suite in enumerate(opened):
        of_models = [tables[i] for tables in scored]
        numbers = without_nan(_numbers(models, of_models, rules, seed) | _topline(topline, read[i], rules, seed))
        numbers |= END_COUNTED if end_token else {}
        numbers |= {"made_by": suite.made_by} if suite.made_by else {}
        place = out / f"{suite.name}{'.end' if end_token else ''}.json"
        values["notes"] += _replaced(place, numbers)
        with atomic_write(place) as temporary:
            temporary.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        values["suites"][suite.name] = numbers
    if submission is not None:
        for benchmark in ("sLM21", "prosAudit"):
            files = {
                suite.submission: one.by_clip(rules[0])
                for suite, one in zip(opened, scored[0], strict=True)
                if suite.submission and (benchmark == "prosAudit") == suite.submission.startswith("english_")
            }
            if files:
                write_submission(Path(submission) / benchmark, files, benchmark=benchmark)
        values["submission"] = str(submission)
    return values


def _replaced(path: Path, numbers: Values) -> list[str]:
    """Return what to say of scores that stood at `path` and are not among the new `numbers`."""
    shape = {"checksum?": str, "scores": {str: [{"model_sha256": str}]}, "topline?": (dict, None)}
    try:
        before = read_json(path, "the scores of a suite", shape=shape, nan=True)
    except BadInput:
        return []  # none, or something else, which is no loss
    then, now = (
        {rule: [model["model_sha256"] for model in models] for rule, models in one["scores"].items()}
        for one in (before, numbers)
    )
    shared = then.keys() & now.keys()
    lost = [
        *(["of another model"] if any(then[rule][:1] != now[rule][:1] for rule in shared) else []),
        *(["against another model"] if any(set(then[rule][1:]) - set(now[rule][1:]) for rule in shared) else []),
        *(["on another copy of the suite"] if before.get("checksum") != numbers["checksum"] else []),
        *(f"by {rule}" for rule in sorted(then.keys() - now.keys())),
        *(["of a topline"] if before.get("topline") and not numbers.get("topline") else []),
    ]
    return [f"{path} held scores {', '.join(lost)}, and was replaced: --out keeps both"] if lost else []


def table(values: Mapping[str, Any]) -> str:
    """Return the numbers of `evaluate` as text: a line for each group of each suite and each normalisation.

    Of a kind with more than `MOST_GROUPS` groups (the topics of stories) only their number is said.
    """
    lines = []
    for suite, numbers in values["suites"].items():
        lines.append(f"{suite}: version {numbers['version']}, sha256 {numbers['checksum'][:16]}")
        for rule, by_model in numbers["scores"].items():
            lines.append(f"  {numbers['protocols'][rule]}")
            first, *others = by_model
            sizes = Counter(group.partition("=")[0] for group in first["groups"])
            shown = {g: s for g, s in first["groups"].items() if sizes[g.partition("=")[0]] <= MOST_GROUPS}
            width = max(map(len, shown))
            for group, score in shown.items():
                text = f"    {group:{width}}  {_accuracy(score)}  n {score['n']}"
                for other in others:
                    gap = numbers["differences"][rule][group]
                    ends = _interval(gap["ci"], "+.1f")
                    text += f"  against {_accuracy(other['groups'][group])}: {gap['mean'] * 100:+.1f}{ends}, "
                    text += f"p = {gap['p']:.2g}"
                if topline := numbers.get("topline"):
                    text += f"  text topline {_accuracy(topline['scores'][rule][group])}"
                lines.append(text)
            lines += [f"    {kind}: {n} groups, in {suite}.json" for kind, n in sizes.items() if n > MOST_GROUPS]
        if "topline" in numbers and numbers["topline"] is None:
            lines.append("    no text topline: the release has no transcripts of both sides")
    return "\n".join(lines)


def _score(
    folder: Path,
    sha256: str,
    spoken: Sequence[SpokenSuite],
    spec: UnitSpec,
    out: Path,
    end_token: bool,
    *,
    progress: bool,
) -> list[ScoredPairs]:
    """Score every suite, taking from `out` what was scored before; the model is loaded only when something was not."""
    model = functools.cache(load_model)
    by = {"unit_spec": spec.fingerprint, "model_sha256": sha256} | (END_COUNTED if end_token else {})
    known: dict[bytes, tuple[float, int]] = {}

    def sides(one: SpokenSuite) -> tuple[Sides, str]:
        lm = model(folder)
        with task(f"scoring {one.suite.name}", 1, progress):
            found = score_sides(lm, one.units, one.suite.pairs, include_end=end_token, known=known)
        known.update((one.units[i].ids.tobytes(), of) for i, of in found.items())
        return found, lm.vocab.opening

    kind = ".end.parquet" if end_token else ".parquet"
    return [_kept(out / f"{one.suite.name}.{sha256[:12]}{kind}", one, by, sides) for one in spoken]


def _read(folder: Path, spoken: Sequence[SpokenSuite], out: Path) -> list[ScoredPairs | None]:
    """Score the transcripts of every suite that has them; None for the others."""
    sha256 = digest(folder)
    by = {"unit_spec": "text", "model_sha256": sha256}

    def sides(one: SpokenSuite) -> tuple[Sides, str]:
        return score_texts(folder, one.suite.texts), ""

    return [
        _kept(out / f"{one.suite.name}.topline-{sha256[:12]}.parquet", one, by, sides) if one.suite.texts else None
        for one in spoken
    ]


def _kept(path: Path, one: SpokenSuite, by: Values, sides: Callable[[SpokenSuite], tuple[Sides, str]]) -> ScoredPairs:
    """Return the scored pairs at `path` if the same model scored the same suite; else score, write and return them.

    `sides` gives the scores and how the model's documents begin."""
    facts = {"suite": one.suite.name, "version": one.suite.version, "checksum": one.checksum} | by
    if path.is_file():
        try:
            kept = ScoredPairs.read(path)
        except BadInput as error:
            _log.warning("%s It is scored again.", error)
        else:
            if facts.items() <= kept.facts.items() and facts.get("end") == kept.facts.get("end"):
                return kept
    found, opening = sides(one)
    scored = ScoredPairs.join(one.suite, found, facts | {"opening": opening})
    scored.write(path)
    return scored


def _topline(text_lm: str | Path | None, read: ScoredPairs | None, rules: Sequence[Normalize], seed: int) -> Values:
    if text_lm is None:
        return {}
    if read is None:
        return {"topline": None}
    scores = {rule: _groups(averages(read, normalize=rule, seed=seed), n_pairs(read)) for rule in rules}
    facts = {"text_lm": str(text_lm), "model_sha256": read.facts["model_sha256"], "protocol": TOPLINE_PROTOCOL}
    return {"topline": facts | {"scores": scores}}


def _groups(scores: Mapping[str, Score], sizes: Mapping[str, int]) -> Values:
    return {g: {"accuracy": s.value, "ci": s.ci, "n": s.n, "n_pairs": sizes[g]} for g, s in scores.items()}


def _numbers(models: Sequence[Path], scored: Sequence[ScoredPairs], rules: Sequence[Normalize], seed: int) -> Values:
    facts, sizes = scored[0].facts, n_pairs(scored[0])
    scores, protocols, gaps = {}, {}, {}
    for rule in rules:
        of_models = [averages(one, normalize=rule, seed=seed) for one in scored]
        protocols[rule] = of_models[0]["all"].protocol
        scores[rule] = [
            {
                "model": str(folder),
                "model_sha256": one.facts["model_sha256"],
                "groups": _groups(groups, sizes),
            }
            for folder, one, groups in zip(models, scored, of_models, strict=True)
        ]
        if len(scored) == 2:
            gaps[rule] = {g: d._asdict() for g, d in differences(*scored, normalize=rule, seed=seed).items()}
    kept = {name: facts[name] for name in ("suite", "version", "checksum", "unit_spec")}
    return kept | {"seed": seed, "protocols": protocols, "scores": scores, "differences": gaps}


def _weights(folder: Path, spec: UnitSpec) -> str:
    """Return the sha256 over a model's files, which must be of units of `spec`."""
    home = lm_folder(folder)
    if not any(home.glob("*.safetensors")):
        raise CheckpointError(f"{folder} is not a trained model: no *.safetensors in {home}.")
    if (home / "unit_spec.json").is_file():  # before any work: the scores would refuse it only after the tokenizer pass
        made_for = read_spec(home / "unit_spec.json")
        made_for.require(spec, mine=f"the model {folder}", theirs="the tokenizer")
    return digest(home)


def digest(folder: Path) -> str:
    """Return the sha256 over the names and contents of a model's files."""
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        digest.update(f"{file.name} {file_sha256(file)}\n".encode())
    return digest.hexdigest()


def _accuracy(score: Mapping[str, Any]) -> str:
    return f"{score['accuracy']:6.1%}{_interval(score['ci'], '.1f')}"


def _interval(ci: Sequence[float | None], form: str) -> str:
    low, high = ci
    return "" if low is None or high is None else f" [{low * 100:{form}}, {high * 100:{form}}]"
