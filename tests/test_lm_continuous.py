"""Continuous batching: sequences that join and leave give the units of `generate` alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import BloomConfig, MistralConfig

from test_lm_model import KINDS, make_spec, make_text_lm, random_lm
from test_lm_sample import draft_with
from twistlm.errors import BadInput
from twistlm.lm.continuation import begin
from twistlm.lm.continuous import Batch, Row
from twistlm.lm.drafting import Drafter
from twistlm.lm.model import UnitLM
from twistlm.lm.sample import generate
from twistlm.lm.warmstart import warm_start
from twistlm.types import Units

SIZES = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def build(kind: str, folder: Path) -> UnitLM:
    if kind in KINDS:
        return warm_start(make_text_lm(folder / "text", kind), make_spec(), rows="mean", seed=0)
    config = {  # neither shares a cache among rows: one counts positions from its mask, one forgets
        "bloom": lambda: BloomConfig(vocab_size=32, hidden_size=32, n_layer=2, n_head=4),
        "window": lambda: MistralConfig(
            **SIZES, num_key_value_heads=2, head_dim=8, intermediate_size=48, sliding_window=6
        ),
    }[kind]()
    return random_lm(config)


def mix(lm: UnitLM, rng: np.random.Generator, *, drafts: float | None) -> None:
    """Let a random crowd come and go, and hold each against itself alone."""
    batch = Batch(lm, rows=int(rng.integers(1, 6)))
    if drafts is not None:
        with pytest.MonkeyPatch.context() as patched:
            draft_with(patched, drafts)
            made = Drafter(lm, laid_out=False)
        batch._drafters = [made if rng.random() < 0.7 else None for _ in range(batch.size)]
    todo = []
    for _ in range(int(rng.integers(2, 9))):
        ids = rng.integers(0, 30, size=int(rng.integers(0, 25)))
        ids = ids[np.flatnonzero(np.diff(ids, prepend=-1))].astype(np.uint16)
        options = {
            "temperature": float(rng.choice([0.0, 0.7, 1.0, 4.0])),
            "top_k": None if rng.random() < 0.5 else int(rng.integers(1, 20)),
            "seed": int(rng.integers(1000)),
            "max_units": int(rng.integers(1, 35)),
            "stop_at_end": bool(rng.random() < 0.3),
        }
        todo.append((Units(ids, np.ones(len(ids), np.int32), lm.spec), options))
    waiting, running, left = list(todo), {}, set()
    pieces: dict[Row, list[int]] = {}
    with batch.computing():
        while waiting or running:
            while waiting and len(batch) < batch.size and rng.random() < 0.6:
                units, options = waiting.pop()
                row = batch.join(begin(lm, units, **options))
                running[row], pieces[row] = (units, options), []
            for row, new in batch.step().items():
                pieces[row] += new
            for row in list(running):
                if not row.done and rng.random() < 0.01:
                    batch.leave(row)
                    left.add(row)
                if row.done:
                    units, options = running.pop(row)
                    alone = generate(lm, units, **options).ids[len(units) :].tolist()
                    found = [token - lm.vocab.offset for token in pieces[row]]
                    assert found == [t - lm.vocab.offset for t in row.new]
                    assert found == (alone[: len(found)] if row in left else alone), options
    assert len(batch) == 0


@pytest.mark.parametrize(
    "kind",
    [
        "llama",
        pytest.param("window", marks=pytest.mark.thorough),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in (*KINDS[1:], "bloom")),
    ],
)
def test_each_is_what_it_is_alone(kind: str, tmp_path: Path) -> None:
    lm = build(kind, tmp_path)
    for i in range(4 if kind in KINDS else 2):
        mix(lm, np.random.default_rng(i), drafts=[None, 0.0, 0.05, 3.0][i % 4] if kind in KINDS else None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_mixes(kind: str, tmp_path: Path) -> None:
    lm = build(kind, tmp_path)
    for i in range(200):
        mix(lm, np.random.default_rng([7, i]), drafts=[None, 0.0, 0.05, 3.0][i % 4])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_may_be_of_either_kind(attention: str, tmp_path: Path) -> None:
    lm = build("llama", tmp_path)
    lm.model.set_attn_implementation(attention)
    mix(lm, np.random.default_rng(3), drafts=0.05)


def test_a_full_batch_says_so(tmp_path: Path) -> None:
    lm = build("llama", tmp_path)
    batch = Batch(lm, rows=1)
    asked = begin(lm, None, temperature=1.0, seed=0, max_units=3)
    row = batch.join(asked)
    with pytest.raises(BadInput, match="all 1 rows"):
        batch.join(asked)
    batch.leave(row)
    assert row.done and len(batch) == 0
    row = batch.join(asked)
    batch.clear()
    assert row.done and len(batch) == 0
    with pytest.raises(BadInput, match="use 1 or more"):
        Batch(lm, rows=0)
