"""A whole study on stand-ins: its lines, its tables, and that stopping it changes nothing."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from standins import Tiny
from twistlm import recipes
from twistlm.cli.main import main
from twistlm.config import ArmConfig, GridConfig
from twistlm.corpus import manifest
from twistlm.corpus.tokenize import tokenize
from twistlm.errors import BadInput
from twistlm.evaluate.suites import catalogue
from twistlm.files import atomic
from twistlm.lm.folders import load_model
from twistlm.study.grid import inputs as inputs_module
from twistlm.study.grid import planning, rows, running
from twistlm.study.grid.cells import ABLATIONS, losses
from twistlm.study.grid.inputs import open_inputs
from twistlm.study.grid.report import report
from twistlm.units.tokenizer import SpeechTokenizer

CLOCK = {"wall", "seconds"}


@pytest.fixture(autouse=True)
def tiny_suite(monkeypatch: pytest.MonkeyPatch, tiny: Tiny) -> None:
    monkeypatch.setattr(inputs_module, "open_suite", lambda name: catalogue.open_suite(f"{name}={tiny.suite}"))
    monkeypatch.setenv("TWISTLM_CACHE", str(tiny.root / "cache"))


@pytest.fixture(scope="module")
def grid(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> GridConfig:
    root = tmp_path_factory.mktemp("grid")
    tokenize(manifest.build(tiny.speech, heldout=0.25), root / "units", SpeechTokenizer.load(tiny.tokenizer))
    base = recipes.two_cores()
    own = {"table_rate": 2.0, "head": "own", "head_start": "rows"}
    arm = ArmConfig(rates=(1e-3, 1e-2), warmup=1, clip_norm=1.0, **own)
    tied = dataclasses.replace(arm, rates=(1e-3,), table_rate=1.0, head="as-is", head_start="rows")
    return dataclasses.replace(
        base,
        text_lm=str(tiny.text_lm),
        tokenizer=str(tiny.tokenizer),
        units=str(root / "units"),
        heldout=str(root / "units"),
        layers=(2, 1),
        amounts=(1.0, 0.5),
        seeds=(0, 1),
        tuning_seeds=(100,),
        most_rates=2,
        cut=("1x0.5",),
        choose_by="mean",
        noise=0.0,
        validation_units=150,
        curve_units=100,
        test_units=200,
        train=dataclasses.replace(base.train, updates=4, context=32, eval_every=2, precision="float32"),
        **dict.fromkeys(("warm", "cold"), arm),
        **dict.fromkeys(("shuffled", "frozen_body", "random_rows"), dataclasses.replace(arm, rates=())),
        **dict.fromkeys(("mean_rows", "first_rows", "covariance_rows"), dataclasses.replace(arm, rates=())),
        **dict.fromkeys(("tied_warm", "tied_cold"), tied),
        out=str(root / "study"),
    )


@pytest.fixture(scope="module")
def finished(grid: GridConfig, tiny: Tiny) -> tuple[GridConfig, list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs_module, "open_suite", lambda name: catalogue.open_suite(f"{name}={tiny.suite}"))
        patch.setenv("TWISTLM_CACHE", str(tiny.root / "cache"))
        lines: list[str] = []
        running.run(grid, tell=lines.append)
        return grid, lines


def without_clock(folder: str | Path) -> list[dict[str, Any]]:
    found = [{k: v for k, v in row.items() if k not in CLOCK} for row in rows.read(folder).values()]
    return sorted(found, key=lambda row: row["key"])


@pytest.mark.thorough
def test_every_cell_is_run_once_and_told(finished):
    config, told = finished
    done = rows.read(config.out)
    # Tuning: 2 sides x 2 sizes, 2 rates each. Reported: 3 points x 2 sides and 8 ablations, 2 seeds.
    assert len(done) == len(told) == 2 * 4 + 2 * 14
    lines = (Path(config.out) / rows.NAME).read_text().splitlines()
    assert len(lines) == len(done)
    assert told[0].startswith("1 of 36 runs: 2 layers, 100 %, warm, rate 0.001, tuning, seed 100: ")
    assert told[-1].startswith("36 of 36 runs: ") and told[-1].endswith("about 0 min of one process left")
    assert not any((Path(config.out) / "cells").iterdir()), "weights and locks of finished runs must go"


@pytest.mark.thorough
def test_runs_of_one_seed_are_of_the_same_documents_and_begin_apart(finished):
    config, _ = finished
    reported = [row for row in rows.read(config.out).values() if row["cell"]["split"] == "test"]
    assert len({tuple(row["documents"]["n_units"]) for row in reported}) == 1
    at_start = {}
    for row in reported:
        cell = row["cell"]
        if (cell["layers"], cell["amount"], cell["seed"]) == (2, 1.0, 0):
            at_start[cell["arm"]] = row["history"][0]["val_nll"]
            assert row["tokens"] > 0 and [point["update"] for point in row["history"]] == [0, 2, 4]
    assert at_start.keys() == {"warm", "cold", *ABLATIONS}
    # A head of its own begins here as the table does, so what differs in nothing else begins alike.
    assert at_start["warm"] == at_start["frozen_body"] == at_start["tied_warm"]
    assert at_start["cold"] == at_start["tied_cold"] and len(set(at_start.values())) == 7
    starts = {row["cell"]["arm"]: row["start"] for row in reported}
    assert starts["shuffled"]["shuffled"] and not starts["warm"]["shuffled"]
    assert starts["frozen_body"]["trainable"]["tensors"] == 2  # the table and a head of its own
    assert starts["warm"]["rows"] == starts["cold"]["rows"] == "neighbours"
    assert starts["covariance_rows"]["rows"] == "covariance" and starts["random_rows"]["rows"] == "random"
    assert starts["first_rows"]["rows"] == "first-rows" and starts["cold"]["start"] == "cold"


@pytest.mark.thorough
def test_the_best_model_of_each_side_is_kept(finished):
    config, _ = finished
    for side in ("warm", "cold"):
        nlls = [
            row["nll"]
            for row in rows.read(config.out).values()
            if row["cell"]["arm"] == side and row["cell"]["split"] == "test"
        ]
        home = Path(config.out) / "best" / side
        kept = json.loads((home / "cell.json").read_text())
        assert kept["nll"] == min(nlls)
        assert load_model(home).provenance["start"] == side


@pytest.mark.thorough
def test_a_better_model_of_other_settings_is_not_the_best_of_these(finished, tmp_path):
    config, _ = finished
    home, model = tmp_path / "best" / "warm", Path(config.out) / "best" / "warm" / "lm"
    for key, nll, keys, kept in (
        ("old", 1.0, {"old"}, "old"),
        ("new", 2.0, {"new", "newer"}, "new"),  # 1.0 was over other documents
        ("newer", 3.0, {"new", "newer"}, "new"),
        ("newer", 1.5, {"new", "newer"}, "newer"),
    ):
        running._keep_best(home, {"key": key, "cell": {}, "nll": nll}, model, keys)
        assert json.loads((home / "cell.json").read_text())["key"] == kept


@pytest.mark.thorough
def test_hours_left_are_of_runs_of_these_settings(finished):
    config, _ = finished
    inputs = open_inputs(config)
    done = rows.read(config.out)
    foreign = {f"other-{key}": row | {"wall": 1e6} for key, row in done.items()}
    known = losses(config, inputs.fingerprint, done)
    assert planning.own_rows(config, inputs, known, {**done, **foreign}) == done


@pytest.mark.thorough
def test_a_run_that_a_limit_ended_is_made_again_under_another(finished, tmp_path):
    config, _ = finished
    first = next(iter(rows.read(config.out).values()))
    ended = {"key": first["key"], "cell": first["cell"], "nll": None, "diverged": "rose", "max_loss_rise": 0.5}
    rows.append(tmp_path, ended)
    limited, free = (
        dataclasses.replace(config, train=dataclasses.replace(config.train, max_loss_rise=limit)) for limit in (0.5, 0)
    )
    assert running._counted(limited, rows.read(tmp_path)) and not running._counted(free, rows.read(tmp_path))
    rows.append(tmp_path, first)
    assert rows.read(tmp_path)[first["key"]]["nll"] == first["nll"]
    assert running._counted(free, rows.read(tmp_path)) == running._counted(limited, rows.read(tmp_path))


def test_validation_and_test_share_nothing_with_training_and_amounts_are_nested(grid):
    given = open_inputs(grid)
    parts = [set(corpus.ids) for corpus in (given.train, given.validation, given.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) and all(parts)
    assert set(given.curve.ids) <= parts[2]
    small, large = (set(given.documents(amount, seed=1).ids) for amount in (0.2, 0.6))
    assert small < large < set(given.documents(1.0, seed=1).ids) == parts[0]
    assert small != set(given.documents(0.2, seed=2).ids)


@pytest.mark.thorough
def test_a_rerun_does_nothing(finished, monkeypatch):
    config, _ = finished
    before = (Path(config.out) / rows.NAME).read_bytes()
    for name in ("train", "measure"):
        monkeypatch.setattr(running, name, lambda *a, **k: pytest.fail("a finished run was made again"))
    running.run(config, tell=pytest.fail)
    assert (Path(config.out) / rows.NAME).read_bytes() == before


def sides_only(config: GridConfig, folder: Path, **changes: Any) -> GridConfig:
    """The first point of the grid alone, with one seed: six runs."""
    short = {"layers": (2,), "amounts": (1.0,), "cut": ABLATIONS, "seeds": (0,), "out": str(folder / "study")}
    return dataclasses.replace(config, **short | changes)


class Stopped(BaseException):
    """Nothing in the code may catch it."""


# Dies before so many writes: within a training run, before a best model, before a line, after it.
@pytest.mark.parametrize("nth", [25, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 24))])
@pytest.mark.thorough
def test_stopped_anywhere_and_run_again_adds_what_was_missing_and_nothing_else(nth, finished, tmp_path, monkeypatch):
    config = sides_only(finished[0], tmp_path)
    real, count = atomic.Atomic.__enter__, 0

    def enter(self: Any) -> Path:
        nonlocal count
        count += 1
        if count == nth:
            raise Stopped
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(atomic.Atomic, "__enter__", enter)
        with pytest.raises(Stopped):
            running.run(config, tell=lambda line: None)
    some = rows.read(config.out)
    running.run(config, tell=lambda line: None)
    assert dict(list(rows.read(config.out).items())[: len(some)]) == some
    whole = {row["key"]: row for row in without_clock(finished[0].out)}
    found = without_clock(config.out)
    assert found == [whole[row["key"]] for row in found] and len(found) == 6


def _process(config: GridConfig, suite: Path) -> None:
    inputs_module.open_suite = lambda name: catalogue.open_suite(f"{name}={suite}")
    running.run(config, tell=lambda line: None)


@pytest.mark.thorough
def test_two_processes_share_the_work_and_nothing_is_done_twice(finished, tiny, tmp_path):
    config = sides_only(finished[0], tmp_path, seeds=(0, 1))
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_process, args=(config, tiny.suite)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    keys = [json.loads(line)["key"] for line in (tmp_path / "study" / rows.NAME).read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 8
    whole = {row["key"]: row for row in without_clock(finished[0].out)}
    assert all(row["nll"] == pytest.approx(whole[row["key"]]["nll"], abs=1e-5) for row in without_clock(config.out))


@pytest.mark.thorough
def test_the_report_is_whole_at_any_moment(finished, tmp_path):
    config, _ = finished
    folder = tmp_path / "study"
    shutil.copytree(config.out, folder)
    whole = report(folder)
    assert whole["runs"] == {"finished": 36, "wanted": 36, "other": 0} and not whole["missing"]
    assert {(p["arm"], p["against"]) for p in whole["pairs"]} == {
        ("warm", "cold"), ("shuffled", "cold"), ("shuffled", "warm"), ("frozen_body", "cold"), ("frozen_body", "warm"),
        ("random_rows", "cold"), ("random_rows", "warm"), ("mean_rows", "cold"), ("mean_rows", "warm"),
        ("first_rows", "cold"), ("first_rows", "warm"), ("tied_warm", "cold"), ("tied_warm", "warm"),
        ("tied_cold", "cold"), ("tied_cold", "warm"), ("covariance_rows", "cold"), ("covariance_rows", "warm"),
    }  # fmt: skip
    text = (folder / "report.md").read_text()
    for title in ("Held-out loss", "Updates to cold's final loss", "Mini sWUGGY", "What it is that helps", "Tuning"):
        assert f"### {title}" in text
    assert "Cut from the grid: 1x0.5" in text and "image model is untested" in text
    html = (folder / "report.html").read_text()
    assert html.count("<svg") >= 10 and "http" not in html.replace("http://www.w3.org", "")
    assert json.loads((folder / "report.json").read_text()) == whole

    lines = (folder / rows.NAME).read_text().splitlines(keepends=True)
    for n in (0, 5, 20):
        (folder / rows.NAME).write_text("".join(lines[:n]))
        part = report(folder)
        assert part["runs"]["finished"] == n and part["missing"]
        assert "Not finished" in (folder / "report.md").read_text()


@pytest.mark.thorough
def test_runs_of_other_settings_are_left_out_and_said(finished, tmp_path):
    config, _ = finished
    folder = tmp_path / "study"
    shutil.copytree(config.out, folder)
    study = json.loads((folder / "study.json").read_text())
    study["config"]["train"]["updates"] = 5
    (folder / "study.json").write_text(json.dumps(study))
    found = report(folder)
    assert found["runs"]["other"] == 36 and not found["arms"]
    assert "36 runs in study.jsonl are of other settings" in (folder / "report.md").read_text()


@pytest.mark.thorough
def test_a_diverged_run_is_a_line_that_loses(finished, tmp_path, monkeypatch):
    config = sides_only(finished[0], tmp_path, cold=dataclasses.replace(finished[0].cold, rates=(1e-3, 1e30), warmup=0))
    running.run(config, tell=lambda line: None)
    found = report(config.out)
    tried = next(t for t in found["tunings"] if t["arm"] == "cold")
    assert [run["nll"] is None for run in tried["tried"]] == [False, True] and tried["rate"] == 1e-3
    assert "1e+30: diverged" in (tmp_path / "study" / "report.md").read_text()
    assert len(list((tmp_path / "study" / "diverged").iterdir())) == 1, "what it names is kept"


@pytest.mark.thorough
def test_a_run_whose_weights_are_no_numbers_when_it_is_judged_has_diverged(finished, tmp_path):
    config = sides_only(finished[0], tmp_path, cold=dataclasses.replace(finished[0].cold, rates=(1e-3, 1e38), warmup=0))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, eval_every=1))
    running.run(config, tell=lambda line: None)
    (blown,) = [row for row in rows.read(config.out).values() if row["nll"] is None]
    assert "weights are not finite after update 1" in blown["diverged"] and "max_loss_rise" not in blown


def test_a_plan_counts_the_runs_and_adds_up(grid, tmp_path):
    planned = planning.plan(dataclasses.replace(grid, out=str(tmp_path / "new")))
    assert planned["wanted"] == 36 and planned["finished"] == 0
    assert [part["what"] for part in planned["parts"]][:3] == [
        "2 layers, 100 %: warm and cold", "2 layers, 100 %: shuffled", "2 layers, 100 %: frozen body",
    ]  # fmt: skip
    assert sum(part["tuning"] + part["reported"] for part in planned["parts"]) == 36
    assert planned["hours_left"] == pytest.approx(sum(part["hours_left"] for part in planned["parts"]))
    assert planned["hours_left"] > 0
    assert not (tmp_path / "new").exists(), "a plan writes nothing"


def test_the_verbs_plan_run_and_report(grid, tiny, tmp_path, monkeypatch, capsys):
    toml = tmp_path / "grid.toml"
    toml.write_text(
        f'base = "two-cores"\ntext_lm = "{tiny.text_lm}"\ntokenizer = "{tiny.tokenizer}"\nunits = "{grid.units}"\n'
        f'heldout = "{grid.heldout}"\nlayers = [1]\namounts = [1.0]\nseeds = [0]\ncut = {list(ABLATIONS)}\n'
        f'validation_units = 150\ncurve_units = 100\nout = "{tmp_path / "study"}"\n[warm]\nrates = [1e-3]\n'
        '[cold]\nrates = [1e-3]\n[train]\nupdates = 2\ncontext = 32\nprecision = "float32"\n'
    )

    def twist(*arguments: object) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["twist", "study", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        return capsys.readouterr()

    assert "0 of 2 runs finished" in twist("plan", toml)[0]
    _, told = twist("run", toml, "--json")
    assert [line[:12] for line in told.splitlines()] == ["1 of 2 runs:", "2 of 2 runs:"]
    assert "One seed so far" in twist("report", tmp_path / "study")[0]
    assert "2 of 2 runs finished; 0.00 hours" in twist("plan", toml)[0]


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds no study"):
        report(tmp_path)


def test_what_is_tested_must_not_be_trained_on(grid, tiny, tmp_path):
    entries = manifest.build(tiny.speech, heldout=0.25)
    said = [dataclasses.replace(entry, text="the same words") for entry in entries]
    tokenize(said, tmp_path / "units", SpeechTokenizer.load(tiny.tokenizer))
    same = dataclasses.replace(grid, units=str(tmp_path / "units"), heldout=str(tmp_path / "units"))
    with pytest.raises(BadInput, match=r"1 texts of .* also trained on .*the same words"):
        open_inputs(same)
    with pytest.raises(BadInput, match="lower validation_units"):
        open_inputs(dataclasses.replace(grid, validation_units=10**6))


@pytest.mark.thorough
def test_documents_are_scored_alike_in_the_lines_and_by_hand(finished):
    config, _ = finished
    row = next(r for r in rows.read(config.out).values() if r["cell"]["split"] == "test")
    nll, n = np.array(row["documents"]["nll"]), np.array(row["documents"]["n_units"])
    assert row["nll"] == pytest.approx(nll.sum() / n.sum())
    assert n.sum() == open_inputs(config).test.lengths.sum()
    assert sum(row["words"]["pairs"]) == 6 and 0 <= sum(row["words"]["wins"]) <= 6
