"""Verbs whose writes fail: nothing wrong with exit code 0, clear errors, and reruns that give the same.

Of scenarios with fewer than 100 calls the slow tests fail every one, of the others a sample; `python -m faults` (in
tests/) runs every call of all, see docs/results/robustness.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.library import Unavailable, build
from faults.runs import MODES

TESTS = Path(__file__).parent
SCENARIOS = (
    "open", "manifest", "vad", "tokenize", "import-units", "kmeans", "import", "train", "eval", "generate", "resynth",
    "resynth-flac", "resynth-ogg", "blimp", "blimp-ogg", "storycloze", "vocoder", "hubert", "study",
    "study-steady", "study-long",
)  # fmt: skip

FEW = {  # calls: every one of them
    "open", "manifest", "vad", "import-units", "kmeans", "import", "generate", "resynth", "resynth-flac",
    "resynth-ogg", "vocoder",
}  # fmt: skip


def inject(out: Path, *arguments: str) -> None:
    try:
        build(out)
    except Unavailable as why:
        pytest.skip(str(why))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "faults", str(out), *arguments]
    ran = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, timeout=3000)
    assert ran.returncode == 0, f"{ran.stdout[-6000:]}\n{ran.stderr[-3000:]}"
    assert "| all |" in ran.stdout


def test_no_failed_write_gives_wrong_units(tmp_path: Path) -> None:
    inject(tmp_path, "--only", "open-flat", "--modes", "EIO", "torn", "--most", "16")


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_kind_of_fault(scenario: str, tmp_path: Path) -> None:
    inject(tmp_path, "--only", scenario, "--modes", *MODES, "--most", "100" if scenario in FEW else "12")


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario", ["train", "hubert", "vocoder", "tokenize", "study", "study-steady", "study-long", "eval"]
)
def test_killed_and_two_at_once(scenario: str, tmp_path: Path) -> None:
    inject(tmp_path, "--only", scenario, "--kills", "5", "--two", "2")
