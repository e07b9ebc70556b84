"""Spoken StoryCloze and Topic StoryCloze: a story with its ending against the same story with a wrong one.

Both are scored as whole recordings, story and ending together. Three layouts:

- the first release: one folder of `<n>_<story id>_<correct|incorrect>.wav`;
- the multi-speaker release: one folder a speaker, each with Parquet tables of id, correct_text, correct_audio,
  negative_text, negative_audio. A folder that holds tables itself is one speaker;
- ours (`twist bench storycloze`): a gold.csv of both tasks (PARTS), story and endings in files of their own, joined
  when they are read.

Pairs are joined on the story id. Re-rendered speech moves these numbers by points: always say which rendering was used.
The first two readers were tested on stand-ins laid out like the releases, not on the releases.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

from twistlm.audio.finding import is_hidden, visible
from twistlm.errors import BadInput, offenders
from twistlm.evaluate.suites.sounds import Cell, Joined, Sound, table_rows
from twistlm.evaluate.suites.suite import Suite, fingerprint, gold_table, sounds_in
from twistlm.types import Pair

_NAME = re.compile(r"(?P<n>\d+)_(?P<story>.+)_(?P<side>correct|incorrect)")
_SIDES = ("correct", "negative")
PARTS = (
    *("task", "id", "voice", "topic", "prompt", "correct", "incorrect", "pause"),
    *("prompt_text", "correct_text", "incorrect_text"),
)


def storycloze(folder: str | Path, *, name: str) -> Suite:
    """Return a Spoken StoryCloze; the folder's contents tell the layout. Facet speaker where there are several.

    Args:
        folder: of the release.
        name: "storycloze" or "topic-storycloze": the layouts do not tell which one it is.

    Raises:
        BadInput: a side of a story is missing, doubled or without text, a name that does not follow the release, a
            speaker who lacks stories, or a folder without tables beside some that have; the first five are named.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder. Give the folder into which Spoken StoryCloze was unpacked.")
    if (folder / "gold.csv").is_file():
        return _from_parts(folder / "gold.csv", name)
    if visible(folder, "*", (".parquet",)):
        return _from_tables({folder.name: folder}, name)
    below = [f for f in sorted(folder.iterdir()) if f.is_dir() and not is_hidden(f.name)]
    speakers = {f.name: f for f in below if visible(f, "*", (".parquet",))}
    if speakers and (bare := [f.name for f in below if f.name not in speakers]):
        raise BadInput(
            f"{folder}: {len(bare)} of {len(below)} folders have no Parquet tables, as speakers have: "
            f"{offenders(bare)}. Get the missing tables; a folder that is no speaker's belongs elsewhere."
        )
    return _from_tables(speakers, name) if speakers else _from_files(folder, name)


def _from_parts(gold: Path, name: str) -> Suite:
    fix = "Make it again with twist bench storycloze."
    table = [row for _, row in gold_table(gold, PARTS, missing=".", fix=fix)]
    rows = [row for row in table if row["task"] == name]
    try:
        pauses = [float(row["pause"]) for row in rows]
    except ValueError as error:
        raise BadInput(f"{gold}: a pause in it is no number of seconds ({error}). {fix}") from error
    if not rows:
        raise BadInput(f"{gold} has no rows of the task {name}.")
    if short := [
        f"{row['voice']}/{row['id']}" for row in rows if not all(row[column] for column in PARTS if column != "topic")
    ]:
        raise BadInput(f"{gold}: {len(short)} rows of {name} have empty fields: {offenders(short)}.")
    ids = [f"{row['voice']}/{row['id']}" for row in rows]
    if doubled := sorted(id for id, n in Counter(ids).items() if n > 1):
        raise BadInput(f"{gold}: {len(doubled)} stories of {name} occur more than once: {offenders(doubled)}.")
    clips: dict[str, Sound] = {}
    texts: dict[str, str] = {}
    for id, row, pause in zip(ids, rows, pauses, strict=True):
        for side in ("correct", "incorrect"):
            clips[f"{id}/{side}"] = Joined((gold.parent / row["prompt"], gold.parent / row[side]), pause)
            texts[f"{id}/{side}"] = f"{row['prompt_text']} {row[f'{side}_text']}"
    parts = sorted({row[part] for row in rows for part in ("prompt", "correct", "incorrect")})
    if gone := [part for part in parts if not (gold.parent / part).is_file()]:
        raise BadInput(
            f"{gold.parent} lacks {len(gone)} sounds that {gold.name} names: {offenders(gone)}. Get them again."
        )
    facets = {"speaker": "voice", "topic": "topic"}
    return Suite(
        name=name,
        version=fingerprint("\n".join("\t".join(row[column] for column in PARTS) for row in rows).encode()),
        pairs=tuple(Pair(id=id, positive=f"{id}/correct", negative=f"{id}/incorrect") for id in ids),
        clips=clips,
        clusters={id: row["id"] for id, row in zip(ids, rows, strict=True)},
        facets={
            facet: {id: row[column] for id, row in zip(ids, rows, strict=True) if row[column]}
            for facet, column in facets.items()
        },
        texts=texts,
    )


def _from_files(folder: Path, name: str) -> Suite:
    found = sounds_in(folder, suffixes=(".wav",))
    if not found:
        raise BadInput(f"{folder} holds neither wav files nor Parquet tables: it is no release of Spoken StoryCloze.")
    matches = {stem: _NAME.fullmatch(stem) for stem in found}
    if odd := [found[stem].name for stem, match in matches.items() if match is None]:
        raise BadInput(
            f"{folder}: {len(odd)} names are not <n>_<story id>_<correct|incorrect>.wav: {offenders(odd)}. Leave only "
            "the files of the release in it."
        )
    sides: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"correct": [], "incorrect": []})
    for stem, match in matches.items():
        assert match is not None
        sides[match["story"]][match["side"]].append(stem)
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
    return Suite(
        name=name,
        version=fingerprint("\n".join(sorted(f"{stem}.wav" for stem in found)).encode()),
        pairs=tuple(
            Pair(id=story, positive=of["correct"][0], negative=of["incorrect"][0])
            for story, of in sorted(sides.items())
        ),
        clips=found,
        clusters={story: story for story in sides},
    )


def _from_tables(speakers: dict[str, Path], name: str) -> Suite:
    clips: dict[str, Cell] = {}
    texts: dict[str, str] = {}
    stories: dict[str, set[str]] = {}
    doubled, silent = [], []
    for speaker, folder in speakers.items():
        stories[speaker] = set()
        for path in visible(folder, "*", (".parquet",)):
            columns, texts_of = ([f"{side}_{what}" for side in _SIDES] for what in ("audio", "text"))
            for row, cells in table_rows(path, ids=("id",), texts=texts_of, audio=columns):
                story = row["id"]
                if story in stories[speaker]:
                    doubled.append(f"{speaker}/{story}")
                stories[speaker].add(story)
                for side in _SIDES:
                    clip = f"{speaker}/{story}/{side}"
                    clips[clip], texts[clip] = cells[f"{side}_audio"], row[f"{side}_text"]
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
