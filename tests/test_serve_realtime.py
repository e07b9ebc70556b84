"""The WebSocket protocol: the events of OpenAI's Realtime API, whatever a client sends."""

from __future__ import annotations

import base64
import dataclasses
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

pytest.importorskip("fastapi", reason="serving needs the extra serve")
pytest.importorskip("websockets", reason="serving needs the extra serve")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from serving import Scribe, serving, tiny_served, wav
from standins import Tiny, babble
from twistlm.audio.clip import Clip
from twistlm.lm.continuous import Batch
from twistlm.lm.sample import generate
from twistlm.serve import responses
from twistlm.serve.engine import Room
from twistlm.serve.limits import Limits
from twistlm.serve.models import Served

PROMPT = Clip(babble(1.5, seed=3), 16_000)
MOST = 2_000_000


@pytest.fixture(scope="module")
def served(tiny: Tiny) -> Served:
    return tiny_served(tiny)


@pytest.fixture(scope="module")
def server(served: Served) -> Iterator[str]:
    limits = Limits(requests_per_minute=0, prompt_seconds=10, seconds=10, upload_bytes=MOST)
    with serving(served, limits=limits) as address:
        yield address


@pytest.fixture
def client(server: str) -> Iterator[ClientConnection]:
    with connect(f"ws://{server}/v1/realtime", max_size=None) as socket:
        assert hear(socket)["type"] == "session.created"
        yield socket


def say(socket: ClientConnection, kind: str, **fields: Any) -> None:
    socket.send(json.dumps({"type": kind, **fields}))


def hear(socket: ClientConnection, kind: str | None = None) -> dict[str, Any]:
    """Return the next event, or the next of a kind."""
    while True:
        event = json.loads(socket.recv(timeout=60))
        if kind is None or event["type"] == kind:
            return event
        assert event["type"] != "error", event


def pcm(samples: np.ndarray) -> str:
    return base64.b64encode((samples * 32_767).round().astype("<i2").tobytes()).decode()


def commit(socket: ClientConnection, samples: np.ndarray = PROMPT.samples, rate: int = 16_000) -> dict[str, Any]:
    settings = {"audio": {"input": {"format": {"rate": rate}}, "output": {"format": {"rate": 16_000}}}}
    say(socket, "session.update", session=settings)
    hear(socket, "session.updated")
    for at in range(0, len(samples), 4000):
        say(socket, "input_audio_buffer.append", audio=pcm(samples[at : at + 4000]))
    say(socket, "input_audio_buffer.commit")
    hear(socket, "input_audio_buffer.committed")
    hear(socket, "conversation.item.added")
    return hear(socket, "twist.prompt")


def listen(socket: ClientConnection) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the sound of one response, and its last event."""
    heard = b""
    while (event := hear(socket))["type"] != "response.done":
        assert event["type"] != "error", event
        if event["type"] == "response.output_audio.delta":
            heard += base64.b64decode(event["delta"])
    return np.frombuffer(heard, "<i2") / 32_768, event["response"]


def test_a_recording_is_continued_again_and_again(client: ClientConnection, served: Served) -> None:
    prompt = commit(client)
    heard = Clip((PROMPT.samples * 32_767).round() / np.float32(32_768), 16_000)
    units = served.tokenizer(heard)
    assert prompt["units"] == units.ids.tolist() and prompt["frames"] == units.runs.tolist()
    for seed, model in ((3, "warm"), (4, "warm"), (3, "cold")):
        say(client, "response.create", response={"twist": {"seed": seed, "seconds": 1.5, "model": model}})
        sound, done = listen(client)
        longer = generate(served.models[model], units, seconds=1.5, seed=seed, temperature=0.8, stop_at_end=False)
        assert done["status"] == "completed" and done["twist"]["units"] == longer.ids[len(units) :].tolist()
        voice = served.voices["tiny"]
        start = int(voice.predict_runs(longer)[: len(units)].sum()) * 640
        np.testing.assert_allclose(sound, voice(longer, durations="predicted").samples[start:], atol=2e-4)


def test_other_rates_and_whole_files_are_heard(client: ClientConnection, tmp_path: Path) -> None:
    fast = soxr.resample(PROMPT.samples, 16_000, 44_100)
    assert commit(client, fast, 44_100)["seconds"] == pytest.approx(1.5, abs=1e-3)
    settings = {"audio": {"input": {"format": {"type": "audio/file"}}, "output": {"format": {"rate": 24_000}}}}
    say(client, "session.update", session=settings | {"echo": True})
    assert hear(client, "session.updated")["session"]["audio"]["input"]["format"]["type"] == "audio/file"
    data = wav(PROMPT, tmp_path)
    for at in range(0, len(data), 10_000):
        say(client, "input_audio_buffer.append", audio=base64.b64encode(data[at : at + 10_000]).decode())
    say(client, "input_audio_buffer.commit")
    prompt = hear(client, "twist.prompt")
    echo = np.frombuffer(base64.b64decode(prompt["audio"]), "<i2") / 32_768
    np.testing.assert_allclose(echo, PROMPT.samples, atol=2e-4)
    say(client, "response.create", response={"twist": {"seconds": 1}})
    sound, done = listen(client)
    assert len(sound) == pytest.approx(1.5 * 16_000 * done["twist"]["sound_seconds"], abs=3)


def test_a_recording_that_is_not_heard_is_not_taken_for_the_one_before(client: ClientConnection) -> None:
    commit(client)
    say(client, "input_audio_buffer.append", audio=pcm(np.zeros(8_000)))
    say(client, "input_audio_buffer.commit")
    assert "silent" in hear(client)["error"]["message"]
    say(client, "response.create", event_id="take")
    error = hear(client)["error"]
    assert "nothing to continue" in error["message"] and error["event_id"] == "take"
    commit(client)
    say(client, "input_audio_buffer.clear")
    hear(client, "input_audio_buffer.cleared")
    say(client, "input_audio_buffer.commit")  # of nothing
    assert "no audio" in hear(client)["error"]["message"]
    say(client, "response.create")
    assert "nothing to continue" in hear(client)["error"]["message"]


def test_a_session_says_which_model_it_has(server: str) -> None:
    with connect(f"ws://{server}/v1/realtime?model=cold") as socket:
        assert hear(socket)["session"]["model"] == "cold"
        say(socket, "session.update", session={"twist": {"model": "warm"}})
        assert hear(socket)["session"]["model"] == "warm"


def test_a_response_changes_what_it_names_and_nothing_else(client: ClientConnection) -> None:
    commit(client)
    say(
        client,
        "session.update",
        session={"audio": {"output": {"voice": "other"}}, "twist": {"seconds": 0.5, "seed": 9}},
    )
    hear(client, "session.updated")
    for asked, rate, voice in (
        ({"audio": {"output": {"voice": "tiny"}}}, 16_000, "tiny"),
        ({"audio": {"output": {"format": {"rate": 8_000}}}}, 8_000, "other"),
        ({"audio": {"input": {"format": {"rate": 8_000}}}}, 16_000, "other"),
        ({"twist": {"voice": "tiny", "seed": 3}}, 16_000, "tiny"),
        ({}, 16_000, "other"),
    ):
        say(client, "response.create", response=asked)
        _, done = listen(client)
        told = done["audio"]["output"]
        assert (told["format"]["rate"], told["voice"]) == (rate, voice), asked
        assert done["twist"]["seconds"] == 0.5 and done["twist"]["seed"] == (3 if "twist" in asked else 9)
    say(client, "response.create", response={"audio": {"output": {"format": {"type": "audio/file"}}}})
    assert "audio/pcm" in hear(client)["error"]["message"]


@pytest.mark.parametrize("error", [RuntimeError("the recogniser is gone"), OSError("the disk is full")])
def test_what_fails_while_it_is_told_is_no_slow_client_and_is_logged(
    served: Served, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(responses, "keep", broken)
    with serving(served, kept=Path("nowhere")) as address, connect(f"ws://{address}/v1/realtime") as socket:
        hear(socket)
        commit(socket)
        say(socket, "response.create", response={"twist": {"seconds": 0.5}})
        with pytest.raises(ConnectionClosed) as closed:
            listen(socket)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
    logged = [one.exc_info[1] for one in caplog.records if one.exc_info and one.exc_info[1]]
    assert any(error in (one, one.__cause__) for one in logged)


@pytest.mark.thorough
def test_two_at_once_and_stop(client: ClientConnection) -> None:
    commit(client)
    for model in ("warm", "cold"):
        say(client, "response.create", response={"twist": {"seconds": 9, "model": model, "temperature": 1}})
    say(client, "response.create")
    started: list[str] = []
    statuses: dict[str, str] = {}
    refused = cancelled = False
    while len(statuses) < 2:
        event = json.loads(client.recv(timeout=60))
        if event["type"] == "response.created":
            started.append(event["response"]["id"])
        elif event["type"] == "error":
            assert event["error"]["code"] == "busy" and event["error"]["type"] == "server_error"
            refused = True
        elif event["type"] == "response.done":
            statuses[event["response"]["id"]] = event["response"]["status"]
        if len(started) == 2 and refused and not cancelled:
            say(client, "response.cancel", response_id=started[0])
            cancelled = True
    assert refused and set(statuses) == set(started)
    assert statuses[started[0]] in ("cancelled", "completed") and statuses[started[1]] == "completed"
    say(client, "response.create", response={"twist": {"seconds": 0.5}})
    assert listen(client)[1]["status"] == "completed"


def test_what_was_said_is_written_down_where_that_is_asked_for(served: Served, tmp_path: Path) -> None:
    hearing = dataclasses.replace(served, asr=Scribe())
    with serving(hearing) as address, connect(f"ws://{address}/v1/realtime") as socket:
        hear(socket)
        commit(socket)
        for wanted in (False, True):
            say(socket, "session.update", session={"transcript": wanted})
            hear(socket, "session.updated")
            say(socket, "response.create", response={"twist": {"seconds": 0.5}})
            events = [hear(socket)]
            while events[-1]["type"] != "response.done":
                events.append(hear(socket))
            kinds = [event["type"] for event in events]
            assert kinds.count("response.output_audio_transcript.done") == wanted
        at = kinds.index("response.output_audio_transcript.done")
        assert kinds[at - 1] == "response.output_audio.done"
        length = events[-1]["response"]["twist"]["sound_seconds"]
        assert events[at]["transcript"] == f"{length:.2f} seconds"
        asked = urllib.request.Request(
            f"http://{address}/v1/continue?seconds=0.5&stream=true&transcript=true", wav(PROMPT, tmp_path)
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert f'"transcript":"{length:.2f} seconds"' in answer.read().decode()
        with urllib.request.urlopen(f"http://{address}/v1/models", timeout=60) as answer:
            assert json.load(answer)["transcript"] is True


def test_who_waits_is_told_the_place(served: Served) -> None:
    with (
        serving(served, room=Room(listeners=1, waiting=2)) as address,
        connect(f"ws://{address}/v1/realtime") as first,
        connect(f"ws://{address}/v1/realtime") as second,
    ):
        for socket in (first, second):
            commit(socket)
        hook = served.models["warm"].model.register_forward_pre_hook(lambda *_: time.sleep(0.05))
        try:
            say(first, "response.create", response={"twist": {"seconds": 9, "temperature": 1}})
            hear(first, "response.created")
            for _ in range(2):
                say(second, "response.create", response={"twist": {"seconds": 0.5}})
            places: dict[str, list[int]] = {}
            while len(places) < 2:
                told = hear(second, "twist.queued")
                places.setdefault(told["response_id"], []).append(told["position"])
            say(first, "response.cancel")
        finally:
            hook.remove()
        ended = []
        while len(ended) < 2:
            event = hear(second)
            if event["type"] == "twist.queued":
                places[event["response_id"]].append(event["position"])
            elif event["type"] == "response.done":
                ended.append(event["response"])
    assert [told[0] for told in places.values()] == [1, 2]
    assert [one["id"] for one in ended] == list(places)
    assert all(one["status"] == "completed" and one["twist"]["waited_seconds"] > 0.5 for one in ended)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", ""),
        ("null", ""),
        ('"text"', ""),
        ("{}", "type"),
        ('{"type": 5}', "type"),
        ('{"type": "response.fly"}', "type"),
        ('{"type": "input_audio_buffer.append"}', "audio"),
        ('{"type": "input_audio_buffer.append", "audio": 5}', "audio"),
        ('{"type": "input_audio_buffer.append", "audio": "*"}', "base64"),
        ('{"type": "input_audio_buffer.append", "audio": "é"}', "base64"),
        ('{"type": "input_audio_buffer.commit"}', "no audio"),
        ('{"type": "response.create"}', "nothing to continue"),
        ('{"type": "response.create", "response": {"twist": {"temperature": NaN}}}', "temperature"),
        ('{"type": "response.create", "response": {"twist": {"top_k": -1}}}', "top_k"),
        ('{"type": "response.create", "response": 7}', "response"),
        ('{"type": "response.cancel"}', "no such response"),
        ('{"type": "response.cancel", "response_id": "x"}', "no such response"),
        ('{"type": "session.update", "session": {"audio": {"input": {"format": {"rate": 1}}}}}', "rate"),
        ('{"type": "session.update", "session": {"audio": 5}}', "audio"),
        ('{"type": "session.update", "session": {"twist": {"model": "no"}}}', "no model"),
        ('{"type": "session.update", "session": {"audio": {"output": {"voice": "no"}}}}', "no voice"),
        ('{"type": "session.update", "session": {"twist": {"temprature": 1}}}', "temprature"),
        (b"\x00\xff", "text"),
    ],
)
def test_bad_frames_are_answered_and_the_session_goes_on(
    client: ClientConnection, frame: str | bytes, says: str
) -> None:
    client.send(frame)
    event = hear(client)
    assert event["type"] == "error" and says in event["error"]["message"], event
    say(client, "input_audio_buffer.clear", event_id="mine")
    assert hear(client)["type"] == "input_audio_buffer.cleared"
    say(client, "input_audio_buffer.commit", event_id="mine")
    assert hear(client)["error"]["event_id"] == "mine"


def test_what_is_held_is_bounded(client: ClientConnection) -> None:
    say(client, "input_audio_buffer.append", audio=pcm(np.zeros(500_000)))  # 20.8 s at 24,000 Hz
    event = hear(client)
    assert event["type"] == "error" and "10 s are heard" in event["error"]["message"]
    say(client, "input_audio_buffer.append", audio=pcm(np.zeros(24_000)))
    say(client, "input_audio_buffer.commit")
    assert "silent" in hear(client)["error"]["message"]


def test_who_may_connect(served: Served, server: str) -> None:
    with pytest.raises(InvalidStatus):
        connect(f"ws://{server}/v1/realtime", origin="http://evil.example")  # type: ignore[arg-type]
    with serving(served, token="secret") as address:
        with pytest.raises(InvalidStatus):
            connect(f"ws://{address}/v1/realtime")
        with connect(f"ws://{address}/v1/realtime", additional_headers={"authorization": "Bearer secret"}) as socket:
            assert hear(socket)["type"] == "session.created"
        offered = ["realtime", "openai-insecure-api-key.secret"]
        with connect(f"ws://{address}/v1/realtime?model=cold", subprotocols=offered) as socket:  # type: ignore[arg-type]
            assert socket.subprotocol == "realtime"
            assert hear(socket)["session"]["twist"]["model"] == "cold"


def test_a_client_that_says_nothing_is_let_go(served: Served) -> None:
    limits = Limits(requests_per_minute=0, idle_seconds=0.3)
    with serving(served, limits=limits, room=Room()) as address, connect(f"ws://{address}/v1/realtime") as socket:
        hear(socket)
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=30)


def test_a_model_that_is_not_here_is_an_error_and_not_a_broken_connection(server: str) -> None:
    with connect(f"ws://{server}/v1/realtime?model=gpt-realtime") as socket:
        told = hear(socket)
        assert told["type"] == "error" and "no model is called 'gpt-realtime'" in told["error"]["message"]
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=10)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
    with connect(f"ws://{server}/v1/realtime?model=cold") as socket:
        assert hear(socket)["session"]["model"] == "cold"


def test_what_was_not_heard_for_want_of_room_may_be_committed_again(served: Served) -> None:
    limits = Limits(requests_per_minute=0, hearing=0)
    with serving(served, limits=limits) as address, connect(f"ws://{address}/v1/realtime") as socket:
        hear(socket, "session.created")
        say(socket, "input_audio_buffer.append", audio=pcm(PROMPT.samples))
        for _ in range(2):
            say(socket, "input_audio_buffer.commit")
            assert hear(socket)["error"]["code"] == "busy"
        say(socket, "response.create")
        assert "there is nothing to continue" in hear(socket)["error"]["message"]


def test_a_short_limit_is_the_usual_length_too(served: Served) -> None:
    limits = Limits(requests_per_minute=0, seconds=1)
    with serving(served, limits=limits) as address, connect(f"ws://{address}/v1/realtime") as socket:
        assert hear(socket)["session"]["twist"]["seconds"] == 1
        commit(socket)
        for given in ({}, {"twist": {"seconds": None}}):
            say(socket, "response.create", response=given)
            assert listen(socket)[1]["twist"]["seconds"] == 1
        say(socket, "response.create", response={"twist": {"seconds": 2}})
        assert "at most 1 are made here" in hear(socket)["error"]["message"]


def test_the_name_that_is_told_last_counts(client: ClientConnection) -> None:
    def set_to(session: dict[str, Any]) -> dict[str, Any]:
        say(client, "session.update", session=session)
        return hear(client)

    commit(client)
    for session, voice in (
        ({"audio": {"output": {"voice": "tiny"}}}, "tiny"),
        ({"twist": {"voice": "other"}}, "other"),
        ({"audio": {"output": {"voice": "tiny"}}}, "tiny"),
    ):
        assert set_to(session)["type"] == "session.updated"
        say(client, "response.create", response={"twist": {"seconds": 0.2}})  # at least one unit
        done = listen(client)[1]
        assert done["twist"]["voice"] == voice and done["usage"]["output_units"] >= 1
    assert set_to({"model": "cold"})["session"]["model"] == "cold"
    assert set_to({"model": "cold", "twist": {"model": "warm"}})["session"]["model"] == "warm"
    for session in (
        {"model": "warm", "twist": None},
        {"audio": None, "twist": {"voice": "tiny"}},
        {"audio": {"output": None}, "twist": {"voice": "tiny"}},
        {"audio": {"output": {"voice": "tiny"}}, "twist": 3},
    ):
        assert set_to(session)["type"] == "error"  # and the session goes on
    for session in ({"twist": {"voice": "nobody"}}, {"audio": {"output": {"voice": ""}}}, {"model": "none"}):
        assert "is called" in set_to(session)["error"]["message"]


def test_what_another_format_makes_useless_is_said_to_be_gone(client: ClientConnection) -> None:
    say(client, "input_audio_buffer.append", audio=pcm(PROMPT.samples))
    say(client, "session.update", session={"audio": {"input": {"format": {"rate": 8_000}}}})
    assert hear(client)["type"] == "input_audio_buffer.cleared" and hear(client)["type"] == "session.updated"
    say(client, "session.update", session={"audio": {"input": {"format": {"rate": 16_000}}}})
    assert hear(client)["type"] == "session.updated"


def test_what_was_made_for_who_has_left_is_kept(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Batch.step
    monkeypatch.setattr(Batch, "step", lambda self: time.sleep(0.02) or step(self))
    with serving(served, kept=tmp_path) as address:
        with connect(f"ws://{address}/v1/realtime") as socket:
            hear(socket, "session.created")
            commit(socket)
            say(socket, "response.create", response={"twist": {"seconds": 10}})
            hear(socket, "response.output_audio.delta")
        until = time.monotonic() + 20
        while not (records := list(tmp_path.glob("*.json"))) and time.monotonic() < until:
            time.sleep(0.05)
    record = json.loads(records[0].read_text())
    assert record["end"] == "cancelled" and record["units"]
    assert soundfile.info(records[0].with_suffix(".wav")).frames > 0
