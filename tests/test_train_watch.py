"""What stops a run, what it keeps then, and activations computed again."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from test_train_loop import CONFIG, assert_same_run, corpus, losses, tiny_lm, with_
from twistlm.corpus.stream import PackedStream
from twistlm.errors import BadInput, TrainingError
from twistlm.files.metrics import read_history
from twistlm.train import watch
from twistlm.train.activations import checkpointed_activations
from twistlm.train.loop import train
from twistlm.train.step import mean_nll
from twistlm.train.watch import WINDOW, loss_limit


@settings(max_examples=30)
@given(st.lists(st.floats(0, 10), max_size=3 * WINDOW), st.floats(0, 5))
def test_the_limit_needs_a_window_and_follows_its_middle(values: list[float], rise: float) -> None:
    history = [{"update": 0}, *({"update": i + 1, "loss": value} for i, value in enumerate(values))]
    limit = loss_limit(history, with_(max_loss_rise=rise))
    if rise == 0 or len(values) < WINDOW:
        assert limit == math.inf
    else:
        last = sorted(values[-WINDOW:])
        assert last[WINDOW // 2 - 1] + rise <= limit * (1 + 1e-12) and limit <= (last[WINDOW // 2] + rise) * (1 + 1e-12)


def test_pieces_name_what_is_in_the_batch() -> None:
    documents, lm = corpus(), tiny_lm()
    stream = PackedStream(documents, lm.vocab, rows=2, context=24, seed=5)
    for update in range(2 * math.ceil(stream.updates_per_epoch)):
        batch = stream.batch(update)
        for b, row in enumerate(stream.pieces(update)):
            told = [lm.vocab.encode(documents.unit_ids(d))[start : start + n].tolist() for d, start, n in row]
            seen = [batch.tokens[b][batch.segments[b] == s + 1].tolist() for s in range(batch.segments[b].max())]
            assert told == seen


def test_a_loss_that_rises_stops_before_the_update_and_can_go_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(watch, "WINDOW", 6)
    config = with_(updates=16, clip_norm=1000.0, lr=0.5, warmup=12)  # far too high, late: the loss rises
    straight = losses(train(tiny_lm(), corpus(), config, tmp_path / "straight").history)
    # A limit that this run itself passes at some update.
    rises = {i + 1: straight[i] - sorted(straight[i - 6 : i])[2] for i in range(6, 16)}
    spike = max(rises, key=lambda update: rises[update])
    limited = dataclasses.replace(config, max_loss_rise=rises[spike] / 2)
    with pytest.raises(TrainingError, match=r"max_loss_rise.*bad_batch\.json; the state before it is saved"):
        train(tiny_lm(), corpus(), limited, tmp_path / "spiked")
    kept = json.loads((tmp_path / "spiked" / "bad_batch.json").read_text())
    stream = PackedStream(corpus(), tiny_lm().vocab, rows=2, context=24, seed=CONFIG.seed)
    ids = [[corpus().ids[d] for d, _, _ in row] for row in stream.pieces(kept["batch"])]
    assert [[piece["id"] for piece in row] for row in kept["rows"]] == ids
    stopped = read_history(tmp_path / "spiked" / "metrics.jsonl")
    assert kept["batch"] == stopped[-1]["update"] and losses(stopped) == straight[: kept["batch"]]
    with pytest.raises(TrainingError, match="max_loss_rise"):  # the same settings meet the same batch
        train(tiny_lm(), corpus(), limited, tmp_path / "spiked")
    train(tiny_lm(), corpus(), config, tmp_path / "spiked")
    assert_same_run(tmp_path / "straight", tmp_path / "spiked")


def test_a_run_that_goes_on_names_the_batch_it_took(tmp_path: Path) -> None:
    lm = tiny_lm()
    with torch.no_grad():
        lm.model.model.norm.weight[0] = torch.inf
    with pytest.raises(TrainingError, match="not finite"):
        train(lm, corpus(), with_(updates=2), tmp_path / "run", first_batch=4)
    kept = json.loads((tmp_path / "run" / "bad_batch.json").read_text())
    stream = PackedStream(corpus(), lm.vocab, rows=2, context=24, seed=CONFIG.seed)
    assert kept["batch"] == 4 and kept["tokens"] == stream.batch(4).tokens.tolist() != stream.batch(0).tokens.tolist()


def test_activations_computed_again_change_memory_and_nothing_else(tmp_path: Path) -> None:
    runs = [
        train(tiny_lm(dropout=0.3), corpus(), with_(updates=4, checkpoint_activations=again), tmp_path / str(again))
        for again in (False, True)
    ]
    assert losses(runs[0].history) == losses(runs[1].history)
    assert_same_run(tmp_path / "False", tmp_path / "True")
    kept = []
    for again in (False, True):
        lm = tiny_lm()
        batch = PackedStream(corpus(), lm.vocab, rows=2, context=24, seed=5).batch(0)
        lm.model.train()
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with checkpointed_activations(lm, enabled=again), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            mean_nll(lm, batch)
        kept.append(sum(sizes.values()))
        assert not any(getattr(module, "gradient_checkpointing", False) for module in lm.model.modules())
    assert kept[1] < 0.6 * kept[0]


def test_a_model_that_cannot_compute_again_is_refused(monkeypatch) -> None:
    lm = tiny_lm()
    monkeypatch.setattr(type(lm.model), "supports_gradient_checkpointing", False)
    refused = pytest.raises(BadInput, match=r"LlamaForCausalLM.*checkpoint_activations=false")
    with refused, checkpointed_activations(lm, enabled=True):
        raise AssertionError("not refused")
