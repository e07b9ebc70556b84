"""One mono recording: how it is read, checked, resampled and written.

Shapes: N samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from twistlm.audio.decoding import (
    Bytes,
    not_finite,
    opened,
    part,
    resampled,
    resampled_length,
    seconds_to_samples,
    sound_in,
)
from twistlm.errors import AudioError, BadInput
from twistlm.files.atomic import atomic_write
from twistlm.files.urls import UrlPath, as_path

OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
_SILENCE = 1e-4  # peak below which a clip is silent: -80 dB, three steps of 16-bit PCM
_UNSCALED = 100.0  # peak above which a float file was not scaled to -1 … 1: 40 dB above full scale
_TRUST = 1 << 22  # samples: memory for more is taken as they are decoded, not as the header declares


@dataclass(frozen=True, eq=False)
class Clip:
    """One mono recording.

    Attributes:
        samples: float32 [N], in -1 … 1.
        sample_rate: Hz.
        id: unique name; ties units, scores and pairs to the sound.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    id: str = ""

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate

    @classmethod
    def read(cls, path: str | Path, *, sample_rate: int | None = 16_000) -> Clip:
        """Read any file libsndfile knows, mixed to mono and resampled to `sample_rate` Hz (None keeps the file's).

        Raises:
            AudioError: missing, corrupt, empty, or with samples that are not finite.
        """
        return read(path, sample_rate=sample_rate)

    def write(self, path: str | Path) -> None:
        """Write a wav, flac or ogg (opus) file, atomically; the suffix decides."""
        write(self, path)


def read(
    path: str | Path | UrlPath, *, sample_rate: int | None = 16_000, start: float = 0.0, seconds: float | None = None
) -> Clip:
    """Read any file libsndfile knows (wav, flac, ogg vorbis or opus, mp3, aiff, …) as mono float32.

    Channels are averaged; the rate is changed by soxr (HQ). The file is read in blocks, so the peak of memory is about
    the size of the result. The clip's id is the file's name without suffix.

    A part is read as if it were a file of its own: it begins and ends at the nearest samples of the file's rate, and is
    resampled without what lies around it. One that ends less than 0.1 s behind the file's end is cut there, since
    tables of parts are rounded.

    Args:
        path: the file, or its URL, from where it is copied to a temporary file first.
        sample_rate: Hz of the result; None keeps the file's.
        start: seconds into the file where the part begins, at least 0.
        seconds: length of the part, positive; None reads to the end.

    Raises:
        BadInput: a rate, start or length out of range.
        AudioError: a part that is not there; missing, not a sound file, corrupt, truncated (more than 0.1 s missing),
            without samples, or with NaN or infinite samples. Silence and shortness are for `check`. An mp3 with
            variable bit rate and no Xing header has no declared length: libsndfile guesses it, and reads no further
            than its guess.
    """
    path = as_path(path)
    with opened(path) as sound:
        samples, rate = _samples(sound, path, sample_rate, start, seconds)
    return Clip(samples, rate, id=path.stem)


def decode(
    data: bytes, *, name: str, sample_rate: int | None = 16_000, start: float = 0.0, seconds: float | None = None
) -> Clip:
    """Read a sound file that lies in memory, as `read` does one on the disk.

    Args:
        data: the whole file.
        name: where it came from, for errors and as the clip's id.
        sample_rate, start, seconds: as for `read`.

    Raises:
        AudioError: as `read`.
    """
    with sound_in(Bytes(data), name, len(data)) as sound:
        samples, rate = _samples(sound, name, sample_rate, start, seconds)
    return Clip(samples, rate, id=name)


def _samples(
    sound: sf.SoundFile, path: object, sample_rate: int | None, start: float, seconds: float | None
) -> tuple[NDArray[np.float32], int]:
    """Return the mono samples [N] of an open file, or of a part of it, and their rate in Hz."""
    rate = sound.samplerate if sample_rate is None else sample_rate
    if rate < 1:
        raise BadInput(f"a sample rate must be positive, got {rate}.")
    first, last = part(sound, path, start, seconds)
    expected = resampled_length(last - first, sound.samplerate, rate)
    samples = np.empty(min(expected, _TRUST), dtype=np.float32)
    n_done = 0
    for piece in resampled(sound, path, first, last, rate):
        if n_done + len(piece) > len(samples):
            samples.resize(min(expected, max(2 * len(samples), n_done + len(piece))), refcheck=False)
        samples[n_done : n_done + len(piece)] = piece
        n_done += len(piece)
    return samples[:n_done], rate


def resample(clip: Clip, *, sample_rate: int) -> Clip:
    """Return `clip` at `sample_rate` Hz (soxr HQ), as `read` would have given it; itself when that is its rate."""
    if clip.sample_rate == sample_rate:
        return clip
    return Clip(soxr.resample(clip.samples, clip.sample_rate, sample_rate), sample_rate, id=clip.id)


def check(clip: Clip, *, min_seconds: float = 0.1) -> None:
    """Raise unless `clip` holds sound that can be cut into units.

    Raises:
        AudioError: samples that are NaN or infinite, fewer than `min_seconds`, nothing above -80 dB of full scale, or
            something more than 40 dB above it.
    """
    name = clip.id or "the clip"
    if not np.isfinite(clip.samples).all():
        raise not_finite(name)
    peak = float(np.abs(clip.samples).max(initial=0))
    check_level(len(clip.samples), peak, sample_rate=clip.sample_rate, name=name, min_seconds=min_seconds)


def check_level(n_samples: int, peak: float, *, sample_rate: int, name: str, min_seconds: float = 0.1) -> None:
    """Raise as `check` does, of a clip that is only known by its length and its largest absolute sample."""
    seconds = n_samples / sample_rate
    if n_samples < seconds_to_samples(min_seconds, sample_rate):
        raise AudioError(f"{name}: too short: {seconds:.3f} s, needs {min_seconds} s. Leave it out.")
    if peak < _SILENCE:
        raise AudioError(f"{name}: silent: nothing louder than -80 dB in {seconds:.2f} s. Was the recorder muted?")
    if peak > _UNSCALED:
        raise AudioError(
            f"{name}: samples up to {peak:g}, where full scale is 1. Divide by what its writer took for 1."
        )


def write(clip: Clip, path: str | Path) -> None:
    """Write `clip` atomically: .wav and .flac as 16-bit PCM, .ogg and .opus as Opus; the suffix decides.

    Samples outside -1 … 1 are clipped, as every player would.

    Raises:
        AudioError: another suffix, samples that are not finite, no samples, or a rate Opus does not have.
    """
    path = Path(path)
    if not len(clip.samples):
        raise AudioError(f"{path}: nothing to write: the clip has no samples.")
    if not np.isfinite(clip.samples).all():
        raise not_finite(str(path))
    match path.suffix.lower():
        case ".wav":
            form, subtype = "WAV", "PCM_16"
        case ".flac":
            form, subtype = "FLAC", "PCM_16"
        case ".ogg" | ".opus":
            form, subtype = "OGG", "OPUS"
            if clip.sample_rate not in OPUS_RATES:
                raise AudioError(
                    f"{path}: Opus has no {clip.sample_rate} Hz, only {', '.join(map(str, OPUS_RATES))}. "
                    "Write wav or flac, or resample the clip first."
                )
        case other:
            raise AudioError(f"{path}: cannot write {other or 'a file without suffix'}: use wav, flac, ogg or opus.")
    samples = np.clip(clip.samples, -1, 1)
    with atomic_write(path) as temporary:
        sf.write(temporary, samples, clip.sample_rate, format=form, subtype=subtype)
