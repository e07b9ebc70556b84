"""A sound in a cell of a table: the bytes of a sound file, or a list of samples beside their rate.

Lists are what is left of the Hugging Face feature `Audio` once it was decoded and stored again. Either way the sound is
handed on as a sound file, so that all else (hashes, parts, channels, checks) is as for any other.

Shapes: N samples, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import soundfile as sf
from numpy.typing import NDArray

from twistlm.audio.defects import empty
from twistlm.audio.sndfile import RATES
from twistlm.errors import AudioError, BadInput
from twistlm.files.jsonl import parse_json

RATE_COLUMNS = ("sampling_rate", "sample_rate", "sr")
LISTS = ("audio", "samples", "waveform", "speech", "sound", "wav", "array")  # what columns of lists are called
MAX_BYTES = 2**31  # of a sound, which is read into memory whole: 18 hours of 16 kHz 16-bit PCM
_CHANNELS = 16  # lists in a list, or numbers in each, that are taken for channels
_FULL = 32768  # what is 1 in lists of integers: 16 bits, however wide their column is


class Column(NamedTuple):
    """Where in a row its sound lies.

    Attributes:
        name: of the column. field: of the struct in it; "" where it is none.
        rate: Hz, of lists where the table's metadata says it. rate_name, rate_field: the column that does, or ("", "").
        needed: what has to be read of the table, with dots.
    """

    name: str
    field: str
    rate: int | None = None
    rate_name: str = ""
    rate_field: str = ""

    @property
    def needed(self) -> list[str]:
        places = [(self.name, self.field), (self.rate_name, self.rate_field)]
        return list(dict.fromkeys(f"{name}.{field}" if field else name for name, field in places if name))


def sound_columns(schema: pa.Schema) -> list[str]:
    """Return the columns that can hold sounds: structs with sound files, or where there are none, sound files alone, or
    where there are none, lists of numbers by a name of LISTS."""
    files = [field for field in schema if _is_binary(_inner(field.type, "bytes"))]
    lists = [field for field in schema if _is_samples(_inner(field.type, "array")) and field.name.lower() in LISTS]
    return [f.name for f in files if pa.types.is_struct(f.type)] or [f.name for f in files] or [f.name for f in lists]


def holds_sound(kind: pa.DataType) -> bool:
    """Return whether a column of this type can hold sounds."""
    return _is_binary(_inner(kind, "bytes")) or _is_samples(_inner(kind, "array"))


def sound_column(schema: pa.Schema, name: str, *, where: object) -> Column:
    """Return where the sounds of a column lie.

    Raises:
        BadInput: there is no such column, it holds no sounds, or lists whose rate nothing says.
    """
    kind = schema.field(name).type if schema.get_field_index(name) >= 0 else pa.null()
    if _is_binary(_inner(kind, "bytes")):
        return Column(name, "bytes" if pa.types.is_struct(kind) else "")
    if not _is_samples(_inner(kind, "array")):
        raise BadInput(f"{where}: has no sounds in the column {name!r}. The manifest belongs to another file.")
    field = "array" if pa.types.is_struct(kind) else ""
    if field and (own := next((rate for rate in RATE_COLUMNS if kind.get_field_index(rate) >= 0), "")):
        return Column(name, field, rate_name=name, rate_field=own)
    if beside := next((n for rate in RATE_COLUMNS for n in schema.names if n.lower() == rate), ""):
        return Column(name, field, rate_name=beside)
    if (rate := _told_rate(schema, name, where)) is not None:
        return Column(name, field, rate=rate)
    raise BadInput(
        f"{where}: the column {name!r} holds lists of samples, and nothing says their rate. Add a column "
        f"{RATE_COLUMNS[0]!r} with it in Hz ({' or '.join(RATE_COLUMNS[1:])} will do), or write the sounds as files."
    )


def sound_file(column: Column, batch: pa.RecordBatch, row: int, *, where: str) -> bytes:
    """Return the sound in row `row` of `batch` as a sound file; `where` names it in errors.

    Lists of floats are samples of full scale 1, as they are; lists of integers are 16-bit samples. A list of lists is
    one of channels, or of samples with a number a channel: whichever is the shorter, of at most 16.

    Raises:
        AudioError: the cell is empty or too large; lists of unlike lengths, with nulls, or of integers beyond 16 bits;
            no rate that a sound has.
    """
    cell = _at(batch, column.name, column.field, row)
    if cell is not None and _is_binary(cell.type):
        data = cell.as_py()
        if len(data) > MAX_BYTES:
            raise _no_sound(where)
        return bytes(data)
    if cell is None:
        raise _no_sound(where)
    samples = _samples(cell.values, where)
    told = _at(batch, column.rate_name, column.rate_field, row) if column.rate_name else None
    rate = column.rate if told is None else told.as_py()
    if not isinstance(rate, int | float) or rate != rate // 1 or not RATES[0] <= rate <= RATES[1]:
        raise AudioError(f"{where}: its sampling rate is {rate!r}; samples need a whole number of Hz.")
    stream = io.BytesIO()
    # AU: its header holds no time, so that the same samples are the same bytes.
    subtype = "PCM_16" if samples.dtype == np.int16 else "FLOAT"
    sf.write(stream, samples, int(rate), format="AU", subtype=subtype)
    return stream.getvalue()


def _samples(values: pa.Array, where: str) -> NDArray[Any]:
    """Return the samples [N, C] in a list, int16 or float32."""
    shape = (len(values), 1)
    if _is_list(values.type):
        sizes = set(pc.list_value_length(values).to_pylist()) or {0}
        if len(sizes) != 1 or None in sizes:
            raise AudioError(f"{where}: its lists have unlike lengths, so they are no channels. Leave it out.")
        shape = (len(values), sizes.pop())
        values = values.flatten()
    if not len(values):
        raise empty(where)
    if values.null_count:
        raise AudioError(f"{where}: {values.null_count} of its samples are null. Leave it out, or fetch it again.")
    if 8 * len(values) > MAX_BYTES:
        raise AudioError(f"{where}: has {len(values)} samples. Cut it into shorter clips first.")
    found = values.to_numpy(zero_copy_only=False).reshape(shape)
    if shape[1] > shape[0]:
        found = found.T
    if found.shape[1] > _CHANNELS:
        raise AudioError(f"{where}: its lists, {shape[0]} of {shape[1]} numbers, are no channels. Leave it out.")
    if not np.issubdtype(found.dtype, np.integer):
        with np.errstate(over="ignore"):  # what becomes infinite is refused by who decodes it
            return found.astype(np.float32)
    if found.size and (found.min() < -_FULL or found.max() >= _FULL):
        raise AudioError(
            f"{where}: integers from {found.min()} to {found.max()}, where samples of 16 bits are expected. Divide by "
            "what its writer took for full scale, and store floats."
        )
    return found.astype(np.int16)


def _at(batch: pa.RecordBatch, name: str, field: str, row: int) -> pa.Scalar | None:
    """Return a cell, or a field of the struct in it; None where it is null."""
    cell = batch.column(name)[row]
    if field and cell.is_valid:
        cell = cell[field]
    return cell if cell.is_valid else None


def _no_sound(where: str) -> AudioError:
    return AudioError(
        f"{where} holds no sound, or one of more than {MAX_BYTES} bytes. Rows that only name a path need the sound "
        "files themselves: make the manifest from those."
    )


def _told_rate(schema: pa.Schema, name: str, where: object) -> int | None:
    """Return the rate that the library datasets noted with a column's feature."""
    noted = (schema.metadata or {}).get(b"huggingface")
    if noted is None:
        return None
    shape = {"info?": {"features?": dict}}
    found = parse_json(noted, where=f"{where}, its features", kind="what the library datasets wrote", shape=shape)
    feature = found.get("info", {}).get("features", {}).get(name)
    rate = feature.get("sampling_rate") if isinstance(feature, Mapping) else None
    return rate if type(rate) is int else None


def _inner(kind: pa.DataType, field: str) -> pa.DataType:
    """Return the type of a struct's field; of what is no struct, its own."""
    if not pa.types.is_struct(kind):
        return kind
    return kind.field(field).type if field and kind.get_field_index(field) >= 0 else pa.null()


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_samples(kind: pa.DataType) -> bool:
    """Return whether it is a list of numbers, or of lists of numbers."""
    depth = 0
    while _is_list(kind) and depth < 2:
        kind, depth = kind.value_type, depth + 1
    return depth > 0 and bool(
        pa.types.is_floating(kind) or (pa.types.is_signed_integer(kind) and not pa.types.is_int8(kind))
    )
