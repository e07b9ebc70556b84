"""Every suite by its name, as `NAME` or `NAME=FOLDER`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from twistlm.errors import BadInput
from twistlm.evaluate.salmon import salmon
from twistlm.evaluate.storycloze import storycloze
from twistlm.evaluate.suites import Suite, mini_swuggy
from twistlm.evaluate.zerospeech import prosaudit, sblimp, swuggy

BUNDLED: dict[str, Callable[[], Suite]] = {"mini-swuggy": mini_swuggy}
SUITES: dict[str, Callable[[str | Path], Suite]] = {
    "mini-swuggy": mini_swuggy,
    "swuggy-dev": partial(swuggy, split="dev"),
    "swuggy-test": partial(swuggy, split="test"),
    "sblimp-dev": partial(sblimp, split="dev"),
    "sblimp-test": partial(sblimp, split="test"),
    "prosaudit-dev": partial(prosaudit, split="dev"),
    "prosaudit-test": partial(prosaudit, split="test"),
    "storycloze": partial(storycloze, name="storycloze"),
    "topic-storycloze": partial(storycloze, name="topic-storycloze"),
    "salmon": salmon,
}


def open_suite(name: str) -> Suite:
    """Return the suite called `name`: "mini-swuggy", or with the folder of its data "sblimp-dev=/data/sLM21-dataset".

    Raises:
        BadInput: no such name, a suite that needs a folder and has none, or as its reader.
    """
    key, has_folder, folder = name.partition("=")
    if key not in SUITES:
        near = difflib.get_close_matches(key, SUITES, n=1)
        raise BadInput(
            f"there is no suite {key!r}{f'; did you mean {near[0]!r}' if near else ''}. There are: {', '.join(SUITES)}."
        )
    if has_folder:
        return SUITES[key](folder)
    if key not in BUNDLED:
        raise BadInput(f"{key} is not bundled: say where its data are, {key}=FOLDER.")
    return BUNDLED[key]()
