"""How many seconds of speech `tokenize` cuts a second, against one clip at a time with every core on its matrices.

And how soon the words of a suite are cut: some as one batch, against each by itself, a word a core (`tokenize_suite`
with an empty cache both times, reading included).
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twistlm.audio.clip import Clip
from twistlm.corpus import manifest
from twistlm.corpus.opened import open_corpus
from twistlm.corpus.tokenize import tokenize
from twistlm.evaluate.suites.catalogue import open_suite
from twistlm.evaluate.unit_cache import tokenize_suite
from twistlm.files.artifacts import bundled
from twistlm.types import Units, UnitSpec
from twistlm.units.tokenizer import SpeechTokenizer

CLIPS, ROUNDS = 100, 3


@dataclass(frozen=True)
class Alone:
    """A tokenizer that takes one clip at a time."""

    tok: SpeechTokenizer

    @property
    def spec(self) -> UnitSpec:
        return self.tok.spec

    def __call__(self, clip: Clip) -> Units:
        return self.tok(clip)


def words(tok: SpeechTokenizer) -> None:
    """Print how many sounds of mini-swuggy are cut a second, in both ways in turns."""
    suite = open_suite("mini-swuggy")
    ways = {"each word by itself": Alone(tok), "some as one batch": tok}
    best, units = dict.fromkeys(ways, 0.0), {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as cache:
                began = time.perf_counter()
                found = tokenize_suite(suite, way, cache=cache)
                best[name] = max(best[name], found.n_cut / (time.perf_counter() - began))
                units[name] = {i: each.ids.tobytes() for i, each in found.units.items()}
    one, other = units.values()
    reference = best["each word by itself"]
    for name, speed in best.items():
        print(f"{name:20} {speed:6.1f} words a second   {speed / reference:.2f} x   (best of {ROUNDS})")
    print(f"words with the same units: {sum(one[i] == other[i] for i in one)} of {len(one)}")
    assert one == other


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
    words(tok)


if __name__ == "__main__":
    main()
