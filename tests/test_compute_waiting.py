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
