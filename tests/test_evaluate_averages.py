"""Averages against a slow oracle of every official rule, and their properties; tables that survive the disk."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite_standins import make_sblimp, make_swuggy
from twistlm.errors import BadInput
from twistlm.evaluate.averages import ScoredPairs, averages, differences, n_pairs
from twistlm.evaluate.suites.suite import Suite
from twistlm.evaluate.suites.zerospeech import prosaudit, sblimp, swuggy
from twistlm.types import Pair

FACTS = {"suite": "toy", "version": "1", "checksum": "abc", "unit_spec": "def"}


def lexical_oracle(rows, scores):
    """sWUGGY, one step of the official description at a time, on rows of a gold table. Returns name -> score."""
    by_id = {}
    for row in rows:
        if row["correct"] == 1:
            (other,) = [r for r in rows if (r["voice"], r["id"], r["correct"]) == (row["voice"], row["id"], 0)]
            up, down = scores[row["filename"]], scores[other["filename"]]
            by_id.setdefault(row["id"], []).append((1.0 if up > down else 0.5 if up == down else 0.0, row))
    mean = {id: sum(p for p, _ in pairs) / len(pairs) for id, pairs in by_id.items()}
    frequency = {id: pairs[0][1]["frequency"] for id, pairs in by_id.items()}
    edges = [("oov", 0, 1), ("1-5", 1, 5), ("6-20", 5, 20), ("21-100", 20, 100), (">100", 100, math.inf)]
    bands = {name: [mean[i] for i in mean if low <= frequency[i] < high] for name, low, high in edges}
    bands = {name: values for name, values in bands.items() if values}
    found = {"all": sum(mean.values()) / len(mean)}
    found |= {f"frequency={name}": sum(values) / len(values) for name, values in bands.items()}
    words = [(sum(values) / len(values), len(values)) for name, values in bands.items() if name != "oov"]
    if words:
        found["vocabulary=in"] = sum(score * n for score, n in words) / sum(n for _, n in words)
    for length in {pairs[0][1]["length"] for pairs in by_id.values()}:
        values = [mean[i] for i in mean if by_id[i][0][1]["length"] == length]
        found[f"length={length}"] = sum(values) / len(values)
    return found


def syntactic_oracle(rows, scores):
    by_item = {}
    for row in rows:
        if row["correct"] == 1:
            key = ("type", "subtype", "id", "voice")
            (other,) = [r for r in rows if r["correct"] == 0 and all(r[k] == row[k] for k in key)]
            up, down = scores[row["filename"]], scores[other["filename"]]
            item = (row["type"], row["subtype"], row["id"])
            by_item.setdefault(item, []).append(1.0 if up > down else 0.5 if up == down else 0.0)
    mean = {item: sum(wins) / len(wins) for item, wins in by_item.items()}
    found = {"all": sum(mean.values()) / len(mean)}
    kinds = {item[0] for item in mean}
    for kind in kinds:
        values = [m for item, m in mean.items() if item[0] == kind]
        found[f"type={kind}"] = sum(values) / len(values)
    found["mean over types"] = sum(found[f"type={kind}"] for kind in kinds) / len(kinds)
    return found


def prosodic_oracle(rows, scores):
    """ProsAudit: voices of a (type, id) first, then ids; the two types are what is published."""
    found = syntactic_oracle([row | {"subtype": ""} for row in rows], scores)
    return {name: value for name, value in found.items() if name != "all"}


@st.composite
def lexical_tables(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    rows = []
    for id in range(draw(st.integers(1, 12))):
        frequency, length = int(rng.choice([0, 1, 4, 5, 19, 20, 99, 100, 7000])), int(rng.integers(2, 5))
        for voice in rng.permutation(5)[: rng.integers(1, 5)]:
            for correct in (0, 1):
                rows.append({"id": f"{id}", "filename": f"{id}-{voice}-{correct}", "voice": f"v{voice}",
                             "frequency": frequency, "word": "w", "length": length, "correct": correct})  # fmt: skip
    return rows, {r["filename"]: float(rng.integers(-4, 0)) for r in rows}  # few values: many ties


@st.composite
def syntactic_tables(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    rows = []
    for kind in range(draw(st.integers(1, 3))):
        for subtype in range(int(rng.integers(1, 3))):
            for id in range(int(rng.integers(1, 4))):
                for voice in rng.permutation(4)[: rng.integers(1, 4)]:
                    for correct in (0, 1):
                        rows.append({"id": f"{id}", "filename": f"{kind}{subtype}{id}{voice}{correct}",
                                     "voice": f"v{voice}", "type": f"t{kind}", "subtype": f"s{subtype}",
                                     "transcription": "x", "correct": correct})  # fmt: skip
    return rows, {r["filename"]: float(rng.integers(-4, 0)) for r in rows}


@st.composite
def prosodic_tables(draw):
    rows, scores = draw(syntactic_tables())
    return [row | {"id": f"{row['subtype']}{row['id']}", "type": "lexical"} for row in rows if row["type"] == "t0"] + [
        row | {"id": f"{row['subtype']}{row['id']}", "type": "protosyntax"} for row in rows if row["type"] == "t1"
    ], scores


def scored_from_gold(reader, task, rows, scores, folder, monkeypatch, order=None):
    """Read `rows` as the suite's gold table (in another order, if given) and join the scores."""
    import csv

    path = folder / task / "dev" / "gold.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows if order is None else [rows[i] for i in order])
    monkeypatch.setattr(
        "twistlm.evaluate.suites.zerospeech.require_sounds", lambda _, stems, **k: dict.fromkeys(stems, folder)
    )  # sounds: another test
    suite = reader(folder, "dev")
    return ScoredPairs.join(suite, {row["filename"]: (scores[row["filename"]], 1) for row in rows}, FACTS)


@pytest.mark.parametrize(
    ("reader", "task", "tables", "oracle"),
    [
        (swuggy, "lexical", lexical_tables(), lexical_oracle),
        (sblimp, "syntactic", syntactic_tables(), syntactic_oracle),
        (prosaudit, "english", prosodic_tables(), prosodic_oracle),
    ],
)
def test_official_averages_equal_a_slow_oracle_and_forget_the_order_of_rows(
    tmp_path_factory, reader, task, tables, oracle
):
    @settings(max_examples=12, deadline=None)
    @given(tables, st.randoms())
    def check(drawn, shuffler):
        (rows, scores), folder = drawn, tmp_path_factory.mktemp("gold")
        with pytest.MonkeyPatch.context() as patch:
            scored = scored_from_gold(reader, task, rows, scores, folder, patch)
            order = shuffler.sample(range(len(rows)), len(rows))
            shuffled = scored_from_gold(reader, task, rows, scores, folder, patch, order)
        found = averages(scored, normalize="sum", seed=0)
        for name, value in oracle(rows, scores).items():
            assert found[name].value == pytest.approx(value, abs=1e-12), name
        assert repr(averages(shuffled, normalize="sum", seed=0)) == repr(found)

    check()


def test_the_oracle_tells_voices_then_pairs_from_pairs_at_once(tmp_path):
    # Word 1 is right in all its three voices, the others wrong in their two: 1/4 of the words, 3/9 of the pairs.
    make_swuggy(tmp_path)
    suite = swuggy(tmp_path, "dev")
    scores = {i: (1.0 if (i[1] == "1") == i.endswith("w") else 0.0, 1) for i in suite.wanted()}
    found = averages(ScoredPairs.join(suite, scores, FACTS), normalize="sum", seed=0)
    assert found["all"].value == 0.25 and found["all"].n == 4 and "(9 pairs)" in found["all"].protocol
    assert found["vocabulary=in"].value == pytest.approx(1 / 3) and found["vocabulary=oov"].value == 0.0
    assert [g for g in found if g.startswith("frequency")] == [
        "frequency=oov", "frequency=1-5", "frequency=6-20", "frequency=>100",
    ]  # fmt: skip
    assert found["voice=C"].value == 1.0 and found["voice=C"].n == 1
    assert "abc" in found["all"].suite and found["all"].unit_spec == "def"


def toy(sides, items=None):
    """A suite of pairs, each given as the (sum, n) of both sides."""
    pairs = tuple(Pair(id=f"p{i}", positive=f"p{i}+", negative=f"p{i}-") for i in range(len(sides)))
    clusters = {p.id: p.id if items is None else f"i{items[i]}" for i, p in enumerate(pairs)}
    suite = Suite(name="toy", version="1", pairs=pairs, clips={}, clusters=clusters)
    scores = {f"p{i}{'+-'[side]}": sides[i][side] for i in range(len(sides)) for side in (0, 1)}
    return suite, scores


side = st.tuples(st.sampled_from([-3.0, -2.0, -1.5, -1.0]), st.integers(1, 3))


speaker = st.sampled_from(["", "bm", "af", "x"])  # "": in no group of the facet


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(side, side, st.integers(0, 4), speaker), min_size=1, max_size=14),
    st.sampled_from(["mean", "sum"]),
    st.randoms(),
)
def test_any_suite_equals_exact_arithmetic(rows, normalize, shuffler):
    """SALMon (each pair an item, facet part) and StoryCloze in several voices (items are stories) are cases of it."""
    suite, scores = toy([(a, b) for a, b, _, _ in rows], [item for _, _, item, _ in rows])
    facet = {p.id: row[3] for p, row in zip(suite.pairs, rows, strict=True) if row[3]}
    order = shuffler.sample(suite.pairs, len(suite.pairs))
    suite = dataclasses.replace(suite, facets={"speaker": facet}, pairs=tuple(order))
    wins: dict[str, dict[int, list[Fraction]]] = {}
    for up, down, item, group in rows:
        a, b = (Fraction(total) / (n if normalize == "mean" else 1) for total, n in (up, down))
        win = Fraction(1) if a > b else Fraction(1, 2) if a == b else Fraction(0)
        for name in ("all", *([f"speaker={group}"] if group else [])):
            wins.setdefault(name, {}).setdefault(item, []).append(win)
    found = averages(ScoredPairs.join(suite, scores, FACTS), normalize=normalize, seed=0)
    assert found.keys() == wins.keys()
    for name, items in wins.items():
        exact = sum(sum(w) / len(w) for w in items.values()) / len(items)
        assert abs(found[name].value - exact) <= 1e-12 and found[name].n == len(items)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(side, side, st.integers(0, 4)), min_size=1, max_size=12),
    st.sampled_from(["mean", "sum"]),
)
def test_swapped_sides_mirror(rows, normalize):
    suite, scores = toy([(a, b) for a, b, _ in rows], [item for _, _, item in rows])
    mirror = dataclasses.replace(
        suite, pairs=tuple(dataclasses.replace(p, positive=p.negative, negative=p.positive) for p in suite.pairs)
    )
    forth, back = (
        averages(ScoredPairs.join(s, scores, FACTS), normalize=normalize, seed=0)["all"] for s in (suite, mirror)
    )
    assert forth.value + back.value == pytest.approx(1, abs=1e-12)
    assert forth.n == len({item for _, _, item in rows})


def test_normalisation_decides_and_ties_are_halves():
    suite, scores = toy([((-4.0, 4), (-3.0, 2)), ((-2.0, 2), (-3.0, 3))])
    scored = ScoredPairs.join(suite, scores, FACTS)
    assert scored.outcomes("mean").tolist() == [1.0, 0.5]
    assert scored.outcomes("sum").tolist() == [0.0, 1.0]
    assert scored.by_clip("mean") == {"p0+": -1.0, "p0-": -1.5, "p1+": -1.0, "p1-": -1.0}
    with pytest.raises(BadInput, match="normalize"):
        averages(scored, normalize="both", seed=0)


def test_tables_survive_the_disk(tmp_path):
    make_sblimp(tmp_path)
    suite = sblimp(tmp_path, "dev")
    scores = {i: (-float(n), n + 1) for n, i in enumerate(suite.wanted())}
    scored = ScoredPairs.join(suite, scores, FACTS)
    scored.write(tmp_path / "s.parquet")
    again = ScoredPairs.read(tmp_path / "s.parquet")
    assert again.facts == FACTS and again.table.equals(scored.table)
    assert n_pairs(again) == n_pairs(scored)
    (tmp_path / "s.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(BadInput, match="delete it"):
        ScoredPairs.read(tmp_path / "s.parquet")
    with pytest.raises(BadInput, match="1 clips have no score"):
        ScoredPairs.join(suite, {k: v for k, v in scores.items() if k != "sA00"}, FACTS)


def test_differences_pair_by_item_and_refuse_other_suites():
    good, bad = ((-1.0, 1), (-2.0, 1)), ((-2.0, 1), (-1.0, 1))
    a = ScoredPairs.join(*toy([good] * 12 + [bad] * 4), FACTS)
    b = ScoredPairs.join(*toy([bad] * 12 + [bad] * 4), FACTS)
    gap = differences(a, b, normalize="sum", seed=0)["all"]
    assert gap.mean == 0.75 and gap.ci[0] > 0.4 and gap.p < 0.01
    back = differences(b, a, normalize="sum", seed=0)["all"]
    assert (back.mean, back.p) == (-0.75, gap.p)
    assert differences(a, a, normalize="sum", seed=0)["all"] == (0.0, (0.0, 0.0), 1.0)
    with pytest.raises(BadInput, match="checksum is abc in one and xyz"):
        differences(a, ScoredPairs(b.table, FACTS | {"checksum": "xyz"}), normalize="sum", seed=0)
    with pytest.raises(BadInput, match="same pairs"):
        differences(a, ScoredPairs.join(*toy([good]), FACTS), normalize="sum", seed=0)
