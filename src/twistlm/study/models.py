"""Trained models, ready to compute."""

from __future__ import annotations

from pathlib import Path

import torch

from twistlm.lm.model import UnitLM


def load_model(folder: str | Path) -> UnitLM:
    """Return a trained model on the device that computes; a run's folder stands for the model in its `lm/`."""
    folder = Path(folder)
    return place(UnitLM.load(folder / "lm" if (folder / "lm").is_dir() else folder))


def place(lm: UnitLM) -> UnitLM:
    """Move the model to the device that computes, and return it."""
    module: torch.nn.Module = lm.model
    module.to(device())
    return lm


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
