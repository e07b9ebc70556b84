"""Data sets with the sound in Parquet, as the Hugging Face hub stores them. Its library `datasets` is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from twistlm.audio.finding import visible
from twistlm.corpus.manifest import Entry
from twistlm.corpus.readers.tables import split_of
from twistlm.corpus.sounds import open_parquet
from twistlm.errors import BadInput, offenders

# Names of columns that are understood, the first that is there wins.
IDS = ("id",)
TEXTS = ("text", "normalized_text", "sentence", "transcription", "transcript", "raw_text")
SPEAKERS = ("speaker_id", "speaker", "client_id")
MILLISECONDS = ("duration_ms",)


def huggingface(folder: Path) -> list[Entry]:
    """A data set of the Hugging Face hub with an audio column, downloaded as Parquet files.

    Source and licence: the data set's card says.

    Layout: `*.parquet` at any depth below `folder`, each with one audio column: a struct with the field `bytes`, a
    whole sound file (which is what the library `datasets` writes). The id is the column `id` where there is one, else
    the file's path and the row; text and speaker come from the columns that `TEXTS` and `SPEAKERS` name, the first that
    is there, and are "" otherwise. Sounds are read in place, in the order of the rows.

    Splits: by the words that file and folder names hold, as the hub does: train, validation (also valid, val, dev),
    test (also eval); without such a word "train". Where all is train, clips are held out.

    Raises:
        BadInput: no Parquet files; a broken one; none or several audio columns; a name that tells two splits.
    """
    return parquet_entries(folder)


def stinystories(folder: Path) -> list[Entry]:
    """sTinyStories: the synthetic children's stories of TinyStories spoken by a machine, one voice.

    Source: huggingface.co/datasets/slprl/sTinyStories (Maimon et al. 2025, first suggested by Cuervo and Marxer 2024),
    spoken by FastSpeech2 in LJ Speech's voice. Licence of the data set: MIT.

    Layout: `data/data-00000-of-02191.parquet` …, columns audio, text, aligned_text, split_sentence. Checked against the
    data set's card. The id is the file's path and the row; any part of the files will do.

    Splits: none of its own; all is "train" here, and clips are held out.

    Raises:
        BadInput: as `huggingface`.
    """
    return parquet_entries(folder, speaker="LJ")


def parquet_entries(folder: Path, *, speaker: str = "", leave_out: tuple[str, ...] = ()) -> list[Entry]:
    """Return the rows of every Parquet file below `folder`; the sounds are not read.

    Args:
        folder: where to look.
        speaker: who speaks where no column says so.
        leave_out: names of folders directly below that are not read.
    """
    names = [path.relative_to(folder).as_posix() for path in visible(folder, "**/*", (".parquet",))]
    names = [name for name in names if name.split("/")[0] not in leave_out]
    if not names:
        raise BadInput(f"{folder}: no .parquet files below it. Download the data set's files, or give their folder.")
    entries = [entry for name in names for entry in _rows(folder, name, speaker)]
    _require_unique(folder, entries)
    return entries


def _require_unique(folder: Path, entries: list[Entry]) -> None:
    """Raise BadInput, naming both files, where two rows have one id, as in data sets whose subsets repeat others."""
    first: dict[str, Entry] = {}
    double = [(first[e.id], e) for e in entries if first.setdefault(e.id, e) is not e]
    if double:
        (one, other), ids = double[0], offenders([entry.id for _, entry in double])
        raise BadInput(
            f"{folder}: ids must be unique, these are not: {ids}; {one.id!r} is in both {one.path} and {other.path}. "
            "Some data sets repeat one subset in another (Multilingual LibriSpeech has 9_hours and 1_hours of "
            "train): move the smaller files out of this folder, or give one subset's folder."
        )


def _rows(folder: Path, name: str, speaker: str) -> list[Entry]:
    path = folder / name
    file = open_parquet(path)
    try:
        audio = _audio_column(file, path)
        there = file.schema_arrow.names
        chosen = [next((c for c in known if c in there), None) for known in (IDS, TEXTS, SPEAKERS, MILLISECONDS)]
        table = file.read(columns=[column for column in chosen if column])
        n_rows = file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path}: cannot be read ({error}). Fetch the file again.") from error
    finally:
        file.close()
    values: list[list[Any]] = [table.column(column).to_pylist() if column else [None] * n_rows for column in chosen]
    ids, texts, speakers, milliseconds = values
    if empty := [row for row, id in enumerate(ids) if chosen[0] and id in (None, "")]:
        raise BadInput(f"{path}: the column {chosen[0]!r} is empty in the rows {offenders(empty)}.")
    split, stem = split_of(name, where=folder), name.removesuffix(".parquet")
    return [
        Entry(
            id=f"{stem}/{row}" if ids[row] is None else str(ids[row]),
            path=path,
            speaker=speaker if speakers[row] is None else str(speakers[row]),
            split=split,
            text=texts[row] if isinstance(texts[row], str) else "",
            seconds=None if milliseconds[row] is None else milliseconds[row] / 1000,
            member=f"{audio}[{row}]",
        )
        for row in range(n_rows)
    ]


def _audio_column(file: pq.ParquetFile, path: Path) -> str:
    found = [
        field.name
        for field in file.schema_arrow
        if pa.types.is_struct(field.type)
        and field.type.get_field_index("bytes") >= 0
        and (pa.types.is_binary(kind := field.type.field("bytes").type) or pa.types.is_large_binary(kind))
    ]
    if len(found) != 1:
        what = f"several audio columns: {', '.join(found)}" if found else "no audio column"
        raise BadInput(
            f"{path}: has {what}; one is needed, a struct with the field `bytes`. Columns: "
            f"{', '.join(file.schema_arrow.names)}. Keep one, or write the sounds as files."
        )
    return found[0]
