"""Whether other programs compute, and how threads wait for each other then: awake or asleep, chosen before torch loads.

Torch's threads (libgomp's) spin at the end of every product until the last one is there. Where other programs compute,
the last one is often not running, and those that spin keep it from the core that it waits for. An update of
SmolLM2-135M on two cores of an AMD EPYC (by hand, 2026-11-27): with nothing else there 1.6 s awake and 1.9 s asleep;
beside one job that went before it 43 and 46 s awake; beside three such and tests 19 to 28 s asleep, where awake the
first evaluation did not end in two minutes. Nothing that is computed changes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

STAT = Path("/proc/stat")
SECONDS, BUSY = 0.1, 0.25  # how long it is looked at; share of the cores' time that makes a machine busy


def asleep_where_busy() -> None:
    """Let this process's threads wait asleep if other programs keep the cores busy just now.

    Sets OMP_WAIT_POLICY, which torch reads when it is imported; left alone where it is set, where torch is imported
    already, and where the system does not say how busy it is.
    """
    if "OMP_WAIT_POLICY" in os.environ or "torch" in sys.modules or not STAT.is_file():
        return
    idle, whole = _jiffies()
    time.sleep(SECONDS)
    later = _jiffies()
    idle, whole = later[0] - idle, later[1] - whole
    if whole > 0 and 1 - idle / whole > BUSY:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def beside() -> Callable[[], float]:
    """Look at what other programs compute from now on.

    Returns:
        What tells their share of the cores' time since then; 0 where the system does not say.
    """
    begun = _all_and_own()

    def share() -> float:
        busy, whole, own = (now - then for now, then in zip(_all_and_own(), begun, strict=True))
        return max(0.0, busy - own) / whole if whole > 0 else 0.0

    return share


def _all_and_own() -> tuple[float, float, float]:
    """Return how long all cores were busy, the whole time, and how long this process computed, in jiffies."""
    if not STAT.is_file():
        return 0.0, 0.0, 0.0
    idle, whole = _jiffies()
    return whole - idle, whole, sum(os.times()[:2]) * os.sysconf("SC_CLK_TCK")


def _jiffies() -> tuple[int, int]:
    """Return how long all cores were idle (or waited for a disk), and the whole time; since the machine was started."""
    times = [int(n) for n in STAT.read_text().split("\n", 1)[0].split()[1:9]]
    return times[3] + times[4], sum(times)
