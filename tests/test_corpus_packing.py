"""Packing and the stream: nothing lost, nothing doubled, nobody sees a neighbour, and any batch can be asked for."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twistlm.corpus.opened import UnitCorpus
from twistlm.corpus.packing import pack
from twistlm.corpus.stream import IGNORE, Batch, PackedStream
from twistlm.errors import BadInput
from twistlm.lm.vocab import Vocab
from twistlm.types import Units, UnitSpec

SPEC = UnitSpec(
    encoder="fake",
    encoder_sha256="0" * 64,
    layer=1,
    tap="block_output",
    normalize_input=False,
    sample_rate=16_000,
    hop=640,
    n_units=60_000,
    centroids_sha256="1" * 64,
    deduplicate=True,
)
VOCAB = Vocab(SPEC.n_units)


def corpus_of(lengths: list[int]) -> UnitCorpus:
    """Every unit of the corpus has a number of its own, so that a batch tells where each token came from."""
    ends = np.cumsum([0, *lengths])
    assert ends[-1] < SPEC.n_units
    ids = [np.arange(a, b, dtype=np.uint16) for a, b in pairwise(ends)]
    return UnitCorpus.from_units([Units(x, np.ones(len(x), np.int32), SPEC, id=str(i)) for i, x in enumerate(ids)])


def steps_of(batch: Batch) -> list[tuple[int, int]]:
    """Every (input token, target) of a batch, once the invariants of its layout are checked."""
    steps: list[tuple[int, int]] = []
    trained = batch.targets != IGNORE
    np.testing.assert_array_equal(trained, batch.segments > 0)
    assert (batch.tokens[~trained] == VOCAB.pad).all() and (batch.positions[~trained] == 0).all()
    for row in range(len(batch.tokens)):
        n = int(trained[row].sum())
        assert trained[row, :n].all(), "padding is at the end"
        segments = batch.segments[row, :n]
        assert n > 0 and segments[0] == 1 and set(np.diff(segments)) <= {0, 1}
        for segment in range(1, segments[-1] + 1):
            here = np.flatnonzero(batch.segments[row] == segment)
            tokens, targets = batch.tokens[row, here], batch.targets[row, here]
            np.testing.assert_array_equal(batch.positions[row, here], np.arange(len(here)))
            np.testing.assert_array_equal(tokens[1:], targets[:-1], "targets are the inputs, one step on")
            # One document only: <s> opens or closes a piece and never stands inside; units count up by one.
            whole = np.append(tokens, targets[-1])
            assert (whole[1:-1] != VOCAB.bos).all()
            assert (np.diff(whole[whole != VOCAB.bos]) == 1).all()
        steps += zip(batch.tokens[row, :n].tolist(), batch.targets[row, :n].tolist(), strict=True)
    return steps


def expected_steps(corpus: UnitCorpus) -> list[tuple[int, int]]:
    steps: list[tuple[int, int]] = []
    for i in range(len(corpus)):
        tokens = VOCAB.encode(corpus[i].ids).tolist()
        steps += pairwise(tokens)
    return sorted(steps)


lengths_lists = st.lists(st.integers(0, 90), min_size=1, max_size=60)


@given(lengths_lists, st.integers(1, 64), st.integers(0, 3), st.sampled_from([0.0, 0.05, 0.3, 1.0]))
@settings(max_examples=30, deadline=None)
def test_an_epoch_has_every_target_exactly_once(lengths: list[int], context: int, seed: int, padding: float) -> None:
    corpus = corpus_of(lengths)
    stream = PackedStream(corpus, VOCAB, rows=1, context=context, seed=seed, max_padding=padding)
    want = expected_steps(corpus)
    assert stream.tokens_per_epoch == len(want)
    n = stream.rows_per_epoch
    for epoch in (0, 3):
        got = [step for update in range(epoch * n, (epoch + 1) * n) for step in steps_of(stream.batch(update))]
        assert sorted(got) == want
    assert stream.state(3 * n) == {"epoch": 3, "row": 0}


@given(lengths_lists, st.integers(1, 40), st.integers(1, 7), st.integers(0, 30))
@settings(max_examples=25, deadline=None)
def test_a_batch_is_the_same_for_a_fresh_and_a_used_stream(lengths: list[int], context: int, rows: int, k: int) -> None:
    corpus = corpus_of(lengths)
    used = PackedStream(corpus, VOCAB, rows=rows, context=context, seed=7)
    run = [batch for _, batch in zip(range(k + 1), used, strict=False)]
    fresh = PackedStream(corpus, VOCAB, rows=rows, context=context, seed=7).batch(k)
    for field in ("tokens", "segments", "positions", "targets"):
        np.testing.assert_array_equal(getattr(run[k], field), getattr(fresh, field))


def one_by_one(steps: np.ndarray, context: int, seed: int, max_padding: float) -> list[list[tuple[int, int, int]]]:
    """`pack`, a document at a time: (document, start, length) of the pieces of each row, full rows first."""
    full = [[(d, i * context, context)] for d, n in enumerate(steps) for i in range(n // context)]
    rests = [d for d, n in enumerate(steps) if n % context]
    order = np.random.default_rng(seed).permutation(rests).astype(int)
    rows: list[list[tuple[int, int, int]]] = []
    room: list[int] = []
    laid, home = [], {}
    opened: dict[int, list[int]] = {}  # room -> the rows that have it, as they came to have it
    for d in sorted(order, key=lambda d: -(steps[d] % context)):
        n = steps[d] % context
        fitting = [r for r in opened if r >= n and opened[r]]
        row = opened[min(fitting)].pop() if fitting else len(rows)
        if row == len(rows):
            rows.append([])
            room.append(context)
        laid.append((d, steps[d] - n, n))
        home[laid[-1]] = row
        rows[row].append(laid[-1])
        room[row] -= n
        opened.setdefault(room[row], []).append(row)
    needed = math.ceil(sum(steps % context) / (context * (1 - max_padding))) if max_padding < 1 else len(rows)
    fullest = sorted(range(len(rows)), key=lambda row: room[row])
    kept, gone = fullest[:needed], set(fullest[needed:])
    homeless = [piece for piece in laid if home[piece] in gone]
    for row in reversed(kept):
        while room[row] and homeless:
            d, start, n = homeless.pop()
            taken = min(room[row], n)
            rows[row].append((d, start, taken))
            room[row] -= taken
            if taken < n:
                homeless.append((d, start + taken, n - taken))
    return full + [pieces for row, pieces in enumerate(rows) if row not in gone]


@given(
    st.lists(st.integers(1, 120), max_size=50), st.integers(1, 40), st.integers(0, 3), st.sampled_from([0, 0.1, 0.5, 1])
)
@settings(max_examples=60, deadline=None)
def test_it_packs_as_one_document_at_a_time(lengths: list[int], context: int, seed: int, padding: float) -> None:
    steps = np.array(lengths, dtype=np.int64)
    layout = pack(steps, context=context, seed=seed, max_padding=padding)
    pieces = list(zip(layout.document.tolist(), layout.start.tolist(), layout.length.tolist(), strict=True))
    assert [pieces[a:b] for a, b in pairwise(layout.rows)] == one_by_one(steps, context, seed, padding)


def test_rows_do_not_depend_on_the_batch_size_and_epochs_join_without_a_gap() -> None:
    corpus = corpus_of([5, 17, 40, 3, 0, 64, 8])
    one = PackedStream(corpus, VOCAB, rows=1, context=16, seed=1)
    many = PackedStream(corpus, VOCAB, rows=2 * one.rows_per_epoch + 3, context=16, seed=1)
    rows = np.concatenate([one.batch(u).tokens for u in range(2 * many.rows)])
    np.testing.assert_array_equal(np.concatenate([many.batch(0).tokens, many.batch(1).tokens]), rows)


def test_epochs_and_seeds_have_their_own_order() -> None:
    corpus = corpus_of([30] * 50)
    stream = PackedStream(corpus, VOCAB, rows=25, context=62, seed=0)
    assert stream.updates_per_epoch == 1
    first, second = stream.batch(0), stream.batch(1)
    other = PackedStream(corpus, VOCAB, rows=25, context=62, seed=1).batch(0)
    assert (first.tokens != second.tokens).any() and (first.tokens != other.tokens).any()
    assert sorted(steps_of(first)) == sorted(steps_of(second)) == sorted(steps_of(other))


@pytest.mark.parametrize("low, high, most_cut", [(20, 120, 0), (129, 225, 0.3), (100, 400, 0.1), (1500, 3000, 0.1)])
def test_little_is_padding_and_few_documents_are_cut(low: int, high: int, most_cut: float) -> None:
    context = 256
    steps = np.random.default_rng(0).integers(low, high, 3000)
    layout = pack(steps, context=context, seed=0)
    assert 1 - steps.sum() / (len(layout) * context) < 0.085
    cut = (np.bincount(layout.document) > np.ceil(steps / context)).sum()
    assert cut <= most_cut * len(steps)  # chopping the documents end to end would cut min(1, steps.mean() / context)


def test_short_documents_that_fit_are_never_cut() -> None:
    layout = pack(np.random.default_rng(0).integers(1, 60, 2000), context=256, seed=0)
    assert len(layout.document) == 2000 and (layout.start == 0).all()


def test_loading_is_far_faster_than_training() -> None:
    """A loose bound that only a blunder breaks: a two-core machine trains a few hundred tokens a second."""
    lengths = np.random.default_rng(0).integers(50, 250, 380).tolist()
    stream = PackedStream(corpus_of(lengths), VOCAB, rows=8, context=256, seed=0)
    begin = time.process_time()
    tokens = sum(stream.batch(update).n_targets for update in range(50))
    assert tokens / (time.process_time() - begin) > 50_000


def test_bad_arguments_are_named() -> None:
    corpus = corpus_of([3])
    with pytest.raises(BadInput, match="context"):
        PackedStream(corpus, VOCAB, rows=1, context=0, seed=0)
    with pytest.raises(BadInput, match="1 row"):
        PackedStream(corpus, VOCAB, rows=0, context=4, seed=0)
    with pytest.raises(BadInput, match="from 0"):
        PackedStream(corpus, VOCAB, rows=1, context=4, seed=0).batch(-1)
    with pytest.raises(BadInput, match="no documents"):
        PackedStream(corpus.select([]), VOCAB, rows=1, context=4, seed=0)
