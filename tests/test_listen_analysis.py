"""What is said of ratings: against published numbers, slow oracles, other implementations, and known truths."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from test_cli import twist  # noqa: F401  a fixture
from twistlm.errors import BadInput
from twistlm.evaluate.stats import holm
from twistlm.listen.agreement import krippendorff_alpha
from twistlm.listen.analysis import analyse
from twistlm.listen.exclusions import Rules, judge, kept
from twistlm.listen.importing import read_results
from twistlm.listen.mixed import mixed_model
from twistlm.listen.power import raters_needed
from twistlm.listen.preference import bradley_terry, preferences, strengths
from twistlm.listen.ratings import Rating, write_csv
from twistlm.listen.resampling import sign_flip, two_way
from twistlm.listen.scores import crowdmos, differences, mean_scores
from twistlm.listen.simulate import World, as_ratings, simulate
from twistlm.listen.table import tabulate
from twistlm.pages import listening
from twistlm.pages.listening import text, write_page

NAN = math.nan
# Krippendorff (2011), "Computing Krippendorff's alpha-reliability", the example with missing data: 4 x 12 units.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)
matrices = st.integers(2, 5).flatmap(
    lambda raters: st.lists(
        st.lists(st.sampled_from([NAN, 1.0, 2.0, 3.0, 4.0, 5.0]), min_size=raters, max_size=raters),
        min_size=1,
        max_size=7,
    )
)


def ratings_of(world: World, *, seed: int = 0, raters: int = 24, items: int = 20, per_system: int = 5) -> list[Rating]:
    return as_ratings(simulate(world, raters=raters, items=items, per_system=per_system, seed=seed))


# CrowdMOS


@pytest.mark.parametrize(
    ("scores", "mean", "half"),
    [
        ([[5, 4, 3], [4, 4, 2], [5, 3, 3]], 3.6667, 2.2081),
        ([[5, 4, NAN], [4, NAN, 2], [5, 3, 3]], 3.7143, 2.7398),
    ],
)
def test_crowdmos_gives_the_numbers_of_its_published_port(scores, mean, half):
    found = crowdmos(np.array(scores, dtype=float))
    assert (found.mean, found.half) == (pytest.approx(mean, abs=5e-5), pytest.approx(half, abs=5e-5))


def test_crowdmos_where_parts_cannot_be_told():
    # variances of the port: 0.0625 (both parts known), 0.125 (one rater; one item)
    assert crowdmos(np.array([[5.0, 4], [4, 5]])).half == pytest.approx(12.7062 * math.sqrt(0.0625), rel=1e-5)
    for one in ([[5.0, 4]], [[5.0], [4]]):
        found = crowdmos(np.array(one))
        assert math.isnan(found.half) and found.mean == 4.5


# Agreement


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(level, alpha):
    assert krippendorff_alpha(PUBLISHED, level) == pytest.approx(alpha, abs=5e-4)


def slow_alpha(data: np.ndarray, level: str) -> float:
    """Return alpha by its definition: distances of all pairs within units, over distances of all pairs."""
    units = [[v for v in column if not math.isnan(v)] for column in data.T]
    units = [unit for unit in units if len(unit) >= 2]
    values = sorted(v for unit in units for v in unit)

    def apart(a: float, b: float) -> float:
        if level == "interval":
            return (a - b) ** 2
        if level == "nominal":
            return float(a != b)
        low, high = min(a, b), max(a, b)
        inside = sum(low <= v <= high for v in values)
        return (inside - (values.count(a) + values.count(b)) / 2) ** 2

    n = len(values)
    observed = sum(apart(a, b) / (len(u) - 1) for u in units for a, b in itertools.permutations(u, 2)) / n if n else 0
    expected = sum(apart(a, b) for a, b in itertools.permutations(values, 2)) / (n * (n - 1)) if n else 0
    return 1 - observed / expected if expected else math.nan


@settings(max_examples=60, deadline=None)
@given(matrices, st.sampled_from(["nominal", "ordinal", "interval"]))
def test_alpha_is_what_its_definition_says(columns, level):
    data = np.array(columns).T
    assert krippendorff_alpha(data, level) == pytest.approx(slow_alpha(data, level), nan_ok=True, abs=1e-9)


def test_alpha_agrees_with_the_krippendorff_package():
    other = pytest.importorskip(
        "krippendorff", reason="the package krippendorff is GPL, so it is not installed with twistlm"
    )
    rng = np.random.default_rng(0)
    for _ in range(50):
        data = rng.integers(1, 6, (rng.integers(2, 9), rng.integers(3, 30))).astype(float)
        data[rng.random(data.shape) < 0.4] = NAN
        for level in ("nominal", "ordinal", "interval"):
            theirs = other.alpha(reliability_data=data, level_of_measurement=level)
            assert krippendorff_alpha(data, level) == pytest.approx(theirs, abs=1e-9)


# Resampling


def test_two_way_intervals_of_means_have_the_textbook_spread():
    """Of balanced crossed ratings, variances of means are known: V = V_rater / R + V_item / I + V_rest / (R I)."""
    rng = np.random.default_rng(0)
    raters, items = np.repeat(np.arange(60), 50), np.tile(np.arange(50), 60)
    score = 0.6 * rng.standard_normal(60)[raters] + 0.4 * rng.standard_normal(50)[items] + rng.standard_normal(3000)
    spread = two_way(lambda w: (w @ score / w.sum(1))[:, None], raters, items, of=[np.ones((3000, 1), bool)], seed=1)
    y = score.reshape(60, 50)
    rest = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    known = y.mean(1).var(ddof=1) / 60 + y.mean(0).var(ddof=1) / 50 - rest.var(ddof=59 + 50) / 3000
    assert spread.se[0] ** 2 == pytest.approx(known, rel=0.02)
    assert spread.high[0] - spread.low[0] == pytest.approx(2 * 2.01 * spread.se[0], rel=0.06)
    again = two_way(lambda w: (w @ score / w.sum(1))[:, None], raters, items, of=[np.ones((3000, 1), bool)], seed=1)
    assert (again.low, again.high) == (spread.low, spread.high)


def test_one_rater_or_one_item_says_nothing_of_others():
    for raters, items in ((np.zeros(5, int), np.arange(5)), (np.arange(5), np.zeros(5, int))):
        spread = two_way(lambda w: w[:, :1], raters, items, of=[np.ones((5, 1), bool)], seed=0)
        assert np.isnan(spread.low).all() and np.isnan(spread.p).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_sign_flips_are_exact_where_they_can_be(values):
    found = sign_flip(np.array(values, dtype=float), seed=0)
    signs = list(itertools.product((1, -1), repeat=len(values)))
    far = sum(abs(sum(s * v for s, v in zip(sign, values, strict=True))) >= abs(sum(values)) for sign in signs)
    assert found == pytest.approx(far / len(signs))
    assert sign_flip(np.array(values) / 3, seed=0) == pytest.approx(far / len(signs)), "thirds, which are rounded"


def test_a_drawing_keeps_systems_apart_whose_names_begin_alike():
    def row(system: str, mean: float) -> dict:
        return {"system": system, "mean": mean, "low": mean - 0.2, "high": mean + 0.2}

    systems = [row("runs/quickstart/warm", 3.9), row("runs/quickstart/cold", 2.4)]
    drawn = str(listening._figure({"design": "mos", "kept": {"systems": systems}, "all": {"systems": systems}}).wide)
    assert drawn.count(">…quickstart/warm<") == drawn.count(">…quickstart/cold<") == 1
    assert "<title>runs/quickstart/cold, raters who are kept: 2.4" in drawn


def test_holm_is_stepwise_and_passes_over_what_is_missing():
    assert holm([0.01, 0.04, NAN, 0.03]) == pytest.approx([0.03, 0.06, NAN, 0.06], nan_ok=True)
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_small_version_of_the_coverage_study():
    """runs/listening_coverage.py does this a thousand times; docs/results/listening.md has the result."""
    world, hits = World(levels=(2.6, 3.4)), []
    for seed in range(40):
        table = tabulate(ratings_of(world, seed=seed, raters=20, items=20), conditions=[("system-0",), ("system-1",)])
        means = mean_scores(table, seed=seed)
        hits += [low <= t <= high for low, t, high in zip(means.low, world.truth, means.high, strict=True)]
    assert 0.87 <= np.mean(hits) <= 0.995  # 80 means, which share raters: 95 % within three standard errors


# Differences, comparisons, power


def test_differences_see_what_is_there_and_only_that():
    table = tabulate(ratings_of(World(levels=(2.6, 2.6, 3.6)), raters=40, items=40))
    found, spread = differences(table, seed=0)
    pairs = {(one.a, one.b): one for one in found}
    same, far = pairs["system-0", "system-1"], pairs["system-0", "system-2"]
    assert same.p_holm > 0.05 and same.low < 0 < same.high
    assert max(far.p_holm, far.p_items, far.p_raters) < 0.001 and far.high < -0.5
    assert (same.items, same.raters) == (40, 40)
    needs = raters_needed(spread, raters=40, items=40, targets=(0.01, 0.5, 1.0))
    assert needs[0].raters is None and needs[0].items > 40  # what the items share no number of raters makes smaller
    assert needs[1].raters >= needs[2].raters >= 2


@pytest.mark.slow
def test_more_raters_than_needed_see_the_difference_about_as_often_as_promised():
    world = World(levels=(2.6, 2.9), sd_clip=0.2)
    pilot = [differences(tabulate(ratings_of(world, seed=s, raters=30, items=30)), seed=0)[1] for s in range(8)]
    n = round(np.median([raters_needed(p, raters=30, items=30, targets=(0.3,))[0].raters or 99 for p in pilot]))
    seen = [
        differences(tabulate(ratings_of(world, seed=100 + s, raters=n, items=30)), seed=0)[0][0].p < 0.05
        for s in range(40)
    ]
    assert 0.55 <= np.mean(seen) <= 0.97, n


def comparisons(rates: dict[tuple[str, str], float], *, raters: int = 20, each: int = 6, seed: int = 0) -> list[Rating]:
    rng = np.random.default_rng(seed)
    out = []
    for rater, ((a, b), rate) in itertools.product(range(raters), rates.items()):
        for step in range(each):
            u = rng.random()
            score = 0.0 if u > 0.9 else 1.0 if rng.random() < rate else -1.0
            out.append(
                Rating(
                    f"r{rater}", "rating", f"i{(rater * each + step) % 30}", a, b, score, answer=int(rng.integers(3))
                )
            )
    return out


def test_preferences_and_one_scale_for_all():
    rates = {("a", "b"): 0.73, ("b", "c"): 0.73, ("a", "c"): 0.88}  # odds of e to one, twice
    table = tabulate(comparisons(rates))
    found = {(one.a, one.b): one for one in preferences(table, seed=0)}
    for pair, one in found.items():
        assert one.low <= 0.9 * rates[pair] + 0.05 <= one.high and one.p_holm < 0.01 and 0.02 < one.ties < 0.2
    scale = bradley_terry(table, seed=0)
    assert [one.system for one in scale] == ["a", "b", "c"]
    assert sum(one.strength for one in scale) == pytest.approx(0, abs=1e-6)
    assert all(one.low < one.strength < one.high for one in scale)
    assert bradley_terry(tabulate(comparisons({("a", "b"): 0.5, ("c", "d"): 0.5})), seed=0) == []


def test_bradley_terry_is_the_likeliest():
    from scipy.optimize import minimize

    wins = np.array([[0, 8, 6.5], [2, 0, 7], [3.5, 1, 0]])

    def loss(s: np.ndarray) -> float:
        return float(
            sum((wins[i, j] + 0.1) * np.logaddexp(0, s[j] - s[i]) for i in range(3) for j in range(3) if i != j)
        )

    best = minimize(loss, np.zeros(3), method="BFGS").x
    assert strengths(wins[None])[0] == pytest.approx(best - best.mean(), abs=1e-3)


@pytest.mark.slow
def test_the_mixed_model_finds_the_parts_it_was_made_of():
    world = World(levels=(2.5, 3.0, 3.5), sd_view=0.0)
    table = tabulate(ratings_of(world, raters=30, items=24, per_system=6))
    found = mixed_model(table)
    assert found.converged
    for one, (name,) in zip(found.systems, table.conditions, strict=True):
        assert abs(one.mean - world.truth[int(name[-1])]) < 3.5 * one.se
    assert found.sd_raters == pytest.approx(0.5, abs=0.2) and found.sd_rest == pytest.approx(0.75, abs=0.12)


# Exclusions


def test_rules_find_spammers_and_leave_honest_raters():
    study = simulate(World(spammers=0.25), raters=60, items=30, per_system=5, seed=2)
    verdicts = judge(as_ratings(study), Rules(correlation=0.2))
    out = np.array([bool(v.broken) for v in verdicts])
    assert out[study.spammer].mean() > 0.9 and out[~study.spammer].mean() < 0.15
    assert {r.rater for r in kept(as_ratings(study), verdicts)} == {v.rater for v in verdicts if not v.broken}


def test_each_rule_by_itself():
    def rater(name: str, **changed) -> list[Rating]:
        values = {"plays": 1, "seconds": 2.0, "took": 3.0} | changed
        scores = values.pop("scores", [1, 3, 5, 2])
        right = values.pop("right", {})
        rows = [Rating(name, "rating", f"i{i}", "s", "", float(s), answer=s, **values) for i, s in enumerate(scores)]
        return rows + [
            Rating(name, kind, "x", "s", "", 1.0, right=one, **values) for kind, of in right.items() for one in of
        ]

    ratings = [
        *rater("a-fine", right={"trap": [True, True], "gold": [True, False]}),
        *rater("a-fine-too", scores=[1, 3, 4, 2]),
        *rater("a-third", scores=[2, 3, 5, 1]),
        *rater("b-left", finished=False),
        *rater("c-trapped", right={"trap": [True, False]}),
        *rater("d-gold", right={"gold": [False, False]}),
        *rater("e-half", plays=0),
        *rater("f-fast", took=1.0),
        *rater("g-same", scores=[3, 3, 3, 3]),
        *rater("h-against", scores=[5, 3, 1, 4]),
    ]
    broken = {v.rater: v.broken for v in judge(ratings, Rules(correlation=0.3))}
    assert broken == {
        "a-fine": (), "a-fine-too": (), "a-third": (),
        "b-left": ("finished",), "c-trapped": ("traps",), "d-gold": ("gold",), "e-half": ("played",),
        "f-fast": ("played",), "g-same": ("variance",), "h-against": ("correlation",),
    }  # fmt: skip
    off = Rules(finished=False, traps=None, gold=None, played=None, variance=None)
    assert all(not v.broken for v in judge(ratings, off))
    with pytest.raises(BadInput, match="rule traps is a share"):
        Rules(traps=2.0)
    bare = [Rating("x", "rating", "i", "s", "", 4.0), Rating("x", "rating", "j", "s", "", 2.0)]
    assert judge(bare, Rules())[0].broken == ()  # rules about what is not known do not apply
    same = [Rating("x", "rating", f"i{i}", "a", "b", 1.0) for i in range(8)]  # "a" won; what was clicked is not told
    assert judge(same, Rules())[0].broken == ()
    assert judge([one._replace(answer=1) for one in same], Rules())[0].broken == ("variance",)


# Files of other tools


def test_webmushra_s_files(tmp_path):
    head = "session_test_id,email,age,session_uuid,trial_id,rating_stimulus,rating_score,rating_time,rating_comment\n"
    rows = [
        't,a@b,30,u1,trial1,C1,80,123,""',
        't,a@b,30,u1,trial1,reference,100,1,"x, y"',
        "t,c@d,31,u2,trial1,C1,60,9,",
    ]
    (tmp_path / "mushra.csv").write_text(head + "\n".join(rows) + "\n")
    found, _ = read_results(tmp_path / "mushra.csv", clip_pattern=None)
    assert [(r.rater, r.item, r.system, r.score) for r in found] == [
        ("rater-0001", "trial1", "C1", 80.0),
        ("rater-0001", "trial1", "reference", 100.0),
        ("rater-0002", "trial1", "C1", 60.0),
    ]
    assert not any("@" in str(value) for r in found for value in r)
    head = "session_test_id,name,trial_id,stimuli_rating,stimuli,rating_time\n"
    (tmp_path / "lss.csv").write_text(head + 't,ann,x1," 4 ",warm_07,5\nt,bob,x1," 2 ",cold_07,5\n')
    found, _ = read_results(tmp_path / "lss.csv", clip_pattern=r"(?P<system>\w+)_(?P<item>\d+)")
    assert [(r.rater, r.system, r.item, r.score) for r in found] == [
        ("rater-0001", "warm", "07", 4.0),
        ("rater-0002", "cold", "07", 2.0),
    ]
    paired = (
        "session_test_id,name,trial_id,choice_reference,choice_non_reference,choice_answer,choice_time,choice_comment\n"
    )
    said = ("correct", "incorrect", "undecided", "unknown")
    rows = [f"t,ann,x{i},A,B,{answer},1,\n" for i, answer in enumerate(said)]
    (tmp_path / "paired_comparison.csv").write_text(paired + "".join(rows))
    found, _ = read_results(tmp_path / "paired_comparison.csv", clip_pattern=None)
    assert [(r.system, r.other, r.score) for r in found] == [("A", "B", 1.0), ("A", "B", -1.0), ("A", "B", 0.0)]
    turned = "t,ann,x9,B,A,correct,1,\n"  # the other was the reference: the same condition
    (tmp_path / "paired_comparison.csv").write_text(paired + rows[0] + turned)
    found, _ = read_results(tmp_path / "paired_comparison.csv", clip_pattern=None)
    assert [(r.system, r.other, r.score) for r in found] == [("A", "B", 1.0), ("A", "B", -1.0)]
    (tmp_path / "nobody.csv").write_text("session_test_id,trial_id,stimuli_rating,stimuli,rating_time\nt,x1, 4 ,w,5\n")
    with pytest.raises(BadInput, match="nothing tells raters apart"):
        read_results(tmp_path / "nobody.csv", clip_pattern=None)


P808 = r"/(?P<system>C\d+)_(?P<item>\w+)\.wav"


def test_p808_s_batches_and_votes(tmp_path):
    clips = ["https://x.org/C01_a.wav", "https://x.org/trap.wav", "https://x.org/gold.wav", "https://x.org/C02_a.wav"]
    names = ["WorkerId", "AssignmentStatus", "Input.tp", "Input.tp_ans", "Input.gold_clips", "Input.gold_clips_ans"]
    names += [f"Answer.{part}" for q in range(1, 5) for part in (f"q{q}", f"q{q}_url", f"audio_n_finish_q{q}")]
    answers = {"W1": (4, 2, 4, 3), "W2": (5, 5, 1, 1)}
    rows = []
    for worker, scores in answers.items():
        cells = itertools.chain(*((answer, url, 1) for answer, url in zip(scores, clips, strict=True)))
        rows.append([worker, "Submitted", clips[1], 2, clips[2], 5, *cells])
    (tmp_path / "batch.csv").write_text("\ufeff" + "\n".join(",".join(map(str, row)) for row in (names, *rows)) + "\n")
    found, _ = read_results(tmp_path / "batch.csv", clip_pattern=P808)
    assert [(r.rater, r.kind, r.system, r.score, r.right) for r in found] == [
        ("rater-0001", "rating", "C01", 4.0, None), ("rater-0001", "trap", "check", 2.0, True),
        ("rater-0001", "gold", "check", 4.0, True), ("rater-0001", "rating", "C02", 3.0, None),
        ("rater-0002", "rating", "C01", 5.0, None), ("rater-0002", "trap", "check", 5.0, False),
        ("rater-0002", "gold", "check", 1.0, False), ("rater-0002", "rating", "C02", 1.0, None),
    ]  # fmt: skip
    assert [v.broken for v in judge(found, Rules())] == [(), ("traps", "gold")]
    (tmp_path / "votes.csv").write_text("HITId,workerid,file,vote\nh,W9,https://x.org/C01_b.wav,5\n")
    (only,), _ = read_results(tmp_path / "votes.csv", clip_pattern=P808)
    assert (only.rater, only.system, only.item, only.score) == ("rater-0001", "C01", "b", 5.0)


@pytest.mark.parametrize(
    ("content", "pattern", "said"),
    [
        ("a,b\n1,2\n", None, "no known kind"),
        ("", None, "there is no rating in it"),
        ("workerid,file,vote\nw,/C1_a.wav,x\n", P808, "row 2: 'x' is not a score"),
        ("workerid,file,vote\nw,/C1_a.wav,nan\n", P808, "row 2: 'nan' is not a score"),
        ("other,answer.q1_url\nw,/C1_a.wav\n", P808, "no known kind"),
        ("workerid,file,vote\nw,/else.wav,1\n", P808, "does not find a system and an item"),
        ("workerid,file,vote\nw,/C1_a.wav\n", P808, "row 2: 2 cells under 3"),
        ("workerid,file,vote\nw,/C1_a.wav,1\n", None, "give --clip-pattern"),
        ("workerid,file,vote\nw,/C1_a.wav,1\n", "(", "no regular expression"),
        ("workerid,file,vote\nw,/C1_a.wav,1\n", "a", "needs two groups"),
    ],
)
def test_files_that_cannot_be_used_are_refused_with_a_reason(tmp_path, content, pattern, said):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(BadInput, match=said.replace("(", r"\(") if said != "no regular expression" else said):
        read_results(tmp_path / "x.csv", clip_pattern=pattern)


# All of it


def test_everything_is_said_with_and_without_the_excluded(tmp_path):
    ratings = ratings_of(World(spammers=0.2), seed=3)
    results = analyse(ratings, conditions=[("system-3",)], rules=Rules(), mixed=False, seed=0)
    assert results["kept"]["systems"][0]["system"] == "system-3"
    out = sum(bool(one["broken"]) for one in results["raters"])
    assert 0 < out == results["all"]["raters"] - results["kept"]["raters"]
    json.dumps(results, allow_nan=False)
    with pytest.raises(BadInput, match=r"leave out every rater .*variance 24"):
        analyse(ratings, rules=Rules(variance=9.0), mixed=False, seed=0)
    with pytest.raises(BadInput, match="no ratings are left"):
        analyse([], rules=Rules(), mixed=False, seed=0)
    results["study"] = {"question": "<b>How</b> much?"}
    page = write_page(results, tmp_path / "report.html").read_text()
    assert "&lt;b&gt;How" in page and "<b>How" not in page and "http" not in page.replace("http://www.w3.org", "")
    assert "raters are left out" in text(results) and "How many raters it takes" in page
    ab = analyse(comparisons({("a", "b"): 0.7, ("b", "c"): 0.6}), rules=Rules(), mixed=True, seed=0)
    ab["study"] = {"question": ""}
    assert "One scale for all" in write_page(ab, tmp_path / "ab.html").read_text() and "a over b" in text(ab)


def test_formulas_in_names_do_not_run_in_spreadsheets(tmp_path):
    write_csv([Rating("r", "rating", "=cmd()", "+s", "", -1.0)], tmp_path / "r.csv")
    assert "r,rating,'=cmd(),'+s,,-1.0" in (tmp_path / "r.csv").read_text()


def test_the_verb_analyses_a_file_and_writes_all_there_is(tmp_path, twist):  # noqa: F811
    rows = ["workerid,file,vote"]
    for one in ratings_of(World(), raters=8, items=10, per_system=4):
        if one.kind == "rating":
            rows.append(f"{one.rater},/{one.system}__{one.item}.wav,{one.score}")
    (tmp_path / "votes.csv").write_text("\n".join(rows) + "\n")
    command = ["listen", "analyse", tmp_path / "votes.csv", "--no-mixed"]
    command += ["--clip-pattern", r"/(?P<system>[\w-]+)__(?P<item>[\w-]+)\.wav"]
    said = twist(*command).out
    out = tmp_path / "votes-analysis"
    assert "system-3" in said and str(out / "report.html") in said
    assert {p.name for p in out.iterdir()} == {"results.json", "ratings.csv", "ratings.parquet", "report.html"}
    assert len((out / "ratings.csv").read_text().splitlines()) == len(rows)
    twist(*command, "--out", tmp_path).refused("is there and is no analysis")
