"""What a reader of a corpus may be told, and which columns of a table it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twistlm.corpus.readers.tables import WORDS, words
from twistlm.errors import BadInput

LONGEST = 30.0  # s: a clip where files are cut, if nothing else is said
# Names of columns that are understood, the first that is there wins.
PATHS = (
    *("path", "file_name", "audio", "file", "filename", "audio_path", "audio_file", "audio_filepath", "file_path"),
    *("filepath", "wav", "wav_path", "sound"),
)
IDS = ("id",)
TEXTS = ("text", "normalized_text", "sentence", "transcription", "transcript", "raw_text")
SPEAKERS = ("speaker_id", "speaker", "client_id")
SPLITS = ("split",)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the caller says of a corpus.

    Attributes:
        max_seconds: longest clip, where long files are cut by the corpus's own marks; None: `longest`.
        subset: which part of a corpus whose parts hold each other (GigaSpeech); "" is all of it.
        path, id, text, speaker, split: columns of a table, in whatever case they stand there; None takes the first that
            is known by its name, "" takes none.
    """

    max_seconds: float | None = None
    subset: str = ""
    path: str | None = None
    id: str | None = None
    text: str | None = None
    speaker: str | None = None
    split: str | None = None

    @property
    def longest(self) -> float:
        """The longest clip in seconds."""
        return LONGEST if self.max_seconds is None else self.max_seconds

    @property
    def columns(self) -> dict[str, str]:
        """The columns that were named: "text" -> "sentence"."""
        fields = ("path", "id", "text", "speaker", "split")
        return {field: value for field in fields if (value := getattr(self, field)) is not None}


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what; "" where none does."""

    id: str
    text: str
    speaker: str
    split: str


def choose(there: Sequence[str], options: Options, *, where: object) -> Columns:
    """Return which of the columns that are `there` are used. BadInput for one that was named and is not there."""
    known = {"id": IDS, "text": TEXTS, "speaker": SPEAKERS, "split": SPLITS}
    return Columns(**{field: column(there, field, known[field], options, where=where) for field in known})


def column(there: Sequence[str], field: str, known: Sequence[str], options: Options, *, where: object) -> str:
    """Return the column for a field: the one that was named, else the first known name that is there, else ""."""
    # As it is written before as it may be written.
    lower = {name.lower(): name for name in reversed(there)} | {name: name for name in there if name.islower()}
    named = options.columns.get(field)
    if named is None:
        return next((lower[name] for name in known if name in lower), "")
    if named in there:
        return named
    if named and named.lower() not in lower:
        raise BadInput(f"{where}: has no column {named!r} (--{field}-column); it has: {', '.join(there)}.")
    return lower[named.lower()] if named else ""


def split_told(value: str, *, default: str) -> str:
    """Return the split that a cell of a table names: its words' if they tell one, else what stands there."""
    told = {WORDS[word] for word in words(value) if word in WORDS}
    return told.pop() if len(told) == 1 else value.strip() or default
