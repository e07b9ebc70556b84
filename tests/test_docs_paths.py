"""Files and modules that the docs, the docstrings and the comments name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "twistlm"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "RESULTS.md")] + sorted((ROOT / "docs").rglob("*.md"))
FOLDERS = ("assets", "benchmarks", "docs", "recipes", "runs", "src", "tests")
WRITTEN = sorted(path for name in FOLDERS for kind in ("py", "sh") for path in (ROOT / name).rglob(f"*.{kind}"))
NAMES = {path.name for path in (*WRITTEN, *ROOT.glob("*.*"))}
ROOMS = sorted(path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file())

PATH = re.compile(r"(?<![\w/.<{}*~-])((?:[\w-]+/)*[\w-]+\.(?:py|sh))(?![\w/])")
DOTTED = re.compile(rf"(?:`|twistlm\.)((?:{'|'.join(ROOMS)})(?:\.[A-Za-z_]\w*)+)(?:\([^`]*\))?(?:`|\b)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)")


def missing_paths(text: str) -> list[str]:
    """Scripts and modules that are nowhere, from the root, from the package, or (a bare name) anywhere at all."""
    return [
        path
        for path in PATH.findall(text)
        if not any((top / path).is_file() for top in (ROOT, SOURCE, SOURCE.parent))
        and ("/" in path or path not in NAMES)
    ]


def missing_modules(text: str) -> list[str]:
    """Dotted names below a room that are neither modules nor named in one."""
    return [name for name in DOTTED.findall(text) if not _there(name.split("."))]


def _there(parts: list[str]) -> bool:
    at = SOURCE
    for i, part in enumerate(parts):
        if (at / f"{part}.py").is_file():
            text = (at / f"{part}.py").read_text(encoding="utf-8")
            return all(re.search(rf"\b{name}\b", text) for name in parts[i + 1 :])
        if not (at / part).is_dir():
            return re.search(rf"\b{part}\b", (at / "__init__.py").read_text(encoding="utf-8")) is not None
        at /= part
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert missing_paths(text) == [] and missing_modules(text) == []
    assert [link for link in LINK.findall(text) if not (page.parent / link).exists()] == []


def test_what_the_source_names_is_there() -> None:
    found = {}
    for path in (p for p in WRITTEN if p.is_relative_to(SOURCE)):
        text = path.read_text(encoding="utf-8")
        if missing := missing_paths(text) + missing_modules(text):
            found[str(path.relative_to(SOURCE))] = missing
    assert found == {}


def test_a_name_that_is_nowhere_is_found() -> None:
    assert missing_paths("see `lm/nowhere.py`, `nowhere.py` and `lm/model.py`, `runs/nowhere.sh`") == [
        "lm/nowhere.py", "nowhere.py", "runs/nowhere.sh",
    ]  # fmt: skip
    said = "`lm.nowhere`, `twistlm.lm.model.UnitLM`, twistlm.lm.model.Nobody, `lm.model`, `units.quality.abx`"
    assert missing_modules(said) == ["lm.nowhere", "lm.model.Nobody"]
