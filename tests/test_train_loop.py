from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from forking import fork
from twistlm.config import TrainConfig
from twistlm.corpus.opened import UnitCorpus
from twistlm.errors import BadInput, CheckpointError, Stopped, TrainingError, TwistError, UnitSpecMismatch
from twistlm.files.metrics import read_history
from twistlm.lm.model import UnitLM
from twistlm.lm.vocab import Vocab
from twistlm.train import checkpoint
from twistlm.train.loop import train
from twistlm.types import Units, UnitSpec

GOLDEN = Path(__file__).parent / "golden" / "train_loss_trace.json"
SPEC = UnitSpec(
    encoder="test", encoder_sha256="0", layer=1, tap="block_output", normalize_input=True, sample_rate=16_000, hop=640,
    n_units=20, centroids_sha256="0", deduplicate=False,
)  # fmt: skip
CONFIG = TrainConfig(
    updates=12, batch_rows=2, accumulate=1, context=24, lr=1e-2, table_rate=1.0, lr_floor=1e-3,
    schedule="inverse_sqrt", warmup=3,
    weight_decay=0.01, betas=(0.9, 0.98), clip_norm=1.0, max_loss_rise=0.0, checkpoint_activations=False, compile=False,
    precision="float32", eval_every=4, checkpoint_every=0, seed=5,
)  # fmt: skip


def corpus(spec: UnitSpec = SPEC, *, n: int = 25, seed: int = 0) -> UnitCorpus:
    """Documents in memory: an epoch of CONFIG is about six updates, so stops fall inside the first and after it."""
    rng = np.random.default_rng(seed)
    # Each unit is followed by one of three: something to learn.
    steps = [np.cumsum(rng.integers(1, 4, size=rng.integers(3, 20))) % spec.n_units for _ in range(n)]
    runs = [np.ones(len(step), np.int32) for step in steps]
    units = [Units(s.astype(np.uint16), r, spec, f"d{i}") for i, (s, r) in enumerate(zip(steps, runs, strict=True))]
    return UnitCorpus.from_units(units)


def tiny_lm(seed: int = 0, *, dropout: float = 0.0, spec: UnitSpec = SPEC) -> UnitLM:
    """A two-layer Llama. Its weights come from numpy, whose normals are the same on every CPU."""
    vocab = Vocab(spec.n_units)
    config = LlamaConfig(
        vocab_size=vocab.size, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True, attention_dropout=dropout,
        pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(torch.from_numpy(rng.normal(0, 0.1, parameter.shape)))
    return UnitLM(model, vocab, spec, {"rows": "random"})


def with_(**changes: object) -> TrainConfig:
    return dataclasses.replace(CONFIG, **changes)


def losses(history: list[dict]) -> list[float]:
    return [row["loss"] for row in history if "loss" in row]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in UnitLM.load(path).model.named_parameters()}


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit: the weights, and every line of the metrics but its timings."""
    a, b = weights(one / "lm"), weights(other / "lm")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    timings = {"seconds", "eval_seconds"}
    rows = [
        [{k: v for k, v in r.items() if k not in timings} for r in read_history(p / "metrics.jsonl")]
        for p in (one, other)
    ]
    assert rows[0] == rows[1]


def sigterm_at(*stops: int) -> Callable[[UnitLM, int], dict[str, float]]:
    """An evaluation that sends this process SIGTERM when the model has had these updates."""

    def on_eval(lm: UnitLM, update: int) -> dict[str, float]:
        if update in stops:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"val_nll": next(lm.model.parameters()).double().sum().item()}

    return on_eval


def test_it_learns_and_says_how(tmp_path: Path) -> None:
    seen = []

    def on_eval(lm: UnitLM, update: int) -> dict[str, float]:
        seen.append((update, lm.model.training))
        return {"val_nll": 1.0}

    result = train(
        tiny_lm(), corpus(), with_(updates=30, eval_every=8, lr=2e-2, lr_floor=1e-2), tmp_path, on_eval=on_eval
    )
    assert seen == [(update, False) for update in (0, 8, 16, 24, 30)]
    assert [row["update"] for row in result.history] == list(range(31)) and result.updates == 30
    assert losses(result.history)[0] == pytest.approx(math.log(22), abs=0.4)
    assert losses(result.history)[-1] < 2.0 < losses(result.history)[0]
    assert result.history == read_history(tmp_path / "metrics.jsonl")
    assert result.tokens == sum(row["tokens"] for row in result.history[1:]) and result.tokens <= 30 * 2 * 24
    assert result.seconds == pytest.approx(sum(row["seconds"] for row in result.history[1:]))
    assert "loss" not in result.history[0] and {"val_nll", "eval_seconds"} <= result.history[8].keys()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "config.json", "metrics.jsonl", "lm", "result.json"}


def test_the_record_is_written_before_the_first_update(tmp_path: Path) -> None:
    def on_eval(lm: UnitLM, update: int) -> dict[str, float]:
        record = json.loads((tmp_path / "config.json").read_text())
        assert record["config"]["lr"] == CONFIG.lr and record["precision"] == "float32"
        assert record["inputs"]["unit_spec"] == SPEC.fingerprint and record["inputs"]["documents"] == 25
        assert record["versions"]["torch"] == metadata.version("torch") and record["hardware"]["threads"] >= 1
        raise BadInput("seen")

    with pytest.raises(BadInput, match="seen"):
        train(tiny_lm(), corpus(), CONFIG, tmp_path, on_eval=on_eval)


@pytest.mark.parametrize(("dropout", "accumulate"), [(0.0, 1), (0.3, 1), (0.3, 2)])
def test_stopped_twice_and_resumed_is_the_straight_run(tmp_path: Path, dropout: float, accumulate: int) -> None:
    config = with_(eval_every=1, accumulate=accumulate)
    train(tiny_lm(dropout=dropout), corpus(), config, tmp_path / "straight", on_eval=sigterm_at())
    for stop in (5, 7):
        with pytest.raises(Stopped, match=f"SIGTERM after update {stop} of 12.*same command again") as stopped:
            train(tiny_lm(dropout=dropout), corpus(), config, tmp_path / "stopped", on_eval=sigterm_at(stop))
        assert stopped.value.exit_code == 143
    train(tiny_lm(dropout=dropout), corpus(), config, tmp_path / "stopped", on_eval=sigterm_at())
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_dropout_is_real_and_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    lm = tiny_lm(dropout=0.3)
    before = torch.get_rng_state()
    with_dropout = train(lm, corpus(), CONFIG, tmp_path / "with")
    assert torch.equal(before, torch.get_rng_state())
    without = train(tiny_lm(), corpus(), CONFIG, tmp_path / "without")
    assert losses(with_dropout.history) != losses(without.history)


def test_updates_after_the_last_checkpoint_are_made_again(tmp_path: Path) -> None:
    def fail(lm: UnitLM, update: int) -> dict[str, float]:
        if update == 8:
            raise BadInput("a crash")
        return {}

    config = with_(checkpoint_every=3)
    train(tiny_lm(), corpus(), config, tmp_path / "straight", on_eval=lambda lm, update: {})
    with pytest.raises(BadInput, match="a crash"):
        train(tiny_lm(), corpus(), config, tmp_path / "crashed", on_eval=fail)
    assert read_history(tmp_path / "crashed" / "metrics.jsonl")[-1]["update"] == 7
    train(tiny_lm(), corpus(), config, tmp_path / "crashed", on_eval=lambda lm, update: {})
    assert_same_run(tmp_path / "straight", tmp_path / "crashed")


def test_a_finished_run_returns_at_once(tmp_path: Path) -> None:
    first = train(tiny_lm(), corpus(), CONFIG, tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    lm = tiny_lm()

    def never(lm: UnitLM, update: int) -> dict[str, float]:
        raise AssertionError("evaluated again")

    again = train(lm, corpus(), CONFIG, tmp_path, on_eval=never)
    assert again == first
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert all(torch.equal(a, b) for a, b in zip(again.lm.model.parameters(), first.lm.model.parameters(), strict=True))
    trained = first.lm.model.state_dict()  # which the model that was given has as well, as after a fresh training
    assert all(torch.equal(value, trained[name]) for name, value in lm.model.state_dict().items())
    assert not lm.model.training


def test_a_finished_run_whose_model_is_gone_says_so(tmp_path: Path) -> None:
    config = with_(updates=2)
    weights_before = weights(train(tiny_lm(), corpus(), config, tmp_path).lm_path)
    shutil.rmtree(tmp_path / "lm")
    with pytest.raises(CheckpointError, match=r"whose model is gone.*remove.*result\.json"):
        train(tiny_lm(), corpus(), config, tmp_path)
    (tmp_path / "result.json").unlink()
    again = weights(train(tiny_lm(), corpus(), config, tmp_path).lm_path)
    assert all(torch.equal(weights_before[name], again[name]) for name in again)


def test_the_same_seed_gives_both_models_the_same_batches(tmp_path: Path) -> None:
    tokens = [
        [row["tokens"] for row in train(tiny_lm(seed), corpus(), CONFIG, tmp_path / str(seed)).history[1:]]
        for seed in (0, 1)
    ]
    assert tokens[0] == tokens[1] and len(set(tokens[0])) > 1


def test_another_run_in_the_folder_is_refused_by_field(tmp_path: Path) -> None:
    train(tiny_lm(), corpus(), CONFIG, tmp_path)
    with pytest.raises(CheckpointError, match=r"lr was 0\.01 and is 0\.02"):
        train(tiny_lm(), corpus(), with_(lr=0.02), tmp_path)
    with pytest.raises(CheckpointError, match="documents was 25 and is 24") as other:
        train(tiny_lm(), corpus(n=24), CONFIG, tmp_path)
    assert "OMP_NUM_THREADS" not in str(other.value)
    with pytest.raises(CheckpointError, match="corpus was"):
        train(tiny_lm(), corpus(seed=1), CONFIG, tmp_path)
    with pytest.raises(CheckpointError, match=r"start_weights was .* another number of threads .OMP_NUM_THREADS"):
        train(tiny_lm(seed=1), corpus(), CONFIG, tmp_path)


def test_a_run_that_made_no_update_stands_in_nobody_s_way(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"context is 4096 tokens, and this model has positions for \d+: set context="):
        train(tiny_lm(), corpus(), dataclasses.replace(CONFIG, context=4096), tmp_path)
    assert not (tmp_path / "config.json").exists()

    def fails(lm: UnitLM, _: int) -> dict[str, float]:
        raise RuntimeError("no scores")

    with pytest.raises(RuntimeError, match="no scores"):
        train(tiny_lm(), corpus(), CONFIG, tmp_path, on_eval=fails)
    other = dataclasses.replace(CONFIG, lr=2e-3, updates=3)
    found = train(tiny_lm(), corpus(), other, tmp_path)
    assert [row["update"] for row in found.history] == [0, 1, 2, 3]
    assert json.loads((tmp_path / "config.json").read_text())["config"]["lr"] == 2e-3
    with pytest.raises(CheckpointError, match=rf"train in a new folder, or remove {tmp_path}"):
        train(tiny_lm(), corpus(), CONFIG, tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="the record of a run"):
        train(tiny_lm(), corpus(), CONFIG, tmp_path / "model")
    assert "llama" in (tmp_path / "model" / "config.json").read_text()


def test_other_units_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    other = dataclasses.replace(SPEC, layer=2)
    with pytest.raises(UnitSpecMismatch, match="layer is 2 in the corpus and 1 in the language model"):
        train(tiny_lm(), corpus(other), CONFIG, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["truncated", "text", "lost", "config"])
def test_a_damaged_run_is_refused(tmp_path: Path, damage: str) -> None:
    config = with_(eval_every=1)
    with pytest.raises(TrainingError, match="SIGTERM"):
        train(tiny_lm(), corpus(), config, tmp_path, on_eval=sigterm_at(5))
    state = tmp_path / "checkpoint" / "update-5" / "state.safetensors"
    if damage == "truncated":
        state.write_bytes(state.read_bytes()[:-100])
    elif damage == "text":
        state.write_text("hello")
    elif damage == "lost":
        state.unlink()
    else:
        (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError):
        train(tiny_lm(), corpus(), config, tmp_path, on_eval=sigterm_at())


def test_a_checkpoint_of_another_run_or_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    lm = tiny_lm()
    optimizer = torch.optim.AdamW(lm.model.parameters())
    lm.model(torch.ones(1, 3, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    checkpoint.save(path, lm.model, optimizer, update=1, fingerprint="a")
    assert checkpoint.load(path, lm.model, optimizer, fingerprint="a") == 1
    with pytest.raises(CheckpointError, match="another run"):
        checkpoint.load(path, lm.model, optimizer, fingerprint="b")
    smaller = LlamaForCausalLM(changed(lm.model.config, num_hidden_layers=1))
    with pytest.raises(CheckpointError, match="another model"):
        checkpoint.load(path, smaller, torch.optim.AdamW(smaller.parameters()), fingerprint="a")


def changed(config: LlamaConfig, **changes: object) -> LlamaConfig:
    return LlamaConfig(**{**config.to_dict(), **changes})


def test_a_loss_that_is_not_finite_stops_and_keeps_the_batch(tmp_path: Path) -> None:
    lm = tiny_lm()
    with torch.no_grad():
        lm.model.model.norm.weight[0] = torch.inf
    with pytest.raises(TrainingError, match=r"update 1: .*not finite.*bad_batch\.json"):
        train(lm, corpus(), CONFIG, tmp_path)
    kept = json.loads((tmp_path / "bad_batch.json").read_text())
    assert all(piece["id"] in corpus().ids for row in kept["rows"] for piece in row)
    assert kept["batch"] == 0 and np.shape(kept["tokens"]) == np.shape(kept["segments"]) == (2, 24)
    assert not (tmp_path / "lm").exists()
    assert all(torch.isfinite(p).all() for name, p in lm.model.named_parameters() if "norm" not in name)


@pytest.mark.parametrize(("values", "error"), [({"loss": 1.0}, BadInput), ({"val_nll": math.nan}, TrainingError)])
def test_bad_evaluations_are_refused(tmp_path: Path, values: dict[str, float], error: type[TwistError]) -> None:
    with pytest.raises(error, match=r"evaluation|on_eval"):
        train(tiny_lm(), corpus(), CONFIG, tmp_path, on_eval=lambda lm, update: values)


def test_bf16_trains_to_about_the_same_loss(tmp_path: Path) -> None:
    full = losses(train(tiny_lm(), corpus(), CONFIG, tmp_path / "float32").history)
    half = losses(train(tiny_lm(), corpus(), with_(precision="bf16"), tmp_path / "bf16").history)
    assert half == pytest.approx(full, rel=0.02) and half != full
    assert json.loads((tmp_path / "bf16" / "config.json").read_text())["precision"] == "bf16"


def test_golden_loss_trace(tmp_path: Path) -> None:
    """20 losses, CPU, float32. To record them again after a wanted change: TWISTLM_RECORD_GOLDEN=1 pytest -k golden."""
    trace = losses(train(tiny_lm(), corpus(), with_(updates=20), tmp_path).history)
    if os.environ.get("TWISTLM_RECORD_GOLDEN") == "1":
        GOLDEN.write_text(json.dumps(trace, indent=1) + "\n")
    assert len(trace) == 20 and trace == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-5)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As a forked child computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def killed_twice(out: Path, config: TrainConfig, dice: random.Random) -> None:
    """Train in children of this process, two of which are killed at some moment, and a third that is left alone."""
    metrics = out / "metrics.jsonl"
    for killed in range(3):
        child = fork(lambda: train(tiny_lm(), corpus(), config, out, on_eval=lambda lm, update: {"val_nll": 1.0}))
        # Not by the clock, which says nothing on a busy machine: after some growths of the metrics, and a moment more.
        growths, size, done = dice.randint(1, 7) if killed < 2 else 10**9, 0, (0, 0)
        while growths > 0 and not (done := os.waitpid(child, os.WNOHANG))[0]:
            time.sleep(0.001)
            now = metrics.stat().st_size if metrics.exists() else 0
            growths, size = growths - (now > size), now
        if done[0]:
            assert os.waitstatus_to_exitcode(done[1]) == 0 and killed > 0, "the first is killed long before its end"
            return
        time.sleep(dice.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_killed_at_random_moments_and_rerun_is_the_straight_run(tmp_path: Path, one_thread: None) -> None:
    config = with_(updates=20, checkpoint_every=4, eval_every=5)
    train(tiny_lm(), corpus(), config, tmp_path / "straight", on_eval=lambda lm, update: {"val_nll": 1.0})
    killed_twice(tmp_path / "killed", config, random.Random(0))
    assert_same_run(tmp_path / "straight", tmp_path / "killed")
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_checkpoint_written_behind_is_the_one_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny_lm()
    optimizer = torch.optim.AdamW(lm.model.parameters())
    lm.model(torch.ones(1, 3, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path / "once", lm.model, optimizer, update=3, fingerprint="f")
    with checkpoint.Behind() as behind:
        behind.save(tmp_path / "behind", lm.model, optimizer, update=2, fingerprint="f")
        behind.save(tmp_path / "behind", lm.model, optimizer, update=3, fingerprint="f")
        with torch.no_grad():
            next(lm.model.parameters()).zero_()  # what is trained on meanwhile is not what is written
    assert [path.name for path in (tmp_path / "behind").iterdir()] == ["update-3"]
    once, later = (tmp_path / name / "update-3" for name in ("once", "behind"))
    for name in ("state.safetensors", "run.json"):
        assert (once / name).read_bytes() == (later / name).read_bytes()
    monkeypatch.setattr(checkpoint, "save_file", mock.Mock(side_effect=TwistError("the disk is full")))
    with pytest.raises(TwistError, match="disk is full"), checkpoint.Behind() as behind:
        behind.save(tmp_path / "full", lm.model, optimizer, update=3, fingerprint="f")
