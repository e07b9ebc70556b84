"""Stages of a job: what is done stays done, what is gone is made again, what others made is not removed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from twistlm.errors import BadInput
from twistlm.study import stages as module
from twistlm.study.stages import Stages


class Work:
    """Writes one file, and counts how often."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.times = folder, 0

    def __call__(self) -> dict[str, int]:
        self.times += 1
        self.folder.mkdir(exist_ok=True)
        (self.folder / "made").write_text("whole")
        return {"times": self.times}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / "run" / "folder")


def run(work: Work, setting: int, **more: object) -> dict[str, int]:
    return Stages(work.folder.parent).run("stage", {"setting": setting}, work, folder=work.folder, **more)


def test_a_stage_whose_folder_is_gone_is_done_again(work: Work) -> None:
    assert run(work, 1) == run(work, 1) == {"times": 1}
    shutil.rmtree(work.folder)
    assert run(work, 1) == {"times": 2} == run(work, 1) and (work.folder / "made").is_file()


@pytest.mark.parametrize("then", [1, 2])
def test_killed_while_an_old_folder_is_removed_no_rest_is_taken_for_whole(
    work: Work, then: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(work, 1)
    with monkeypatch.context() as patch:

        def die(folder: Path) -> None:
            (folder / "made").write_text("half")
            raise KeyboardInterrupt

        patch.setattr(module.shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            run(work, 2)
    assert run(work, then) == {"times": 2} and (work.folder / "made").read_text() == "whole"


def test_what_others_made_is_not_removed(work: Work) -> None:
    run(work, 1)
    (work.folder / "more-1").mkdir()
    with pytest.raises(BadInput, match=r"holds what was made of it since: .*more-1.*--out"):
        run(work, 2, others=("more-*",))
    assert (work.folder / "more-1").is_dir()
    assert run(work, 1, others=("more-*",)) == {"times": 1}


def test_a_stage_that_writes_nothing_is_done_once(tmp_path: Path) -> None:
    calls = []
    for _ in range(2):
        made = Stages(tmp_path).run("s", {}, lambda: {"n": calls.append(1)}, folder=tmp_path / "nothing")
        assert made == {"n": None}
    assert calls == [1]
