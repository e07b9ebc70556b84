"""Folders of models: trained ones, ready to compute; what makes a text LM what it is."""

from __future__ import annotations

from pathlib import Path

import torch

from twistlm.compute.devices import device
from twistlm.errors import BadInput, CheckpointError
from twistlm.files.artifacts import file_sha256
from twistlm.files.jsonl import read_json
from twistlm.lm.model import UnitLM
from twistlm.types import UnitSpec


def load_model(folder: str | Path) -> UnitLM:
    """Return a trained model on the device that computes; a run's folder stands for the model in its `lm/`."""
    return place(UnitLM.load(lm_folder(folder)))


def lm_folder(folder: str | Path) -> Path:
    """Return where the weights of a model lie: a run's folder stands for its `lm/`, the last it went on to (`phases`).

    Raises:
        BadInput: the folder is that of a whole quickstart, which has two models.
    """
    folder = Path(folder)
    if not (folder / "lm").is_dir() and (
        both := [folder / s for s in ("warm", "cold") if (folder / s / "lm").is_dir()]
    ):
        raise BadInput(f"{folder} is a whole quickstart: name one of its models, {' or '.join(map(str, both))}.")
    return phases(folder)[-1] / "lm" if (folder / "lm").is_dir() else folder


def phases(run: str | Path) -> list[Path]:
    """Return the folders of a run and of what it went on to by `twist train --more` (`more-1`, …), finished ones alone.

    The run's own is the first in any case.
    """
    found = [Path(run)]
    while ((more := Path(run) / f"more-{len(found)}") / "result.json").is_file():
        found.append(more)
    return found


def run_folder(folder: str | Path) -> Path:
    """Return the folder of the run that a model came from; of a model without one, its own."""
    folder = Path(folder)
    home = folder.absolute()
    return folder.parent if home.name == "lm" and (home.parent / "config.json").is_file() else folder


def model_spec(folder: str | Path) -> UnitSpec:
    """Return what the units of a model are, without loading it.

    Raises:
        BadInput: as `lm_folder`. CheckpointError: no unit LM is there.
    """
    path = lm_folder(folder) / "unit_spec.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a trained model: it has no {path.name}. Give the folder of a run of twist train, or what "
            "UnitLM.save or twist import wrote."
        )
    return UnitSpec.from_dict(read_json(path, "the units of a model", error=CheckpointError))


def text_lm_files(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file that makes a text LM what it is."""
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    return {file.name: file_sha256(file) for file in files if file.is_file()}


def place(lm: UnitLM) -> UnitLM:
    """Move the model to the device that computes, and return it."""
    module: torch.nn.Module = lm.model
    module.to(device())
    return lm
