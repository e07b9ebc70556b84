"""Trained models, ready to compute."""

from __future__ import annotations

from pathlib import Path

import torch

from twistlm.artifacts import file_sha256
from twistlm.devices import device
from twistlm.lm.model import UnitLM
from twistlm.lm.published import load_published
from twistlm.units.tokenizer import SpeechTokenizer


def load_model(folder: str | Path) -> UnitLM:
    """Return a trained model on the device that computes; a run's folder stands for the model in its `lm/`."""
    folder = Path(folder)
    return place(UnitLM.load(folder / "lm" if (folder / "lm").is_dir() else folder))


def import_published(folder: str | Path, tokenizer: str | Path, out: str | Path) -> UnitLM:
    """Write a published speech LM as a folder of ours, over the units of `tokenizer`, and return it.

    Raises:
        As `load_published` and `SpeechTokenizer.load`.
    """
    lm = load_published(folder, SpeechTokenizer.load(tokenizer).spec)
    lm.save(out)
    return lm


def text_lm_files(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file that makes a text LM what it is."""
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    return {file.name: file_sha256(file) for file in files if file.is_file()}


def place(lm: UnitLM) -> UnitLM:
    """Move the model to the device that computes, and return it."""
    module: torch.nn.Module = lm.model
    module.to(device())
    return lm
