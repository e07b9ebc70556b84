"""A recipe over seeds and ways of rounding: what is run, that nothing is run twice, and what the table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from standins import Tiny
from test_cli import twist  # noqa: F401  a fixture
from twistlm import recipes
from twistlm.corpus import manifest
from twistlm.corpus.tokenize import tokenize
from twistlm.errors import BadInput
from twistlm.evaluate.stats import t_interval
from twistlm.study import steady
from twistlm.study.grid import rows
from twistlm.units.tokenizer import SpeechTokenizer

SHORT = "updates = 3\nbatch_rows = 2\ncontext = 32\nwarmup = 1\neval_every = 1\n"


@pytest.fixture(scope="module")
def finished(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, list[str]]:
    root = tmp_path_factory.mktemp("steady")
    tokenize(manifest.build(tiny.speech, heldout=0.25), root / "units", SpeechTokenizer.load(tiny.tokenizer))
    recipe = root / "short.toml"
    recipe.write_text(f'base = "quickstart"\ntext_lm = "{tiny.text_lm}"\n[warm]\n{SHORT}[cold]\n{SHORT}')
    told: list[str] = []
    config = recipes.load_training(recipe)
    for _ in range(2):  # the second call has nothing left to do
        for key in rows.read(root / "out"):  # as of a process that ended between its line and tidying up
            (root / "out/cells" / key).mkdir()
        steady.steady(str(recipe), config, root / "units", root / "out", seeds=[0], numerics=["avx2"],
                      tell=told.append)  # fmt: skip
    return recipe, root / "units", root / "out", told


def test_every_run_is_a_process_that_rounds_in_its_way_and_is_made_once(finished) -> None:
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
    found = steady.report(tmp_path)
    assert (found["n"], found["lower"], found["failed"]) == (4, 2, 1)  # seed 3 has no cold
    leads = {(p["seed"], p["numerics"]): p["lead"] for p in found["pairs"]}
    assert leads == {(0, "bf16"): 1.0, (0, "avx2"): 0.75, (1, "bf16"): -0.25, (2, "bf16"): None}
    shares = {(p["seed"], p["numerics"]): p["share"] for p in found["pairs"]}
    assert shares[0, "bf16"] == pytest.approx(0.5) and shares[1, "bf16"] is None is shares[2, "bf16"]
    assert found["share"] is None, "a mean over those that got there would be of other runs than the leads'"
    assert found["lead"]["ci"] == pytest.approx(t_interval([0.875, -0.25])) and found["lead"]["lowest"] == -0.25
    assert found["over_numerics"] == {"warm": 0.25, "cold": 0.0} and found["grad_norm"]["warm"]["highest"] == 6.0
    assert "never" in steady.text(found) and "diverged" in steady.text(found)


def test_what_cannot_be_is_refused(finished, tmp_path: Path) -> None:
    recipe, units, _, _ = finished
    config = recipes.load_training(recipe)
    with pytest.raises(BadInput, match="unknown: fp4"):
        steady.steady(str(recipe), config, units, tmp_path, seeds=[0], numerics=["fp4"], tell=print)
    with pytest.raises(BadInput, match="no run of warm and of cold"):
        steady.report(tmp_path)
