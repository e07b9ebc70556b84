"""Real tokens a second of training on packed rows, against HF Trainer on padded batches of the same clips.

Shapes of SmolLM2-135M and OPT-125M with 500 units and random weights; clips of 20 to 704 units; AdamW, clipping, bf16
where the CPU computes it. The Trainer gets 8 clips a batch, padded to the longest by its usual collator; twistlm packs
the same clips into rows of 705. Rounds of both alternate. Start-up, compilation and each side's first updates are not
counted, padding never is. On a machine that does other work too, `--cpu-time` counts this process's seconds on the CPU
instead of those of the clock (best with OMP_NUM_THREADS=1, for threads that wait spin). MFU: 6 operations a parameter
and token, and the causal half of attention inside documents, over the rate of a matrix product of 2048 x 2048 measured
between the rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import (
    DataCollatorForLanguageModeling,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from twistlm.compute.precision import choose_precision, linear_shapes
from twistlm.config import TrainConfig
from twistlm.corpus.opened import UnitCorpus
from twistlm.corpus.stream import PackedStream
from twistlm.lm.model import UnitLM
from twistlm.lm.pretrained import from_config
from twistlm.lm.shapes import named_shape
from twistlm.lm.vocab import Vocab
from twistlm.recipes import twist_125m
from twistlm.train.compile import compiled_layers
from twistlm.train.optim import adamw
from twistlm.train.plan import matmul_rate
from twistlm.train.step import take_step
from twistlm.types import Units, UnitSpec

UNITS, SHORTEST, LONGEST, CLIPS = 500, 20, 704, 8
SPEC = UnitSpec(
    encoder="random", encoder_sha256="0" * 64, layer=1, tap="block_output", normalize_input=False, sample_rate=16_000,
    hop=640, n_units=UNITS, centroids_sha256="0" * 64, deduplicate=True,
)  # fmt: skip
CPU = torch.device("cpu")
Timer = Callable[[], float]


def smollm2_135m() -> PretrainedConfig:
    """The shape of SmolLM2-135M, its head sizes and ties as published."""
    return LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True,
    )  # fmt: skip


SHAPES: dict[str, Callable[[], PretrainedConfig]] = {
    "smollm2-135m": smollm2_135m,
    "opt-125m": lambda: named_shape("opt-125m"),
}


def random_lm(shape: str) -> UnitLM:
    """A model of that shape over 500 units, its weights random, without dropout."""
    vocab, config = Vocab(UNITS), SHAPES[shape]()
    config.vocab_size, config.pad_token_id, config.bos_token_id, config.eos_token_id = vocab.size, 0, 1, 1
    config.dropout = 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UnitLM(from_config(config), vocab, SPEC)


def random_clips(n: int) -> list[np.ndarray]:
    """Clips of uniform units and uniform length."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, UNITS, size=rng.integers(SHORTEST, LONGEST + 1)).astype(np.uint16) for _ in range(n)]


class Ours:
    """Updates of twistlm's training step, as the loop makes them."""

    def __init__(self, shape: str, clips: list[np.ndarray], config: TrainConfig, clock: Timer) -> None:
        corpus = UnitCorpus.from_units([Units(c, np.ones(len(c), np.int32), SPEC, str(i)) for i, c in enumerate(clips)])
        self.lm, self.config, self.clock = random_lm(shape), config, clock
        self.stream = PackedStream(corpus, self.lm.vocab, rows=config.batch_rows, context=config.context, seed=0)
        self.optimizer, self.done = adamw(self.lm.model, config), 0
        rows = config.batch_rows * config.context
        self.precision = choose_precision("auto", CPU, linear_shapes(self.lm.model), rows=rows)[0]

    def flops(self, first: int, last: int) -> float:
        """What a backward pass through what is trained in these updates must multiply and add."""
        config = self.lm.model.config
        parameters = sum(p.numel() for p in self.lm.model.parameters())
        pieces = [n for update in range(first, last) for row in self.stream.pieces(update) for *_, n in row]
        attention = 12 * config.num_hidden_layers * config.hidden_size * sum(n * n / 2 for n in pieces)
        return 6.0 * parameters * sum(pieces) + attention

    def updates(self, n: int) -> tuple[float, float]:
        """Return (real tokens a second, FLOP/s) of the next `n` updates."""
        tokens, first, begun = 0, self.done, self.clock()
        for self.done in range(first + 1, first + n + 1):
            batch = self.stream.batch(self.done - 1)
            row = take_step(self.lm, self.optimizer, batch, self.config, update=self.done - 1, precision=self.precision)
            tokens += row["tokens"]
        seconds = self.clock() - begun
        return tokens / seconds, self.flops(first, self.done) / seconds


class Clock(TrainerCallback):
    """Notes when each update of the Trainer ended."""

    def __init__(self, clock: Timer) -> None:
        self.clock, self.ends = clock, list[float]()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.ends.append(self.clock())


def trainer_speed(
    shape: str, clips: list[np.ndarray], config: TrainConfig, clock: Timer, *, bf16: bool, updates: int
) -> float:
    """Return real tokens a second of HF Trainer over `updates`, after one that is not counted."""
    from tokenizers import Tokenizer, models

    lm, noted = random_lm(shape), Clock(clock)
    names = {"<pad>": 0, "<s>": 1} | {str(u): u + 2 for u in range(UNITS)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(names, unk_token="<pad>")), pad_token="<pad>"
    )
    rows = [lm.vocab.encode(clip) for clip in clips[: CLIPS * (updates + 1)]]
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            output_dir=out, per_device_train_batch_size=CLIPS, max_steps=updates + 1, learning_rate=config.lr,
            weight_decay=config.weight_decay, max_grad_norm=config.clip_norm, bf16=bf16, use_cpu=True,
            save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
            train_sampling_strategy="sequential",
        )  # fmt: skip
        Trainer(
            model=lm.model,
            args=arguments,
            train_dataset=[{"input_ids": row.tolist()} for row in rows],
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
            callbacks=[noted],
        ).train()
    tokens = sum(len(row) - 1 for row in rows[CLIPS:])
    return tokens / (noted.ends[-1] - noted.ends[0])


def main() -> None:
    """Print, for each shape, both speeds, their ratio, and twistlm's share of the matrix product."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--updates", type=int, default=2, help="timed in each round, for each side")
    parser.add_argument("--eager", action="store_true", help="twistlm without torch.compile")
    parser.add_argument("--cpu-time", action="store_true", help="count seconds of the CPU, not of the clock")
    given = parser.parse_args()
    clock = time.process_time if given.cpu_time else time.perf_counter
    logging.getLogger("transformers").setLevel(logging.ERROR)
    clips = random_clips(400)
    config = dataclasses.replace(
        twist_125m().warm, batch_rows=4, context=LONGEST + 1, compile=not given.eager, max_loss_rise=0.0
    )
    for shape in given.shapes:
        ours = Ours(shape, clips, config, clock)
        with compiled_layers(ours.lm, enabled=config.compile, context=config.context):
            begun = clock()
            ours.updates(2)
            first = clock() - begun
            speeds, theirs, rates, shares = [], [], [], []
            for _ in range(given.rounds):
                speed, flops = ours.updates(given.updates)
                rates.append(matmul_rate(CPU, ours.precision, clock=clock))
                speeds.append(speed)
                shares.append(flops / rates[-1])
                theirs.append(
                    trainer_speed(shape, clips, config, clock, bf16=ours.precision == "bf16", updates=given.updates)
                )
        ratios = [a / b for a, b in zip(speeds, theirs, strict=True)]
        print(
            f"{shape}, {ours.precision}, {'eager' if given.eager else 'compiled'}, {torch.get_num_threads()} threads, "
            f"{'seconds of the CPU' if given.cpu_time else 'seconds of the clock'}: "
            f"{max(speeds):.0f} real tokens/s against {max(theirs):.0f} of HF Trainer; ratio "
            f"{statistics.median(ratios):.2f} ({', '.join(f'{r:.2f}' for r in ratios)}); MFU "
            f"{', '.join(f'{s:.1%}' for s in shares)} of {max(rates) / 1e9:.0f} GFLOP/s; the first two updates took "
            f"{first:.0f} s, not counted"
        )


if __name__ == "__main__":
    main()
