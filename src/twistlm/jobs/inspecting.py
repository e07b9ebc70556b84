"""What is this path (`describe`)? Which tokenizer and vocoder fit it?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twistlm.audio import decoding
from twistlm.audio.finding import is_sound
from twistlm.corpus.manifest import read
from twistlm.errors import AudioError, BadInput
from twistlm.evaluate.suites.catalogue import BUNDLED as SUITES
from twistlm.evaluate.suites.catalogue import open_suite
from twistlm.files.artifacts import bundled
from twistlm.files.jsonl import read_json
from twistlm.files.text import read_text
from twistlm.jobs.parts import named_by_run, spec_of
from twistlm.listen.store import read_answers
from twistlm.listen.study import ANSWERS, open_study
from twistlm.lm.phases import phases
from twistlm.pages.report import SHAPE
from twistlm.study.grid import rows
from twistlm.types import UnitSpec
from twistlm.units.catalogue import read_spec, tokenizer_of
from twistlm.vocoder.catalogue import vocoder_of
from twistlm.vocoder.voices import read_voices

_SPEECH = ("hubert", "wav2vec2", "wavlm", "data2vec-audio", "whisper")  # model types that tokenizers begin with
Facts = dict[str, Any]


def describe(path: str | Path, *, search: Sequence[str | Path] = ()) -> Facts:
    """Return what a file or folder is and what it says of itself; `kind` comes first.

    Knows sound files, manifests, folders of units, tokenizers, vocoders, unit LMs, training runs, quickstart runs,
    studies, listening studies and their analyses, and text LMs.
    Where nothing lies at `path`, it may be the name of something bundled.
    What has a UnitSpec is said with the tokenizer and vocoder here that fit it, looked for below `search` too.

    Raises:
        BadInput: no such path, or none of these. AudioError: a broken sound file.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() in (".jsonl", ".json"):
            return _object(path) or _manifest(path)
        try:
            seconds, rate, channels, note = decoding.info(path)
        except AudioError as error:
            if is_sound(path.name):
                raise
            shard = " A shard is shown with its folder." if path.suffix == ".parquet" else ""
            raise BadInput(
                f"{path} is nothing twistlm knows: no sound, and no manifest by its suffix.{shard}"
            ) from error
        told = {"kind": "sound file", "seconds": seconds, "sample_rate": rate, "channels": channels}
        return {**told, "note": note} if note else told
    facts: Facts = {}
    if not path.exists():
        if str(path) in SUITES:
            suite, folder = open_suite(str(path)), bundled(SUITES[str(path)])
            return {"kind": "suite", "folder": str(folder), "pairs": len(suite.pairs), "version": suite.version}
        if str(path) == "speech":
            return _manifest(bundled("speech/manifest.jsonl"))
        path = _bundled(str(path))
        facts = {"kind": "", "folder": str(path)}
    if not path.is_dir():
        raise BadInput(f"{path}: no such file or folder.")
    facts |= _described(path)
    kind = facts["kind"]
    spec = _units_of(path, kind)
    if spec is None:
        return facts
    fits = fitting(spec, path / "warm" if kind == "quickstart run" else path, search=search)
    return facts | {part: found for part, found in fits.items() if part != kind}


def _bundled(name: str) -> Path:
    """Return the folder of what is bundled under a name; of a tokenizer and its vocoder, the tokenizer's."""
    ships = [folder for kind in ("lm", "tokenizer", "vocoder", "encoder") for folder in sorted(bundled(kind).iterdir())]
    found = next((folder for folder in ships if folder.name == name and folder.is_dir()), None)
    if found is None:
        names = dict.fromkeys([*(folder.name for folder in ships if folder.is_dir()), *SUITES, "speech"])
        raise BadInput(f"{name}: no such file or folder, and nothing bundled has that name: {', '.join(names)}.")
    return found


def fitting(spec: UnitSpec, model: Path, *, search: Sequence[str | Path] = ()) -> Facts:
    """Return which `tokenizer` and `vocoder` here fit a model (or whatever else) of `spec`; nothing is fetched."""
    named = named_by_run(model)
    tok = tokenizer_of(spec, search=search, named=named.get("tokenizer"), fetch=False)
    voc = vocoder_of(spec, search=search, named=named.get("vocoder"))
    return {"tokenizer": str(tok or "none here of these units"), "vocoder": str(voc or "none here of these units")}


def _units_of(path: Path, kind: str) -> UnitSpec | None:
    """Return what the units of a folder of this kind are; None for kinds that have none."""
    if kind in ("tokenizer", "vocoder", "unit LM", "units"):
        return spec_of(path)
    record = {"training run": "config.json", "quickstart run": "results.json"}.get(kind)
    if record is None or not (path / record).is_file():  # an unfinished quickstart has no results
        return None
    return UnitSpec.from_dict(_json(path / record)["unit_spec"])


def _described(path: Path) -> Facts:
    """Return what a folder is and what it says of itself."""
    has = {child.name for child in path.iterdir()}
    if {"study.json", "trials.jsonl"} <= has:
        return _listening(path)
    if "results.json" in has and {"rules", "kept"} <= (results := _json(path / "results.json")).keys():
        counts = _some(results["kept"], "ratings", "raters", "items")
        return {"kind": "analysis of a listening study", "design": results["design"], **counts}
    if "study.jsonl" in has:
        return _study(path)
    if "results.json" in has:
        return {"kind": "quickstart run", **_headline(_results(path / "results.json"))}
    if (path / "stages" / "lock").is_file():
        done = sorted(file.stem for file in (path / "stages").glob("*.json"))
        told = {"state": "unfinished; the command that began it goes on", "stages done": ", ".join(done) or "none"}
        return {"kind": "quickstart run", **told}
    if "spec.json" in has:
        return {"kind": "tokenizer", **_spec(path / "spec.json")}
    if {"metrics.jsonl", "config.json"} <= has:
        record = _json(path / "config.json")
        state = "finished" if "result.json" in has else "unfinished"
        told = _some(record, "fingerprint", "run_fingerprint", "precision", "precision_because", "config", "inputs")
        if more := phases(path)[1:]:  # its folder stands for the model that came last
            updates = [_json(run / "config.json")["config"]["updates"] for run in (path, *more)]
            state += f"; gone on with, and stands for {more[-1]}: {' + '.join(map(str, updates))} updates"
        if (begun := path / f"more-{len(more) + 1}").joinpath("config.json").is_file():
            state += f"; {begun.name} is unfinished: the twist train --more that began it goes on"
        return {"kind": "training run", "state": state, **told}
    if "provenance.json" in has and "unit_spec.json" in has:
        start = _json(path / "provenance.json")
        told = _some(start, "start", "text_lm", "source", "rows", "seed", "kept", "new")
        return {"kind": "unit LM", **told, **_spec(path / "unit_spec.json")}
    if {"unit_spec.json", "vocab.json"} <= has:
        what = "llama.cpp" if "model.gguf" in has else "vLLM"
        return {"kind": "exported unit LM", "for": what, **_spec(path / "unit_spec.json")}
    if "unit_spec.json" in has:
        return {"kind": "vocoder", **_spec(path / "unit_spec.json"), **_voices(path)}
    if "vocoder" in has and (path / "vocoder" / "unit_spec.json").is_file():
        return {**_described(path / "vocoder"), "kind": "vocoder, with the training it comes from"}
    if any(name.startswith("shard-") for name in has):
        from twistlm.corpus.opened import open_corpus

        corpus = open_corpus(path, split=None)
        return {
            "kind": "units",
            "clips": len(corpus),
            "units": int(corpus.lengths.sum()),
            "minutes": sum(corpus.seconds) / 60,
            "speakers": len(set(corpus.speakers)),
            "clips_by_split": dict(Counter(corpus.splits)),
            "fingerprint": corpus.fingerprint,
            **_flat_spec(corpus.spec),
        }
    if "encoder.json" in has:
        return {"kind": "encoder", **_scalars(_json(path / "encoder.json"))}
    if "config.json" in has:
        config = _json(path / "config.json")
        speech = config.get("model_type") in _SPEECH
        return {"kind": "speech encoder of transformers" if speech else "text LM", **_scalars(config)}
    raise BadInput(
        f"{path} is nothing twistlm knows: no sound file, units, tokenizer, vocoder, model or run. "
        "For a folder of sound files, use twist manifest."
    )


def _object(path: Path) -> Facts | None:
    """Return what a file with one JSON object says of itself, which is no manifest; None of others."""
    try:
        found = json.loads(read_text(path, "JSON"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    if "path" in found:  # a manifest of one clip
        return None
    if {"suite", "scores", "checksum"} <= found.keys():
        return {"kind": "scores of a suite", **_some(found, "suite", "version")}
    if "perplexity" in found:
        return {"kind": "perplexity of a model", **_some(found, "model", "units", "split", "context")}
    return {"kind": "JSON", "names": sorted(found), "hint": f"twist show {path.parent} says what its folder is"}


def _manifest(path: Path) -> Facts:
    entries = read(path)
    return {
        "kind": "manifest",
        "file": str(path),
        "clips": len(entries),
        "speakers": len({entry.speaker for entry in entries}),
        "clips_by_split": dict(Counter(entry.split for entry in entries)),
        "with_text": sum(bool(entry.text) for entry in entries),
    }


def _listening(path: Path) -> Facts:
    """Return what a listening study asks, and how many have answered."""
    study = open_study(path)
    sessions, answers = read_answers(path / ANSWERS) if (path / ANSWERS).is_file() else ([], [])
    told = _some(dict(study.facts), "design", "question", "systems", "raters", "clips_per_system", "minutes")
    stages = dict(Counter(one["stage"] for one in sessions))
    return {"kind": "listening study", **told, "items": len(study.facts["items"]), "sessions": stages,
            "answers": len(answers)}  # fmt: skip


def _study(path: Path) -> Facts:
    """Return how many runs of a study are finished, by what tells them apart."""
    found = list(rows.read(path).values())
    cells = [row["cell"] for row in found if "cell" in row]
    kind = "long" if cells and "updates" in cells[0] else "steady" if cells and "numerics" in cells[0] else "grid"
    names = ("side", "arm", "layers", "amount", "split", "seed", "updates", "numerics")
    told = {name: values for name in names if (values := sorted({c[name] for c in cells if c.get(name) is not None}))}
    diverged = sum(row["nll"] is None for row in found)
    return {"kind": f"{kind} study", "runs": len(found), "diverged": diverged, **told}


def _voices(path: Path) -> Facts:
    """Return the names that a vocoder can be asked for, and who speaks where none is named; nothing of one voice."""
    voices, own = read_voices(path)
    tables = {"languages": voices.languages, "speakers": voices.speakers, "styles": voices.styles}
    return {kind: ", ".join(sorted(names)) for kind, names in tables.items() if names} | own.to_dict()


def _results(path: Path) -> Facts:
    found: Facts = read_json(path, "the results of a quickstart", shape=SHAPE, nan=True)
    return found


def _headline(results: Facts) -> Facts:
    return {
        "warm_val_nll": results["warm"]["val_nll"],
        "cold_val_nll": results["cold"]["val_nll"],
        "updates_to_cold_loss": results["updates_to_cold_loss"],
        "mini_swuggy": {side: results["mini_swuggy"][side]["accuracy"] for side in ("warm", "cold")},
        "wer_resynth": results["resynthesis"]["wer_resynth"],
        "minutes_taken": results["seconds"]["total"] / 60,
    }


def _scalars(facts: Facts) -> Facts:
    return {name: value for name, value in facts.items() if isinstance(value, str | int | float)}


def _some(facts: Facts, *names: str) -> Facts:
    return {name: facts[name] for name in names if name in facts}


def _spec(path: Path) -> Facts:
    return _flat_spec(read_spec(path))


def _flat_spec(spec: UnitSpec) -> Facts:
    return {"unit_spec": spec.fingerprint, "frame_rate": float(spec.frame_rate), **spec.to_dict()}


def _json(path: Path) -> Facts:
    found: Facts = read_json(path, "a file that describes a model, a run or its results")
    return found
