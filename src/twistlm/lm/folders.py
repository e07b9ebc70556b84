"""Trained models by folder or bundled name, and loaded, ready to compute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from twistlm.errors import CheckpointError
from twistlm.files.artifacts import bundled
from twistlm.files.configs import read_unit_spec
from twistlm.lm.phases import weights_folder
from twistlm.types import UnitSpec

# torch and transformers take four seconds to import: only where a model is loaded, not where one is looked at.
if TYPE_CHECKING:
    import torch

    from twistlm.lm.model import UnitLM

BUNDLED = ("mini-lm",)


def load_model(folder: str | Path) -> UnitLM:
    """Return a trained model on the device that computes; a run's folder stands for the model in its `lm/`.

    A bundled model, or a folder that `lowrank` wrote, is added to its text LM first.
    """
    from twistlm.lm.lowrank import NAME as LOWRANK
    from twistlm.lm.lowrank import restore
    from twistlm.lm.model import UnitLM

    home = lm_folder(folder)
    return place(restore(home) if (home / LOWRANK).is_file() else UnitLM.load(home))


def lm_folder(model: str | Path) -> Path:
    """Return where the weights of a model lie: of a folder see `weights_folder`; of a bundled name, its own folder.

    Raises:
        BadInput: as `weights_folder`.
    """
    return bundled("lm") / str(model) if is_bundled(model) else weights_folder(model)


def is_bundled(model: str | Path) -> bool:
    """Return whether `model` is the name of a bundled model, and no folder here."""
    return str(model) in BUNDLED and not Path(model).exists()


def run_folder(folder: str | Path) -> Path:
    """Return the folder of the run that a model came from; of a model without one, its own; of a bundled one
    `runs/NAME`, where its results lie."""
    if is_bundled(folder):
        return Path("runs") / str(folder)
    folder = Path(folder)
    home = folder.absolute()
    if home.name != "lm" or not (home.parent / "config.json").is_file():
        return folder
    return home.parent if folder == Path() else folder.parent


def model_spec(folder: str | Path) -> UnitSpec:
    """Return what the units of a model are, without loading it.

    Raises:
        BadInput: as `lm_folder`. CheckpointError: no unit LM is there.
    """
    path = lm_folder(folder) / "unit_spec.json"
    if not path.is_file():
        place = Path(folder)
        if not place.exists():
            raise CheckpointError(
                f"{folder}: no such folder, and no bundled model of that name ({', '.join(BUNDLED)})."
            )
        if (place / "metrics.jsonl").is_file() and not (place / "lm").is_dir():
            raise CheckpointError(
                f"{folder} is a run that has not come to its end: give the twist train command again, and it goes on."
            )
        raise CheckpointError(
            f"{folder} is not a trained model: it has no {path.name}. Give the folder of a run of twist train, or what "
            "UnitLM.save or twist import wrote."
        )
    return read_unit_spec(path, "the units of a model", error=CheckpointError)


def place(lm: UnitLM) -> UnitLM:
    """Move the model to the device that computes, and return it."""
    from twistlm.compute.devices import device

    module: torch.nn.Module = lm.model
    module.to(device())
    return lm
