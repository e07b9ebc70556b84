"""Answers in SQLite: each is on the disk before it is acknowledged, once, whatever happens to the server.

The journal is a WAL, flushed at every commit (synchronous=FULL). An answer is a row under (session, position), so that
one that is sent again, since its acknowledgement was lost, changes nothing.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twistlm.errors import BadInput, TwistError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, place INTEGER, platform TEXT NOT NULL,
    participant TEXT NOT NULL, study_ref TEXT NOT NULL, session_ref TEXT NOT NULL, return_to TEXT NOT NULL,
    language TEXT NOT NULL, stage TEXT NOT NULL, device TEXT NOT NULL DEFAULT '', hearing TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL, began REAL, last REAL NOT NULL, finished REAL, UNIQUE (platform, participant)
) STRICT;
CREATE TABLE IF NOT EXISTS checks (
    session INTEGER NOT NULL REFERENCES sessions, kind TEXT NOT NULL, attempt INTEGER NOT NULL, number INTEGER NOT NULL,
    clip TEXT NOT NULL, answer TEXT NOT NULL, passed INTEGER NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (session, kind, attempt, number)
) STRICT;
CREATE TABLE IF NOT EXISTS answers (
    session INTEGER NOT NULL REFERENCES sessions, position INTEGER NOT NULL, value INTEGER NOT NULL,
    plays INTEGER NOT NULL, heard REAL NOT NULL, took REAL NOT NULL, changes INTEGER NOT NULL,
    first_at REAL NOT NULL, last_at REAL NOT NULL, PRIMARY KEY (session, position)
) STRICT;
"""
ENDED = ("done", "declined", "screened_out", "full")


@dataclass(frozen=True)
class Session:
    """One rater's way through a study.

    Attributes:
        id: the row's number.
        token: the secret in the rater's link.
        place: which list of trials; None before there is one.
        platform, participant: where the rater came from, and the number there.
        session_ref, return_to: of the platform, for going back.
        language: of texts and voices.
        stage: "consent", "hearing", "headphones", "rate", or one of ENDED.
        began: when rating began, s since the epoch.
    """

    id: int
    token: str
    place: int | None
    platform: str
    participant: str
    session_ref: str
    return_to: str
    language: str
    stage: str
    began: float | None


@dataclass(frozen=True)
class Answer:
    """What a rater said of one trial.

    Attributes:
        position: in the rater's list, from 0.
        value: one of the study's answers.
        plays: how often its clips were played to the end, all together.
        heard: seconds of sound played, all together.
        took: seconds from showing the trial to the first answer, by the rater's clock.
    """

    position: int
    value: int
    plays: int
    heard: float
    took: float


class Store:
    """The answers of a study; one writer, safe to use from many threads."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
        try:
            self._db.row_factory = sqlite3.Row
            (mode,) = self._db.execute("PRAGMA journal_mode=WAL").fetchone()
            if mode != "wal":
                raise TwistError(
                    f"{path}: SQLite cannot keep a WAL on this disk ({mode}). Put the study on a local disk."
                )
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise BadInput(f"{path} cannot be used as the answers of a study: {error}. Move it away.") from error

    def close(self) -> None:
        """Close the file. Nothing need be saved: all is."""
        with self._lock:
            self._db.close()

    def now(self) -> float:
        """Return the time, s since the epoch."""
        return self._clock()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do everything inside the block at once, and have it on the disk when it ends."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def enter(
        self, platform: str, participant: str, *, language: str, study_ref: str, session_ref: str, return_to: str
    ) -> Session:
        """Return the session of somebody, a new one for somebody new."""
        with self.transaction():
            now = self.now()
            row = self._db.execute(
                "INSERT INTO sessions (token, platform, participant, study_ref, session_ref, return_to, language,"
                " stage, created, last) VALUES (?, ?, ?, ?, ?, ?, ?, 'consent', ?, ?)"
                " ON CONFLICT (platform, participant) DO UPDATE SET last = excluded.last,"  # on another assignment, too
                " return_to = excluded.return_to, session_ref = excluded.session_ref RETURNING *",
                (
                    *(secrets.token_urlsafe(18), platform, participant, study_ref, session_ref, return_to, language),
                    *(now, now),
                ),
            ).fetchone()
        return _session(row)

    def find(self, token: str) -> Session | None:
        """Return the session of a link, or None."""
        with self._lock:
            row = self._db.execute("SELECT * FROM sessions WHERE token = ?", (token,)).fetchone()
        return None if row is None else _session(row)

    def change(self, session: Session, **values: Any) -> None:
        """Set columns of a session, and when it was last here. Inside a transaction."""
        values["last"] = self.now()
        named = ", ".join(f"{name} = ?" for name in values)  # names are this package's own
        self._db.execute(f"UPDATE sessions SET {named} WHERE id = ?", (*values.values(), session.id))

    def free_place(self, trials: Sequence[int], *, hold_seconds: float) -> int | None:
        """Return the lowest place that nobody has, has finished or was heard of lately in; None if all are taken.

        Args:
            trials: how many each place has. Who answered them all has finished, even without looking at the last page.
            hold_seconds: what is lately.
        """
        lately = self.now() - hold_seconds
        taken = {
            row["place"]
            for row in self._db.execute(
                "SELECT place, stage, last, (SELECT count(*) FROM answers WHERE session = sessions.id) AS n"
                " FROM sessions WHERE place IS NOT NULL AND stage NOT IN ('declined', 'screened_out', 'full')",
            )
            if row["stage"] == "done" or row["last"] > lately or row["n"] >= trials[row["place"]]
        }
        return next((place for place in range(len(trials)) if place not in taken), None)

    def answered(self, session: Session) -> tuple[int, float | None]:
        """Return how many trials a session has answered, and when the last of these was."""
        with self._lock:
            row = self._db.execute(
                "SELECT count(*) AS n, max(last_at) AS at FROM answers WHERE session = ?", (session.id,)
            ).fetchone()
        return int(row["n"]), row["at"]

    def put(self, session: Session, answer: Answer) -> None:
        """Keep an answer, or change it. The same one again changes nothing. Inside a transaction."""
        now = self.now()
        self._db.execute(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?) ON CONFLICT (session, position) DO UPDATE SET"
            " changes = changes + 1, value = excluded.value, plays = excluded.plays, heard = excluded.heard,"
            " last_at = excluded.last_at WHERE value <> excluded.value",
            (session.id, answer.position, answer.value, answer.plays, answer.heard, answer.took, now, now),
        )

    def put_check(
        self, session: Session, kind: str, attempt: int, number: int, *, clip: str, answer: str, passed: bool
    ) -> None:
        """Keep what was said in a check; the first answer counts. Inside a transaction."""
        self._db.execute(
            "INSERT OR IGNORE INTO checks VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (session.id, kind, attempt, number, clip, answer, int(passed), self.now()),
        )

    def checked(self, session: Session, kind: str) -> list[tuple[int, int, bool]]:
        """Return (attempt, number, right) of what a session said in a check, in order."""
        with self._lock:
            rows = self._db.execute(
                "SELECT attempt, number, passed FROM checks WHERE session = ? AND kind = ? ORDER BY attempt, number",
                (session.id, kind),
            ).fetchall()
        return [(row["attempt"], row["number"], bool(row["passed"])) for row in rows]

    def stages(self) -> dict[str, int]:
        """Return how many sessions are at each stage."""
        with self._lock:
            return {
                r["stage"]: r["n"] for r in self._db.execute("SELECT stage, count(*) n FROM sessions GROUP BY stage")
            }


def read_answers(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of sessions and of answers of a study, whether or not it is being served.

    Raises:
        BadInput: there are no answers there.
    """
    if not path.is_file():
        raise BadInput(f"{path}: nobody has answered yet. Let raters in with twist listen serve.")
    db = sqlite3.connect(path.resolve().as_uri() + "?mode=ro", uri=True, timeout=30)
    try:
        db.row_factory = sqlite3.Row
        db.execute("BEGIN")
        tables = [
            [dict(row) for row in db.execute(f"SELECT * FROM {name} ORDER BY {order}")]
            for name, order in (("sessions", "id"), ("answers", "session, position"))
        ]
    except sqlite3.DatabaseError as error:
        raise BadInput(f"{path} does not hold the answers of a study: {error}.") from error
    finally:
        db.close()
    return tables[0], tables[1]


def _session(row: sqlite3.Row) -> Session:
    return Session(**{name: row[name] for name in Session.__dataclass_fields__})
