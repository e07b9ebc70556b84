"""What only a GPU can show: `pytest -m gpu`. `runs/gpu.sh` runs these and benchmarks/gpu.py.

Without a GPU all of these are skipped; tests/test_gpu_simulated.py sees what can be seen without one.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from encoders import NAMES
from test_lm_sample import make_prompt
from test_train_loop import SPEC, corpus, losses, sigterm_at, tiny_lm, with_
from test_train_parallel import free_port
from test_units_batch import check, draw, tokenizer
from twistlm.corpus.stream import PackedStream
from twistlm.errors import TrainingError
from twistlm.lm import attention, batched
from twistlm.lm.continuation import begin
from twistlm.lm.continuous import Batch
from twistlm.lm.folders import place
from twistlm.lm.model import UnitLM
from twistlm.lm.sample import generate_batch
from twistlm.lm.warmstart import cold_start
from twistlm.train.loop import train
from twistlm.train.optim import adamw
from twistlm.train.parallel import Ranks, gather, shard
from twistlm.train.step import take_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU and a torch that is built for it"),
]
GPU = torch.device("cuda")


@pytest.mark.parametrize("shape", [(2, 704, 16, 16, 64), (2, 768, 9, 3, 64), (1, 448, 8, 8, 128), (2, 192, 4, 2, 256)])
@pytest.mark.parametrize("window", [None, 100])
def test_attention_by_ends_is_attention_under_a_mask_with_finite_gradients(
    shape: tuple[int, int, int, int, int], window: int | None
) -> None:
    rows, tokens, heads, keys, width = shape
    generator = torch.Generator(GPU).manual_seed(0)
    segments = torch.ones(rows, tokens, dtype=torch.int32)
    segments[:, tokens // 3 :] = 2
    segments[0, -7:] = 0
    q, k, v = (
        torch.randn(rows, n, tokens, width, generator=generator, device=GPU, dtype=torch.bfloat16).requires_grad_()
        for n in (heads, keys, keys)
    )
    ends = attention.document_ends(segments).to(GPU)
    made, _ = attention._by_ends(torch.nn.Module(), q, k, v, ends, scaling=width**-0.5, sliding_window=window)
    mask = attention.document_mask(segments.to(GPU), window)
    wide = [x.detach().double().repeat_interleave(heads // x.shape[1], dim=1) for x in (q, k, v)]
    wide = [x.requires_grad_() for x in wide]
    logits = (wide[0] @ wide[1].mT * width**-0.5).masked_fill(~mask, -torch.inf)
    expected = (logits.softmax(-1) @ wide[2]).transpose(1, 2)
    assert (made.double() - expected).norm() < 0.01 * expected.norm()
    weight = torch.randn(made.shape, generator=generator, device=GPU)
    ours = torch.autograd.grad(made.float(), (q, k, v), weight)
    theirs = torch.autograd.grad(expected, wide, weight.double())
    for a, b in zip(ours, theirs, strict=True):
        b = b.unflatten(1, (a.shape[1], -1)).sum(2)
        assert a.isfinite().all() and (a.double() - b).norm() < 0.02 * b.norm()


@pytest.mark.parametrize("context", [704, 448])
def test_gradients_under_a_mask_are_finite_where_cudnns_are_not(context: int) -> None:
    """pytorch#196678, with cuDNN's attention left out."""
    q, k, v = (torch.randn(1, 1, context, 64, device=GPU, dtype=torch.bfloat16) * 0.1 for _ in range(3))
    q[..., 0], k[..., 0] = 1.0, -120 * 64**0.5
    for x in (q, k, v):
        x.requires_grad_()
    mask = torch.ones(context, context, dtype=torch.bool, device=GPU).tril()[None, None]
    with attention.sound_kernels():
        torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_run_that_was_stopped_is_the_run_that_was_not_bit_for_bit(compiled: bool, tmp_path: Path) -> None:
    config = with_(precision="bf16", deterministic=True, compile=compiled, eval_every=1)
    make = lambda: place(tiny_lm(dropout=0.0))  # noqa: E731
    straight = train(make(), corpus(), config, tmp_path / "straight", on_eval=sigterm_at())
    with pytest.raises(TrainingError, match="SIGTERM"):
        train(make(), corpus(), config, tmp_path / "stopped", on_eval=sigterm_at(5))
    resumed = train(make(), corpus(), config, tmp_path / "stopped", on_eval=sigterm_at())
    assert losses(straight.history) == losses(resumed.history)
    a, b = (UnitLM.load(run.lm_path).model.state_dict() for run in (straight, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", NAMES)
def test_units_are_the_same_alone_and_in_a_batch_and_nearly_the_cpus(name: str) -> None:
    cpu = tokenizer(name)
    there = cpu.on(GPU)
    kept = torch.get_float32_matmul_precision()
    other = total = 0
    try:
        torch.set_float32_matmul_precision("high")  # what another library in the process may do
        for seed in range(4):
            check(there, draw(seed))
            for clip in draw(seed):
                a, b = cpu(clip).frames, there(clip).frames
                other, total = other + int((a != b).sum()), total + len(a)
    finally:
        torch.set_float32_matmul_precision(kept)
    assert other <= 0.005 * total


def test_samples_are_the_same_alone_in_a_batch_and_as_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = place(cold_start("opt-125m", dataclasses.replace(SPEC, n_units=100, deduplicate=True), seed=0, layers=3))
    prompts = [make_prompt(list(range(3, 3 + n)), lm.spec) for n in (1, 9, 30)]
    how = {"temperature": 1.0, "max_units": 60, "stop_at_end": False}
    together = generate_batch(lm, prompts, seeds=[1, 2, 3], **how)
    monkeypatch.setattr(batched, "_CAPTURED_FROM", 10**9)
    eager = generate_batch(lm, prompts, seeds=[1, 2, 3], **how)
    alone = [generate_batch(lm, [p], seeds=[s], **how)[0] for s, p in enumerate(prompts, start=1)]
    for a, b, c in zip(together, eager, alone, strict=True):
        assert np.array_equal(a.ids, b.ids) and np.mean(a.ids == c.ids) > 0.95  # a draw may fall on a border


def test_listeners_that_come_and_go_are_sent_what_they_would_be_alone() -> None:
    lm = place(cold_start("opt-125m", dataclasses.replace(SPEC, n_units=100, deduplicate=True), seed=0, layers=3))
    how = {"temperature": 1.0, "max_units": 40, "stop_at_end": False}
    prompts = [make_prompt(list(range(3, 3 + n)), lm.spec) for n in (1, 9, 30)]
    alone = [generate_batch(lm, [p], seeds=[s], **how)[0].ids[len(p) :] for s, p in enumerate(prompts)]
    batch = Batch(lm, rows=3)
    with batch.computing():
        rows = []
        for seed, prompt in enumerate(prompts):
            rows.append(batch.join(begin(lm, prompt, seed=seed, **how)))
            for _ in range(5):
                batch.step()
        while len(batch):
            batch.step()
    for row, expected in zip(rows, alone, strict=True):
        assert len(row.new) == len(expected) == 40
        assert np.mean(np.array(row.new) - lm.vocab.offset == expected) > 0.95  # a draw may fall on a border


def test_one_rank_of_nccl_shared_out_trains_as_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    torch.cuda.set_device(0)
    dist.init_process_group("cpu:gloo,cuda:nccl")
    try:
        found = {}
        for sharing in ("whole", "slices", "slices-bf16"):
            lm = place(cold_start("opt-125m", SPEC, seed=0, layers=2))
            ranks = Ranks(0, 1, init_device_mesh("cuda", (1,)))
            whole = shard(lm, ranks, sharing)
            config = with_(batch_rows=4, context=64, precision="bf16", lr=1e-4, lr_floor=1e-5)
            optimizer = adamw(lm.model, config)
            stream = PackedStream(corpus(n=60), lm.vocab, rows=4, context=64, seed=0)
            found[sharing] = [
                take_step(lm, optimizer, stream.batch(n), config, update=n, precision="bf16", ranks=ranks)["loss"]
                for n in range(4)
            ]
            gather(lm, whole, ranks)
    finally:
        dist.destroy_process_group()
    assert found["slices"] == pytest.approx(found["whole"], rel=1e-3)
    assert found["slices-bf16"] == pytest.approx(found["whole"], rel=1e-2)


def test_a_batch_that_does_not_fit_is_halved_with_the_same_numbers(tmp_path: Path) -> None:
    config = with_(updates=2, batch_rows=64, context=512, precision="bf16", eval_every=0)
    documents = corpus(n=4000)
    whole = train(place(cold_start("opt-125m", SPEC, seed=0, layers=2)), documents, config, tmp_path / "whole")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    lm = place(cold_start("opt-125m", SPEC, seed=0, layers=2))
    torch.cuda.reset_peak_memory_stats()
    peak = torch.cuda.memory_reserved() + 1.5e9
    torch.cuda.set_per_process_memory_fraction(peak / total)
    try:
        with pytest.warns(RuntimeWarning, match="computed in halves"):
            halved = train(lm, documents, config, tmp_path / "halved")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert halved.history[-1]["parts"] > 1
    assert losses(halved.history) == pytest.approx(losses(whole.history), rel=1e-3)
