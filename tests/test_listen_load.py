"""200 raters at once, 20,000 answers, and a server that is killed 20 times: nothing is lost, nothing doubled."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter

import pytest

from listen_standins import make_samples, request
from test_listen_serve import Served
from twistlm.listen.plan import plan
from twistlm.listen.recruiting import read_invitations
from twistlm.listen.samples import find_samples
from twistlm.listen.store import read_answers
from twistlm.listen.study import ANSWERS, Study, open_study

RATERS, TRIALS, KILLS = 200, 100, 20
SYSTEMS = {"a": 90.0, "b": 120.0, "c": 160.0}


def value_of(place: int, position: int) -> int:
    return 1 + (7 * place + 3 * position) % 5


class Crowd:
    """Raters who send each answer until it is acknowledged."""

    def __init__(self, study: Study, url: str) -> None:
        self.study, self.url = study, url
        self.saved: dict[tuple[int, int], int] = {}  # acknowledged: (place, position) -> value
        self.places: dict[str, int] = {}
        self.sent_again = 0

    async def post(self, http, path: str, body: dict) -> tuple[int, dict]:
        for tries in range(10_000):
            try:
                async with http.post(self.url + path, json=body) as reply:
                    if reply.status < 500:
                        return reply.status, await reply.json()
            except (OSError, self.errors):
                pass
            self.sent_again += 1
            await asyncio.sleep(0.05 + 0.2 * random.random() * min(tries, 5))
        raise AssertionError("the server never came back")

    async def rate(self, http, code: str) -> None:
        for _ in range(10_000):
            try:
                async with http.get(f"{self.url}/?invitation={code}") as reply:
                    base = reply.url.path.rstrip("/")
                    break
            except (OSError, self.errors):
                await asyncio.sleep(0.3)
        status, state = await self.post(http, f"{base}/consent", {"agrees": True, "device": "over", "hearing": "yes"})
        assert (status, state["stage"]) == (200, "rate")
        place = self.places[base] = len(self.places)
        for position in range(TRIALS):
            body = {"position": position, "value": value_of(place, position), "plays": 1, "heard": 9.0, "took": 1.0}
            while True:
                status, said = await self.post(http, f"{base}/answer", body)
                if status == 200:
                    break
                assert status == 425, (status, said)  # faster than the sound lasts
                await asyncio.sleep(0.1)
            self.saved[place, position] = body["value"]
        for _ in range(10_000):
            try:
                async with http.get(f"{self.url}{base}/state") as reply:
                    assert (await reply.json())["stage"] == "done"
                    return
            except (OSError, self.errors):
                await asyncio.sleep(0.3)


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_when_the_server_is_killed(tmp_path):
    aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    samples = find_samples(make_samples(tmp_path, SYSTEMS, items=36, seconds=0.41))
    small = request(
        truth="c",
        clips_per_system=24,
        ratings_per_clip=150,
        training=0,
        headphones=False,
        hearing=False,
        languages=("en",),
    )
    facts = plan(samples, tmp_path / "study", small)
    study = open_study(tmp_path / "study")
    assert facts["raters"] == RATERS and all(len(trials) == TRIALS for trials in study.places)
    rng = random.Random(0)
    moments = sorted(rng.sample(range(100, RATERS * TRIALS - 100), KILLS))
    served = Served(tmp_path / "study")
    crowd, lost = Crowd(study, served.url), []
    crowd.errors = aiohttp.ClientError

    async def everybody() -> None:
        limits = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=limits, timeout=aiohttp.ClientTimeout(total=60)) as http:
            codes = sorted(read_invitations(tmp_path / "study" / "invitations.csv"))
            raters = [asyncio.create_task(crowd.rate(http, code)) for code in codes]
            killer = asyncio.create_task(kill())
            await asyncio.gather(*raters, killer)

    async def kill() -> None:
        for moment in moments:
            while len(crowd.saved) < moment:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05 * rng.random())
            served.process.kill()
            served.process.communicate()
            acknowledged = set(crowd.saved)
            sessions, rows = await asyncio.to_thread(read_answers, tmp_path / "study" / ANSWERS)
            places = {one["id"]: crowd.places.get(f"/s/{one['token']}") for one in sessions}
            lost.append(len(acknowledged - {(places[row["session"]], row["position"]) for row in rows}))
            await asyncio.to_thread(served.__init__, tmp_path / "study", port=served.port)

    began = time.monotonic()
    try:
        asyncio.run(everybody())
    finally:
        served.stop()
    sessions, rows = read_answers(tmp_path / "study" / ANSWERS)
    places = {f"/s/{one['token']}": one["id"] for one in sessions}
    sessions_of = {places[base]: place for base, place in crowd.places.items()}
    found = {(sessions_of[row["session"]], row["position"]): row["value"] for row in rows}
    assert len(rows) == len(found) == RATERS * TRIALS and found == crowd.saved
    assert all(value == value_of(*where) for where, value in found.items())
    assert {row["changes"] for row in rows} == {0} and {one["stage"] for one in sessions} == {"done"}
    assert Counter(one["place"] for one in sessions) == dict.fromkeys(range(RATERS), 1)
    assert len(lost) == KILLS and max(lost) == 0
    told = {
        "kills": KILLS,
        "answers": len(rows),
        "sent again": crowd.sent_again,
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(told))  # noqa: T201 (asked for by -s)
