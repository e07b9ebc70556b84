"""The People's Speech."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twistlm.audio.finding import visible
from twistlm.corpus.archives import tar_members
from twistlm.corpus.manifest import Entry
from twistlm.corpus.readers.options import Options
from twistlm.corpus.readers.parquet import parquet_entries
from twistlm.corpus.readers.tables import below, objects
from twistlm.errors import BadInput, offenders

# Table below the folder, to the split of its clips.
TABLES = {
    "train/clean.json": "train",
    "train/clean_sa.json": "train",
    "train/dirty.json": "train",
    "train/dirty_sa.json": "train",
    "validation/validation.json": "validation",
    "test/test.json": "test",
}


def peoples_speech(folder: Path, options: Options) -> list[Entry]:
    """The People's Speech: 30,000 h of transcribed English of many kinds, found on the web.

    Source: mlcommons.org, huggingface.co/datasets/MLCommons/peoples_speech (Galvez et al. 2021). Licence: each
    recording has its own, CC BY 2.0 to 4.0 or CC BY-SA; the subsets with `_sa` in their names are the share-alike ones.

    Layout, either of two:
        Parquet, as on the hub: `clean/train-00000-of-00804.parquet` and so on, columns id, audio, duration_ms, text;
            checked against the data set's page. The folder tells the subset, the file the split.
        Tables, as first published: `train/clean.json` with one JSON object a line, `training_data` holding the lists
            `name`, `label` (or `text`) and `duration_ms`, and the sounds in `train/clean/`, unpacked or in the tar
            files there; the same for clean_sa, dirty, dirty_sa, validation/validation and test/test. Checked against
            Lhotse's recipe and public code that reads version 1.0.

    Splits: train (clean, clean_sa, dirty, dirty_sa; `microset` is a sample of these and not read), validation, test.
    Speakers are not known.

    Raises:
        BadInput: neither layout; lists of different lengths; a listed sound that is not there; an id that occurs twice.
    """
    tables = [name for name in TABLES if (folder / name).is_file()]
    if not tables:
        return parquet_entries(folder, options, leave_out=("microset",))
    return [entry for name in tables for entry in _from_table(folder, name)]


def _from_table(folder: Path, name: str) -> list[Entry]:
    table = folder / name
    root = table.with_suffix("")
    inside: dict[str, tuple[Path, str]] = {}
    for tar in visible(root, "**/*", (".tar",)):
        inside |= {m.name.removeprefix("./"): (tar, m.name) for m in tar_members(tar) if m.isreg()}
    entries, lost = [], []
    for number, item in objects(table):
        where = f"{table}, line {number}"
        for sound, text, milliseconds in _utterances(item, where):
            plain = sound.removeprefix("./")
            path, member = inside.get(plain, (below(root, plain, where=where), ""))
            if not member and not path.is_file():
                lost.append(plain)
                continue
            entries.append(
                Entry(
                    id=f"{root.name}/{plain}",
                    path=path,
                    split=TABLES[name],
                    text=text,
                    seconds=milliseconds / 1000,
                    member=member,
                )
            )
    if lost:
        raise BadInput(f"{table}: lists sounds that are neither in {root} nor in a tar there: {offenders(lost)}.")
    return entries


def _utterances(item: dict[str, Any], where: str) -> list[tuple[str, str, float]]:
    """Return (name, text, milliseconds) of each utterance of one line."""
    data = item.get("training_data")
    data = data if isinstance(data, dict) else {}
    names, texts, durations = data.get("name"), data.get("label", data.get("text")), data.get("duration_ms")
    if not (isinstance(names, list) and isinstance(texts, list) and isinstance(durations, list)) or not (
        len(names) == len(texts) == len(durations)
    ):
        raise BadInput(f"{where}: training_data needs the lists name, label and duration_ms, of one length.")
    if not all(isinstance(value, str) for value in [*names, *texts]) or not all(
        type(n) in (int, float) for n in durations
    ):
        raise BadInput(f"{where}: names and labels must be strings, durations numbers.")
    return list(zip(names, texts, durations, strict=True))
