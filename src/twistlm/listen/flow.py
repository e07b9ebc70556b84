"""A rater's way through a study: what comes next, and what each answer leads to. No HTTP here."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from twistlm.errors import TwistError
from twistlm.listen.recruiting import Recruiting, departure
from twistlm.listen.store import ENDED, Answer, Session, Store
from twistlm.listen.study import Check, Study
from twistlm.listen.texts import Texts

ATTEMPTS = 2  # at a check, before somebody is screened out
PATIENCE = 0.95  # of a clip's length must have passed before its answer is believed
CheckKind = Literal["hearing", "headphones"]


class Refused(TwistError):
    """An answer that cannot be taken as things are.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Flow:
    """A study being answered.

    Attributes:
        study: what is asked.
        store: where answers are kept.
        texts: by language.
        recruiting: how raters come and go.
        hold_seconds: after so long without a sign of somebody, their place may go to another.
    """

    study: Study
    store: Store
    texts: Mapping[str, Texts]
    recruiting: Recruiting
    hold_seconds: float

    def session(self, token: str) -> Session:
        """Return the session of a link. Raises Refused where there is none."""
        found = self.store.find(token)
        if found is None:
            raise Refused(404, "this link is not known here. Open it as it was given to you.")
        return found

    def consent(self, token: str, *, agrees: bool, device: str, hearing: str) -> None:
        """Take what somebody said of taking part. Saying it again changes nothing."""
        with self.store.transaction():
            session = self.session(token)
            if session.stage != "consent":
                return
            if not agrees:
                self.store.change(session, stage="declined", finished=self.store.now())
                return
            place = self.store.free_place([len(trials) for trials in self.study.places], hold_seconds=self.hold_seconds)
            if place is None:
                self.store.change(session, stage="full", finished=self.store.now())
                return
            self.store.change(session, place=place, device=device, hearing=hearing)
            self._advance(session, after="consent")

    def speak(self, token: str, language: str) -> None:
        """Change the language, as long as nothing was heard in another."""
        with self.store.transaction():
            session = self.session(token)
            if session.stage == "consent" and language in self.texts:
                self.store.change(session, language=language)

    def state(self, token: str) -> dict[str, Any]:
        """Return what the rater's page shows now, as JSON; nothing in it depends on systems or on anyone else."""
        with self.store.transaction():
            session = self.session(token)
            if session.stage == "rate" and self.store.answered(session)[0] >= len(self._trials(session)):
                self.store.change(session, stage="done", finished=self.store.now())
                session = self.session(token)
        if session.stage in ("hearing", "headphones"):
            attempt, number = self._at(session, session.stage)
            total = self.study.facts["check_trials"][session.stage]
            return {
                "stage": session.stage,
                "attempt": attempt,
                "n": number + 1,
                "total": total,
                "clip": f"check/{number}",
            }
        if session.stage == "rate":
            return self._rating(session)
        if session.stage in ENDED:
            leave = departure(
                self.recruiting,
                session.stage,
                platform=session.platform,
                session_ref=session.session_ref,
                return_to=session.return_to,
            )
            return {"stage": session.stage, "leave": {**vars(leave), "fields": dict(leave.fields)}}
        return {"stage": session.stage}

    def answer(self, token: str, answer: Answer) -> None:
        """Keep an answer. The last one may be changed until the next is given.

        Raises:
            Refused: not its turn (409), no such answer, not heard to the end (422), or faster than the sound (425).
        """
        with self.store.transaction():
            session = self.session(token)
            if session.stage != "rate":
                raise Refused(409, "this is not the time for answers.")
            trials = self._trials(session)
            done, last = self.store.answered(session)
            if not max(0, done - 1) <= answer.position <= min(done, len(trials) - 1):
                raise Refused(409, "another recording is to be judged now.")
            if answer.value not in self.study.answers:
                raise Refused(422, f"an answer is one of {', '.join(map(str, self.study.answers))}.")
            clips = trials[answer.position].clips_in(session.language)
            seconds = sum(self.study.seconds[name] for name in clips)
            if answer.plays < len(clips) or answer.heard < PATIENCE * seconds:
                raise Refused(422, "listen to the end before answering.")
            since = last if last is not None else session.began
            if answer.position == done and since is not None and self.store.now() - since < PATIENCE * seconds:
                raise Refused(425, "faster than the sound lasts.")
            self.store.put(session, answer)
            self.store.change(session)

    def check(self, token: str, kind: str, *, attempt: int, number: int, answer: str) -> None:
        """Take an answer of a check; after its last one the session goes on, tries again, or ends.

        Raises:
            Refused: it is not what is asked now.
        """
        with self.store.transaction():
            session = self.session(token)
            if session.stage != kind:
                raise Refused(409, "another check is asked for now.")
            if (attempt, number) != self._at(session, kind):
                raise Refused(409, "another trial of the check is asked for now.")
            asked = self._checks(session, kind, attempt)[number]
            given = answer.strip()
            self.store.put_check(
                session, kind, attempt, number, clip=asked.clip, answer=given[:16], passed=given == asked.answer
            )
            said = [right for at, _, right in self.store.checked(session, kind) if at == attempt]
            if len(said) < self.study.facts["check_trials"][kind]:
                self.store.change(session)
            elif sum(said) >= self.study.facts["passes"][kind]:
                self._advance(session, after=kind)
            elif attempt + 1 >= ATTEMPTS:
                self.store.change(session, stage="screened_out", finished=self.store.now())
            else:
                self.store.change(session)

    def clip(self, token: str, position: int, side: int) -> Path:
        """Return the file of a trial's clip: of the trial that is judged now, the one before, or the next."""
        session = self.session(token)
        if session.stage not in ("rate", "done"):
            raise Refused(404, "there is nothing to hear.")
        trials, (done, _) = self._trials(session), self.store.answered(session)
        if not (max(0, done - 1) <= position <= done + 1 and position < len(trials)):
            raise Refused(404, "another recording is to be heard now.")
        clips = trials[position].clips_in(session.language)
        if not 0 <= side < len(clips):
            raise Refused(404, "there is no such recording.")
        return self.study.clip(clips[side])

    def check_clip(self, token: str, number: int) -> Path:
        """Return the file of the check's trial that is asked now."""
        session = self.session(token)
        if session.stage not in ("hearing", "headphones") or self._at(session, session.stage)[1] != number:
            raise Refused(404, "there is nothing to hear.")
        asked = self._checks(session, session.stage, self._at(session, session.stage)[0])[number]
        return self.study.folder / "checks" / f"{asked.clip}.wav"

    def _rating(self, session: Session) -> dict[str, Any]:
        trials, (position, _) = self._trials(session), self.store.answered(session)
        n_training = sum(one.kind == "training" for one in trials)
        practice = position < n_training

        def urls(at: int) -> list[str]:
            return [f"clip/{at}/{side}" for side in range(len(trials[at].clips))] if at < len(trials) else []

        return {
            "stage": "rate",
            "position": position,
            "practice": practice,
            "n": position + 1 - (0 if practice else n_training),
            "total": n_training if practice else len(trials) - n_training,
            "clips": urls(position),
            "then": urls(position + 1),
        }

    def _trials(self, session: Session) -> Any:
        assert session.place is not None
        return self.study.places[session.place]

    def _at(self, session: Session, kind: str) -> tuple[int, int]:
        """Return the attempt and the trial of a check that is asked now."""
        return divmod(len(self.store.checked(session, kind)), int(self.study.facts["check_trials"][kind]))

    def _checks(self, session: Session, kind: str, attempt: int) -> list[Check]:
        """Return the clips of one attempt: each session's own, and others the second time."""
        fit = [one for one in self.study.checks if one.kind == kind and one.language in ("", session.language)]
        random.Random(f"{session.token} {kind}").shuffle(fit)
        n = int(self.study.facts["check_trials"][kind])
        return fit[n * attempt :][:n]

    def _advance(self, session: Session, *, after: str) -> None:
        stages = [kind for kind in ("hearing", "headphones") if kind in self.study.facts["passes"]]
        left = stages if after == "consent" else stages[stages.index(after) + 1 :]
        if left:
            self.store.change(session, stage=left[0])
        else:
            self.store.change(session, stage="rate", began=self.store.now())
