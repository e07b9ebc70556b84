"""Manifests that other toolkits made of a corpus: fairseq's, NeMo's, Kaldi's."""

from __future__ import annotations

from pathlib import Path

from twistlm.audio.finding import visible
from twistlm.corpus.manifest import Entry
from twistlm.corpus.readers.tables import all_there, below, lines, objects, split_of
from twistlm.errors import BadInput, offenders


def fairseq(folder: Path) -> list[Entry]:
    """Manifests of fairseq (wav2vec, HuBERT, GSLM): which sounds there are, without transcripts or speakers.

    Source and licence: those of the corpus.

    Layout: a TSV a split, or one such file: the first line is the folder of the sounds (a relative one is
    seen from the table), each other "path<tab>samples". From memory of the format. The id is split and path.

    Splits: by the words in the table's name, as of Hugging Face data sets.

    Raises:
        BadInput: no tables; a line that has no two columns; a path out of the folder; a sound that is not there.
    """
    entries = []
    for table in _tables(folder, ".tsv"):
        rows = lines(table)
        root = table.parent / next(rows, (0, ""))[1].strip()
        for number, line in rows:
            name, tab, n_samples = line.partition("\t")
            if not tab or not n_samples.strip().isdigit():
                raise BadInput(f"{table}, line {number}: not a path, a tab and a count of samples.")
            path = below(root, name, where=f"{table}, line {number}")
            entries.append(Entry(id=f"{table.stem}/{name}", path=path, split=split_of(table.name, where=table.parent)))
    return all_there(entries, folder)


def nemo(folder: Path) -> list[Entry]:
    """Manifests of NeMo: JSON lines with `audio_filepath`, `duration`, `text`, and `offset` where a clip is a part.

    Source and licence: those of the corpus.

    Layout: `*.json` or `*.jsonl` files in `folder`, or one; `speaker` is used where there is one. A relative path is
    seen from the manifest. From memory of the format. The id is the manifest's name and the line.

    Splits: by the words in the manifest's name, as of Hugging Face data sets.

    Raises:
        BadInput: no manifests; a line that lacks a path or whose numbers are none; a sound that is not there.
    """
    entries = []
    for table in _tables(folder, ".json", ".jsonl"):
        split = split_of(table.name, where=table.parent)
        for number, row in objects(table):
            name, seconds, start = row.get("audio_filepath"), row.get("duration"), row.get("offset")
            if not isinstance(name, str) or not name or not all(_is_seconds(value) for value in (seconds, start)):
                raise BadInput(f"{table}, line {number}: needs audio_filepath, and numbers as duration and offset.")
            text, speaker = row.get("text"), row.get("speaker")
            entries.append(
                Entry(
                    id=f"{table.stem}/{number}",
                    path=table.parent / name,
                    split=split,
                    seconds=seconds,
                    start=None if seconds is None and not start else start or 0.0,  # so many seconds from its beginning
                    text=text if isinstance(text, str) else "",
                    speaker=str(speaker) if isinstance(speaker, str | int) else "",
                )
            )
    return all_there(entries, folder)


def kaldi(folder: Path) -> list[Entry]:
    """A data directory of Kaldi: `wav.scp`, and `segments`, `text`, `utt2spk` where there are any.

    Source and licence: those of the corpus.

    Layout: lines of an id and, behind a blank or tab: a sound's path (relative to where the process stands, as for
    Kaldi); a recording with start and end in seconds, and its channel, from 0, where it has several; the words; the
    speaker. From memory of the format.

    Splits: by the words in the folder's name, as of Hugging Face data sets.

    Raises:
        BadInput: no wav.scp; a sound that a command gives ("… |"), which is never run, or that lies inside an ark; a
            segment of an unknown recording or without a length; a sound that is not there; texts or speakers of
            utterances that are not there.
    """
    sounds = _keyed(folder / "wav.scp")
    odd = [f"{id} ({place})" for id, place in sounds.items() if place.endswith("|") or ".ark:" in place or place == "-"]
    if odd:
        raise BadInput(
            f"{folder / 'wav.scp'}: sounds that a command or archive gives: {offenders(odd)}. Commands are never run: "
            "write the sounds as files, and their paths into wav.scp."
        )
    texts, speakers = (_keyed(path) if (path := folder / name).is_file() else {} for name in ("text", "utt2spk"))
    parts: dict[str, tuple[str, float | None, float | None, int | None]] = {id: (id, None, None, None) for id in sounds}
    if (folder / "segments").is_file():
        parts = {}
        for id, rest in _keyed(folder / "segments").items():
            fields = rest.split()
            try:
                recording, start, end = fields[0], float(fields[1]), float(fields[2])
                channel = int(fields[3]) if len(fields) > 3 else -1  # from 0; -1 is any
                if len(fields) > 4 or channel < -1:
                    raise ValueError("behind them stands the channel, from 0, alone")
            except (IndexError, ValueError) as error:
                raise BadInput(f"{folder / 'segments'}: {id!r} has no recording, start and end ({error}).") from error
            if recording not in sounds:
                raise BadInput(f"{folder / 'segments'}: {id!r} is of {recording!r}, which wav.scp lacks.")
            parts[id] = recording, start, round(end - start, 6), None if channel == -1 else channel + 1
    if strangers := sorted((texts.keys() | speakers.keys()) - parts.keys()):
        raise BadInput(f"{folder}: text or utt2spk names {offenders(strangers)}, of which there is no sound.")
    split = split_of(folder.absolute().name, where=folder)  # of a link, its own name
    entries = [
        Entry(
            id=id,
            path=Path(sounds[recording]).absolute(),
            speaker=speakers.get(id, ""),
            split=split,
            text=texts.get(id, ""),
            start=start,
            seconds=seconds,
            channel=channel,
        )
        for id, (recording, start, seconds, channel) in parts.items()
    ]
    return all_there(entries, folder)


def _tables(folder: Path, *suffixes: str) -> list[Path]:
    found = [folder] if folder.is_file() else visible(folder, "*", suffixes)
    if not found:
        raise BadInput(f"{folder}: no {' or '.join(suffixes)} files in it. Give the manifests' folder, or one of them.")
    return found


def _is_seconds(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _keyed(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in lines(path):
        id, *rest = line.split(maxsplit=1)
        if id in found:
            raise BadInput(f"{path}, line {number}: {id!r} stands there twice.")
        found[id] = rest[0].strip() if rest else ""
    return found
