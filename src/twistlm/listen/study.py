"""A study on disk, and how it is read.

STUDY/
  study.json        what is asked, of which systems, by which design, with which checks
  clips.jsonl       which system and item each clip is of: for the owner only
  trials.jsonl      what each place hears, in order: for the owner only
  checks.jsonl      the clips of the hearing and headphone checks, and their answers: for the owner only
  clips/ checks/    sounds under names that say nothing, all of one size
  texts/            what raters read: LANGUAGE.md and LANGUAGE.toml, to be edited
  SHA256SUMS        of all but the texts
  invitations.csv   one code a place, for studies by invitation
  owner-token       who knows it may see how far the study is, and download the answers
  answers.sqlite    made by `twist listen serve`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from twistlm.errors import BadInput, offenders
from twistlm.files.jsonl import read_json, read_objects
from twistlm.files.regular import file_sha256
from twistlm.files.text import read_text

FORMAT = 1
Kind = Literal["training", "rating", "gold", "trap"]
QUESTIONS = ("meaning", "naturalness", "quality")
MADE_FLOOR = "floor"  # the name of the system that plan makes

STUDY, CLIPS, TRIALS, CHECKS, SUMS = "study.json", "clips.jsonl", "trials.jsonl", "checks.jsonl", "SHA256SUMS"
TOKEN, INVITATIONS, ANSWERS = "owner-token", "invitations.csv", "answers.sqlite"
_WHAT = "part of a study that twist listen plan made"


@dataclass(frozen=True)
class Trial:
    """One thing to judge.

    Attributes:
        kind: training and rating clips; gold and trap clips, whose answer is known.
        item: the text it is of.
        systems: of MOS one, of A/B two, in the order of playing.
        clips: names of clips, one a system.
        spoken: of trapping clips, the clips in each language; empty for others.
        expected: the answers that are right; empty where there is none.
    """

    kind: Kind
    item: str
    systems: tuple[str, ...]
    clips: tuple[str, ...]
    spoken: Mapping[str, tuple[str, ...]]
    expected: tuple[int, ...]

    def clips_in(self, language: str) -> tuple[str, ...]:
        """Return the names of its clips for somebody who reads `language`."""
        return self.spoken.get(language, self.clips)


@dataclass(frozen=True)
class Check:
    """A clip of the hearing or headphone check.

    Attributes:
        kind: what it checks.
        clip: its name.
        answer: what is right: three digits, or the number of the interval, from 1.
        language: of the voice; "" where nothing is said.
        seconds: how long it lasts.
    """

    kind: Literal["hearing", "headphones"]
    clip: str
    answer: str
    language: str
    seconds: float


@dataclass(frozen=True)
class Study:
    """A study that was planned.

    Attributes:
        folder: where it lies.
        facts: study.json.
        places: what each rater hears, in order.
        seconds: name of a clip -> how long it lasts.
        checks: of hearing and headphones.
    """

    folder: Path
    facts: Mapping[str, Any]
    places: tuple[tuple[Trial, ...], ...]
    seconds: Mapping[str, float]
    checks: tuple[Check, ...]

    @property
    def design(self) -> str:
        return str(self.facts["design"])

    @property
    def answers(self) -> tuple[int, ...]:
        """The answers that exist: 1 … 5; of A/B 1 (the first), 2 (the second) and, where one may, 0 (neither)."""
        return (1, 2, 3, 4, 5) if self.design == "mos" else ((1, 2, 0) if self.facts["ties"] else (1, 2))

    def clip(self, name: str) -> Path:
        return self.folder / "clips" / f"{name}.wav"


def open_study(folder: str | Path, *, whole: bool = False) -> Study:
    """Read a study.

    Args:
        folder: what `twist listen plan` wrote.
        whole: compare every file with its checksum.

    Raises:
        BadInput: it is none, of another version, or not whole.
    """
    folder = Path(folder)
    if not (folder / STUDY).is_file():
        raise BadInput(f"{folder} is no study: there is no {STUDY} in it. Make one with twist listen plan.")
    shape = {
        "format": int, "design": str, "question": str, "ties": bool, "systems": [str], "items": [str],
        "languages": [str], "check_trials": {str: int}, "raters": int, "clips_per_system": int, "seed": int,
        "passes": {str: int}, "minutes": float, "conditions": [[str]], "ratings_per_clip": int, "truth": str,
        "floor": str, "lufs": float, "loudness_measure": str, "sample_rate": int, "fingerprint": str,
    }  # fmt: skip
    facts = read_json(folder / STUDY, "what a study asks", shape=shape)
    if facts["format"] != FORMAT:
        raise BadInput(f"{folder}: format {facts['format']}; this twistlm knows {FORMAT}. Plan it again.")
    if whole:
        verify(folder)
    clips = {
        row["clip"]: float(row["seconds"])
        for _, row in read_objects(folder / CLIPS, _WHAT, shape={"clip": str, "seconds": float})
    }
    checks = tuple(
        Check(row["kind"], row["clip"], row["answer"], row["language"], row["seconds"])
        for _, row in read_objects(
            folder / CHECKS,
            _WHAT,
            shape={"kind": str, "clip": str, "answer": str, "language": str, "seconds": float},
        )
    )
    trial = {
        "kind": str, "item": str, "systems": [str], "clips": [str], "spoken": {str: [str]}, "expected": [int],
    }  # fmt: skip
    places = tuple(
        tuple(
            Trial(
                one["kind"],
                one["item"],
                tuple(one["systems"]),
                tuple(one["clips"]),
                {language: tuple(names) for language, names in one["spoken"].items()},
                tuple(one["expected"]),
            )
            for one in row["trials"]
        )
        for _, row in read_objects(folder / TRIALS, _WHAT, shape={"place": int, "trials": [trial]})
    )
    used = {name for trials in places for one in trials for name in (*one.clips, *sum(one.spoken.values(), ()))}
    if unknown := sorted(used - set(clips)):
        raise BadInput(f"{folder / TRIALS}: clips that {CLIPS} does not have: {offenders(unknown)}. Plan it again.")
    return Study(folder, facts, places, clips, checks)


def owner_token(folder: Path) -> str:
    """Return the secret of a study's owner."""
    return read_text(folder / TOKEN, "the owner's token of a study", most=1 << 10).strip()


def key(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of clips.jsonl: what each clip is."""
    return [row for _, row in read_objects(folder / CLIPS, _WHAT)]


def verify(folder: Path) -> None:
    """Compare every file of a study with its checksum.

    Raises:
        BadInput: some are missing or others.
    """
    wrong = []
    for line in read_text(folder / SUMS, "checksums of a study").splitlines():
        digest, _, name = line.partition("  ")
        if not (folder / name).is_file() or file_sha256(folder / name) != digest:
            wrong.append(name)
    if wrong:
        raise BadInput(
            f"{folder}: files are missing or changed since it was planned: {offenders(wrong)}. Copy the study again; "
            f"or plan it anew in another folder{_keep_answers(folder)}, and remove this one."
        )


def _keep_answers(folder: Path) -> str:
    there = (folder / ANSWERS).exists()
    return f" (the same command gives the same clips: move {ANSWERS} there)" if there else ""
