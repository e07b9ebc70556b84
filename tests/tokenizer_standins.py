"""Tokenizers that hear loudness, and sounds for them: without torch, since tests start processes that use them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import soundfile as sf

from twistlm.audio import stream
from twistlm.audio.clip import Clip
from twistlm.corpus import cutting
from twistlm.corpus.opened import open_corpus
from twistlm.corpus.tokenize import tokenize
from twistlm.types import Units, UnitSpec

__all__ = ["SPEC", "FakeTokenizer", "Streamer", "by_id", "cutting", "sound", "tokenize"]

SPEC = UnitSpec(
    encoder="fake",
    encoder_sha256="0" * 64,
    layer=1,
    tap="block_output",
    normalize_input=False,
    sample_rate=16_000,
    hop=640,
    n_units=500,
    centroids_sha256="1" * 64,
    deduplicate=False,
)


class FakeTokenizer:
    """A unit is the loudness of a frame: depends on the sound alone, so a swapped clip shows."""

    def __init__(self, spec: UnitSpec = SPEC, seconds_each: float = 0.0) -> None:
        self.spec, self.seconds_each, self.heard = spec, seconds_each, []

    def __call__(self, clip: Clip) -> Units:
        assert clip.sample_rate == self.spec.sample_rate
        self.heard.append(clip.id)
        time.sleep(self.seconds_each)
        n = len(clip.samples) // self.spec.hop
        loudness = np.abs(clip.samples[: n * self.spec.hop]).reshape(n, self.spec.hop).mean(axis=1)
        ids = np.minimum(loudness * self.spec.n_units, self.spec.n_units - 1).astype(np.uint16)
        return Units(ids, np.ones(n, dtype=np.int32), self.spec)


class Streamer(FakeTokenizer):
    """A fake that can stream; `stop` is a file to make in the middle of a long file, and then to wait."""

    def __init__(self, stop: Path | None = None) -> None:
        super().__init__()
        self.stop, self.streamed = stop, []

    def stream(
        self, path: Path, *, start: float = 0.0, seconds: float | None = None, channel: int | None = None
    ) -> Units:
        if self.stop is not None:
            self.stop.touch()
            time.sleep(600)
        self.streamed.append(path.name)
        pieces = list(stream.blocks(path, sample_rate=16_000, start=start, seconds=seconds))
        return self(Clip(np.concatenate(pieces), 16_000))


def sound(path: Path, seed: int, *, seconds: float = 0.2, rate: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    sf.write(path, rng.uniform(-0.5, 0.5, int(seconds * rate)) * rng.uniform(0.1, 1), rate)


def by_id(folder: Path) -> dict[str, list[int]]:
    corpus = open_corpus(folder, split=None)
    return {corpus.ids[i]: corpus[i].ids.tolist() for i in range(len(corpus))}
