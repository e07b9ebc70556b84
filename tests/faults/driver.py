"""A scenario with every call failing in turn, or killed at random moments, or two of it at once."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.runs import PATIENCE, SLOWER, Scenario, copy, fault, finish, in_child, judge, leftovers, run, start

Line = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """A scenario, ready to be run again and again.

    Attributes:
        folder: where it runs; `fresh` puts it back to the state before.
        expected: what `scenario.content` gives after a run without faults.
        counted: calls of such a run.
        seconds: that it took.
    """

    library: Path
    scenario: Scenario
    template: Path
    folder: Path
    logs: Path
    expected: Any
    counted: int
    seconds: float

    def fresh(self) -> None:
        copy(self.template, self.folder)

    def run(self, faults: str | None) -> Any:
        return run(self.library, self.scenario, self.folder, faults, self.logs, patience=self.patience)

    @property
    def patience(self) -> float:
        return max(PATIENCE, SLOWER * self.seconds)

    def same(self) -> bool:
        return attempt(self.scenario.content, self.folder) == self.expected

    def again(self, line: Line) -> Line:
        """Run it once more, without faults, and add to a line what that broke."""
        again, broken = self.run(None), line["broken"]
        if again.code != 0:
            broken.append("rerun")
        elif not self.same():
            broken.append("differs")
        if left := leftovers(self.folder):
            broken.append("leftovers")
        return line | {"again": again.code, "again_err": again.err.strip()[-1500:], "left": left[:5]}


def prepare(library: Path, scenario: Scenario, out: Path) -> Bench:
    """Make a scenario's inputs below `out` and run it twice without faults, which must agree (clocks aside)."""
    template, folder, logs = out / "template", out / "work", out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for old in (template, folder):
        shutil.rmtree(old, ignore_errors=True)
    folder.mkdir()
    in_child(lambda: scenario.prepare(folder))  # where they are used, since records name paths
    folder.rename(template)
    contents = []
    for _ in range(2):
        copy(template, folder)
        ran = run(library, scenario, folder, fault("ENOSPC", 0), logs, patience=12 * PATIENCE)
        if ran.code != 0:
            raise RuntimeError(f"it does not run without faults: {ran.err}")
        contents.append(scenario.content(folder))
    if contents[0] != contents[1]:
        raise RuntimeError("two runs without faults differ: leave what differs out of `content`")
    return Bench(library, scenario, template, folder, logs, contents[0], ran.counted, ran.seconds)


def fail_each(bench: Bench, mode: str, *, most: int, done: Sequence[int] = ()) -> Iterator[Line]:
    """Yield a line for each call that was made to fail: what happened, and which promises were broken.

    Args:
        mode: see `runs.MODES`.
        most: calls at most, spread evenly; 0 is all.
        done: those that need not be tried again.
    """
    total = bench.counted
    if mode == "short":  # writes alone count
        bench.fresh()
        total = bench.run(fault(mode, 0)).counted
    step = max(1, -(-total // most)) if most else 1
    for n in range(1, total + 1, step):
        if n in done:
            continue
        bench.fresh()
        ran = bench.run(fault(mode, n))
        line = {"mode": mode, "n": n, "of": total, "fired": ran.failed > 0, "what": ran.what, "code": ran.code}
        line |= {"broken": judge(ran, mode, bench.same), "err": ran.err.strip()[-1500:]}
        yield bench.again(line)


def kill_at_random(bench: Bench, *, kills: int, seed: int) -> Iterator[Line]:
    """End runs by SIGKILL at random moments; a run alone follows each."""
    rng, seconds, n = random.Random(seed), bench.seconds, 0
    while n < kills:
        bench.fresh()
        moment = rng.uniform(0.02, 1.0) * seconds
        ran = run(
            bench.library, bench.scenario, bench.folder, None, bench.logs, patience=bench.patience, kill_after=moment
        )
        if ran.code == 0:  # it was faster
            seconds *= 0.9
            continue
        n += 1
        yield bench.again({"mode": "killed", "n": n, "fired": True, "what": f"after {moment:.2f} s", "broken": []})


def two_at_once(bench: Bench, *, times: int) -> Iterator[Line]:
    """Begin two runs at once in one folder: either may refuse with a clear error; a run alone follows."""
    for n in range(1, times + 1):
        bench.fresh()
        began = time.monotonic()
        logs = [bench.logs / str(i) for i in (0, 1)]
        children = [start(bench.library, bench.scenario, bench.folder, None, place) for place in logs]
        ends = [finish(child, place, began, bench.patience) for child, place in zip(children, logs, strict=True)]
        broken = [f"twin-{word}" for one in ends for word in judge(one, "short", lambda: True)]
        if all(one.code for one in ends):
            broken.append("both-failed")
        elif not bench.same():
            broken.append("twins-differ")
        line = {"mode": "two", "n": n, "fired": True, "what": str([one.code for one in ends]), "broken": broken}
        yield bench.again(line | {"err": " | ".join(one.err.strip()[-600:] for one in ends)})


def attempt(content: Callable[[Path], Any], folder: Path) -> Any:
    try:
        return content(folder)
    except Exception as error:  # noqa: BLE001  what cannot be read is not the same
        return f"unreadable: {error!r}"


def read_lines(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
