"""What is this path (`describe`)? What is there of machine and installation (`diagnose`)?"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from twistlm.audio import decoding
from twistlm.compute.threads import cores
from twistlm.errors import ArtifactError, BadInput
from twistlm.evaluate.suites.catalogue import BUNDLED
from twistlm.files import artifacts, sources
from twistlm.jobs.parts import named_by_run, spec_of
from twistlm.types import UnitSpec
from twistlm.units.catalogue import tokenizer_of
from twistlm.vocoder.catalogue import vocoder_of

Facts = dict[str, Any]
_PACKAGES = ("torch", "transformers", "numpy", "soundfile", "soxr", "pyarrow", "scikit-learn", "faster-whisper", "gguf")
_NEEDED_GB = 6.0  # of memory by the quickstart at most


def describe(path: str | Path, *, search: Sequence[str | Path] = ()) -> Facts:
    """Return what a file or folder is and what it says of itself; `kind` comes first.

    Knows sound files, folders of units, tokenizers, vocoders, unit LMs, training runs, quickstart runs, and text LMs.
    What has a UnitSpec is said with the tokenizer and vocoder here that fit it, looked for below `search` too.

    Raises:
        BadInput: no such path, or none of these. AudioError: a broken sound file.
    """
    path = Path(path)
    if path.is_file():
        seconds, rate, channels = decoding.info(path)
        return {"kind": "sound file", "seconds": seconds, "sample_rate": rate, "channels": channels}
    if not path.is_dir():
        raise BadInput(f"{path}: no such file or folder.")
    facts = _described(path)
    kind = facts["kind"]
    spec = _units_of(path, kind)
    if spec is None:
        return facts
    fits = fitting(spec, path / "warm" if kind == "quickstart run" else path, search=search)
    return facts | {part: found for part, found in fits.items() if part != kind}


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
    return None if record is None else UnitSpec.from_dict(_json(path / record)["unit_spec"])


def _described(path: Path) -> Facts:
    """Return what a folder is and what it says of itself."""
    has = {child.name for child in path.iterdir()}
    if "results.json" in has:
        return {"kind": "quickstart run", **_headline(_json(path / "results.json"))}
    if "spec.json" in has:
        return {"kind": "tokenizer", **_spec(path / "spec.json")}
    if {"metrics.jsonl", "config.json"} <= has:
        record = _json(path / "config.json")
        state = "finished" if "result.json" in has else "unfinished"
        told = _some(record, "fingerprint", "run_fingerprint", "precision", "precision_because", "config", "inputs")
        return {"kind": "training run", "state": state, **told}
    if "provenance.json" in has and "unit_spec.json" in has:
        start = _json(path / "provenance.json")
        told = _some(start, "start", "text_lm", "source", "rows", "seed", "kept", "new")
        return {"kind": "unit LM", **told, **_spec(path / "unit_spec.json")}
    if "unit_spec.json" in has:
        return {"kind": "vocoder", **_spec(path / "unit_spec.json")}
    if any(name.startswith("shard-") for name in has):
        from twistlm.corpus.shards import open_corpus

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
    if "config.json" in has:
        config = _json(path / "config.json")
        return {"kind": "text LM", **{k: v for k, v in config.items() if isinstance(v, str | int | float)}}
    raise BadInput(
        f"{path} is nothing twistlm knows: no sound file, units, tokenizer, vocoder, model or run. "
        "For a folder of sound files, use twist manifest."
    )


def diagnose() -> Facts:
    """Return the state of machine and installation; `problems` lists what is amiss, and is empty when all is well."""
    import torch

    from twistlm.compute.precision import SMOLLM2_135M, choose_precision

    problems: list[str] = []
    packages: Facts = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "missing"
            problems.append(f"the package {name} is missing: pip install {name}")
    things: Facts = {}
    minis = [f"{kind}/mini-25hz-{k}" for k in (100, 500) for kind in ("tokenizer", "vocoder")]
    for folder in ("speech", *dict.fromkeys(BUNDLED.values()), "encoder/mini-25hz", *minis):
        try:
            things[folder] = str(artifacts.bundled(folder))
        except ArtifactError as error:
            things[folder] = "missing"
            problems.append(str(error))
    cache = artifacts.cache_folder()
    nearest = next(p for p in (cache, *cache.absolute().parents) if p.exists())
    if not os.access(nearest, os.W_OK):
        problems.append(f"the cache {cache} cannot be written: set TWISTLM_CACHE to a folder of yours")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if memory < _NEEDED_GB:
        problems.append(f"{memory:.1f} GB of memory; the quickstart may need {_NEEDED_GB:g} GB")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision, choice = choose_precision("auto", device, SMOLLM2_135M, rows=512)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": cores(),
        "memory_gb": memory,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "precision": f"{precision} ({choice.in_words()})",
        "cache": str(cache),
        "cache_free_gb": shutil.disk_usage(nearest).free / 1e9,
        "fetched": fetched(),
        "bundled": things,
        "packages": packages,
        "pip": importlib.util.find_spec("pip") is not None,
        "problems": problems,
    }


def fetched() -> Facts:
    """Return, for each named artifact that has to be fetched, its licence and whether the cache holds a copy."""
    found: Facts = {}
    for name, artifact in sources.ARTIFACTS.items():
        if artifact.kind in ("text-lm", "asr"):
            there = any((artifacts.cache_folder() / name).glob("*/.complete.json"))
            found[name] = f"{artifact.kind}, {artifact.licence}, {'in the cache' if there else 'not fetched yet'}"
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


def _some(facts: Facts, *names: str) -> Facts:
    return {name: facts[name] for name in names if name in facts}


def _spec(path: Path) -> Facts:
    return _flat_spec(UnitSpec.from_json(path.read_text(encoding="utf-8")))


def _flat_spec(spec: UnitSpec) -> Facts:
    return {"unit_spec": spec.fingerprint, "frame_rate": float(spec.frame_rate), **spec.to_dict()}


def _json(path: Path) -> Facts:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BadInput(f"{path} is not JSON ({error}): it was changed or damaged.") from error
