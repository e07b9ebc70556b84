"""The wheel is enough: installed in a fresh environment, it runs the whole loop in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from twistlm import recipes

ROOT = Path(__file__).parents[1]
MOST_MB = 95  # what package indexes take is 100


def test_the_recipe_in_the_package_is_the_file_that_shows_how_to_write_one() -> None:
    assert recipes.load("tiny") == recipes.load(ROOT / "recipes" / "tiny.toml")


@pytest.mark.slow
@pytest.mark.network
def test_the_wheel_runs_outside_a_clone(tmp_path: Path) -> None:
    run = {"check": True, "cwd": tmp_path, "timeout": 3600}
    build = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--quiet", "--wheel-dir", "dist"]
    subprocess.run(build, **run)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.stat().st_size < MOST_MB * 1e6
    subprocess.run([sys.executable, "-m", "venv", "fresh"], **run)
    fresh = tmp_path / "fresh" / "bin"
    subprocess.run([fresh / "python", "-m", "pip", "install", "--no-deps", "--quiet", str(wheel)], **run)
    site = next((tmp_path / "fresh" / "lib").glob("python3*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # what the wheel asks for, behind it
    empty = tmp_path / "empty"
    empty.mkdir()
    run |= {"cwd": empty, "env": {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}}
    where = subprocess.run(
        [fresh / "python", "-c", "import twistlm; print(twistlm.__file__)"], capture_output=True, **run
    )
    assert Path(where.stdout.decode().strip()).is_relative_to(site)
    subprocess.run([fresh / "twist", "quickstart", "--recipe", "tiny"], **run)
    results = json.loads((empty / "runs" / "tiny" / "results.json").read_text())
    assert results and (empty / "runs" / "tiny" / "report.html").is_file()
