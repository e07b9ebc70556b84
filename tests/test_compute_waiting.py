"""Threads wait asleep where other programs compute, as the system's counts say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from twistlm.compute import waiting


@pytest.mark.parametrize(
    ("later", "policy"),
    [
        ("cpu 110 0 100 1190 100 0 0 0", None),
        ("cpu 210 0 110 1090 100 0 0 0", "PASSIVE"),
        ("cpu 100 0 100 1000 100 0 0 0", None),
    ],
    ids=["a little", "busy", "no time has passed"],
)
def test_busy_is_what_the_counts_say(
    later: str, policy: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu 100 0 100 1000 100 0 0 0 0 0\ncpu0 1 1\n")
    monkeypatch.setattr(waiting, "STAT", stat)
    monkeypatch.setattr(waiting.time, "sleep", lambda _: stat.write_text(f"{later} 7 7\n"))
    monkeypatch.setattr(waiting.os, "environ", environ := dict[str, str]())
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    waiting.asleep_where_busy()
    assert environ.get("OMP_WAIT_POLICY") == policy
    environ["OMP_WAIT_POLICY"] = "ACTIVE"
    stat.write_text("cpu 100 0 100 1000 100 0 0 0 0 0\n")
    waiting.asleep_where_busy()
    assert environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_nothing_is_done_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting.os, "environ", environ := dict[str, str]())
    monkeypatch.setitem(sys.modules, "torch", waiting)
    monkeypatch.setattr(waiting.time, "sleep", lambda _: pytest.fail("it was looked at"))
    waiting.asleep_where_busy()
    assert not environ


@pytest.mark.parametrize(
    ("later", "own", "share"),
    [("cpu 150 0 100 1050 100 0 0 0", 0.5, 0.0), ("cpu 150 0 100 1050 100 0 0 0", 0.2, 0.3)],
    ids=["its own work", "others' work"],
)
def test_what_others_compute_is_what_is_not_ones_own(
    later: str, own: float, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu 100 0 100 1000 100 0 0 0 0 0\n")
    monkeypatch.setattr(waiting, "STAT", stat)
    monkeypatch.setattr(waiting.os, "sysconf", lambda _name: 100)
    monkeypatch.setattr(waiting.os, "times", lambda: (7.0, 2.0, 0, 0, 0))
    told = waiting.beside()
    assert told() == 0.0, "no time has passed"
    stat.write_text(f"{later} 0 0\n")
    monkeypatch.setattr(waiting.os, "times", lambda: (7.0 + own, 2.0, 0, 0, 0))
    assert told() == pytest.approx(share)
    monkeypatch.setattr(waiting, "STAT", tmp_path / "none")
    assert waiting.beside()() == 0.0
