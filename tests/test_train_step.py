"""One step: parts of a batch add up to the batch."""

from __future__ import annotations

import itertools
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from test_train_loop import corpus, losses, tiny_lm, with_
from twistlm.config import TrainConfig
from twistlm.corpus.stream import IGNORE, Batch, PackedStream
from twistlm.errors import ConfigError
from twistlm.lm.model import UnitLM
from twistlm.train import step
from twistlm.train.ahead import Ahead
from twistlm.train.loop import train
from twistlm.train.optim import adamw
from twistlm.train.parallel import Adding, Ranks
from twistlm.train.step import backward, mean_nll, take_step

ROWS = 8


def uneven_batch(lm: UnitLM) -> Batch:
    """Eight rows, of which row r has only its first 3 (r + 1) targets: their means weigh very differently."""
    batch = PackedStream(corpus(), lm.vocab, rows=ROWS, context=24, seed=1).batch(0)
    targets = batch.targets.copy()
    for row in range(ROWS):
        targets[row, 3 * (row + 1) :] = IGNORE
    return Batch(batch.tokens, batch.segments, batch.positions, targets)


def gradient(lm: UnitLM, batch: Batch, parts: int) -> tuple[float, torch.Tensor]:
    lm.model.zero_grad(set_to_none=True)
    loss = backward(lm, batch, parts=parts, targets=batch.n_targets, precision="float32", seed=(0, 0)).item()
    return loss, torch.cat([p.grad.flatten() for p in lm.model.parameters()])


def test_parts_of_a_batch_are_its_rows_in_order() -> None:
    batch = uneven_batch(tiny_lm())
    for n in (1, 2, 4, 8):
        parts = batch.parts(n)
        assert len(parts) == n and sum(part.n_targets for part in parts) == batch.n_targets
        for name in ("tokens", "segments", "positions", "targets"):
            assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(batch, name))


def test_gradients_of_parts_add_up_to_that_of_the_batch() -> None:
    lm = tiny_lm()
    batch = uneven_batch(lm)
    loss, whole = gradient(lm, batch, 1)
    for parts in (2, 4, 8):
        other_loss, other = gradient(lm, batch, parts)
        assert other_loss == pytest.approx(loss, rel=1e-6)
        torch.testing.assert_close(other, whole, rtol=1e-4, atol=1e-7)
        # Rounding has no direction: what is left over lies on both sides of nought.
        residual = other - whole
        assert residual.any() and residual.mean().abs() < 0.3 * residual.abs().mean()
    # The mean of the parts' means is another gradient here, by far more than rounding.
    rows = torch.stack([gradient(lm, part, 1)[1] for part in batch.parts(ROWS)]).mean(0)
    assert (rows - whole).norm() > 0.01 * whole.norm()


def test_a_run_in_parts_is_the_run_of_the_whole_batch(tmp_path: Path) -> None:
    config = with_(batch_rows=ROWS)
    whole = train(tiny_lm(), corpus(n=60), config, tmp_path / "1")
    assert config.accumulate == 1
    for parts in (2, 8):
        run = train(tiny_lm(), corpus(n=60), with_(batch_rows=ROWS, accumulate=parts), tmp_path / str(parts))
        assert losses(run.history) == pytest.approx(losses(whole.history), rel=1e-4)
        assert run.tokens == whole.tokens and run.updates == whole.updates


def test_parts_must_divide_the_batch() -> None:
    with pytest.raises(ConfigError, match="accumulate is 3; it must divide batch_rows, which is 8"):
        with_(batch_rows=8, accumulate=3)
    assert isinstance(with_(batch_rows=8, accumulate=4), TrainConfig)


@pytest.mark.thorough
def test_a_batch_that_does_not_fit_is_computed_in_halves_and_said(tmp_path: Path) -> None:
    """Rows beyond three run out of memory: two halvings at the first update, none after it, the numbers of parts."""
    whole = train(tiny_lm(), corpus(n=60), with_(batch_rows=ROWS, accumulate=4), tmp_path / "parts")
    tries: list[int] = []

    def small(lm: UnitLM, batch: Batch) -> torch.Tensor:
        tries.append(len(batch.tokens))
        if len(batch.tokens) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return mean_nll(lm, batch)

    with mock.patch.object(step, "mean_nll", small), pytest.warns(RuntimeWarning, match="computed in halves"):
        halved = train(tiny_lm(), corpus(n=60), with_(batch_rows=ROWS), tmp_path / "halved")
    assert tries[:6] == [8, 4, 2, 2, 2, 2] and set(tries[6:]) == {2}
    assert losses(halved.history) == losses(whole.history)
    assert {row["parts"] for row in halved.history[1:]} == {4} and "parts" not in whole.history[1]


def test_a_row_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    def never(lm: UnitLM, batch: Batch) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with (
        mock.patch.object(step, "mean_nll", never),
        pytest.warns(RuntimeWarning, match="computed in halves"),
        pytest.raises(torch.OutOfMemoryError),
    ):
        train(tiny_lm(), corpus(n=60), with_(batch_rows=2), tmp_path / "out")


@pytest.mark.parametrize(("accumulate", "fails_at"), [(1, 1), (2, 1), (2, 2)])
def test_ranks_send_each_gradient_once_where_a_part_did_not_fit(accumulate: int, fails_at: int) -> None:
    """Also where it was the last part, whose gradients were about to be sent. The other rank's are the same here."""
    lm, sent, calls = tiny_lm(), [], itertools.count(1)
    batch = uneven_batch(lm)
    whole = gradient(lm, batch, 1)[1]
    lm.model.zero_grad(set_to_none=True)

    def too_large_once(lm: UnitLM, batch: Batch) -> torch.Tensor:
        if next(calls) == fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return mean_nll(lm, batch)

    def all_reduce(flat: torch.Tensor, *, async_op: bool) -> None:
        sent.append(flat.numel())
        flat.mul_(2)

    config, adding = with_(batch_rows=ROWS, accumulate=accumulate), Adding(lm.model.parameters())
    with (
        mock.patch.object(step, "mean_nll", too_large_once),
        mock.patch("twistlm.train.parallel.dist.all_reduce", all_reduce),
        pytest.warns(RuntimeWarning, match=f"in parts of {ROWS // accumulate} rows, does not fit"),
    ):
        row = take_step(lm, adamw(lm.model, config), batch, config, update=0, precision="float32", adding=adding)
    adding.close()
    assert sum(sent) == whole.numel()
    assert row["parts"] == 2 * accumulate and row["grad_norm"] == pytest.approx(2 * whole.norm().item(), rel=1e-4)


def test_the_warning_says_the_rows_that_did_not_fit() -> None:
    """Of three rows: in parts of three, then of two, then alone."""
    lm, said = tiny_lm(), []
    batch = PackedStream(corpus(), lm.vocab, rows=3, context=24, seed=1).batch(0)

    def one_fits(lm: UnitLM, batch: Batch) -> torch.Tensor:
        if len(batch.tokens) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return mean_nll(lm, batch)

    config = with_(batch_rows=3)
    with mock.patch.object(step, "mean_nll", one_fits), mock.patch.object(step, "say_too_small", said.append):
        take_step(lm, adamw(lm.model, config), batch, config, update=4, precision="float32")
    assert said == [f"update 5, in parts of {n} rows," for n in (3, 2)]


def test_batches_made_ahead_are_those_of_the_stream() -> None:
    stream = PackedStream(corpus(), tiny_lm().vocab, rows=4, context=24, seed=1)
    with Ahead(stream, Ranks(1, 2), enabled=True) as ahead:
        for number in (3, 4, 5, 9, 10):
            assert np.array_equal(ahead.take(number).tokens, stream.batch(number, rank=1, world=2).tokens)
