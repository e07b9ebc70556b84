"""What the README and the report tell people to type exists: verbs, options, public names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import twistlm
from twistlm import recipes
from twistlm.cli.help import EXAMPLES, examples
from twistlm.cli.main import command
from twistlm.study.commands import commands

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
GROUP = command()


def commands_of(page: Path) -> list[str]:
    """Return every command line of `twist` in a page's fenced blocks (Python's aside), in order: `twist …`."""
    found = []
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        if kind not in ("", "sh", "bash", "console", "shell"):
            continue
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            said = re.sub(r"\$\((?:[^()]|\([^()]*\))*\)", "X", line).removeprefix("$ ")  # what a shell would put in
            start = re.search(r"(?:^|\s)(?:twist|-m twistlm)\s+(?=[a-z])", said)
            if start and not said.startswith("#"):
                found.append("twist " + said[start.end() :])
    return found


def parse(line: str) -> None:
    """Raise unless the command line names a verb, options it has, and all that it needs."""
    program, *arguments = shlex.split(line, comments=True)
    assert program == "twist"
    at = GROUP
    while hasattr(at, "commands"):
        name, *arguments = arguments
        assert name in at.commands, f"{line}: there is no verb {name}"
        at = at.commands[name]
    at.make_context(at.name, arguments)


@pytest.mark.parametrize("command", [command for _, command in commands(recipes.quickstart())])
def test_the_report_s_commands_parse(command):
    parse(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_docs_parses(page):
    for line in commands_of(page):
        parse(line)


def test_every_page_with_commands_is_run_by_the_slow_tests():
    tests = (Path(__file__).parent / "test_docs_run.py").read_text(encoding="utf-8")
    assert not [page.name for page in PAGES if commands_of(page) and f'"{page.name}")' not in tests]


def test_commands_are_found_however_they_are_started(tmp_path):
    (tmp_path / "a.md").write_text(
        "```\n$ twist show a  # what\nmake test\n"
        "torchrun -n 2 \\\n  --at $(host | head -n1):1 -m twistlm train u --out r\n```\n"
        "```python\ntwist = 1\n```\n`twist sing`\n```bash\ntwist doctor\n```\n"
    )
    assert commands_of(tmp_path / "a.md") == ["twist show a  # what", "twist train u --out r", "twist doctor"]
    assert len(commands_of(ROOT / "README.md")) >= 3 and len(commands_of(ROOT / "docs" / "training.md")) == 7
    with pytest.raises(AssertionError, match="no verb sing"):
        parse("twist sing")


def test_help_lists_every_verb_once_by_what_one_wants_with_an_example_that_parses():
    assert {verb for verbs in EXAMPLES.values() for verb in verbs} == set(GROUP.commands)
    for line in examples():
        parse(line)
    text = GROUP.get_help(GROUP.make_context("twist", ["show"], resilient_parsing=True))
    assert list(EXAMPLES) == re.findall(r"^([A-Z]\w+):$", text, re.MULTILINE)[1:]
    for verb in GROUP.commands:
        assert len(re.findall(rf"^  {verb}  ", text, re.MULTILINE)) == 1
        assert "Example:" in GROUP.commands[verb].get_help(
            GROUP.commands[verb].make_context(verb, [], resilient_parsing=True)
        )


def test_an_unknown_option_would_not_parse():
    with pytest.raises(Exception, match="--louder"):
        GROUP.commands["resynth"].make_context("resynth", ["a.wav", "--out", "b.wav", "--louder"])


def test_the_readme_names_every_verb_and_no_other():
    named = set(re.findall(r"`twist ([\w-]+)", README))
    assert named == set(GROUP.commands)


def test_the_readme_s_python_names_are_public():
    used = set(re.findall(r"\btw\.(\w+)", README))
    assert used and used <= set(twistlm.__all__)


def test_the_readme_s_python_compiles():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


def test_the_readme_s_paths_exist():
    root = Path(__file__).parents[1]
    for path in re.findall(r"`((?:src|study|units|corpus|lm|train|evaluate)/[\w/]+\.py)`", README):
        assert (root / "src" / "twistlm" / path.removeprefix("src/twistlm/")).is_file(), path
