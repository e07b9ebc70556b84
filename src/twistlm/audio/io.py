"""Read, check, resample and write sound files, and the one rule that turns seconds into samples.

Everything inside twistlm is mono float32; other files become so here. Shapes: N samples, C channels.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from twistlm.atomic import atomic_write
from twistlm.audio.ogg import check_pages
from twistlm.errors import AudioError, BadInput, UrlError
from twistlm.types import Clip
from twistlm.urls import UrlPath, as_path

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".sph")
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)

RATES = (1_000, 768_000)  # Hz: nobody records speech below, no converter runs above; a header that says so is damaged
TOLERANCE_SECONDS = 0.1  # of sound that may be missing at the end: headers and tables of parts are rounded
_BLOCK = 1 << 18  # samples read at once, of up to 8 channels: a long file never lies in memory at its own rate
_SILENCE = 1e-4  # peak below which a clip is silent: -80 dB, three steps of 16-bit PCM
_UNSCALED = 100.0  # peak above which a float file was not scaled to -1 … 1: 40 dB above full scale
_MAX_SAMPLES_PER_BYTE = 10_000  # no codec holds more (flac of pure silence: about 5000); a header that says so lies
# What libsndfile notes when a header declares more bytes than the file holds ("data : 96000 (should be 47978)").
_SHORT_CHUNK = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_LENGTH = 0x7FFF_F000  # programs that write wav into a pipe declare this length or more
_TRUST = 1 << 22  # samples: memory for more is taken as they are decoded, not as the header declares


def seconds_to_samples(seconds: float, rate: int) -> int:
    """Return how many samples `seconds` at `rate` Hz are: rounded to the nearest, halves up. The only such rule."""
    return int(np.floor(seconds * rate + 0.5))


def resampled_length(n_samples: int, from_rate: int, to_rate: int) -> int:
    """Return how many samples are left of `n_samples` after resampling: nearest, halves up, in exact integers."""
    return (2 * n_samples * to_rate + from_rate) // (2 * from_rate)


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
    with _opened(path) as sound:
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
    with _sound(_Bytes(data), name, len(data)) as sound:
        samples, rate = _samples(sound, name, sample_rate, start, seconds)
    return Clip(samples, rate, id=name)


def _samples(
    sound: sf.SoundFile, path: object, sample_rate: int | None, start: float, seconds: float | None
) -> tuple[NDArray[np.float32], int]:
    """Return the mono samples [N] of an open file, or of a part of it, and their rate in Hz."""
    rate = sound.samplerate if sample_rate is None else sample_rate
    if rate < 1:
        raise BadInput(f"a sample rate must be positive, got {rate}.")
    first, last = _part(sound, path, start, seconds)
    expected = resampled_length(last - first, sound.samplerate, rate)
    samples = np.empty(min(expected, _TRUST), dtype=np.float32)
    n_done = 0
    for piece in _resampled(sound, path, first, last, rate):
        if n_done + len(piece) > len(samples):
            samples.resize(min(expected, max(2 * len(samples), n_done + len(piece))), refcheck=False)
        samples[n_done : n_done + len(piece)] = piece
        n_done += len(piece)
    return samples[:n_done], rate


def _part(sound: sf.SoundFile, path: object, start: float, seconds: float | None) -> tuple[int, int]:
    """Return the first sample of a part and the one behind its last."""
    rate, held = sound.samplerate, sound.frames
    if not (0 <= start < np.inf and (seconds is None or 0 < seconds < np.inf)):
        raise BadInput(f"{path}: a part needs a start of 0 s or more and a positive length, got {start}, {seconds}.")
    first = seconds_to_samples(start, rate)
    last = held if seconds is None else seconds_to_samples(start + seconds, rate)
    if first > held or last - held > TOLERANCE_SECONDS * rate:
        raise AudioError(
            f"{path}: the part from {start:g} s to {last / rate:g} s is not there: the file ends at {held / rate:.2f} "
            "s. It was cut short, or the manifest belongs to another file."
        )
    return first, min(last, held)


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
        raise _not_finite(name)
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


def info(path: str | Path | UrlPath) -> tuple[float, int, int]:
    """Return (seconds, sample rate in Hz, channels) from the file's header, without decoding it.

    Raises:
        AudioError: missing, not a sound file, or visibly truncated.
    """
    with _opened(as_path(path)) as sound:
        return sound.frames / sound.samplerate, sound.samplerate, sound.channels


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
        raise _not_finite(str(path))
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


def find_audio(folder: str | Path | UrlPath) -> list[Path] | list[UrlPath]:
    """Return every sound file (by suffix) below `folder`, sorted; links are followed, hidden names are not.

    Raises:
        AudioError: no such folder, or no sound file in it.
    """
    folder = as_path(folder)
    if not folder.is_dir():
        raise AudioError(f"{folder}: no such folder. Give a folder with sound files below it.")
    found = _below_url(folder) if isinstance(folder, UrlPath) else _below(folder)
    if not found:
        raise AudioError(f"{folder}: no sound files below it; looked for {', '.join(SUFFIXES)}.")
    return found


def _below_url(folder: UrlPath) -> list[UrlPath]:
    names = ((path, path.below(folder) or "") for path in folder.find())
    return [path for path, name in names if path.suffix.lower() in SUFFIXES and "/." not in f"/{name}"]


def _below(folder: Path) -> list[Path]:
    found: list[Path] = []
    seen: set[str] = set()
    for top, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(top)
        if real in seen:  # a link back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(top) / n for n in names if not n.startswith(".") and Path(n).suffix.lower() in SUFFIXES]
    return sorted(found)


class _Bytes(io.BytesIO):
    """Bytes that bear what damaged headers make libsndfile ask for, as a file does: to stand before the start."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: len(self.getbuffer())}[whence]
        return super().seek(base + offset) if base + offset >= 0 else self.tell()


@contextmanager
def _opened(path: Path | UrlPath) -> Iterator[sf.SoundFile]:
    try:
        file = path.open("rb")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise AudioError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}. Check the path.") from error
    except UrlError as error:
        raise AudioError(str(error)) from error
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error}.") from error
    with file, _sound(file, path, os.fstat(file.fileno()).st_size) as sound:
        yield sound


@contextmanager
def _sound(source: BinaryIO, path: object, n_bytes: int) -> Iterator[sf.SoundFile]:
    """Open what holds a sound file of `n_bytes`; `path` is what it is called in errors."""
    if not n_bytes:
        raise _empty(path)
    # By descriptor, not by name: by a name that ends in .au, .vox, … libsndfile takes any bytes for sound.
    opened = source if isinstance(source, io.BytesIO) else source.fileno()
    try:
        with sf.SoundFile(opened, closefd=False) as sound:
            log = sound.extra_info
            for declared, held in _SHORT_CHUNK.findall(log):
                if int(held) < int(declared) < _UNKNOWN_LENGTH:
                    raise _truncated(path, f"{held} of {declared} bytes")
            if "lacks an end-of-stream bit" in log:
                raise _truncated(path, "an Ogg stream without its last page")
            if not RATES[0] <= sound.samplerate <= RATES[1]:
                raise AudioError(f"{path}: the header declares a sample rate of {sound.samplerate} Hz: corrupt.")
            if sound.frames > _MAX_SAMPLES_PER_BYTE * n_bytes:
                raise AudioError(f"{path}: the header declares {sound.frames} samples and cannot hold them: corrupt.")
            if sound.subtype == "OPUS":
                check_pages(source, path)
            yield sound
    except sf.SoundFileError as error:
        detail = error.error_string if isinstance(error, sf.LibsndfileError) else str(error)
        raise AudioError(
            f"{path}: not a sound file, or corrupt ({detail.strip().rstrip('.')}). "
            "Convert it again, or leave it out; wav, flac, ogg (vorbis, opus) and mp3 are read, and no file without a "
            "header."
        ) from error
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error}.") from error


def _blocks(sound: sf.SoundFile, path: object, n_samples: int) -> Iterator[NDArray[np.float32]]:
    """Yield the next `n_samples` of the file, or what there is of them, as mono blocks, float32 [<= _BLOCK]."""
    left, size = n_samples, max(1, min(_BLOCK, 8 * _BLOCK // sound.channels))
    while left and len(block := sound.read(min(left, size), dtype="float32", always_2d=True)):
        left -= len(block)
        with np.errstate(over="ignore", invalid="ignore"):  # it will be found below
            mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        if not np.isfinite(mono).all():
            raise _not_finite(str(path))
        yield np.ascontiguousarray(mono)


def _resampled(sound: sf.SoundFile, path: object, first: int, last: int, rate: int) -> Iterator[NDArray[np.float32]]:
    """Yield samples `first` … `last` - 1 of an open file at `rate` Hz, mono, piece by piece.

    They are resampled without what lies around them. Memory holds one block at the file's own rate and channels, and
    one at the new rate.

    Raises:
        AudioError: none are there, more than TOLERANCE_SECONDS of them are missing, or one is not finite.
    """
    own = sound.samplerate
    if first:
        sound.seek(first)
    resampler = None if rate == own else soxr.ResampleStream(own, rate, 1, dtype="float32")
    n_read = n_done = 0
    for block in _blocks(sound, path, last - first):
        n_read += len(block)
        piece = block if resampler is None else resampler.resample_chunk(block)
        n_done += len(piece)
        yield piece
    if last - first - n_read > TOLERANCE_SECONDS * own:
        raise _truncated(path, f"{(first + n_read) / own:.2f} of {sound.frames / own:.2f} s")
    if resampler is not None:
        piece = resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
        n_done += len(piece)
        yield piece
    if n_done != resampled_length(n_read, own, rate):
        raise AssertionError(f"{path}: {n_read} samples at {own} Hz became {n_done} at {rate} Hz, against the rule")
    if not n_done:
        raise _empty(path)


def _empty(path: object) -> AudioError:
    return AudioError(f"{path}: empty: it holds no samples. An interrupted recording or copy: make it again.")


def _truncated(path: object, what: str) -> AudioError:
    return AudioError(f"{path}: truncated: {what} are there. An interrupted copy or download; fetch it again.")


def _not_finite(name: str) -> AudioError:
    return AudioError(f"{name}: has NaN or infinite samples. Whatever wrote it overflowed: make it again.")
