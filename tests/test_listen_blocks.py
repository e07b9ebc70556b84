"""Who rates what: balance as a property of every design."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twistlm.errors import BadInput
from twistlm.listen.blocks import assign, in_order, lap, raters_for, spread

designs = st.tuples(
    st.integers(1, 7), st.integers(1, 24), st.integers(1, 6), st.integers(1, 30), st.integers(0, 2**32)
).map(lambda d: (d[0], d[1], min(d[2], d[1]), d[3], d[4]))


@settings(max_examples=40, deadline=None)
@given(designs)
def test_every_rater_hears_each_condition_equally_often_and_no_clip_twice(design):
    conditions, items, k, raters, seed = design
    for cells in assign(conditions, items, per_condition=k, raters=raters, sides=False, seed=seed):
        assert Counter(c.condition for c in cells) == dict.fromkeys(range(conditions), k)
        assert len({(c.condition, c.item) for c in cells}) == len(cells)
        times = Counter(c.item for c in cells)
        assert max(times.values()) == -(-conditions * k // items)  # once where there are items enough
        if conditions * k >= items:
            assert set(times) == set(range(items))


@settings(max_examples=40, deadline=None)
@given(designs)
def test_clips_are_rated_equally_often_up_to_one_and_exactly_after_whole_laps(design):
    conditions, items, k, raters, seed = design
    whole = lap(items, k)
    for n, most in ((raters, 1), (whole * (1 + raters // whole), 0)):
        planned = assign(conditions, items, per_condition=k, raters=n, sides=False, seed=seed)
        times = Counter((c.condition, c.item) for cells in planned for c in cells)
        counts = [times[c, i] for c in range(conditions) for i in range(items)]
        assert max(counts) - min(counts) <= most
        assert sum(counts) == n * conditions * k


@settings(max_examples=40, deadline=None)
@given(designs)
def test_the_sides_of_pairs_are_even(design):
    conditions, items, k, _, seed = design
    planned = assign(conditions, items, per_condition=k, raters=2 * lap(items, k), sides=True, seed=seed)
    sides = Counter((c.condition, c.item, c.flipped) for cells in planned for c in cells)
    assert all(sides[c, i, True] == sides[c, i, False] for c in range(conditions) for i in range(items))
    for cells in planned:
        for condition in range(conditions):
            first = sum(1 if c.flipped else -1 for c in cells if c.condition == condition)
            assert abs(first) <= (1 if items % 2 else 2)


@settings(max_examples=40, deadline=None)
@given(designs)
def test_the_same_seed_gives_the_same_design_and_more_raters_only_add(design):
    conditions, items, k, raters, seed = design
    planned = assign(conditions, items, per_condition=k, raters=raters, sides=False, seed=seed)
    assert assign(conditions, items, per_condition=k, raters=raters + 3, sides=False, seed=seed)[:raters] == planned


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(2, 12), st.integers(1, 4), st.integers(0, 2**32))
def test_neighbours_have_different_texts(conditions, items, k, seed):
    cells = assign(conditions, items, per_condition=min(k, items), raters=1, sides=False, seed=seed)[0]
    try:
        ordered = in_order(cells, text=lambda c: c.item, seed=[seed])
    except BadInput:
        assert max(Counter(c.item for c in cells).values()) > (len(cells) + 1) // 2
        return
    assert sorted(ordered) == sorted(cells)
    assert all(a.item != b.item for a, b in pairwise(ordered))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=14), st.integers(0, 2**32))
def test_any_texts_that_can_be_kept_apart_are(texts, seed):
    things = list(enumerate(texts))
    if texts and max(Counter(texts).values()) > (len(texts) + 1) // 2:
        with pytest.raises(BadInput, match="twice in a row"):
            in_order(things, text=lambda t: t[1], seed=[seed])
        return
    ordered = in_order(things, text=lambda t: t[1], seed=[seed])
    assert sorted(ordered) == things
    assert all(a[1] != b[1] for a, b in pairwise(ordered))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(1, 40), st.integers(0, 2**32))
def test_controls_are_spread_and_never_come_first(n, among, seed):
    controls, rest = [f"control {i}" for i in range(n)], [f"clip {i}" for i in range(among)]
    out = spread(controls, rest, seed=[seed])
    assert sorted(out) == sorted([*controls, *rest])
    assert [x for x in out if x in rest] == rest
    assert out[0] in rest
    if 2 * n <= among:
        trios = zip(out, out[1:], out[2:], strict=False)
        assert not any(a in controls and b in controls and c in controls for a, b, c in trios)


def test_raters_for_gives_every_clip_enough():
    assert raters_for(50, per_condition=2, ratings=10) == 250
    assert raters_for(7, per_condition=3, ratings=2) == 5


@pytest.mark.parametrize(
    ("numbers", "said"),
    [((0, 5, 1, 1), "conditions"), ((2, 5, 6, 1), "cannot hear 6"), ((2, 5, 1, 0), "raters")],
)
def test_impossible_designs_are_refused(numbers, said):
    conditions, items, k, raters = numbers
    with pytest.raises(BadInput, match=said):
        assign(conditions, items, per_condition=k, raters=raters, sides=False, seed=0)
