"""Seconds of speech a second: the generator that ends in an inverse STFT against unit HiFi-GAN, batch 1 and 8.

The shapes of the bundled vocoders' recipes and HiFi-GAN at its published width and blocks; random weights (speed does
not depend on them), 5 s of units a clip. They speak in turn in the same rounds; the best round of each counts, so that
other work on the machine moves the ratios less.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch

from twistlm.compute.threads import cores
from twistlm.types import Units, UnitSpec
from twistlm.vocoder.generator import InputShape
from twistlm.vocoder.hifigan import HiFiGANConfig
from twistlm.vocoder.istft import istft_like
from twistlm.vocoder.synthesizer import Synthesizer
from twistlm.vocoder.vocoder import Vocoder

SPEC = UnitSpec(
    encoder="random", encoder_sha256="0" * 64, layer=6, tap="block_output", normalize_input=False, sample_rate=16_000,
    hop=640, n_units=500, centroids_sha256="1" * 64, deduplicate=True,
)  # fmt: skip
HIFIGAN = HiFiGANConfig(
    num_embeddings=500, embedding_dim=128, model_in_dim=128, sampling_rate=16_000, upsample_rates=(5, 2, 2, 4, 8),
    upsample_kernel_sizes=(11, 4, 4, 8, 16), upsample_initial_channel=512, resblock_kernel_sizes=(3,),
    resblock_dilation_sizes=((1, 3, 5),),
)  # fmt: skip
PUBLISHED = dataclasses.replace(
    HIFIGAN, upsample_rates=(5, 4, 4, 4, 2), upsample_kernel_sizes=(11, 8, 8, 8, 4), resblock_kernel_sizes=(3, 7, 11),
    resblock_dilation_sizes=((1, 3, 5),) * 3,
)  # fmt: skip
SHAPES: dict[str, InputShape] = {"istft": istft_like(HIFIGAN), "hifigan": HIFIGAN, "hifigan, published": PUBLISHED}
FRAMES = 125


def main() -> None:
    """Print, for each batch, the speed of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--cpu-time", action="store_true", help="count seconds of the CPU, not of the clock")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = time.process_time if given.cpu_time else time.perf_counter
    torch.manual_seed(0)
    vocoders = {name: Vocoder(Synthesizer(shape).fold().eval(), SPEC, name=name) for name, shape in SHAPES.items()}
    rng = np.random.default_rng(0)
    clips = [
        Units(rng.integers(0, 500, FRAMES).astype(np.uint16), np.ones(FRAMES, np.int32), SPEC, f"{i}") for i in range(8)
    ]
    for name, voc in vocoders.items():
        parameters = sum(p.numel() for p in voc.synthesizer.parameters())
        reach = voc.synthesizer.reach
        print(f"{name}: {parameters / 1e6:.2f} M parameters, hears {reach.left} frames back and {reach.right} ahead")
    for batch in (1, 8):
        speak: dict[str, Callable[[], object]] = {
            name: lambda voc=voc, many=clips[:batch]: voc.batch(many, durations="given")
            for name, voc in vocoders.items()
        }
        best = dict.fromkeys(speak, float("inf"))
        for _ in range(given.rounds):
            for name, act in speak.items():
                begun = clock()
                act()
                best[name] = min(best[name], clock() - begun)
        seconds = batch * FRAMES * SPEC.hop / SPEC.sample_rate
        speeds = ", ".join(f"{name} {seconds / taken:.0f}" for name, taken in best.items())
        ratios = ", ".join(f"{best[name] / best['istft']:.2f} times {name}" for name in list(best)[1:])
        print(f"batch {batch}, {given.threads} threads, seconds of speech a second: {speeds}; istft is {ratios}")


if __name__ == "__main__":
    main()
