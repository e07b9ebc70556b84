"""How fast batches are made against how fast training takes them, and what opening 10 billion units costs.

    python benchmarks/data_path.py

The corpus of 10 billion units is the flat cache of one: 27.6 million documents of 20 to 704 units, its units and runs
files of nothing but holes, so no disk is measured (a training that takes a million tokens a second reads 2 MB of it).
It is opened in a process of its own, whose memory is counted above what imports take; then all documents are laid into
rows and batches are made of it. Training is that of `train_throughput.py`, SmolLM2-135M's shape, compiled, on as many
threads as torch takes. Seconds are the clock's. Exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from train_throughput import CPU, LONGEST, SHORTEST, SPEC, Ours, random_clips

from twistlm.corpus.opened import open_corpus
from twistlm.corpus.shards import Row, ShardWriter
from twistlm.recipes import twist_125m
from twistlm.train.compile import compiled_layers
from twistlm.types import Units

GROUP = 1_000_000  # documents of a row group
ROWS, BATCHES = 4, 500
TIMES, SECONDS, MEGABYTES = 50, 2.0, 200.0  # the bars
OPEN = """
import json, re, sys, time
from pathlib import Path
from twistlm.corpus.opened import open_corpus
from twistlm.corpus.stream import PackedStream
from twistlm.lm.vocab import Vocab

def memory(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e3

folder, rows, context, batches = sys.argv[1], *map(int, sys.argv[2:])
before, begun, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
corpus = open_corpus(folder, split="train")
read = sum(int(corpus.unit_ids(i).sum()) for i in range(0, len(corpus), len(corpus) // 10))
found = {"documents": len(corpus), "seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu}
found["megabytes"] = memory("VmHWM") - before
if batches:
    begun = time.perf_counter()
    stream = PackedStream(corpus, Vocab(corpus.spec.n_units), rows=rows, context=context, seed=0)
    stream.batch(0)
    found["layout_seconds"], begun = time.perf_counter() - begun, time.perf_counter()
    tokens = sum(stream.batch(update).n_targets for update in range(1, batches + 1))
    found["loader"], found["layout_megabytes"] = tokens / (time.perf_counter() - begun), memory("VmHWM") - before
print(json.dumps(found))
"""


def make_large(folder: Path, units: float) -> None:
    """Write one small shard, open it, and put a flat cache of about `units` units in the place of its own."""
    small = Units(np.zeros(1, np.uint16), np.ones(1, np.int32), SPEC, "0")
    with ShardWriter(folder, SPEC) as writer:
        writer.add(Row(units=small, seconds=0.04))
    open_corpus(folder, split=None)
    cache = next((folder / ".cache").glob("*/units")).parent
    documents = round(2 * units / (SHORTEST + LONGEST))
    lengths = np.random.default_rng(0).integers(SHORTEST, LONGEST + 1, size=documents)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    np.save(cache / "offsets.npy", offsets)
    for name, size in (("units", 2), ("runs", 4)):
        with (cache / name).open("wb") as file:
            file.truncate(int(offsets[-1]) * size)
    group = pa.table({"id": pa.array(np.arange(GROUP)).cast(pa.string()), "split": pa.array(["train"] * GROUP)})
    with pq.ParquetWriter(cache / "facts.parquet", group.schema) as out:
        for first in range(0, documents, GROUP):
            out.write_table(group.slice(0, min(GROUP, documents - first)))


def opened(folder: str, *, batches: int) -> dict[str, float]:
    """Return what a fresh process measures of the corpus in `folder`, and of so many batches of it."""
    command = [sys.executable, "-c", OPEN, folder, *map(str, (ROWS, LONGEST + 1, batches))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def training() -> tuple[float, str]:
    """Return tokens a second of the best of two updates, compiled, and in which precision."""
    config = dataclasses.replace(twist_125m().warm, batch_rows=ROWS, context=LONGEST + 1)
    ours = Ours("smollm2-135m", random_clips(400), config, time.perf_counter)
    with compiled_layers(ours.lm, enabled=True, context=config.context):
        ours.updates(1)
        return max(ours.updates(1)[0] for _ in range(2)), ours.precision


def main() -> int:
    """Print a line for the large corpus and one for the loader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=float, default=10e9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_large(Path(folder), given.units)
        found = [opened(folder, batches=0) for _ in range(2)]
        large = opened(folder, batches=BATCHES)
    seconds, cpu, memory = (min(each[name] for each in [*found, large]) for name in ("seconds", "cpu", "megabytes"))
    print(
        f"{given.units:.0e} units, {large['documents']} documents: opened in {seconds:.2f} s ({cpu:.2f} s of the CPU), "
        f"{memory:.0f} MB; all laid into rows in {large['layout_seconds']:.1f} s, "
        f"{large['layout_megabytes'] / 1e3:.1f} GB at most",
        flush=True,
    )
    taken, precision = training()
    print(
        f"loader {large['loader']:.0f} tokens a second, on one thread; training ({precision} on {CPU}, compiled, "
        f"{torch.get_num_threads()} threads) {taken:.0f}: {large['loader'] / taken:.0f} times"
    )
    return int(large["loader"] < TIMES * taken or seconds > SECONDS or memory > MEGABYTES)


if __name__ == "__main__":
    sys.exit(main())
