"""Trackers: told every line once; absent packages named; TensorBoard read back where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from test_train_loop import corpus, sigterm_at, tiny_lm, with_
from twistlm.errors import TrainingError, TwistError
from twistlm.lm.model import UnitLM
from twistlm.train.loop import train


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_is_named_before_the_first_update(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TwistError, match=rf"{name} is not installed.*pip install 'twistlm\[{name}\]'"):
        train(tiny_lm(), corpus(), with_(updates=1), tmp_path, trackers=[name])
    assert (tmp_path / "metrics.jsonl").read_text() == ""


class Recorder:
    """Stands for wandb or trackio: keeps what it is told."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **how: Any) -> Recorder:
        self.runs.append(how)
        return self

    def log(self, values: dict[str, float], *, step: int) -> None:
        self.rows.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def test_a_tracker_that_is_named_twice_is_told_once(tmp_path: Path, monkeypatch) -> None:
    fake = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=fake.init, log=fake.log, finish=fake.finish))
    history = train(tiny_lm(), corpus(), with_(updates=2), tmp_path, trackers=["wandb", "wandb"]).history
    assert [step for step, _ in fake.rows] == [row["update"] for row in history] and fake.finished == 1


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_every_line_is_sent_and_a_resumed_run_is_the_same_run(tmp_path: Path, monkeypatch, name: str) -> None:
    fake = Recorder()
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=fake.init, log=fake.log, finish=fake.finish))
    config = with_(updates=5, eval_every=1)
    with pytest.raises(TrainingError, match="SIGTERM"):
        train(tiny_lm(), corpus(), config, tmp_path, trackers=[name], on_eval=sigterm_at(2))
    history = train(tiny_lm(), corpus(), config, tmp_path, trackers=[name], on_eval=sigterm_at()).history
    assert fake.rows == [(row["update"], {k: v for k, v in row.items() if k != "update"}) for row in history]
    assert fake.finished == 2 and fake.runs[0] == fake.runs[1] and fake.runs[0]["resume"] == "allow"


def killed_at(update: int) -> Callable[[UnitLM, int], dict[str, float]]:
    def die(_: UnitLM, done: int) -> dict[str, float]:
        if done == update:
            raise RuntimeError("killed")
        return {}

    return die


def test_tensorboard_shows_the_history(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(RuntimeError, match="killed"):  # before anything was saved: the next one begins anew
        train(
            tiny_lm(),
            corpus(),
            with_(updates=3, eval_every=1),
            tmp_path,
            trackers=["tensorboard"],
            on_eval=killed_at(2),
        )
    history = train(tiny_lm(), corpus(), with_(updates=3, eval_every=1), tmp_path, trackers=["tensorboard"]).history
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    read = [(event.step, event.value) for event in shown.Scalars("loss")]
    assert read == [(row["update"], pytest.approx(row["loss"])) for row in history[1:]]
