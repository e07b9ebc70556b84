"""A benchmark's sounds: files of their own, cells of a Parquet table (how the Hugging Face hub stores audio), or files
that are heard one after the other.

An audio cell is a struct with the field `bytes`: a whole sound file.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from twistlm.audio.clip import Clip, decode, encoded, read
from twistlm.audio.decoding import rate_of, seconds_to_samples
from twistlm.corpus.archives import is_text_type, open_parquet
from twistlm.errors import AudioError, BadInput, offenders
from twistlm.files.regular import read_regular


@dataclass(frozen=True, order=True)
class Cell:
    """One sound inside a Parquet table; sorted cells are in the order that reads each row group once.

    Attributes:
        table: the file.
        row_group, column, row: where in it; `row` counts inside the row group, from 0.
    """

    table: Path
    row_group: int
    column: str
    row: int

    def __str__(self) -> str:
        return f"{self.table} (row group {self.row_group}, row {self.row}, column {self.column})"


@dataclass(frozen=True, order=True)
class Joined:
    """Sound files of one rate, heard one after the other: a story and its ending, which several sounds share.

    Attributes:
        parts: the files.
        pause: seconds of silence between them.
    """

    parts: tuple[Path, ...]
    pause: float

    def __str__(self) -> str:
        return " and ".join(map(str, self.parts))


Sound: TypeAlias = Path | Cell | Joined


def read_bytes(sound: Sound) -> bytes:
    """Return the whole sound file as it is stored; of joined files, a wav file of what they give together.

    Raises:
        AudioError: it is missing or empty.
    """
    if isinstance(sound, Path):
        data = read_regular(sound, "a sound of the benchmark: get a whole copy", error=AudioError)
    elif isinstance(sound, Joined):
        whole = join([read(part, sample_rate=None) for part in sound.parts], pause=sound.pause)
        data = encoded(whole, form="WAV", subtype="PCM_16", name=str(sound))
    else:
        data = _column(sound.table, sound.row_group, sound.column)[sound.row].as_py()
    if not data:
        raise AudioError(f"{sound}: empty: it holds no sound. Get a whole copy of the benchmark.")
    return data


def join(parts: Sequence[Clip], *, pause: float) -> Clip:
    """Return `parts` one after the other with `pause` seconds of silence between them.

    Raises:
        AudioError: parts of different rates.
        BadInput: a pause that is no length of time.
    """
    rates = sorted({part.sample_rate for part in parts})
    if len(rates) != 1:
        raise AudioError(
            f"{offenders([part.id for part in parts])} have different rates, {rates} Hz: not one recording."
        )
    if not 0 <= pause < 60:
        raise BadInput(f"the pause between two parts must be 0 to 60 s, got {pause}.")
    silence = np.zeros(seconds_to_samples(pause, rates[0]), dtype=np.float32)
    pieces = [piece for part in parts for piece in (silence, part.samples)][1:]
    return Clip(np.concatenate(pieces), rates[0])


def sample_rate(data: bytes, sound: Sound) -> int:
    """Return the sample rate in Hz that the header of `data` declares; `sound` says in an error where it came from.

    Raises:
        AudioError: not a sound file.
    """
    return rate_of(data, name=str(sound))  # what is missing is found when it is cut


def load(sound: Sound, *, sample_rate: int, id: str) -> Clip:
    """Return the sound as a clip at `sample_rate` Hz, with every check of `audio.clip.read`.

    Raises:
        AudioError: as `read`; the message names the file or the cell.
    """
    if isinstance(sound, Path):
        return replace(read(sound, sample_rate=sample_rate), id=id)
    return replace(decode(read_bytes(sound), name=str(sound), sample_rate=sample_rate), id=id)


def table_rows(
    path: Path, *, ids: Sequence[str], texts: Sequence[str] = (), audio: Sequence[str]
) -> Iterator[tuple[dict[str, str], dict[str, Cell]]]:
    """Yield, for each row of a Parquet table, its ids and texts, and a Cell for each of its `audio` columns.

    Sounds are not read.

    Args:
        path: the table.
        ids: columns of texts or whole numbers, which are given as text; none may be empty.
        texts: columns of texts; "" where one is empty.
        audio: columns of sound files.

    Raises:
        BadInput: not a Parquet table, one without these columns, or with others' types in them; an empty id.
    """
    try:
        with open_parquet(path) as file:
            schema = file.schema_arrow
            if lost := [name for name in (*ids, *texts, *audio) if name not in schema.names]:
                raise BadInput(
                    f"{path} lacks the columns {offenders(lost)}; it has {offenders(schema.names, limit=20)}."
                )
            _check_kinds(path, schema, ids, texts, audio)
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=[*ids, *texts]).to_pylist()
                for row, fields in enumerate(rows):
                    if empty := [name for name in ids if fields[name] in (None, "")]:
                        raise BadInput(
                            f"{path}: row {row} of row group {group} has no {offenders(empty)}. Get it again."
                        )
                    told = {name: "" if cell is None else str(cell) for name, cell in fields.items()}
                    yield told, {column: Cell(path, group, column, row) for column in audio}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as a Parquet table: {error}. Get it again.") from error


def _check_kinds(path: Path, schema: pa.Schema, ids: Sequence[str], texts: Sequence[str], audio: Sequence[str]) -> None:
    for column in (*ids, *texts):
        kind = schema.field(column).type
        if not (is_text_type(kind) or (column in ids and pa.types.is_integer(kind))):
            raise BadInput(f"{path}: column {column} holds {kind}, which is no text. Get the table again.")
    for column in audio:
        kind = schema.field(column).type
        if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
            raise BadInput(f"{path}: column {column} holds {kind}, not sound files (a struct with bytes).")


@functools.lru_cache(maxsize=1)
def _column(table: Path, row_group: int, column: str) -> pa.Array:
    """Return the stored files of one column of one row group: some tens of MB in the published tables."""
    try:
        with open_parquet(table) as file:
            cells = file.read_row_group(row_group, columns=[f"{column}.bytes"]).column(column)
    except (pa.ArrowException, OSError) as error:
        raise AudioError(f"{table} cannot be read: {error}. Get it again.") from error
    return cells.combine_chunks().field("bytes")
