"""The keys that finished runs of a study are kept under: all that moves their numbers, and nothing else.

A run is made again when its key changes, so a key must not change with twistlm. A setting that came later has a default
in its dataclass which means what was done before there was a choice, and counts only where it says something else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from twistlm.config import TrainConfig, to_dict
from twistlm.lm.phases import text_lm_files, weights_folder

# They move no number; the last two, of a run of one process, at most which rounding a GPU takes.
STILL = ("checkpoint_every", "max_loss_rise", "sharing", "deterministic")
_BEFORE = {"table_rate": 1.0}  # the same of settings that came later and have no default


def moving(config: TrainConfig) -> dict[str, Any]:
    """Return the settings of a training run that count in its key."""
    before = {f.name: f.default for f in dataclasses.fields(config) if f.default is not dataclasses.MISSING} | _BEFORE
    left_out = {*STILL, *(name for name, value in before.items() if getattr(config, name) == value)}
    return {name: value for name, value in to_dict(config).items() if name not in left_out}


def starting(text_lm: str) -> str | dict[str, str]:
    """Return what counts of a text LM: its name, and of a folder, which may hold others tomorrow, its files' hashes."""
    folder = Path(text_lm)
    return text_lm_files(weights_folder(folder)) if folder.is_dir() else text_lm


def digest(values: Any) -> str:
    """Return 16 hex digits over plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
