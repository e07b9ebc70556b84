"""How long `import twistlm` and `twist --help` take, against a Python that does nothing."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

REPEATS = 7
COMMANDS = {
    "python -c pass": "pass",
    "import twistlm": "import twistlm",
    "twist --help": "import sys; sys.argv = ['twist', '--help']; from twistlm.cli.main import main; main()",
}


def seconds(code: str) -> float:
    """Return the median wall time of a fresh Python that runs `code`."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    """Print one line for each command."""
    taken = {name: seconds(code) for name, code in COMMANDS.items()}
    base = taken["python -c pass"]
    for name, value in taken.items():
        print(f"{name:16} {value:6.3f} s   {value / base:5.1f} x python -c pass   (median of {REPEATS})")


if __name__ == "__main__":
    main()
