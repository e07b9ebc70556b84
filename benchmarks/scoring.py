"""Pairs scored a second: one-second pairs in batches, against plain transformers on one sequence at a time, float32.

SmolLM2-135M's shape, 500 units, random weights; 25 units a second leave about 19 after deduplication. Exits with an
error when a score differs by more than 1e-4 nats per token.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from train_throughput import UNITS, random_lm

from twistlm.lm.score import score


def main() -> None:
    """Print both speeds and the largest difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--alone", type=int, default=100, help="pairs scored one sequence at a time, a few at a time")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="count seconds of the CPU, not of the clock")
    given = parser.parse_args()
    clock = time.process_time if given.cpu_time else time.perf_counter
    lm, rng = random_lm("smollm2-135m"), np.random.default_rng(0)
    clips = [rng.integers(0, UNITS, size=rng.integers(15, 24)) for _ in range(2 * given.pairs)]

    def alone(units: np.ndarray) -> float:
        tokens = torch.from_numpy(lm.vocab.prompt(units))[None]
        with torch.no_grad():
            logprobs = lm.model(input_ids=tokens, use_cache=False).logits[0, :-1].log_softmax(-1)
        return float(logprobs.gather(1, tokens[0, 1:, None]).double().mean())

    lm.model.eval()
    score(lm, clips[:50], include_end=False)
    alone(clips[0])
    sample, ours, theirs = clips[: 2 * given.alone], [], []
    for _ in range(given.rounds):
        begun = clock()
        found = score(lm, clips, include_end=False)
        ours.append(given.pairs / (clock() - begun))
        begun = clock()
        expected = [alone(units) for units in sample]
        theirs.append(given.alone / (clock() - begun))
    difference = max(abs(a.mean_logprob - b) for a, b in zip(found, expected, strict=False))
    print(
        f"{max(ours):.1f} pairs/s against {max(theirs):.1f} one by one; ratio "
        f"{', '.join(f'{a / b:.2f}' for a, b in zip(ours, theirs, strict=True))}; {torch.get_num_threads()} threads, "
        f"{'seconds of the CPU' if given.cpu_time else 'seconds of the clock'}; largest difference {difference:.1e} "
        "nats per token"
    )
    assert difference < 1e-4


if __name__ == "__main__":
    main()
