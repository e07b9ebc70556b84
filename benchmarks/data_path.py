"""How fast batches are made against how fast training takes them, and what opening 10 billion units costs.

The corpus of 10 billion units is the flat cache of one: 27.6 million documents, its units and runs files of nothing but
holes. It is opened in a process of its own, whose memory is counted above what imports take.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from train_throughput import CPU, LONGEST, SPEC, Ours, random_clips

from twistlm.corpus.shards import Row, ShardWriter, open_corpus
from twistlm.recipes import twist_125m
from twistlm.train.compile import compiled_layers
from twistlm.types import Units

LENGTH, GROUP = 362, 1_000_000  # units of a document, documents of a row group
OPEN = """
import re, sys, time
from pathlib import Path
from twistlm.corpus.shards import open_corpus

def memory(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e3

before, begun, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
corpus = open_corpus(sys.argv[1], split="train")
read = sum(int(corpus.unit_ids(i).sum()) for i in range(0, len(corpus), len(corpus) // 10))
print(len(corpus), time.perf_counter() - begun, time.process_time() - cpu, memory("VmHWM") - before)
"""


def make_large(folder: Path, units: float) -> None:
    """Write one small shard, open it, and put a flat cache of `units` units in the place of its own."""
    small = Units(np.zeros(1, np.uint16), np.ones(1, np.int32), SPEC, "0")
    with ShardWriter(folder, SPEC) as writer:
        writer.add(Row(units=small, seconds=0.04))
    open_corpus(folder, split=None)
    cache = next((folder / ".cache").glob("*/units")).parent
    documents = round(units / LENGTH)
    for name, size in (("units", 2), ("runs", 4)):
        with (cache / name).open("wb") as file:
            file.truncate(documents * LENGTH * size)
    np.save(cache / "offsets.npy", np.arange(documents + 1, dtype=np.int64) * LENGTH)
    group = pa.table({"id": pa.array(np.arange(GROUP)).cast(pa.string()), "split": pa.array(["train"] * GROUP)})
    with pq.ParquetWriter(cache / "facts.parquet", group.schema) as out:
        for first in range(0, documents, GROUP):
            out.write_table(group.slice(0, min(GROUP, documents - first)))


def main() -> None:
    """Print a line for the loader and one for the large corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=float, default=10e9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_large(Path(folder), given.units)
        command = [sys.executable, "-c", OPEN, folder]
        found = [subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in range(3)]
        seconds, cpu, memory = (min(float(line[column]) for line in found) for column in (1, 2, 3))
        print(
            f"{given.units:.0e} units, {found[0][0]} documents: opened in {seconds:.2f} s ({cpu:.2f} s of the CPU), "
            f"{memory:.0f} MB"
        )
    config = dataclasses.replace(twist_125m().warm, batch_rows=4, context=LONGEST + 1)
    ours = Ours("smollm2-135m", random_clips(400), config, time.process_time)
    begun = time.process_time()
    tokens = sum(ours.stream.batch(update).n_targets for update in range(200))
    loader = tokens / (time.process_time() - begun)
    with compiled_layers(ours.lm, enabled=True):
        ours.updates(1)
        training = ours.updates(1)[0]
    print(
        f"loader {loader:.0f} tokens a second of the CPU, training ({ours.precision} on {CPU}, compiled) "
        f"{training:.0f}: {loader / training:.0f} times"
    )


if __name__ == "__main__":
    main()
