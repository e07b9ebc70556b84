"""Every stage on a GPU that is simulated (tests/gpu): no device is mixed, and how often the host waits for the GPU.

An update waits once, for its loss and the norm of its gradient; sampling waits at its end and for no token; a batch
that is scored or tokenized waits for its results alone, and a step of those who are served for what they are sent.
Numbers, speed and memory are not seen here: see `-m gpu` and benchmarks/gpu.py.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

GPU = Path(__file__).parent / "gpu"
QUICK = (
    "train opt-350m",
    "score smollm2-135m",
    "sample 3 qwen2.5",
    "serve smollm2-135m",
    "vocode, given durations",
    "quickstart",
)
SMALL = ("copy () ", "copy (0,) ")
WAITS = 1  # how often a stage may wait: an update once, a batch for its results, sampling at its end
pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="the simulation needs a C++ compiler, g++"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="torch is built for GPUs, which it cannot simulate"),
]


@functools.cache
def ran(*stages: str) -> dict[str, Any]:
    """What each stage did; in a process of its own, since torch must not be imported before."""
    done = subprocess.run(
        [sys.executable, str(GPU / "stages.py"), *stages],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(found: dict[str, Any]) -> None:
    odd = {stage: did["failed"] for stage, did in found.items() if did["failed"]}
    assert not odd
    waited = {stage: did["waits"] for stage, did in found.items() if sum(did["waits"].values()) > WAITS}
    assert not waited
    # Of one value or none: transformers' own (an empty cache, a scalar of a mask), which are not worth pinning.
    # Nor are the places of listeners, some bytes a step.
    copies = {
        stage: [c for c in did["unpinned"] if not c.startswith(SMALL)]
        for stage, did in found.items()
        if not stage.startswith("serve ")
    }
    assert not {stage: some for stage, some in copies.items() if some}


@pytest.mark.thorough
def test_stages_on_a_simulated_gpu() -> None:
    found = ran(*QUICK)
    assert found.keys() == set(QUICK)
    check(found)
    assert all(did["kernels"] > 20 for did in found.values())


@pytest.mark.slow
def test_every_stage_and_family_on_a_simulated_gpu() -> None:
    check(ran("--all"))
