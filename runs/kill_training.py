"""Kill a small training with signal 9 at random moments, run it again each time, and compare it with a straight run.

    python runs/kill_training.py /tmp/killed --kills 20 --seed 0

Once alone and once on two ranks (gloo), which are all killed at once. A moment is some updates after the start and a
little more, so it falls into updates, evaluations, checkpoints and start-up alike. Prints where each kill fell and
whether the final weights are equal bit for bit; exit code 1 when they are not.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.distributed.tensor import DTensor  # noqa: F401  loaded before forking, for all ranks at once
from transformers import LlamaConfig, LlamaForCausalLM

from twistlm.config import TrainConfig
from twistlm.corpus.opened import UnitCorpus
from twistlm.lm.model import UnitLM
from twistlm.lm.vocab import Vocab
from twistlm.train.loop import train
from twistlm.types import Units, UnitSpec

SPEC = UnitSpec(
    encoder="random", encoder_sha256="0", layer=1, tap="block_output", normalize_input=True, sample_rate=16_000,
    hop=640, n_units=100, centroids_sha256="0", deduplicate=False,
)  # fmt: skip
CONFIG = TrainConfig(
    updates=200, batch_rows=4, accumulate=2, context=64, lr=1e-2, table_rate=1.0, lr_floor=1e-3,
    schedule="inverse_sqrt", warmup=10,
    weight_decay=0.01, betas=(0.9, 0.98), clip_norm=1.0, max_loss_rise=0.0, checkpoint_activations=False,
    precision="float32", compile=False, eval_every=10, checkpoint_every=3, seed=0,
)  # fmt: skip


def run(out: Path) -> None:
    """Train on random units, about eight epochs; dropout on."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, SPEC.n_units, rng.integers(5, 60)).astype(np.uint16) for _ in range(200)]
    units = [Units(u, np.ones(len(u), np.int32), SPEC, f"d{i}") for i, u in enumerate(ids)]
    vocab = Vocab(SPEC.n_units)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab.size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            tie_word_embeddings=True, attention_dropout=0.1, pad_token_id=0, bos_token_id=1, eos_token_id=1,
        )
    )  # fmt: skip
    prompt = torch.arange(2, 12)[None]
    train(
        UnitLM(model, vocab, SPEC),
        UnitCorpus.from_units(units),
        CONFIG,
        out,
        on_eval=lambda lm, _: {"logit": lm.forward_logits(prompt).sum().item()},
    )


def start(world: int, out: Path) -> list[int]:
    """Fork the ranks of a run; return their process ids."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = []
    for rank in range(world):
        if (child := os.fork()) == 0:
            if world > 1:
                os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            run(out)
            os._exit(0)
        ranks.append(child)
    return ranks


def end(ranks: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]


def kill(ranks: list[int], out: Path, updates: int, wait: float) -> int:
    """Kill `wait` seconds after so many lines of metrics were written; return the last update that is there."""
    metrics, size = out / "metrics.jsonl", 0
    while updates > 0:
        time.sleep(0.0005)
        now = metrics.stat().st_size if metrics.exists() else 0
        updates, size = updates - (now > size), now
    time.sleep(wait)
    for rank in ranks:
        os.kill(rank, signal.SIGKILL)
    end(ranks)
    return metrics.read_text().count("\n") - 1


def weights(out: Path) -> dict[str, torch.Tensor]:
    return UnitLM.load(out / "lm").model.state_dict()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    torch.set_num_threads(1)  # a forked child has no thread pool
    rng, same = random.Random(args.seed), True
    for world in (1, 2):
        straight, killed = args.out / f"straight-{world}", args.out / f"killed-{world}"
        if any(end(start(world, straight))):
            return 1
        fell = []
        for left in range(args.kills, 0, -1):
            # On average an equal share of what is left; at most so many that the run does not end first.
            reached = fell[-1] // CONFIG.checkpoint_every * CONFIG.checkpoint_every if fell else 0
            most = max(1, min(2 * (CONFIG.updates - reached) // (left + 1), CONFIG.updates - reached - 8))
            fell.append(kill(start(world, killed), killed, rng.randint(1, most), rng.uniform(0, 0.03)))
        print(f"{world} rank(s): killed {len(fell)} times, after updates {', '.join(map(str, fell))}", flush=True)
        if any(end(start(world, killed))):
            return 1
        one, other = weights(straight), weights(killed)
        equal = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        print(f"{world} rank(s): the weights are {'the same, bit for bit' if equal else 'OTHERS'}", flush=True)
        same &= equal
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
