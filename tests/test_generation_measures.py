"""The measures of what is said, against published test vectors and slow ways of counting."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from twistlm.audio.clip import Clip
from twistlm.errors import BadInput
from twistlm.evaluate.generation import ngrams, perplexities
from twistlm.evaluate.generation.hearing import Pipeline

NAN = math.nan
VECTORS = [  # text; GSLM's auto-BLEU A2, A3, G2, G3; SlamKit's of order 2: made with the fields' own code
    ("a", 0, 0, 0, 0, 0),
    ("a b", 0, NAN, 0, NAN, 0),
    ("a a", 0.5, NAN, 0, NAN, 0),
    ("a a a", 0.5, 1 / 3, 0, 0, 1.0),
    ("a b a b", 5 / 6, 5 / 9, math.sqrt(2 / 3), 0, 2 / 3),
    ("a b c a b c", 0.9, (1 + 0.8 + 0.5) / 3, math.sqrt(0.8), 0.4 ** (1 / 3), 0.8),
    ("the cat sat on the mat the cat sat", 0.6389, 0.5212, 0.6236, 0.4807, 0.5),
]
CORPUS = ["the cat sat on the mat", "the dog sat on the mat", "a bird flew", "", "hello"]
texts = st.lists(st.sampled_from("abc"), max_size=9)


@pytest.mark.parametrize(("text", "a2", "a3", "g2", "g3", "slamkit"), VECTORS)
def test_auto_bleu_has_the_published_values(text, a2, a3, g2, g3, slamkit):
    tokens = text.split()
    found = [ngrams.auto_bleu_gslm(tokens, n=n, mean=mean) for mean in ("arithmetic", "geometric") for n in (2, 3)]
    close = 1e-9 if len(tokens) != 9 else 5e-5  # the last one was written down with four digits
    np.testing.assert_allclose(found, [a2, a3, g2, g3], atol=close, rtol=0)
    assert ngrams.auto_bleu_slamkit(tokens, n=2) == pytest.approx(slamkit, abs=1e-9)


def test_self_bleu_has_the_published_values():
    corpus = [text.split() for text in CORPUS]
    root = math.sqrt(0.5)
    np.testing.assert_allclose(ngrams.self_bleu(corpus, n=2, mean="geometric"), [root, root, 0, 0, 0], atol=1e-9)
    half = (5 / 6 + 3 / 5) / 2
    np.testing.assert_allclose(ngrams.self_bleu(corpus, n=2, mean="arithmetic"), [half, half, 0, 0, 0], atol=1e-9)


def test_the_published_oracle_gives_the_published_vert():
    assert 100 * ngrams.vert([0.582], [0.0649]) == pytest.approx(19.43, abs=0.01)  # GSLM's notebook, test-clean


@given(texts, st.integers(1, 4), st.sampled_from(["geometric", "arithmetic"]))
def test_gslm_auto_bleu_equals_counting_each_side_word_by_word(tokens, n, mean):
    def share(order):
        grams = [tokens[i : i + order] for i in range(len(tokens) - order + 1)]
        if not grams:
            return NAN
        again = 0
        for i, gram in enumerate(grams):
            left, right = tokens[:i], tokens[i + order :]
            again += any(side[j : j + order] == gram for side in (left, right) for j in range(len(side) - order + 1))
        return again / len(grams)

    found = ngrams.auto_bleu_gslm(tokens, n=n, mean=mean)
    if len(tokens) <= 1:
        assert found == 0
        return
    shares = [share(order) for order in range(1, n + 1)]
    slow = sum(shares) / n if mean == "arithmetic" else math.prod(shares) ** (1 / n)
    np.testing.assert_allclose(found, slow, atol=1e-9)


@given(texts, st.integers(1, 3))
def test_slamkit_auto_bleu_equals_looking_at_every_other_position(tokens, n):
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    slow = sum(any(a == b for j, b in enumerate(grams) if j != i) for i, a in enumerate(grams))
    assert ngrams.auto_bleu_slamkit(tokens, n=n) == pytest.approx(slow / max(1, len(grams)), abs=1e-9)


def slow_bleu(hypothesis, references, n):
    """BLEU without brevity penalty, each reference searched for each n-gram."""
    shares = []
    for order in range(1, n + 1):
        grams = [tuple(hypothesis[i : i + order]) for i in range(len(hypothesis) - order + 1)]
        hits = 0
        for gram, count in Counter(grams).items():
            most = 0
            for other in references:
                most = max(most, sum(tuple(other[j : j + order]) == gram for j in range(len(other))))
            hits += min(count, most)
        shares.append(hits / max(1, len(grams)))
    return (math.prod(shares) ** (1 / n), sum(shares) / n) if shares[0] else (0.0, 0.0)


@settings(max_examples=60)
@given(st.lists(texts, min_size=1, max_size=6), st.integers(1, 3))
def test_self_bleu_equals_bleu_against_all_others(corpus, n):
    slow = [slow_bleu(text, corpus[:i] + corpus[i + 1 :], n) for i, text in enumerate(corpus)]
    for place, mean in enumerate(("geometric", "arithmetic")):
        found = ngrams.self_bleu(corpus, n=n, mean=mean)
        np.testing.assert_allclose(found, [one[place] for one in slow], atol=1e-9)


@given(texts, st.lists(texts, min_size=1, max_size=4))
def test_cont_bleu_has_the_truth_as_hypothesis(truth, samples):
    assert ngrams.cont_bleu(truth, samples) == pytest.approx(slow_bleu(truth, samples, 2)[0], abs=1e-9)


@given(st.lists(texts, max_size=5), st.integers(1, 3))
def test_distinct_and_repetition_count_sets(corpus, n):
    grams = [[tuple(t[i : i + n]) for i in range(len(t) - n + 1)] for t in corpus]
    every = [gram for one in grams for gram in one]
    slow = len(set(every)) / len(every) if every else NAN
    np.testing.assert_allclose(ngrams.distinct(corpus, n=n), slow, atol=1e-9)
    for text, one in zip(corpus, grams, strict=True):
        seen, again = [], 0
        for gram in one:
            again += gram in seen
            seen.append(gram)
        assert ngrams.repetition(text, n=n) == pytest.approx(again / max(1, len(one)), abs=1e-9)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_vert_is_of_the_corpus_and_the_other_one_of_texts(pairs):
    s, a = [one for one, _ in pairs], [one for _, one in pairs]
    assert ngrams.vert(s, a) == pytest.approx(((sum(s) / len(s)) * (sum(a) / len(a))) ** 0.5, abs=1e-9)
    slow = sum((x * y) ** 0.5 for x, y in pairs) / len(pairs)
    assert ngrams.vert_of_texts(s, a) == pytest.approx(slow, abs=1e-9)


def test_measures_of_nothing_say_so():
    with pytest.raises(BadInput, match="order"):
        ngrams.auto_bleu_slamkit("ab", n=0)
    with pytest.raises(BadInput, match="at least one sample"):
        ngrams.cont_bleu("ab", [])
    with pytest.raises(BadInput, match="same texts"):
        ngrams.vert([], [])
    with pytest.raises(BadInput, match="nothing was said"):
        perplexities.ppx([NAN, NAN])


@given(st.lists(st.floats(0, 8), min_size=1, max_size=20))
def test_the_two_perplexities_are_what_their_names_say(losses):
    assert perplexities.gen_ppl(losses) == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-9)
    slow = sum(math.exp(x) for x in losses) / len(losses)
    assert perplexities.mean_ppl(losses) == pytest.approx(slow, rel=1e-9)
    assert perplexities.mean_ppl(losses) >= perplexities.gen_ppl(losses) * (1 - 1e-12)
    found = perplexities.ppx([*losses, NAN])
    assert (found.n, found.n_without) == (len(losses), 1)
    assert found.mean == pytest.approx(slow, rel=1e-9)
    variance = sum((math.exp(x) - slow) ** 2 for x in losses) / len(losses)
    assert found.sem == pytest.approx(math.sqrt(variance / len(losses)), rel=1e-6, abs=1e-9)


def test_one_text_without_a_loss_makes_gen_ppl_undefined():
    assert math.isnan(perplexities.gen_ppl([2.0, NAN]))
    assert math.isnan(perplexities.mean_ppl([2.0, NAN]))


def test_a_curve_is_read_on_straight_lines_and_not_beyond_its_ends():
    points = perplexities.curve([0.3, 0.1, 0.2, 0.2], [400.0, 100.0, 150.0, 250.0])
    assert points.vert.tolist() == [0.1, 0.2, 0.3] and points.ppx.tolist() == [100.0, 200.0, 400.0]
    assert perplexities.ppx_at(points, 0.25) == pytest.approx(300, abs=1e-9)
    assert math.isnan(perplexities.ppx_at(points, 0.05))
    assert perplexities.vert_at(points, 300.0) == pytest.approx(0.25, abs=1e-9)
    assert math.isnan(perplexities.vert_at(points, 500.0))
    assert perplexities.area(points, low=0.15, high=0.3) == pytest.approx(0.05 * 175 + 0.1 * 300, abs=1e-9)
    with pytest.raises(BadInput, match="within it"):
        perplexities.area(points, low=0.0, high=0.3)
    with pytest.raises(BadInput, match="at least two"):
        perplexities.curve([0.1, 0.1], [3.0, 4.0])


@settings(max_examples=30)
@given(st.lists(st.floats(50, 900), min_size=4, max_size=7), st.floats(0, 1))
def test_the_area_is_the_sum_of_thin_slices_and_the_cubic_solves_its_normal_equations(ppxs, place):
    verts = np.linspace(0.05, 0.4, len(ppxs))
    points = perplexities.curve(verts, ppxs)
    low, high = 0.05 + 0.1 * place, 0.4 - 0.1 * place
    slow = integrate.quad(lambda v: perplexities.ppx_at(points, v), low, high, points=verts[1:-1], epsabs=1e-11)[0]
    assert perplexities.area(points, low=low, high=high) == pytest.approx(slow, rel=1e-9)
    # in a unit of its own, as plain powers of VERT are badly scaled
    x = (verts - 0.2) / 0.2
    powers = np.vander(x, 4)
    weights = np.linalg.solve(powers.T @ powers, powers.T @ np.asarray(ppxs))
    assert perplexities.cubic_ppx_at(points, 0.2) == pytest.approx(weights[-1], rel=1e-9)


@pytest.mark.parametrize(
    ("seconds", "many", "told"),
    [
        (2.0, True, {"generate_kwargs": {"language": "en"}}),
        (2.0, False, {}),
        (31.0, False, {"return_timestamps": True}),
        (31.0, True, {"generate_kwargs": {"language": "en"}, "return_timestamps": True}),
    ],
)
def test_a_whisper_of_transformers_is_told_only_what_it_takes(seconds: float, many: bool, told: dict) -> None:
    asked: list[dict] = []

    class Recogniser:
        type = "seq2seq_whisper"
        feature_extractor = SimpleNamespace(sampling_rate=16_000)
        model = SimpleNamespace(generation_config=SimpleNamespace(is_multilingual=many))

        def __call__(self, sound: dict, **more: object) -> dict:
            asked.append(more)
            return {"text": " yes "}

    clip = Clip(np.zeros(round(seconds * 16_000), np.float32), 16_000, id="x")
    assert Pipeline(Recogniser(), "w", "en").transcribe(clip) == "yes" and asked == [told]
