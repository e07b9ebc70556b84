"""Open sound files of any kind, mix them to mono and resample them, and the one rule that turns seconds into samples.

Everything inside twistlm is mono float32; other files become so here. What a file is, its bytes say and never its name:
libsndfile decodes what it knows (`sndfile`), FFmpeg the rest (`ffmpeg`, `sphere`). Shapes: N samples, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from twistlm.audio import ffmpeg, sndfile, sphere
from twistlm.audio.defects import channels_cancel, empty, no_channel, not_finite, truncated
from twistlm.audio.quiet import quiet_decoder
from twistlm.audio.sndfile import TOLERANCE_SECONDS
from twistlm.audio.window import Window
from twistlm.compute.underway import require_wanted
from twistlm.errors import AudioError, BadInput, UrlError
from twistlm.files.regular import open_regular
from twistlm.files.urls import UrlPath, as_path

OpenSound: TypeAlias = "sndfile.Sound | ffmpeg.Decoded"

_HEARD = 1e-4  # peak of a channel that is not silent: -80 dB, as of `clip.check`
_CANCELLED = (
    0.02  # of C channels, the mean holds 1 / C of their power where they have nothing in common, and rarely less
)


class Info(NamedTuple):
    """What is known of a file before it is decoded.

    Attributes:
        seconds: of sound. sample_rate: Hz. channels: how many.
        note: what a reader should know of how it is read; "".
    """

    seconds: float
    sample_rate: int
    channels: int
    note: str


def seconds_to_samples(seconds: float, rate: int) -> int:
    """Return how many samples `seconds` at `rate` Hz are: rounded to the nearest, halves up. The only such rule."""
    return int(np.floor(seconds * rate + 0.5))


def resampled_length(n_samples: int, from_rate: int, to_rate: int) -> int:
    """Return how many samples are left of `n_samples` after resampling: nearest, halves up, in exact integers."""
    return (2 * n_samples * to_rate + from_rate) // (2 * from_rate)


def part(sound: OpenSound, path: object, start: float, seconds: float | None) -> tuple[int, int | None]:
    """Return the first sample of a part and the one behind its last; None where that is wherever the sound ends."""
    rate, held = sound.rate, sound.frames
    if not (0 <= start < np.inf and (seconds is None or 0 < seconds < np.inf)):
        raise BadInput(f"{path}: a part needs a start of 0 s or more and a positive length, got {start}, {seconds}.")
    first = seconds_to_samples(start, rate)
    last = None if seconds is None else seconds_to_samples(start + seconds, rate)
    if held is not None:
        slack = 0.0 if sound.exact else sound.tolerance * rate
        at_end = sound.exact and first == held > 0  # nothing of the part is there
        if at_end or first > held + slack or (last is not None and last - held > TOLERANCE_SECONDS * rate + slack):
            end = held if last is None else last
            raise AudioError(
                f"{path}: the part from {start:g} s to {end / rate:g} s is not there: the file ends at "
                f"{held / rate:.2f} s. It was cut short, or the manifest belongs to another file."
            )
        if sound.exact:
            return first, held if last is None else min(last, held)
    return first, last


def info(path: str | Path | UrlPath) -> Info:
    """Return what the file's header says, without decoding it where the header says how long it is.

    Raises:
        AudioError: missing, not a sound file, or visibly truncated.
    """
    path = as_path(path)
    with opened(path) as sound:
        return _info(sound)


def info_of(data: bytes, *, name: str) -> Info:
    """Return what the header of a sound file in memory says. As `info`; `name` is what it is called in errors."""
    with sound_in(Bytes(data), name) as sound:
        return _info(sound)


def rate_of(data: bytes, *, name: str) -> int:
    """Return the sample rate in Hz that the header of a sound file in memory says, looking at nothing else.

    Raises:
        AudioError: not a sound file.
    """
    try:
        with quiet_decoder():
            return int(sf.info(Bytes(data)).samplerate)
    except sf.SoundFileError:
        return info_of(data, name=name).sample_rate


def _info(sound: OpenSound) -> Info:
    frames = sound.frames
    if frames is None:
        frames = 0
        for block in sound.blocks(0, None):
            require_wanted()
            frames += len(block)
    return Info(frames / sound.rate, sound.rate, sound.channels, sound.note)


class Bytes(io.BytesIO):
    """Bytes that bear what damaged headers make libsndfile ask for, as a file does: to stand before the start."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: len(self.getbuffer())}[whence]
        return super().seek(base + offset) if base + offset >= 0 else self.tell()


@contextmanager
def opened(path: Path | UrlPath) -> Iterator[OpenSound]:
    """Open a sound file.

    Raises:
        AudioError: missing, no regular file, not a sound file, corrupt or visibly truncated; also while it is read.
    """
    try:
        file = open_regular(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise AudioError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}. Check the path.") from error
    except UrlError as error:
        raise AudioError(str(error)) from error
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error}.") from error
    with file, sound_in(file, path) as sound:
        yield sound


@contextmanager
def sound_in(source: BinaryIO, path: object) -> Iterator[OpenSound]:
    """Open what holds a sound file; `path` is what it is called in errors. Raises as `opened`."""
    window = Window(source)
    if not window.size:
        raise empty(path)
    kind = ffmpeg.kind_of(window)
    # By descriptor, not by name: by a name that ends in .au, .vox, … libsndfile takes any bytes for sound.
    held = source if isinstance(source, io.BytesIO) else source.fileno()
    try:
        other = ffmpeg.decoded(window, path, kind) if kind else sphere.opened(window, path)
        with other or sndfile.opened(held, window, path) as sound:
            if not sndfile.RATES[0] <= sound.rate <= sndfile.RATES[1]:
                raise AudioError(f"{path}: the header declares a sample rate of {sound.rate} Hz: corrupt.")
            yield sound
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error}.") from error


class _Mix:
    """Makes one channel of several, and notices when nothing is left of them."""

    def __init__(self, sound: OpenSound, path: object, channel: int | None) -> None:
        if channel is not None and not 1 <= channel <= sound.channels:
            raise no_channel(path, channel, sound.channels)
        self._n, self._path, self._channel = sound.channels, path, channel
        self._peak = self._all = self._mean = 0.0

    def __call__(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        with np.errstate(over="ignore", invalid="ignore"):  # it will be found below
            if self._channel is not None:
                mono = block[:, self._channel - 1]
            elif self._n == 1:
                mono = block[:, 0]
            else:
                mono = block.mean(axis=1, dtype=np.float32)
                self._peak = max(self._peak, float(np.abs(block).max(initial=0)))
                self._all += float(np.square(block, dtype=np.float64).sum()) / self._n
                self._mean += float(np.square(mono, dtype=np.float64).sum())
        if not np.isfinite(mono).all():
            raise not_finite(str(self._path))
        return np.ascontiguousarray(mono)

    def end(self) -> None:
        """Raise AudioError when the channels cancelled."""
        if self._peak > _HEARD and self._mean < _CANCELLED / self._n * self._all:
            least = 10 * np.log10(max(self._mean / self._all, 1e-12))
            raise channels_cancel(self._path, self._n, -least)


def resampled(
    sound: OpenSound, path: object, first: int, last: int | None, rate: int, *, channel: int | None = None
) -> Iterator[NDArray[np.float32]]:
    """Yield samples `first` … `last` - 1 (None: to the end) of an open file at `rate` Hz, mono, piece by piece.

    They are resampled without what lies around them. Memory holds one block at the file's own rate and channels, and
    one at the new rate.

    Raises:
        AudioError: none are there, more than TOLERANCE_SECONDS of them are missing, or one is not finite; there is no
            such channel; the channels cancel, where all are mixed.
    """
    own = sound.rate
    mix = _Mix(sound, path, channel)
    resampler = None if rate == own else soxr.ResampleStream(own, rate, 1, dtype="float32")
    n_read = n_done = 0
    for block in sound.blocks(first, last):
        require_wanted()
        n_read += len(block)
        mono = mix(block)
        piece = mono if resampler is None else resampler.resample_chunk(mono)
        n_done += len(piece)
        yield piece
    wanted = last if last is not None else sound.frames
    tolerance = TOLERANCE_SECONDS if sound.exact or last is not None else sound.tolerance
    if wanted is not None and wanted - first - n_read > tolerance * own:
        raise truncated(path, f"{(first + n_read) / own:.2f} of {(sound.frames or wanted) / own:.2f} s")
    if resampler is not None:
        piece = resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
        n_done += len(piece)
        yield piece
    if n_done != resampled_length(n_read, own, rate):
        raise AssertionError(f"{path}: {n_read} samples at {own} Hz became {n_done} at {rate} Hz, against the rule")
    if not n_done:
        raise empty(path)
    mix.end()
