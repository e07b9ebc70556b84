"""Small samples for tests of listening studies: babble, which every system says in its own voice."""

from __future__ import annotations

from pathlib import Path

import soundfile

from standins import babble
from twistlm.listen.request import Request

RATE = 16_000


def make_samples(root: Path, systems: dict[str, float], *, items: int, seconds: float = 0.6) -> list[str]:
    """Write `items` clips of each system (name -> pitch, Hz) and return the arguments of twist listen plan."""
    for s, (name, pitch) in enumerate(systems.items()):
        folder = root / name
        folder.mkdir(parents=True)
        for i in range(items):
            sound = babble(seconds + 0.01 * i + 0.02 * s, seed=100 * s + i, pitch=pitch)
            soundfile.write(folder / f"text-{i:02}.wav", sound * (0.3 + 0.5 * s / len(systems)), RATE)
    return [f"{name}={root / name}" for name in systems]


def request(**changed: object) -> Request:
    """A small study with everything in it."""
    values = {
        "design": "mos", "question": "meaning", "clips_per_system": 2, "ratings_per_clip": 2, "seed": 3,
        "truth": "truth", "floor": "shuffled", "languages": ("en", "de"),
    }  # fmt: skip
    return Request(**(values | changed))  # type: ignore[arg-type]


SYSTEMS = {"warm": 100.0, "cold": 140.0, "truth": 190.0}
