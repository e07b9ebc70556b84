"""What raters read: Markdown and short strings in each language, copied into the study, where they may be edited."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from twistlm.errors import BadInput, TwistError, offenders
from twistlm.files.jsonl import check_shape, read_toml
from twistlm.files.text import read_text

SECTIONS = (
    *("consent", "instructions", "hearing", "headphones", "training", "rating"),
    *("thanks", "screened_out", "declined", "full"),
)
_DEFAULTS = Path(__file__).parent / "wording"
_SECTION = re.compile(r"^<!--\s*section:\s*(\w+)\s*-->\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Texts:
    """A study's texts in one language.

    Attributes:
        code: "en".
        language: its own name.
        ask, more: the question, and what it is about.
        labels: of the five scores, from 1; empty for A/B.
        ui: short strings by name.
        sections: HTML by name.
    """

    code: str
    language: str
    ask: str
    more: str
    labels: tuple[str, ...]
    ui: Mapping[str, str]
    sections: Mapping[str, Markup]


def known_languages() -> list[str]:
    """Return the codes of languages that twistlm has texts in, English first."""
    return sorted((path.stem for path in _DEFAULTS.glob("*.toml")), key=lambda code: (code != "en", code))


def copy_texts(folder: Path, *, languages: Sequence[str], question: str, design: str) -> None:
    """Write the texts of a study that asks `question`, one of `listen.study.QUESTIONS`."""
    folder.mkdir()
    for code in languages:
        given = _DEFAULTS / f"{code}.toml"
        head, _, ui = given.read_text(encoding="utf-8").partition("[ui]\n")
        asked = re.search(rf"^\[{question}\.{design}\]\n(.*?)(?=^\[|\Z)", head, re.DOTALL | re.MULTILINE)
        top = head.partition("\n[")[0]
        assert asked is not None
        text = f"{top}\n{asked[1].rstrip()}\n\n[ui]\n{ui}"
        (folder / f"{code}.toml").write_text(text, encoding="utf-8")
        (folder / f"{code}.md").write_bytes((_DEFAULTS / f"{code}.md").read_bytes())


def read_texts(folder: Path, code: str, *, clips: int, minutes: float, design: str) -> Texts:
    """Return a study's texts in one language, as they were edited.

    In the Markdown {clips}, {minutes} and {question} are filled in. HTML in it is shown, not obeyed.

    Raises:
        BadInput: a section or a string is missing, or there are not five labels.
    """
    path = folder / f"{code}.toml"
    values = read_toml(path, "texts of a study")
    shape: dict[str, Any] = {"language": str, "ask": str, "more": str, "ui": {str: str}}
    check_shape(
        values, shape | ({"labels": [str]} if design == "mos" else {}), where=str(path), kind="texts of a study"
    )
    wanted = read_toml(_DEFAULTS / "en.toml", "texts of twist listen")["ui"]
    if missing := sorted(set(wanted) - set(values["ui"])):
        raise BadInput(f"{path}: [ui] has no {offenders(missing)}. Put them back, as in another study's texts.")
    labels = tuple(values.get("labels", ()))
    if design == "mos" and len(labels) != 5:
        raise BadInput(f"{path}: there are five scores, from 1 to 5, and {len(labels)} labels.")
    fill = {"clips": str(clips), "minutes": str(max(1, round(minutes))), "question": values["ask"]}
    sections = _sections(folder / f"{code}.md", fill)
    return Texts(code, values["language"], values["ask"], values["more"], labels, values["ui"], sections)


def _sections(path: Path, fill: Mapping[str, str]) -> dict[str, Markup]:
    pieces = _SECTION.split(read_text(path, "texts of a study"))
    found = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    if missing := [name for name in SECTIONS if name not in found]:
        raise BadInput(f"{path}: no section {offenders(missing)}. A section begins with <!-- section: NAME -->.")
    return {name: _html(re.sub(r"\{(\w+)\}", lambda m: fill.get(m[1], m[0]), text)) for name, text in found.items()}


def _html(text: str) -> Markup:
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise TwistError("texts are read by markdown-it-py: pip install 'twistlm[listen]'.") from error
    return Markup(MarkdownIt("commonmark", {"html": False}).render(text))  # html off: tags in it come out escaped
