"""Training and attention on one GPU, for gpu.py."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from gpu_timing import profiled, timed, wait
from transformers import LlamaConfig, PretrainedConfig

from twistlm import recipes
from twistlm.compute.devices import device, same_bits
from twistlm.corpus.opened import UnitCorpus
from twistlm.corpus.stream import PackedStream
from twistlm.lm import attention
from twistlm.lm.folders import place
from twistlm.lm.model import UnitLM
from twistlm.lm.pretrained import from_config
from twistlm.lm.shapes import named_shape
from twistlm.lm.vocab import Vocab
from twistlm.train.ahead import Ahead
from twistlm.train.compile import c_compiler, compiled_layers
from twistlm.train.optim import adamw
from twistlm.train.parallel import ALONE
from twistlm.train.plan import count_update, matmul_rate
from twistlm.train.step import take_step
from twistlm.types import Units, UnitSpec

SPEC = UnitSpec(
    encoder="random", encoder_sha256="0" * 64, layer=1, tap="block_output", normalize_input=False, sample_rate=16_000,
    hop=640, n_units=500, centroids_sha256="0" * 64, deduplicate=True,
)  # fmt: skip
# context -> rows of a part: about 28,000 tokens, 65,000 of the small model; shape -> the bar of MFU
ROWS = {705: 40, 1024: 28, 512: 128}
BARS = {"opt-125m": 0.40, "opt-350m": 0.45, "opt-1.3b": 0.55}
TOKENS_BAR, PLAN_BAR = 465_000, 0.15


def smollm2_135m() -> PretrainedConfig:
    return LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True,
    )  # fmt: skip


def random_lm(shape: str, spec: UnitSpec, *, layers: int | None) -> UnitLM:
    """A model of that shape on the device, its weights random, without dropout."""
    config = smollm2_135m() if shape == "smollm2-135m" else named_shape(shape)
    vocab = Vocab(spec.n_units)
    config.vocab_size, config.pad_token_id, config.bos_token_id, config.eos_token_id = vocab.size, 0, 1, 1
    config.dropout = 0.0
    if layers:
        config.num_hidden_layers = layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return place(UnitLM(from_config(config), vocab, spec))


def corpus(spec: UnitSpec) -> UnitCorpus:
    """Clips of 20 to 704 units, as a corpus of speech at 25 Hz has."""
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, spec.n_units, rng.integers(20, 705)).astype(np.uint16) for _ in range(4000)]
    return UnitCorpus.from_units([Units(c, np.ones(len(c), np.int32), spec, str(i)) for i, c in enumerate(clips)])


def train(
    shape: str, context: int, *, small: bool, n_units: int = 500, trainer: bool = False, fixed: bool = False
) -> dict[str, Any]:
    """Training steps: tokens a second, MFU, peak memory against the plan's, HF Trainer's step on padded rows.

    `fixed`: with kernels that give the same bits always, as `deterministic = true` has.
    """
    if fixed:
        with same_bits(enabled=device().type == "cuda"):
            return train(shape, context, small=small, n_units=n_units)
    where, spec = device(), dataclasses.replace(SPEC, n_units=n_units)
    layers, rows, steps = (1, 2, 1) if small else (None, ROWS[context], 12)
    context = 64 if small else context
    config = dataclasses.replace(
        recipes.twist_350m().warm, batch_rows=rows, context=context, compile=not small and bool(c_compiler())
    )
    lm = random_lm(shape, spec, layers=layers)
    optimizer, precision = adamw(lm.model, config), "bf16"
    stream = PackedStream(corpus(spec), lm.vocab, rows=rows, context=context, seed=0)

    with (
        Ahead(stream, ALONE, enabled=where.type == "cuda") as ahead,
        compiled_layers(lm, enabled=config.compile, context=context),
    ):

        def step(n: int) -> int:
            return int(take_step(lm, optimizer, ahead.take(n), config, update=n, precision=precision)["tokens"])

        for n in range(0 if small else 3):
            step(n)
        if where.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        tokens: list[int] = []
        seconds = timed(lambda: tokens.extend(step(n) for n in range(3, 3 + steps)))
        one: dict[str, Any] = {"host_ms": 1000 * seconds / steps}
        with profiled(where.type == "cuda", one):
            step(3 + steps)
    peak = torch.cuda.max_memory_allocated() if where.type == "cuda" else None
    pieces = [n for update in range(3, 3 + steps) for row in stream.pieces(update) for *_, n in row]
    model = lm.model.config
    body = sum(p.numel() for name, p in lm.model.named_parameters() if "embed" not in name and "lm_head" not in name)
    flops = 6.0 * body * sum(pieces) + 12 * model.num_hidden_layers * model.hidden_size * sum(n * n / 2 for n in pieces)
    rate = matmul_rate(where, "bf16", size=256 if small else None, seconds=0.1 if small else 1.0)
    found: dict[str, Any] = {
        "tokens_per_second": sum(tokens) / seconds, "mfu": flops / seconds / rate, "mfu_bar": BARS.get(shape),
        "product_flops": rate, "compiled": config.compile, "rows": rows, "context": context,
        "a_step": one,
    }  # fmt: skip
    if shape == "smollm2-135m":
        found["tokens_bar"] = TOKENS_BAR
    if peak is not None:
        with tempfile.TemporaryDirectory() as folder:  # the named shapes have dropout
            lm.model.config.save_pretrained(folder)
            planned = count_update(folder, spec, config, precision="bf16", on_gpu=True).peak
        found |= {"peak_bytes": peak, "planned_bytes": planned, "plan_error": planned / peak - 1, "bar": PLAN_BAR}
    if trainer:
        del optimizer
        found["against_trainer"] = sum(tokens) / seconds / trainer_speed(lm, corpus(spec), small=small)
    return found


def trainer_speed(lm: UnitLM, documents: UnitCorpus, *, small: bool) -> float:
    """Real tokens a second of HF Trainer, padded batches of the same clips, bf16."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    n, updates = (2, 2) if small else (32, 16)
    rows = [lm.vocab.encode(documents.unit_ids(i)) for i in range(n * updates)]
    rows = [row[:64] for row in rows] if small else rows
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            wait()
            ends.append(time.perf_counter())

    def collate(some: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(one["row"]) for one in some)
        width = -(-width // 64) * 64  # kernels that choose themselves by the shape have done so when it is timed
        padded = torch.zeros(len(some), width, dtype=torch.int64)
        labels = torch.full((len(some), width), -100)
        for line, label, one in zip(padded, labels, some, strict=True):
            line[: len(one["row"])] = label[: len(one["row"])] = torch.from_numpy(one["row"])
        return {"input_ids": padded, "labels": labels, "attention_mask": (labels >= 0).long()}

    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            output_dir=out, per_device_train_batch_size=n, max_steps=updates, bf16=not small, use_cpu=small,
            save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True, remove_unused_columns=False,
            train_sampling_strategy="sequential",
        )  # fmt: skip
        data = [{"row": row} for row in rows]
        Trainer(lm.model, arguments, train_dataset=data, data_collator=collate, callbacks=[Clock()]).train()
    skipped = 1 if small else 8
    tokens = sum(len(row) - 1 for row in rows[n * skipped :])
    return tokens / (ends[-1] - ends[skipped - 1])


def attend(*, small: bool) -> dict[str, Any]:
    """Attention of packed rows, forward and backward: told where documents end, against under a mask."""
    return {
        f"{rows} x {context}, {heads} heads, {keys} of keys": _attend(
            *((2, 64) if small else (rows, context)), heads, keys, 64, small=small
        )
        for rows, context, heads, keys in ((40, 705, 12, 12), (28, 1024, 32, 32), (64, 512, 9, 3))
    }


def _attend(rows: int, context: int, heads: int, keys: int, width: int, *, small: bool) -> dict[str, Any]:
    where, module, scaling = device(), torch.nn.Module(), width**-0.5
    module.num_key_value_groups = heads // keys  # what transformers' attention looks at
    segments = PackedStream(corpus(SPEC), Vocab(500), rows=rows, context=context, seed=0).batch(0).segments
    made = partial(torch.randn, device=where, dtype=torch.float32 if small else torch.bfloat16, requires_grad=True)
    q, k, v = (made(rows, n, context, width) for n in (heads, keys, keys))
    gradient = torch.randn(rows, context, heads, width, device=where, dtype=q.dtype)
    ends = attention.document_ends(torch.from_numpy(segments)).to(where)
    mask = attention.document_mask(torch.from_numpy(segments).to(where))

    def by_ends() -> None:
        out, _ = attention._by_ends(module, q, k, v, ends, scaling=scaling)
        torch.autograd.grad(out, (q, k, v), gradient)

    def by_mask() -> None:
        out, _ = attention.sdpa_attention_forward(module, q, k, v, mask, scaling=scaling)
        torch.autograd.grad(out, (q, k, v), gradient)

    def ten(way: Callable[[], None]) -> float:
        return min(timed(lambda: [way() for _ in range(10)]) for _ in range(1 if small else 4)) / 10

    with attention.sound_kernels():
        fast, slow = ten(by_ends), ten(by_mask)
        kernels: list[dict[str, Any]] = [{}, {}]
        for way, seen in zip((by_ends, by_mask), kernels, strict=True):
            with profiled(not small, seen):
                way()
    found = {"ms": 1000 * fast, "against_mask": slow / fast}
    return found if small else found | {"kernel_ms": [seen["kernel_ms"] for seen in kernels]}
