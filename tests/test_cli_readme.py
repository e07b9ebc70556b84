"""What the README and the report tell people to type exists: verbs, options, public names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

import twistlm
from twistlm import recipes
from twistlm.cli import bench, data, models, study, units  # noqa: F401  (importing them registers their verbs)
from twistlm.cli.command import app
from twistlm.study.quickstart import _commands

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
GROUP = typer.main.get_command(app)


@pytest.mark.parametrize("command", [command for _, command in _commands(recipes.quickstart())])
def test_the_report_s_commands_parse(command):
    program, verb, *arguments = shlex.split(command)
    assert program == "twist"
    GROUP.commands[verb].make_context(verb, arguments)


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
