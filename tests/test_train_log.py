from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twistlm.errors import BadInput, CheckpointError
from twistlm.train.log import MetricsLog, read_history, updates_to_reach


def test_first_crossing_is_interpolated() -> None:
    history = [
        {"update": 0, "val_nll": 6.0},
        {"update": 5, "loss": 5.0},
        {"update": 10, "val_nll": 4.0},
        {"update": 20, "val_nll": 3.0},
    ]
    assert updates_to_reach(history, 5.0) == 5.0
    assert updates_to_reach(history, 4.0) == 10.0
    assert updates_to_reach(history, 3.25) == 17.5
    assert updates_to_reach(history, 6.5) == 0.0
    assert updates_to_reach(history, 2.9) is None
    assert updates_to_reach([], 1.0) is None
    assert updates_to_reach(history, 5.0, key="loss") == 5.0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=12), st.floats(0, 10))
def test_crossing_is_the_first_on_the_polyline(values: list[float], target: float) -> None:
    found = updates_to_reach([{"update": 10 * i, "val_nll": v} for i, v in enumerate(values)], target)
    if min(values) > target:
        assert found is None
        return
    assert found is not None
    after = next(i for i, v in enumerate(values) if v <= target)
    assert found == 0 if after == 0 else 10 * (after - 1) < found + 1e-9 and found <= 10 * after
    # A harder target is never reached sooner.
    harder = updates_to_reach([{"update": 10 * i, "val_nll": v} for i, v in enumerate(values)], target / 2)
    assert harder is None or harder >= found


def test_resume_drops_later_and_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"update": i, "loss": i / 3} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"update": 6, "lo')
    assert read_history(path) == rows
    log = MetricsLog(path, keep=3)
    assert log.rows == rows[:4]
    log.append({"update": 4, "loss": 0.5})
    assert read_history(path) == [*rows[:4], {"update": 4, "loss": 0.5}]


def test_a_new_run_empties_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"update": 0}\n')
    assert MetricsLog(path, keep=None).rows == [] and path.read_text() == ""


def test_metrics_behind_the_checkpoint_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"update": 0}\n{"update": 2}\n')
    with pytest.raises(CheckpointError, match="lacks updates 1, 3"):
        MetricsLog(path, keep=3)
    assert path.read_text() == '{"update": 0}\n{"update": 2}\n'
    with pytest.raises(CheckpointError, match="lacks updates 0"):
        MetricsLog(tmp_path / "none.jsonl", keep=0)


def test_damaged_history_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.jsonl"):
        read_history(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"update": 0}\nhello\n{"update": 2}\n')
    with pytest.raises(BadInput, match="line 2"):
        read_history(tmp_path / "bad.jsonl")
