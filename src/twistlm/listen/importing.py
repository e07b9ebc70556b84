"""Results of other tools as ratings: webMUSHRA's CSV files, and those of P.808 on Mechanical Turk."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from twistlm.errors import BadInput, offenders
from twistlm.files.text import lines
from twistlm.listen.ratings import Rating

_P808_CLIP = re.compile(r"answer\.(q\d+)_url")
_PAIRED = {"correct": 1.0, "incorrect": -1.0, "undecided": 0.0}


def read_results(path: Path, *, clip_pattern: str | None) -> tuple[list[Rating], int]:
    """Return the ratings of a file, whose kind its columns tell, and how many clips or pairs in it have no answer.

    | columns | what it is |
    |---|---|
    | trial_id, rating_stimulus, rating_score | webMUSHRA's mushra.csv: item, system, 0 … 100 |
    | trial_id, stimuli_rating, stimuli | its lss.csv and lms.csv: Likert scales |
    | trial_id, choice_reference, choice_non_reference, choice_answer | its paired_comparison.csv |
    | workerid, answer.q1, answer.q1_url … | P.808: a batch of Mechanical Turk, with gold and trapping clips |
    | workerid, file, vote | P.808: the list of votes that its parser writes |

    webMUSHRA's rows need a column of the session (session_uuid) or of the questionnaire to tell raters apart.

    Args:
        path: the file.
        clip_pattern: a regular expression with the groups `system` and `item`, searched for in the names of clips.
            Without one, webMUSHRA's stimulus is the system and its trial the item; P.808 needs one.

    Raises:
        BadInput: another kind of file, a pattern that does not fit, a number that is none.
    """
    rows = list(_rows(path))
    if not rows:
        raise BadInput(f"{path}: there is no rating in it, at most the names of columns.")
    columns = set(rows[0])
    pattern = _pattern(clip_pattern)
    if {"trial_id", "rating_stimulus", "rating_score"} <= columns:
        return _mushra(path, rows, pattern, stimulus="rating_stimulus", score="rating_score"), 0
    if {"trial_id", "stimuli_rating", "stimuli"} <= columns:
        return _mushra(path, rows, pattern, stimulus="stimuli", score="stimuli_rating"), 0
    if {"trial_id", "choice_reference", "choice_non_reference", "choice_answer"} <= columns:
        if pattern is not None:
            raise BadInput(f"{path}: comparisons name their systems themselves: leave --clip-pattern out.")
        return _paired(path, rows)
    votes = {"workerid", "file", "vote"} <= columns
    if votes or ("workerid" in columns and any(_P808_CLIP.fullmatch(name) for name in columns)):
        if pattern is None:
            raise BadInput(
                f"{path}: a clip's name alone does not tell its system: give --clip-pattern, such as "
                r"'/(?P<system>\w+)_(?P<item>\w+)\.wav'."
            )
        return (_votes(path, rows, pattern), 0) if votes else _batch(path, rows, pattern)
    raise BadInput(
        f"{path}: the columns {offenders(sorted(columns))} are of no known kind: webMUSHRA's mushra, lss, "
        "lms or paired_comparison, P.808's batch or its votes."
    )


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file, names of columns in lower case."""
    table = csv.reader(line for _, line in lines(path, "results of a listening test, as CSV"))
    try:
        names = [name.strip().lstrip("﻿").lower() for name in next(table, [])]
        for number, cells in enumerate(table, start=2):
            if len(cells) != len(names):
                raise BadInput(f"{path}, row {number}: {len(cells)} cells under {len(names)} columns. Is it cut short?")
            yield dict(zip(names, (cell.strip() for cell in cells), strict=True))
    except csv.Error as error:
        raise BadInput(f"{path} is not a CSV file: {error}.") from error


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise BadInput(f"--clip-pattern {text!r} is no regular expression: {error}.") from error
    if not {"system", "item"} <= set(pattern.groupindex):
        raise BadInput(f"--clip-pattern {text!r} needs two groups, (?P<system>…) and (?P<item>…).")
    return pattern


def _of(name: str, pattern: re.Pattern[str], where: str) -> tuple[str, str]:
    found = pattern.search(name)
    if found is None or not found["system"] or not found["item"]:
        raise BadInput(f"{where}: --clip-pattern does not find a system and an item in {name!r}.")
    return found["system"], found["item"]


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"{where}: {text!r} is not a score.")
    return value


def _raters(path: Path, rows: list[dict[str, str]], of: tuple[str, ...]) -> list[str]:
    """Return a name of each row's rater, by the columns before the trial's: the session, or what people were asked.

    Args:
        path, rows: the file.
        of: columns of what is rated, which nobody is asked twice.
    """
    before = [name for name in rows[0] if name not in _MUSHRA and name != "session_test_id"]
    if "session_uuid" in before:
        before = ["session_uuid"]
    keys = [tuple(row[name] for name in before) for row in rows]
    if not before or any(not any(key) for key in keys):
        raise BadInput(
            f"{path}: nothing tells raters apart: there is no session_uuid, and the questionnaire is missing or empty. "
            "Newer versions of webMUSHRA write the session."
        )
    names = {key: f"rater-{i:04}" for i, key in enumerate(dict.fromkeys(keys), start=1)}
    raters = [names[key] for key in keys]
    seen: dict[tuple[str, ...], int] = {}
    twice = []
    for number, (rater, row) in enumerate(zip(raters, rows, strict=True), start=2):
        first = seen.setdefault((rater, *(row[name] for name in of)), number)
        if first != number:
            twice.append(f"rows {first} and {number}, {' '.join(row[name] for name in of)}")
    if twice:
        raise BadInput(
            f"{path}: one rater rated the same twice: {offenders(twice)}. Raters are told apart by "
            f"{', '.join(before)}: either several people are the same in it (newer versions of webMUSHRA write a "
            "session_uuid, which tells them apart), or a submission is there more than once: leave one."
        )
    return raters


_MUSHRA = {
    "trial_id", "rating_stimulus", "rating_score", "rating_time", "rating_comment", "stimuli", "stimuli_rating",
    "choice_reference", "choice_non_reference", "choice_answer", "choice_time", "choice_comment",
}  # fmt: skip


def _mushra(
    path: Path, rows: list[dict[str, str]], pattern: re.Pattern[str] | None, *, stimulus: str, score: str
) -> list[Rating]:
    out = []
    for number, (row, rater) in enumerate(zip(rows, _raters(path, rows, ("trial_id", stimulus)), strict=True), start=2):
        where = f"{path}, row {number}"
        system, item = (row[stimulus], row["trial_id"]) if pattern is None else _of(row[stimulus], pattern, where)
        out.append(Rating(rater, "rating", item, system, "", _number(row[score], where)))
    return out


def _paired(path: Path, rows: list[dict[str, str]]) -> tuple[list[Rating], int]:
    out = []
    unanswered = 0
    raters = _raters(path, rows, ("trial_id", "choice_reference", "choice_non_reference"))
    first: dict[frozenset[str], tuple[str, str]] = {}  # a pair is one condition, whichever was the reference
    for number, (row, rater) in enumerate(zip(rows, raters, strict=True), start=2):
        said = row["choice_answer"]
        if said == "unknown":  # the page was left without an answer
            unanswered += 1
            continue
        if said not in _PAIRED:
            raise BadInput(f"{path}, row {number}: the answer {said!r} is none of {', '.join(_PAIRED)}, unknown.")
        pair = row["choice_reference"], row["choice_non_reference"]
        known = first.setdefault(frozenset(pair), pair)
        score = _PAIRED[said] * (1 if pair == known else -1)
        out.append(Rating(rater, "rating", row["trial_id"], *known, score))
    return out, unanswered


def _votes(path: Path, rows: list[dict[str, str]], pattern: re.Pattern[str]) -> list[Rating]:
    out = []
    for number, row in enumerate(rows, start=2):
        where = f"{path}, row {number}"
        system, item = _of(row["file"], pattern, where)
        out.append(Rating(row["workerid"], "rating", item, system, "", _number(row["vote"], where)))
    return _anonymous(path, out)


def _batch(path: Path, rows: list[dict[str, str]], pattern: re.Pattern[str]) -> tuple[list[Rating], int]:
    """Return the answers of assignments; rejected ones are among them, since the rules are ours to apply."""
    questions = sorted(
        {found[1] for name in rows[0] if (found := _P808_CLIP.fullmatch(name))}, key=lambda q: int(q[1:])
    )
    out = []
    unanswered = 0
    for number, row in enumerate(rows, start=2):
        where = f"{path}, row {number}"
        for question in questions:
            url, said = row[f"answer.{question}_url"], row.get(f"answer.{question}", "")
            if not url or not said:
                unanswered += bool(url)
                continue
            score = _number(said, where)
            finished = row.get(f"answer.audio_n_finish_{question}", "")
            plays = int(_number(finished, where)) if finished else None
            kind, right = _control(row, url, score, where)
            system, item = ("check", url) if kind != "rating" else _of(url, pattern, where)
            seconds = None if plays is None else 0.0
            out.append(
                Rating(row["workerid"], kind, item, system, "", score, right=right, plays=plays, seconds=seconds)
            )
    return _anonymous(path, out), unanswered


def _control(row: Mapping[str, str], url: str, score: float, where: str) -> tuple[str, bool | None]:
    """Return the kind of a clip of P.808, and whether the answer to a trapping or gold clip is right."""
    for kind, clip, allowed in (
        ("trap", "input.tp", 0),
        ("gold", "input.gold_clips", 1),
        ("gold", "input.gold_clips_2", 1),
    ):
        if row.get(clip) and row[clip] == url:
            answer = row.get(f"{clip}_ans", "")
            return kind, abs(score - _number(answer, where)) <= allowed if answer else None
    return "rating", None


def _anonymous(path: Path, ratings: list[Rating]) -> list[Rating]:
    """Return ratings without workers' numbers.

    Raises:
        BadInput: one of them has no worker: all such would be one rater.
    """
    if nobody := sum(not one.rater for one in ratings):
        raise BadInput(f"{path}: {nobody} ratings have no workerid, so nothing tells their raters apart.")
    names = {rater: f"rater-{i:04}" for i, rater in enumerate(dict.fromkeys(one.rater for one in ratings), start=1)}
    return [one._replace(rater=names[one.rater]) for one in ratings]
