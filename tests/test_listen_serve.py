"""A study served: by a real server, and by the flow behind it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace

import pytest

from listen_standins import SYSTEMS, make_samples, request
from twistlm.errors import BadInput, TwistError
from twistlm.jobs.listening_results import analyse_study
from twistlm.jobs.listening_server import open_flow
from twistlm.listen.exclusions import Rules
from twistlm.listen.flow import Flow, Refused
from twistlm.listen.plan import plan
from twistlm.listen.ratings import answers_csv, ratings_of, write_parquet
from twistlm.listen.recruiting import Recruiting, arrival, departure, external_question, read_invitations
from twistlm.listen.samples import find_samples
from twistlm.listen.store import Answer, Store

OPEN = Recruiting(platform="open", completion_code="C-DONE", screen_out_code="C-OUT", no_consent_code="C-NO")


class Clock:
    """A clock that a test moves."""

    now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    plan(find_samples(make_samples(root, SYSTEMS, items=12)), root / "study", request(ratings_per_clip=1))
    return root / "study"


@pytest.fixture
def flow(folder, tmp_path):
    made = open_flow(folder, OPEN, hold_hours=1)
    made.store.close()
    clock = Clock()
    made = replace(made, store=Store(tmp_path / "answers.sqlite", clock=clock))
    yield made, clock
    made.store.close()


def enter(flow: Flow, who: str = "me") -> str:
    return flow.store.enter("open", who, language="en", study_ref="", session_ref="", return_to="").token


def pass_checks(flow: Flow, token: str) -> None:
    flow.consent(token, agrees=True, device="over", hearing="yes")
    while (state := flow.state(token))["stage"] in ("hearing", "headphones"):
        session = flow.session(token)
        asked = flow._checks(session, state["stage"], state["attempt"])[state["n"] - 1]
        flow.check(token, state["stage"], attempt=state["attempt"], number=state["n"] - 1, answer=asked.answer)


def answer_of(flow: Flow, token: str, position: int, value: int = 3) -> Answer:
    trial = flow.study.places[flow.session(token).place][position]
    seconds = sum(flow.study.seconds[name] for name in trial.clips_in("en"))
    return Answer(position, value, len(trial.clips), seconds, seconds + 1)


def test_a_rater_goes_from_consent_to_the_end_and_every_answer_is_kept_once(flow):
    made, clock = flow
    token = enter(made)
    assert made.state(token) == {"stage": "consent"}
    pass_checks(made, token)
    total = len(made.study.places[0])
    for position in range(total):
        state = made.state(token)
        assert (state["stage"], state["position"], state["practice"]) == ("rate", position, position < 3)
        clock.now += 5
        for value in (2, 2, 4):  # the same again, and another
            made.answer(token, answer_of(made, token, position, value))
    state = made.state(token)
    assert state["stage"] == "done" and state["leave"]["code"] == "C-DONE"
    rows = made.store._db.execute("SELECT position, value, changes FROM answers ORDER BY position").fetchall()
    assert [tuple(row) for row in rows] == [(i, 4, 1) for i in range(total)]
    with pytest.raises(Refused, match="not the time"):
        made.answer(token, answer_of(made, token, total - 1, 1))


def test_answers_out_of_turn_too_fast_or_unheard_are_refused(flow):
    made, clock = flow
    token = enter(made)
    with pytest.raises(Refused, match="not the time"):
        made.answer(token, Answer(0, 3, 1, 9, 9))
    pass_checks(made, token)
    good = answer_of(made, token, 0)
    with pytest.raises(Refused, match="faster") as refused:
        made.answer(token, good)
    assert refused.value.status == 425
    clock.now += 10
    for bad, said in (
        (replace(good, position=1), "another recording"), (replace(good, value=6), "one of 1"),
        (replace(good, value=0), "one of 1"), (replace(good, plays=0), "to the end"),
        (replace(good, heard=0.1), "to the end"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=said):
            made.answer(token, bad)
    assert made.store.answered(made.session(token))[0] == 0
    made.answer(token, good)
    clock.now += 10
    made.answer(token, answer_of(made, token, 1))
    with pytest.raises(Refused, match="another recording"):  # the one before the last is no longer open
        made.answer(token, good)


def test_only_the_clips_of_now_can_be_heard(flow):
    made, _ = flow
    token = enter(made)
    with pytest.raises(Refused):
        made.clip(token, 0, 0)
    pass_checks(made, token)
    made.clip(token, 0, 0), made.clip(token, 1, 0)
    for position, side in ((2, 0), (0, 1), (-1, 0)):
        with pytest.raises(Refused):
            made.clip(token, position, side)


def test_who_fails_a_check_twice_is_screened_out_and_gives_the_place_back(flow):
    made, _ = flow
    token = enter(made)
    made.consent(token, agrees=True, device="other", hearing="yes")
    place = made.session(token).place
    for attempt in range(2):
        for number in range(3):
            state = made.state(token)
            assert (state["attempt"], state["n"]) == (attempt, number + 1)
            made.check_clip(token, number)
            made.check(token, "hearing", attempt=attempt, number=number, answer="000")
            with pytest.raises(Refused):
                made.check(token, "hearing", attempt=attempt, number=number, answer="111")
    state = made.state(token)
    assert state["stage"] == "screened_out" and state["leave"]["code"] == "C-OUT"
    other = enter(made, "other")
    made.consent(other, agrees=True, device="over", hearing="yes")
    assert made.session(other).place == place


def test_places_are_given_once_until_all_are_taken_and_left_ones_again(flow):
    made, clock = flow
    tokens = [enter(made, f"r{i}") for i in range(len(made.study.places) + 2)]
    for token in tokens:
        made.consent(token, agrees=True, device="over", hearing="yes")
    places = [made.session(token).place for token in tokens]
    assert places[:-2] == list(range(len(made.study.places))) and places[-2:] == [None, None]
    assert made.state(tokens[-1])["stage"] == "full"
    clock.now += 3700
    late = enter(made, "late")
    made.consent(late, agrees=True, device="over", hearing="yes")
    assert made.session(late).place == 0
    refuses = enter(made, "refuses")
    made.consent(refuses, agrees=False, device="", hearing="")
    assert made.state(refuses)["leave"]["code"] == "C-NO"


def test_who_answered_everything_keeps_the_place_without_looking_at_the_last_page(flow):
    made, clock = flow
    a = enter(made, "a")
    pass_checks(made, a)
    for position in range(len(made.study.places[0])):
        clock.now += 100
        made.answer(a, answer_of(made, a, position))
    clock.now += 3 * 3600
    b = enter(made, "b")
    pass_checks(made, b)
    assert (made.session(a).place, made.session(b).place) == (0, 1)


def test_nothing_that_a_rater_is_told_tells_a_system(flow):
    made, clock = flow
    token = enter(made)
    told = [made.state(token)]
    pass_checks(made, token)
    for position in range(len(made.study.places[0])):
        told.append(made.state(token))
        clock.now += 5
        made.answer(token, answer_of(made, token, position))
    text = json.dumps(told)
    words = [*SYSTEMS, "floor", "text-", "gold", "trap", *made.study.seconds]
    assert [word for word in words if word in text] == []


def test_a_study_is_analysed_from_its_folder(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "study", ignore=shutil.ignore_patterns("answers.sqlite*", ".lock"))
    made = open_flow(tmp_path / "study", OPEN, hold_hours=1)
    clock = Clock()
    made.store._clock = clock
    for i in range(3):
        token = enter(made, f"r{i}")
        pass_checks(made, token)
        for position, trial in enumerate(made.study.places[made.session(token).place]):
            clock.now += 5
            value = 1 + (position + i) % 5
            made.answer(token, answer_of(made, token, position, (trial.expected or (value,))[0]))
        if i == 0:  # one rater says nothing of others, and is no error
            alone = analyse_study(tmp_path / "study", None, rules=Rules(), clip_pattern=None, mixed=True, seed=0)
            assert alone["kept"]["systems"][0]["low"] is None and alone["kept"]["power"]["needs"] == []
    made.store.close()
    results = analyse_study(tmp_path / "study", None, rules=Rules(), clip_pattern=None, mixed=False, seed=0)
    assert results["study"]["question"] == "How much sense does it make?" and results["kept"]["raters"] == 3
    assert [row["system"] for row in results["kept"]["systems"]] == made.study.facts["systems"]
    assert {p.name for p in (tmp_path / "study" / "analysis").iterdir()} >= {"report.html", "ratings.parquet"}
    assert "How much sense" in (tmp_path / "study" / "analysis" / "report.html").read_text()


def test_prolific_and_mechanical_turk_come_and_go():
    prolific = replace(OPEN, platform="prolific")
    query = {"PROLIFIC_PID": "5f" * 12, "STUDY_ID": "s1", "SESSION_ID": "x1"}
    came = arrival(prolific, query)
    assert (came.participant, came.study_ref, came.session_ref) == ("5f" * 12, "s1", "x1")
    for stage, code in (("done", "C-DONE"), ("screened_out", "C-OUT"), ("declined", "C-NO")):
        leave = departure(prolific, stage, platform="prolific", session_ref="x1", return_to="")
        assert leave.url == f"https://app.prolific.com/submissions/complete?cc={code}"
    for bad in ({}, query | {"STUDY_ID": "<x>"}, query | {"PROLIFIC_PID": "a" * 200}):
        with pytest.raises(BadInput, match="lacks a proper"):
            arrival(prolific, bad)
    turk = replace(OPEN, platform="mturk")
    query = {"assignmentId": "A1", "hitId": "H1", "workerId": "W1", "turkSubmitTo": "https://workersandbox.mturk.com"}
    assert arrival(turk, query | {"assignmentId": "ASSIGNMENT_ID_NOT_AVAILABLE"}) is None
    came = arrival(turk, query)
    leave = departure(turk, "done", platform="mturk", session_ref=came.session_ref, return_to=came.return_to)
    assert leave.form == "https://workersandbox.mturk.com/mturk/externalSubmit"
    assert leave.fields == {"assignmentId": "A1", "code": "C-DONE"}
    for bad in (
        "https://mturk.com.evil.org",
        "http://www.mturk.com",
        "https://a@www.mturk.com",
        "https://[",
        "javascript:alert(1)",
        "",
    ):
        with pytest.raises(BadInput, match="not an address of Mechanical Turk"):
            arrival(turk, query | {"turkSubmitTo": bad})
    assert "<ExternalURL>https://a.org/?x=1&amp;y</ExternalURL>" in external_question("https://a.org/?x=1&y")
    with pytest.raises(BadInput, match="https pages only"):
        external_question("http://a.org")
    with pytest.raises(BadInput, match="completion code"):
        Recruiting(platform="mturk")
    with pytest.raises(BadInput, match="cannot go on"):
        Recruiting(platform="prolific", completion_code="C")


def test_ratings_are_joined_with_what_the_clips_are(flow, tmp_path):
    made, clock = flow
    for who in ("one", "two"):
        token = enter(made, who)
        pass_checks(made, token)
        for position, trial in enumerate(made.study.places[made.session(token).place][: None if who == "one" else 5]):
            clock.now += 5
            made.answer(token, answer_of(made, token, position, (trial.expected or (3,))[0]))
    ratings = ratings_of(made.study, tmp_path / "answers.sqlite")
    assert {r.rater: r.finished for r in ratings} == {"rater-0001": True, "rater-0002": False}
    for r in ratings:
        trial = made.study.places[int(r.rater[-4:]) - 1][r.position]
        assert (r.kind, r.item, (r.system,), r.score) == (trial.kind, trial.item, trial.systems, float(r.answer))
        assert r.right == (True if trial.expected else None)
    text = answers_csv(made.study, tmp_path / "answers.sqlite").decode()
    assert len(text.splitlines()) == len(ratings) + 1 and text.startswith("rater,kind,item,system")
    write_parquet(ratings, tmp_path / "r.parquet")
    import pyarrow.parquet as pq

    assert pq.read_table(tmp_path / "r.parquet").num_rows == len(ratings)


# The real server


class Served:
    """A study served by its own process."""

    def __init__(self, folder, *options: str, port: int = 0) -> None:
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", port))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "twistlm", "listen", "serve", str(folder), "--port", str(self.port), *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(600):
            if self.process.poll() is not None:
                raise AssertionError(self.process.communicate()[1])
            try:
                self.get("/health")
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("it does not answer")

    def ask(self, path: str, body: object = None, **headers: str):
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=60) as reply:
            return reply.status, dict(reply.headers), reply.read(), reply.geturl()

    def get(self, path: str, **headers: str) -> bytes:
        return self.ask(path, **headers)[2]

    def status(self, path: str, body: object = None, **headers: str) -> int:
        try:
            return self.ask(path, body, **headers)[0]
        except urllib.error.HTTPError as error:
            return error.code

    def chunked(self, path: str, body: bytes) -> int:
        """The status of a body whose length is not said before."""
        host, port = self.url.removeprefix("http://").rstrip("/").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connection.request("POST", path, iter([body[:1000], body[1000:]]), encode_chunked=True)
        return connection.getresponse().status

    def stop(self) -> str:
        self.process.send_signal(signal.SIGINT)
        return "".join(self.process.communicate(timeout=60))


@pytest.mark.thorough
def test_the_server_keeps_the_study_s_secrets_and_ends_well(folder):
    served = Served(folder)
    try:
        code = sorted(read_invitations(folder / "invitations.csv"))[0]
        _, headers, page, url = served.ask(f"/?invitation={code}", **{"Accept-Language": "de-AT,de;q=0.9"})
        base = url.removeprefix(served.url).rstrip("/")
        assert re.fullmatch(r"/s/[\w-]{20,}", base) and b"Ich stimme zu" in page
        assert served.ask(f"/?invitation={code}")[3] == url  # the same rater comes back to the same session
        assert "frame-ancestors 'none'" in headers["content-security-policy"] and headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer" and "server" not in {name.lower() for name in headers}
        served.ask(f"{base}/consent", {"agrees": True, "device": "over", "hearing": "yes"})
        state = json.loads(served.get(f"{base}/state"))
        assert state["stage"] == "hearing"
        _, headers, sound, _ = served.ask(f"{base}/{state['clip']}")
        assert (
            sound[:4] == b"RIFF" and {h.lower() for h in headers} & {"etag", "last-modified", "accept-ranges"} == set()
        )
        token = (folder / "owner-token").read_text().strip()
        for path in ("/owner", "/owner/answers.csv", "/owner/external-question.xml"):
            assert served.status(path) == 401 and served.status(path, Authorization="Bearer wrong") == 401
        assert b"hearing" in served.get("/owner", Authorization=f"Bearer {token}")
        assert served.status("/?invitation=nobody") == 400 and served.status("/s/nobody/state") == 404
        for path in ("/static/../study.json", "/static/%2e%2e/study.json", "/clips.jsonl", "/docs", "/openapi.json"):
            assert served.status(path) == 404
        assert served.status(f"{base}/answer", {"position": 0, "value": 3, "plays": 1, "heard": 1, "took": 1}) == 409
        assert served.status(f"{base}/answer", {"position": "x"}) == 422
        assert served.status(f"{base}/consent", {"agrees": True, "device": "x" * 9000}) == 413
        for raw in (
            b"",
            b"[]",
            b"{",
            b'{"agrees": true, "device": "\\ud800"}',
            b'{"agrees": true, "device": "\\u0000"}',
            b"\xff",
        ):
            assert served.status(f"{base}/consent", raw) in (400, 422)
        for path in (
            "/s/%00/state",
            "/s/%ff/",
            f"{base}/clip/-1/0",
            f"{base}/clip/99999999999999999999/0",
            "/s//",
            "/static/",
        ):
            assert served.status(path) in (404, 422)
        assert served.chunked("/owner", b"token=" + b"x" * 9000) == 413
        assert served.status("/owner", b"token=%ff%00", **{"Cookie": "owner=\xe9"}) == 401
        second = subprocess.run(
            [sys.executable, "-m", "twistlm", "listen", "serve", str(folder), "--port", "0"],
            capture_output=True,
            text=True,
        )
        assert second.returncode == 1 and "another process is serving this study" in second.stderr
    finally:
        said = served.stop()
    assert "1 hearing" in said and f"{served.url}/?invitation=CODE" in said
    assert served.process.returncode == 0


def test_a_study_on_a_broken_database_is_refused(tmp_path):
    (tmp_path / "answers.sqlite").write_bytes(os.urandom(5000))
    with pytest.raises(TwistError, match="cannot be used"):
        Store(tmp_path / "answers.sqlite")
