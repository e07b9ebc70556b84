"""Minimal pairs: joined by id, symmetric, and refused when anything is missing."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from test_evaluate_perplexity import SPEC, document, oracle, tiny_lm
from twistlm.errors import BadInput, UnitSpecMismatch
from twistlm.evaluate.pairs import accuracy_by_group, by_id, score_pairs, score_sides
from twistlm.types import Pair, Units

LM = tiny_lm(1)
RNG = np.random.default_rng(0)
UNITS = by_id(document(RNG, n, f"clip-{i:02d}") for i, n in enumerate(RNG.integers(2, 12, size=40)))
NAMES = sorted(UNITS)
PAIRS = [
    Pair(
        id=f"p{i:02d}",
        positive=NAMES[2 * i],
        negative=NAMES[2 * i + 1],
        group="seen_voice" if i % 3 else "unseen_voice",
    )
    for i in range(20)
]


def swapped(pairs):
    return [dataclasses.replace(p, positive=p.negative, negative=p.positive) for p in pairs]


@pytest.mark.parametrize("normalize", ["mean", "sum"])
def test_outcomes_equal_the_oracle(normalize):
    total, rows = score_pairs(LM, UNITS, PAIRS, normalize=normalize, seed=0)
    wins = []
    for pair, row in zip(PAIRS, rows, strict=True):
        up, down = (-np.array(oracle(LM, UNITS[i].ids, include_end=False)) for i in (pair.positive, pair.negative))
        assert row["positive_logprob"] == pytest.approx(up.sum(), abs=1e-4)
        assert (row["n_positive"], row["n_negative"]) == (len(up), len(down))
        wins.append(float(up.mean() > down.mean() if normalize == "mean" else up.sum() > down.sum()))
        assert row["outcome"] == wins[-1]
    assert total.value == np.mean(wins) and 0 < total.value < 1
    assert total.ci[0] <= total.value <= total.ci[1] and total.n == 20
    assert total.unit_spec == SPEC.fingerprint and "ties 0.5" in total.protocol


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), min_size=1, max_size=12), st.randoms())
def test_swapping_sides_mirrors_and_order_is_irrelevant(sides, shuffler):
    pairs = [Pair(id=f"{i}", positive=a, negative=b) for i, (a, b) in enumerate(sides)]
    forth, rows = score_pairs(LM, UNITS, pairs, normalize="mean", seed=0)
    back, _ = score_pairs(LM, UNITS, swapped(pairs), normalize="mean", seed=0)
    assert forth.value + back.value == pytest.approx(1.0, abs=1e-12)
    again = score_pairs(LM, UNITS, shuffler.sample(pairs, len(pairs)), normalize="mean", seed=0)
    assert repr(again) == repr((forth, rows))  # repr: an interval of one pair is nan
    itself = {f"{i}" for i, (a, b) in enumerate(sides) if a == b}
    assert all(r["outcome"] == 0.5 for r in rows if r["id"] in itself)


def test_clips_with_the_same_units_tie_exactly_whatever_the_batches():
    twins = dict(UNITS)
    for name in NAMES:
        twins[f"twin-{name}"] = Units(UNITS[name].ids.copy(), UNITS[name].runs, SPEC, f"twin-{name}")
    pairs = [Pair(id=n, positive=n, negative=f"twin-{n}") for n in NAMES]
    total, rows = score_pairs(LM, twins, pairs, normalize="sum", seed=0, batch_tokens=24)
    assert {r["outcome"] for r in rows} == {0.5}
    assert total.value == 0.5 and total.ci == (0.5, 0.5)


def test_what_another_suite_scored_is_not_scored_again():
    ids = UNITS[NAMES[0]].ids.tobytes()
    sides = score_sides(LM, UNITS, PAIRS)
    again = score_sides(LM, UNITS, PAIRS, known={ids: (-7.0, 3)})
    assert again.pop(NAMES[0]) == (-7.0, 3) != sides.pop(NAMES[0])
    assert {i: n for i, (_, n) in again.items()} == {i: n for i, (_, n) in sides.items()}
    assert [s for s, _ in again.values()] == pytest.approx([s for s, _ in sides.values()], abs=1e-5)
    everything = {UNITS[i].ids.tobytes(): (-1.0, 1) for i in NAMES}
    assert set(score_sides(LM, UNITS, PAIRS, known=everything).values()) == {(-1.0, 1)}


def test_pairs_of_an_item_are_averaged_first():
    """As `averages` has it for every suite: an item that more voices speak weighs no more."""
    clusters = {pair.id: "many" if i < 15 else f"one-{i}" for i, pair in enumerate(PAIRS)}
    total, rows = score_pairs(LM, UNITS, PAIRS, normalize="mean", seed=0, clusters=clusters)
    outcomes = np.array([row["outcome"] for row in rows])
    assert total.value == pytest.approx(np.mean([outcomes[:15].mean(), *outcomes[15:]])) and total.n == 6
    assert total.value != outcomes.mean()


def test_missing_clips_are_counted_and_the_first_five_named():
    have = {name: units for i, (name, units) in enumerate(UNITS.items()) if i >= 7}
    with pytest.raises(
        BadInput, match=re.escape("7 of 40 clips") + ".*clip-00, clip-01, clip-02, clip-03, clip-04 … "
    ) as e:
        score_pairs(LM, have, PAIRS, normalize="mean", seed=0)
    assert "clip-05" not in str(e.value)


def test_doubled_ids_are_refused():
    with pytest.raises(BadInput, match="1 pair ids occur more than once: p03"):
        score_pairs(LM, UNITS, [*PAIRS, PAIRS[3]], normalize="mean", seed=0)
    with pytest.raises(BadInput, match="1 clip ids occur more than once: clip-07"):
        by_id([*UNITS.values(), UNITS["clip-07"]])


def test_unusable_input_is_named():
    with pytest.raises(BadInput, match="no pairs"):
        score_pairs(LM, UNITS, [], normalize="mean", seed=0)
    with pytest.raises(BadInput, match="normalize"):
        score_pairs(LM, UNITS, PAIRS, normalize="median", seed=0)
    with pytest.raises(BadInput, match="without a cluster: p01"):
        score_pairs(LM, UNITS, PAIRS[:2], normalize="mean", seed=0, clusters={"p00": "a"})
    silent = Units(np.zeros(0, np.uint16), np.zeros(0, np.int32), SPEC, "clip-00")
    with pytest.raises(BadInput, match=r"without a single unit.*clip-00"):
        score_pairs(LM, UNITS | {"clip-00": silent}, PAIRS, normalize="mean", seed=0)
    other = dataclasses.replace(UNITS["clip-00"], spec=dataclasses.replace(SPEC, layer=9))
    with pytest.raises(UnitSpecMismatch, match="layer is 1 in the language model and 9 in the units of clip-00"):
        score_pairs(LM, UNITS | {"clip-00": other}, PAIRS, normalize="mean", seed=0)
    broken = tiny_lm(0)
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(BadInput, match="not finite"):
        score_pairs(broken, UNITS, PAIRS, normalize="mean", seed=0)


def test_the_same_word_in_two_voices_is_one_item():
    # Every pair doubled under another id: nothing new was measured, so the interval must not shrink.
    doubled = [*PAIRS, *(dataclasses.replace(p, id=f"{p.id}-again") for p in PAIRS)]
    words = {p.id: p.id.removesuffix("-again") for p in doubled}
    once, _ = score_pairs(LM, UNITS, PAIRS, normalize="mean", seed=0)
    twice, rows = score_pairs(LM, UNITS, doubled, normalize="mean", seed=0, clusters=words)
    naive, _ = score_pairs(LM, UNITS, doubled, normalize="mean", seed=0)
    assert (twice.value, twice.ci, twice.n) == (once.value, once.ci, 20)
    assert naive.ci[1] - naive.ci[0] < twice.ci[1] - twice.ci[0]
    assert "20 items (40 pairs)" in twice.protocol and len(rows) == 40


def test_groups_average_to_the_whole():
    total, rows = score_pairs(LM, UNITS, PAIRS, normalize="mean", seed=0, name="mini_swuggy")
    groups = accuracy_by_group(rows, of=total, seed=0)
    assert list(groups) == ["seen_voice", "unseen_voice"]
    assert sum(g.value * g.n for g in groups.values()) / 20 == pytest.approx(total.value)
    assert groups["seen_voice"].name == "mini_swuggy.accuracy[seen_voice]"
    assert groups["unseen_voice"].protocol == total.protocol.replace("20", "7")
