"""What `twist serve` does with requests that mean it no good: no error of ours, no hang, memory bounded.

    python runs/hostile_requests.py [MODEL] [--requests 2000] [--at-once 4] [--seed 0]

A server is started on MODEL (none: a Llama of two layers with random weights; hearing and voice are the bundled ones
either way) and given, several at once: requests that schemathesis makes up from its OpenAPI page (extra `hostile`; a
quarter of them), sound files that are cut, flipped and spliced, sound that decodes to far more than it weighs, bodies
that never end, clients that send or take a byte now and then or leave in the middle, HTTP that is none, WebSocket
events that are none or come out of order, and frames that break the protocol. Fails where fewer were sent than asked
for, where an answer is 500 or none comes in a minute, where the log has a traceback, where memory, threads or
open files grew, or where the server does not answer an honest request at the end.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hostile_clients import KINDS, LATE, SOUNDS, Address, post, slow_clients

GROWTH = 100e6  # bytes, from the second quarter's highest to the last one's


Timed = Callable[[Callable[[], int]], tuple[int, float]]


def made_up(address: Address, n: int, seed: int, timed: Timed, tell: Callable[[int, float], None]) -> None:
    """Send `n` requests that schemathesis makes up, valid and not: seed after seed, since each ends early."""
    import hypothesis
    import schemathesis
    from hypothesis import HealthCheck, settings

    schema = schemathesis.openapi.from_url(f"http://{address[0]}:{address[1]}/openapi.json")
    operations = [operation.ok() for operation in schema.get_all_operations()]
    left, share = n, max(1, n // (4 * len(operations)))
    while left > 0:
        for operation in operations:
            # Negative data of what has nothing to negate are none: hypothesis says so by this error.
            for mode in schemathesis.GenerationMode:

                @hypothesis.seed(seed)
                @settings(max_examples=share, database=None, deadline=None, suppress_health_check=list(HealthCheck))
                @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
                def ask(case: schemathesis.Case) -> None:
                    nonlocal left
                    if left <= 0:
                        return
                    left -= 1
                    tell(*timed(lambda: called(case)))

                with contextlib.suppress(hypothesis.errors.Unsatisfiable):
                    ask()
        seed += 1


def called(case: Any) -> int:
    try:
        return case.call(timeout=LATE).status_code
    except OSError as error:  # as those of requests are
        if "timed out" in str(error):
            raise TimeoutError from error
        return 500 if "RemoteDisconnected" in str(error) else 0


class Server:
    """`twist serve` in a process of its own, watched."""

    def __init__(self, model: str) -> None:
        command = [sys.executable, "-m", "twistlm", "serve", model, "--port", "0", "--rate", "0"]
        self.process = subprocess.Popen(
            [*command, "--no-transcripts", "--seconds", "10"], stderr=subprocess.PIPE, text=True
        )
        self.said: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"open http://([\d.]+):(\d+)/", line):
                self.address = found[1], int(found[2])
                break
        else:
            raise SystemExit("".join(self.said))
        # What it goes on to say is read, or it would wait for that.
        self.reader = threading.Thread(target=lambda: self.said.extend(self.process.stderr or ()), daemon=True)
        self.reader.start()

    @property
    def memory(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def counts(self) -> tuple[int, int]:
        """Its threads and its open files."""
        home = Path(f"/proc/{self.process.pid}")
        return len(list((home / "task").iterdir())), len(list((home / "fd").iterdir()))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.reader.join(10)


def tiny_model(folder: Path) -> str:
    """Write a Llama of two layers with random weights over the default tokenizer's units."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    from twistlm.lm.warmstart import cold_start
    from twistlm.units.tokenizer import SpeechTokenizer

    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "text")
    cold_start(str(folder / "text"), SpeechTokenizer.load("mini-25hz-500").spec, seed=0).save(folder / "lm")
    return str(folder / "lm")


def attack(server: Server, n: int, *, at_once: int, seed: int) -> tuple[collections.Counter[str], dict[str, float]]:
    """Send `n` requests; print what became of memory; return what was answered, and each kind's slowest answer."""
    address, before = server.address, server.memory
    statuses: collections.Counter[str] = collections.Counter()
    slowest: dict[str, float] = collections.defaultdict(float)
    highest: dict[int, int] = collections.defaultdict(int)  # of each quarter
    first, n_sent, lock, over = 0, 0, threading.Lock(), threading.Event()
    still = 0.0  # seconds in which everything here was stopped or had no core: no fault of the server's

    def tell(kind: str, status: int, seconds: float) -> None:
        nonlocal n_sent, first
        with lock:
            statuses["hangs" if status < 0 else f"{kind} {status}"] += 1
            slowest[kind] = max(slowest[kind], seconds)
            n_sent += 1
            first = server.memory if n_sent == 100 else first
            if n_sent % 100 == 0:
                print(f"{n_sent} sent, {server.memory / 1e6:.0f} MB", file=sys.stderr, flush=True)

    def timed(ask: Callable[[], int]) -> tuple[int, float]:
        while True:
            began, still_then = time.monotonic(), still
            try:
                status = ask()
            except TimeoutError:
                status = -1
            time.sleep(0.1)  # `watch` has seen by now whether it stood still
            stood = still - still_then
            if status >= 0 or stood < 1:
                return status, max(0.0, time.monotonic() - began - 0.1 - stood)
            slow["asked again after standing still"] += 1

    def one(i: int) -> None:
        rng = random.Random(f"{seed} {i}")
        kind = rng.choices([kind for _, kind in KINDS], [weight for weight, _ in KINDS])[0]
        tell(kind.__name__, *timed(lambda: kind(address, rng)))

    def watch() -> None:
        nonlocal still
        then = time.monotonic()
        while not over.wait(0.05):
            quarter = min(3, 4 * n_sent // n)
            highest[quarter] = max(highest[quarter], server.memory)
            now = time.monotonic()
            still += now - then if now - then > 1 else 0
            then = now

    slow: collections.Counter[str] = collections.Counter()
    others = [threading.Thread(target=watch), threading.Thread(target=slow_clients, args=(address, over, slow))]
    for other in others:
        other.start()
    with ThreadPoolExecutor(at_once) as clients:
        invented = clients.submit(
            made_up, address, n // 4, seed, timed, lambda status, seconds: tell("made_up", status, seconds)
        )
        list(clients.map(one, range(n - n // 4)))
        invented.result()
    over.set()
    for other in others:
        other.join()
    statuses += slow
    if still:
        print(f"seconds in which nothing ran here (not counted below): {still:.0f}")
    time.sleep(40)  # whoever is still served has left by then, and the engine has been idle
    after = server.memory
    print(f"memory: {before / 1e6:.0f} MB before, {first / 1e6:.0f} after 100 requests, {after / 1e6:.0f} at the end")
    print("highest of each quarter: " + ", ".join(f"{highest[i] / 1e6:.0f} MB" for i in range(4)))
    statuses["memory grew"] = int(highest[3] - highest[1] > GROWTH)
    return statuses, slowest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(given.model or tiny_model(Path(folder)))
        try:
            before = server.counts
            statuses, slowest = attack(server, given.requests, at_once=given.at_once, seed=given.seed)
            after = server.counts
            honest = post(server.address, "/v1/continue?seconds=1", SOUNDS[0], {})
            health = http.client.HTTPConnection(*server.address, timeout=LATE)
            health.request("GET", "/health")
            busy = json.load(health.getresponse())
            health.close()
        finally:
            server.stop()
    for name, n in sorted(statuses.items()):
        print(f"{name:30} {n}")
    for name, seconds in sorted(slowest.items()):
        print(f"slowest {name:22} {seconds:.2f} s")
    sent = sum(n for name, n in statuses.items() if name == "hangs" or name.split()[-1].isdigit())
    bad = sum(n for name, n in statuses.items() if name.split()[-1] in ("500", "502", "504"))
    tracebacks = sum("Traceback" in line for line in server.said)
    print(
        f"requests sent: {sent}, answers of 500: {bad}, hangs: {statuses['hangs']}, tracebacks in its log: {tracebacks}"
    )
    print(f"threads and open files: {before} before, {after} at the end; then an honest request: {honest}; {busy}")
    if tracebacks:
        print("".join(server.said), file=sys.stderr)
    idle = busy["listeners"] == busy["waiting"] == 0
    grew = statuses["memory grew"] or any(b > a + 10 for a, b in zip(before, after, strict=True))
    return int(sent < given.requests or bad or statuses["hangs"] or tracebacks or honest != 200 or not idle or grew)


if __name__ == "__main__":
    sys.exit(main())
