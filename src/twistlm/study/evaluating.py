"""Models judged on suites of pairs: one tokenizer pass, scores that are kept, a table, and a submission folder.

In the folder of the results, `SUITE.MODEL.parquet` holds every pair's log-probabilities (MODEL: the first digits of its
weights' sha256) and is what a rerun takes instead of scoring again; `SUITE.json` holds the numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from twistlm.artifacts import cache_folder
from twistlm.atomic import atomic_write
from twistlm.errors import BadInput, CheckpointError, offenders
from twistlm.evaluate.averages import Normalize, ScoredPairs, averages, differences, n_pairs
from twistlm.evaluate.catalogue import open_suite
from twistlm.evaluate.pairs import score_sides
from twistlm.evaluate.unit_cache import SpokenSuite, tokenize_suite
from twistlm.evaluate.zerospeech import write_submission
from twistlm.study.judging import without_nan
from twistlm.study.models import load_model
from twistlm.types import UnitSpec
from twistlm.units.tokenizer import SpeechTokenizer

Values = dict[str, Any]


def evaluate(
    model: str | Path,
    suites: Sequence[str],
    *,
    against: str | Path | None,
    normalize: Literal["mean", "sum", "both"] | None,
    tokenizer: str | Path,
    out: str | Path | None,
    submission: str | Path | None = None,
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
        out: where results go; None: `eval/` in the folder of `model`.
        submission: where to write a ZeroSpeech submission of `model`; needs one `normalize`, and suites that have one.
        seed: of the bootstrap.
        progress: show bars.

    Returns:
        `model`, `unit_spec`, and `suites`: suite name -> its numbers, as in `SUITE.json`.

    Raises:
        BadInput: no `normalize`, an unknown or broken suite, or a suite named twice.
        UnitSpecMismatch: a model was made for other units than the tokenizer's.
    """
    if normalize is None:
        raise BadInput("say how pairs are compared, since it moves the number: --normalize mean, sum or both.")
    if submission is not None and normalize == "both":
        raise BadInput("a submission holds one score a file: give --normalize mean or --normalize sum.")
    opened = [open_suite(name) for name in suites]
    names = [suite.name for suite in opened]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"suites named twice: {offenders(doubled)}. Evaluate them one by one, each with its own --out.")
    if submission is not None and not any(suite.submission for suite in opened):
        raise BadInput(f"none of the suites {offenders(names)} has a ZeroSpeech submission.")
    tok = SpeechTokenizer.load(tokenizer)
    models = [Path(model)] if against is None else [Path(model), Path(against)]
    weights = [_weights(folder, tok.spec) for folder in models]
    cache = cache_folder() / "eval-units"
    spoken = [tokenize_suite(suite, tok, cache=cache, progress=progress) for suite in opened]

    out = Path(model) / "eval" if out is None else Path(out)
    scored = [_score(folder, sha, spoken, tok.spec, out) for folder, sha in zip(models, weights, strict=True)]
    rules: list[Normalize] = ["mean", "sum"] if normalize == "both" else [normalize]
    values: Values = {"model": str(model), "unit_spec": tok.spec.fingerprint, "results": str(out), "suites": {}}
    for i, suite in enumerate(opened):
        of_models = [tables[i] for tables in scored]
        numbers = without_nan(_numbers(models, of_models, rules, seed))
        with atomic_write(out / f"{suite.name}.json") as temporary:
            temporary.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        values["suites"][suite.name] = numbers
    if submission is not None:
        for benchmark in ("sLM21", "prosAudit"):
            files = {
                suite.submission: table.by_clip(rules[0])
                for suite, table in zip(opened, scored[0], strict=True)
                if suite.submission and (benchmark == "prosAudit") == suite.submission.startswith("english_")
            }
            if files:
                write_submission(Path(submission) / benchmark, files, benchmark=benchmark)
        values["submission"] = str(submission)
    return values


def table(values: Mapping[str, Any]) -> str:
    """Return the numbers of `evaluate` as text: a line for each group of each suite and each normalisation."""
    lines = []
    for suite, numbers in values["suites"].items():
        lines.append(f"{suite}: version {numbers['version']}, sha256 {numbers['checksum'][:16]}")
        for rule, by_model in numbers["scores"].items():
            lines.append(f"  {numbers['protocols'][rule]}")
            first, *others = by_model
            width = max(map(len, first["groups"]))
            for group, score in first["groups"].items():
                text = f"    {group:{width}}  {_accuracy(score)}  n {score['n']}"
                for other in others:
                    gap = numbers["differences"][rule][group]
                    ends = _interval(gap["ci"], "+.1f")
                    text += f"  against {_accuracy(other['groups'][group])}: {gap['mean'] * 100:+.1f}{ends}, "
                    text += f"p = {gap['p']:.2g}"
                lines.append(text)
    return "\n".join(lines)


def _score(folder: Path, sha256: str, spoken: Sequence[SpokenSuite], spec: UnitSpec, out: Path) -> list[ScoredPairs]:
    """Score every suite, taking from `out` what was scored before; the model is loaded only when something was not."""
    lm, tables = None, []
    for one in spoken:
        facts = {
            "suite": one.suite.name,
            "version": one.suite.version,
            "checksum": one.checksum,
            "unit_spec": spec.fingerprint,
            "model_sha256": sha256,
        }
        path = out / f"{one.suite.name}.{sha256[:12]}.parquet"
        if path.is_file() and (kept := ScoredPairs.read(path)).facts == facts:
            tables.append(kept)
            continue
        lm = load_model(folder) if lm is None else lm
        scored = ScoredPairs.join(one.suite, score_sides(lm, one.units, one.suite.pairs), facts)
        scored.write(path)
        tables.append(scored)
    return tables


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
                "groups": {
                    group: {"accuracy": s.value, "ci": s.ci, "n": s.n, "n_pairs": sizes[group]}
                    for group, s in groups.items()
                },
            }
            for folder, one, groups in zip(models, scored, of_models, strict=True)
        ]
        if len(scored) == 2:
            gaps[rule] = {g: d._asdict() for g, d in differences(*scored, normalize=rule, seed=seed).items()}
    kept = {name: facts[name] for name in ("suite", "version", "checksum", "unit_spec")}
    return kept | {"seed": seed, "protocols": protocols, "scores": scores, "differences": gaps}


def _weights(folder: Path, spec: UnitSpec) -> str:
    """Return the sha256 over a model's files, which must be of units of `spec`."""
    home = folder / "lm" if (folder / "lm").is_dir() else folder
    files = sorted([*home.glob("*.json"), *home.glob("*.safetensors")]) if home.is_dir() else []
    if not any(f.suffix == ".safetensors" for f in files):
        raise CheckpointError(f"{folder} is not a trained model: no *.safetensors in {home}.")
    if (home / "unit_spec.json").is_file():  # before any work: the scores would refuse it only after the tokenizer pass
        made_for = UnitSpec.from_json((home / "unit_spec.json").read_text(encoding="utf-8"))
        made_for.require(spec, mine=f"the model {folder}", theirs="the tokenizer")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _accuracy(score: Mapping[str, Any]) -> str:
    return f"{score['accuracy']:6.1%}{_interval(score['ci'], '.1f')}"


def _interval(ci: Sequence[float | None], form: str) -> str:
    low, high = ci
    return "" if low is None or high is None else f" [{low * 100:{form}}, {high * 100:{form}}]"
