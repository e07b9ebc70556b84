"""Choices of `choices`, from one process to the next on one machine: what was tried once is not tried again.

A trial costs a second of a short continuation, and near the margin its noise decides: units that are cut twice on one
machine would be rounded in two ways. So choices that were timed on a quiet machine are kept in the cache, under a
fingerprint of all that they depend on; another CPU, torch or instruction set has others.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twistlm.compute.threads import cores
from twistlm.errors import BadInput, TwistError
from twistlm.files.artifacts import cache_folder
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import read_json

_TRIALS = 2  # raise when what is timed changes, so that older choices are left alone
_INSTRUCTIONS = ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY")
_CPU = Path("/proc/cpuinfo")
_log = logging.getLogger(__name__)


def file() -> Path:
    """Return where this machine's choices are kept; it need not be there. Removed, they are made anew."""
    return cache_folder() / "choices" / f"{_machine(tuple(os.environ.get(name, '') for name in _INSTRUCTIONS))}.json"


def recalled() -> dict[str, dict[str, Any]]:
    """Return "kind: what" -> the choice as JSON has it. Nothing where none is kept, or the file is damaged."""
    try:
        return read_json(file(), "this machine's choices", fix="Remove it.") if file().is_file() else {}
    except (BadInput, OSError, RuntimeError) as error:  # the last: there is no home folder
        _log.debug("choices of this machine are made anew: %s", error)
        return {}


def remember(new: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep these choices beside those that are kept, where they can be written."""
    try:
        file().parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file()) as temporary:
            temporary.write_text(json.dumps({**recalled(), **new}, indent=1) + "\n", encoding="utf-8")
    except (TwistError, OSError, RuntimeError) as error:
        _log.debug("choices of this machine are not kept: %s", error)


@functools.cache
def _machine(instructions: tuple[str, ...]) -> str:
    """Return 16 hex digits over what choices depend on: CPU, cores, torch, and instructions that are left out."""
    import torch

    told = _CPU.read_text().splitlines() if _CPU.is_file() else []
    names = ("model", "flags", "CPU implementer", "CPU variant", "CPU part", "Features")  # the last four: ARM's
    cpu = "\n".join(sorted({line for line in told if line.startswith(names)}))
    parts = (
        cpu or platform.processor(),
        platform.machine(),
        str(cores()),
        torch.__version__,
        str(_TRIALS),
        *instructions,
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
