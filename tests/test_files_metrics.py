from __future__ import annotations

import json
from pathlib import Path

import pytest

from twistlm.errors import BadInput, CheckpointError
from twistlm.files.metrics import MetricsLog, read_history


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
