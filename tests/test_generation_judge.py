"""Judges of texts, by a real HTTP server: what is sent, what is kept, what cannot be read, what does not answer."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from twistlm.errors import BadInput, TwistError
from twistlm.evaluate.generation import judge as judges
from twistlm.evaluate.generation import measuring
from twistlm.evaluate.generation.judge import Endpoint, read_score, read_verdict
from twistlm.evaluate.generation.protocols import OURS
from twistlm.evaluate.generation.speaking import System


class Server(ThreadingHTTPServer):
    """Answers with what `replies` gives for the text it was asked; an int is a status, bytes a raw body."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict] = []
        self.headers: list[dict] = []
        self.replies = lambda question, number: "Fine. \\boxed{4}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.headers.append(dict(self.headers))
        reply = self.server.replies(body["messages"][0]["content"], len(self.server.asked))
        if isinstance(reply, int):
            self.send_response(reply)
            data = b"busy"
        else:
            self.send_response(200)
            told = {
                "choices": [{"message": {"content": reply}}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 7},
            }
            data = reply if isinstance(reply, bytes) else json.dumps(told).encode()
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data if reply != 503 else data[:1])  # who is asked again may leave in the middle of a word

    def log_message(self, *args) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def endpoint(server: Server, **changes) -> Endpoint:
    address = f"http://127.0.0.1:{server.server_port}/v1"
    return Endpoint(address=address, model="judge-1", key="secret", pause=0.01, tries=2, **changes)


def test_scores_are_asked_for_once_kept_with_their_text_and_billed(server, tmp_path):
    answers = {"sat": "It follows. \\boxed{5}", "flew": "Hm, about a 3", "bark": "\\boxed{9}"}
    server.replies = lambda question, _: next(text for word, text in answers.items() if word in question)
    pairs = [("the cat", "sat down"), ("the cat", "flew"), ("the cat", ""), ("the cat", "sat down"), ("a dog", "bark")]

    def score():
        return judges.scores(endpoint(server), pairs, folder=tmp_path, description="", progress=False)

    rows = score()
    assert [row["judge"] for row in rows] == [5.0, None, 1.0, 5.0, None]
    assert rows[1]["reply"] == "Hm, about a 3" and rows[4]["reply"] == "\\boxed{9}"  # kept beside their place
    assert len(server.asked) == 3
    sent = server.asked[0]
    assert sent["model"] == "judge-1" and sent["temperature"] == 0.0
    assert "the cat" in sent["messages"][0]["content"]
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert score() == rows and len(server.asked) == 3  # from the disk
    bill = judges.bill(tmp_path, endpoint(server))
    assert (bill["replies"], bill["tokens_in"], bill["tokens_out"]) == (3, 300, 21) and "cost" not in bill
    assert judges.bill(tmp_path, endpoint(server), price=(0.5, 2.0))["cost"] == pytest.approx(192e-6)
    assert all(b"secret" not in path.read_bytes() for path in tmp_path.iterdir())
    assert judges.summary(rows, "judge") == {"mean": 11 / 3, "n": 3, "unread": 2}


def test_pairs_are_judged_in_both_orders(server, tmp_path):
    def prefers_cat(question, _):
        a, b = question.index("A: "), question.index("B: ")
        first = question[a:b]
        return "[[A>>B]]" if "cat" in first else "[[B>A]]" if "cat" in question[b:] else "none"

    server.replies = prefers_cat
    triples = [("once", "a cat", "a dog"), ("once", "a dog", "a cat"), ("once", "x", "y"), ("once", "z", "z")]
    rows = judges.verdicts(endpoint(server), triples, folder=tmp_path, description="", progress=False)
    assert [row["verdict"] for row in rows] == [0.75, -0.75, None, 0.0]
    assert rows[2]["replies"] == ["none", "none"] and len(server.asked) == 4


def test_the_interval_of_verdicts_is_over_prompts(tmp_path):
    """Ten samples that depend on the prompt alone tell no more than one."""

    class Prefers:
        identity = "stub"

        def ask(self, question: str) -> judges.Reply:
            if "[[A>>B]]" not in question:
                return judges.Reply("\\boxed{3}")
            even = int(re.search(r"prompt(\d+)", question)[1]) % 2 == 0
            return judges.Reply("[[A>B]]" if even == (re.search(r"\nA: (\w)", question)[1] == "w") else "[[B>A]]")

    def interval(samples: int) -> tuple[float, float]:
        def system(name: str) -> System:
            rows = [
                {"prompt": f"p{i}", "sample": k, "group": "", "recording": "", "text": f"{name[0]} {i} {k}"}
                for i in range(20)
                for k in range(samples)
            ]
            return System(
                name=name, kind="model", n_samples=samples, model=name, model_sha256=name, temperature=0.8, rows=rows
            )

        protocol = OURS.changed(samples=samples)
        session = SimpleNamespace(protocol=protocol, out=tmp_path / str(samples), progress=False, seed=0)
        said = [{"text": f"prompt{i}"} for i in range(20)]
        return measuring.judged(session, said, [system("warm"), system("cold")], Prefers())[1]["pairwise"]["ci"]

    assert interval(5) == pytest.approx(interval(1)) and interval(1)[1] > 0.15


def test_a_judge_that_answers_the_first_in_any_order_is_undecided(server, tmp_path):
    server.replies = lambda *_: "[[A>>B]]"
    [row] = judges.verdicts(endpoint(server), [("p", "x", "y")], folder=tmp_path, description="", progress=False)
    assert row["verdict"] == 0.0


def test_a_busy_server_is_asked_again_and_what_it_said_is_kept_when_it_leaves(server, tmp_path):
    server.replies = lambda _, number: 503 if number == 1 else "\\boxed{2}" if number == 2 else 500
    pairs = [("p", "one"), ("p", "two")]
    with pytest.raises(TwistError, match=r"did not answer in 2 tries \(500 .*is kept"):
        judges.scores(endpoint(server), pairs, folder=tmp_path, description="", progress=False)
    server.replies = lambda *_: "\\boxed{3}"
    before = len(server.asked)
    rows = judges.scores(endpoint(server), pairs, folder=tmp_path, description="", progress=False)
    assert [row["judge"] for row in rows] == [2.0, 3.0] and len(server.asked) == before + 1


def test_a_reply_with_half_a_character_is_kept_as_text_and_not_paid_for_twice(server, tmp_path):
    server.replies = lambda *_: "so-so\ud83d\0 \\boxed{4}"
    for _ in range(2):
        [row] = judges.scores(endpoint(server), [("p", "one")], folder=tmp_path, description="", progress=False)
        assert (row["judge"], row["reply"]) == (4.0, "so-so\ufffd\ufffd \\boxed{4}")
    assert len(server.asked) == 1


def test_the_key_does_not_follow_a_redirect():
    """urllib follows one of a POST with a GET that has the same headers, to whatever host."""
    seen: list[str | None] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()

        def do_POST(self) -> None:
            assert self.headers["Authorization"] == "Bearer secret"
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/elsewhere")
            self.end_headers()

        def log_message(self, *args) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        one = Endpoint(address=f"http://127.0.0.1:{other.server_port}/v1", model="m", key="secret", pause=0.01, tries=1)
        with pytest.raises(TwistError, match="no chat completion"):
            one.ask("?")
        other.shutdown()
    assert seen == [None]


@pytest.mark.parametrize(
    ("reply", "why"),
    [(401, "refuses: 401"), (b"<html>", "no chat completion"), (b'{"choices": []}', "no chat completion"),
     (b'{"choices": [{"message": {"content": 3}}]}', "no chat completion")],
)  # fmt: skip
def test_nonsense_and_refusals_are_errors_that_say_so(server, tmp_path, reply, why):
    server.replies = lambda *_: reply
    with pytest.raises(TwistError, match=why):
        judges.scores(endpoint(server), [("p", "x")], folder=tmp_path, description="", progress=False)


def test_nobody_at_the_address(tmp_path):
    nobody = Endpoint(address="http://127.0.0.1:9/v1", model="m", tries=2, pause=0.01, timeout=2)
    with pytest.raises(TwistError, match=r"127\.0\.0\.1:9/v1/chat/completions did not answer in 2 tries"):
        nobody.ask("?")
    with pytest.raises(BadInput, match="no address of a judge"):
        Endpoint(address="file:///etc/passwd", model="m")
    with pytest.raises(BadInput, match="--judge-model"):
        judges.open_judge("http://127.0.0.1:9/v1", model=None)


@pytest.mark.parametrize(
    ("text", "score"),
    [("\\boxed{3}", 3), ("first \\boxed{2}, no: \\boxed{4}", 4), ("\\boxed{\\text{5}}", 5), ("\\boxed{0}", None),
     ("\\boxed{4.5}", None), ("4", None), ("", None)],
)  # fmt: skip
def test_scores_are_read_or_not(text, score):
    assert read_score(text) == score


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("So [[A>>B]]", 1.0), ("[[ B > A ]]", -0.5), ("[[A=B]]", 0.0), ("[[A>B]] or [[B>A]]", None), ("A>B", None)],
)
def test_verdicts_are_read_or_not(text, verdict):
    assert read_verdict(text) == verdict
