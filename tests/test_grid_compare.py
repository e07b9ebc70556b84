"""The numbers of a study on made-up lines: each is what one works out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from twistlm import recipes
from twistlm.config import override
from twistlm.evaluate.stats import sign_test, t_interval
from twistlm.pages.grid import html
from twistlm.pages.grid_tables import headline, markdown
from twistlm.study.grid.cells import ABLATIONS, key, losses, wanted
from twistlm.study.grid.compare import compare

GRID = override(recipes.two_cores(), ["layers=[4]", "amounts=[1.0]", "warm.rates=[1e-3]", "cold.rates=[1e-3]"])
GRID = override(GRID, [f"cut={list(ABLATIONS)}"])
STUDY = {
    "config": {"train": {"updates": 100, "batch_rows": 1, "context": 256}, "cut": []},
    "corpora": {
        name: {"documents": 4, "units": 40, "hours": 20.0, "voices": 3} for name in ("train", "validation", "test")
    },
}
SIZES = [10, 20, 30, 40]


def line(cell, loss: float, wins: list[float], curve: list[float]) -> dict:
    """A run whose documents all have the same loss a unit, but for a wobble that is the same for all runs."""
    wobble = np.array([0.3, -0.1, 0.2, -0.2])
    return {
        "key": key(GRID, cell, "made up"),
        "cell": {"rate": cell.rate},
        "nll": loss,
        "documents": {"nll": (np.array(SIZES) * (loss + wobble)).tolist(), "n_units": SIZES},
        "words": {"wins": wins, "pairs": [2, 2, 2, 2]},
        "history": [{"update": 25 * i, "val_nll": value} for i, value in enumerate(curve)],
        "epochs": 0.5,
        "tokens": 1000,
        "rule": "nats per unit",
        "precision": "bf16",
        "hardware": {"cpu": "a CPU", "device": "cpu", "threads": 1},
    }


COLD = [5.0, 4.0, 3.8, 3.6, 3.5]
WARM = {0: [5.0, 3.5, 3.3, 3.2, 3.1], 1: [5.0, 4.5, 3.5, 3.2, 3.0], 2: [5.0, 4.0, 3.75, 3.25, 3.2]}


def made_up(drop=(), worse=0.0):
    done = {}
    for cell in wanted(GRID, lambda _: None):
        if (cell.arm, cell.seed) not in drop:
            loss = 3.5 if cell.arm == "cold" else [3.1, 3.0, 3.2][cell.seed] + worse
            wins = [1.0, 1.0, 0.0, 2.0] if cell.arm == "cold" else [2.0, 1.0, 1.0, 2.0]
            row = line(cell, loss, wins, COLD if cell.arm == "cold" else WARM[cell.seed])
            done[row["key"]] = row
    found = compare(GRID, "made up", done, losses(GRID, "made up", done))
    return found | {"study": STUDY, "runs": {"finished": len(done), "wanted": 6, "other": 0}}


def test_differences_intervals_and_tests_are_those_of_the_lines():
    found = made_up()
    (pair,) = found["pairs"]
    assert (pair["arm"], pair["against"], pair["seeds"]) == ("warm", "cold", [0, 1, 2])
    differences = [-0.4, -0.5, -0.3]
    assert [d["mean"] for d in pair["nll"]["by_seed"]] == pytest.approx(differences)
    assert pair["nll"]["mean"] == pytest.approx(-0.4)
    expected = scipy_stats.t.interval(0.95, 2, loc=-0.4, scale=scipy_stats.sem(differences))
    assert pair["nll"]["ci_seeds"] == pytest.approx(expected)
    # Every document's difference is the same, so resampling documents gives the same number.
    assert pair["nll"]["ci_documents"] == pytest.approx([-0.4, -0.4])
    assert (pair["nll"]["lower"], pair["nll"]["p_seeds"], pair["nll"]["n_documents"]) == (3, 0.25, 4)
    # Four signs: only all alike are as extreme, 2 of 16.
    assert pair["nll"]["p_documents"] == pytest.approx(1 / 8, abs=0.02)
    assert pair["swuggy"]["mean"] == pytest.approx(2 / 8) and pair["swuggy"]["n_words"] == 4
    assert pair["updates"]["by_seed"] == pytest.approx([0.25, 0.5, 0.625])
    assert pair["updates"]["mean"] == pytest.approx(11 / 24)
    cold, warm = sorted(found["arms"], key=lambda a: a["arm"])
    assert cold["nll"]["mean"] == 3.5 and cold["nll"]["ci"] == pytest.approx([3.5, 3.5])
    assert warm["ppl"]["mean"] == pytest.approx(math.exp(3.1)) and warm["swuggy"]["mean"] == 6 / 8
    assert [point["val_nll"] for point in warm["history"]] == pytest.approx(np.mean(list(WARM.values()), axis=0))
    assert not found["missing"] and found["machines"][0]["threads"] == 1


def test_seeds_that_lack_a_twin_are_left_out_and_said():
    found = made_up(drop=[("warm", 1), ("cold", 2)])
    (pair,) = found["pairs"]
    assert pair["seeds"] == [0] and pair["nll"]["ci_seeds"] == [None, None]
    assert found["missing"] == ["4 layers, 100 %, warm, seed 1", "4 layers, 100 %, cold, seed 2"]
    assert headline(found).startswith("One seed so far")
    text = markdown(found)
    assert "4 of 6 runs are finished" in text and "Not finished (2): 4 layers, 100 %, warm, seed 1" in text
    assert headline(made_up(drop=[("warm", s) for s in (0, 1, 2)])) == "There is nothing to compare yet."


def test_a_loss_that_is_never_reached_has_no_mean():
    found = made_up()
    WARM_BEFORE = WARM[1]
    WARM[1] = [5.0, 4.5, 4.4, 4.3, 4.2]
    try:
        never = made_up()
    finally:
        WARM[1] = WARM_BEFORE
    assert never["pairs"][0]["updates"]["mean"] is None and found["pairs"][0]["updates"]["mean"] is not None
    assert "| 4 layers, 100 % | not by every seed | 25%, never, 62% |" in markdown(never)


@pytest.mark.parametrize(("worse", "said"), [(0.0, "a lower loss"), (1.0, "a higher loss"), (0.4, "within the noise")])
def test_the_headline_says_what_the_interval_allows(worse, said):
    found = made_up(worse=worse)
    assert said in headline(found) and said in html(found)


def test_the_page_and_the_markdown_have_the_same_tables():
    found = made_up()
    text, page = markdown(found), html(found)
    assert "| 4 layers, 100 % | 3 | 3.100 [2.852, 3.348] | 3.500 [3.500, 3.500] | -0.400 [-0.648, -0.152] |" in text
    for title in ("Held-out loss", "Mini sWUGGY", "Tuning"):
        assert f"### {title}" in text and f"<h2>{title}</h2>" in page
    assert "What it is that helps" not in text, "no ablation was run"


def test_the_t_interval_is_scipy_s_and_one_value_has_none():
    values = [3.1, 2.9, 3.4, 3.3]
    assert t_interval(values) == pytest.approx(
        scipy_stats.t.interval(0.95, 3, loc=np.mean(values), scale=scipy_stats.sem(values))
    )
    assert all(math.isnan(end) for end in t_interval([1.0]))


@pytest.mark.parametrize("values", [[1, 2, 3], [-1, 2, 3], [-1, 2, 0, 3, -4], [0.0], [-2, -1, -1, -3, -5, -1]])
def test_the_sign_test_is_the_exact_binomial_one(values):
    wins, n = sum(v > 0 for v in values), sum(v != 0 for v in values)
    assert sign_test(values) == pytest.approx(scipy_stats.binomtest(wins, n).pvalue if n else 1.0)
