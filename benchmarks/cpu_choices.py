"""Which way each choice of `compute.choices` takes on this CPU and on stand-ins for others, and what the other gives.

Stand-ins are this machine with fewer instructions: `ONEDNN_MAX_CPU_ISA`, `MKL_ENABLE_INSTRUCTIONS` and
`ATEN_CPU_CAPABILITY` tell the libraries so, each in a process of its own. What is timed is not what the choice itself
timed: updates of training on SmolLM2-135M's and OPT-125M's shapes in both formats, and continuations by both settings
of products and drafts, in turn, in one process; ratios are medians over rounds. Above 1 the way that was taken is
faster than the plain one (float32; MKL without drafts), 1 by definition where the plain one was taken.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

CORE = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
STAND_INS = {"as it is": {}, "AVX-512 without bf16": CORE, "AVX2": AVX2}


def main() -> None:
    """Print the choices and ratios of this machine and of each stand-in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--units", type=int, default=100, help="of a continuation")
    parser.add_argument("--only", choices=list(STAND_INS), help="one stand-in")
    parser.add_argument("--parts", nargs="*", default=["training", "sampling"], choices=["training", "sampling"])
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        for part in given.parts:
            {"training": training, "sampling": sampling}[part](given.rounds, given.units)
        return
    for name, variables in STAND_INS.items():
        if given.only in (None, name):
            print(f"== {name}", flush=True)
            subprocess.run([sys.executable, *sys.argv, "--inside"], env=os.environ | variables, check=True)


def training(rounds: int, _units: int) -> None:
    """Compare both formats on updates of 512 tokens, eager."""
    import dataclasses

    from train_throughput import CPU, Ours, random_clips

    from twistlm.compute.precision import choose_precision, linear_shapes
    from twistlm.recipes import twist_125m

    config = dataclasses.replace(twist_125m().warm, batch_rows=2, context=256, compile=False, max_loss_rise=0.0)
    clips = [clip[:255] for clip in random_clips(200)]
    for shape in ("smollm2-135m", "opt-125m"):
        ours = Ours(shape, clips, config, time.perf_counter)
        took, choice = choose_precision("auto", CPU, linear_shapes(ours.lm.model), rows=512)

        def update(precision: str, ours: Ours = ours) -> float:
            ours.precision = precision
            begun = time.perf_counter()
            ours.updates(1)
            return time.perf_counter() - begun

        taken = in_turn({p: lambda p=p: update(p) for p in ("float32", "bf16")}, rounds)
        ratio = statistics.median(a / b for a, b in zip(taken["float32"], taken["bf16"], strict=True))
        print(f"training, {shape}: {took} ({choice.in_words()}); in updates bf16 is {ratio:.2f} x float32's speed")
        print(f"  taken against float32: {ratio if took == 'bf16' else 1:.2f}", flush=True)


def sampling(rounds: int, units: int) -> None:
    """Compare choices made by trying with MKL's products and no drafts, and both with transformers' `generate`."""
    import torch
    from train_throughput import random_lm

    from twistlm.compute import choices
    from twistlm.lm.sample import generate_batch

    lm = random_lm("smollm2-135m")
    lm.model.eval()
    tried: dict[str, choices.Choice] = {}
    for batch in (1, 8):

        def ours(asked: str, batch: int = batch) -> None:
            os.environ[choices.VARIABLE] = asked
            choices._made.clear()
            if not asked:
                choices._made.update(tried)
            generate_batch(
                lm, [None] * batch, temperature=1, seeds=list(range(batch)), max_units=units, stop_at_end=False
            )
            if not asked:
                tried.update(choices._made)

        def theirs(batch: int = batch) -> None:
            with torch.no_grad():
                tokens = torch.ones(batch, 1, dtype=torch.int64)
                lm.model.generate(
                    tokens, attention_mask=torch.ones_like(tokens), do_sample=True, max_new_tokens=units,
                    suppress_tokens=[0, 1],
                )  # fmt: skip

        ways = {
            "tried": lambda: ours(""),
            "mkl": lambda: ours("products=mkl,drafts=none"),
            "onednn": lambda: ours("products=onednn,drafts=none"),
            "drafts": lambda: ours("products=onednn,drafts=int8"),
            "generate": theirs,
        }
        taken = in_turn(ways, rounds)
        for other in ("mkl", "onednn", "drafts", "generate"):
            ratio = statistics.median(a / b for a, b in zip(taken[other], taken["tried"], strict=True))
            print(f"sampling, batch {batch}: as tried against {other}: {ratio:.2f}", flush=True)
        took = [f"{key.split(',')[0]} {choice.took}" for key, choice in sorted(tried.items())]
        print(f"  {'; '.join(took)}", flush=True)


def in_turn(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each way in each round, after one that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            if number:
                taken[name].append(time.perf_counter() - begun)
    return taken


if __name__ == "__main__":
    main()
