"""Connections that cost something and ask nothing: let go in time, and without a traceback in the log."""

from __future__ import annotations

import json
import logging
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="serving needs the extra serve")
pytest.importorskip("websockets", reason="serving needs the extra serve")

from websockets.sync.client import connect

from serving import serving, tiny_served, wav
from standins import Tiny, babble
from twistlm.audio.clip import Clip
from twistlm.serve.limits import Limits
from twistlm.serve.models import Served

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def served(tiny: Tiny) -> Served:
    return tiny_served(tiny)


@pytest.fixture(scope="module")
def server(served: Served) -> Iterator[str]:
    with serving(served, limits=Limits(requests_per_minute=0, head_seconds=0.5, send_seconds=1)) as address:
        yield address


def connected(server: str, *, takes: int | None = None) -> socket.socket:
    raw = socket.socket()
    raw.settimeout(30)
    if takes is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, takes)
    host, port = server.split(":")
    raw.connect((host, int(port)))
    return raw


@pytest.mark.parametrize("before", [b"", GET], ids=["from the first", "after an answer"])
def test_a_head_that_comes_byte_by_byte_is_not_waited_for(server: str, before: bytes) -> None:
    with connected(server) as raw:
        raw.sendall(before)
        if before:
            assert raw.recv(10_000).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        try:
            for byte in GET * 100:
                raw.send(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass
        assert 0.3 < time.monotonic() - began < 20


def test_whoever_asks_in_time_is_kept(server: str) -> None:
    with connected(server) as raw, connect(f"ws://{server}/v1/realtime") as other:
        for _ in range(4):
            raw.sendall(GET + GET)  # the second before the first is answered
            heard = b""
            while heard.count(b"HTTP/1.1 200") < 2:
                heard += raw.recv(10_000)
            time.sleep(0.3)
        other.send('{"type": "input_audio_buffer.clear"}')
        assert [json.loads(other.recv(timeout=30))["type"] for _ in range(2)][1] == "input_audio_buffer.cleared"


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux's kernel has this limit")
@pytest.mark.thorough
def test_a_client_that_takes_nothing_is_given_up(served: Served, tmp_path: Path) -> None:
    body = wav(Clip(babble(1.5, seed=3), 16_000), tmp_path)
    limits = Limits(requests_per_minute=0, send_seconds=1, connections=1)  # as long as it is kept nobody else is heard
    with serving(served, limits=limits) as address, connected(address, takes=2_048) as deaf:
        path = "/v1/continue?stream=true&seconds=15&rate=192000&temperature=1"  # 8 MB, more than the kernel holds
        deaf.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        assert deaf.recv(100).startswith(b"HTTP/1.1 200")
        until, heard = time.monotonic() + 60, [b""]
        while b" 200 " not in heard[-1] and time.monotonic() < until:
            time.sleep(0.2)
            with connected(address) as other:
                other.sendall(GET)
                heard.append(other.recv(100))
        assert b" 503 " in heard[1] and b" 200 " in heard[-1]
        n_taken = 0
        with pytest.raises(ConnectionError):  # what was in the kernel's buffers comes; then it is cut off
            while more := deaf.recv(1_000_000):
                n_taken += len(more)
        assert n_taken < 6_000_000


def test_text_that_is_no_utf8_ends_the_session_and_leaves_no_traceback(
    server: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), connected(server) as raw:
        raw.sendall(
            b"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert raw.recv(1_000).startswith(b"HTTP/1.1 101")
        raw.sendall(b"\x81\x82" + bytes(4) + b"\xff\xfe")
        heard = b""
        while more := raw.recv(10_000):
            heard += more
    assert b"\x88\x02" + struct.pack(">H", 1007) in heard
    said = [record for record in caplog.records if "UTF-8" in record.getMessage()]
    assert len(said) == 1 and not said[0].exc_info
