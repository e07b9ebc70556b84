from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twistlm.errors import BadInput
from twistlm.study.laws import Law, crossing, fit, laws

BUDGETS = [20_480 * 2**n for n in range(7)]


@given(st.floats(0.5, 3.0), st.floats(0.2, 2.0), st.floats(0.1, 0.8))
@settings(max_examples=20, deadline=None)
def test_a_law_is_found_again(floor: float, scale: float, power: float) -> None:
    true = Law(floor=floor, scale=scale, power=power, rms=0.0)
    found = fit(BUDGETS, true(BUDGETS))
    assert found.rms < 1e-4 and found(BUDGETS) == pytest.approx(true(BUDGETS), abs=1e-3)


def test_the_crossing_by_hand() -> None:
    """1 + x^-0.25 against 1 + 2 x^-0.5, x in millions of tokens: equal where x^0.25 = 2."""
    warm, cold = Law(floor=1, scale=1, power=0.25, rms=0), Law(floor=1, scale=2, power=0.5, rms=0)
    assert crossing(warm, cold, start=20_000) == pytest.approx(16e6, rel=0.01)
    assert crossing(cold, warm, start=20e6) is None


def test_cold_catches_up_where_warm_has_led() -> None:
    early = Law(floor=1.0, scale=1, power=0.5, rms=0)  # steep: behind at first, ahead from a million on
    late = Law(floor=1.0, scale=1, power=0.25, rms=0)
    assert crossing(early, late, start=20_000) is None, "cold led at first, warm ever after"
    assert crossing(late, early, start=20_000) == pytest.approx(1e6, rel=0.02)
    assert crossing(early, late, start=20_000, stop=500_000) == 20_000, "warm never led"


def test_cold_that_was_never_behind_is_said_to_be() -> None:
    warm, cold = Law(floor=1, scale=1, power=0.25, rms=0), Law(floor=0.5, scale=1, power=0.25, rms=0)
    for ahead, behind, never in ((cold, warm, True), (warm, cold, False)):
        runs = [
            {"side": side, "seed": 0, "tokens": t, "nll": float(law(t))}
            for t in BUDGETS for side, law in (("warm", behind), ("cold", ahead))
        ]  # fmt: skip
        assert laws(runs, seed=0)["never_behind"] is never


@pytest.mark.thorough
def test_only_what_both_sides_have_counts_and_seeds_give_an_interval() -> None:
    rng = np.random.default_rng(0)
    warm, cold = Law(floor=1, scale=1, power=0.25, rms=0), Law(floor=1, scale=2, power=0.5, rms=0)
    runs = [
        {"side": side, "seed": seed, "tokens": t, "nll": float(law(t)) + rng.normal(0, 0.002)}
        for seed in (0, 1, 2) for t in BUDGETS for side, law in (("warm", warm), ("cold", cold))
    ]  # fmt: skip
    alone = [{"side": "warm", "seed": 3, "tokens": t, "nll": 99.0} for t in BUDGETS]  # no cold beside it
    found = laws([*runs, *alone], seed=0)
    assert found["warm"].rms < 0.01 and found["crossing"] > BUDGETS[-1]
    assert found["crossing_ci"][0] <= found["crossing"] <= found["crossing_ci"][1]
    assert laws([r for r in runs if r["tokens"] in BUDGETS[:3]], seed=0) is None
    apart = [{**r, "tokens": r["tokens"] + r["seed"]} for r in runs]  # as documents fall into rows
    assert laws(apart, seed=0)["warm"].power == pytest.approx(found["warm"].power, rel=0.01)
    assert laws([r for r in apart if r["tokens"] < BUDGETS[2]], seed=0) is None, "six numbers of tokens, two budgets"
    assert "crossing_ci" not in laws([r for r in runs if r["seed"] == 0], seed=0)
    with pytest.raises(BadInput, match="4 budgets"):
        fit(BUDGETS[:3], [1.0, 2.0, 3.0])
