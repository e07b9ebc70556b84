"""The sounds of a study by what they are, read or made each time they are asked for: they need not fit in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from twistlm.audio.clip import Clip, read
from twistlm.audio.decoding import opened, seconds_to_samples
from twistlm.errors import BadInput, offenders
from twistlm.files.regular import file_sha256
from twistlm.listen import controls
from twistlm.listen.loudness import Level, levelled, measure
from twistlm.listen.places import NATURAL, Key
from twistlm.listen.request import Request
from twistlm.listen.samples import Samples, by_item
from twistlm.listen.study import MADE_FLOOR

MOST_RATE = 48_000  # Hz
_TRAP_LUFS = -30.0  # of a trapping clip before all clips get one level: only clip and voice must agree


class Sounds:
    """Where the clips of a study come from.

    Attributes:
        rate: Hz of all of them.
        natural: items that there are natural recordings of.
        levels: how loud what was measured is, by the ids of clips.
    """

    def __init__(self, request: Request, samples: Samples, *, natural: Path | None, prompts: Path | None) -> None:
        self.request = request
        if natural is not None and NATURAL in samples.systems:
            raise BadInput(
                f"a system is called {NATURAL!r}, as the recordings of --natural are: rename it, NAME=FOLDER."
            )
        if request.pause and prompts is None:
            raise BadInput("a pause (--pause) is between a prompt and what continues it: give --prompts too.")
        recordings = {} if natural is None else by_item(natural)
        self.natural = {item for item in samples.items if item in recordings}
        if natural is not None and not self.natural:
            raise BadInput(f"{natural}: no recording has the name of an item. Name them as the samples are named.")
        self._paths = {**samples.paths, **{(NATURAL, item): recordings[item] for item in self.natural}}
        self._prompts = {} if prompts is None else by_item(prompts)
        if prompts is not None and (lacking := [item for item in samples.items if item not in self._prompts]):
            raise BadInput(f"{prompts}: no prompt for item {offenders(lacking)}. Every item needs one.")
        self.rate = request.sample_rate or min(MOST_RATE, max(map(_rate_of, self._paths.values())))
        self.levels: dict[str, Level] = {}

    def sources(self) -> dict[str, str]:
        """Return the sha256 of every file, by what it is of."""
        named = {f"{system}/{item}": path for (system, item), path in self._paths.items()}
        named |= {f"prompt/{item}": path for item, path in self._prompts.items()}
        return {name: file_sha256(path) for name, path in sorted(named.items())}

    def measure(self, key: Key) -> int:
        """Note how loud the parts of a clip are, and return its length in samples."""
        parts = self._parts(key)
        for part in parts:
            if part.id not in self.levels:
                self.levels[part.id] = measure(part)
        return sum(len(part.samples) for part in parts) + self._gap * (len(parts) - 1)

    def at_level(self, key: Key, lufs: float) -> tuple[Clip, float]:
        """Return a clip at `lufs`, and the gain in dB that its last part needed. Its parts have been measured."""
        parts = self._parts(key)
        gap = np.zeros(self._gap, np.float32)
        pieces = [gap] * (2 * len(parts) - 1)
        pieces[::2] = [levelled(part, self.levels[part.id], lufs=lufs).samples for part in parts]
        gain = lufs - self.levels[parts[-1].id].lufs
        return Clip(np.concatenate(pieces), self.rate, id="/".join(key)), gain

    @property
    def _gap(self) -> int:
        return seconds_to_samples(self.request.pause, self.rate)

    def _parts(self, key: Key) -> list[Clip]:
        """Return what a clip is made of, in order, each with an id of its own."""
        clip = self._sample(key.system, key.item)
        if key.kind != "sample":
            _, language, says = key.kind.split("/")
            name = f"trapping clip {says}, {language}, {key.item}"
            beside = levelled(clip, measure(clip), lufs=_TRAP_LUFS)
            return [controls.trap(beside, says=says, language=language, name=name)]
        if key.item not in self._prompts:
            return [clip]
        prompt = read(self._prompts[key.item], sample_rate=self.rate)
        return [Clip(prompt.samples, self.rate, id=f"prompt {key.item}"), clip]

    def _sample(self, system: str, item: str) -> Clip:
        name = f"{item} of {system}"
        if (system, item) in self._paths:
            return Clip(read(self._paths[system, item], sample_rate=self.rate).samples, self.rate, id=name)
        assert system == MADE_FLOOR
        truth = read(self._paths[self.request.truth, item], sample_rate=self.rate)
        rng = np.random.default_rng([self.request.seed, 5, *hashlib.sha256(item.encode()).digest()[:4]])
        return Clip(controls.floor_of(truth, self.request.floor, rng=rng).samples, self.rate, id=name)


def _rate_of(path: Path) -> int:
    with opened(path) as sound:
        return sound.rate
