"""The texts of the bundled benchmarks: their form, and that nothing but their meaning tells right from wrong.

A paired test says that neither side is systematically longer or made of commoner words; a bag-of-words classifier,
tested on stories and pairs that it was not trained on, says that no word gives a side away.
"""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, wilcoxon
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "assets" / "make"))
import blimp
import blimp_frames

from twistlm.errors import ArtifactError

MAKE = Path(blimp.__file__).parent
PROMPT = ["sentence1", "sentence2", "sentence3", "sentence4"]
NEGATIONS = {"not", "no", "never", "none", "nobody", "nothing", "neither", "nor", "without", "hardly", "cannot"}
FOLDS = 5
FRAMES = [frame for frames in blimp.PHENOMENA.values() for frame in frames]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def stories() -> list[dict[str, str]]:
    with (MAKE / "stories.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def column(name: str) -> list[str]:
    return [story[name] for story in stories()]


def held_out_hits(right: Sequence[str], wrong: Sequence[str], *, ngrams: int) -> float:
    """Pairs that a classifier of word n-grams, trained on the other folds, decides rightly; ties count half."""
    folds = np.random.default_rng(0).permutation(len(right)) % FOLDS
    hits = 0.0
    for fold in range(FOLDS):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        bag = CountVectorizer(token_pattern=r"[a-z']+", ngram_range=(1, ngrams))
        counts = bag.fit_transform([side[i] for side in (right, wrong) for i in train])
        model = LogisticRegression(max_iter=1000).fit(counts, np.repeat([1, 0], len(train)))
        margins = [model.decision_function(bag.transform([side[i] for i in test])) for side in (right, wrong)]
        hits += float(np.sum((1 + np.sign(np.round(margins[0] - margins[1], 9))) / 2))
    return hits


def p_above_chance(hits: float, n: int) -> float:
    return float(binomtest(round(hits), n, 0.5, alternative="greater").pvalue)


def commonness(text: str, counts: Counter[str]) -> float:
    """Mean log count of the words of `text`, plus one; nats."""
    return sum(math.log1p(counts[word]) for word in words(text)) / len(words(text))


# --- stories -------------------------------------------------------------------------------------------------------


def test_stories_have_their_columns_and_are_many_and_varied() -> None:
    rows = stories()
    assert list(rows[0]) == ["id", "topic", *PROMPT, "right", "wrong"]
    assert len(rows) >= 320 and len({row["id"] for row in rows}) == len(rows)
    topics = Counter(row["topic"] for row in rows)
    assert len(topics) >= 40 and max(topics.values()) <= 10
    openings = Counter(" ".join(words(row["sentence1"])[:2]) for row in rows)
    assert max(openings.values()) <= 12, openings.most_common(5)


def test_no_sentence_stands_twice() -> None:
    counts = Counter(" ".join(words(row[name])) for row in stories() for name in [*PROMPT, "right", "wrong"])
    assert [sentence for sentence, count in counts.items() if count > 1] == []


def test_sentences_are_short_and_plain() -> None:
    for row in stories():
        for name in [*PROMPT, "right", "wrong"]:
            assert re.fullmatch(r"[A-Z][A-Za-z', ]*[.?]", row[name]), (row["id"], name)
            assert 6 <= len(row[name].split()) <= 14, (row["id"], name)
            assert not re.search(r"  |\b(?:[B-HJ-Z]|Mr|Mrs|Ms|Dr|St)\b", row[name]), (row["id"], name)


def test_both_endings_are_equally_long() -> None:
    right, wrong = column("right"), column("wrong")
    gaps = np.array([len(a.split()) - len(b.split()) for a, b in zip(right, wrong, strict=True)])
    assert np.abs(gaps).max() <= 2 and abs(gaps.mean()) < 0.1
    assert wilcoxon(gaps).pvalue > 0.05
    assert wilcoxon([len(a) - len(b) for a, b in zip(right, wrong, strict=True)]).pvalue > 0.05


def test_the_endings_alone_do_not_tell_which_is_right() -> None:
    right, wrong = column("right"), column("wrong")
    for ngrams in (1, 2):
        hits = held_out_hits(right, wrong, ngrams=ngrams)
        assert p_above_chance(hits, len(right)) > 0.05, (ngrams, hits / len(right))


def test_neither_ending_repeats_more_of_the_story() -> None:
    gaps = []
    for row in stories():
        told = {word for name in PROMPT for word in words(row[name])}
        repeated = [np.mean([word in told for word in words(row[side])]) for side in ("right", "wrong")]
        gaps.append(repeated[0] - repeated[1])
    assert wilcoxon(gaps).pvalue > 0.05


def test_neither_ending_has_commoner_words_or_more_negation() -> None:
    right, wrong = column("right"), column("wrong")
    counts = Counter(word for name in PROMPT for text in column(name) for word in words(text))
    gaps = [commonness(a, counts) - commonness(b, counts) for a, b in zip(right, wrong, strict=True)]
    assert wilcoxon(gaps).pvalue > 0.05
    negated = [sum(word in NEGATIONS for text in side for word in words(text)) for side in (right, wrong)]
    assert binomtest(negated[0], sum(negated)).pvalue > 0.05, negated


@pytest.mark.parametrize("mark", ["never", "sadly"])
def test_the_classifier_finds_a_mark_on_a_quarter_of_the_endings(mark: str) -> None:
    right, wrong = column("right"), column("wrong")
    marked = [text.replace(".", f" {mark}.") if i % 4 == 0 else text for i, text in enumerate(wrong)]
    assert p_above_chance(held_out_hits(right, marked, ngrams=1), len(right)) < 0.01


# --- minimal pairs -------------------------------------------------------------------------------------------------


def test_pairs_are_many_and_over_many_phenomena() -> None:
    rows = blimp.build(seed=0)
    assert len(rows) >= 600 and len({row["id"] for row in rows}) == len(rows)
    assert all(list(row) == ["id", "phenomenon", "type", "good", "bad"] for row in rows)
    assert len({row["phenomenon"] for row in rows}) >= 12
    types = Counter(row["type"] for row in rows)
    assert len(types) == len(FRAMES) and max(types.values()) <= 60


def test_sentences_of_pairs_are_plain_unique_and_equally_long() -> None:
    rows = blimp.build(seed=0)
    sides = [row[side] for row in rows for side in ("good", "bad")]
    assert len(set(sides)) == len(sides)
    assert all(re.fullmatch(r"[A-Z][A-Za-z, ]*[.?]", side) and "  " not in side for side in sides)
    for row in rows:
        assert len(row["good"].split()) == len(row["bad"].split()), row
    letters = [len(row["good"]) - len(row["bad"]) for row in rows]
    assert wilcoxon(letters).pvalue > 0.05


def test_single_words_do_not_tell_the_good_side() -> None:
    rows = blimp.build(seed=0)
    good, bad = [row["good"] for row in rows], [row["bad"] for row in rows]
    counts = Counter(word for side in (good, bad) for text in side for word in words(text))
    gaps = [commonness(a, counts) - commonness(b, counts) for a, b in zip(good, bad, strict=True)]
    commoner = np.mean([(1 + np.sign(round(gap, 12))) / 2 for gap in gaps])
    assert 0.45 < commoner < 0.55
    # Sides with the same words are ties of any bag of words; the classifier is asked about the others.
    apart = [i for i in range(len(rows)) if Counter(words(good[i])) != Counter(words(bad[i]))]
    hits = held_out_hits([good[i] for i in apart], [bad[i] for i in apart], ngrams=1)
    assert len(apart) > 300 and p_above_chance(hits, len(apart)) > 0.05, hits / len(apart)


def test_the_seed_decides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        monkeypatch.setattr(sys, "argv", ["blimp.py", "--out", str(tmp_path / name), "--seed", str(seed)])
        assert blimp.main() == 0
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1] != files[2]
    assert [json.loads(line) for line in files[0].splitlines()] == blimp.build(seed=0)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FRAMES), st.integers(0, 10**6), st.booleans())
def test_a_frame_gives_two_sides_that_differ_in_little(frame: blimp_frames.Frame, seed: int, flip: bool) -> None:
    good, bad = (text[:-1].replace(",", "").split() for text in frame(blimp_frames.Draw(str(seed)), flip))
    assert good != bad and len(good) == len(bad)
    assert sum((Counter(good) - Counter(bad)).values()) <= 1  # one word exchanged, or another order
    assert frame(blimp_frames.Draw(str(seed)), flip) == frame(blimp_frames.Draw(str(seed)), flip)


def test_lists_too_short_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blimp, "PER_TYPE", 100_000)
    with pytest.raises(ArtifactError, match=r"enough: no new pair after \d+ .* lengthen them"):
        blimp.pairs_of(blimp.syntax.enough, seed=0, taken=set())
