"""What a shorter look-ahead costs a stream, how soon it speaks, and how fast many clips are spoken.

Held-out clips of the bundled speech are cut into units and spoken again; streams get them one at a time. Against:
the clip spoken whole (its samples, and with --wer its word error rate), one clip after another for a batch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from twistlm.audio.clip import Clip
from twistlm.compute.threads import cores, in_order
from twistlm.corpus import manifest
from twistlm.corpus.manifest import Entry
from twistlm.corpus.sounds import read_clip
from twistlm.evaluate.asr import Whisper, wer
from twistlm.files.artifacts import bundled
from twistlm.types import Units
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.vocoder import Vocoder

AHEAD = (0, 2, 4, 8)  # frames, and then the whole


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="mini-25hz-500", help="of tokenizer and vocoder")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wer", action="store_true", help="also have a recogniser listen to all of it (minutes)")
    parser.add_argument("--cpu-time", action="store_true", help="count seconds of the CPU, not of the clock")
    given = parser.parse_args()
    clock = time.process_time if given.cpu_time else time.perf_counter
    tok, voc = SpeechTokenizer.load(given.name), Vocoder.load(given.name)
    entries = [e for e in manifest.build(bundled("speech")) if e.split == "heldout_text" and e.text]
    entries = [entries[i] for i in np.sort(np.random.default_rng(0).permutation(len(entries))[: given.clips])]
    clips = [read_clip(entry, sample_rate=tok.spec.sample_rate) for entry in entries]
    many = list(in_order(tok, clips))
    print(f"{given.name}, {len(many)} clips, {sum(u.seconds for u in many):.0f} s, {torch.get_num_threads()} threads")
    soon(voc, many, given.rounds, clock)
    batches(voc, many, given.rounds, clock)
    look_ahead(voc, many, entries if given.wer else [], clips)


def soon(voc: Vocoder, many: Sequence[Units], rounds: int, clock: Callable[[], float]) -> None:
    """Time from the last unit that the first sound needs to that sound: what computing adds to waiting."""
    print("\nlook-ahead, frames | units before the first sound, mean | ms to compute it: median, least | of its length")
    whole = voc.open_stream(durations="predicted").whole_look_ahead
    times: dict[int, list[float]] = {ahead: [] for ahead in (*AHEAD, whole)}
    needed: dict[int, list[int]] = {ahead: [] for ahead in times}
    lengths: dict[int, list[float]] = {ahead: [] for ahead in times}
    for _ in range(rounds):
        for units in many:
            for ahead in times:
                stream = voc.open_stream(durations="predicted", look_ahead=ahead)
                for n, unit in enumerate(units.ids, 1):
                    begun = clock()
                    sound = stream.push([int(unit)])
                    if len(sound):
                        times[ahead].append(clock() - begun)
                        needed[ahead].append(n)
                        lengths[ahead].append(len(sound) / voc.sample_rate)
                        break
    for ahead, spent in times.items():
        median = np.median(spent)
        print(
            f"{ahead:18} | {np.mean(needed[ahead]):35.1f} | {1000 * median:8.0f} {1000 * min(spent):8.0f} "
            f"| {median / np.median(lengths[ahead]):.2f}"
        )


def batches(voc: Vocoder, many: Sequence[Units], rounds: int, clock: Callable[[], float]) -> None:
    """Seconds of speech a second: one clip after another, and in batches of 8, turn about."""
    seconds = sum(units.seconds for units in many)
    ratios, alone, together = [], [], []
    for _ in range(rounds):
        begun = clock()
        for units in many:
            voc(units, durations="given")
        middle = clock()
        for i in range(0, len(many), 8):
            voc.batch(many[i : i + 8], durations="given")
        end = clock()
        alone.append(seconds / (middle - begun))
        together.append(seconds / (end - middle))
        ratios.append(together[-1] / alone[-1])
    print(
        f"\nseconds of speech a second: {np.median(alone):.1f} one by one, {np.median(together):.1f} in batches of 8; "
        f"ratio {np.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f} over {rounds} turns)"
    )


def look_ahead(voc: Vocoder, many: Sequence[Units], entries: Sequence[Entry], recordings: Sequence[Clip]) -> None:
    """How near the whole clip a stream comes; with transcripts, how well it is understood, its durations predicted."""
    listener = Whisper.load(workers=cores()) if entries else None
    texts = [entry.text for entry in entries]
    whole = voc.open_stream(durations="predicted").whole_look_ahead

    def heard(clips: Sequence[Clip]) -> str:
        if listener is None:
            return "not asked for"
        errors = wer(texts, list(in_order(listener.transcribe, clips)))
        low, high = errors.ci
        return f"{100 * errors.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"

    given = [voc(units, durations="given").samples for units in many[:12]]
    print("\nlook-ahead, frames | SNR to the whole clip, dB, runs given: median, worst | WER, durations predicted")
    for ahead in (*AHEAD, whole):
        ratios = [
            snr(np.concatenate([*streamed(voc, units.frames, "given", ahead)]), clip)
            for units, clip in zip(many[:12], given, strict=False)
        ]
        # With the whole look-ahead a stream is the clip (tests/test_vocoder_streaming.py), which is heard below.
        spoken = [
            Clip(np.concatenate([*streamed(voc, units.ids, "predicted", ahead)]), voc.sample_rate)
            for units in (many if listener and ahead < whole else ())
        ]
        print(f"{ahead:18} | {np.median(ratios):42.1f} {min(ratios):6.1f} | {heard(spoken) if spoken else ''}")
    offline = [voc(units, durations="predicted") for units in many]
    print(f"{'the whole clip':>18} | {'':49} | {heard(offline)}")
    print(f"{'the recording':>18} | {'':49} | {heard(recordings)}")


def streamed(
    voc: Vocoder, ids: NDArray[np.uint16], durations: Literal["given", "predicted"], ahead: int
) -> list[NDArray[np.float32]]:
    """The pieces of a stream that gets its units one at a time."""

    return list(voc.stream((int(i) for i in ids), durations=durations, look_ahead=ahead))


def snr(made: NDArray[np.float32], true: NDArray[np.float32]) -> float:
    """Signal to error in dB; 120 at most."""
    error = np.square(made - true, dtype=np.float64).sum()
    return float(min(120.0, 10 * np.log10(np.square(true, dtype=np.float64).sum() / max(error, 1e-30))))


if __name__ == "__main__":
    main()
