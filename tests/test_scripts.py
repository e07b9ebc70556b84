"""What scripts import from the package is there: studies, recipes, benchmarks, which no other test runs."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("tests", "runs", "assets/make", "benchmarks")
SCRIPTS = sorted(script for folder in FOLDERS for script in (ROOT / folder).rglob("*.py"))


def missing(source: str) -> Iterator[str]:
    """Yield what `source` imports from twistlm that is not there: `module.name`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "twistlm":
            for alias in node.names:
                if not _is_there(str(node.module), alias.name):
                    yield f"{node.module}.{alias.name}"


def _is_there(module: str, name: str) -> bool:
    try:
        if hasattr(importlib.import_module(module), name):
            return True
        importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError as error:
        return not str(error.name).startswith("twistlm")  # an extra that is not installed
    return True


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_scripts_import_is_there(folder):
    found = {
        str(script.relative_to(ROOT)): names
        for script in SCRIPTS
        if script.is_relative_to(ROOT / folder) and (names := list(missing(script.read_text(encoding="utf-8"))))
    }
    assert not found


def test_what_is_not_there_is_found():
    source = "from twistlm.study.quickstart import quickstart, gone\nfrom twistlm import recipes, lost\n"
    source += "def f():\n    from twistlm.nowhere import name\n"
    assert list(missing(source)) == ["twistlm.study.quickstart.gone", "twistlm.lost", "twistlm.nowhere.name"]
