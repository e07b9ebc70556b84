"""What was spoken: each line said once by each voice, cut to the speech, at one level; and kept.

Letters: N samples. A line is kept under the sha256 of everything that moves its sound (the voice's identity, the text
or phones, rate, margin, level): a changed text or voice never meets an older clip, and a rerun speaks only what is
missing. Clips are kept as 16-bit FLAC, sealed: the second run gives the same samples as the first, and one that was
changed on the disk is said again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twistlm.audio.clip import Clip, read, resample, write
from twistlm.audio.decoding import seconds_to_samples
from twistlm.benchmarks.engines import PhoneVoice, Voice
from twistlm.compute.threads import in_order
from twistlm.errors import BadInput
from twistlm.files.artifacts import cache_folder, cache_to_write
from twistlm.files.sealed import is_sealed, seal
from twistlm.progress import track

LEVEL_DBFS = -26.0  # root mean square of every clip
PEAK = 0.97
MARGIN = 0.04  # seconds left before and after the speech
_FLOOR_DB = -50.0  # below the loudest sample: what is quieter at the edges is no speech
_FORMAT = 1  # raise when the treatment of clips changes
_FOLDER = "spoken"  # of the cache

Line = str | tuple[str, ...]  # a text, or one word's phones


@dataclass(frozen=True)
class Spoken:
    """A store of spoken lines.

    Attributes:
        sample_rate: Hz of every clip.
        folder: where clips are kept; None: in twistlm's cache.
    """

    sample_rate: int
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.folder is None:
            cache_to_write(_FOLDER)

    def path(self, voice: Voice, line: Line) -> Path:
        """Return where `voice` saying `line` is kept, whether or not it is there."""
        what = [_FORMAT, voice.identity, type(line).__name__, line, self.sample_rate, MARGIN, LEVEL_DBFS]
        key = hashlib.sha256(json.dumps(what).encode()).hexdigest()
        return (self.folder or cache_folder() / _FOLDER) / key[:2] / f"{key}.flac"

    def say(self, voice: Voice, line: Line) -> Clip:
        """Return `voice` saying `line`: from the store, else spoken, cut, levelled and kept.

        Raises:
            ArtifactError: the engine failed or said nothing.
            BadInput: phones, and the voice takes none.
        """
        path = self.path(voice, line)
        if is_sealed(path):
            return read(path, sample_rate=None)
        if isinstance(line, str):
            clip = voice.speak(line)
        elif isinstance(voice, PhoneVoice):
            clip = voice.speak_phones(line)
        else:
            raise BadInput(
                f"the voice {voice.name} takes no phones: use flite, espeak-ng, or a command with {{phones}}."
            )
        clip = cut(resample(clip, sample_rate=self.sample_rate))
        write(Clip(normalize(clip.samples), clip.sample_rate), path)
        seal(path)
        return read(path, sample_rate=None)

    def say_all(self, said: Iterable[tuple[Voice, Line]], *, progress: bool = False) -> int:
        """Speak every line that the store does not hold, one a core at a time; return how many those were.

        Raises: as `say`, for the first line that fails; what was spoken by then is kept.
        """
        places = {self.path(voice, line): (voice, line) for voice, line in said}
        todo = [what for path, what in places.items() if not is_sealed(path)]
        spoken = in_order(lambda what: self.say(*what), todo)
        for _ in track(spoken, description="speaking", total=len(todo), enabled=progress and bool(todo)):
            pass
        return len(todo)


def normalize(samples: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return `samples` [N], not silent, at LEVEL_DBFS, or lower where the peak would pass PEAK."""
    rms, peak = float(np.sqrt(np.mean(np.square(samples)))), float(np.abs(samples).max())
    gain = min(10 ** (LEVEL_DBFS / 20) / rms, PEAK / peak)
    return (samples * gain).astype(np.float32)


def cut(clip: Clip) -> Clip:
    """Return `clip` with exactly MARGIN seconds before and after its speech: engines pause by voice and by text."""
    first, last = speech_edges(clip.samples)
    margin = np.zeros(seconds_to_samples(MARGIN, clip.sample_rate), dtype=np.float32)
    before, after = clip.samples[max(0, first - len(margin)) : first], clip.samples[last : last + len(margin)]
    lead, trail = margin[: len(margin) - len(before)], margin[: len(margin) - len(after)]
    return Clip(np.concatenate([lead, before, clip.samples[first:last], after, trail]), clip.sample_rate, id=clip.id)


def speech_edges(samples: NDArray[np.float32]) -> tuple[int, int]:
    """Return (first, one past the last) sample of `samples` [N] within 50 dB of the loudest; (0, N) for silence."""
    loud = np.flatnonzero(np.abs(samples) > np.abs(samples).max(initial=0.0) * 10 ** (_FLOOR_DB / 20))
    return (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (0, len(samples))
