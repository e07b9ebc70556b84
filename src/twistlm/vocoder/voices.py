"""Who speaks, and how: languages, speakers and styles by name, as the files of a vocoder name them.

A row of a table that nobody trained sounds like no one. So a voice is chosen by name, only names that the vocoder's
files (or its training) give are known, and nothing is guessed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from twistlm.errors import BadInput, offenders
from twistlm.files.jsonl import check_shape, read_json


@dataclass(frozen=True, kw_only=True)
class Voice:
    """What is asked for; None where the vocoder has only one, or knows which goes without saying."""

    language: str | None = None
    speaker: str | None = None
    style: str | None = None

    def over(self, other: Voice) -> Voice:
        """This voice; what it leaves open is `other`'s."""
        return Voice(
            language=self.language or other.language,
            speaker=self.speaker or other.speaker,
            style=self.style or other.style,
        )

    def to_dict(self) -> dict[str, Any]:
        """What is named of it, as `voices.json` keeps the voice that goes without saying."""
        named = {kind: name for kind, name in dataclasses.asdict(self).items() if name is not None}
        return {"voice": named} if named else {}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """What `to_dict` gave; no voice where there is none.

        Raises:
            BadInput: it is something else.
        """
        shape = {"voice?": {f"{kind.name}?": str for kind in dataclasses.fields(cls)}}
        check_shape(fields, shape, where="voices.json", kind="the voices of a vocoder")
        given = fields.get("voice", {})
        return cls(**{kind.name: given.get(kind.name) for kind in dataclasses.fields(cls)})


@dataclass(frozen=True, kw_only=True)
class Voices:
    """Rows of a vocoder's tables by name.

    Attributes:
        languages, speakers, styles: name to row; empty where there is no such table, or nobody says what its rows are.
        of_language: a language's speakers, its usual one first; a language that is not in it has no usual one.
    """

    languages: Mapping[str, int] = field(default_factory=dict)
    speakers: Mapping[str, int] = field(default_factory=dict)
    styles: Mapping[str, int] = field(default_factory=dict)
    of_language: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.languages or self.speakers or self.styles)

    def row(self, kind: str, voice: Voice, *, rows: int, whose: str) -> int:
        """Return the row of one table for a voice.

        Args:
            kind: "language", "speaker" or "style".
            voice: what is asked for.
            rows: of the table.
            whose: of which vocoder, for the error.

        Raises:
            BadInput: the name is not known; or none was given and there are several; or the files name none.
        """
        names: Mapping[str, int] = getattr(self, f"{kind}s")
        asked: str | None = getattr(voice, kind)
        if not names:
            raise BadInput(
                f"{whose} has a table of {rows} {kind}s, and its files do not say which of them were trained: none is "
                f"taken at random. Import it again with a list of their names (--{kind}s FILE, a name a line)."
            )
        if asked is None:
            usual = self.of_language.get(voice.language or "", ()) if kind == "speaker" else ()
            if len(names) > 1 and not usual:
                raise BadInput(f"{whose} has {len(names)} {kind}s: name one with --{kind}. {_known(names)}")
            asked = usual[0] if usual else next(iter(names))
        if asked not in names:
            raise BadInput(f"{whose} was not trained on the {kind} {asked!r}. {_known(names)}")
        return names[asked]

    def to_dict(self) -> dict[str, Any]:
        """`voices.json` of a vocoder's folder, as values."""
        tables = {"languages": self.languages, "speakers": self.speakers, "styles": self.styles}
        of_language = {name: list(speakers) for name, speakers in self.of_language.items()}
        return {**{name: dict(rows) for name, rows in tables.items()}, "of_language": of_language}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """What `to_dict` gave.

        Raises:
            BadInput: it is something else.
        """
        rows = {str: int}
        shape = {"languages": rows, "speakers": rows, "styles": rows, "of_language": {str: [str]}}
        check_shape(fields, shape, where="voices.json", kind="the voices of a vocoder")
        return cls(**{name: fields[name] for name in shape})

    def require_rows(self, *, languages: int, speakers: int, styles: int) -> None:
        """Do nothing when every name stands for a row there is, and every language's speakers are named.

        Raises:
            BadInput: they do not.
        """
        for kind, names, rows in (
            ("languages", self.languages, languages),
            ("speakers", self.speakers, speakers),
            ("styles", self.styles, styles),
        ):
            if wrong := [f"{name} ({row})" for name, row in names.items() if not 0 <= row < rows]:
                raise BadInput(f"the vocoder's table of {kind} has {rows} rows; there is none for {offenders(wrong)}.")
        named = {name for speakers_of in self.of_language.values() for name in speakers_of}
        if unknown := sorted((named - set(self.speakers)) | (set(self.of_language) - set(self.languages))):
            raise BadInput(f"the vocoder's voices name speakers or languages that have no row: {offenders(unknown)}.")


def read_voices(folder: Path) -> tuple[Voices, Voice]:
    """Return a vocoder's voices, and the one that speaks where none is named, from its folder; no names of only one.

    Raises:
        BadInput: `voices.json` is something else. OSError: it cannot be read.
    """
    path = folder / "voices.json"
    if not path.is_file():
        return Voices(), Voice()
    fields = read_json(path, "the voices of a vocoder")
    return Voices.from_dict(fields), Voice.from_dict(fields)


def _known(names: Mapping[str, int]) -> str:
    return f"There are: {offenders(list(names), limit=40)}."
