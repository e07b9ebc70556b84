"""Every error twistlm raises on purpose. Each one says what is wrong, where, the likely cause and the fix."""

from __future__ import annotations

import re
from collections.abc import Sequence

# C0 but for tab and newline, DEL, C1, marks and overrides of direction, separators, halves of surrogate pairs
_UNSEEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class TwistError(Exception):
    """Base of all errors the command line shows as one readable paragraph.

    Attributes:
        exit_code: what `twist` exits with: 2 for bad input, 1 for a job that failed.
    """

    exit_code = 1


class BadInput(TwistError):
    """The caller gave something unusable: a file, a folder, an option, a table."""

    exit_code = 2


class AudioError(BadInput):
    """A sound file is missing, corrupt, empty, silent, too short, or holds NaN or infinite samples."""


class ConfigError(BadInput):
    """An unknown key, a value of the wrong type or out of range in a TOML file or a `--set`."""


class UnitSpecMismatch(BadInput):
    """Two things that were made with different unit definitions were about to meet."""


class ShardError(BadInput):
    """A unit shard is missing, truncated, or is not a unit shard."""


class CheckpointError(BadInput):
    """A checkpoint is missing, incomplete, or belongs to another configuration."""


class ArtifactError(TwistError):
    """A model, tokenizer or other named artifact could not be had, or is corrupt."""


class UrlError(TwistError, OSError):
    """What lies behind a URL could not be listed, read or written: the network, the login, or the address."""


class TrainingError(TwistError):
    """Training cannot go on: a loss that is not finite, or no data to train on."""


class Stopped(TrainingError):
    """A signal ended the training between two updates; its state is saved.

    Attributes:
        exit_code: 128 + the signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, message: str, *, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


def offenders(items: Sequence[object], *, limit: int = 5) -> str:
    """Return the first `limit` items, comma separated, and the total when there are more."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} … ({len(items)} in all)"


def visible(text: str) -> str:
    """Return what a terminal may be given: control characters and marks of direction written out, "\\x1b".

    Names, ids and settings come from files, and could otherwise clear the screen, set its title or hide what follows.
    """
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)
