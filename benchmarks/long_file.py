"""Peak memory of tokenizing a long file, above what the loaded tokenizer takes, against the file read whole."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile as sf

from twistlm.types import UnitSpec

RATE = 16_000
WHOLE_HOURS = 1.0  # above that the file is not read whole for comparison: that takes gigabytes, which is the point


def main() -> None:
    """Print a line for a quarter of the hours, for all of them, and for the same file read whole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=0.05, help="length of the synthetic file")
    parser.add_argument("--tokenizer", default="mini-25hz-500", help="name or folder, or hubert-base-shape (random)")
    parser.add_argument("--child", nargs=2, metavar=("FILE", "WAY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(measured(Path(given.child[0]), way=given.child[1], tokenizer=given.tokenizer))
        return
    with tempfile.TemporaryDirectory() as folder:
        lines = [("stream", given.hours / 4), ("stream", given.hours)]
        lines += [("whole", given.hours)] if given.hours <= WHOLE_HOURS else []
        first = 0.0
        for way, hours in lines:
            path = Path(folder) / f"{hours}.flac"
            if not path.exists():
                make(path, seconds=hours * 3600)
            command = [sys.executable, __file__, "--tokenizer", given.tokenizer, "--child", str(path), way]
            above = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            first = first or above
            print(f"{way:7} {hours:6.3f} h {above:8.0f} MB above the model   {above / first:5.2f} x")


def make(path: Path, *, seconds: float) -> None:
    """Write tones of changing pitch and loudness over noise, ten seconds at a time."""
    rng = np.random.default_rng(0)
    time = np.arange(10 * RATE) / RATE
    with sf.SoundFile(path, "w", RATE, 1) as sound:
        left = round(seconds * RATE)
        while left > 0:
            tone = np.sin(2 * np.pi * rng.uniform(80, 800) * time) * rng.uniform(0.05, 0.5)
            block = tone + 0.01 * rng.standard_normal(len(time))
            sound.write(block[:left].astype(np.float32))
            left -= len(block)


def measured(path: Path, *, way: str, tokenizer: str) -> float:
    """Peak of this process in MB while it tokenizes `path`, above its peak once the tokenizer is loaded and warm."""
    from twistlm.audio.clip import Clip
    from twistlm.units.tokenizer import SpeechTokenizer

    tok = random_base() if tokenizer == "hubert-base-shape" else SpeechTokenizer.load(tokenizer)
    tok(Clip(np.random.default_rng(0).standard_normal(RATE).astype(np.float32) / 9, RATE))  # libraries are loaded
    before = peak()
    units = tok.stream(path) if way == "stream" else tok(Clip.read(path))
    assert len(units.frames) == tok.n_frames(sf.info(path).frames)
    return peak() - before


def peak() -> float:
    """MB of memory this process has had at most."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1e6 if sys.platform == "darwin" else 1e3)


def random_base():
    """A tokenizer in the shape of HuBERT-base, layer 9, 500 units, with random weights."""
    import torch
    from transformers import HubertConfig, HubertModel

    from twistlm.units.encoder import SSLEncoder, cut
    from twistlm.units.kmeans import Codebook
    from twistlm.units.tokenizer import SpeechTokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HubertModel(HubertConfig())
    encoder = SSLEncoder(cut(model.config, model.state_dict(), 9), 9)
    spec = UnitSpec(
        encoder="random", encoder_sha256="0" * 64, layer=9, tap="block_output", normalize_input=False,
        sample_rate=RATE, hop=320, n_units=500, centroids_sha256="0" * 64, deduplicate=True,
    )  # fmt: skip
    centroids = np.random.default_rng(0).standard_normal((500, 768)).astype(np.float32)
    return SpeechTokenizer(encoder, Codebook(centroids), spec)


if __name__ == "__main__":
    main()
