"""Bootstrap and permutation against slow loops, known coverage, and exact cases."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twistlm.errors import BadInput
from twistlm.evaluate.stats import (
    bootstrap_ci,
    outcome_ci,
    outcome_difference,
    paired_difference,
    ratio_ci,
    updates_to_reach,
)

values = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30)


def test_interval_matches_a_slow_loop():
    data = np.random.default_rng(3).gamma(2.0, size=12)
    rng, draws = np.random.default_rng(99), []
    for _ in range(4000):
        draws.append(np.mean([data[int(rng.integers(12))] for _ in range(12)]))
    low, high = bootstrap_ci(data, seed=0)
    width = high - low
    assert abs(low - np.percentile(draws, 2.5)) < 0.05 * width
    assert abs(high - np.percentile(draws, 97.5)) < 0.05 * width


def test_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        low, high = bootstrap_ci(rng.normal(2.0, 1.0, size=50), seed=trial, n=500)
        hits += low <= 2.0 <= high
    assert 0.90 <= hits / 300 <= 0.985


def test_ratio_resamples_whole_items_not_tokens():
    # Ten documents that disagree strongly: their disagreement must show, however long they are.
    nll, sizes = np.array([1.0, 3.0] * 5) * 1000, np.full(10, 1000)
    low, high = ratio_ci(nll, sizes, seed=0)
    assert high - low > 0.8
    assert low < 2.0 < high


def test_blocks_do_not_change_the_result(monkeypatch):
    data = np.arange(40.0)
    whole = bootstrap_ci(data, seed=1, n=300)
    monkeypatch.setattr("twistlm.evaluate.stats._CHUNK", 400)
    assert bootstrap_ci(data, seed=1, n=300) == whole


@settings(max_examples=40, deadline=None)
@given(values, st.integers(0, 9))
def test_interval_is_ordered_inside_the_data_and_reproducible(data, seed):
    low, high = bootstrap_ci(data, seed=seed, n=200)
    slack = 1e-9 * max(1.0, max(map(abs, data)))
    assert min(data) - slack <= low <= high <= max(data) + slack
    assert (low, high) == bootstrap_ci(data, seed=seed, n=200)


@settings(max_examples=40, deadline=None)
@given(values)
def test_ratio_with_equal_denominators_is_the_mean(data):
    low, high = ratio_ci(data, [2.0] * len(data), seed=0, n=200)
    half = bootstrap_ci(np.array(data) / 2, seed=0, n=200)
    assert (low, high) == pytest.approx(half, abs=1e-9)


def test_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    bootstrap_ci([1.0, 2.0, 3.0], seed=0)
    paired_difference([1.0, 2.0], [2.0, 1.0], seed=0)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_one_value_has_no_interval():
    assert all(math.isnan(end) for end in bootstrap_ci([1.5], seed=0))


@pytest.mark.parametrize("bad", [[], [[1.0, 2.0]], [1.0, math.nan], [math.inf, 1.0]])
def test_unusable_values_are_refused(bad):
    with pytest.raises(BadInput):
        bootstrap_ci(bad, seed=0)


def test_bad_denominators_and_lengths_are_refused():
    with pytest.raises(BadInput, match="item 1 has 0"):
        ratio_ci([1.0, 2.0], [1.0, 0.0], seed=0)
    with pytest.raises(BadInput, match="2 numerators and 1"):
        ratio_ci([1.0, 2.0], [1.0], seed=0)
    with pytest.raises(BadInput, match="same items"):
        paired_difference([1.0, 2.0], [1.0], seed=0)


def test_paired_difference_sees_a_small_shift_under_large_spread():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, size=60)
    shift = base - 0.1 + rng.normal(0, 0.05, size=60)
    result = paired_difference(shift, base, seed=0)
    assert result.mean == pytest.approx((shift - base).mean())
    assert result.ci[0] < result.mean < result.ci[1] < 0
    assert result.p == pytest.approx(1 / 10_001)


def test_sign_flip_p_matches_full_enumeration():
    difference = np.array([0.9, 0.4, -0.3, 1.2, 0.5, -0.1, 0.7])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 7)).reshape(7, -1)
    exact = (np.abs(difference @ signs) >= abs(difference.sum()) - 1e-12).mean()
    assert paired_difference(difference, np.zeros(7), seed=4).p == pytest.approx(exact, abs=0.015)


def test_equal_systems_differ_by_nothing():
    result = paired_difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], seed=0)
    assert result == (0.0, (0.0, 0.0), 1.0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9), st.integers(1, 50)), min_size=2, max_size=12))
def test_swapping_the_systems_mirrors_the_difference(rows):
    a, b, sizes = zip(*rows, strict=True)
    forth = paired_difference(a, b, sizes=sizes, seed=0, n=200)
    back = paired_difference(b, a, sizes=sizes, seed=0, n=200)
    assert forth.mean == pytest.approx(-back.mean)
    assert forth.ci == pytest.approx((-back.ci[1], -back.ci[0]), abs=1e-9)
    assert forth.p == back.p


def test_drawing_counts_is_the_same_bootstrap_and_the_same_test():
    rng = np.random.default_rng(2)
    a, b = (rng.choice([0.0, 0.5, 1.0], size=80, p=p) for p in ([0.3, 0.1, 0.6], [0.4, 0.1, 0.5]))
    assert outcome_ci(a, seed=0) == pytest.approx(bootstrap_ci(a, seed=0), abs=0.01)
    counted, looped = outcome_difference(a, b, seed=0), paired_difference(a, b, seed=0)
    assert counted.mean == pytest.approx(looped.mean, abs=1e-12)
    assert counted.ci == pytest.approx(looped.ci, abs=0.015)
    assert 0.01 < looped.p < 0.9 and counted.p == pytest.approx(looped.p, abs=0.01)
    assert all(math.isnan(end) for end in outcome_ci([1.0], seed=0))
    assert outcome_difference([1.0, 0.5], [1.0, 0.5], seed=0) == (0.0, (0.0, 0.0), 1.0)
    with pytest.raises(BadInput, match="same items"):
        outcome_difference([1.0], [1.0, 0.0], seed=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=7), st.sampled_from([3, 5, 7]))
@example([(0, 1), (0, 1), (1, 0), (2, 0)], 3)
def test_equal_sums_of_fractions_are_equal(pairs, whole):
    """Thirds of an item with three pairs: rounded, they do not add up to the same digits in every order."""
    a, b = (np.array(side) / whole for side in zip(*pairs, strict=True))
    by = [x - y for x, y in pairs]
    flips = itertools.product((1, -1), repeat=len(by))
    exact = np.mean([abs(sum(f * d for f, d in zip(flip, by, strict=True))) >= abs(sum(by)) for flip in flips])
    for compare in (outcome_difference, paired_difference):
        assert compare(a, b, seed=0, n=4000).p == pytest.approx(exact, abs=0.04)


def test_differences_that_cancel_are_no_difference():
    thirds = np.array([1 / 3, 2 / 3 - 1]), np.zeros(2)
    assert outcome_difference(*thirds, seed=0).p == paired_difference(*thirds, seed=0).p == 1.0


@pytest.mark.thorough
def test_strata_weigh_the_same_and_are_resampled_by_themselves():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, 60) / 2, rng.integers(0, 3, 60) / 2
    strata = np.array(["few"] * 10 + ["many"] * 50)
    few, many = strata == "few", strata == "many"
    # The slow way: each stratum resampled by itself, their means averaged.
    draws = [(rng.choice(a[few], 10).mean() + rng.choice(a[many], 50).mean()) / 2 for _ in range(10_000)]
    assert outcome_ci(a, strata=strata, seed=0) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.015)
    found = outcome_difference(a, b, strata=strata, seed=0)
    assert found.mean == pytest.approx(((a - b)[few].mean() + (a - b)[many].mean()) / 2)
    flips = [rng.integers(0, 2, 60) * 2 - 1 for _ in range(10_000)]
    sums = [abs(((a - b) * f)[few].mean() + ((a - b) * f)[many].mean()) / 2 for f in flips]
    assert found.p == pytest.approx(np.mean(np.array(sums) >= abs(found.mean) - 1e-9), abs=0.02)
    assert outcome_ci(a, strata=np.zeros(60), seed=0) == outcome_ci(a, seed=0)
    assert all(math.isnan(end) for end in outcome_ci([0, 1, 1], strata=["x", "y", "y"], seed=0))
    with pytest.raises(BadInput, match="each outcome has one"):
        outcome_ci(a, strata=["x"], seed=0)


HISTORY = [{"update": 0, "val_nll": 6.0}, {"update": 5, "train_loss": 5.5}, {"update": 10, "val_nll": 5.0}]


@pytest.mark.parametrize(("loss", "update"), [(7.0, 0.0), (6.0, 0.0), (5.5, 5.0), (5.0, 10.0), (4.9, None)])
def test_updates_to_reach_draws_straight_lines(loss, update):
    assert updates_to_reach(HISTORY, loss) == update


def test_what_is_not_kept_is_not_reached():
    risen = [{"update": 0, "val_nll": 5.0}, {"update": 10, "val_nll": 4.0}, {"update": 20, "val_nll": 6.0}]
    assert updates_to_reach(risen, 5.5) is None and updates_to_reach(risen, 6.0) == 0.0
    assert updates_to_reach([], 1.0) is None
