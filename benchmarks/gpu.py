"""One GPU in a few minutes: training, tokenizing, sampling and speaking, each against a reference in the same run.

Each line is JSON: what was measured, its reference, its bar where the project states one. Parts run in the order of
PARTS until `--minutes` are over; what was not reached is said. Without a GPU nothing is measured; `--small` rehearses
every part on the CPU at sizes that mean nothing. MFU: 6 operations a parameter outside the tables and a token, and the
causal half of attention inside documents, over this card's own rate of a bf16 product of 8192 x 8192.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_training import attend, train
from gpu_units import sample, speak, tokenize

PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "train opt-125m 705": partial(train, "opt-125m", 705, trainer=True),
    "tokenize": tokenize,
    "attention": attend,
    "sample 135M": sample,
    "train smollm2-135m 512, 102 tokens": partial(train, "smollm2-135m", 512, n_units=100),
    "train opt-350m 705": partial(train, "opt-350m", 705),
    "vocoder": speak,
    "train opt-1.3b 1024": partial(train, "opt-1.3b", 1024),
    "train opt-125m 705, deterministic": partial(train, "opt-125m", 705, fixed=True),
    "train opt-1.3b 705": partial(train, "opt-1.3b", 705),
    "train opt-350m 1024": partial(train, "opt-350m", 1024),
    "train opt-125m 1024": partial(train, "opt-125m", 1024),
}


def main() -> None:
    """Run the parts; print a line for each, and write all to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="rehearse on the CPU; the numbers mean nothing")
    parser.add_argument("--minutes", type=float, default=7.0, help="no part begins later")
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--out", type=Path, help="JSON lines")
    given = parser.parse_args()
    if not torch.cuda.is_available() and not given.small:
        print("no GPU here: nothing is measured (--small rehearses the parts on the CPU)")
        return
    begun, failed = time.perf_counter(), 0
    for name in given.only:
        if time.perf_counter() - begun > 60 * given.minutes:
            line: dict[str, Any] = {"part": name, "skipped": f"{given.minutes:g} minutes were over"}
        else:
            started = time.perf_counter()
            try:
                line = {"part": name, **PARTS[name](small=given.small)}
            except Exception as error:  # noqa: BLE001  # a part that fails must not cost the others their minutes
                traceback.print_exc()
                line, failed = {"part": name, "failed": f"{type(error).__name__}: {error}"[:500]}, failed + 1
            line["took"] = time.perf_counter() - started
        line["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        print(json.dumps(line), flush=True)
        if given.out:
            with given.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    sys.exit(min(1, failed))


if __name__ == "__main__":
    main()
