"""Spoken StoryCloze and Topic StoryCloze from stories: four sentences, a right and a wrong ending.

Letters: S stories. Spoken StoryCloze (sSC) sets the right ending against the given wrong one; Topic StoryCloze (tSC)
against the right ending of another story (Hassid et al. 2023). There each ending was drawn at random; here the endings
are dealt out, each used as a wrong one exactly once, so that no ending by itself is the likelier answer.

    gold.csv                      a row a task, story and voice: which prompt, which endings (evaluate.storycloze.PARTS)
    clips/<voice>/*.wav           each prompt and each ending
    storycloze/, topic-storycloze/    the same stories joined, in the tables of the multi-speaker release
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.optimize import linear_sum_assignment

from twistlm.benchmarks.engines import Voice, label
from twistlm.benchmarks.release import Casting, put, stored, write_card, write_entries, write_release, write_table
from twistlm.benchmarks.spoken import Spoken
from twistlm.benchmarks.texts import fingerprint_rows, read_csv, spoken_words
from twistlm.compute.threads import in_order
from twistlm.corpus.manifest import Entry
from twistlm.errors import BadInput, offenders
from twistlm.evaluate.suites.sounds import join
from twistlm.evaluate.suites.storycloze import PARTS

SENTENCES = ("sentence1", "sentence2", "sentence3", "sentence4")
FIELDS = ("id", *SENTENCES, "right", "wrong")
TASKS = ("storycloze", "topic-storycloze")
_NEVER, _OTHER_VOICE, _SAME_TOPIC, _PER_LETTER = (
    1e9,
    1e6,
    1e4,
    10.0,
)  # costs of giving an ending to a story, beside chance's 0 … 1
_GROUP = 64  # rows of a Parquet row group
_AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TABLE = pa.schema(
    [(name, pa.string()) for name in ("id", "speaker", "topic")]
    + [
        (f"{side}_{what}", kind)
        for side in ("correct", "negative")
        for what, kind in (("text", pa.string()), ("audio", _AUDIO))
    ]
)
Story = dict[str, str]


def read_stories(path: str | Path) -> list[Story]:
    """Read stories: columns id, sentence1 … sentence4, right, wrong, and topic, which may be missing.

    Raises:
        BadInput: as `texts.read_csv`; or a story whose two endings have the same words.
    """
    stories = read_csv(path, FIELDS, optional=("topic",))
    if same := [story["id"] for story in stories if spoken_words(story["right"]) == spoken_words(story["wrong"])]:
        raise BadInput(f"{path}: {len(same)} stories have one ending twice: {offenders(same)}.")
    return stories


def deal_endings(
    stories: Sequence[Story], *, match_length: bool, seed: int, voices: Sequence[str] | None = None
) -> list[int]:
    """Return, for each story, the story whose right ending is its wrong one in tSC: a permutation of 0 … S - 1.

    Never a story's own ending, nor one with the same words. An ending of the same topic only where nothing else is
    left: it might well be right.

    Args:
        stories: S of them, at least 2.
        match_length: endings nearly as long, in letters, as the right one; otherwise only chance decides.
        seed: of chance.
        voices: who speaks each story, where one voice does: endings come from stories of the same voice as far as that
            goes, so that each recording too is right once and wrong once.

    Raises:
        BadInput: fewer than 2 stories, or more than half of them end with the same words.
    """
    if len(stories) < 2:
        raise BadInput("an ending of another story needs at least 2 stories.")
    cost = np.random.default_rng(seed).random((len(stories), len(stories)))
    lengths = np.array([len(story["right"]) for story in stories], dtype=np.float64)
    if match_length:
        cost += _PER_LETTER * np.abs(lengths[:, None] - lengths)
    topics = np.array([story.get("topic", "") for story in stories])
    cost += _SAME_TOPIC * ((topics[:, None] == topics) & (topics != ""))
    if voices is not None:
        cost += _OTHER_VOICE * (np.array(voices)[:, None] != np.array(voices))
    endings = np.array([spoken_words(story["right"]) for story in stories])
    cost += _NEVER * (endings[:, None] == endings)
    rows, columns = linear_sum_assignment(cost)
    if stuck := [stories[i]["id"] for i, j in zip(rows, columns, strict=True) if cost[i, j] >= _NEVER]:
        raise BadInput(
            f"{len(stuck)} stories find no other ending, too many end with the same words: {offenders(stuck)}."
        )
    return [int(j) for j in columns]


def build_storycloze(
    stories: Sequence[Story],
    out: str | Path,
    *,
    casting: Casting,
    pause: float,
    match_length: bool,
    joined: bool,
    seed: int,
    licence: str,
    about: str = "",
    store: Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Make both benchmarks of `stories` in `out`, whole or not at all; what was spoken before is not spoken again.

    Args:
        stories: from `read_stories`.
        out: the folder; one of an earlier build is replaced.
        casting: who speaks.
        pause: seconds of silence between prompt and ending, besides the clips' own margins.
        match_length: as `deal_endings`.
        joined: whether to write the joined tables too; each prompt is in them four times.
        seed: of the endings of tSC.
        licence: of the texts, for the card.
        about: what else the card says, first.
        store: where spoken lines are kept; None: twistlm's cache.
        progress: whether to draw bars.

    Returns:
        facts: out, stories, voices, spoken (lines that were missing), written (False: it was there).
    """
    if not 0 <= pause <= 60:  # what reading joins at most
        raise BadInput(f"--pause is {pause:g}; it is 0 to 60 s of silence between story and ending.")
    speaking = [label(casting.of(number)[0]) for number in range(len(stories))] if casting.rotate else None
    dealt = deal_endings(stories, match_length=match_length, seed=seed, voices=speaking)
    build = {
        "benchmark": "storycloze", "stories": len(stories), "texts": fingerprint_rows(stories), "pause": pause,
        "match_length": match_length, "joined": joined, "seed": seed, "licence": licence, "about": about,
        **casting.facts(),
    }  # fmt: skip
    spoken = Spoken(casting.sample_rate, store)
    said: list[tuple[Voice, str]] = []
    rows: list[dict[str, str]] = []
    for number, (story, other) in enumerate(zip(stories, dealt, strict=True)):
        prompt = " ".join(story[sentence] for sentence in SENTENCES)
        for voice in casting.of(number):
            for task, wrong in zip(TASKS, (story["wrong"], stories[other]["right"]), strict=True):
                lines = {"prompt": prompt, "correct": story["right"], "incorrect": wrong}
                said += [(voice, line) for line in lines.values()]
                row = {"task": task, "id": story["id"], "voice": label(voice), "topic": story.get("topic", "")}
                row |= {part: f"clips/{_clip_id(voice, line)}.{casting.format}" for part, line in lines.items()}
                row |= {"pause": f"{pause:g}"} | {f"{part}_text": line for part, line in lines.items()}
                rows.append({column: row[column] for column in PARTS} | {
                    "incorrect_from": story["id"] if task == TASKS[0] else stories[other]["id"]
                })  # fmt: skip
    n_spoken = spoken.say_all(said, progress=progress)

    def fill(folder: Path) -> None:
        lines = {_clip_id(voice, line): (voice, line) for voice, line in said}
        sounds = in_order(lambda what: stored(*what, spoken=spoken, casting=casting), lines.values())
        entries = []
        for (id, (voice, line)), data in zip(lines.items(), sounds, strict=True):
            path = put(folder / "clips" / f"{id}.{casting.format}", data)
            entries.append(Entry(id=id, path=path, speaker=label(voice), text=line))
        write_entries(entries, folder)
        write_table(folder / "gold.csv", rows)
        if joined:
            _write_tables(folder, rows, spoken, casting)
        _write_card(folder, stories, dealt, casting, build)

    written = write_release(out, build, fill)
    return {
        "out": str(out), "suites": list(TASKS), "stories": len(stories), "pairs": len(rows),
        "voices": [label(voice) for voice in casting.voices], "spoken": n_spoken, "written": written,
    }  # fmt: skip


def _clip_id(voice: Voice, line: str) -> str:
    return f"{label(voice)}/{hashlib.sha256(line.encode()).hexdigest()[:12]}"


def _write_tables(folder: Path, rows: Sequence[dict[str, str]], spoken: Spoken, casting: Casting) -> None:
    """Write the multi-speaker release's tables: a folder a voice, or one table where the voices take turns."""
    voices = {label(voice): voice for voice in casting.voices}

    def cells(row: dict[str, str]) -> dict[str, Any]:
        made: dict[str, Any] = {"id": row["id"], "speaker": row["voice"], "topic": row["topic"]}
        for side, part in (("correct", "correct"), ("negative", "incorrect")):
            texts = [row["prompt_text"], row[f"{part}_text"]]
            whole = join([spoken.say(voices[row["voice"]], text) for text in texts], pause=float(row["pause"]))
            made[f"{side}_text"] = " ".join(texts)
            name = f"{row['id']}_{side}.{casting.format}"
            made[f"{side}_audio"] = {"bytes": casting.encoded(whole), "path": name}
        return made

    for task in TASKS:
        for voice in [""] if casting.rotate else list(voices):
            wanted = [row for row in rows if row["task"] == task and voice in ("", row["voice"])]
            path = folder / task / voice / "pairs.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            with pq.ParquetWriter(path, _TABLE) as writer:
                for start in range(0, len(wanted), _GROUP):  # a group of rows in memory at a time
                    group = [cells(row) for row in wanted[start : start + _GROUP]]
                    writer.write_table(pa.Table.from_pylist(group, schema=_TABLE))


def _write_card(
    folder: Path, stories: Sequence[Story], dealt: Sequence[int], casting: Casting, build: dict[str, Any]
) -> None:
    topics = sum(bool(s["topic"]) and s["topic"] == stories[j]["topic"] for s, j in zip(stories, dealt, strict=True))
    gaps = [len(s["right"]) - len(stories[j]["right"]) for s, j in zip(stories, dealt, strict=True)]
    given = [len(s["right"]) - len(s["wrong"]) for s in stories]
    how = f"seed {build['seed']}, each ending used once{', matched in length' if build['match_length'] else ''}"
    tables = "; `storycloze/`, `topic-storycloze/`: joined, as Parquet tables" if build["joined"] else ""
    body = f"""
{len(stories)} stories of four sentences, each with a right and a wrong ending. A speech language model that follows the
story finds the right one likelier. Two tasks: `storycloze`, against the wrong ending written for the story;
`topic-storycloze`, against the right ending of another story ({how}; {topics} of
them share the story's topic).

- `gold.csv`: task, id, voice, topic; the files of prompt and both endings, their texts; the pause between them in
  seconds; the story whose ending the wrong one is
- `clips/`: prompts and endings apart{tables}
- right endings are longer than wrong ones by {np.mean(given):.1f} letters on average in `storycloze`, by
  {np.mean(gaps):.1f} in `topic-storycloze`

Score it with `twist eval RUN storycloze=FOLDER topic-storycloze=FOLDER --normalize both`.
"""
    write_card(
        folder, title="Spoken StoryCloze and Topic StoryCloze", body=body, casting=casting, licence=build["licence"],
        command="twist bench storycloze", about=build["about"],
    )  # fmt: skip
