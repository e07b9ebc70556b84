"""What raters said, one row an answer, joined with what each clip was; and the files of such rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from twistlm.files.atomic import atomic_write
from twistlm.listen.store import read_answers
from twistlm.listen.study import Study


class Rating(NamedTuple):
    """One answer.

    Attributes:
        rater: a number that says nothing: "rater-0001".
        kind: "training", "rating", "gold" or "trap".
        item: the text.
        system: of MOS whose clip it was, of A/B the one of the pair that the study names first.
        other: of A/B the pair's other system; "".
        score: of MOS 1 … 5; of A/B 1 where `system` was better, -1 where `other` was, 0 for neither.
        position: in the rater's list, from 0.
        answer: what was clicked: of A/B 1 for what was played first, 2 for the second, 0 for neither.
        expected: right answers, "4 5"; "" where there are none.
        right: whether the answer is one of them; None where there are none.
        plays: how often its clips were played to the end, all together.
        heard: seconds of them that were played.
        seconds: how long they last.
        took: seconds from showing it to the first answer.
        changes: how often the answer was changed.
        finished: whether the rater answered everything.
    """

    rater: str
    kind: str
    item: str
    system: str
    other: str
    score: float
    position: int = 0
    answer: int | None = None
    expected: str = ""
    right: bool | None = None
    plays: int | None = None
    heard: float | None = None
    seconds: float | None = None
    took: float | None = None
    changes: int | None = None
    finished: bool = True


def ratings_of(study: Study, answers: Path) -> list[Rating]:
    """Return every answer of a study, finished or not.

    Raises:
        BadInput: nobody has answered.
    """
    sessions, rows = read_answers(answers)
    by_id = {one["id"]: one for one in sessions}
    pairs = {frozenset(pair): tuple(pair) for pair in study.facts["conditions"]}
    counts: dict[int, int] = {}
    for row in rows:
        counts[row["session"]] = counts.get(row["session"], 0) + 1
    out = []
    for row in rows:
        session = by_id[row["session"]]
        trials = study.places[session["place"]]
        trial = trials[row["position"]]
        clips = trial.clips_in(session["language"])
        system, other = trial.systems[0], ""
        score = float(row["value"])
        if study.design == "ab":
            system, other = pairs.get(frozenset(trial.systems), trial.systems)
            score = {0: 0.0, 1: 1.0, 2: -1.0}[row["value"]] * (1 if trial.systems[0] == system else -1)
        out.append(
            Rating(
                rater=f"rater-{session['id']:04}",
                kind=trial.kind,
                item=trial.item,
                system=system,
                other=other,
                score=score,
                position=row["position"],
                answer=row["value"],
                expected=" ".join(map(str, trial.expected)),
                right=row["value"] in trial.expected if trial.expected else None,
                plays=row["plays"],
                heard=row["heard"],
                seconds=round(sum(study.seconds[name] for name in clips), 3),
                took=row["took"],
                changes=row["changes"],
                finished=counts[row["session"]] == len(trials),
            )
        )
    return out


def answers_csv(study: Study, answers: Path) -> bytes:
    """Return all answers so far as CSV."""
    return _csv(ratings_of(study, answers))


def write_csv(ratings: Sequence[Rating], path: Path) -> None:
    """Write ratings as CSV, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(_csv(ratings))


def write_parquet(ratings: Sequence[Rating], path: Path) -> None:
    """Write ratings as Parquet, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "score": pa.float64(), "position": pa.int64(), "answer": pa.int64(), "right": pa.bool_(), "plays": pa.int64(),
        "heard": pa.float64(), "seconds": pa.float64(), "took": pa.float64(), "changes": pa.int64(),
        "finished": pa.bool_(),
    }  # fmt: skip
    columns = {name: [getattr(one, name) for one in ratings] for name in Rating._fields}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in Rating._fields])
    with atomic_write(path) as temporary:
        pq.write_table(pa.table(columns, schema=schema), temporary)


def _csv(ratings: Sequence[Rating]) -> bytes:
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(Rating._fields)
    for one in ratings:
        table.writerow([_cell(value) for value in one])
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in tuple("=+-@\t\r"):  # a spreadsheet would run it
        return "'" + value
    return "" if value is None else value
