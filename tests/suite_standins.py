"""Small benchmarks laid out as the published ones are, with sounds of a fifth of a second."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from standins import babble
from twistlm.evaluate.suites.salmon import PARTS

WORDS = {"1": ("hello", 300), "2": ("brick", 5), "3": ("quern", 0), "4": ("lathe", 1)}  # id -> (word, frequency)


def wav(path: Path, seed: int, *, seconds: float = 0.2, rate: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, babble(seconds, seed=seed, rate=rate), rate, format="WAV")


def write_gold(folder: Path, rows: Sequence[dict[str, object]]) -> Path:
    """Write gold.csv and a wav for each row; return the table."""
    for seed, row in enumerate(rows):
        wav(folder / f"{row['filename']}.wav", seed)
    with (folder / "gold.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "gold.csv"


def make_swuggy(root: Path, split: str = "dev") -> Path:
    """Four words in two voices; the first in a third one too, so that voices and pairs average differently."""
    rows = []
    for voice in ("A", "B", "C"):
        for id, (word, frequency) in WORDS.items():
            if voice == "C" and id != "1":
                continue
            for correct in (0, 1):
                rows.append({
                    "id": id, "filename": f"{voice}{id}{'wn'[1 - correct]}", "voice": voice,
                    "frequency": frequency if correct else "", "word": word if correct else "", "phones": "h ah",
                    "length": len(word), "correct": correct,
                })  # fmt: skip
    return write_gold(root / "lexical" / split, rows)


def make_sblimp(root: Path, split: str = "dev", *, voices: Sequence[str] = ("A", "B")) -> Path:
    rows = []
    for voice in voices:
        # The same id in two subtypes: ids count within a subtype only.
        for number, (kind, subtype, id) in enumerate(
            [("agreement", "plural", "1"), ("agreement", "gender", "1"), ("islands", "wh", "1"), ("islands", "wh", "2")]
        ):
            for correct in (1, 0):
                rows.append({
                    "id": id, "filename": f"s{voice}{number}{correct}", "voice": voice, "type": kind,
                    "subtype": subtype, "transcription": f"Sentence {number}{'' if correct else ' are'}, twice.",
                    "correct": correct,
                })  # fmt: skip
    return write_gold(root / "syntactic" / split, rows)


def make_prosaudit(root: Path, split: str = "dev") -> Path:
    rows = [
        {"id": id, "filename": f"p{kind[0]}{id}{correct}", "voice": "A", "type": kind, "subtype": f"x{correct}",
         "correct": correct}
        for kind in ("protosyntax", "lexical") for id in ("1", "2") for correct in (1, 0)
    ]  # fmt: skip
    return write_gold(root / "english" / split, rows)


def make_storycloze(folder: Path) -> None:
    """Names in the release's fashion; the two sides of a story are not neighbours."""
    for i, story in enumerate(("0f-a1", "b_2", "é-3")):
        wav(folder / f"{2 * i}_{story}_correct.wav", i, seconds=0.3)
        wav(folder / f"{101 - i}_{story}_incorrect.wav", 10 + i, seconds=0.3)


def _cell(seed: int, rate: int) -> dict[str, object]:
    stream = io.BytesIO()
    soundfile.write(stream, babble(0.2, seed=seed, rate=rate), rate, format="WAV")
    return {"bytes": stream.getvalue(), "path": f"{seed}.wav"}


def write_table(path: Path, rows: Sequence[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=2)


def story_rows(seed: int, stories: Sequence[str] = ("s1", "s2", "s3")) -> list[dict[str, object]]:
    return [
        {"id": story, "correct_text": f"{story} ends well.", "correct_audio": _cell(seed + i, 24_000),
         "negative_text": f"{story} ends badly.", "negative_audio": _cell(seed + 50 + i, 24_000)}
        for i, story in enumerate(stories)
    ]  # fmt: skip


def make_multispeaker(folder: Path, *, speakers: Sequence[str] = ("bm", "af")) -> None:
    for seed, speaker in zip((0, 100), speakers, strict=True):
        rows = story_rows(seed)
        order = rows if speaker == speakers[0] else rows[::-1]
        write_table(folder / speaker / "train-00000-of-00001.parquet", order)


def make_salmon(folder: Path) -> None:
    for p, part in enumerate(PARTS):
        for index in (2, 10):
            for k in (0, 1):
                wav(folder / part / f"sample_{index}_{k}.wav", 20 * p + index + 5 * k)


def make_salmon_tables(folder: Path) -> None:
    for p, part in enumerate(PARTS):
        rows = [
            {"task": part, "ind": i, "positive_audio": _cell(10 * p + i, 16_000),
             "negative_audio": _cell(10 * p + i + 5, 16_000)}
            for i in range(3)
        ]  # fmt: skip
        write_table(folder / part / "train-00000-of-00001.parquet", rows)
