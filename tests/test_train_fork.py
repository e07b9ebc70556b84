from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from test_train_loop import CONFIG, corpus, tiny_lm
from twistlm.config import TrainConfig
from twistlm.errors import BadInput, CheckpointError
from twistlm.files.metrics import read_history
from twistlm.lm.model import UnitLM
from twistlm.train.fork import fork
from twistlm.train.loop import train
from twistlm.train.record import inputs_of

WSD = dataclasses.replace(CONFIG, updates=10, schedule="wsd", eval_every=0)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return UnitLM.load(path).model.state_dict()


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_history(run / "metrics.jsonl") if row["update"]]


def test_a_forked_run_is_the_straight_run_bit_for_bit(tmp_path: Path) -> None:
    units = corpus()
    longer, longest = (dataclasses.replace(WSD, updates=n) for n in (15, 31))
    train(tiny_lm(), units, longest, tmp_path / "straight")
    train(tiny_lm(), units, WSD, tmp_path / "a")
    assert fork(tmp_path / "a", longer, tmp_path / "b") == 8
    train(tiny_lm(), units, longer, tmp_path / "b")
    assert fork(tmp_path / "b", longest, tmp_path / "c") == 12
    train(tiny_lm(), units, longest, tmp_path / "c")
    assert losses(tmp_path / "c") == losses(tmp_path / "straight")
    straight, forked = weights(tmp_path / "straight" / "lm"), weights(tmp_path / "c" / "lm")
    assert all(torch.equal(straight[name], forked[name]) for name in straight)
    record, plain = (json.loads((tmp_path / run / "config.json").read_text()) for run in ("c", "straight"))
    assert record["run_fingerprint"] == plain["run_fingerprint"]
    assert fork(tmp_path / "b", longest, tmp_path / "c") == 0  # is there: nothing is made again


def test_where_both_rates_fall_at_once_the_state_goes_on_to_the_next(tmp_path: Path) -> None:
    runs = [dataclasses.replace(WSD, updates=n) for n in (14, 15, 31)]  # the first two fall from update 12 on
    train(tiny_lm(), corpus(), runs[0], tmp_path / "a")
    assert fork(tmp_path / "a", runs[1], tmp_path / "b") == 12
    train(tiny_lm(), corpus(), runs[1], tmp_path / "b")
    assert fork(tmp_path / "b", runs[2], tmp_path / "c") == 12


@pytest.mark.parametrize(
    "change", [{"lr": 1e-3}, {"updates": 5}, {"schedule": "cosine", "updates": 20}, {"updates": 20, "seed": 6}]
)
def test_what_is_not_the_same_run_only_longer_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    train(tiny_lm(), corpus(), WSD, tmp_path / "a")
    changed: TrainConfig = dataclasses.replace(WSD, **change)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="may differ in having more updates"):
        fork(tmp_path / "a", changed, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_run_without_that_state_is_refused(tmp_path: Path) -> None:
    train(tiny_lm(), corpus(), WSD, tmp_path / "a")
    longer = dataclasses.replace(WSD, updates=15)
    with pytest.raises(CheckpointError, match="start_weights"):
        fork(tmp_path / "a", longer, tmp_path / "b")
        train(tiny_lm(seed=1), corpus(), longer, tmp_path / "b")
    inputs = inputs_of(tiny_lm(), corpus())
    with pytest.raises(CheckpointError, match=r"start_weights was .* Leave out what makes it another one"):
        fork(tmp_path / "a", longer, tmp_path / "d", inputs=inputs_of(tiny_lm(seed=1), corpus()))
    assert not (tmp_path / "d").exists()
    assert fork(tmp_path / "a", longer, tmp_path / "d", inputs=inputs) == 8
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="is there and is not a run"):
        fork(tmp_path / "a", longer, tmp_path / "e")
    with pytest.raises(BadInput, match="in it is what is read"):
        fork(tmp_path / "a", longer, tmp_path)
    assert (tmp_path / "e" / "notes.txt").read_text() == "mine" and (tmp_path / "a" / "result.json").is_file()
    shutil.rmtree(tmp_path / "a" / "stable")
    with pytest.raises(CheckpointError, match="did not come so far"):
        fork(tmp_path / "a", longer, tmp_path / "c")
