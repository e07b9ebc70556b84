"""Judges of texts: a score of 1 to 5 for one continuation, or a verdict between two, by a model that is asked in words.

Who is asked is any server with OpenAI's chat completions, or a causal LM on this machine. Every reply is kept on disk
with its text, under a hash of all that was asked, so that nothing is paid twice and a stopped run goes on. A reply that
cannot be read is no score: it stays as it is, counted, and is never guessed at. Wordings are ours, after what Align-SLM
(arXiv 2411.01834) and later work ask for.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import math
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from twistlm.errors import ArtifactError, BadInput, TwistError
from twistlm.evaluate.generation.journal import Journal
from twistlm.evaluate.generation.reading import TextLM

Values = dict[str, Any]
Price = tuple[float, float]
_NO_TEXT = re.compile("[\ud800-\udfff\0]")  # halves of characters, and NUL
SCORE = """\
Somebody began to say something, and a machine went on. Both were written down by a speech recogniser, so forgive \
wrong spelling and missing punctuation, and that the continuation may stop in the middle of a sentence.

What was said: {prompt}
How it went on: {continuation}

How likely and how relevant is the continuation after what was said, and does it make sense?
1: very unlikely and irrelevant
2: unlikely, hardly relevant
3: somewhat likely, somewhat relevant
4: likely and relevant
5: very likely and highly relevant
Write two or three sentences about it, then the number alone in \\boxed{{}}."""
PAIR = """\
Two machines went on from what somebody said. Recordings were written down by a speech recogniser, so forgive wrong \
spelling and missing punctuation, and that a text may stop in the middle of a sentence.

What was said: {prompt}
A: {one}
B: {other}

Which of A and B is the better continuation, in fluency, coherence and logic? Write two or three sentences about it, \
then one verdict in double square brackets: [[A>>B]] A is much better, [[A>B]] better, [[A=B]] as good, [[B>A]] B is \
better, [[B>>A]] much better."""
_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{)?\s*([0-9]+)\s*\}?\s*\}")
_VERDICT = re.compile(r"\[\[\s*(A\s*>>\s*B|A\s*>\s*B|A\s*=\s*B|B\s*>\s*A|B\s*>>\s*A)\s*\]\]")
VERDICTS = {"A>>B": 1.0, "A>B": 0.5, "A=B": 0.0, "B>A": -0.5, "B>>A": -1.0}
_RETRY = (429, 500, 502, 503, 504)
MOST_REPLY = 1 << 20  # bytes


@dataclass(frozen=True)
class Reply:
    """What a judge answered.

    Attributes:
        text: as it came; "" where it wrote nothing.
        tokens_in, tokens_out: that were counted for it; 0 where the judge does not say.
    """

    text: str
    tokens_in: int = 0
    tokens_out: int = 0


class Judge(Protocol):
    """Answers a question in words."""

    @property
    def identity(self) -> str:
        """What it is, so far as it moves its answers."""
        ...

    def ask(self, question: str) -> Reply:
        """Return its answer.

        Raises:
            TwistError: it gives none.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server with OpenAI's chat completions.

    Attributes:
        address: up to and including "/v1".
        model: that it is asked for.
        key: sent as a bearer token; "" for none. It is never written down.
        temperature: of its sampling.
        tries: how often a question is asked while the server is busy or away.
        timeout, pause: seconds: of one try, and before the second one (then twice as long each time).
        most_tokens: of a reply.
    """

    address: str
    model: str
    key: str = ""
    temperature: float = 0.0
    tries: int = 4
    timeout: float = 120.0
    pause: float = 1.0
    most_tokens: int = 400

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput(f"{self.address!r} is no address of a judge: http(s)://HOST[:PORT]/v1.")
        if not self.model:
            raise BadInput(f"the judge at {self.address} must be told which model: --judge-model.")

    @property
    def identity(self) -> str:
        return f"{self.model} at {self.address}, temperature {self.temperature:g}"

    def ask(self, question: str) -> Reply:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": self.temperature,
            "max_tokens": self.most_tokens,
        }
        address = f"{self.address.rstrip('/')}/chat/completions"
        why = ""
        for again in range(self.tries):
            if again:
                time.sleep(self.pause * 2 ** (again - 1))
            # A body makes it a POST.
            request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
            if self.key:  # whoever the server redirects to does not get it
                request.add_unredirected_header("Authorization", f"Bearer {self.key}")
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return _reply(answer.read(MOST_REPLY + 1), address)
            except urllib.error.HTTPError as error:
                why = f"{error.code} {error.reason}: {_beginning(error)}"
                if error.code not in _RETRY:
                    raise TwistError(
                        f"the judge at {address} refuses: {why}. Check the model's name and the key (JUDGE_API_KEY). "
                        "What it answered so far is kept."
                    ) from error
            except (OSError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
        raise TwistError(
            f"the judge at {address} did not answer in {self.tries} tries ({why}). What it answered so far is kept: "
            "run the same command again when it is there."
        )


@dataclass(frozen=True, eq=False)
class LocalJudge:
    """A causal LM on this machine. It writes nothing: of the answers that can be read it gives the likeliest, so every
    reply can be; a small LM's are hardly worth more than a coin's."""

    lm: TextLM

    @property
    def identity(self) -> str:
        return f"{self.lm.identity}, the likeliest answer"

    def ask(self, question: str) -> Reply:
        answers = [f"[[{v}]]" for v in VERDICTS] if "[[A>>B]]" in question else [f"\\boxed{{{i}}}" for i in range(1, 6)]
        tokenizer = self.lm.tokenizer
        told = question
        if getattr(tokenizer, "chat_template", None):
            message = [{"role": "user", "content": question}]
            told = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        with torch.no_grad():
            losses = self.lm.losses_after([(told, answer) for answer in answers])
        best = min(range(len(answers)), key=lambda i: losses[i].total)
        return Reply(answers[best], tokens_in=len(self.lm.tokens(told)), tokens_out=losses[best].n)


def open_judge(judge: str, *, model: str | None) -> Judge:
    """Return a server by its address, or a text LM by name or folder. The key is taken from JUDGE_API_KEY.

    Raises:
        BadInput: an address without a model, or as of `TextLM.load`.
    """
    if "://" in judge:
        return Endpoint(address=judge, model=model or "", key=os.environ.get("JUDGE_API_KEY", ""))
    if model is not None:
        raise BadInput("--judge-model names a model of a server: --judge takes its address then.")
    try:
        return LocalJudge(TextLM.load(judge))
    except ArtifactError as error:
        raise ArtifactError(f"the judge cannot be had: {error}") from error


def read_score(text: str) -> int | None:
    """Return the number of 1 to 5 that a reply ends with in \\boxed{}, None where it has none or another."""
    found = _BOXED.findall(text)
    return int(found[-1]) if found and 1 <= int(found[-1]) <= 5 else None


def read_verdict(text: str) -> float | None:
    """Return 1, 0.5, 0, -0.5 or -1 for A much better … B much better; None where there is no verdict, or two that
    differ."""
    found = {VERDICTS[re.sub(r"\s", "", one)] for one in _VERDICT.findall(text)}
    return found.pop() if len(found) == 1 else None


def scores(
    judge: Judge, pairs: Sequence[tuple[str, str]], *, folder: Path, description: str, progress: bool
) -> list[Values]:
    """Return for each (prompt, continuation) its `judge` score, None where the reply could not be read, and the reply.

    An empty continuation is not asked about: its score is 1, the lowest there is, and it has no reply.
    """
    asked = [SCORE.format(prompt=prompt, continuation=text) if text else None for prompt, text in pairs]
    found = _answers(judge, [q for q in asked if q is not None], folder, description, progress)
    rows: list[Values] = []
    for question in asked:
        if question is None:
            rows.append({"judge": 1.0, "reply": ""})
            continue
        reply = found[question]
        score = read_score(reply["text"])
        rows.append({"judge": None if score is None else float(score), "reply": reply["text"]})
    return rows


def verdicts(
    judge: Judge, triples: Sequence[tuple[str, str, str]], *, folder: Path, description: str, progress: bool
) -> list[Values]:
    """Return for each (prompt, one text, another) how much better the first one is, -1 … 1: the mean of both orders.

    `verdict` is None where either reply could not be read; `replies` has both, the first order first. Where both texts
    are equal nobody is asked, and it is 0.
    """
    asked = [
        (PAIR.format(prompt=p, one=a, other=b), PAIR.format(prompt=p, one=b, other=a)) if a != b else None
        for p, a, b in triples
    ]
    found = _answers(judge, [q for both in asked if both for q in both], folder, description, progress)
    rows: list[Values] = []
    for both in asked:
        if both is None:
            rows.append({"verdict": 0.0, "replies": ["", ""]})
            continue
        replies = [found[question]["text"] for question in both]
        first, second = (read_verdict(reply) for reply in replies)
        verdict = None if first is None or second is None else (first - second) / 2
        rows.append({"verdict": verdict, "replies": replies, "first": first, "second": second})
    return rows


def bill(folder: Path, judge: Judge, *, price: Price | None = None) -> Values:
    """Return what a judge was asked so far in this folder: `replies`, tokens in and out, and with a price their `cost`.

    Args:
        folder: of the replies.
        judge: whose.
        price: of a million tokens in and of a million out, in any currency.
    """
    rows = list(Journal(_journal(folder, judge)).rows.values())
    tokens_in, tokens_out = (sum(row[name] for row in rows) for name in ("tokens_in", "tokens_out"))
    cost = {} if price is None else {"cost": (tokens_in * price[0] + tokens_out * price[1]) / 1e6, "price": list(price)}
    return {
        "judge": judge.identity,
        "replies": len(rows),
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        **cost,
    }


def summary(rows: Sequence[Mapping[str, Any]], name: str) -> Values:
    """Return mean and number of what could be read, and `unread`, how many replies could not."""
    read = [row[name] for row in rows if row[name] is not None]
    return {"mean": math.fsum(read) / len(read) if read else None, "n": len(read), "unread": len(rows) - len(read)}


def _answers(
    judge: Judge, questions: Sequence[str], folder: Path, description: str, progress: bool
) -> dict[str, Values]:
    keys = {question: hashlib.sha256(question.encode()).hexdigest()[:24] for question in dict.fromkeys(questions)}

    def work(question: str) -> Values:
        reply = judge.ask(question)
        return {"text": reply.text, "tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}

    journal = Journal(_journal(folder, judge))
    found = journal.fill([(key, q) for q, key in keys.items()], work, description=description, progress=progress)
    return {question: found[key] for question, key in keys.items()}


def _journal(folder: Path, judge: Judge) -> Path:
    return folder / f"judged.{hashlib.sha256(judge.identity.encode()).hexdigest()[:12]}.jsonl"


def _beginning(error: urllib.error.HTTPError) -> str:
    """Return the beginning of what a server says beside its refusal; "" where that does not come."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return error.read(300).decode(errors="replace")
    return ""


def _reply(data: bytes, address: str) -> Reply:
    """Return what a server's answer holds.

    Raises:
        TwistError: it is no answer of that kind.
    """
    try:
        if len(data) > MOST_REPLY:
            raise ValueError(f"longer than {MOST_REPLY} bytes")
        found = json.loads(data)
        text = found["choices"][0]["message"]["content"]
        if not isinstance(text, str | None):
            raise ValueError("its content is no text")
        used = found.get("usage") or {}
        counts = [int(used.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise TwistError(
            f"the judge at {address} answered something that is no chat completion ({error!r}). Is it the address of "
            "an OpenAI-compatible server, with /v1 at its end? What was answered before is kept."
        ) from error
    return Reply(_NO_TEXT.sub("\ufffd", text or ""), *counts)  # it is paid for, and kept as text
