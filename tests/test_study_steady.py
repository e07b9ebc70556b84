"""A recipe over seeds and ways of rounding: what is run, that nothing is run twice, and what the table says."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from test_cli import twist  # noqa: F401  a fixture
from twistlm import recipes
from twistlm.cli.main import main
from twistlm.errors import BadInput
from twistlm.evaluate.stats import t_interval
from twistlm.study import steady, steady_table
from twistlm.study.grid import rows


def in_this_process(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
    """A process of its own would import torch and transformers, for five seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["twist", *command[command.index("twistlm") + 1 :]])
        main()
    torch.set_num_threads(threads)
    return subprocess.CompletedProcess(command, int(end.value.code or 0), "", "")


@pytest.fixture(scope="module")
def finished(
    short_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path, list[str]]:
    (recipe, units), out = short_pair, tmp_path_factory.mktemp("steady")
    told: list[str] = []
    config = recipes.load_training(recipe)
    ways = [(["warm"], in_this_process), (["warm", "cold"], in_this_process), (["warm", "cold"], None)]
    with pytest.MonkeyPatch.context() as patch:
        for arms, run in ways:  # of the second call the first side is done, of the last one both are
            for key in rows.read(out):  # as of a process that ended between its line and tidying up
                (out / "cells" / key).mkdir()
            patch.setattr(steady, "subprocess", SimpleNamespace(run=run))
            steady.steady(str(recipe), config, units, out, seeds=[0], numerics=["avx2"], arms=arms, tell=told.append)
    return recipe, units, out, told


def test_every_run_rounds_in_its_way_and_is_made_once(finished) -> None:
    _, _, out, told = finished
    done = list(rows.read(out).values())
    assert len(done) == len(told) == 2 and told[-1].startswith("2 of 2 runs: ")
    assert {(r["cell"]["arm"], r["cell"]["numerics"]) for r in done} == {("warm", "avx2"), ("cold", "avx2")}
    for row in done:
        assert [point["update"] for point in row["history"]] == [0, 1, 2, 3] and row["nll"] == row["history"][-1][
            "val_nll"
        ]
        assert row["hardware"]["threads"] == 1 and row["grad_norm"]["highest"] >= row["grad_norm"]["median"] > 0
        assert row["numerics"]["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert not list((out / "cells").iterdir()), "weights and locks of finished runs must go"


def test_other_settings_are_refused_before_they_are_trained(finished, tmp_path: Path) -> None:
    recipe, units, out, _ = finished
    config = recipes.load_training(recipe)
    (tmp_path / rows.NAME).write_bytes((out / rows.NAME).read_bytes())
    other = dataclasses.replace(config, warm=dataclasses.replace(config.warm, lr=7e-3))
    with pytest.raises(BadInput, match=r"runs of other settings.*\(arm, seed, numerics\): .*warm, 0, avx2"):
        steady.steady(str(recipe), other, units, tmp_path, seeds=[0], numerics=["avx2"], tell=print)
    with pytest.raises(BadInput, match="runs of other settings"):  # of which there is no line yet
        steady.steady(str(recipe), other, units, tmp_path, seeds=[1], numerics=["avx2"], arms=["cold"], tell=print)
    assert not (tmp_path / "cells").exists()


@pytest.mark.slow
def test_every_run_is_a_process(finished, tmp_path: Path) -> None:
    recipe, units, out, _ = finished
    config = recipes.load_training(recipe)
    steady.steady(str(recipe), config, units, tmp_path, seeds=[0], numerics=["avx2"], tell=print)
    alone, known = rows.read(tmp_path), rows.read(out)
    assert alone.keys() == known.keys() and len(alone) == 2
    for key, row in alone.items():
        assert row["nll"] == pytest.approx(known[key]["nll"], abs=1e-4)


def test_the_verb_reports_what_is_there(finished, twist) -> None:  # noqa: F811
    recipe, units, out, _ = finished
    shown = twist("study", "steady", units, "--out", out, "--recipe", recipe, "--report")
    assert shown.code == 0 and "| 0 | avx2 |" in shown.out and "warm is lower in " in shown.out


def line(arm: str, seed: int, numerics: str, nll: float | None, *, begun: float = 6.0) -> dict:
    history = [{"update": 0, "val_nll": begun}, {"update": 10, "val_nll": 5.0 if nll is None else nll}]
    return {
        "key": f"{arm}{seed}{numerics}", "cell": {"arm": arm, "seed": seed, "numerics": numerics}, "nll": nll,
        "history": history, "grad_norm": {"median": 2.0, "highest": 3.0 + seed},
    }  # fmt: skip


def test_the_numbers_by_hand(tmp_path: Path) -> None:
    for row in (
        line("warm", 0, "bf16", 4.0), line("warm", 0, "avx2", 4.25), line("warm", 1, "bf16", 4.5),
        line("cold", 0, "bf16", 5.0), line("cold", 0, "avx2", 5.0), line("cold", 1, "bf16", 4.25),
        line("warm", 2, "bf16", None), line("cold", 2, "bf16", 5.0), line("warm", 3, "bf16", 3.0),
    ):  # fmt: skip
        rows.append(tmp_path, row)
    found = steady_table.report(tmp_path)
    assert (found["n"], found["lower"], found["failed"]) == (4, 2, 1)  # seed 3 has no cold
    leads = {(p["seed"], p["numerics"]): p["lead"] for p in found["pairs"]}
    assert leads == {(0, "bf16"): 1.0, (0, "avx2"): 0.75, (1, "bf16"): -0.25, (2, "bf16"): None}
    shares = {(p["seed"], p["numerics"]): p["share"] for p in found["pairs"]}
    assert shares[0, "bf16"] == pytest.approx(0.5) and shares[1, "bf16"] is None is shares[2, "bf16"]
    assert found["share"] is None, "a mean over those that got there would be of other runs than the leads'"
    assert found["lead"]["ci"] == pytest.approx(t_interval([0.875, -0.25])) and found["lead"]["lowest"] == -0.25
    assert found["over_numerics"] == {"warm": 0.25, "cold": 0.0} and found["grad_norm"]["warm"]["highest"] == 6.0
    assert "never" in steady_table.text(found) and "diverged" in steady_table.text(found)


def test_all_runs_of_an_arm_may_have_diverged(tmp_path: Path) -> None:
    rows.append(tmp_path, line("warm", 0, "bf16", None) | {"grad_norm": None})
    rows.append(tmp_path, line("cold", 0, "bf16", 5.0))
    found = steady_table.report(tmp_path)
    assert (found["lead"], found["share"], found["failed"], found["grad_norm"]["warm"]) == (None, None, 1, None)
    assert "Lead: none, in each pair one diverged." in steady_table.text(found)


def test_pairs_whose_other_side_diverged_are_told_and_count(tmp_path: Path) -> None:
    for seed in range(4):
        for numerics in ("bf16", "avx2"):
            rows.append(tmp_path, line("warm", seed, numerics, 4.0))
            rows.append(tmp_path, line("cold", seed, numerics, None if seed else 4.5))
    found = steady_table.report(tmp_path)
    assert (found["n"], found["lower"], found["failed"], found["against_failed"]) == (8, 8, 0, 6)
    assert found["lead"]["mean"] == 0.5 and found["share"]["mean"] > 0, "of the pairs that have one"
    assert found["over_seeds"] == {"warm": 0.0, "cold": None} and found["over_numerics"]["cold"] == 0.0
    told = steady_table.text(found)
    assert (
        told.count("| 4.000 | diverged | – | – |") == 6
        and "warm is lower in 8 of 8; 0 of its runs failed, 6 of" in told
    )
    assert "cold unknown over seeds" in told


def test_a_report_of_nothing_is_no_success(twist, tmp_path: Path) -> None:  # noqa: F811
    refused = twist("study", "steady", tmp_path, "--out", tmp_path / "nope", "--report")
    assert refused.code == 2 and "holds no runs" in refused.err
    rows.append(tmp_path, line("warm", 0, "bf16", 4.0))
    shown = twist("study", "steady", tmp_path, "--out", tmp_path, "--arms", "warm", "--report")
    assert shown.code == 0 and "1 runs are finished" in shown.out


def test_several_arms_are_one_table(tmp_path: Path) -> None:
    for seed in (0, 1):
        for arm, nll in (("warm", 4.0), ("cold", 5.0 + seed), ("lora_8", 3.5)):
            rows.append(tmp_path, line(arm, seed, "bf16", nll))
    rows.append(tmp_path, line("mean_rows", 0, "bf16", 4.25))
    found = [steady_table.report(tmp_path, against=name) for name in ("cold", "lora_8", "mean_rows")]
    low, high = t_interval([1.0, 2.0])
    assert steady_table.overview(found).splitlines()[2:] == [
        "| lora_8 | 2 | 3.500 | 4.000 | -0.500 [-0.500, -0.500] | 0 of 2 |",
        "| mean_rows | 1 | 4.250 | 4.000 | +0.250 | 1 of 1 |",
        f"| cold | 2 | 5.500 | 4.000 | +1.500 [{low:+.3f}, {high:+.3f}] | 2 of 2 |",
    ]


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    for arm, nll in (("warm", 4.0), ("cold", 5.0)):
        rows.append(tmp_path, line(arm, 0, "bf16", nll))
    assert "Lead: 1.000 nats a unit (one seed). Updates" in steady_table.text(steady_table.report(tmp_path))


# Halves are of 30 layers, centroids of a tokenizer that is bundled.
@pytest.mark.parametrize(
    "arm", sorted(steady.ARMS.keys() - {"warm", "cold", "frozen_first_half", "frozen_last_half", "centroids_rows"})
)
def test_every_arm_is_a_command_that_trains(arm: str, short_pair, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(steady, "subprocess", SimpleNamespace(run=in_this_process))
    recipe, units = short_pair
    config = recipes.load_training(recipe)
    steady.steady(str(recipe), config, units, tmp_path, seeds=[0], numerics=["float32"], arms=[arm], tell=print)
    (row,) = rows.read(tmp_path).values()
    assert row["cell"]["arm"] == arm and row["nll"] is not None


def test_what_cannot_be_is_refused(finished, tmp_path: Path) -> None:
    recipe, units, _, _ = finished
    config = recipes.load_training(recipe)
    with pytest.raises(BadInput, match="unknown: fp4"):
        steady.steady(str(recipe), config, units, tmp_path, seeds=[0], numerics=["fp4"], tell=print)
    assert steady_table.report(tmp_path) is None  # nothing is finished
    for key in ("of one recipe", "of another"):
        rows.append(tmp_path, line("warm", 0, "bf16", 4.0) | {"key": key})
    with pytest.raises(BadInput, match="holds two runs of warm, 0, bf16"):
        steady_table.report(tmp_path)
