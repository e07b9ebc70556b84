"""Entry point of `twist`: the one file that knows every verb."""

from __future__ import annotations

import typer

from twistlm.cli.command import app


def main() -> None:
    """Run the command line."""
    # Importing them registers their verbs, which --help lists in this order.
    from twistlm.cli import study, data, models, units, bench  # noqa: F401, I001

    typer.main.get_command(app)()
