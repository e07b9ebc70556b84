"""What `twist serve` does with requests that mean it no good: no error of ours, no hang, memory bounded.

    python benchmarks/hostile_requests.py MODEL [--requests 2000] [--seed 0] [--search FOLDER]

A server is started on MODEL and given: requests that schemathesis makes up from its OpenAPI page (extra `hostile`),
sound files that are cut, flipped and spliced, sound that decodes to far more than it weighs, bodies that never end,
clients that send a byte now and then or leave in the middle, and WebSocket frames that are no events. Fails where an
answer is 500 or none comes in a minute, where the server does not answer an honest request at the end, or where its
memory grew by more than 300 MB from the first hundred requests on.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import io
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import soundfile

LATE = 60.0  # seconds without an answer are a hang
GROWTH = 300e6  # bytes


def sounds(rng: random.Random) -> list[bytes]:
    """Return a few honest sound files."""
    noise = np.random.default_rng(rng.randrange(2**31)).normal(0, 0.1, 24_000).astype(np.float32)
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


def post(address: tuple[str, int], path: str, body: bytes, headers: dict[str, str]) -> int:
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


def broken_sound(address: tuple[str, int], rng: random.Random) -> int:
    path = rng.choice(("/v1/units", "/v1/resynth", "/v1/continue?seconds=0.5", "/v1/continue?seconds=0.5&stream=true"))
    return post(address, path, damaged(rng.choice(SOUNDS), rng), {})


def much_sound(address: tuple[str, int], rng: random.Random) -> int:
    return post(address, rng.choice(("/v1/units", "/v1/continue")), rng.choice(BOMBS), {})


def forms(address: tuple[str, int], rng: random.Random) -> int:
    kind = rng.choice(("multipart/form-data; boundary=x", "multipart/form-data", "multipart/form-data; boundary=\xff"))
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="../../../etc/passwd"\r\n\r\n'
    body = damaged(head + rng.choice(SOUNDS)[:3_000] + b"\r\n--x--\r\n", rng)
    return post(address, "/v1/units", body, {"content-type": kind})


def endless(address: tuple[str, int], rng: random.Random) -> int:
    """Send a body without end; what it answers, or 0 where it hangs up."""
    with socket.create_connection(address, timeout=LATE) as raw:
        length = rng.choice(("Transfer-Encoding: chunked", "Content-Length: 99999999999", "Content-Length: 30000000"))
        raw.sendall(f"POST /v1/units HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
        piece = b"80000\r\n" + bytes(0x80000) + b"\r\n" if "chunked" in length else bytes(0x80000)
        try:
            for _ in range(100):
                raw.sendall(piece)
            return status_of(raw)
        except (BrokenPipeError, ConnectionResetError):
            return 0


def leaver(address: tuple[str, int], rng: random.Random) -> int:
    """Leave in the middle of a request, of an answer or of a header."""
    body = rng.choice(SOUNDS)
    head = f"POST /v1/continue?seconds=5&stream=true HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    whole = head.encode() + body
    with socket.create_connection(address, timeout=LATE) as raw:
        raw.sendall(whole[: rng.choice((10, len(head), len(head) + 100, len(whole)))])
        if rng.random() < 0.5:
            time.sleep(rng.random() * 0.2)
    return 0


def garbage(address: tuple[str, int], rng: random.Random) -> int:
    """Send what is no HTTP."""
    with socket.create_connection(address, timeout=LATE) as raw:
        lines = (
            rng.randbytes(200), b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/units HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
            b"GET /page/../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /v1/examples/%2e%2e%2f%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\x02\x00",
        )  # fmt: skip
        try:
            raw.sendall(rng.choice(lines))
            raw.shutdown(socket.SHUT_WR)
            return status_of(raw)
        except (BrokenPipeError, ConnectionResetError):
            return 0


def frames(address: tuple[str, int], rng: random.Random) -> int:
    """Send frames that are no events, and some that are; leave."""
    from websockets.exceptions import ConnectionClosed, WebSocketException
    from websockets.sync.client import connect

    events = (
        "", "null", "[]", "{}", '{"type":1}', "[" * 50_000, '{"type":"response.create"}', rng.randbytes(50),
        '{"type":"input_audio_buffer.append","audio":"' + "A" * rng.choice((3, 40_000, 4_000_000)) + '"}',
        '{"type":"input_audio_buffer.commit"}',
        '{"type":"session.update","session":{"audio":{"input":{"format":{"type":"audio/file"}}}}}',
        '{"type":"session.update","session":' + '{"audio":' * 500 + "1" + "}" * 500 + "}",
        '{"type":"response.create","response":{"twist":{"seconds":1e308,"top_k":1.5}}}', '{"type":"response.cancel"}',
    )  # fmt: skip
    try:
        with connect(f"ws://{address[0]}:{address[1]}/v1/realtime", open_timeout=LATE, close_timeout=5) as client:
            json.loads(client.recv(timeout=LATE))
            for _ in range(rng.randint(1, 6)):
                client.send(rng.choice(events))
            client.send('{"type":"input_audio_buffer.clear"}')
            while json.loads(client.recv(timeout=LATE))["type"] != "input_audio_buffer.cleared":
                pass
    except ConnectionClosed as closed:
        return 500 if closed.rcvd is not None and closed.rcvd.code == 1011 else 0
    except WebSocketException:
        return 0
    return 101


def status_of(raw: socket.socket) -> int:
    head = raw.recv(200)
    found = re.match(rb"HTTP/1\.1 (\d+)", head)
    return int(found[1]) if found else 0


def made_up(address: tuple[str, int], n: int, seed: int) -> list[tuple[int, float]]:
    """Return statuses and seconds of requests that schemathesis makes up."""
    import hypothesis
    import schemathesis
    from hypothesis import HealthCheck, settings

    schema = schemathesis.openapi.from_url(f"http://{address[0]}:{address[1]}/openapi.json")
    found: list[tuple[int, float]] = []
    operations = [operation.ok() for operation in schema.get_all_operations()]
    for operation in operations:
        share = n // len(operations)

        @hypothesis.seed(seed)
        @settings(max_examples=share, database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @hypothesis.given(case=operation.as_strategy())
        def ask(case: schemathesis.Case) -> None:
            began = time.monotonic()
            answer = case.call(timeout=LATE)
            found.append((answer.status_code, time.monotonic() - began))

        ask()
    return found


def memory(process: subprocess.Popen[str]) -> int:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--search", type=Path)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    global SOUNDS, BOMBS
    SOUNDS, BOMBS = sounds(rng), bombs()
    command = [sys.executable, "-m", "twistlm", "serve", str(given.model), "--port", "0", "--rate", "0"]
    command += ["--no-transcripts", "--seconds", "10"] + (["--search", str(given.search)] if given.search else [])
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    lines: list[str] = []
    for line in server.stderr:
        lines.append(line)
        if found := re.search(r"open http://([\d.]+):(\d+)/", line):
            address = found[1], int(found[2])
            break
    else:
        print("".join(lines), file=sys.stderr)
        return 1
    # What it goes on to say is read, or it would wait for that; a traceback in it is a fault.
    said = threading.Thread(target=lambda: lines.extend(server.stderr or ()), daemon=True)
    said.start()
    statuses: collections.Counter[str] = collections.Counter()
    slowest: dict[str, float] = collections.defaultdict(float)
    hangs, peak, base = 0, 0, 0
    kinds = (broken_sound, broken_sound, broken_sound, much_sound, forms, endless, leaver, garbage, frames)
    n_made_up = given.requests // 4
    try:
        slow = [socket.create_connection(address) for _ in range(20)]  # they send a byte now and then
        for i in range(given.requests - n_made_up):
            kind = rng.choice(kinds)
            began = time.monotonic()
            try:
                statuses[f"{kind.__name__} {kind(address, rng)}"] += 1
            except TimeoutError:
                hangs += 1
            slowest[kind.__name__] = max(slowest[kind.__name__], time.monotonic() - began)
            peak = max(peak, memory(server))
            if i == 100:
                base = memory(server)
            if i % 20 == 0:
                for one, byte in zip(slow, b"POST /v1/units HTTP/1.1", strict=False):
                    try:
                        one.send(bytes([byte]))
                    except OSError:
                        statuses["slow client let go"] += 1
        for status, seconds in made_up(address, n_made_up, given.seed):
            statuses[f"made_up {status}"] += 1
            slowest["made_up"] = max(slowest["made_up"], seconds)
        peak = max(peak, memory(server))
        for one in slow:
            one.close()
        honest = post(address, "/v1/units", SOUNDS[0], {})
        statuses[f"honest {honest}"] += 1
    finally:
        server.terminate()
        server.wait(30)
    for name, n in sorted(statuses.items()):
        print(f"{name:30} {n}")
    for name, seconds in sorted(slowest.items()):
        print(f"slowest {name:22} {seconds:.2f} s")
    bad = sum(n for name, n in statuses.items() if name.split()[-1] in ("500", "502", "504"))
    print(f"requests {sum(statuses.values())}, answers of 500: {bad}, hangs: {hangs}")
    print(f"memory after 100 requests {base / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB")
    said.join(10)
    tracebacks = sum("Traceback" in line for line in lines)
    print(f"tracebacks in its log: {tracebacks}")
    return 1 if bad or hangs or tracebacks or honest != 200 or peak - base > GROWTH else 0


SOUNDS: list[bytes] = []
BOMBS: list[bytes] = []

if __name__ == "__main__":
    sys.exit(main())
