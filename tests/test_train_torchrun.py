"""`twist train` as torchrun starts it, on one machine, compiled too, and on two that meet: against one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from standins import make_text_lm
from test_train_loop import SPEC
from test_train_parallel import assert_close_run, free_port
from twistlm.corpus.shards import Row, ShardWriter
from twistlm.types import Units

SETTINGS = ("updates=6", "batch_rows=4", "accumulate=2", "context=32", "eval_every=3", "precision=float32", "lr=0.01")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("torchrun")
    make_text_lm(root / "text_lm")
    rng = np.random.default_rng(0)
    with ShardWriter(root / "units", SPEC) as writer:
        for i in range(40):
            ids = rng.integers(0, SPEC.n_units, rng.integers(5, 60)).astype(np.uint16)
            units = Units(ids, np.ones(len(ids), np.int32), SPEC, f"d{i}")
            writer.add(Row(units=units, seconds=len(ids) * 0.04, split="train" if i < 32 else "heldout"))
    return root


def start(root: Path, out: str, *launcher: str, compiled: bool = False) -> subprocess.Popen[str]:
    """`launcher -m twistlm train …`, as in docs/training.md."""
    command = [sys.executable, *launcher, "-m", "twistlm", "train", root / "units", "--text-lm", root / "text_lm"]
    command += [
        "--out",
        root / out,
        *(f"--set={setting}" for setting in (*SETTINGS, f"compile={str(compiled).lower()}")),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*processes: subprocess.Popen[str]) -> None:
    said = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)


@pytest.mark.slow
def test_two_ranks_and_two_nodes_train_as_one_process(root: Path) -> None:
    finish(start(root, "alone"))
    two = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
    finish(start(root, "ranks", *two))
    finish(start(root, "compiled", *two, compiled=True))
    meet = ("--rdzv-backend", "c10d", "--rdzv-id", "run1", "--rdzv-endpoint", f"localhost:{free_port()}")
    node = ("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *meet)
    finish(start(root, "nodes", *node), start(root, "nodes", *node))
    for out in ("ranks", "compiled", "nodes"):
        assert_close_run(root / "alone", root / out)
