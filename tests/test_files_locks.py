"""Two processes never write step by step in one folder, and a log goes on from where its checkpoint is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from twistlm.errors import TwistError
from twistlm.files.atomic import atomic_folder
from twistlm.files.locks import held
from twistlm.files.metrics import MetricsLog, read_history

WAIT = "import sys\nfrom pathlib import Path\nfrom twistlm.files.locks import held\n"
WAIT += "with held(Path(sys.argv[1]), 'training'):\n    print('held', flush=True)\n    sys.stdin.read()\n"


def test_a_second_process_is_refused_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAIT, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with (
            pytest.raises(TwistError, match=r"run: another process is training here"),
            held(tmp_path / "run", "training"),
        ):
            pass
        other.kill()
    with held(tmp_path / "run", "training"):
        pass


def test_who_goes_on_in_a_folder_removes_what_a_killed_one_left_there(tmp_path: Path) -> None:
    write = "import os, signal, sys\nfrom twistlm.files.atomic import atomic_folder\n"
    write += "with atomic_folder(sys.argv[1]):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    subprocess.run([sys.executable, "-c", write, str(tmp_path / "checkpoint")], check=False)
    with atomic_folder(tmp_path / "of a living one") as living:
        assert len(list(tmp_path.glob(".tmp-*"))) == 2
        with held(tmp_path, "training"):
            assert list(tmp_path.glob(".tmp-*")) == [living]


def test_lines_behind_the_checkpoint_are_dropped_where_not_every_update_has_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, keep=None, every=False)
    for update in (20, 40, 60):
        log.append({"update": update})
    with path.open("a") as file:
        file.write('{"update": 8')  # cut short by a kill
    MetricsLog(path, keep=40, every=False).append({"update": 60})
    assert [row["update"] for row in read_history(path)] == [20, 40, 60]
