"""The JSON files of a run, first of all config.json: what it was asked, what it was given, what it ran on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from twistlm.compute.precision import choose_precision, linear_shapes
from twistlm.config import TrainConfig, fingerprint, to_dict
from twistlm.corpus.opened import UnitCorpus
from twistlm.errors import CheckpointError
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import read_json
from twistlm.files.metrics import read_history
from twistlm.lm.model import UnitLM

NO_NUMBER = {"max_loss_rise"}  # settings that move no number: a run may go on with another value
_DEFAULTS = {field.name: field.default for field in fields(TrainConfig) if field.default is not MISSING}
_OTHER_START = (
    " A model that was trained in place is no longer the starting model: make it again. Another CPU or library rounds "
    "new rows otherwise, and another number of threads (OMP_NUM_THREADS) a fitted head: go on where it began."
)
PACKAGES = ("twistlm", "torch", "transformers", "numpy", "safetensors", "pyarrow")


def open_record(
    path: Path, lm: UnitLM, corpus: UnitCorpus, config: TrainConfig, *, first_batch: int = 0, start: str | None = None
) -> dict[str, Any]:
    """Write the record of a new run, or return that of the run that began here, if it is the same run.

    The same run has the same configuration, units, documents and starting weights. One that stopped before its first
    update stands in nobody's way. A resumed run keeps the precision it
    began with, also on hardware where `"auto"` would now choose another. `start`: the weights' hash, where it is known.

    Raises:
        CheckpointError: another run began in this folder; names every field that differs.
    """
    same = {
        "config": {name: value for name, value in to_dict(config).items() if name not in NO_NUMBER},
        "inputs": inputs_of(lm, corpus, start=start) | ({"first_batch": first_batch} if first_batch else {}),
    }
    if path.exists() and (record := _require_same(path, same)) is not None:
        return record
    rows = config.batch_rows // config.accumulate * config.context
    precision, choice = choose_precision(config.precision, lm.device, linear_shapes(lm.model), rows=rows)
    record = {
        **same,
        "config": to_dict(config),
        "fingerprint": fingerprint(config),
        "run_fingerprint": run_fingerprint(same),
        "unit_spec": corpus.spec.to_dict(),
        "units": corpus.folder,  # where twist eval finds what was held out; moves no number
        "start": lm.provenance,
        "precision": precision,
        "precision_because": choice.in_words(),
        "precision_seconds": dict(choice.seconds),
        "versions": versions(),
        "hardware": hardware(lm.device),
    }
    write_json(path, record)
    return record


def inputs_of(lm: UnitLM, corpus: UnitCorpus, *, start: str | None = None) -> dict[str, Any]:
    """Return what a run is of, beside its configuration. `start`: the hash of its first weights, where it is known."""
    return {
        "unit_spec": corpus.spec.fingerprint,
        "corpus": corpus.fingerprint,
        "documents": len(corpus),
        "start_weights": start or weights_sha256(lm.model),
        **_frozen(lm.model),
        **_adapters(lm.provenance),
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what of two runs' settings or inputs is not the same, in words; what moves no number aside."""
    return [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in sorted((old.keys() | new.keys()) - NO_NUMBER)
        if old.get(name) != new.get(name)
    ]


def run_fingerprint(record: dict[str, Any]) -> str:
    """Return the name of a run: of its configuration, what moves no number aside, and of its inputs."""
    config = {name: value for name, value in record["config"].items() if name not in NO_NUMBER}
    same = {"config": config, "inputs": record["inputs"]}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def _begun(out: Path) -> bool:
    """Tell whether a run has anything to lose: a state, a result, or more metrics than of the model it began with."""
    if any((out / name).exists() for name in ("checkpoint", "stable", "result.json", "lm")):
        return True
    metrics = out / "metrics.jsonl"
    return metrics.is_file() and any(row["update"] for row in read_history(metrics))


def _require_same(path: Path, new: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the record at `path`; None where it is another run's that made no update, which nobody will miss."""
    fix = "Train in a new folder."
    shape = dict.fromkeys(new, dict)
    record: dict[str, Any] = read_json(path, "the record of a run", shape=shape, fix=fix, error=CheckpointError)
    old = {part: record[part] for part in new}
    old["config"] = _DEFAULTS | old["config"]  # a run of before they were there
    old["inputs"] = known_inputs(record)
    odd = [one for part in new for one in differences(old[part], new[part])]
    if odd and not _begun(path.parent):
        return None
    if odd:
        raise CheckpointError(
            f"another run began in {path.parent}: {'; '.join(odd)}. Its results would be mixed with the new ones: "
            f"train in a new folder, or remove {path.parent}."
            + (_OTHER_START if any(one.startswith("start_weights ") for one in odd) else "")
        )
    return record


def known_inputs(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's inputs; one of before they had the adapters' gets these from how its model began."""
    return _adapters(record.get("start", {})) | record["inputs"]


def _adapters(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return rank, alpha and dropout of LoRA; nothing without. No weight tells alpha."""
    return {"lora": provenance["lora"]} if provenance.get("lora") else {}


def _frozen(model: torch.nn.Module) -> dict[str, str]:
    """Return which parameters do not train; nothing when all do."""
    names = sorted(name for name, p in model.named_parameters() if not p.requires_grad)
    if not names:
        return {}
    return {"frozen": f"{len(names)} tensors, sha256 {hashlib.sha256(chr(10).join(names).encode()).hexdigest()[:16]}"}


def weights_sha256(model: torch.nn.Module) -> str:
    """Return a hash of the names, shapes, types and values of every parameter.

    Of a model that ranks share, all must ask at once.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        digest.update(whole.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return Python's and the packages' versions."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def hardware(device: torch.device) -> dict[str, Any]:
    """Return what the run computes on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path`, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
