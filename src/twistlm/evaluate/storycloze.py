"""Spoken StoryCloze and Topic StoryCloze: a story with its ending against the same story with a wrong one.

Both are scored as whole recordings, story and ending together. Two layouts:

- the first release: one folder of `<n>_<story id>_<correct|incorrect>.wav`;
- the multi-speaker release: one folder a speaker, each with Parquet tables of id, correct_text, correct_audio,
  negative_text, negative_audio. A folder that holds tables itself is one speaker.

Pairs are joined on the story id. Re-rendered speech moves these numbers by points: always say which rendering was used.
The readers were tested on stand-ins laid out like the releases, not on the releases.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from twistlm.errors import BadInput, offenders
from twistlm.evaluate.sounds import Cell, table_rows
from twistlm.evaluate.suites import Suite, fingerprint, require_sounds
from twistlm.types import Pair

_NAME = re.compile(r"(?P<n>\d+)_(?P<story>.+)_(?P<side>correct|incorrect)\.wav")
_SIDES = ("correct", "negative")


def storycloze(folder: str | Path, *, name: str) -> Suite:
    """Return a Spoken StoryCloze; the folder's contents tell the layout. Facet speaker where there are several.

    Args:
        folder: of the release.
        name: "storycloze" or "topic-storycloze": the layouts do not tell which one it is.

    Raises:
        BadInput: a side of a story is missing, doubled or without text, a name that does not follow the release, or a
            speaker who lacks stories; the first five are named.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder. Give the folder into which Spoken StoryCloze was unpacked.")
    if next(folder.glob("*.parquet"), None):
        return _from_tables({folder.name: folder}, name)
    speakers = {f.name: f for f in sorted(folder.iterdir()) if f.is_dir() and next(f.glob("*.parquet"), None)}
    return _from_tables(speakers, name) if speakers else _from_files(folder, name)


def _from_files(folder: Path, name: str) -> Suite:
    files = sorted(p.name for p in folder.iterdir() if p.suffix == ".wav" and not p.name.startswith("."))
    if not files:
        raise BadInput(f"{folder} holds neither wav files nor Parquet tables: it is no release of Spoken StoryCloze.")
    matches = {file: _NAME.fullmatch(file) for file in files}
    if odd := [file for file, match in matches.items() if match is None]:
        raise BadInput(
            f"{folder}: {len(odd)} names are not <n>_<story id>_<correct|incorrect>.wav: {offenders(odd)}. Leave only "
            "the files of the release in it."
        )
    sides: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"correct": [], "incorrect": []})
    for file, match in matches.items():
        assert match is not None
        sides[match["story"]][match["side"]].append(file)
    broken = [
        f"{story}: {len(of['correct'])} correct, {len(of['incorrect'])} incorrect"
        for story, of in sorted(sides.items())
        if len(of["correct"]) != 1 or len(of["incorrect"]) != 1
    ]
    if broken:
        raise BadInput(
            f"{folder}: {len(broken)} of {len(sides)} stories do not have one correct and one incorrect file: "
            f"{offenders(broken)}. Get a whole copy, in a folder of its own."
        )
    require_sounds(folder, files, listed_in="the release")
    return Suite(
        name=name,
        version=fingerprint("\n".join(files).encode()),
        pairs=tuple(
            Pair(
                id=story,
                positive=of["correct"][0].removesuffix(".wav"),
                negative=of["incorrect"][0].removesuffix(".wav"),
            )
            for story, of in sorted(sides.items())
        ),
        clips={file.removesuffix(".wav"): folder / file for file in files},
        clusters={story: story for story in sides},
    )


def _from_tables(speakers: dict[str, Path], name: str) -> Suite:
    clips: dict[str, Cell] = {}
    texts: dict[str, str] = {}
    stories: dict[str, set[str]] = {}
    doubled, silent = [], []
    for speaker, folder in speakers.items():
        stories[speaker] = set()
        for path in sorted(folder.glob("*.parquet")):
            columns = [f"{side}_audio" for side in _SIDES]
            for row, cells in table_rows(path, values=("id", *(f"{side}_text" for side in _SIDES)), audio=columns):
                story = str(row["id"])
                if story in stories[speaker]:
                    doubled.append(f"{speaker}/{story}")
                stories[speaker].add(story)
                for side in _SIDES:
                    clip = f"{speaker}/{story}/{side}"
                    clips[clip], texts[clip] = cells[f"{side}_audio"], row[f"{side}_text"] or ""
                    if not texts[clip].strip():
                        silent.append(clip)
    where = next(iter(speakers.values())).parent
    if doubled:
        raise BadInput(f"{where}: {len(doubled)} stories occur more than once: {offenders(doubled)}.")
    if silent:
        raise BadInput(f"{where}: {len(silent)} recordings have no text: {offenders(silent)}. Get the tables again.")
    everything = set().union(*stories.values())
    if not everything:
        raise BadInput(f"{where}: the tables of {name} have no rows.")
    lost = [f"{speaker}: {story}" for speaker, has in stories.items() for story in sorted(everything - has)]
    if lost:
        raise BadInput(
            f"{where}: {len(lost)} stories are missing for some of the {len(speakers)} speakers: {offenders(lost)}. "
            "Get the missing tables, or give one speaker's folder."
        )
    pairs = [(speaker, story) for speaker in speakers for story in sorted(everything)]
    ids = [f"{speaker}/{story}" for speaker, story in pairs]
    return Suite(
        name=name,
        version=fingerprint("\n".join(f"{clip}\t{texts[clip]}" for clip in sorted(clips)).encode()),
        pairs=tuple(Pair(id=id, positive=f"{id}/correct", negative=f"{id}/negative") for id in ids),
        clips=clips,
        clusters={id: story for id, (_, story) in zip(ids, pairs, strict=True)},
        facets={"speaker": {id: speaker for id, (speaker, _) in zip(ids, pairs, strict=True)}},
        texts=texts,
    )
