"""What `twist eval` does: perplexity and suites of pairs of a model, all there is when nothing is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from twistlm.compute import choices
from twistlm.compute.devices import device
from twistlm.corpus.opened import UnitCorpus, open_corpus
from twistlm.corpus.shards import shard_paths
from twistlm.errors import BadInput
from twistlm.evaluate.perplexity import compare_per_second
from twistlm.evaluate.suites.catalogue import BUNDLED, open_suite
from twistlm.evaluate.unit_cache import SpokenSuite, tokenize_suite
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import read_json, without_nan
from twistlm.jobs.carding import note_scores
from twistlm.jobs.evaluating import digest, evaluate
from twistlm.jobs.parts import parts_of_model, tokenizer_for
from twistlm.lm.folders import is_bundled, lm_folder, load_model, model_spec, run_folder
from twistlm.lm.phases import phases
from twistlm.lm.pretrained import load_config, positions_of
from twistlm.progress import task
from twistlm.study.judging import Values, perplexity, perplexity_values
from twistlm.units.tokenizer import SpeechTokenizer

CONTEXT = 256  # tokens, for a model without a record of its training


def judge(
    model: str | Path,
    suites: Sequence[str] = (),
    *,
    normalize: Literal["mean", "sum", "both"] = "both",
    against: str | Path | None = None,
    out: str | Path | None = None,
    submission: str | Path | None = None,
    topline: str | Path | None = None,
    end_token: bool = False,
    units: str | Path | None = None,
    against_units: str | Path | None = None,
    split: str = "heldout",
    context: int | None = None,
    tokenizer: str | Path | None = None,
    search: Sequence[str | Path] = (),
    seed: int = 0,
    progress: bool = False,
) -> Values:
    """Judge a model on what is named; where neither suites nor units are, on all there is: every bundled suite, and the
    perplexity of what its training held out.

    Args:
        model: folder of a model or of its run.
        suites, normalize, submission, topline, end_token: as of `evaluate`.
        against: a second model: of the same units on suites; its perplexity is compared too, on the same units, or on
            `against_units`.
        out: folder for the results, and `choices.json`, which ways of computing were taken (`compute.choices`): a rerun
            takes the same. None: `eval/` in the folder of the run.
        units: folder of units, whose `split` gives the perplexity.
        against_units: the clips of `units` in those of `against`.
        context: window of the perplexity in tokens; None: that of the training.
        tokenizer: name or folder; None: found by what the model's units are.
        search: folders in which it may lie.
        seed: of every bootstrap.
        progress: show bars.

    Returns:
        `model`, `unit_spec`, `results` (a folder), `notes` (what could not be judged, and why), and what was asked for:
        `suites` and `tokenizer`; `perplexity`, `perplexity_against`, `bits_per_second_difference`, which are in
        `perplexity.json` too.

    Raises:
        BadInput: options of suites without suites, or of a perplexity without units.
        As `parts_of_model` (where suites are to be heard), `evaluate` and `open_corpus`.
    """
    if suites and units is None and (split != "heldout" or context is not None):
        raise BadInput("--split and --context are of a perplexity, which suites alone do not give: add --units.")
    if units is not None and not suites and (tokenizer or search or normalize != "both"):
        raise BadInput("--tokenizer, --search and --normalize are of suites, and only a perplexity is asked for.")
    if against_units is not None and (units is None or against is None):
        raise BadInput("--against-units compares perplexities: give --against, and --units for the first model.")
    spec, run, notes = model_spec(model), run_folder(model), list[str]()
    if not suites and units is None:
        suites = tuple(BUNDLED)
        units, why = units_of_run(run, split=split)
        notes += [f"no perplexity: {why}; --units takes a folder of units"] if units is None else []
    out = run / "eval" if out is None else Path(out)
    if any(out.glob("*.safetensors")):  # a model's files say which model it is
        raise BadInput(f"{out} holds a model, which results in it would change: give --out {out / 'eval'}.")
    values: Values = {"model": str(model), "unit_spec": spec.fingerprint, "results": str(out)}
    held = None if units is None else open_corpus(units, split=split)  # before any work
    other = None
    if held is not None and against is not None:
        same = model_spec(against) == spec
        if against_units is not None or same:
            other = held if against_units is None else open_corpus(against_units, split=split)
        elif not suites:
            raise BadInput(
                f"{against} speaks other units than {model}: give --against-units, the same clips in its own."
            )
    if suites:
        parts = parts_of_model(model, tokenizer=tokenizer, speaks=False, search=search)
        assert parts.tokenizer is not None
        with choices.kept(out / choices.FILE):
            values |= evaluate(
                model,
                suites,
                against=against,
                normalize=normalize,
                tokenizer=parts.tokenizer.folder,
                out=out,
                submission=submission,
                topline=topline,
                end_token=end_token,
                seed=seed,
                progress=progress,
            )
        values |= parts.facts
        notes += values.pop("notes")
    elif submission is not None or topline is not None or end_token:
        raise BadInput(
            "--submission, --topline and --end-token are about suites: name some, or leave --units out for all of them."
        )
    sha256 = digest(lm_folder(model))
    if held is not None:
        window = context or context_of_run(run, model)
        asked = {"units": str(units), "split": split, "context": window, "seed": seed}
        asked |= {} if against is None else {"against": str(against)}
        asked |= {"model_sha256": sha256}
        with choices.kept(out / choices.FILE):
            found = asked | _perplexities(model, held, against, other, context=window, seed=seed, progress=progress)
        notes += _replaced(out / "perplexity.json", asked)
        with atomic_write(out / "perplexity.json") as temporary:
            about = {name: values[name] for name in ("model", "unit_spec")}
            temporary.write_text(json.dumps(about | found, indent=1) + "\n", encoding="utf-8")
        values |= found
    if not is_bundled(model) and (why := note_scores(lm_folder(model), sha256, [out, run / "eval"])):
        notes.append(why)
    return values | {"notes": notes}


def _replaced(path: Path, asked: Values) -> list[str]:
    """Return what to say of numbers that stood at `path` and were of something else."""
    try:
        before = read_json(path, "what twist eval measured", shape={}, nan=True)
    except BadInput:
        return []  # none, or something else, which is no loss
    names = {"model_sha256": "model", **{name: name for name in ("units", "split", "context", "against")}}
    others = [said for name, said in names.items() if before.get(name) != asked.get(name)]
    return (
        [f"{path} held a perplexity of other {', '.join(others)}, and was replaced: --out keeps both"] if others else []
    )


def hear(
    names: Sequence[str],
    units: str | Path,
    cache: str | Path,
    *,
    search: Sequence[str | Path] = (),
    progress: bool = False,
) -> list[SpokenSuite]:
    """Return suites in the units of a folder of units, cut by the tokenizer that made these; kept in `cache`.

    Raises:
        As `tokenizer_for`, `open_suite` and `tokenize_suite`.
    """
    if not names:
        return []
    spec = open_corpus(units, split=None).spec
    part = tokenizer_for(spec, whose=f"the units in {units}", search=search)
    tok = SpeechTokenizer.load(part.folder).on(device())
    return [tokenize_suite(open_suite(name), tok, cache=cache, progress=progress) for name in names]


def units_of_run(run: Path, *, split: str) -> tuple[Path | None, str]:
    """Return the folder of units that a run trained on, if clips of `split` are there; else None, and why not.

    The run's record says where they were; a quickstart's lie beside its models, wherever it was moved to. They count
    only if the documents are those of the training.
    """
    record = _record(run)
    if record is None:
        return None, f"{run} has no record of a training"
    told, trained_on = record.get("units", ""), record["inputs"]["corpus"]
    why = f"the units that {run} trained on are not known"
    for folder in dict.fromkeys(filter(None, (told, str(run.absolute().parent / "units")))):
        if "://" not in folder and not shard_paths(folder):
            why = f"the units that {run} trained on are no more in {folder}" if folder == told else why
            continue
        if open_corpus(folder, split="train").fingerprint != trained_on:
            why = f"the units in {folder} are others than {run} trained on"
            continue
        splits = set(open_corpus(folder, split=None).splits)
        if split in splits or (split == "heldout" and splits != {"train"}):
            return Path(folder), ""
        return None, f"{folder} has no clips of the split {split}"
    return None, why


def context_of_run(run: Path, model: str | Path) -> int:
    """Return the window in tokens that a run was trained with, by the last it went on to; of a model without a record
    CONTEXT, or as many as it has positions."""
    record = _record(phases(run)[-1])
    if record is not None:
        return record["config"]["context"]
    home = lm_folder(model)
    most = positions_of(load_config(home)) if (home / "config.json").is_file() else None
    return min(CONTEXT, most or CONTEXT)


def _record(run: Path) -> Values | None:
    """Return what a run says of itself; None for the folder of a model alone, whose config.json is of transformers.

    Raises:
        BadInput: there is a record, and it is damaged.
    """
    path = run / "config.json"
    if not path.is_file() or (run / "unit_spec.json").is_file():
        return None
    shape = {"config": {"context": int}, "inputs": {"corpus": str}, "units?": str}
    return read_json(path, "the record of a training run", shape=shape)


def _perplexities(
    model: str | Path,
    held: UnitCorpus,
    against: str | Path | None,
    other: UnitCorpus | None,
    *,
    context: int,
    seed: int,
    progress: bool,
) -> Values:
    with task("perplexity", 1, progress):
        one = perplexity(load_model(model), held, context=context, seed=seed)
    values: dict[str, Any] = {"corpus": held.fingerprint}
    values["perplexity"] = perplexity_values(one) | {"protocol": one.protocol}
    if against is not None and other is not None:
        with task("perplexity of the other", 1, progress):
            two = perplexity(load_model(against), other, context=context, seed=seed)
        values["perplexity_against"] = perplexity_values(two) | {"protocol": two.protocol}
        values["bits_per_second_difference"] = compare_per_second(one, two, seed=seed)._asdict()
    return without_nan(values)
