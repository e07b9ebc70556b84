"""Entry point of `twist`: the one file that knows every verb."""

from __future__ import annotations

import functools
import gc
from typing import Any

import typer

from twistlm.cli.command import app
from twistlm.cli.help import ByWant, add_examples


@functools.cache
def command() -> Any:
    """Return the whole command line, as click has it."""
    # Importing them registers their verbs.
    from twistlm.cli import bench, data, evaluation, listen, models, serve, study, tokenizers, units, vocoders  # noqa: F401

    app.info.cls = ByWant
    twist: Any = typer.main.get_command(app)
    add_examples(twist)
    return twist


def main() -> None:
    """Run the command line."""
    # Modules are some hundred thousand objects that stay: looking among them for cycles, as often as Python does of
    # itself, is a seventh of the time until a verb begins.
    gc.set_threshold(20_000, 20, 50)
    command()(prog_name="twist")  # however it was started (python -m twistlm, a test): completion goes by it
