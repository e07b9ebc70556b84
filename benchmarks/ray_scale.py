"""150,000 hours of speech cut on a cluster whose workers fail: the project's own scheduling, in simulated time.

`corpus.ray` hands out the work; the cluster is a stand-in with a clock. A worker cuts so many hours an hour, dies at
random, and is back when its machine is. Printed: hours of the clock against what the same workers would take if none
ever died, deaths, and work that was lost. `--hours`, `--workers`, `--rate` (hours of
audio an hour, of one worker), `--lifetime` (mean hours of a worker), `--away` (minutes until it is back).
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twistlm.corpus import ray
from twistlm.corpus.manifest import Entry


class Died(Exception):
    """A worker is gone."""


class Raised(Exception):
    """Never: nothing is wrong with the clips."""


class Cluster:
    """Ray as far as `corpus.ray` uses it; a call ends at its time, and all that a dead worker had end with it."""

    exceptions = SimpleNamespace(RayError=Died, RayTaskError=Raised)

    def __init__(self, *, rate: float, lifetime: float, away: float, seed: int) -> None:
        self.rate, self.lifetime, self.away = rate, lifetime, away
        self.rng, self.now, self.ids = random.Random(seed), 0.0, itertools.count()
        self.ends: list[tuple[float, int]] = []
        self.results: dict[int, Any] = {}
        self.deaths, self.lost = 0, 0.0

    def call(self, end: float, result: Any) -> int:
        ref = next(self.ids)
        self.results[ref] = result
        heapq.heappush(self.ends, (end, ref))
        return ref

    def wait(self, _refs: list[int]) -> tuple[list[int], list[int]]:
        self.now, ref = heapq.heappop(self.ends)
        return [ref], []

    def get(self, ref: int) -> Any:
        result = self.results.pop(ref)
        if result is Died:
            raise Died
        return result


class Worker:
    """One GPU: it cuts one item after the other until it dies, and is back some time after the driver asks for it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.free, self.dies = cluster, 0.0, -1.0
        self.versions = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._answer))
        self.cut = SimpleNamespace(remote=self._cut)

    def _answer(self) -> int:
        cluster = self.cluster
        self.free = cluster.now + (cluster.away if self.dies >= 0 else 0.0)
        cluster.deaths += self.dies >= 0
        self.dies = self.free + cluster.rng.expovariate(1 / cluster.lifetime)
        return cluster.call(self.free, ray._versions())

    def _cut(self, entries: list[Entry]) -> int:
        cluster = self.cluster
        begins = max(cluster.now, self.free)
        self.free = begins + sum(entry.seconds or 0.0 for entry in entries) / 3600 / cluster.rate
        if self.free <= self.dies:
            return cluster.call(self.free, [None] * len(entries))
        cluster.lost += max(0.0, self.dies - begins)
        return cluster.call(max(cluster.now, self.dies), Died)


def run(
    *, hours: float, clip_seconds: float, workers: int, rate: float, lifetime: float, away: float, seed: int, large: int
) -> dict[str, float]:
    """Return what became of it, in hours."""
    cluster = Cluster(rate=rate, lifetime=lifetime, away=away, seed=seed)
    actors = [Worker(cluster) for _ in range(workers)]
    n = round(hours * 3600 / clip_seconds)
    path = Path("/speech/a.flac")
    one = Entry(id="a", path=path, seconds=clip_seconds, split="train")
    rows: Iterator[Any] = ray._rows(cluster, actors, [one] * n, "simulated", large=large, in_flight=2)
    made = 0
    for _ in rows:
        made += 1
    assert made == n
    return {"took": cluster.now, "at_best": hours / rate / workers, "deaths": cluster.deaths, "lost": cluster.lost}


def main() -> None:
    """Simulate it, with and without failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=150_000.0)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2_000.0)
    parser.add_argument("--lifetime", type=float, default=24.0)
    parser.add_argument("--away", type=float, default=10.0)
    parser.add_argument("--clip", type=float, default=600.0, help="seconds; long ones keep the simulation short")
    given = parser.parse_args()
    for lifetime in (1e9, given.lifetime, given.lifetime / 24):
        found = run(
            hours=given.hours, clip_seconds=given.clip, workers=given.workers, rate=given.rate, lifetime=lifetime,
            away=given.away / 60, seed=0, large=ray._GPU_ITEMS,
        )  # fmt: skip
        lives = "none fails" if lifetime > 1e6 else f"each lives {lifetime:g} h on average"
        print(
            f"{given.hours:,.0f} hours on {given.workers} workers of {given.rate:,.0f} hours an hour, {lives}: "
            f"{found['took']:.2f} h ({found['took'] / found['at_best']:.2f} of what they would take if none failed and "
            f"none waited), {found['deaths']:.0f} deaths, {60 * found['lost']:.1f} minutes of work lost"
        )


if __name__ == "__main__":
    main()
