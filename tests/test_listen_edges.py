"""Studies in which not everybody heard everything, where all agree, or where a file or a request is odd but legal."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from listen_standins import SYSTEMS, make_samples, request
from test_listen_analysis import ratings_of
from twistlm.errors import BadInput
from twistlm.jobs.inspecting import describe
from twistlm.jobs.listening_results import analyse_study
from twistlm.listen.analysis import analyse
from twistlm.listen.exclusions import Rules
from twistlm.listen.importing import read_results
from twistlm.listen.mixed import mixed_model
from twistlm.listen.plan import plan
from twistlm.listen.preference import preferences
from twistlm.listen.ratings import Rating
from twistlm.listen.samples import find_samples
from twistlm.listen.scores import differences, mean_scores
from twistlm.listen.simulate import World
from twistlm.listen.study import ANSWERS, open_study
from twistlm.listen.table import tabulate
from twistlm.pages.listening import text, write_page


def rated(raters: range, systems: str, *, items: int = 10, seed: int = 0) -> list[Rating]:
    rng = np.random.default_rng(seed)
    return [
        Rating(f"r{r}", "rating", f"i{i}", s, "", float(np.clip(round(3 + rng.normal()), 1, 5)))
        for r in raters
        for i in range(items)
        for s in systems
    ]


# Who is behind a number


def test_a_system_that_one_rater_heard_has_no_interval_and_no_p():
    table = tabulate([*rated(range(20), "AB"), *rated(range(1), "C", seed=1)])
    means, (pairs, spread) = mean_scores(table, seed=0), differences(table, seed=0)
    assert np.isfinite(means.low[:2]).all() and math.isnan(means.low[2]) and math.isnan(means.se[2])
    assert means.df.tolist() == [9, 9, 0] and spread.df.tolist() == [9, 0, 0]
    assert [math.isnan(one.p) for one in pairs] == [math.isnan(one.p_items) for one in pairs] == [False, True, True]


def test_the_intervals_of_a_system_are_those_of_its_own_raters():
    few = rated(range(3), "C", seed=1)
    beside, alone = (tabulate(r, conditions=[("C",)]) for r in ([*rated(range(30), "AB"), *few], few))
    a, b = mean_scores(beside, seed=0), mean_scores(alone, seed=0)
    assert (a.df[0], a.value[0]) == (2, b.value[0])
    assert a.se[0] == pytest.approx(b.se[0], rel=1e-9)


def test_nothing_is_sure_because_all_ratings_are_the_same():
    table = tabulate([r._replace(score=4.0 if r.system == "A" else 3.0) for r in rated(range(4), "AB")])
    means, (pairs, _) = mean_scores(table, seed=0), differences(table, seed=0)
    assert means.value.tolist() == [4, 3] and np.isnan([*means.low, *means.p, pairs[0].p]).all()
    assert pairs[0].p_items == pytest.approx(2 / 2**10) and pairs[0].p_raters == pytest.approx(2 / 2**4)
    assert mixed_model(table) is None


@pytest.mark.parametrize(("score", "rate", "ends"), [(1.0, 1.0, (0.025**0.25, 1.0)), (-1.0, 0.0, (0, 1 - 0.025**0.25))])
def test_a_unanimous_preference_is_as_sure_as_so_many_coins(score, rate, ends):
    both = [Rating(f"r{r}", "rating", f"i{i}", "A", "B", score) for r in range(4) for i in range(6)]
    (one,) = preferences(tabulate(both), seed=0)
    assert (one.rate, one.low, one.high) == (rate, *(pytest.approx(end) for end in ends)) and one.p == 2 / 2**4
    (alone,) = preferences(tabulate(both[:6]), seed=0)  # one rater
    assert math.isnan(alone.low) and math.isnan(alone.p)


def test_sign_flips_look_only_at_raters_who_heard_both():
    apart = [*rated(range(12), "A"), *(r._replace(score=max(1.0, r.score - 2)) for r in rated(range(12, 24), "B"))]
    (one,), _ = differences(tabulate(apart), seed=0)
    assert one.mean > 1 and one.p < 0.001 and one.raters == one.items == 0
    assert math.isnan(one.p_items) and math.isnan(one.p_raters)


def test_one_system_or_no_variance_is_analysed_as_any_other(tmp_path):
    for ratings in (
        rated(range(4), "A", items=5),
        [r._replace(score=3.0) for r in rated(range(4), "AB")],
        [Rating(f"r{r}", "rating", f"i{r}", "AB"[r], "", 3.0 + r) for r in range(2)],
        [r._replace(item=f"{r.system}-{r.item}") for r in rated(range(4), "AB")],
    ):
        results = analyse(ratings, rules=Rules(variance=0.0), mixed=True, seed=0) | {"study": {"question": ""}}
        json.dumps(results, allow_nan=False)
        page = write_page(results, tmp_path / "page.html").read_text()
        assert ">nan" not in page and "[nan" not in page and "mixed model" in page and text(results)


def test_a_system_whose_raters_are_all_left_out_is_still_in_the_table(tmp_path):
    spam = [r._replace(score=5.0) for r in rated(range(6, 8), "C")]
    results = analyse([*rated(range(6), "AB"), *spam], rules=Rules(), mixed=False, seed=0) | {"study": {"question": ""}}
    assert [row["system"] for row in results["kept"]["systems"]] == ["A", "B"]
    (row,) = [line for line in text(results).splitlines() if " C " in line]
    assert "5.00" in row and row.count("–") == 2
    write_page(results, tmp_path / "page.html")


# Files of other tools

HEAD = "session_test_id,age,trial_id,rating_stimulus,rating_score\n"
PATTERN = r"/(?:(?P<system>C\d)_(?P<item>\w+)|ref)\.wav"


@pytest.mark.parametrize(
    ("content", "pattern", "said"),
    [
        (HEAD + "t,30,x,A,50\nt,31,x,A,40\nt,30,x,A,20\n", None, "rated the same twice: rows 2 and 4, x A.*by age"),
        ("workerid,file,vote\n,/C1_a.wav,3\nw,/C1_a.wav,4\n", PATTERN, "1 ratings have no workerid"),
        ("workerid,file,vote\nw,/ref.wav,3\n", PATTERN, "does not find a system and an item in '/ref.wav'"),
        (HEAD, None, "there is no rating in it"),
    ],
)
def test_raters_who_cannot_be_told_apart_are_refused(tmp_path, content, pattern, said):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(BadInput, match=said):
        read_results(tmp_path / "x.csv", clip_pattern=pattern)


def test_what_has_no_answer_is_counted_and_said(tmp_path):
    head = "session_test_id,name,trial_id,choice_reference,choice_non_reference,choice_answer\n"
    rows = [f"t,n{r},x{i},A,B,{'unknown' if i else 'correct'}\n" for r in range(3) for i in range(2)]
    (tmp_path / "pairs.csv").write_text(head + "".join(rows))
    results = analyse_study(
        tmp_path / "pairs.csv", None, rules=Rules(), clip_pattern=None, mixed=False, seed=0
    )  # fmt: skip
    assert results["unanswered"] == 3 and "3 clips or pairs in the file have no answer" in text(results)


# What is written over, and what is asked for


def test_only_an_analysis_is_replaced(tmp_path):
    votes = [f"w{r},/C1_{i}.wav,{1 + (r + i) % 5}\n" for r in range(4) for i in range(5)]
    (tmp_path / "v.csv").write_text("".join(["workerid,file,vote\n", *votes]))

    def go(out):
        return analyse_study(tmp_path / "v.csv", out, rules=Rules(), clip_pattern=PATTERN, mixed=False, seed=0)

    run, own = tmp_path / "run", tmp_path / "own"
    (run / "warm").mkdir(parents=True)
    (run / "results.json").write_text('{"losses": {}}')
    with pytest.raises(BadInput, match="is no analysis"):
        go(run)
    assert (run / "warm").is_dir()
    go(own)
    go(own)  # replaced
    assert describe(own) == {
        "kind": "analysis of a listening study", "design": "mos", "ratings": 20, "raters": 4, "items": 5
    }  # fmt: skip
    (own / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"replaced as a whole: notes\.txt"):
        go(own)
    assert (own / "notes.txt").read_text() == "mine"


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return find_samples(make_samples(tmp_path_factory.mktemp("samples"), SYSTEMS, items=12))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"pairs": (("warm", "cold"),)}, "are of comparisons"),
        ({"ties": False}, "are of comparisons"),
        ({"design": "ab", "pairs": (("warm", "cold"), ("warm", "cold"))}, "named once: warm:cold"),
        ({"pause": 1.0}, "give --prompts too"),
    ],
)
def test_options_that_would_do_nothing_are_refused(samples, tmp_path, asked, said):
    with pytest.raises(BadInput, match=said):
        plan(samples, tmp_path / "s", request(**asked))
    assert not (tmp_path / "s").exists()


def test_natural_recordings_are_gold_clips_or_refused_and_no_system_of_the_user(samples, tmp_path):
    make_samples(tmp_path, {"recordings": 300.0}, items=12)
    natural = tmp_path / "recordings"
    few = {"languages": ("en",), "headphones": False, "hearing": False, "ratings_per_clip": 1}
    plan(samples, tmp_path / "s", request(floor="none", **few), natural=natural)
    golds = [t for t in open_study(tmp_path / "s").places[0] if t.kind == "gold"]
    assert [(t.systems, t.expected) for t in golds] == [(("natural",), (4, 5))] * 2
    for asked in ({"gold": 0}, {"design": "ab", "floor": "none"}):
        with pytest.raises(BadInput, match="leave --natural out"):
            plan(samples, tmp_path / "none", request(**few, **asked), natural=natural)
    named = find_samples([f"natural={natural}", *make_samples(tmp_path, {"other": 200.0}, items=12)])
    with pytest.raises(BadInput, match="a system is called 'natural'"):
        plan(named, tmp_path / "none", request(truth="", floor="none", **few), natural=natural)


def test_a_damaged_study_is_not_there_unchanged(samples, tmp_path):
    plan(samples, tmp_path / "s", request(languages=("en",)))
    shown = describe(tmp_path / "s")
    assert (shown["kind"], shown["raters"], shown["sessions"], shown["answers"]) == ("listening study", 5, {}, 0)
    next((tmp_path / "s" / "clips").iterdir()).unlink()
    with pytest.raises(BadInput, match=r"missing or changed .* anew in another folder, and remove this one"):
        plan(samples, tmp_path / "s", request(languages=("en",)))
    (tmp_path / "s" / ANSWERS).touch()
    with pytest.raises(BadInput, match=r"move answers\.sqlite there"):
        plan(samples, tmp_path / "s", request(languages=("en",)))


def test_raters_of_a_simulated_study_all_count():
    table = tabulate(ratings_of(World(), raters=12, items=10))
    assert (mean_scores(table, seed=0).df == 9).all()
