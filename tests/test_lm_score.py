"""Scores equal a one-token-at-a-time oracle and depend on nothing else in the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from test_lm_model import KINDS, make_spec, make_text_lm
from twistlm.errors import BadInput
from twistlm.lm.model import UnitLM
from twistlm.lm.score import score
from twistlm.lm.vocab import Vocab
from twistlm.lm.warmstart import warm_start


@pytest.fixture(scope="module", params=KINDS)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> UnitLM:
    folder: Path = make_text_lm(tmp_path_factory.mktemp("text"), request.param)
    return warm_start(folder, make_spec(), rows="mean", seed=0)


def oracle(lm: UnitLM, units: np.ndarray, include_end: bool) -> list[float]:
    """log p of each token by one forward pass of plain transformers for each prefix."""
    tokens = [1, *(int(u) + 2 for u in units)] + [1] * include_end
    with torch.no_grad():
        return [
            float(lm.model(torch.tensor([tokens[:i]])).logits[0, -1].double().log_softmax(0)[tokens[i]])
            for i in range(1, len(tokens))
        ]


@settings(max_examples=8, deadline=None, database=None)
@given(
    sequences=st.lists(st.lists(st.integers(0, 29), min_size=1, max_size=12), min_size=1, max_size=5),
    batch_tokens=st.sampled_from([1, 20, 8192]),
    include_end=st.booleans(),
)
def test_equals_the_oracle_in_any_batch(lm: UnitLM, sequences: list, batch_tokens: int, include_end: bool) -> None:
    arrays = [np.array(s, dtype=np.uint16) for s in sequences]
    scores = score(lm, arrays, include_end=include_end, batch_tokens=batch_tokens)
    assert len(scores) == len(arrays)
    for units, original, found in zip(arrays, sequences, scores, strict=True):
        expected = oracle(lm, units, include_end)
        np.testing.assert_allclose(found.token_logprobs, expected, atol=1e-4)
        assert found.n == len(expected) == len(units) + include_end
        assert found.sum_logprob == pytest.approx(sum(expected), abs=1e-3)
        assert found.sum_logprob == pytest.approx(found.n * found.mean_logprob)
        assert units.tolist() == original


def test_batch_order_and_size_do_not_matter(lm: UnitLM) -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 30, size=n) for n in (3, 40, 17, 40, 1, 25)]
    together = score(lm, sequences, include_end=False)
    backwards = score(lm, sequences[::-1], include_end=False, batch_tokens=90)[::-1]
    for units, a, b in zip(sequences, together, backwards, strict=True):
        alone = score(lm, [units], include_end=False)[0]
        np.testing.assert_allclose(a.token_logprobs, alone.token_logprobs, atol=1e-5)
        np.testing.assert_allclose(b.token_logprobs, alone.token_logprobs, atol=1e-5)


def test_probabilities_of_the_next_token_sum_to_one(lm: UnitLM) -> None:
    start = np.array([4, 9, 2])
    every = score(lm, [np.append(start, u) for u in range(30)], include_end=False)
    end = score(lm, [start], include_end=True)[0].token_logprobs[-1]
    with torch.no_grad():
        padding = lm.model(torch.tensor([[1, 6, 11, 4]])).logits[0, -1].log_softmax(0)[0].exp().item()
    total = sum(np.exp(s.token_logprobs[-1]) for s in every) + np.exp(end) + padding
    assert total == pytest.approx(1, abs=1e-4)


def test_mode_and_gradients_are_left_alone(lm: UnitLM) -> None:
    lm.model.train()
    score(lm, [np.array([1, 2, 3])], include_end=True)
    assert lm.model.training
    assert all(p.grad is None for p in lm.model.parameters())
    lm.model.eval()


def test_autocast_of_the_caller_moves_no_score(lm: UnitLM) -> None:
    sequences = [np.array([1, 2, 3, 7, 9]), np.array([4, 2])]
    plain = score(lm, sequences, include_end=True)
    with torch.autocast("cpu", torch.bfloat16):
        cast = score(lm, sequences, include_end=True)
        assert torch.is_autocast_enabled("cpu")
    assert [s.sum_logprob for s in cast] == [s.sum_logprob for s in plain]


def test_bad_sequences_are_named(lm: UnitLM) -> None:
    good = np.array([1, 2])
    assert score(lm, [], include_end=True) == []
    with pytest.raises(BadInput, match=r"without units.*numbers 1, 2"):
        score(lm, [good, good[:0], good[:0]], include_end=True)
    with pytest.raises(BadInput, match=r"outside 0 … 29: 30"):
        score(lm, [good, np.array([30])], include_end=True)
    with pytest.raises(BadInput, match=r"64 tokens.*numbers 1"):
        score(lm, [good, np.zeros(64, dtype=np.int64)], include_end=True)
    assert score(lm, [np.zeros(63, dtype=np.int64)], include_end=True)[0].n == 64


def test_sequences_may_come_one_by_one(lm: UnitLM) -> None:
    sequences = [np.array([1, 2]), np.array([3])]
    found = score(lm, iter(sequences), include_end=True)
    assert [s.sum_logprob for s in found] == [s.sum_logprob for s in score(lm, sequences, include_end=True)]


@given(st.lists(st.integers(0, 499), max_size=30), st.integers(0, 3))
def test_vocabulary_round_trip(units: list[int], padding: int) -> None:
    vocab = Vocab(500)
    ids = np.array(units, dtype=np.uint16)
    tokens = vocab.encode(ids)
    assert tokens.dtype == np.int64
    assert (tokens[0], tokens[-1], len(tokens)) == (1, 1, len(units) + 2)
    assert tokens[1:-1].tolist() == [u + 2 for u in units]
    assert np.array_equal(vocab.prompt(ids), tokens[:-1])
    back = vocab.decode(np.append(tokens, [vocab.pad] * padding))
    assert back.dtype == np.uint16
    assert np.array_equal(back, ids)


def test_vocabulary_refuses_what_is_no_unit() -> None:
    vocab = Vocab(10)
    assert vocab.size == 12
    for bad in ([10], [-1], [65_535]):
        with pytest.raises(BadInput, match="units outside 0 … 9"):
            vocab.encode(np.array(bad))
    with pytest.raises(BadInput, match="1-D integer"):
        vocab.encode(np.array([0.5]))
    with pytest.raises(BadInput, match="at positions 2"):
        vocab.decode(np.array([1, 5, 1, 6]))
    with pytest.raises(BadInput, match="tokens outside 0 … 11: 12"):
        vocab.decode(np.array([1, 12]))
