"""A long training with several budgets: what is run, that nothing is run twice, that a fork is the straight run."""

from __future__ import annotations

from pathlib import Path

import pytest

from test_cli import twist  # noqa: F401  a fixture
from twistlm import recipes
from twistlm.errors import BadInput
from twistlm.study import long
from twistlm.study.grid import rows


@pytest.fixture(scope="module")
def finished(
    short_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path, list[str]]:
    (recipe, units), out = short_pair, tmp_path_factory.mktemp("long")
    told: list[str] = []
    config = recipes.load_training(recipe)
    for budgets in ([2, 4], [2, 4, 6]):  # the second call goes on with the longest only
        long.long(config, units, out, budgets=budgets, seeds=[0], tell=told.append)
    return recipe, units, out, told


def test_each_budget_is_made_once_and_the_last_one_stays(finished) -> None:
    _, _, out, told = finished
    done = list(rows.read(out).values())
    assert len(done) == len(told) == 6
    assert {(r["cell"]["side"], r["cell"]["updates"]) for r in done} == {
        (s, n) for s in ("warm", "cold") for n in (2, 4, 6)
    }
    for row in done:
        assert [p["update"] for p in row["history"]] == list(range(row["cell"]["updates"] + 1))
        assert row["nll"] == row["heldout"]["val_nll"] and row["suites"] == {}
    left = sorted(str(p.relative_to(out / "runs")) for p in (out / "runs").glob("*/*"))
    assert left == ["cold-0/6", "warm-0/6"], "shorter runs are not needed once a longer one has gone on from them"


def test_a_budget_by_way_of_shorter_ones_is_the_budget_alone(finished, tmp_path: Path) -> None:
    recipe, units, out, _ = finished
    long.long(recipes.load_training(recipe), units, tmp_path, budgets=[6], seeds=[0], sides=["warm"], tell=print)
    (alone,) = rows.read(tmp_path).values()
    assert alone["history"] == rows.read(out)[alone["key"]]["history"]


def test_the_verb_reports_and_bad_budgets_are_refused(finished, twist) -> None:  # noqa: F811
    recipe, units, out, _ = finished
    shown = twist("study", "long", units, "--out", out, "--recipe", recipe, "--report")
    assert shown.code == 0 and "| tokens | seeds | warm |" in shown.out
    refused = twist("study", "long", units, "--out", out, "--recipe", recipe, "--budgets", "4,2", "--suites", "")
    assert refused.code == 2 and "rising" in refused.err


def test_the_numbers_by_hand(tmp_path: Path) -> None:
    for seed, warm, cold in ((0, 4.0, 5.0), (1, 4.5, 5.0)):
        for side, nll in (("warm", warm), ("cold", cold)):
            rows.append(tmp_path, {
                "key": f"{side}{seed}", "cell": {"side": side, "seed": seed, "updates": 10, "tokens": 320}, "nll": nll,
                "history": [{"update": 0, "val_nll": 6.0}, {"update": 10, "val_nll": nll}],
                "suites": {"mini-swuggy": {"accuracy": 0.5 + seed / 10}},
            })  # fmt: skip
    rows.append(
        tmp_path,
        {
            "key": "x",
            "cell": {"side": "warm", "seed": 0, "updates": 20, "tokens": 640},
            "nll": 3.0,
            "history": [],
            "suites": {},
        },
    )  # fmt: skip  no cold: not reported
    (at,) = long.report(tmp_path)["budgets"]
    assert at["lead"]["mean"] == 0.75 and at["share"] == pytest.approx([0.5, 2 / 3])
    assert "| 320 | 2 | 4.250 | 5.000 | +0.750 [" in long.text({"budgets": [at]}) and "55.0 / 55.0" in long.text(
        {"budgets": [at]}
    )
    with pytest.raises(BadInput, match="no budget"):
        long.report(tmp_path / "empty")
