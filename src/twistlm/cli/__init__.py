"""The command `twist`. Verbs stand by theme; `command` holds what they share.

Nothing heavy is imported before a verb runs: `twist --help` must answer at once.
"""

from __future__ import annotations

from twistlm.cli.command import main

__all__ = ["main"]
