"""Held-out perplexity against a one-unit-at-a-time oracle on a tiny real model."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from twistlm.errors import BadInput, UnitSpecMismatch
from twistlm.evaluate import perplexity
from twistlm.evaluate.perplexity import among, compare, compare_per_second, heldout
from twistlm.lm.model import UnitLM
from twistlm.lm.score import SequenceScore
from twistlm.lm.vocab import Vocab
from twistlm.types import Units, UnitSpec

K = 20
SPEC = UnitSpec(
    encoder="toy", encoder_sha256="0" * 64, layer=1, tap="block_output", normalize_input=False,
    sample_rate=16_000, hop=640, n_units=K, centroids_sha256="1" * 64, deduplicate=True,
)  # fmt: skip


def tiny_lm(seed, spec=SPEC):
    config = LlamaConfig(
        vocab_size=spec.n_units + 2, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, initializer_range=0.6,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UnitLM(LlamaForCausalLM(config).float(), Vocab(spec.n_units), spec)


class Corpus(list):
    """The least a corpus is: documents and their spec."""

    spec = SPEC


def document(rng, n, name):
    ids = np.cumsum(rng.integers(1, K, size=n)) % K  # never the same unit twice in a row
    return Units(ids.astype(np.uint16), rng.integers(1, 5, size=n).astype(np.int32), SPEC, name)


def make_corpus(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return Corpus(document(rng, n, f"doc-{i}") for i, n in enumerate(lengths))


LM, OTHER = tiny_lm(1), tiny_lm(2)
CORPUS = make_corpus([7, 1, 30, 12, 25])


@torch.no_grad()
def oracle(lm, units, *, include_end):
    """-log p of each token, each from a forward pass of its own over what comes before it."""
    tokens, out = [1, *(int(u) + 2 for u in units)], []
    for i, target in enumerate([*tokens[1:], 1] if include_end else tokens[1:]):
        logits = lm.model(torch.tensor([tokens[: i + 1]])).logits[0, -1].double()
        out.append(float(logits.logsumexp(0) - logits[target]))
    return out


@pytest.mark.parametrize("include_end", [False, True])
def test_equals_the_oracle_with_long_documents_cut_in_windows(include_end):
    losses = []
    for units in CORPUS:
        windows = [units.ids[s : s + 10] for s in range(0, len(units), 10)]
        for i, window in enumerate(windows):
            losses += oracle(LM, window, include_end=include_end and i == len(windows) - 1)
    found = heldout(LM, CORPUS, max_units=10, include_end=include_end)
    assert found.nll == pytest.approx(np.mean(losses), abs=1e-5)
    assert found.n_units == len(losses) == 75 + 5 * include_end
    assert found.ppl == pytest.approx(math.exp(found.nll))
    assert found.n_documents == 5 and found.n_cut == 3
    assert f"{3} of 5 documents cut" in found.protocol
    seconds = sum(int(u.runs.sum()) for u in CORPUS) / 25
    assert found.bits_per_second == pytest.approx(sum(losses) / math.log(2) / seconds, rel=1e-5)
    assert found.nll_per_second == pytest.approx(sum(losses) / seconds, rel=1e-5)
    assert found.bits_per_second_ci[0] < found.bits_per_second < found.bits_per_second_ci[1]
    assert found.unit_spec == SPEC.fingerprint


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity():
    lm = tiny_lm(0)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.zero_()
    found = heldout(lm, CORPUS, max_units=100, include_end=False)
    assert found.ppl == pytest.approx(K + 2, rel=1e-5)
    assert found.ppl_ci == pytest.approx((K + 2, K + 2), rel=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.integers(1, 50), st.randoms())
def test_every_unit_is_predicted_once_and_order_does_not_matter(lengths, max_units, shuffler):
    corpus = make_corpus(lengths, seed=3)
    found = heldout(LM, corpus, max_units=max_units, include_end=False, n_resamples=100)
    assert found.n_units == sum(lengths)
    assert found.ci[0] - 1e-9 <= found.nll <= found.ci[1] + 1e-9 or len(lengths) < 4
    shuffled = Corpus(shuffler.sample(corpus, len(corpus)))
    again = heldout(LM, shuffled, max_units=max_units, include_end=False, n_resamples=100, batch_tokens=64)
    assert again.nll == pytest.approx(found.nll, abs=1e-5)


def test_a_single_document_has_no_interval():
    found = heldout(LM, make_corpus([12]), max_units=100, include_end=False)
    assert math.isfinite(found.ppl) and all(map(math.isnan, (*found.ci, *found.ppl_ci)))


def test_a_model_that_has_blown_up_has_infinite_perplexity(monkeypatch):
    scored = [SequenceScore(-900.0 * 4, 4, np.full(4, -900, np.float32))] * 2
    monkeypatch.setattr(perplexity, "score", lambda _lm, rows, **_: scored[: len(rows)])
    found = heldout(LM, make_corpus([4, 4]), max_units=10, include_end=False)
    assert (found.nll, found.ppl, found.ppl_ci) == (900.0, math.inf, (math.inf, math.inf))


def test_without_a_start_a_document_of_one_unit_is_named():
    lm = dataclasses.replace(LM, vocab=dataclasses.replace(LM.vocab, bos=None, eos=None))
    with pytest.raises(BadInput, match="no <s>, so documents of one unit are not predicted: doc-1"):
        heldout(lm, make_corpus([4, 1, 4]), max_units=10, include_end=False)


def test_units_of_another_tokenizer_are_refused():
    corpus = make_corpus([5, 5])
    corpus.spec = dataclasses.replace(SPEC, layer=2)
    with pytest.raises(UnitSpecMismatch, match="layer is 1 in the language model and 2 in the held-out corpus"):
        heldout(LM, corpus, max_units=10, include_end=False)


def test_unusable_input_is_named():
    with pytest.raises(BadInput, match="no documents"):
        heldout(LM, Corpus(), max_units=10, include_end=False)
    with pytest.raises(BadInput, match="max_units is 0"):
        heldout(LM, CORPUS, max_units=0, include_end=False)
    with pytest.raises(BadInput, match="without units: doc-1"):
        heldout(LM, make_corpus([4, 0, 4]), max_units=10, include_end=False)
    broken = tiny_lm(0)
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(BadInput, match="not finite"):
        heldout(broken, CORPUS, max_units=10, include_end=False)


def test_comparison_is_paired_by_document():
    a, b = (heldout(lm, CORPUS, max_units=40, include_end=False) for lm in (LM, OTHER))
    result = compare(a, b)
    assert result.mean == pytest.approx(a.nll - b.nll)
    assert compare(b, a).mean == pytest.approx(-result.mean)
    assert compare(a, a) == (0.0, (0.0, 0.0), 1.0)
    with pytest.raises(BadInput, match="same documents"):
        compare(a, heldout(LM, CORPUS, max_units=40, include_end=True))


def test_some_of_the_documents_equal_a_corpus_of_just_those():
    whole = heldout(LM, CORPUS, max_units=10, include_end=False, seed=3)
    some = Corpus(CORPUS[1:3])
    some.spec = CORPUS.spec
    alone, part = (
        heldout(LM, some, max_units=10, include_end=False, seed=3),
        among(whole, {u.id for u in some}, seed=3),
    )
    assert (part.n_units, part.n_documents, part.n_cut, part.protocol) == (
        alone.n_units,
        alone.n_documents,
        alone.n_cut,
        alone.protocol,
    )
    np.testing.assert_allclose(
        [part.nll, *part.ci, part.bits_per_second], [alone.nll, *alone.ci, alone.bits_per_second], rtol=1e-6
    )
    with pytest.raises(BadInput, match="none of the 1"):
        among(whole, {"elsewhere"})


def test_seconds_compare_across_tokenizers():
    coarse = dataclasses.replace(SPEC, n_units=8, centroids_sha256="2" * 64)
    other = Corpus(
        Units(u.ids % 7, u.runs, coarse, u.id) for u in reversed(make_corpus([7, 1, 30, 12, 25]))
    )  # the same clips in another order
    other.spec = coarse
    a = heldout(LM, CORPUS, max_units=40, include_end=False)
    b = heldout(tiny_lm(3, coarse), other, max_units=40, include_end=False)
    gap = compare_per_second(a, b)
    assert gap.mean == pytest.approx(a.bits_per_second - b.bits_per_second)
    assert gap.ci[0] < gap.mean < gap.ci[1] and compare_per_second(b, a).mean == pytest.approx(-gap.mean)
    assert a.nll_per_second_ci == pytest.approx([end * math.log(2) for end in a.bits_per_second_ci])
    with pytest.raises(BadInput, match="different units"):
        compare(a, b)
    with pytest.raises(BadInput, match="only 4 documents are in both"):
        compare_per_second(a, among(b, {f"doc-{i}" for i in range(4)}))
    longer = dataclasses.replace(b, documents=tuple(dataclasses.replace(d, seconds=d.seconds + 1) for d in b.documents))
    with pytest.raises(BadInput, match="5 documents are not equally long"):
        compare_per_second(a, longer)
