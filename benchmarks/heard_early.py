"""How much of a prompt could be read while it is still being spoken: the units that what was heard so far agrees in.

    python benchmarks/heard_early.py [--clips 40] [--tokenizer mini-25hz-500]

A server could cut what it has heard into units before the recording is over, and let the model read those that will
stand: the encoder looks both ways, so the last ones change, and only the prefix in which both agree saves anything. For
each held-out clip that prefix is counted after the clip without its last half, one and two seconds, against the units
of the whole: the reference, which are what the model has to read in the end.
"""

from __future__ import annotations

import argparse

import numpy as np

from twistlm.audio.clip import Clip
from twistlm.corpus import manifest
from twistlm.files.artifacts import bundled
from twistlm.units.tokenizer import SpeechTokenizer


def agreeing(one: np.ndarray, other: np.ndarray) -> int:
    """Return the length of the prefix that two sequences share."""
    n = min(len(one), len(other))
    apart = np.flatnonzero(one[:n] != other[:n])
    return int(apart[0]) if len(apart) else n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--tokenizer", default="mini-25hz-500")
    given = parser.parse_args()
    tokenizer = SpeechTokenizer.load(given.tokenizer)
    rate = tokenizer.spec.sample_rate
    clips = [e for e in manifest.read(bundled("speech/manifest.jsonl")) if e.split != "train" and e.seconds > 4]
    rng = np.random.default_rng(0)
    chosen = [clips[i] for i in sorted(rng.choice(len(clips), min(given.clips, len(clips)), replace=False))]
    shares: dict[float, list[float]] = {0.5: [], 1.0: [], 2.0: []}
    left: dict[float, list[int]] = {0.5: [], 1.0: [], 2.0: []}
    same: dict[float, list[float]] = {0.5: [], 1.0: [], 2.0: []}
    for entry in chosen:
        clip = Clip.read(entry.path, sample_rate=rate)
        units = tokenizer(clip)
        whole, frames = units.ids, np.repeat(units.ids, units.runs)
        for unheard in shares:
            early = tokenizer(Clip(clip.samples[: len(clip.samples) - round(unheard * rate)], rate))
            n, by_frame = agreeing(early.ids, whole), np.repeat(early.ids, early.runs)
            same[unheard].append(float(np.mean(by_frame == frames[: len(by_frame)])))
            shares[unheard].append(n / len(whole))
            left[unheard].append(len(whole) - n)
    print(f"{len(chosen)} clips, {given.tokenizer}, normalised over the clip: {tokenizer.spec.normalize_input}")
    print("not heard yet   units that stand from the first on: median, worst tenth   left   frames that keep theirs")
    for unheard, found in shares.items():
        median, worst = np.quantile(found, [0.5, 0.1])
        print(
            f"{unheard:11.1f} s   {median:40.2f} {worst:15.2f}   {np.median(left[unheard]):4.0f}"
            f"   {np.median(same[unheard]):22.2f}"
        )


if __name__ == "__main__":
    main()
