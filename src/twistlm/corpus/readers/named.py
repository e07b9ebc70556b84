"""Tables whose columns have names: any CSV or TSV, and the AudioFolder layout of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

from twistlm.audio.finding import KNOWN, visible
from twistlm.corpus.manifest import NAME, Entry
from twistlm.corpus.readers.options import PATHS, Options, choose, column, split_told
from twistlm.corpus.readers.tables import all_there, below, objects, split_of
from twistlm.errors import BadInput, offenders
from twistlm.files.tables import read_table, separator_of
from twistlm.files.urls import UrlPath, as_path

METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
_KIND = "a table with a header line, in UTF-8"
_START, _END, _SECONDS = ("start", "start_time", "begin"), ("end", "end_time"), ("seconds", "duration")


def csv(folder: Path, options: Options) -> list[Entry]:
    """Any table with a header line in which a column names sound files.

    Source and licence: those of the corpus.

    Layout: `folder` is a table, or holds `*.csv` or `*.tsv` files; tabs, commas, semicolons or bars part the columns,
    whichever the first line has most of. Columns are those that are named, or the first of `options.PATHS`, `TEXTS`,
    `SPEAKERS`, `SPLITS`, `IDS` that is there. Where there is a column start (start_time, begin) a clip is a part of its
    file, and end (end_time), seconds or duration tells how long; all in seconds. A relative path is seen from the
    table. The id is the column's, or the path as it stands there, with the part.

    Splits: the column's; else by the words in the table's name, as of Hugging Face data sets.

    Raises:
        BadInput: no tables; no column of paths; a row whose cells do not fit the header; a path that is empty; a start
            without a length, or no number; a sound that is not there; an id that occurs twice.
    """
    tables = [folder] if folder.is_file() else visible(folder, "*", (".csv", ".tsv"))
    if not tables:
        raise BadInput(f"{folder}: no .csv or .tsv files in it. Give the table's folder, or the table.")
    entries: list[Entry] = []
    for table in tables:
        split = split_of(table.name, where=table.parent)
        for name, fields in _rows(table, options):
            path, part = table.parent / name, f"@{fields['start']}" if "start" in fields else ""
            found: dict[str, Any] = {"id": f"{name}{part}", "path": path, "split": split} | fields
            entries.append(Entry(**found))
    return all_there(entries, folder)


def audiofolder(folder: Path, options: Options) -> list[Entry]:
    """A folder in the AudioFolder layout of the Hugging Face hub: sounds, and tables of metadata or folders of classes.

    Source and licence: the data set's card says.

    Layout: sounds at any depth, and metadata.csv, metadata.tsv or metadata.jsonl in one or more folders, whose
    `file_name` (or the column that is named) is a path below the table's folder; text, speaker and split as for `csv`.
    Without metadata each sound's folder is its class, which is taken for the speaker, as of a plain folder. Checked
    against the documentation of datasets. The id is the path below `folder`.

    Splits: the column's; else by the words in the names of folders: train, validation (valid, val, dev), test (eval);
    without such a word "train". Where all is train, clips are held out.

    Raises:
        BadInput: no sounds; metadata in Parquet; a row without a file name, or that points out of the folder; sounds
            that no row names, or that are named and not there, or twice; a folder's name that tells two splits.
    """
    sounds = {path.relative_to(folder).as_posix(): path for path in visible(folder, "**/*", KNOWN) if path.is_file()}
    if not sounds:
        raise BadInput(f"{folder}: no sound files below it. Give the folder that was downloaded.")
    if packed := visible(folder, "**/metadata.parquet"):
        raise BadInput(f"{packed[0]}: metadata in Parquet are not read. Write them as metadata.csv or metadata.jsonl.")
    tables = [path for path in visible(folder, "**/metadata.*") if path.name in METADATA]
    if not tables:
        return [
            Entry(id=name, path=path, speaker=path.parent.name, split=_of_folders(name, folder))
            for name, path in sounds.items()
        ]
    entries = []
    for table in tables:
        for name, fields in _rows(table, options):
            path = below(table.parent, name, where=str(table))
            id = path.relative_to(folder).as_posix()
            found: dict[str, Any] = {"id": id, "path": path, "split": _of_folders(id, folder)} | fields
            entries.append(Entry(**found))
    named = {str(entry.path.relative_to(folder)) for entry in entries if isinstance(entry.path, Path)}
    if mute := sorted(sounds.keys() - named):
        raise BadInput(
            f"{folder}: no row of {offenders([str(table) for table in tables])} names the sounds {offenders(mute)}. "
            "The copy is not whole; to use sounds without metadata, make the manifest of a plain folder."
        )
    return all_there(entries, folder)


def unread_tables(folder: str) -> list[str]:
    """Return the tables of metadata at and one below a plain folder, which its manifest says nothing of."""
    home = as_path(folder)
    if isinstance(home, UrlPath) or not home.is_dir() or (home / NAME).is_file():
        return []
    found = [*visible(home, "metadata.*"), *visible(home, "*/metadata.*")]
    return [path.relative_to(home).as_posix() for path in found if path.name in METADATA]


def _rows(table: Path, options: Options) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row's path as it stands there, and the fields of an Entry that its columns tell."""
    if table.suffix == ".jsonl":
        rows = [(number, _cells(row)) for number, row in objects(table)]
    else:
        separator = separator_of(table, _KIND)
        rows = list(read_table(table, _KIND, separator=separator))
        # What writes tabs often quotes nothing; a text that begins with a quote then takes in the rows behind it.
        wide = [(n, c) for n, row in rows for c in row.values() if separator == "\t" and "\t" in c and "\n" in c]
        if wide:
            raise BadInput(
                f"{table}, line {wide[0][0]}: a cell that begins with a quote goes on over lines and columns, so rows "
                f"would be lost: {wide[0][1][:40]!r}…. Quote such cells whole, with each quote in them twice."
            )
    there = list(dict.fromkeys(name for _, row in rows for name in row))
    paths = column(there, "path", PATHS, options, where=table)
    if not paths:
        raise BadInput(
            f"{table}: no column names sound files. It has: {offenders(there, limit=20) or 'no rows'}. Name the one "
            f"with the paths: --path-column; known by their names are {', '.join(PATHS)}."
        )
    columns = choose(there, options, where=table)
    marks = [column(there, "", known, options, where=table) for known in (_START, _END, _SECONDS)]
    for number, row in rows:
        where = f"{table}, line {number}"
        if odd := [name for name in (paths, *astuple(columns)) if not isinstance(row.get(name, ""), str)]:
            raise BadInput(f"{where}: {odd[0]} holds {row[odd[0]]!r:.80}, which is no text.")
        if not row.get(paths, "").strip():
            raise BadInput(f"{where}: no sound file is named in the column {paths!r}.")
        fields: dict[str, Any] = {"text": row.get(columns.text, "").strip()}
        fields["speaker"] = row.get(columns.speaker, "").strip()
        if split := row.get(columns.split, "").strip():
            fields["split"] = split_told(split, default="train")
        if columns.id:
            fields["id"] = row.get(columns.id, "").strip()
            if not fields["id"]:
                raise BadInput(f"{where}: the column {columns.id!r} is empty.")
        yield row[paths].strip(), fields | _part(row, marks, where)


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object as the row of a table: numbers as text, null as an empty cell."""
    return {
        name: "" if cell is None else str(cell) if type(cell) in (int, float) else cell for name, cell in row.items()
    }


def _part(row: Mapping[str, Any], marks: list[str], where: str) -> dict[str, float]:
    """Return start and length of a clip that is a part of its file; nothing of a whole one, whatever its length is."""
    start, end, length = (row.get(name, "") if name else "" for name in marks)
    if not start:
        return {}
    try:
        begin = float(start)
        return {"start": begin, "seconds": round(float(end) - begin, 6) if end else float(length)}
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"{where}: a part of a file needs numbers of seconds, as {marks[0]} and as an end or duration: got "
            f"{start!r:.40} and {(end or length)!r:.40}."
        ) from error


def _of_folders(name: str, folder: Path) -> str:
    """Return the split that the folders of a relative path tell; a sound's own name tells none."""
    return split_of(name.rpartition("/")[0], where=folder)
