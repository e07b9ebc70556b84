"""The HTTP protocol and its guard: what comes out is `generate`'s, and what must not come in does not."""

from __future__ import annotations

import dataclasses
import http.client
import io
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile

pytest.importorskip("fastapi", reason="serving needs the extra serve")

from serving import Scribe, serving, tiny_served, wav
from standins import Tiny, babble
from twistlm.audio.clip import Clip
from twistlm.lm.continuous import Batch
from twistlm.lm.sample import generate
from twistlm.lm.warmstart import cold_start
from twistlm.serve import responses, studio
from twistlm.serve.engine import Room
from twistlm.serve.guard import Guard
from twistlm.serve.limits import Limits
from twistlm.serve.models import Served

PROMPT = Clip(babble(1.5, seed=3), 16_000)


@pytest.fixture(scope="module")
def served(tiny: Tiny) -> Served:
    return tiny_served(tiny)


@pytest.fixture(scope="module")
def server(served: Served) -> Iterator[str]:
    with serving(served, limits=Limits(requests_per_minute=0, upload_bytes=500_000, seconds=20)) as address:
        yield address


@pytest.fixture(scope="module")
def prompt(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return wav(PROMPT, tmp_path_factory.mktemp("prompt"))


def ask(
    address: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, data


def form(fields: dict[str, str], file: bytes | None) -> tuple[bytes, dict[str, str]]:
    parts = [f'--x\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()]
    if file is not None:
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="../../a.wav"\r\n\r\n'
        parts.append(head + file + b"\r\n")
    return b"".join(parts) + b"--x--\r\n", {"content-type": "multipart/form-data; boundary=x"}


def alone(served: Served, **options: Any) -> np.ndarray:
    """The samples that `twist generate` would put behind the prompt."""
    clip, rate = soundfile.read(io.BytesIO(options.pop("file")), dtype="float32")
    units = served.tokenizer(Clip(clip, rate))
    longer = generate(served.models[options.pop("model", "warm")], units, stop_at_end=False, **options)
    voice = served.voices["tiny"]
    start = int(voice.predict_runs(longer)[: len(units)].sum()) * voice.spec.hop
    return voice(longer, durations="predicted").samples[start:]


def samples(data: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(data), dtype="float32")[0]


def test_a_recording_is_continued_as_by_generate(server: str, served: Served, prompt: bytes) -> None:
    status, headers, data = ask(server, "POST", "/v1/continue?seconds=2&seed=5&temperature=1", prompt)
    assert status == 200 and headers["content-type"] == "audio/wav"
    expected = alone(served, file=prompt, seconds=2.0, seed=5, temperature=1.0)
    np.testing.assert_allclose(samples(data), expected, atol=2e-4)
    assert headers["x-twist-seed"] == "5" and headers["x-twist-model"] == "warm"
    body, kind = form({"seconds": "2", "seed": "5", "temperature": "1", "with_prompt": "true"}, prompt)
    status, _, longer = ask(server, "POST", "/v1/continue", body, kind)
    assert status == 200
    np.testing.assert_allclose(samples(longer)[-len(expected) :], expected, atol=2e-4)
    np.testing.assert_allclose(samples(longer)[: -len(expected)], PROMPT.samples, atol=2e-4)
    status, _, cold = ask(server, "POST", "/v1/continue?seconds=2&seed=5&temperature=1&model=cold&voice=other", prompt)
    expected = alone(served, file=prompt, model="cold", seconds=2.0, seed=5, temperature=1.0)
    np.testing.assert_allclose(samples(cold), expected, atol=2e-4)


def test_events_tell_the_same_sound_as_it_is_made(server: str, prompt: bytes) -> None:
    import base64

    query = "/v1/continue?seconds=3&seed=1&temperature=1"
    status, headers, text = ask(server, "POST", f"{query}&stream=true", prompt)
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    events = [json.loads(part.split("data: ", 1)[1]) for part in text.decode().strip().split("\n\n")]
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["response.created", "response.output_item.added", "response.content_part.added"]
    assert kinds[-4:] == [
        "response.output_audio.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
    ]
    deltas = [base64.b64decode(e["delta"]) for e in events if e["type"] == "response.output_audio.delta"]
    assert len(deltas) > 2
    whole = samples(ask(server, "POST", query, prompt)[2])
    np.testing.assert_allclose(np.frombuffer(b"".join(deltas), "<i2") / 32_768, whole, atol=2e-4)
    done = events[-1]["response"]
    units = [u for e in events if e["type"] == "twist.units.delta" for u in e["units"]]
    assert done["status"] == "completed" and done["twist"]["units"] == units
    assert len(done["twist"]["frames"]) == len(units)
    assert sum(done["twist"]["frames"]) * done["twist"]["unit_seconds"] == pytest.approx(len(whole) / 16_000)
    assert 0 < done["twist"]["first_sound_seconds"] < done["twist"]["computed_seconds"]
    _, _, half = ask(server, "POST", f"{query}&rate=8000", prompt)
    assert len(samples(half)) == pytest.approx(len(whole) / 2, abs=2)


def test_units_and_resynthesis_are_the_tokenizers_and_the_vocoders(server: str, served: Served, prompt: bytes) -> None:
    units = served.tokenizer(Clip(samples(prompt), 16_000))
    told = json.loads(ask(server, "POST", "/v1/units", prompt)[2])
    assert told["units"] == units.ids.tolist() and told["frames"] == units.runs.tolist()
    assert told["unit_spec"] == units.spec.fingerprint and told["seconds"] == 1.5
    for durations in ("given", "predicted"):
        status, _, data = ask(server, "POST", f"/v1/resynth?durations={durations}", prompt)
        assert status == 200
        expected = served.voices["tiny"](units, durations=durations).samples
        np.testing.assert_allclose(samples(data), expected, atol=2e-4)


def test_what_is_there_is_told(server: str, prompt: bytes) -> None:
    told = json.loads(ask(server, "GET", "/v1/models")[2])
    assert [one["id"] for one in told["data"]] == ["warm", "cold"]
    assert told["voices"] == ["tiny", "other"] and told["examples"] == [{"id": "one", "text": "An example."}]
    assert ask(server, "GET", "/v1/examples/one")[0] == 200
    assert json.loads(ask(server, "GET", "/health")[2]) == {"status": "ok", "listeners": 0, "waiting": 0}
    ask(server, "POST", "/v1/continue?seconds=1", prompt)
    metrics = ask(server, "GET", "/metrics")[2].decode()
    assert 'twistlm_continuations_total{reason="done"}' in metrics
    schema = json.loads(ask(server, "GET", "/openapi.json")[2])
    assert {"/v1/continue", "/v1/units", "/v1/resynth", "/v1/models", "/health", "/metrics"} <= schema["paths"].keys()
    for path in ("/", "/docs", "/page/page.js", "/page/style.css"):
        status, headers, data = ask(server, "GET", path)
        assert status == 200 and "default-src 'none'" in headers["content-security-policy"]
        assert b"http://" not in data.replace(b"http://www.w3.org", b"").replace(b"http://localhost", b"")
        assert b"https://" not in data.replace(b"https or", b"")


@pytest.mark.parametrize(
    ("path", "status", "code", "says"),
    [
        ("/v1/continue?temperature=-1", 422, "invalid_value", "temperature"),
        ("/v1/continue?temperature=nan", 422, "invalid_value", "temperature"),
        ("/v1/continue?top_k=0", 422, "invalid_value", "top_k"),
        ("/v1/continue?tempreature=1", 422, "invalid_value", "tempreature"),
        ("/v1/continue?seed=99999999999999999999", 422, "invalid_value", "seed"),
        ("/v1/continue?seconds=100", 400, "bad_input", "at most 20"),
        ("/v1/continue?model=none", 400, "bad_input", "there are warm, cold"),
        ("/v1/continue?voice=../x", 400, "bad_input", "no voice"),
        ("/v1/resynth?voice=x", 400, "bad_input", "no voice"),
        ("/v1/none", 404, "http_404", "Not Found"),
        ("/v1/examples/..%2fone", 404, "http_404", "Not Found"),
    ],
)
def test_what_cannot_be_is_said(server: str, prompt: bytes, path: str, status: int, code: str, says: str) -> None:
    method = "GET" if "examples" in path else "POST"
    found, _, data = ask(server, method, path, prompt if method == "POST" else None)
    error = json.loads(data)["error"]
    assert (found, error["code"]) == (status, code) and says in f"{error['message']} {error['param']}"


def bomb() -> bytes:
    """A flac of five minutes of silence, in a few thousand bytes."""
    held = io.BytesIO()
    soundfile.write(held, np.zeros(300 * 16_000, np.float32), 16_000, format="FLAC")
    return held.getvalue()


def silence() -> bytes:
    held = io.BytesIO()
    soundfile.write(held, np.zeros(16_000, np.float32), 16_000, format="WAV")
    return held.getvalue()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b"not a sound" * 50, "sound"),
        (b"RIFF\xff\xff\xff\x7fWAVEfmt ", ""),
        (zlib.compress(bytes(100_000)), ""),
        (bomb(), "longer than 30 s"),
        (silence(), "silent"),
    ],
)
def test_bad_sound_is_named(server: str, body: bytes, says: str) -> None:
    for path in ("/v1/continue", "/v1/units", "/v1/resynth"):
        status, _, data = ask(server, "POST", path, body)
        assert status == 400 and says in json.loads(data)["error"]["message"]


def test_bodies_are_bounded(server: str, prompt: bytes) -> None:
    assert ask(server, "POST", "/v1/units", bytes(600_000))[0] == 413
    raw = socket.create_connection(server.split(":"), timeout=30)  # says nothing of its length, and goes on
    raw.sendall(b"POST /v1/units HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + bytes(65_536) + b"\r\n"
    try:
        for _ in range(100):
            raw.sendall(piece)
    except OSError:
        pass  # it hung up, as it may
    else:
        assert b" 413 " in raw.recv(100)
    raw.close()
    for body, headers in [form({}, None), form({"seconds": "x"}, prompt), form({"unknown": "1"}, prompt)]:
        assert ask(server, "POST", "/v1/continue", body, headers)[0] in (400, 422)
    broken = {"content-type": "multipart/form-data"}
    assert ask(server, "POST", "/v1/continue", form({}, prompt)[0], broken)[0] == 400


def test_pages_of_others_and_other_names_are_refused(server: str, prompt: bytes) -> None:
    assert ask(server, "POST", "/v1/units", prompt, {"origin": "http://evil.example"})[0] == 403
    assert ask(server, "POST", "/v1/units", prompt, {"origin": "null"})[0] == 403
    assert ask(server, "GET", "/v1/models", headers={"host": "evil.example"})[0] == 421
    assert ask(server, "POST", "/v1/units", prompt, {"origin": f"http://{server}"})[0] == 200
    _, headers, _ = ask(server, "OPTIONS", "/v1/units", headers={"access-control-request-method": "POST"})
    assert not any(name.startswith("access-control") for name in headers)


def test_a_model_may_have_any_name(served: Served, prompt: bytes) -> None:
    named = dataclasses.replace(served, models={"моя модель": served.models["warm"]})
    with serving(named) as address:
        status, headers, data = ask(address, "POST", "/v1/continue?seconds=0.5", prompt)
    assert (status, unquote(headers["x-twist-model"])) == (200, "моя модель") and len(samples(data)) > 4000


def test_a_token_is_asked_for(served: Served, prompt: bytes) -> None:
    with serving(served, token="secret") as address:
        assert ask(address, "GET", "/")[0] == ask(address, "GET", "/health")[0] == 200
        for path in ("/v1/models", "/metrics"):
            assert ask(address, "GET", path)[0] == 401
            for wrong in ("Bearer wrong", "Basic secret", "Bearer s\xe9cret"):
                assert ask(address, "GET", path, headers={"authorization": wrong})[0] == 401
            assert ask(address, "GET", path, headers={"authorization": "Bearer secret"})[0] == 200
        assert ask(address, "POST", "/v1/units", prompt)[0] == 401
    with serving(served, token="") as address:  # of a variable that nobody set
        assert ask(address, "GET", "/v1/models")[0] == 401


def test_what_is_done_beside_continuing_is_bounded(
    served: Served, prompt: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recordings that are spoken again are in the way of those to be heard: they count, or nobody knew how long."""
    with serving(served, limits=Limits(requests_per_minute=0, hearing=2)) as address, ThreadPoolExecutor(2) as others:
        reached, go_on, speak = threading.Semaphore(0), threading.Event(), Served.resynthesise

        def slowly(*given: Any, **more: Any) -> Clip:
            reached.release()
            go_on.wait(60)
            return speak(*given, **more)

        monkeypatch.setattr(Served, "resynthesise", slowly)
        spoken = [others.submit(ask, address, "POST", "/v1/resynth", prompt) for _ in range(2)]
        try:
            assert reached.acquire(timeout=60) and reached.acquire(timeout=60)
            for path in ("/v1/units", "/v1/continue", "/v1/resynth"):
                status, headers, data = ask(address, "POST", path, prompt)
                assert status == 503 and headers["retry-after"] == "3"
                assert json.loads(data)["error"]["code"] == "busy"
        finally:
            go_on.set()
        assert [one.result()[0] for one in spoken] == [200, 200]
        assert ask(address, "POST", "/v1/units", prompt)[0] == 200


def test_nobody_waits_longer_for_a_seat_than_is_said(served: Served, prompt: bytes) -> None:
    """Whatever the step that is being computed lasts."""
    go_on = threading.Event()
    with (
        serving(served, room=Room(listeners=1, waiting=1, wait_seconds=0.2)) as address,
        ThreadPoolExecutor(1) as other,
    ):
        hook = served.models["warm"].model.register_forward_pre_hook(lambda *_: go_on.wait(60) and None)
        try:
            first = other.submit(ask, address, "POST", "/v1/continue?seconds=1", prompt)
            while json.loads(ask(address, "GET", "/health")[2])["listeners"] == 0:
                time.sleep(0.02)
            status, headers, data = ask(address, "POST", "/v1/continue?seconds=1", prompt)
            assert status == 503 and headers["retry-after"] == "3" and not first.done()
            assert "after 0.2 s in the queue" in json.loads(data)["error"]["message"]
        finally:
            go_on.set()
            hook.remove()
        assert first.result()[0] == 200


def test_requests_are_counted() -> None:
    now = [0.0]
    guard = Guard(
        None, hosts=None, token=None, limits=Limits(requests_per_minute=6), answered=print, clock=lambda: now[0]
    )  # type: ignore[arg-type]
    scope = {"type": "http", "method": "POST", "path": "/v1/units", "headers": [], "client": ("1.2.3.4", 1)}
    refused = [guard._refused(scope) for _ in range(8)]
    assert [r is not None for r in refused] == [False] * 6 + [True] * 2
    assert refused[-1] is not None and refused[-1][0] == 429 and refused[-1][2] == {"retry-after": "10"}
    assert guard._refused(scope | {"client": ("5.6.7.8", 1)}) is None
    now[0] = 10.0
    assert guard._refused(scope) is None and guard._refused(scope) is not None
    for i in range(20_000):
        guard._refused(scope | {"client": (str(i), 1)})
    assert len(guard._left) <= 10_000


def test_a_client_that_leaves_makes_room(served: Served, prompt: bytes) -> None:
    with serving(served, limits=Limits(requests_per_minute=0), room=Room(listeners=1, waiting=0)) as address:
        hook = served.models["warm"].model.register_forward_pre_hook(lambda *_: time.sleep(0.02))
        raw = socket.create_connection(address.split(":"), timeout=30)
        head = (
            f"POST /v1/continue?seconds=15&temperature=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(prompt)}"
        )
        raw.sendall(head.encode() + b"\r\n\r\n" + prompt)
        until = time.monotonic() + 30
        while json.loads(ask(address, "GET", "/health")[2])["listeners"] == 0 and time.monotonic() < until:
            time.sleep(0.02)
        status, headers, _ = ask(address, "POST", "/v1/continue?seconds=1", prompt)
        assert status == 503 and "retry-after" in headers
        raw.close()
        while json.loads(ask(address, "GET", "/health")[2])["listeners"] and time.monotonic() < until:
            time.sleep(0.05)
        hook.remove()
        assert ask(address, "POST", "/v1/continue?seconds=1", prompt)[0] == 200


def test_who_leaves_is_counted(served: Served, prompt: bytes) -> None:
    with serving(served) as address:
        hook = served.models["warm"].model.register_forward_pre_hook(lambda *_: time.sleep(0.02))
        raw = socket.create_connection(address.split(":"), timeout=30)
        head = f"POST /v1/continue?seconds=15&stream=true HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(prompt)}"
        raw.sendall(head.encode() + b"\r\n\r\n" + prompt)
        assert raw.recv(1000).startswith(b"HTTP/1.1 200")
        raw.close()
        until, counted = time.monotonic() + 30, 'twistlm_continuations_total{reason="cancelled"} 1.0'
        while counted not in (told := ask(address, "GET", "/metrics")[2].decode()) and time.monotonic() < until:
            time.sleep(0.05)
        hook.remove()
    assert counted in told


def test_what_would_be_dropped_in_silence_is_refused(server: str, prompt: bytes) -> None:
    for query, says in (
        ("stream=true&with_prompt=true", "with_prompt is of the wav"),
        ("transcript=true", "stream too"),
    ):
        status, _, data = ask(server, "POST", f"/v1/continue?{query}", prompt)
        assert status == 400 and says in json.loads(data)["error"]["message"]


def test_a_continuation_that_is_not_whole_says_when_to_ask_again(served: Served, prompt: bytes) -> None:
    with serving(served, room=Room(work_seconds=0.0)) as address:
        status, headers, _ = ask(address, "POST", "/v1/continue?seconds=9", prompt)
    assert status == 503 and headers["retry-after"] == "3"


def test_nothing_is_kept_unless_asked(served: Served, prompt: bytes, tmp_path: Path) -> None:
    with serving(served, kept=tmp_path) as address:
        assert ask(address, "POST", "/v1/continue?seconds=1&seed=7", prompt)[0] == 200
    names = sorted(path.suffix for path in tmp_path.iterdir())
    assert names == [".json", ".wav", ".wav"]
    record = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert record["seed"] == 7 and record["end"] == "done" and record["units"]


@pytest.mark.parametrize(
    ("error", "says"),
    [(OSError("the disk is full"), "could not keep the continuation"), (RuntimeError("gone"), "told to its end")],
)
def test_events_end_in_an_error_where_they_cannot_end_well(
    served: Served, prompt: bytes, error: Exception, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(*((responses, "keep") if isinstance(error, OSError) else (Scribe, "transcribe")), broken)
    with serving(dataclasses.replace(served, asr=Scribe()), kept=tmp_path) as address:
        status, _, data = ask(address, "POST", "/v1/continue?seconds=1&stream=true&transcript=true", prompt)
        last = json.loads(data.decode().strip().split("data: ")[-1])
        assert status == 200 and last["type"] == "error" and says in last["error"]["message"]
        assert "response.output_audio.done" in data.decode() and "response.done" not in data.decode()
        status, _, data = ask(address, "POST", "/v1/continue?seconds=1", prompt)
    assert status == (503 if isinstance(error, OSError) else 200)


def test_units_take_no_settings_and_say_so(server: str, prompt: bytes) -> None:
    body, headers = form({"voice": "tiny"}, prompt)
    for status, _, data in (
        ask(server, "POST", "/v1/units?voice=nobody", prompt),
        ask(server, "POST", "/v1/units", body, headers),
    ):
        assert status == 422 and "voice" in json.loads(data)["error"]["message"]


def test_a_model_of_few_positions_is_rehearsed_within_them(served: Served, tiny: Tiny) -> None:
    small = cold_start(tiny.text_lm, served.tokenizer.spec, seed=0)
    small.model.config.max_position_embeddings = 32
    assert small.max_tokens == 32
    with serving(dataclasses.replace(served, models={"small": small}, origin={})) as address:
        assert ask(address, "GET", "/health")[0] == 200


@pytest.mark.thorough
def test_who_is_being_served_when_it_stops_is_told(
    served: Served, prompt: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step, steps = Batch.step, list[int]()
    monkeypatch.setattr(Batch, "step", lambda self: time.sleep(0.05) or steps.append(len(self)) or step(self))
    hear, hearing, heard = studio.heard, threading.Event(), threading.Event()

    def hears(*given: Any) -> Any:
        hearing.set()
        heard.wait(60)
        return hear(*given)

    with ThreadPoolExecutor(3) as pool:
        with serving(served, kept=tmp_path) as address:
            made = [
                pool.submit(ask, address, "POST", f"/v1/continue?seconds=9{more}", prompt)
                for more in ("", "&stream=true&seed=1")
            ]
            until = time.monotonic() + 20
            while json.loads(ask(address, "GET", "/health")[2])["listeners"] < 2 and time.monotonic() < until:
                time.sleep(0.05)
            while steps.count(2) < 10 and time.monotonic() < until:  # both are being made
                time.sleep(0.05)
            monkeypatch.setattr(studio, "heard", hears)
            unheard = pool.submit(ask, address, "POST", "/v1/units", prompt)
            assert hearing.wait(20)
            threading.Timer(4, heard.set).start()  # longer than anybody is waited for
        whole, told = (one.result() for one in made)
    assert unheard.result()[0] == 503 and "the server is stopping" in unheard.result()[2].decode()
    assert whole[0] == 503 and "the server is stopping" in json.loads(whole[2])["error"]["message"]
    last = json.loads(told[2].decode().strip().split("data: ")[-1])
    assert last["type"] == "response.done" and last["response"]["status"] == "failed"
    assert "Traceback" not in caplog.text
    assert list(tmp_path.glob("*.json")), "what was made is kept"
