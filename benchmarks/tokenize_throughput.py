"""How many seconds of speech are cut a second, against the straightforward way in the same run, and how units agree.

The straightforward way: transformers' HubertModel as it comes, in float32, hidden states of every layer, zero-padded
batches of 8, every core on each product, the nearest centroid by the same codebook. Weights are random, in published
shapes; speech is real, joined to clips of 2 to 15 s; centroids are fitted on other speech behind the same weights.
With --cpu-time each way has one thread and a second is one of that core's, so that other jobs count little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import HubertConfig, HubertModel

from twistlm.audio.clip import Clip
from twistlm.compute.products import linear
from twistlm.compute.threads import in_order
from twistlm.corpus.manifest import build
from twistlm.files.artifacts import bundled
from twistlm.units import kmeans
from twistlm.units.encoder import SSLEncoder, cut

RATE, K = 16_000, 500
CONV_25HZ = {
    "conv_dim": (512,) * 8, "conv_kernel": (10, 3, 3, 3, 3, 2, 2, 2), "conv_stride": (5, 2, 2, 2, 2, 2, 2, 2),
    "num_feat_extract_layers": 8, "conv_pos_batch_norm": True,
}  # fmt: skip
SHAPES = {"HuBERT-base, layer 9": (HubertConfig(), 9), "mHuBERT-25Hz, layer 11": (HubertConfig(**CONV_25HZ), 11)}

Frames = list[NDArray[np.uint16]]
Clips = list[NDArray[np.float32]]
Clock = Callable[[], float]


def main() -> None:
    """Print a line for each way of each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2, help="of each way, in turn; the best counts")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, and the core's seconds, not the clock's")
    given = parser.parse_args()
    clock = time.perf_counter
    if given.cpu_time:
        torch.set_num_threads(1)
        clock = time.process_time
    clips, others = speech(given.clips, seconds=None), speech(4, seconds=25.0, skip=500)
    seconds = sum(len(c) for c in clips) / RATE
    peak = product_rate(clock)
    print(f"{len(clips)} clips, {seconds:.0f} s; best of {given.rounds}; {torch.get_num_threads()} threads")
    print(f"products of 2048 x 2048 in float32: {peak / 1e9:.0f} GFLOP/s")
    for name, (config, layer) in SHAPES.items():
        print(f"\n{name}")
        compare(config, layer, clips, others, rounds=given.rounds, clock=clock, peak=peak)


def compare(
    config: HubertConfig, layer: int, clips: Clips, others: Clips, *, rounds: int, clock: Clock, peak: float
) -> None:
    """Print a line for each way to cut `clips`; `peak` is in FLOP/s."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HubertModel(config).eval()
    encoder = SSLEncoder(cut(config, model.state_dict(), layer), layer)
    book = kmeans.fit(np.concatenate(list(in_order(encoder, others))), K, seed=0)
    ways: dict[str, Callable[[], Frames]] = {
        "straightforward": lambda: straightforward(model, layer, book, clips),
        "ours, a clip a core": lambda: list(in_order(lambda c: book.assign(encoder(c)), clips)),
        "ours, batches of 8": lambda: batched(encoder, book, clips),
    }
    best, units = timed(ways, rounds, clock)
    alone = list(in_order(lambda c: book.assign(by_itself(model, layer, c)), clips))
    seconds, work = sum(map(len, clips)) / RATE, sum(flops(encoder, len(c)) for c in clips)
    for way, taken in best.items():
        print(
            f"{way:20} {seconds / taken:6.1f} s of speech a second   {best['straightforward'] / taken:5.2f} x   "
            f"{work / taken / peak:4.0%} of the products' rate   {agreement(units[way], alone):8.3%} of frames as alone"
        )


def speech(n: int, *, seconds: float | None, skip: int = 0) -> Clips:
    """Join bundled clips to `n` of this length, or of random ones in 2 … 15 s, seeded."""
    rng = np.random.default_rng(0)
    entries = iter(build(bundled("speech"))[skip:])
    made = []
    for _ in range(n):
        wanted = round((seconds or rng.uniform(2, 15)) * RATE)
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < wanted:
            parts.append(Clip.read(next(entries).path, sample_rate=RATE).samples)
        made.append(np.concatenate(parts)[:wanted])
    return made


def timed(
    ways: dict[str, Callable[[], Frames]], rounds: int, clock: Clock
) -> tuple[dict[str, float], dict[str, Frames]]:
    """Best time of each way, the ways in turn; and what each made."""
    best, made = dict.fromkeys(ways, float("inf")), {}
    for _ in range(rounds):
        for way, run in ways.items():
            began = clock()
            made[way] = run()
            best[way] = min(best[way], clock() - began)
    return best, made


@torch.inference_mode()
def straightforward(model: nn.Module, layer: int, book: kmeans.Codebook, clips: Clips) -> Frames:
    """Zero-padded batches of 8, in the order given."""
    made = []
    for first in range(0, len(clips), 8):
        waves = [torch.from_numpy(c) for c in clips[first : first + 8]]
        padded = nn.utils.rnn.pad_sequence(waves, batch_first=True)
        hidden = model(padded, output_hidden_states=True).hidden_states[layer]
        counts = [int(model._get_feat_extract_output_lengths(len(w))) for w in waves]
        made += [book.assign(h[:n].numpy()) for h, n in zip(hidden, counts, strict=True)]
    return made


@torch.inference_mode()
def by_itself(model: nn.Module, layer: int, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features by transformers' own modules, of one clip: what units are measured against."""
    return model(torch.from_numpy(samples)[None], output_hidden_states=True).hidden_states[layer][0].numpy()


def batched(encoder: SSLEncoder, book: kmeans.Codebook, clips: Clips) -> Frames:
    """Batches of 8 clips of similar length, every core on each product."""
    order = sorted(range(len(clips)), key=lambda i: len(clips[i]))
    made: dict[int, NDArray[np.uint16]] = {}
    for first in range(0, len(order), 8):
        these = order[first : first + 8]
        features = encoder.batch([clips[i] for i in these])
        made |= {i: book.assign(f) for i, f in zip(these, features, strict=True)}
    return [made[i] for i in range(len(clips))]


def agreement(units: Frames, exact: Frames) -> float:
    """Share of frames with the same unit."""
    return float(np.mean(np.concatenate(units) == np.concatenate(exact)))


def product_rate(clock: Clock, size: int = 2048) -> float:
    """FLOP/s of matrix products on every thread at once, each with its own: the best of several."""
    a, b = (torch.randn(size, size) for _ in range(2))

    n = 4 * torch.get_num_threads()

    def rate() -> float:
        began = clock()
        for _ in in_order(lambda _: linear(a, b, None), range(n)):
            pass
        return n * 2 * size**3 / (clock() - began)

    return max(rate() for _ in range(5))


def flops(encoder: SSLEncoder, n_samples: int) -> float:
    """FLOP of a clip's products: convolutions, linear layers of the kept blocks, attention."""
    config, n, total, below = encoder.model.config, n_samples, 0, 1
    for channels, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        n = (n - kernel) // stride + 1
        total += 2 * n * channels * below * kernel
        below = channels
    width, groups = config.hidden_size, config.num_conv_pos_embedding_groups
    total += 2 * n * width * (below + width // groups * config.num_conv_pos_embeddings)
    block = 2 * (4 * width**2 + 2 * width * config.intermediate_size) + 4 * n * width
    return total + n * encoder.layer * block


if __name__ == "__main__":
    main()
