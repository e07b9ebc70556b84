"""Folders of models: trained ones, ready to compute; what makes a text LM what it is."""

from __future__ import annotations

from pathlib import Path

import torch

from twistlm.compute.devices import device
from twistlm.files.artifacts import file_sha256
from twistlm.lm.model import UnitLM


def load_model(folder: str | Path) -> UnitLM:
    """Return a trained model on the device that computes; a run's folder stands for the model in its `lm/`."""
    folder = Path(folder)
    return place(UnitLM.load(folder / "lm" if (folder / "lm").is_dir() else folder))


def text_lm_files(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file that makes a text LM what it is."""
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    return {file.name: file_sha256(file) for file in files if file.is_file()}


def place(lm: UnitLM) -> UnitLM:
    """Move the model to the device that computes, and return it."""
    module: torch.nn.Module = lm.model
    module.to(device())
    return lm
