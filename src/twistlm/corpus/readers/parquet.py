"""Data sets with the sound in tables, as the Hugging Face hub and its library `datasets` store them: Parquet and Arrow.

The library is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from twistlm.audio.finding import visible
from twistlm.corpus.archives import ArrowFile, is_text_type, open_parquet
from twistlm.corpus.cells import holds_sound, sound_column, sound_columns
from twistlm.corpus.manifest import Entry
from twistlm.corpus.readers.options import PATHS, Options, choose, column, split_told
from twistlm.corpus.readers.tables import all_there, below, split_of
from twistlm.errors import BadInput, offenders
from twistlm.files.jsonl import read_json

MILLISECONDS = ("duration_ms",)
_STATE, _DICT = "state.json", "dataset_dict.json"  # what save_to_disk writes beside one split, and above several


def huggingface(folder: Path, options: Options) -> list[Entry]:
    """A data set of the Hugging Face hub with an audio column: Parquet files, or what `save_to_disk` wrote.

    Source and licence: the data set's card says.

    Layout: `*.parquet` at any depth below `folder`; or `state.json` and the `.arrow` files it lists, one split; or
    `dataset_dict.json` and such a folder for each split (checked against datasets 5). Each has one audio column: a
    struct with the field `bytes`, a whole sound file (which is what the library writes), or binary; or lists of
    samples, called "audio" or another of `cells.LISTS`, alone or in a struct's `array`, whose rate stands in the
    struct, in the column sampling_rate (sample_rate, sr), or with the feature that the library noted. In Arrow files
    rows without bytes, or with a path alone, are read from there; a relative path is seen from where the process
    stands, as by the library. The id is the column `id` where there is one, else the file's path and the row; text,
    speaker and split come from the columns that are named, or from the first of `options.TEXTS`, `SPEAKERS` and
    `SPLITS` that is there. Sounds are read in place, in the order of the rows.

    Splits: the column's, or those of `dataset_dict.json`; else by the words that file and folder names hold, as the hub
    does: train, validation (also valid, val, dev), test (also eval); without such a word "train". Where all is train,
    clips are held out.

    Raises:
        BadInput: no such files; a broken one; none or several audio columns; samples of unknown rate; a column of texts
            that holds none; a name that tells two splits; a listed `.arrow` file, or a sound by its path, that is not
            there.
    """
    if (folder / _DICT).exists() or (folder / _STATE).exists():
        return _saved(folder, options)
    return parquet_entries(folder, options)


def stinystories(folder: Path, options: Options) -> list[Entry]:
    """sTinyStories: the synthetic children's stories of TinyStories spoken by a machine, one voice.

    Source: huggingface.co/datasets/slprl/sTinyStories (Maimon et al. 2025, first suggested by Cuervo and Marxer 2024),
    spoken by FastSpeech2 in LJ Speech's voice. Licence of the data set: MIT.

    Layout: `data/data-00000-of-02191.parquet` …, columns audio, text, aligned_text, split_sentence. Checked against the
    data set's card. The id is the file's path and the row; any part of the files will do.

    Splits: none of its own; all is "train" here, and clips are held out.

    Raises:
        BadInput: as `huggingface`.
    """
    return parquet_entries(folder, options, speaker="LJ")


def parquet_entries(
    folder: Path, options: Options, *, speaker: str = "", leave_out: tuple[str, ...] = ()
) -> list[Entry]:
    """Return the rows of every Parquet file below `folder`; the sounds are not read.

    Args:
        folder: where to look.
        options: which columns are used.
        speaker: who speaks where no column says so.
        leave_out: names of folders directly below that are not read.
    """
    names = [path.relative_to(folder).as_posix() for path in visible(folder, "**/*", (".parquet",))]
    names = [name for name in names if name.split("/")[0] not in leave_out]
    if not names:
        raise BadInput(
            f"{folder}: no .parquet files below it, and nothing that save_to_disk wrote. Download the data set's "
            "files, or give their folder."
        )
    entries = [entry for name in names for entry in _of_parquet(folder, name, options, speaker)]
    _require_unique(folder, entries)
    return entries


def _saved(folder: Path, options: Options) -> list[Entry]:
    """Return the rows of a folder of `save_to_disk`."""
    splits = {"": folder}
    if (folder / _DICT).exists():
        found = read_json(folder / _DICT, "the list of splits that save_to_disk wrote", shape={"splits": [str]})
        splits = {name: below(folder, name, where=str(folder / _DICT)) for name in found["splits"]}
    entries: list[Entry] = []
    for split, home in splits.items():
        shape = {"_data_files": [{"filename": str}], "_split?": (str, None)}
        state = read_json(home / _STATE, "what save_to_disk wrote beside its .arrow files", shape=shape)
        if state.get("_indices_data_files") or state.get("_indices_files"):
            raise BadInput(f"{home / _STATE}: lists indices, as datasets before 2.0 did. Save the data set again.")
        told = split or state.get("_split") or split_of(home.absolute().name, where=folder)
        for file in state["_data_files"]:
            path = below(home, file["filename"], where=str(home / _STATE))
            stem = path.relative_to(folder).as_posix().removesuffix(".arrow")
            entries += _of_arrow(path, stem, split_told(told, default="train"), options)
    _require_unique(folder, all_there(entries, folder))
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


def _of_parquet(folder: Path, name: str, options: Options, speaker: str) -> Iterator[Entry]:
    path = folder / name
    file = open_parquet(path)
    try:
        schema = file.schema_arrow
        audio = _audio_column(schema, path, options)
        names = _wanted(schema, path, options)
        table = file.read(columns=[column for column in names.values() if column])
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path}: cannot be read ({error}). Fetch the file again.") from error
    finally:
        file.close()
    split, stem = split_of(name, where=folder), name.removesuffix(".parquet")
    for row, cells in enumerate(_cells(table, names, path, n_rows=file.metadata.num_rows)):
        yield _entry(cells, stem=stem, row=row, split=split, speaker=speaker, path=path, member=f"{audio}[{row}]")


def _of_arrow(path: Path, stem: str, split: str, options: Options) -> Iterator[Entry]:
    file = ArrowFile(path)
    names = _wanted(file.schema, path, options)
    by_path = column(file.schema.names, "path", PATHS, options, where=path)
    alone = by_path and is_text_type(file.schema.field(by_path).type)
    if alone and (options.path or not sound_columns(file.schema)):
        audio, held = "", None
    else:
        audio, by_path = _audio_column(file.schema, path, options), ""
        held = file.schema.field(audio).type
    row = 0
    for batch in file.batches():
        table = pa.Table.from_batches([batch.select([column for column in names.values() if column])])
        paths = _paths(batch, audio, by_path, held)
        for cells, place in zip(_cells(table, names, path, n_rows=len(batch)), paths, strict=True):
            at = {"path": Path(place).absolute()} if place else {"path": path, "member": f"{audio}[{row}]"}
            yield _entry(cells, stem=stem, row=row, split=split, speaker="", **at)
            row += 1


def _paths(batch: pa.RecordBatch, audio: str, by_path: str, held: pa.DataType | None) -> list[str | None]:
    """Return where each row's sound lies as a file of its own; None for those that are in the row."""
    if by_path:
        return [path or None for path in batch.column(by_path).to_pylist()]
    if held is None or not pa.types.is_struct(held) or min(map(held.get_field_index, ("bytes", "path"))) < 0:
        return [None] * len(batch)
    cells = batch.column(audio)
    inside = cells.field("bytes").is_valid().to_pylist()
    return [None if there else path for there, path in zip(inside, cells.field("path").to_pylist(), strict=True)]


def _wanted(schema: pa.Schema, path: Path, options: Options) -> dict[str, str]:
    """Return field -> column ("" for none) of what is read besides the sound; texts are columns of text."""
    chosen = choose(schema.names, options, where=path)
    names = {"id": chosen.id, "text": chosen.text, "speaker": chosen.speaker, "split": chosen.split}
    names["ms"] = column(schema.names, "", MILLISECONDS, options, where=path)
    for field, name in names.items():
        kind = schema.field(name).type if name else pa.null()
        number = pa.types.is_integer(kind)
        fits = {"text": False, "split": False, "ms": number or pa.types.is_floating(kind)}.get(field, number)
        if not fits and (field == "ms" or not is_text_type(kind)) and not pa.types.is_null(kind):
            out = "Leave that column out." if field == "ms" else f"Name another with --{field}-column, or '' for none."
            raise BadInput(
                f"{path}: the column {name!r} holds {kind}, which is no {'number' if field == 'ms' else field}. {out}"
            )
    return names


def _cells(table: pa.Table, names: dict[str, str], path: Path, *, n_rows: int) -> Iterator[dict[str, Any]]:
    """Yield each row's cells by field."""
    values = {field: table.column(name).to_pylist() if name else [None] * n_rows for field, name in names.items()}
    if empty := [row for row, id in enumerate(values["id"]) if names["id"] and id in (None, "")]:
        raise BadInput(f"{path}: the column {names['id']!r} is empty in the rows {offenders(empty)}.")
    for row in zip(*values.values(), strict=True):
        yield dict(zip(values, row, strict=True))


def _entry(cells: dict[str, Any], *, stem: str, row: int, split: str, speaker: str, **place: Any) -> Entry:
    return Entry(
        id=f"{stem}/{row}" if cells["id"] is None else str(cells["id"]),
        speaker=speaker if cells["speaker"] is None else str(cells["speaker"]),
        split=split_told(cells["split"], default=split) if cells["split"] else split,
        text=cells["text"] or "",
        seconds=None if cells["ms"] is None else cells["ms"] / 1000,
        **place,
    )


def _audio_column(schema: pa.Schema, path: Path, options: Options) -> str:
    named = column(schema.names, "path", (), options, where=path)
    found = [named] if named else sound_columns(schema)
    if len(found) != 1 or not holds_sound(schema.field(found[0]).type):
        what = f"several audio columns: {', '.join(found)}" if len(found) > 1 else "no audio column"
        there = ", ".join(f"{field.name} ({str(field.type)[:40]})" for field in schema)
        raise BadInput(
            f"{path}: has {f'no sounds in the column {named}' if named else what}; one is needed: a struct with the "
            "field `bytes`, binary, or lists of samples (floats, or integers of 16 bits) called audio or the like. "
            f"Columns: {there}. Name one with --path-column, or write the sounds as files."
        )
    sound_column(schema, found[0], where=path)  # and its rate is known
    return found[0]
