"""A long training with several budgets: what is run, that nothing is run twice, that a fork is the straight run."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from test_cli import twist  # noqa: F401  a fixture
from twistlm import recipes
from twistlm.errors import BadInput
from twistlm.jobs.inspecting import describe
from twistlm.lm.folders import load_model
from twistlm.study import keys, long
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


def test_other_settings_are_refused_before_they_are_trained(finished, tmp_path: Path) -> None:
    recipe, units, out, _ = finished
    config = recipes.load_training(recipe)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / rows.NAME).write_bytes((out / rows.NAME).read_bytes())
    before = (copy / rows.NAME).read_text()
    other = dataclasses.replace(config, warm=dataclasses.replace(config.warm, lr=7e-3))
    with pytest.raises(BadInput, match=r"runs of other settings or on another corpus.*give these settings a folder"):
        long.long(other, units, copy, budgets=[2, 4, 6], seeds=[0], tell=print)
    with pytest.raises(BadInput, match="runs of other settings or on another corpus"):  # of which there is no line yet
        long.long(other, units, copy, budgets=[2], seeds=[1], sides=("cold",), tell=print)
    long.long(config, units, copy, budgets=[2, 4, 6], seeds=[0], tell=print)  # the same: nothing to do
    shown = describe(copy)
    assert (shown["kind"], shown["runs"], shown["updates"]) == ("long study", 6, [2, 4, 6])
    assert (copy / rows.NAME).read_text() == before and not list(copy.glob("runs/*/*"))


def test_lines_of_another_division_are_not_mixed_in(tmp_path: Path) -> None:
    rows.append(tmp_path, {"key": "a", "study": "s", "division": "d", "cell": {"seed": 0}})
    rows.append(tmp_path, {"key": "b", "study": "s", "cell": {"seed": 1}})  # of before it was noted
    rows.require_same(tmp_path, {"c": (2,)}, "seed", study="s", division="d")
    with pytest.raises(BadInput, match=r"with other documents held out .*: 0\. No table"):
        rows.require_same(tmp_path, {"c": (2,)}, "seed", study="s", division="e")


def test_a_folder_that_holds_another_text_lm_is_another_start(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = keys.starting(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"other")
    assert keys.starting(str(tmp_path)) != before and keys.starting("smollm2-135m") == "smollm2-135m"


def test_a_budget_by_way_of_shorter_ones_is_the_budget_alone(finished, tmp_path: Path) -> None:
    recipe, units, out, _ = finished
    long.long(recipes.load_training(recipe), units, tmp_path, budgets=[6], seeds=[0], sides=["warm"], tell=print)
    (alone,) = rows.read(tmp_path).values()
    assert alone["history"] == rows.read(out)[alone["key"]]["history"]


def test_the_first_layers_alone_are_trained_and_are_a_table_of_their_own(finished, tmp_path: Path, twist) -> None:  # noqa: F811
    recipe, units, out, _ = finished
    options = ("--recipe", recipe, "--budgets", "2", "--seeds", "0", "--suites", "", "--layers", "1")
    assert twist("study", "long", units, "--out", tmp_path, *options).code == 0
    cut = rows.read(tmp_path)
    assert {(r["cell"]["side"], r["cell"]["layers"]) for r in cut.values()} == {("warm", 1), ("cold", 1)}
    for side in ("warm", "cold"):
        assert load_model(tmp_path / "runs" / f"{side}-0" / "2").model.config.num_hidden_layers == 1
    whole = [r for r in rows.read(out).values() if r["cell"]["updates"] == 2]
    assert not cut.keys() & {r["key"] for r in whole} and "layers" not in whole[0]["cell"]
    for row in whole:  # of the side that is missing, so that no two lines are of one cell
        if row["cell"]["side"] == "warm":
            rows.append(tmp_path / "mixed", row)
    rows.append(tmp_path / "mixed", next(r for r in cut.values() if r["cell"]["side"] == "cold"))
    with pytest.raises(BadInput, match="all, 1 layers"):
        long.report(tmp_path / "mixed")


def test_the_verb_reports_and_bad_budgets_are_refused(finished, twist) -> None:  # noqa: F811
    recipe, units, out, _ = finished
    shown = twist("study", "long", units, "--out", out, "--recipe", recipe, "--report")
    assert shown.code == 0 and "| tokens | seeds | warm |" in shown.out
    refused = twist("study", "long", units, "--out", out, "--recipe", recipe, "--budgets", "4,2", "--suites", "")
    assert refused.code == 2 and "rising" in refused.err
    for wrong in (["--budgets", "40,x"], ["--seeds", "a"], ["--sides", "hot"]):
        refused = twist("study", "long", units, "--out", out, "--recipe", recipe, *wrong)
        assert refused.code == 2 and wrong[0] in refused.err and wrong[1].split(",")[-1] in refused.err


def test_what_twist_eval_measured_of_a_shorter_run_stays(finished, tmp_path: Path) -> None:
    recipe, units, _, _ = finished
    config = recipes.load_training(recipe)
    long.long(config, units, tmp_path, budgets=[2], seeds=[0], sides=["warm"], tell=print)
    measured = tmp_path / "runs" / "warm-0" / "2" / "eval"
    measured.mkdir()
    (measured / "suite.json").write_text("{}")
    long.long(config, units, tmp_path, budgets=[2, 4], seeds=[0], sides=["warm"], tell=print)
    left = sorted(str(p.relative_to(tmp_path / "runs")) for p in (tmp_path / "runs").glob("*/*"))
    assert left == ["warm-0/4", "warm-0/eval-2"]
    assert (tmp_path / "runs" / "warm-0" / "eval-2" / "suite.json").read_text() == "{}"


def test_what_a_long_study_has_of_its_own_is_not_set(finished, twist, tmp_path: Path) -> None:  # noqa: F811
    recipe, units, _, _ = finished
    for change in ("updates=99", "seed=7", "schedule=cosine"):
        refused = twist("study", "long", units, "--out", tmp_path / "x", "--recipe", recipe, "--set", change)
        assert refused.code == 2 and f"({change.partition('=')[0]}: " in refused.err and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("law", "said"),
    [
        ({"crossing": 133.0, "never_behind": True, "crossing_ci": [132.0, 140.0]}, "no higher than warm at any number"),
        (
            {"crossing": None, "never_behind": False, "crossing_ci": [math.inf, math.inf]},
            "as 1e12 tokens, by any resample",
        ),
        ({"crossing": None, "never_behind": False}, "has not caught up as far as 1e12 tokens."),
        ({"crossing": None, "never_behind": False, "crossing_ci": [2e6, math.inf]}, "1e12 tokens [2e+06, never]."),
        ({"crossing": 3e6, "never_behind": False, "crossing_ci": [2e6, math.inf]}, "at 3e+06 tokens [2e+06, never]."),
    ],
)
def test_where_cold_catches_up_is_said_in_words(law: dict, said: str) -> None:
    side = {"floor": 1.0, "scale": 1.0, "power": 0.5, "rms": 0.0}
    assert said in long.text({"budgets": [], "alone": [], "law": {**law, "warm": side, "cold": side}})


def test_an_interval_over_one_document_is_no_number(tmp_path: Path) -> None:
    rows.append(tmp_path, {"key": "a", "nll": 1.0, "heldout": {"val_nll_ci": (float("nan"), float("nan"))}})
    assert rows.read(tmp_path)["a"]["heldout"] == {"val_nll_ci": [None, None]}


def line(side: str, seed: int, updates: int, nll: float, **suites: float) -> dict[str, object]:
    return {
        "key": f"{side}{seed}-{updates}", "nll": nll,
        "cell": {"side": side, "seed": seed, "updates": updates, "tokens": 32 * updates},
        "history": [{"update": 0, "val_nll": 6.0}, {"update": updates, "val_nll": nll}],
        "suites": {name.replace("_", "-"): {"accuracy": value} for name, value in suites.items()},
    }  # fmt: skip


def test_the_numbers_by_hand(tmp_path: Path) -> None:
    for seed, warm, cold in ((0, 4.0, 5.0), (1, 4.5, 5.0)):
        for side, nll in (("warm", warm), ("cold", cold)):
            rows.append(tmp_path, line(side, seed, 10, nll, mini_swuggy=0.5 + seed / 10))
    rows.append(tmp_path, line("warm", 0, 20, 3.0))  # no cold: told apart from the others
    found = long.report(tmp_path)
    (at,) = found["budgets"]
    assert at["lead"]["mean"] == 0.75 and at["share"] == pytest.approx([0.5, 2 / 3])
    told = long.text(found)
    assert "| 320 | 2 | 4.250 | 5.000 | +0.750 [" in told and "55.0 / 55.0" in told
    assert found["alone"] == [
        {"side": "warm", "updates": 20, "tokens": 640, "seeds": [0], "nll": [3.0], "suites": {}}
    ] and told.endswith("| warm | 640 | 1 | 3.000 |")
    with pytest.raises(BadInput, match="no finished run"):
        long.report(tmp_path / "empty")


def test_one_side_alone_is_reported_without_a_lead(tmp_path: Path, twist) -> None:  # noqa: F811
    for seed, nll in ((0, 4.0), (1, 4.5)):
        rows.append(tmp_path, line("warm", seed, 10, nll, mini_swuggy=0.5 + seed / 10))
    rows.append(tmp_path, line("warm", 0, 20, 3.0, mini_swuggy=0.6, mini_sblimp=0.5))
    shown = twist("study", "long", "units", "--out", tmp_path, "--report")
    assert shown.code == 0 and "lead |" not in shown.out and "Of one side alone" in shown.out
    assert (
        "| warm | 320 | 2 | 4.250 | 55.0 | - |" in shown.out and "| warm | 640 | 1 | 3.000 | 60.0 | 50.0 |" in shown.out
    )
    assert twist("study", "long", "units", "--out", tmp_path, "--report", "--json").json["budgets"] == []


def test_only_suites_that_both_sides_were_judged_on_are_compared(tmp_path: Path) -> None:
    rows.append(tmp_path, line("warm", 0, 10, 4.0, mini_swuggy=0.6, mini_sblimp=0.5))
    rows.append(tmp_path, line("cold", 0, 10, 5.0, mini_swuggy=0.4))
    rows.append(tmp_path, line("warm", 0, 20, 3.0))
    rows.append(tmp_path, line("cold", 0, 20, 4.0))
    found = long.report(tmp_path)
    assert [list(at["suites"]) for at in found["budgets"]] == [["mini-swuggy"], []] and not found["alone"]
    assert "60.0 / 40.0 |" in long.text(found) and "| 67% | - |" in long.text(found)
