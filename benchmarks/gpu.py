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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import LlamaConfig, PretrainedConfig

from twistlm import recipes
from twistlm.compute.devices import device
from twistlm.corpus.cutting import cut
from twistlm.corpus.manifest import build
from twistlm.corpus.opened import UnitCorpus
from twistlm.corpus.shards import Row
from twistlm.corpus.stream import PackedStream
from twistlm.files.artifacts import bundled
from twistlm.lm.folders import place
from twistlm.lm.model import UnitLM
from twistlm.lm.pretrained import from_config
from twistlm.lm.sample import generate_batch
from twistlm.lm.shapes import named_shape
from twistlm.lm.vocab import Vocab
from twistlm.train.compile import c_compiler, compiled_layers
from twistlm.train.optim import adamw
from twistlm.train.plan import count_update, matmul_rate
from twistlm.train.step import take_step
from twistlm.types import Units, UnitSpec
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.vocoder import Vocoder

SPEC = UnitSpec(
    encoder="random", encoder_sha256="0" * 64, layer=1, tap="block_output", normalize_input=False, sample_rate=16_000,
    hop=640, n_units=500, centroids_sha256="0" * 64, deduplicate=True,
)  # fmt: skip
# context -> rows of a part, about 28,000 tokens; (shape, context) -> the bar of MFU
ROWS = {705: 40, 1024: 28}
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


def train(shape: str, context: int, *, small: bool, n_units: int = 500, trainer: bool = False) -> dict[str, Any]:
    """Training steps: tokens a second, MFU, peak memory against the plan's, HF Trainer's step on padded rows."""
    where, spec = device(), dataclasses.replace(SPEC, n_units=n_units)
    layers, rows, steps = (1, 2, 1) if small else (None, ROWS.get(context, 64), 12)
    context = 64 if small else context
    config = dataclasses.replace(
        recipes.twist_350m().warm, batch_rows=rows, context=context, compile=not small and bool(c_compiler())
    )
    lm = random_lm(shape, spec, layers=layers)
    optimizer, precision = adamw(lm.model, config), "bf16"
    stream = PackedStream(corpus(spec), lm.vocab, rows=rows, context=context, seed=0)

    def step(n: int) -> int:
        row = take_step(lm, optimizer, stream.batch(n), config, update=n, precision=precision)
        return int(row["tokens"])

    with compiled_layers(lm, enabled=config.compile, context=context):
        for n in range(0 if small else 3):
            step(n)
        if where.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        tokens: list[int] = []
        seconds = timed(lambda: tokens.extend(step(n) for n in range(3, 3 + steps)))
    peak = torch.cuda.max_memory_allocated() if where.type == "cuda" else None
    pieces = [n for update in range(3, 3 + steps) for row in stream.pieces(update) for *_, n in row]
    model = lm.model.config
    body = sum(p.numel() for name, p in lm.model.named_parameters() if "embed" not in name and "lm_head" not in name)
    flops = 6.0 * body * sum(pieces) + 12 * model.num_hidden_layers * model.hidden_size * sum(n * n / 2 for n in pieces)
    rate = matmul_rate(where, "bf16", size=256 if small else None, seconds=0.1 if small else 1.0)
    found = {
        "tokens_per_second": sum(tokens) / seconds, "mfu": flops / seconds / rate, "mfu_bar": BARS.get(shape),
        "product_flops": rate, "compiled": config.compile, "rows": rows, "context": context,
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

    n, updates = (2, 2) if small else (32, 10)
    rows = [lm.vocab.encode(documents.unit_ids(i)) for i in range(n * updates)]
    rows = [row[:64] for row in rows] if small else rows
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            wait()
            ends.append(time.perf_counter())

    def collate(some: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(one["row"]) for one in some)
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
    skipped = 1 if small else 3
    tokens = sum(len(row) - 1 for row in rows[n * skipped :])
    return tokens / (ends[-1] - ends[skipped - 1])


def tokenize(*, small: bool) -> dict[str, Any]:
    """Tokenizing from FLAC as `twist tokenize` does, with the bundled encoder and with one of HuBERT base's shape."""
    found: dict[str, Any] = {"hours_bar": HOURS_BAR, "agreement_bar": AGREEMENT_BAR}
    with tempfile.TemporaryDirectory() as folder:
        clips = [entry for entry in build(bundled("speech")) if (entry.seconds or 5.0) < 30][: 2 if small else 40]
        rate, copies = 16_000, 1 if small else 60
        from twistlm.corpus.sounds import read_clip

        for i, entry in enumerate(clips):
            samples = read_clip(entry, sample_rate=rate).samples
            for copy in range(copies):
                soundfile.write(f"{folder}/{i:03}-{copy:03}.flac", np.roll(samples, copy * 1000), rate)
        entries = build(folder)
        cpu = SpeechTokenizer.load("mini-25hz-500")
        base = hubert_base(small=small)
        for name, tok in (("mini-25hz-500", cpu), ("hubert-base shape, layer 9, km500", base)):
            there = tok.on(device())
            list(cut(entries[:4], there))  # kernels choose themselves
            rows: list[Any] = []
            seconds = timed(partial(lambda t, r: r.extend(cut(entries, t)), there, rows))
            good = [row for row in rows if isinstance(row, Row)]
            assert len(good) == len(entries), rows
            some = entries[: 2 if small else 12]
            same = np.concatenate(
                [a.units.frames == tok(read_clip(e, sample_rate=rate)).frames for a, e in zip(good, some, strict=False)]
            )
            hours = sum(row.seconds for row in good) / 3600
            found[name] = {"hours_an_hour": hours / (seconds / 3600), "hours": hours, "agreement": float(same.mean())}
    return found


def hubert_base(*, small: bool) -> SpeechTokenizer:
    """HuBERT base's shape with random weights, nine layers, and 500 centroids that are frames of noise."""
    from transformers import HubertConfig, HubertModel

    from twistlm.units.encoder import SSLEncoder
    from twistlm.units.encoder import cut as cut_layers
    from twistlm.units.kmeans import Codebook

    size = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_conv_pos_embedding_groups": 4}
    config = HubertConfig(num_hidden_layers=9, **(size if small else {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = SSLEncoder(cut_layers(config, HubertModel(config).state_dict(), 9), 9)
    noise = np.random.default_rng(0).standard_normal(16_000 * 12).astype(np.float32)
    frames = encoder(noise)
    spec = dataclasses.replace(SPEC, hop=320, n_units=500)
    return SpeechTokenizer(encoder, Codebook(frames[:500]), spec)


def sample(*, small: bool) -> dict[str, Any]:
    """A 135M model continues 256 prompts; against transformers' generate, which draws from one generator."""
    lm = random_lm("smollm2-135m", SPEC, layers=1 if small else None)
    n, units = (2, 4) if small else (256, 250)
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
    return {"units_per_second": n * units / a, "against_generate": b / a, "batch": n, "units": units}


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
    "sample 135M": sample,
    "train smollm2-135m 512, 102 tokens": partial(train, "smollm2-135m", 512, n_units=100),
    "train opt-350m 705": partial(train, "opt-350m", 705),
    "vocoder": speak,
    "train opt-1.3b 1024": partial(train, "opt-1.3b", 1024),
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
