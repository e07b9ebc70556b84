"""Clients that mean a server no good, for `hostile_requests.py`: one function a kind.

Each sends one request, or holds one WebSocket session, and returns the status it was answered with: 500 also where the
server hung up instead of answering; 101 for a session that went on; 0 where there was nothing to answer. Raises
TimeoutError where no answer came.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import soundfile

LATE = 60.0  # seconds without an answer are a hang
SLOW = 24  # clients that send or take a byte now and then, all the time
LARGEST = f"Content-Length: {38 * 0x80000}"  # 19.9 MB of the 20 that may be
Address = tuple[str, int]


def sounds() -> list[bytes]:
    """Return a few honest sound files."""
    noise = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
    made = []
    for form, subtype, rate in (
        ("WAV", "PCM_16", 16_000), ("WAV", "FLOAT", 44_100), ("FLAC", "PCM_16", 16_000), ("OGG", "VORBIS", 22_050),
        ("AIFF", "PCM_24", 8_000), ("MP3", "MPEG_LAYER_III", 16_000),
    ):  # fmt: skip
        held = io.BytesIO()
        soundfile.write(held, noise, rate, format=form, subtype=subtype)
        made.append(held.getvalue())
    return made


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return a file with a few of its bytes changed, cut, doubled or moved."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(max(1, min(len(out), rng.choice((64, 512, 10**9)))))
        match rng.randrange(5):
            case 0 if out:
                out[at] = rng.randrange(256)
            case 1:
                out[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"))
            case 2:
                del out[at : at + rng.randrange(1, 5_000)]
            case 3:
                out[at:at] = rng.randbytes(rng.randrange(1, 500))
            case _:
                out = out[: max(1, at)]
    return bytes(out)


def bombs() -> list[bytes]:
    """Return small files of much sound."""
    made = []
    for form, subtype, seconds in (("FLAC", "PCM_16", 3_600), ("OGG", "VORBIS", 600), ("WAV", "IMA_ADPCM", 120)):
        held = io.BytesIO()
        with soundfile.SoundFile(held, "w", 8_000, 1, subtype, format=form) as file:
            for _ in range(seconds):
                file.write(np.zeros(8_000, np.float32))
        made.append(held.getvalue())
    return made


def post(address: Address, path: str, body: bytes, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection(*address, timeout=LATE)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except http.client.RemoteDisconnected:
        return 500  # it hung up without an answer
    except (BrokenPipeError, ConnectionResetError):
        return 0  # it answered before the body had come, and closed
    finally:
        connection.close()


def broken_sound(address: Address, rng: random.Random) -> int:
    path = rng.choice(("/v1/units", "/v1/resynth", "/v1/continue?seconds=0.5", "/v1/continue?seconds=0.5&stream=true"))
    return post(address, path, damaged(rng.choice(SOUNDS), rng), {})


def much_sound(address: Address, rng: random.Random) -> int:
    return post(address, rng.choice(("/v1/units", "/v1/continue")), rng.choice(BOMBS), {})


def broken_form(address: Address, rng: random.Random) -> int:
    kind = rng.choice(("multipart/form-data; boundary=x", "multipart/form-data", "multipart/form-data; boundary=\xff"))
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="../../../etc/passwd"\r\n\r\n'
    body = damaged(head + rng.choice(SOUNDS)[:3_000] + b"\r\n--x--\r\n", rng)
    return post(address, "/v1/units", body, {"content-type": kind})


def huge_body(address: Address, rng: random.Random) -> int:
    """Send a body without end, or almost as much as may be, which is no sound; 0 where it hangs up."""
    with socket.create_connection(address, timeout=LATE) as raw:
        length, n = rng.choice(
            (("Transfer-Encoding: chunked", 100), ("Content-Length: 99999999999", 100), (LARGEST, 38))
        )
        piece = b"80000\r\n" + bytes(0x80000) + b"\r\n" if "chunked" in length else bytes(0x80000)
        try:
            raw.sendall(f"POST /v1/units HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
            for _ in range(n):
                raw.sendall(piece)
            return status_of(raw)
        except (BrokenPipeError, ConnectionResetError):
            return 0


def leaver(address: Address, rng: random.Random) -> int:
    """Leave in the middle of a request, of an answer or of a header."""
    body = rng.choice(SOUNDS)
    head = f"POST /v1/continue?seconds=5&stream=true HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    whole = head.encode() + body
    with socket.create_connection(address, timeout=LATE) as raw:
        raw.sendall(whole[: rng.choice((10, len(head), len(head) + 100, len(whole)))])
        time.sleep(rng.choice((0, 0.1, 1)) * rng.random())
        abort(raw, rng)
    return 0


def abort(raw: socket.socket, rng: random.Random) -> None:
    """Half of the time, have the connection reset when it is closed."""
    if rng.random() < 0.5:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def no_http(address: Address, rng: random.Random) -> int:
    lines = (
        rng.randbytes(200), b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/units HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00",
        b"GET /page/../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/examples/%2e%2e%2f%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /v1/units HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/units HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nxyz",
        b"POST /v1/units HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
        b"GET /v1/models?%ff%fe=%00 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50,
    )  # fmt: skip
    with socket.create_connection(address, timeout=LATE) as raw:
        try:
            raw.sendall(rng.choice(lines))
            raw.shutdown(socket.SHUT_WR)
            return status_of(raw)
        except (BrokenPipeError, ConnectionResetError):
            return 0


def event(kind: str, **fields: object) -> str:
    return json.dumps({"type": kind, **fields})


def some_event(rng: random.Random) -> str | bytes:
    """Return an event as it may come out of order, or what is none."""
    append, samples = "input_audio_buffer.append", rng.randbytes(2 * rng.choice((200, 8_000, 16_000)))
    deep = '{"audio":' * 500 + "1" + "}" * 500
    return rng.choice((
        "", "null", "[]", "{}", '{"type":1}', "[" * 50_000, '{"type":"session.update","session":' + deep + "}",
        rng.randbytes(50), "\ud7ff\x00", '{"type":"input_audio_buffer.append"', event("no.such.event"),
        event(append, audio="A" * rng.choice((3, 40_000, 4_000_000))), event(append, audio="\u00e9~" * 5_000),
        event(append, audio=base64.b64encode(samples).decode()), event(append, audio=None),
        event("input_audio_buffer.commit"), event("input_audio_buffer.clear"), event("response.cancel"),
        event("response.create"), event("response.create", response={"twist": {"seconds": 1}}),
        event("response.create", response={"twist": {"seconds": 1e308, "top_k": 1.5}}),
        event("response.create", response={"twist": {"model": "../../etc/passwd", "seed": -1}}),
        event("response.cancel", response_id="x" * 100_000), event("session.update", session=None),
        event("session.update", session={"audio": {"input": {"format": {"type": "audio/file"}}}}),
        event("session.update", session={"audio": {"input": {"format": {"rate": 8_000}}}}),
    ))  # fmt: skip


def odd_events(address: Address, rng: random.Random) -> int:
    """Send events that are none or out of order, and see that the session still answers; or leave at any moment."""
    from websockets.exceptions import ConnectionClosed, WebSocketException
    from websockets.sync.client import connect

    where = f"ws://{address[0]}:{address[1]}/v1/realtime{rng.choice(('', '?model=x', '?model=' + 'y' * 5_000))}"
    try:
        with connect(where, open_timeout=LATE, close_timeout=5, max_size=None) as client:
            json.loads(client.recv(timeout=LATE))
            for _ in range(rng.randint(1, 12)):
                client.send(some_event(rng))
                if rng.random() < 0.05:
                    time.sleep(rng.random() / 2)
                    abort(client.socket, rng)
                    client.socket.close()
                    return 0
            client.send(event("input_audio_buffer.clear", event_id="last"))
            while json.loads(client.recv(timeout=LATE))["type"] != "input_audio_buffer.cleared":
                pass
    except ConnectionClosed as closed:
        return 500 if closed.rcvd is not None and closed.rcvd.code == 1011 else 0
    except WebSocketException:
        return 0
    return 101


def bad_frames(address: Address, rng: random.Random) -> int:
    """Break the WebSocket protocol itself; 101, or 0 where the server hangs up."""
    masked, text = b"\x80", b"\x81"
    frames = (
        b"\xf1" + masked + bytes(4), text + b"\x05hello", b"\x83" + masked + bytes(4), b"\x09" + masked + bytes(4),
        text + b"\xff" + struct.pack(">Q", 2**62) + bytes(4), b"\x80" + masked + bytes(4), b"\x89\xfe\xff\xff" * 3,
        text + b"\x84" + bytes(4) + b"\xff\xfe\xc0\x80", (b"\x89" + masked + bytes(4)) * 5_000,
        b"\x01\x81" + bytes(4) + b"{" + (b"\x00\x81" + bytes(4) + b" ") * 20_000, b"\x88\x82" + bytes(4) + b"\x00\x01",
        text + b"\xff" + struct.pack(">Q", 40_000_000) + bytes(4) + bytes(40_000_000), rng.randbytes(1_000),
    )  # fmt: skip
    key = base64.b64encode(rng.randbytes(16)).decode()
    with socket.create_connection(address, timeout=LATE) as raw:
        try:
            raw.sendall(
                f"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            status = status_of(raw)
            raw.sendall(rng.choice(frames))
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65_536):
                pass
            return status
        except (BrokenPipeError, ConnectionResetError):
            return 0


def status_of(raw: socket.socket) -> int:
    found = re.match(rb"HTTP/1\.1 (\d+)", raw.recv(200))
    return int(found[1]) if found else 0


def slow_clients(address: Address, over: threading.Event, told: Counter[str]) -> None:
    """Keep clients that send a byte a second, and ones that take nothing of what they asked for; all the time."""
    kept: list[socket.socket | None] = [None] * SLOW
    body, at = SOUNDS[0], 0
    asked = "/v1/continue?seconds=10&stream=true&rate=192000"
    head = f"POST {asked} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    while not over.wait(1):
        at += 1
        for i, one in enumerate(kept):
            try:
                if one is None:
                    kept[i] = one = socket.socket()
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                    one.connect(address)
                    told["slow client came"] += 1
                    one.sendall(head.encode() + (body if i % 6 == 0 else b""))
                elif i % 6:
                    one.send(b"\0")
                elif at % 60 == i:
                    raise OSError  # has waited long enough; it leaves, and another comes
            except OSError:
                told["slow client gone"] += 1
                if one is not None:
                    one.close()
                kept[i] = None
    for one in kept:
        if one is not None:
            one.close()


SOUNDS, BOMBS = sounds(), bombs()
KINDS: tuple[tuple[int, Callable[[Address, random.Random], int]], ...] = (
    (3, broken_sound), (1, much_sound), (1, broken_form), (1, huge_body), (1, leaver), (1, no_http), (3, odd_events),
    (1, bad_frames),
)  # fmt: skip
