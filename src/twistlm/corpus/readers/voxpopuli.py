"""VoxPopuli: speech of the European Parliament."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from twistlm.corpus.manifest import Entry
from twistlm.corpus.readers.tables import by_stem, headed, pair
from twistlm.errors import BadInput, offenders

SPLITS = ("train", "dev", "test")


def voxpopuli(folder: Path) -> list[Entry]:
    """VoxPopuli: up to 400,000 h of the European Parliament in 23 languages, 1,800 h of them transcribed.

    Source: github.com/facebookresearch/voxpopuli (Wang et al. 2021). Licence: CC0; the European Parliament's legal
    notice applies to its recordings.

    Layout, as that repository's scripts leave it below `--root`, which is `folder` (checked against them):
        transcribed_data/en/asr_{train,dev,test}.tsv    columns id, normalized_text, speaker_id, split (others unread)
        transcribed_data/en/2013/ID.ogg                 speech-to-speech data, a folder deeper, is not read
        unlabelled_data/en/2013/EVENT_en_17.ogg         clips that are already cut, or instead of them:
        unlabelled_data/unlabelled_v2.tsv.gz            columns event_id, segment_no, start, end, and
        raw_audios/en/2013/EVENT_en.ogg                 whole sessions, whose parts are read without cutting them
    Of a language that has both, the cut clips are used. Segments of sessions that are not there (the table lists every
    language and year) are not asked for; a session that is there must have segments.

    Splits: transcribed clips keep train, dev and test. Unlabelled clips have no speaker and no text; those of a session
    of which a transcribed clip, in whatever language, is in dev or test get that split (test where both), since they
    may hold the same speech. So give the transcribed tables even when only unlabelled speech is trained on.

    Raises:
        BadInput: none of these; a transcribed clip without its sound or the other way round; an unknown split; a
            session without segments, or segments without a length.
    """
    entries = _transcribed(folder / "transcribed_data")
    entries += _unlabelled(folder, _held_sessions(entries))
    if not entries:
        raise BadInput(
            f"{folder}: has no transcribed_data/LANGUAGE/asr_train.tsv, unlabelled_data or raw_audios in it."
        )
    return entries


def _transcribed(root: Path) -> list[Entry]:
    entries = []
    for language in sorted(path for path in root.glob("*") if path.is_dir()):
        rows = []
        for table in sorted(language.glob("asr_*.tsv")):
            for row in headed(table, sep="\t", names=("id", "normalized_text", "speaker_id", "split")):
                if row["split"] not in SPLITS:
                    raise BadInput(f"{table}: unknown split {row['split']!r} of {row['id']!r}; known: {SPLITS}.")
                rows.append(row)
        found = by_stem(language, (".ogg",), pattern="*/*")
        pair([row["id"] for row in rows], found, where=str(language))
        for row in rows:
            entries.append(
                Entry(
                    id=f"{language.name}/{row['id']}",
                    path=found[row["id"]],
                    speaker=row["speaker_id"],
                    split=row["split"],
                    text=row["normalized_text"],
                )
            )
    return entries


def _held_sessions(transcribed: list[Entry]) -> dict[str, str]:
    """Map each beginning of a held-out id to its split; ids begin with their session's name and a dash."""
    held: dict[str, str] = {}
    for entry in transcribed:
        if entry.split != "train":
            words = entry.path.stem.split("-")
            for n in range(1, len(words)):
                session = "-".join(words[:n])
                held[session] = "test" if "test" in (entry.split, held.get(session)) else entry.split
    return held


def _unlabelled(folder: Path, held: dict[str, str]) -> list[Entry]:
    entries = []
    cut = {path.name: path for path in (folder / "unlabelled_data").glob("*") if path.is_dir()}
    for language, root in sorted(cut.items()):
        for path in sorted(root.glob("*/*.ogg")):
            event = path.stem.rpartition("_")[0]
            entries.append(Entry(id=f"{language}/{path.stem}", path=path, split=_split(event, held)))
    raw = {
        path.stem: path
        for language in sorted((folder / "raw_audios").glob("*"))
        if language.name not in cut and language.name != "original"  # the source of the transcribed clips
        for path in sorted(language.glob("*/*.ogg"))
    }
    return entries + (_segments(folder, raw, held) if raw else [])


def _segments(folder: Path, raw: dict[str, Path], held: dict[str, str]) -> list[Entry]:
    table = folder / "unlabelled_data" / "unlabelled_v2.tsv.gz"
    segments: dict[str, list[Entry]] = defaultdict(list)
    for row in headed(table, sep="\t", names=("event_id", "segment_no", "start", "end")):
        event = row["event_id"]
        if event not in raw:
            continue
        id = f"{event.rpartition('_')[2]}/{event}_{row['segment_no']}"
        try:
            start, end = float(row["start"]), float(row["end"])
        except ValueError as error:
            raise BadInput(f"{table}: the start or end of {id!r} is no number: {error}.") from error
        length = round(end - start, 6)
        segments[event].append(Entry(id=id, path=raw[event], split=_split(event, held), start=start, seconds=length))
    if lost := sorted(event for event in raw if event not in segments):
        raise BadInput(f"{table}: has no segments of the sessions {offenders(lost)}. The table is older or damaged.")
    return [entry for event in sorted(raw) for entry in segments[event]]


def _split(event: str, held: dict[str, str]) -> str:
    return held.get(event.rpartition("_")[0], "train")  # an event is a session and, behind "_", the language
