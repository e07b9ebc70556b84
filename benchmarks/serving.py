"""First sound and real-time factor of `twist serve`'s engine for 1, 2 and 4 listeners, beside one listener made whole.

    python benchmarks/serving.py [MODEL] [--seconds 4] [--repeats 1]

First sound counts from the end of the prompt: it is cut into units, read, continued, spoken. The factor is the time of
computing over the time of sound; the gap, how long a player that begins with what came first would have been without
sound until the end. The reference, in turn with the others, is the same continuation made whole by
`generate` and then spoken at once: a busy machine slows both alike, so the ratios say more than the seconds.
"""

from __future__ import annotations

import argparse
import functools
import queue
import time
from pathlib import Path
from typing import Any

import numpy as np

from twistlm.audio.clip import Clip
from twistlm.compute.threads import apart
from twistlm.jobs.serving import load_served
from twistlm.lm.continuation import begin
from twistlm.lm.sample import generate
from twistlm.serve.engine import End, Engine, Piece, Room
from twistlm.serve.limits import Limits
from twistlm.serve.models import Served
from twistlm.serve.studio import Studio
from twistlm.types import Units


def spoken_whole(served: Served, units: Units, *, seed: int, options: dict[str, Any]) -> int:
    """Continue, then speak; return the number of samples."""
    made, stream = generate(served.model(None)[1], units, seed=seed, **options), served.stream(None, units)
    return len(stream.push(made.ids[len(units) :])) + len(stream.finish())


class Ears:
    """A listener: hears what is delivered, and when."""

    def __init__(self) -> None:
        self.told: queue.Queue[tuple[float, Piece | End]] = queue.Queue()

    def __call__(self, what: Piece | End) -> None:
        self.told.put((time.perf_counter(), what))

    def listen(self, rate: int) -> tuple[End, float]:
        """Return the end, and the seconds for which a player that began with the first sound had none."""
        until, gaps = None, 0.0
        while True:
            at, what = self.told.get(timeout=600)
            if isinstance(what, End):
                return what, gaps
            if len(what.samples):
                late = 0.0 if until is None else max(0.0, at - until)
                gaps += late
                until = (at if until is None else until + late) + len(what.samples) / rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path("mini-lm"))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    served = load_served({"model": given.model}, transcripts=False)
    name, lm = served.model(None)
    clip = Clip.read(next(one.path for one in served.examples), sample_rate=served.rate)
    engine = Engine(served.models, Room())
    began = time.perf_counter()
    engine.start()
    Studio(served, engine, Limits()).rehearse()
    print(
        f"ready in {time.perf_counter() - began:.1f} s; prompt {clip.seconds:.1f} s, continuation {given.seconds:g} s"
    )
    options = {"temperature": 0.8, "seconds": given.seconds, "stop_at_end": False}
    rows: dict[int, list[tuple[float, float, float, float]]] = {0: [], 1: [], 2: [], 4: []}
    for repeat in range(given.repeats):
        for n in rows:
            start = time.perf_counter()
            units = apart(lambda: served.tokenizer(clip))
            heard = time.perf_counter() - start
            if n == 0:
                n_samples = apart(functools.partial(spoken_whole, served, units, seed=repeat, options=options))
                whole = time.perf_counter() - start
                rows[0].append((whole, (whole - heard) * served.rate / n_samples, heard, 0.0))
                continue
            everyone = [Ears() for _ in range(n)]
            for i, ears in enumerate(everyone):
                asked = begin(lm, units, seed=repeat + i, **options)
                engine.submit(name, asked, served.stream(None, units), ears)
            for one, gaps in [ears.listen(served.rate) for ears in everyone]:
                assert one.reason == "done" and one.first is not None, one.message
                rows[n].append((heard + one.first, one.worked * served.rate / one.samples, heard, gaps))
    engine.close()
    whole, factor, _, _ = np.median(rows[0], axis=0)
    print("listeners    first sound, worst   factor   hearing   gaps, worst   first / made whole   factor / made whole")
    for n, found in rows.items():
        (first, each, heard, gaps), (worst, _, _, gap) = np.median(found, axis=0), np.max(found, axis=0)
        print(
            f"{n or 'made whole':<11} {first:7.2f} s, {worst:5.2f}   {each:8.2f}   {heard:5.2f} s"
            f"   {gaps:4.2f}, {gap:4.2f} s   {first / whole:18.2f}   {each / factor:19.2f}"
        )


if __name__ == "__main__":
    main()
