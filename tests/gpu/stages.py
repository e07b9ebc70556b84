"""Every stage of the product on the GPU of `fake`: prints, as JSON, what each did. Run by tests/test_gpu_simulated.py.

python stages.py NAME …        (all: --all; what there is: --list)
"""

from __future__ import annotations

import fake  # noqa: F401  # isort: skip  # before torch
import dataclasses
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from watch import Watch, move, pretend, simulated

from test_lm_families import FAMILIES
from twistlm import recipes
from twistlm.corpus.stream import PackedStream
from twistlm.lm.model import UnitLM
from twistlm.lm.score import score
from twistlm.lm.warmstart import cold_start
from twistlm.train.activations import checkpointed_activations
from twistlm.train.optim import adamw
from twistlm.train.step import take_step
from twistlm.units.tokenizer import read_spec

SPEC = read_spec("mini-25hz-500")
HEAVY = {"opt-350m": 2, "opt-1.3b": 2, "llama-7b": 2, "smollm2-135m": 2}  # true widths, so many layers
TRAINED = [*FAMILIES, *HEAVY]
SPOKEN = ["opt-350m", "smollm2-135m", "bloom", "gemma3", "qwen2.5"]


class Documents:
    """Stands in for a corpus."""

    lengths = np.random.default_rng(0).integers(15, 45, 400)

    def unit_ids(self, index: int) -> Any:
        return (np.arange(self.lengths[index]) * 7 % 500).astype(np.uint16)


def make(name: str) -> UnitLM:
    """A unit LM of this family on the GPU."""
    if name in HEAVY:
        lm = cold_start(name, SPEC, seed=0, layers=HEAVY[name])
    else:
        folder = Path(tempfile.mkdtemp()) / name.replace(".", "-")
        FAMILIES[name]().save_pretrained(folder)
        lm = cold_start(folder, SPEC, seed=0)
    move(lm.model)
    return lm


def train(name: str, watch: Watch, *, precision: Any = "bf16", again: bool = False, accumulate: int = 1) -> None:
    config = dataclasses.replace(
        recipes.twist_350m().warm, batch_rows=4, accumulate=accumulate, context=48, checkpoint_activations=again
    )
    lm = make(name)
    optimizer = adamw(lm.model, config)
    stream = PackedStream(Documents(), lm.vocab, rows=4, context=48, seed=0)
    watch.clear()
    with checkpointed_activations(lm, enabled=again):
        take_step(lm, optimizer, stream.batch(0), config, update=0, precision=precision)


def score_(name: str, watch: Watch) -> None:
    lm = make(name)
    watch.clear()
    score(lm, [np.arange(40 - i) % 500 for i in range(6)], include_end=True)


STAGES: dict[str, Callable[[Watch], None]] = {
    **{f"train {name}": partial(train, name) for name in TRAINED},
    "train in float32": partial(train, "opt-350m", precision="float32"),
    "train, activations again": partial(train, "smollm2-135m", again=True),
    "train in parts": partial(train, "smollm2-135m", accumulate=2),
    **{f"score {name}": partial(score_, name) for name in SPOKEN},
}  # fmt: skip


def run(name: str) -> dict[str, Any]:
    """Return what a stage did, or why it failed."""
    with simulated() as watch:
        try:
            STAGES[name](watch)
            failed = ""
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the finding
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f for f in frames if "/twistlm/" in f.filename or "/transformers/" in f.filename]
            places = [f"{Path(f.filename).name}:{f.lineno}" for f in ours]
            failed = f"{type(error).__name__}: {str(error)[:300]} at {places[-3:]}"
    return {"failed": failed, "kernels": sum(watch.kernels.values()), "waits": watch.waits, "unpinned": watch.unpinned}


if __name__ == "__main__":
    if "--list" in sys.argv:
        print("\n".join(STAGES))
    else:
        pretend()
        names = list(STAGES) if "--all" in sys.argv else sys.argv[1:]
        print(json.dumps({name: run(name) for name in names}))
