"""Memory: what `twist train --plan` says against what training then takes.

    python benchmarks/plan_memory.py

A small OPT (four layers, in two parts) and SmolLM2-135M's shape, in float32 and bf16, alone and on two ranks (gloo), of
which the larger counts; and OPT on four ranks that have little to compute, whose most is the whole model at either end.
Measured is the most a process has from loading the model to saving it, two updates long (VmHWM of Linux), above what it
had before; prints one line a case, and exits 1 when a plan is off by more than 15 %.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import multiprocessing
import os
import re
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor  # noqa: F401  loaded before forking: it is no part of a run's memory
from transformers import LlamaConfig

from twistlm.config import TrainConfig
from twistlm.corpus.opened import UnitCorpus
from twistlm.lm.warmstart import cold_start
from twistlm.train.loop import train
from twistlm.train.plan import count_update
from twistlm.types import Units, UnitSpec

SPEC = UnitSpec(
    encoder="random", encoder_sha256="0", layer=1, tap="block_output", normalize_input=True, sample_rate=16_000,
    hop=640, n_units=500, centroids_sha256="0", deduplicate=False,
)  # fmt: skip
CONFIG = TrainConfig(
    updates=2, batch_rows=4, accumulate=2, context=256, lr=1e-4, table_rate=1.0, lr_floor=0.0,
    schedule="inverse_sqrt", warmup=1,
    weight_decay=0.01, betas=(0.9, 0.98), clip_norm=1.0, max_loss_rise=0.0, checkpoint_activations=False,
    precision="float32", compile=False, eval_every=0, checkpoint_every=0, seed=0,
)  # fmt: skip
BAR = 0.15


def smollm2(folder: Path) -> str:
    """Write the shape of SmolLM2-135M, which needs no weights to be planned or begun cold."""
    config = LlamaConfig(
        vocab_size=502, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    return str(folder)


def status(name: str) -> int:
    """Bytes of a line of this process's status."""
    found = re.search(name + r":\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def run(shape: str, layers: int | None, config: TrainConfig, out: Path) -> None:
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, SPEC.n_units, config.context - 1).astype(np.uint16) for _ in range(16)]
    corpus = UnitCorpus.from_units([Units(u, np.ones(len(u), np.int32), SPEC, f"d{i}") for i, u in enumerate(ids)])
    train(cold_start(shape, SPEC, seed=0, layers=layers), corpus, config, out)


def measure(shape: str, layers: int | None, config: TrainConfig, rank: dict[str, str], out: Path, answer: Any) -> None:
    """Send the most bytes that `run` takes after a run of one layer: what libraries keep once used is theirs."""
    torch.set_num_threads(1)
    os.environ.update(rank)
    run("opt-125m", 1, config, out / "first")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free here would be used again, and not be counted
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = status("VmRSS")
    run(shape, layers, config, out / "second")
    answer.send(status("VmHWM") - before)


def measured(shape: str, layers: int | None, config: TrainConfig, ranks: int) -> int:
    """Return the largest rank's bytes, each in a forked process of its own."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as probe, tempfile.TemporaryDirectory() as out:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        pipes = []
        for rank in range(ranks):
            here, there = context.Pipe(duplex=False)
            which = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            context.Process(target=measure, args=(shape, layers, config, which, Path(out), there)).start()
            there.close()
            pipes.append(here)
        return max(pipe.recv() for pipe in pipes)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        smol = smollm2(Path(folder))
        half = {"precision": "bf16"}
        cases: list[tuple[str, str, int | None, dict[str, Any], int]] = [
            ("OPT, 4 layers", "opt-125m", 4, {}, 1),
            ("OPT, 4 layers", "opt-125m", 4, half, 1),
            ("OPT, 4 layers", "opt-125m", 4, {}, 2),
            ("OPT, 4 layers", "opt-125m", 4, half, 2),
            ("OPT, 12 layers", "opt-125m", 12, {"accumulate": 1, "context": 16}, 4),
            ("SmolLM2-135M", smol, None, {"batch_rows": 2}, 1),
            ("SmolLM2-135M", smol, None, {"batch_rows": 2} | half, 1),
            ("SmolLM2-135M", smol, None, {"batch_rows": 2}, 2),
            ("SmolLM2-135M", smol, None, {"batch_rows": 2} | half, 2),
        ]
        worst = 0.0
        for name, shape, layers, changes, ranks in cases:
            config = dataclasses.replace(CONFIG, **changes)
            taken = measured(shape, layers, config, ranks)
            once = count_update(shape, SPEC, config, precision=config.precision, layers=layers, ranks=ranks)
            planned = once.resident(torch.device("cpu"))
            worst = max(worst, abs(planned / taken - 1))
            print(
                f"{name:14} {config.precision:8} {ranks} rank(s): planned {planned / 1e6:6.0f} MB, measured "
                f"{taken / 1e6:6.0f} MB, ratio {planned / taken:.3f}",
                flush=True,
            )
    print(f"off by at most {worst:.1%}; bar {BAR:.0%}")
    return int(worst > BAR)


if __name__ == "__main__":
    sys.exit(main())
