"""Kill a quickstart with signal 9 at three random moments, run it again each time, and compare with a straight run.

    twist quickstart --out runs/straight
    python runs/kill_and_compare.py runs/straight runs/killed --seed 0

Prints when it was killed and whether every number of results.json (clocks and memory aside) is the same; exit code 1
when one is not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CLOCKS = {"seconds", "peak_rss_gb", "commands", "config_fingerprint", "out", "times_real_time"}


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_clocks(inner) for key, inner in value.items() if key not in CLOCKS}
    return [without_clocks(inner) for inner in value] if isinstance(value, list) else value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("straight", type=Path, help="folder of an uninterrupted run")
    parser.add_argument("killed", type=Path, help="folder of the run to kill; must not exist")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="*", help="options of twist quickstart, the same as of the straight run's")
    args = parser.parse_args()
    if args.killed.exists():
        parser.error(f"{args.killed} exists")
    straight = json.loads((args.straight / "results.json").read_text())
    rng, total = random.Random(args.seed), straight["seconds"]["total"]
    command = [str(Path(sys.executable).with_name("twist")), "quickstart", "--out", str(args.killed)]
    for _ in range(3):
        wait = rng.uniform(0.1, 0.4) * total  # three of these seldom outlast the job
        process = subprocess.Popen([*command, *args.options], stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            process.wait(wait)
            print("the job ended before it could be killed")
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            print(f"killed after {wait:.0f} s", flush=True)
        time.sleep(1)
    subprocess.run([*command, *args.options], check=True, stdout=subprocess.DEVNULL)
    killed = json.loads((args.killed / "results.json").read_text())
    same = without_clocks(killed) == without_clocks(straight)
    print("the same numbers" if same else "OTHER NUMBERS")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
