"""A benchmark's sounds: files of their own, cells of a Parquet table (how the Hugging Face hub stores audio), or files
that are heard one after the other.

An audio cell is a struct with the field `bytes`: a whole sound file.
"""

from __future__ import annotations

import functools
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from twistlm.audio.clip import Clip, encoded, read
from twistlm.audio.decoding import info_of, seconds_to_samples
from twistlm.errors import AudioError, BadInput, offenders


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
        if not sound.is_file():
            raise AudioError(f"{sound}: no such file. Get a whole copy of the benchmark.")
        data = sound.read_bytes()
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
    try:
        return soundfile.info(io.BytesIO(data)).samplerate  # the header alone: what is missing is found when it is cut
    except soundfile.SoundFileError:
        return info_of(data, name=str(sound)).sample_rate


def load(sound: Sound, *, sample_rate: int, id: str) -> Clip:
    """Return the sound as a clip at `sample_rate` Hz, with every check of `audio.clip.read`.

    Raises:
        AudioError: as `read`; the message names the file or the cell.
    """
    if isinstance(sound, Path):
        return replace(read(sound, sample_rate=sample_rate), id=id)
    # libsndfile's notes on truncated files, which `read` looks at, need a file with a name.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cell"
        path.write_bytes(read_bytes(sound))
        try:
            return replace(read(path, sample_rate=sample_rate), id=id)
        except AudioError as error:
            raise AudioError(str(error).replace(str(path), str(sound))) from error


def table_rows(
    path: Path, *, values: Sequence[str], audio: Sequence[str]
) -> Iterator[tuple[dict[str, Any], dict[str, Cell]]]:
    """Yield, for each row of a Parquet table, its `values` and a Cell for each of its `audio` columns.

    Sounds are not read.

    Raises:
        BadInput: not a Parquet table, or one without these columns.
    """
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        if lost := [name for name in (*values, *audio) if name not in names]:
            raise BadInput(f"{path} lacks the columns {offenders(lost)}; it has {offenders(names, limit=20)}.")
        for column in audio:
            kind = file.schema_arrow.field(column).type
            if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
                raise BadInput(f"{path}: column {column} holds {kind}, not sound files (a struct with bytes).")
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=list(values)).to_pylist()
            for row, fields in enumerate(rows):
                yield fields, {column: Cell(path, group, column, row) for column in audio}
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path} cannot be read as a Parquet table: {error}. Get it again.") from error


@functools.lru_cache(maxsize=1)
def _column(table: Path, row_group: int, column: str) -> pa.Array:
    """Return the stored files of one column of one row group: some tens of MB in the published tables."""
    try:
        cells = pq.ParquetFile(table).read_row_group(row_group, columns=[f"{column}.bytes"]).column(column)
    except (pa.ArrowException, OSError) as error:
        raise AudioError(f"{table} cannot be read: {error}. Get it again.") from error
    return cells.combine_chunks().field("bytes")
