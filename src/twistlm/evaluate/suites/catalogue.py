"""Every suite by its name, as `NAME` or `NAME=FOLDER`; those that ship by their names alone."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from twistlm.errors import BadInput, offenders
from twistlm.evaluate.suites.salmon import salmon
from twistlm.evaluate.suites.storycloze import storycloze
from twistlm.evaluate.suites.suite import BUILD, SEEN, UNSEEN, Suite
from twistlm.evaluate.suites.zerospeech import prosaudit, sblimp, swuggy
from twistlm.files.artifacts import bundled

Reader = Callable[[str | Path], Suite]
BUNDLED = {  # name -> folder in assets/; two tasks share their prompts
    "mini-swuggy": "mini-swuggy",
    "mini-sblimp": "mini-sblimp",
    "mini-storycloze": "mini-storycloze",
    "mini-topic-storycloze": "mini-storycloze",
}
UNSEEN_VOICE = "flite-rms"  # no bundled tokenizer, vocoder or corpus heard it
_SEEN_VOICES = ("flite-awb", "flite-kal16", "flite-slt")


def _mini(folder: str | Path, *, name: str, read: Reader) -> Suite:
    """Return a bundled suite. Its pairs' groups, and its facet `heard`, tell voices in training from the unseen one."""
    suite = read(folder)
    voices = suite.facets.get("voice") or suite.facets.get("speaker") or {}
    told = set(voices.values()) or {"no voice told"}
    if strange := sorted(told - {UNSEEN_VOICE, *_SEEN_VOICES}):
        raise BadInput(
            f"{folder} is no copy of {name}, whose voices are known to have been heard in training or not: it has "
            f"{offenders(strange)}. Name it for what it is laid out like: {_LIKE.get(name, name[5:])}={folder}."
        )
    heard = {pair: UNSEEN if voice == UNSEEN_VOICE else SEEN for pair, voice in voices.items()}
    pairs = tuple(replace(pair, group=heard[pair.id]) for pair in suite.pairs)
    return replace(suite, name=name, pairs=pairs, facets={"heard": heard, **suite.facets}, submission="")


SUITES: dict[str, Reader] = {
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
_LIKE = {"mini-swuggy": "swuggy-dev", "mini-sblimp": "sblimp-dev"}
SUITES |= {name: partial(_mini, name=name, read=SUITES[_LIKE.get(name, name[5:])]) for name in BUNDLED}


def open_suite(name: str) -> Suite:
    """Return the suite called `name`: "mini-sblimp", or with the folder of its data "sblimp-dev=/data/sLM21-dataset".

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
        made_by = "twist bench" if key not in BUNDLED and (Path(folder) / BUILD).is_file() else ""
        return replace(SUITES[key](folder), made_by=made_by)
    if key not in BUNDLED:
        raise BadInput(f"{key} is not bundled: say where its data are, {key}=FOLDER.")
    return SUITES[key](bundled(BUNDLED[key]))
