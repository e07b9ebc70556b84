"""One GPU in a few minutes: training, tokenizing, sampling and speaking, each against a reference in the same run.

Each line is JSON: what was measured, its reference, its bar where the project states one. Parts run in the order of
PARTS until `--minutes` are over; what was not reached is said. Without a GPU nothing is measured; `--small` rehearses
every part on the CPU at sizes that mean nothing. MFU: 6 operations a parameter outside the tables and a token, and the
causal half of attention inside documents, over this card's own rate of a bf16 product of 8192 x 8192.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, PretrainedConfig

from twistlm import recipes
from twistlm.audio.clip import Clip
from twistlm.compute.batching import batches
from twistlm.compute.devices import device, same_bits
from twistlm.corpus.cutting import cut
from twistlm.corpus.manifest import build
from twistlm.corpus.opened import UnitCorpus
from twistlm.corpus.shards import Row
from twistlm.corpus.sounds import read_clip
from twistlm.corpus.stream import PackedStream
from twistlm.files.artifacts import bundled
from twistlm.lm import attention
from twistlm.lm.folders import place
from twistlm.lm.model import UnitLM
from twistlm.lm.pretrained import from_config
from twistlm.lm.sample import generate_batch
from twistlm.lm.shapes import named_shape
from twistlm.lm.vocab import Vocab
from twistlm.train.ahead import Ahead
from twistlm.train.compile import c_compiler, compiled_layers
from twistlm.train.optim import adamw
from twistlm.train.parallel import ALONE
from twistlm.train.plan import count_update, matmul_rate
from twistlm.train.step import take_step
from twistlm.types import Units, UnitSpec
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.vocoder import Vocoder

SPEC = UnitSpec(
    encoder="random", encoder_sha256="0" * 64, layer=1, tap="block_output", normalize_input=False, sample_rate=16_000,
    hop=640, n_units=500, centroids_sha256="0" * 64, deduplicate=True,
)  # fmt: skip
# context -> rows of a part: about 28,000 tokens, 65,000 of the small model; shape -> the bar of MFU
ROWS = {705: 40, 1024: 28, 512: 128}
BARS = {"opt-125m": 0.40, "opt-350m": 0.45, "opt-1.3b": 0.55}
TOKENS_BAR, HOURS_BAR, AGREEMENT_BAR, PLAN_BAR = 465_000, 2_000, 0.995, 0.15


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


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[], Any]) -> float:
    wait()
    begun = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begun


@contextmanager
def profiled(wanted: bool, found: dict[str, Any]) -> Iterator[None]:
    """Inside the block, note the kernels that take the longest, in ms, and how many are launched."""
    if not wanted:
        yield
        return
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        yield
        wait()
    events = seen.key_averages()
    found["graphs"] = sum(event.count for event in events if event.key == "cudaGraphLaunch")
    kernels = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    kernels.sort(key=lambda event: -event.self_device_time_total)
    found["kernels"] = sum(event.count for event in kernels)
    found["kernel_ms"] = sum(event.self_device_time_total for event in kernels) / 1000
    found["longest"] = [
        [event.key[:90], event.count, round(event.self_device_time_total / 1000, 2)] for event in kernels[:14]
    ]


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
    if peak is not None and shape in BARS:
        planned = count_update(shape, spec, config, precision="bf16", on_gpu=True).peak
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


def tokenize(*, small: bool) -> dict[str, Any]:
    """Tokenizing from FLAC as `twist tokenize` does, with the bundled encoder and with two of published shapes.

    What binds: `reading` are the same files read by as many threads and not cut, `cutting` the same clips from memory.
    """
    found: dict[str, Any] = {"hours_bar": HOURS_BAR, "agreement_bar": AGREEMENT_BAR}
    with tempfile.TemporaryDirectory() as folder:
        clips = [entry for entry in build(bundled("speech")) if (entry.seconds or 5.0) < 30][: 2 if small else 40]
        rate, copies = 16_000, 1 if small else 25

        def write(i: int) -> NDArray[np.float32]:
            samples = read_clip(clips[i], sample_rate=rate).samples
            for copy in range(copies):
                soundfile.write(f"{folder}/{i:03}-{copy:03}.flac", np.roll(samples, copy * 1000), rate)
            return samples

        with ThreadPoolExecutor() as threads:
            speech = np.concatenate(list(threads.map(write, range(len(clips)))))[: 24 * rate]
            entries = build(folder)
            sounds: list[Clip] = []
            seconds = timed(lambda: sounds.extend(threads.map(partial(read_clip, sample_rate=rate), entries)))
        hours = sum(clip.seconds for clip in sounds) / 3600
        found |= {"hours": hours, "reading": hours / (seconds / 3600)}
        for name, tok in (
            ("mini-25hz-500", SpeechTokenizer.load("mini-25hz-500")),
            ("hubert-base shape, layer 9, km500", hubert_base(9, speech, hop=320, small=small)),
            ("mhubert-base-25hz shape, layer 11, km500", hubert_base(11, speech, hop=640, small=small)),
        ):
            there = tok.on(device())
            list(cut(entries[:4], there))  # kernels choose themselves
            rows: list[Any] = []
            seconds = timed(partial(lambda t, r: r.extend(cut(entries, t)), there, rows))
            good = [row for row in rows if isinstance(row, Row)]
            assert len(good) == len(entries), rows
            parts = list(batches([clip.seconds for clip in sounds], there.batch_seconds or 60.0))
            alone = timed(partial(lambda t, p: [t.batch([sounds[i] for i in part]) for part in p], there, parts))
            there.batch([sounds[i] for i in parts[0]])
            a_batch: dict[str, Any] = {"seconds": sum(sounds[i].seconds for i in parts[0])}
            with profiled(not small, a_batch):
                there.batch([sounds[i] for i in parts[0]])
            some = range(0, len(entries), max(1, len(entries) // 12))
            same = np.concatenate([good[i].units.frames == tok(sounds[i]).frames for i in some])
            found[name] = {
                "hours_an_hour": hours / (seconds / 3600), "cutting": hours / (alone / 3600),
                "agreement": float(same.mean()), "frames_compared": len(same),
                "a_batch": a_batch,
            }  # fmt: skip
    return found


def hubert_base(layers: int, speech: NDArray[np.float32], *, hop: int, small: bool) -> SpeechTokenizer:
    """HuBERT base's shape with random weights, so many layers, and 500 centroids that are frames of `speech`.

    A hop of 640 is one more convolution, as mHuBERT at 25 Hz has.
    """
    from transformers import HubertConfig, HubertModel

    from twistlm.units.encoder import SSLEncoder
    from twistlm.units.encoder import cut as cut_layers
    from twistlm.units.kmeans import Codebook

    size: dict[str, Any] = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_conv_pos_embedding_groups": 4,
    }
    n = 8 if hop == 640 else 7
    config = HubertConfig(
        num_hidden_layers=layers, conv_dim=(512,) * n, conv_stride=(5, *(2,) * (n - 1)),
        conv_kernel=(10, 3, 3, 3, 3, *(2,) * (n - 5)), **(size if small else {}),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = SSLEncoder(cut_layers(config, HubertModel(config).state_dict(), layers), layers)
    frames = encoder(speech)
    chosen = np.random.default_rng(0).permutation(len(frames))[:500]
    spec = dataclasses.replace(SPEC, hop=hop, n_units=len(chosen))
    return SpeechTokenizer(encoder, Codebook(frames[chosen]), spec)


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
    module.num_key_value_groups = heads // keys  # type: ignore[assignment]  # what transformers' attention looks at
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


def sample(*, small: bool) -> dict[str, Any]:
    """A 135M model continues 256 prompts; against transformers' generate, which draws from one generator."""
    lm = random_lm("smollm2-135m", SPEC, layers=1 if small else None)
    n, units = (2, 4) if small else (256, 150)
    rng = np.random.default_rng(0)
    prompts = [Units(rng.integers(0, 500, 50).astype(np.uint16), np.ones(50, np.int32), SPEC) for _ in range(n)]
    ours = partial(generate_batch, lm, prompts, temperature=0.8, seeds=range(n), max_units=units, stop_at_end=False)
    ids = torch.from_numpy(np.stack([lm.vocab.prompt(p.ids) for p in prompts])).to(lm.device)
    theirs = partial(
        lm.model.generate, ids, do_sample=True, temperature=0.8, max_new_tokens=units, min_new_tokens=units,
        attention_mask=torch.ones_like(ids), pad_token_id=0,
    )  # fmt: skip
    for work in (ours, theirs):
        work()
    a, b = timed(ours), timed(theirs)
    few: dict[str, Any] = {"units": 20}
    with profiled(not small, few):
        generate_batch(lm, prompts, temperature=0.8, seeds=range(n), max_units=20, stop_at_end=False)
    return {"units_per_second": n * units / a, "against_generate": b / a, "batch": n, "units": units, "a_few": few}


def speak(*, small: bool) -> dict[str, Any]:
    """The bundled vocoder speaks 64 clips of 10 s together; against one after the other."""
    voc = Vocoder.load("mini-25hz-500").on(device())
    n, frames = (2, 25) if small else (64, 250)
    rng = np.random.default_rng(0)
    many = [
        Units(rng.integers(0, 500, frames).astype(np.uint16), np.ones(frames, np.int32), voc.spec) for _ in range(n)
    ]
    batch = partial(voc.batch, many, durations="given")
    batch()
    together, alone = timed(batch), timed(lambda: [voc(units, durations="given") for units in many])
    return {"seconds_a_second": n * frames / 25 / together, "against_alone": alone / together, "batch": n}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "train opt-125m 705": partial(train, "opt-125m", 705, trainer=True),
    "tokenize": tokenize,
    "attention": attend,
    "sample 135M": sample,
    "train smollm2-135m 512, 102 tokens": partial(train, "smollm2-135m", 512, n_units=100),
    "train opt-350m 705": partial(train, "opt-350m", 705),
    "vocoder": speak,
    "train opt-1.3b 1024": partial(train, "opt-1.3b", 1024),
    "train opt-125m 705, deterministic": partial(train, "opt-125m", 705, fixed=True),
    "train opt-1.3b 705": partial(train, "opt-1.3b", 705),
    "train opt-350m 1024": partial(train, "opt-350m", 1024),
    "train opt-125m 1024": partial(train, "opt-125m", 1024),
}


def main() -> None:
    """Run the parts; print a line for each, and write all to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="rehearse on the CPU; the numbers mean nothing")
    parser.add_argument("--minutes", type=float, default=7.0, help="no part begins later")
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--out", type=Path, help="JSON lines")
    given = parser.parse_args()
    if not torch.cuda.is_available() and not given.small:
        print("no GPU here: nothing is measured (--small rehearses the parts on the CPU)")
        return
    begun, failed = time.perf_counter(), 0
    for name in given.only:
        if time.perf_counter() - begun > 60 * given.minutes:
            line: dict[str, Any] = {"part": name, "skipped": f"{given.minutes:g} minutes were over"}
        else:
            started = time.perf_counter()
            try:
                line = {"part": name, **PARTS[name](small=given.small)}
            except Exception as error:  # noqa: BLE001  # a part that fails must not cost the others their minutes
                traceback.print_exc()
                line, failed = {"part": name, "failed": f"{type(error).__name__}: {error}"[:500]}, failed + 1
            line["took"] = time.perf_counter() - started
        line["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        print(json.dumps(line), flush=True)
        if given.out:
            with given.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    sys.exit(min(1, failed))


if __name__ == "__main__":
    main()
