"""How many seconds of speech `tokenize` cuts a second, against one clip at a time with every core on its matrices."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from twistlm.audio.clip import Clip
from twistlm.corpus import manifest
from twistlm.corpus.opened import open_corpus
from twistlm.corpus.tokenize import tokenize
from twistlm.files.artifacts import bundled
from twistlm.units.tokenizer import SpeechTokenizer

CLIPS, ROUNDS = 100, 3


def main() -> None:
    """Print one line for each way; exit with an error when their units differ in more than one frame in a thousand."""
    entries = manifest.build(bundled("speech"))[:CLIPS]
    tok = SpeechTokenizer.load("mini-25hz-500")
    rate = tok.spec.sample_rate
    best = {"one at a time": 0.0, "tokenize": 0.0}
    for _ in range(ROUNDS):
        began = time.perf_counter()
        clips = [Clip.read(entry.path, sample_rate=rate) for entry in entries]
        units = {entry.id: tok(clip) for entry, clip in zip(entries, clips, strict=True)}
        seconds = sum(clip.seconds for clip in clips)
        best["one at a time"] = max(best["one at a time"], seconds / (time.perf_counter() - began))
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            tokenize(entries, Path(folder) / "units", tok)
            best["tokenize"] = max(best["tokenize"], seconds / (time.perf_counter() - began))
            corpus = open_corpus(Path(folder) / "units", split=None)
            stored = {i: corpus[n] for n, i in enumerate(corpus.ids)}
    same = np.concatenate([units[i].frames == stored[i].frames for i in units])
    for name, speed in best.items():
        print(
            f"{name:14} {speed:6.1f} s of speech a second   {speed / best['one at a time']:.2f} x   (best of {ROUNDS})"
        )
    print(f"frames with the same unit: {same.mean():.4%} of {same.size}")
    assert same.mean() > 0.999


if __name__ == "__main__":
    main()
