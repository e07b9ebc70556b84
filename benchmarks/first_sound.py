"""What a first sound that comes early costs: units that a listener waits for, and how far it is from the exact sound.

    python benchmarks/first_sound.py [MODEL] [--seeds 3]

The examples of `twist serve` are continued, unit after unit goes to the voice, and what is spoken first is held against
the same samples of the sound that waits for everything. No times: nothing here depends on the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twistlm.audio.clip import Clip
from twistlm.jobs.serving import load_served
from twistlm.lm.sample import generate
from twistlm.types import Units
from twistlm.vocoder.vocoder import Vocoder

WAYS = [(8, 8), (8, 4), (8, 3), (8, 2), (8, 0)]  # look-ahead, and that of the first sound


def first(voice: Vocoder, prompt: Units, new: Sequence[int], ahead: int, soon: int) -> tuple[int, NDArray[np.float32]]:
    """Return how many units it took, and the sound that came."""
    stream = voice.open_stream(durations="predicted", look_ahead=ahead, first_look_ahead=soon, chunk=1, before=prompt)
    for n, unit in enumerate(new, start=1):
        if len(sound := stream.push([unit])):
            return n, sound
    raise SystemExit("no sound came: let it go on for longer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path("mini-lm"))
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    served = load_served({"model": given.model}, transcripts=False)
    (_, lm), voice = served.model(None), served.voice(None)
    made = []
    for example in served.examples:
        prompt = served.tokenizer(Clip.read(example.path, sample_rate=served.rate))
        for seed in range(given.seeds):
            units = generate(lm, prompt, seed=seed, temperature=0.8, seconds=2, stop_at_end=False)
            new = units.ids[len(prompt) :].tolist()
            whole = voice.open_stream(durations="predicted", before=prompt)
            made.append((prompt, new, np.concatenate([whole.push(new), whole.finish()])))
    print(
        f"{len(made)} continuations\nlook-ahead, first   units: mean (from, to)   SNR of the first sound: median, worst"
    )
    for ahead, soon in WAYS:
        waited, clear = [], []
        for prompt, new, exact in made:
            n, sound = first(voice, prompt, new, ahead, soon)
            there = exact[: len(sound)].astype(np.float64)
            noise = max(1e-20, float(((sound - there) ** 2).sum()))
            waited.append(n)
            clear.append(10 * np.log10((there**2).sum() / noise))
        print(
            f"{ahead:>10}, {soon:<5}   {np.mean(waited):>11.1f} ({min(waited)}, {max(waited)})"
            f"   {np.median(clear):>24.1f}, {min(clear):.1f} dB"
        )


if __name__ == "__main__":
    main()
