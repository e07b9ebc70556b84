"""One mono recording: how it is read, checked, resampled and written.

Shapes: N samples.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from twistlm.audio.decoding import (
    Bytes,
    OpenSound,
    opened,
    part,
    resampled,
    resampled_length,
    seconds_to_samples,
    sound_in,
)
from twistlm.audio.defects import not_finite
from twistlm.errors import AudioError, BadInput
from twistlm.files.atomic import atomic_write
from twistlm.files.urls import UrlPath, as_path

OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
MIN_SECONDS = 0.1  # a shorter clip is a slip, not speech
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
        note: what had to be done to read it, where its file is not as it should be; "".

    Raises:
        AudioError: samples of another type or shape. What their values are is for `check`.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    id: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        samples: object = self.samples
        if not isinstance(samples, np.ndarray) or samples.dtype != np.float32 or samples.ndim != 1:
            kind = (
                f"{samples.dtype} {list(samples.shape)}" if isinstance(samples, np.ndarray) else type(samples).__name__
            )
            raise AudioError(
                f"{self.id or 'the clip'}: samples are float32 [N] in -1 … 1, not {kind}. Of floats: "
                "x.astype(np.float32); of int16: x.astype(np.float32) / 32768; of channels [N, C]: x.mean(axis=1); of "
                "another library's array: np.asarray(x). Clip.read does all of that."
            )

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate

    @classmethod
    def read(cls, path: str | Path, *, sample_rate: int | None = 16_000, channel: int | None = None) -> Clip:
        """Read any sound file, mixed to mono (or one `channel`, from 1), at `sample_rate` Hz (None: its own).

        Raises:
            AudioError: missing, corrupt, empty, or with samples that are not finite.
        """
        return read(path, sample_rate=sample_rate, channel=channel)

    def write(self, path: str | Path) -> None:
        """Write a wav, flac or ogg (opus) file, atomically; the suffix decides."""
        write(self, path)


def read(
    path: str | Path | UrlPath,
    *,
    sample_rate: int | None = 16_000,
    start: float = 0.0,
    seconds: float | None = None,
    channel: int | None = None,
) -> Clip:
    """Read a sound file as mono float32: what libsndfile knows (wav, flac, ogg vorbis or opus, mp3, aiff, …), and by
    FFmpeg's decoders m4a, mp4, aac, webm, mka, wma, amr, 3gp, WavPack, TTA, SPHERE with shorten (16-bit PCM).

    Channels are averaged, or one is taken; the rate is changed by soxr (HQ). The file is read in blocks, so the peak of
    memory is about the size of the result. The clip's id is the file's name without suffix.

    A part is read as if it were a file of its own: it begins and ends at the nearest samples of the file's rate, and is
    resampled without what lies around it. One that ends less than 0.1 s behind the file's end is cut there, since
    tables of parts are rounded. (Of compressed sound behind the first minute, FFmpeg begins 2 s before the part: its
    samples are those of the whole up to what a decoder carries on from further back.)

    Headers that say less than there is are not believed: MPEG frames are counted, FLAC's are looked at, and a wav or au
    whose recorder was killed before it wrote its sizes is read to its end. The clip's `note` says so.

    Args:
        path: the file, or its URL, from where it is copied to a temporary file first.
        sample_rate: Hz of the result; None keeps the file's.
        start: seconds into the file where the part begins, at least 0.
        seconds: length of the part, positive; None reads to the end.
        channel: which one, from 1; None is the mean of all.

    Raises:
        BadInput: a rate, start or length out of range.
        AudioError: a part that is not there; missing, not a sound file, corrupt, truncated (more than 0.1 s missing),
            without samples, or with NaN or infinite samples; no such channel; channels of which nothing is left when
            they are mixed. Silence and shortness are for `check`.
    """
    path = as_path(path)
    with opened(path) as sound:
        samples, rate = _samples(sound, path, sample_rate, start, seconds, channel)
        return Clip(samples, rate, id=path.stem, note=sound.note)


def decode(
    data: bytes,
    *,
    name: str,
    sample_rate: int | None = 16_000,
    start: float = 0.0,
    seconds: float | None = None,
    channel: int | None = None,
) -> Clip:
    """Read a sound file that lies in memory, as `read` does one on the disk.

    Args:
        data: the whole file.
        name: where it came from, for errors and as the clip's id.
        sample_rate, start, seconds, channel: as for `read`.

    Raises:
        AudioError: as `read`.
    """
    with sound_in(Bytes(data), name) as sound:
        samples, rate = _samples(sound, name, sample_rate, start, seconds, channel)
        return Clip(samples, rate, id=name, note=sound.note)


def _samples(
    sound: OpenSound, path: object, sample_rate: int | None, start: float, seconds: float | None, channel: int | None
) -> tuple[NDArray[np.float32], int]:
    """Return the mono samples [N] of an open file, or of a part of it, and their rate in Hz."""
    rate = sound.rate if sample_rate is None else sample_rate
    if rate < 1:
        raise BadInput(f"a sample rate must be positive, got {rate}.")
    first, last = part(sound, path, start, seconds)
    expected = None if last is None else resampled_length(last - first, sound.rate, rate)
    samples = np.empty(_TRUST if expected is None else min(expected, _TRUST), dtype=np.float32)
    n_done = 0
    for piece in resampled(sound, path, first, last, rate, channel=channel):
        if n_done + len(piece) > len(samples):
            size = max(2 * len(samples), n_done + len(piece))
            samples.resize(size if expected is None else min(expected, size), refcheck=False)
        samples[n_done : n_done + len(piece)] = piece
        n_done += len(piece)
    if expected is None:
        samples.resize(n_done, refcheck=False)
    return samples[:n_done], rate


def resample(clip: Clip, *, sample_rate: int) -> Clip:
    """Return `clip` at `sample_rate` Hz (soxr HQ), as `read` would have given it; itself when that is its rate."""
    if clip.sample_rate == sample_rate:
        return clip
    resampled = soxr.resample(clip.samples, clip.sample_rate, sample_rate)
    return Clip(resampled, sample_rate, id=clip.id, note=clip.note)


def check(clip: Clip, *, min_seconds: float = MIN_SECONDS) -> None:
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


def check_level(n_samples: int, peak: float, *, sample_rate: int, name: str, min_seconds: float = MIN_SECONDS) -> None:
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
    data = encoded(clip, form=form, subtype=subtype, name=str(path))
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def encoded(clip: Clip, *, form: str, subtype: str, name: str, compression: float | None = None) -> bytes:
    """Return `clip` as a sound file in memory, samples outside -1 … 1 clipped.

    Files are made here and written by Python: libsndfile does not tell when its last writes fail.

    Args:
        clip: what is encoded.
        form, subtype: libsndfile's names of them ("WAV", "PCM_16").
        name: what the file is called in errors.
        compression: libsndfile's level, 0 … 1; of Opus from the highest rate to the lowest. None is its default.

    Raises:
        AudioError: libsndfile cannot make such a file.
    """
    stream = io.BytesIO()
    try:
        samples = np.clip(clip.samples, -1, 1)
        sf.write(stream, samples, clip.sample_rate, format=form, subtype=subtype, compression_level=compression)
    except sf.SoundFileError as error:
        raise AudioError(
            f"{name}: cannot be encoded as {form} at {clip.sample_rate} Hz ({error}). Write wav, or resample the clip."
        ) from error
    return stream.getvalue()
