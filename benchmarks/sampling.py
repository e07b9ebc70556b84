"""Units sampled a second, greedy, against transformers' `generate` on the same model; the units must be identical.

SmolLM2-135M's shape, 500 units, random weights in float32, or a trained unit LM; batches of 1 and of 8 prompts of 25
random units; ten seconds of deduplicated units, preparations counted. With it, the same for sampling at temperature 1,
ours alone: there a draft has to be right about a draw, not about the likeliest unit.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
import torch
from train_throughput import SPEC, random_lm

from twistlm.lm.model import UnitLM
from twistlm.lm.sample import generate_batch
from twistlm.lm.vocab import Vocab
from twistlm.types import Units


def main() -> None:
    """Print, for each batch, both speeds and their ratio; exit with an error when a unit differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lm", type=Path, help="a folder that UnitLM.save wrote, instead of random weights")
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="count seconds of the CPU, not of the clock")
    given = parser.parse_args()
    clock = time.process_time if given.cpu_time else time.perf_counter
    model = UnitLM.load(given.lm).model if given.lm else random_lm("smollm2-135m").model.eval()
    n_units = model.config.vocab_size - 2
    # transformers lets a unit follow itself
    spec = dataclasses.replace(SPEC, n_units=n_units, deduplicate=False)
    lm, rng = UnitLM(model, Vocab(n_units), spec), np.random.default_rng(0)
    for batch in (1, 8):
        prompts = [
            Units(rng.integers(0, n_units, 25).astype(np.uint16), np.ones(25, np.int32), spec) for _ in range(batch)
        ]
        tokens = torch.from_numpy(np.stack([lm.vocab.prompt(p.ids) for p in prompts]))
        ours, theirs, sampled = [], [], []
        for _ in range(given.rounds):
            begun = clock()
            made = generate_batch(
                lm, prompts, temperature=0, seeds=[0] * batch, max_units=given.units, stop_at_end=False
            )
            ours.append(batch * given.units / (clock() - begun))
            begun = clock()
            generate_batch(lm, prompts, temperature=1, seeds=range(batch), max_units=given.units, stop_at_end=False)
            sampled.append(batch * given.units / (clock() - begun))
            begun = clock()
            with torch.no_grad():
                expected = model.generate(
                    tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=given.units,
                    suppress_tokens=[0, 1],
                )  # fmt: skip
            theirs.append(batch * given.units / (clock() - begun))
        same = all(np.array_equal(m.ids, lm.vocab.decode(e[1:].numpy())) for m, e in zip(made, expected, strict=True))
        print(
            f"batch {batch}: {max(ours):.1f} units/s against {max(theirs):.1f} of generate; ratio "
            f"{', '.join(f'{a / b:.2f}' for a, b in zip(ours, theirs, strict=True))}; sampled at "
            f"temperature 1: {max(sampled):.1f}; {torch.get_num_threads()} threads, "
            f"{'seconds of the CPU' if given.cpu_time else 'seconds of the clock'}; identical: {same}"
        )
        assert same


if __name__ == "__main__":
    main()
