"""Fail every write of twistlm's verbs in turn, and see what it says and what it leaves.

    cd tests && python -m faults OUT                                            # everything, every call: hours
    cd tests && python -m faults OUT --only train eval --modes EIO KILL --most 40
    cd tests && python -m faults OUT --only vocoder hubert --kills 10 --two 3

For each scenario: a run without faults, twice, which must agree; then for N = 1, 2, 3, … a run from the same state
whose N-th call that changes a file below its folder fails (see `runs.MODES`), and a rerun without faults. A run breaks
a promise when

    silent     it ended with exit code 0 and other results than a run without faults
    traceback  it showed a traceback, or called the fault its own ("This should not happen")
    unclear    its error is not one paragraph that begins with "error:"
    cause      the error names neither the disk nor the system's reason
    code       it ended with another exit code than 1 or 2
    hang       it did not end in time
    rerun      the same command, without faults, failed
    differs    the same command, without faults, ended well with other results
    leftovers  after the rerun a temporary file is left

With --kills and --two no call fails: a run is ended by SIGKILL at a random moment, or two runs begin at once in one
folder (either may refuse with a clear error); a run alone follows, and its results are compared.

Each run is a fork of one process that has imported everything, so it takes a fraction of a second. OUT gets
SCENARIO.jsonl, a line for each run; what stands there is not tried again. Exit code 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from pathlib import Path

from faults.driver import fail_each, kill_at_random, prepare, read_lines, two_at_once
from faults.figures import table
from faults.library import build
from faults.runs import MODES, MORE_MODES
from faults.scenarios import SCENARIOS, preload


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", default=list(SCENARIOS), choices=list(SCENARIOS))
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=[*MODES, *MORE_MODES])
    parser.add_argument("--most", type=int, default=0, help="calls of a scenario and mode at most; 0: all")
    parser.add_argument("--kills", type=int, default=0, help="kill so many runs at random moments instead")
    parser.add_argument("--two", type=int, default=0, help="begin two runs at once, so many times")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault("TWISTLM_CHOICES", "products=onednn,drafts=int8")  # else each run would try what is fast here
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    library = build(out)
    preload(torch=args.only != ["open-flat"])  # which needs none of it
    for name in args.only:
        place = out / f"{name}.jsonl"
        done = read_lines(place)
        bench = prepare(library, SCENARIOS[name], out)
        if args.kills or args.two:
            made = itertools.chain(
                kill_at_random(bench, kills=args.kills, seed=args.seed), two_at_once(bench, times=args.two)
            )
        else:
            made = itertools.chain.from_iterable(
                fail_each(bench, mode, most=args.most, done=[line["n"] for line in done if line["mode"] == mode])
                for mode in args.modes
            )
        with place.open("a") as lines:
            for line in made:
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                if line["broken"]:
                    print(name, line["mode"], line["n"], line["what"], *line["broken"], flush=True)
    tried = {name: read_lines(out / f"{name}.jsonl") for name in SCENARIOS if (out / f"{name}.jsonl").exists()}
    print(table(tried))
    return int(any(line["broken"] for lines in tried.values() for line in lines))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # Arrow's threads, which were forked around, have once aborted an orderly end
