"""Kill a tokenizing job on Ray with signal 9, again and again, and compare its shards with those of one machine.

    python runs/kill_tokenizing.py --kills 20 --seed 0 --speed

At random moments dies a worker, the cluster's head (its gcs_server or its raylet), or the driver. After a worker's
death the job must end by itself; after the others' the same command is run again. Each time a job ends its shards must
have the names and bytes that a job on one machine makes; then it begins from nothing. Last, a rerun must add nothing.
With --speed, also how fast several workers cut against one. Prints JSON; exit code 1 when something is not as it should
be.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

SHARD_CLIPS = 20
WARM_CLIPS = 64  # of a job, before its speed is taken: the first two items that a cluster shares out
VICTIMS = ("worker", "worker", "head", "driver")
NAMES = {"worker": ("ray::_Cutter",), "head": ("gcs_server", "raylet")}
PATIENCE = 300  # seconds until a job that should end counts as hung
ASSETS = Path(__file__).parents[1] / "assets" / "speech"


def drive(out: Path, clips: int, workers: int) -> None:
    """Tokenize, alone (0 workers) or on a cluster of its own; print the seconds, and clips a second once it is warm."""
    from twistlm.corpus.cutting import cut
    from twistlm.corpus.manifest import load
    from twistlm.corpus.ray import cut_on_ray
    from twistlm.corpus.tokenize import tokenize
    from twistlm.units.tokenizer import SpeechTokenizer

    entries = load(ASSETS)
    rounds = -(-clips // len(entries))
    entries = [dataclasses.replace(e, id=f"{e.id}-{i}") for i in range(rounds) for e in entries][:clips]
    times = []

    def timed(entries, tok):
        cutter = functools.partial(cut_on_ray, address="local", workers=workers) if workers else cut
        for row in cutter(entries, tok):
            if not times:
                print("cutting", flush=True)
            times.append(time.perf_counter())
            yield row

    report = tokenize(entries, out, SpeechTokenizer.load("mini-25hz-500"), shard_clips=SHARD_CLIPS, cutter=timed)
    facts = {"done": report.n_done, "skipped": report.n_skipped, "seconds": times[-1] - times[0] if times else 0.0}
    if len(times) > WARM_CLIPS:
        facts["speed"] = (len(times) - WARM_CLIPS) / (times[-1] - times[WARM_CLIPS - 1])
    print(json.dumps(facts), flush=True)


class Job:
    """A driver and every process below it."""

    def __init__(self, out: Path, clips: int, workers: int) -> None:
        options = ["--drive", str(out), "--clips", str(clips), "--workers", str(workers)]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  it goes with the job
        self.driver = subprocess.Popen(
            [sys.executable, __file__, *options], stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.tree = psutil.Process(self.driver.pid)
        self.below: list[psutil.Process] = []

    def begun(self) -> bool:
        """Wait for the first row; False when the job ended without one."""
        line = self.driver.stdout.readline()
        self.below = self.tree.children(recursive=True) if line.startswith("cutting") else []
        return bool(self.below)

    def victims(self, kind: str) -> list[psutil.Process]:
        if kind == "driver":
            return [self.tree]
        try:
            below = self.tree.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.below = list({*self.below, *below})
        return [p for p in below if p.is_running() and _name(p).startswith(NAMES[kind])]

    def end(self) -> tuple[int | None, str]:
        """Wait for the driver, then for all below it; what stays is killed. Exit code (None: hung) and last line."""
        try:
            text, _ = self.driver.communicate(timeout=PATIENCE)
            code: int | None = self.driver.returncode
        except subprocess.TimeoutExpired:
            self.driver.kill()
            text, code = self.driver.communicate()[0], None
        _, alive = psutil.wait_procs(self.below, timeout=30)
        for process in alive:
            process.kill()
        return code, text.strip().splitlines()[-1] if text.strip() else ""

    def errors(self) -> str:
        self.log.seek(0)
        return self.log.read()[-2000:]


def _name(process: psutil.Process) -> str:
    try:
        command = process.cmdline()
    except psutil.Error:
        return ""
    return command[0] if command and command[0].startswith("ray::") else Path(command[0]).name if command else ""


def shards(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.glob("shard-*.parquet"))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=1e9, help="kill no more after that long")
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--speed", action="store_true", help="also time one worker against --workers, and no Ray (64 clips are warm-up)"
    )
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.drive:
        drive(args.drive, args.clips, args.workers)
        return 0
    rng, began = random.Random(args.seed), time.perf_counter()
    killed: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    speed: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as temporary:
        straight, out = Path(temporary) / "straight", Path(temporary) / "out"
        job = Job(straight, args.clips, 0)
        code, last = job.end()
        if code:
            raise SystemExit(job.errors())
        expected, seconds = shards(straight), json.loads(last)["seconds"]
        speed["one machine"] = json.loads(last).get("speed")
        for workers in (1, args.workers) if args.speed else ():
            job = Job(Path(temporary) / f"speed{workers}", args.clips, workers)
            speed[f"{workers} workers"] = json.loads(job.end()[1]).get("speed")
        n_whole = n_late = 0
        while killed.total() < args.kills and time.perf_counter() - began < 60 * args.minutes:
            job = Job(out, args.clips, args.workers)
            kind = ""
            if not job.begun():
                code, last = job.end()
                n_late += code != 0
                if code:
                    print(f"no cluster began ({code}): {job.errors()}", file=sys.stderr)
                else:  # the last kill came when every shard was there
                    n_whole += 1
                    if shards(out) != expected:
                        wrong.append(f"other shards after {dict(killed)}")
                    shutil.rmtree(out)
                continue
            while kind in ("", "worker") and killed.total() < args.kills:
                try:
                    job.driver.wait(rng.uniform(0, 0.5) * seconds)
                    break  # it was faster
                except subprocess.TimeoutExpired:
                    kind = rng.choice(VICTIMS)
                if found := job.victims(kind):
                    victim = rng.choice(found)
                    killed[f"{kind}: {_name(victim)}"] += 1
                    victim.kill()
            code, last = job.end()
            there = shards(out)
            if code == 0:
                n_whole += 1
                if there != expected:
                    wrong.append(f"other shards after {dict(killed)}")
                shutil.rmtree(out)
            elif code is None or kind in ("", "worker"):
                wrong.append(
                    f"{kind or 'nothing'} killed and the job {'hung' if code is None else 'failed'}: {job.errors()}"
                )
            elif not there.items() <= expected.items():
                wrong.append(f"a shard that is not whole after {dict(killed)}")
            print(
                f"{time.perf_counter() - began:.0f} s: {kind} {code} {len(there)} shards {dict(killed)}",
                file=sys.stderr,
            )
        for _ in range(2):  # what the last kill left is done, then nothing is left to do
            job = Job(out, args.clips, args.workers)
            code, last = job.end()
        again = json.loads(last) if code == 0 else {}
        if shards(out) != expected or (again.get("done"), again.get("skipped")) != (0, args.clips):
            wrong.append(f"the last reruns: {again}")
    print(
        json.dumps(
            {
                "killed": killed,
                "jobs done": n_whole + 1,
                "jobs that found no cluster": n_late,
                "wrong": wrong,
                "clips a second": speed,
            },
            indent=1,
        )
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
