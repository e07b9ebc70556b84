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

from twistlm.audio.ogg import check_pages
from twistlm.errors import AudioError, BadInput, UrlError
from twistlm.files.urls import UrlPath, as_path

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".sph")

RATES = (1_000, 768_000)  # Hz: nobody records speech below, no converter runs above; a header that says so is damaged
TOLERANCE_SECONDS = 0.1  # of sound that may be missing at the end: headers and tables of parts are rounded
_BLOCK = 1 << 18  # samples read at once, of up to 8 channels: a long file never lies in memory at its own rate
_MAX_SAMPLES_PER_BYTE = 10_000  # no codec holds more (flac of pure silence: about 5000); a header that says so lies
# What libsndfile notes when a header declares more bytes than the file holds ("data : 96000 (should be 47978)").
_SHORT_CHUNK = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_LENGTH = 0x7FFF_F000  # programs that write wav into a pipe declare this length or more


def seconds_to_samples(seconds: float, rate: int) -> int:
    """Return how many samples `seconds` at `rate` Hz are: rounded to the nearest, halves up. The only such rule."""
    return int(np.floor(seconds * rate + 0.5))


def resampled_length(n_samples: int, from_rate: int, to_rate: int) -> int:
    """Return how many samples are left of `n_samples` after resampling: nearest, halves up, in exact integers."""
    return (2 * n_samples * to_rate + from_rate) // (2 * from_rate)


def part(sound: sf.SoundFile, path: object, start: float, seconds: float | None) -> tuple[int, int]:
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


def info(path: str | Path | UrlPath) -> tuple[float, int, int]:
    """Return (seconds, sample rate in Hz, channels) from the file's header, without decoding it.

    Raises:
        AudioError: missing, not a sound file, or visibly truncated.
    """
    with opened(as_path(path)) as sound:
        return sound.frames / sound.samplerate, sound.samplerate, sound.channels


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


class Bytes(io.BytesIO):
    """Bytes that bear what damaged headers make libsndfile ask for, as a file does: to stand before the start."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: len(self.getbuffer())}[whence]
        return super().seek(base + offset) if base + offset >= 0 else self.tell()


@contextmanager
def opened(path: Path | UrlPath) -> Iterator[sf.SoundFile]:
    try:
        file = path.open("rb")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise AudioError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}. Check the path.") from error
    except UrlError as error:
        raise AudioError(str(error)) from error
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error}.") from error
    with file, sound_in(file, path, os.fstat(file.fileno()).st_size) as sound:
        yield sound


@contextmanager
def sound_in(source: BinaryIO, path: object, n_bytes: int) -> Iterator[sf.SoundFile]:
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
            raise not_finite(str(path))
        yield np.ascontiguousarray(mono)


def resampled(sound: sf.SoundFile, path: object, first: int, last: int, rate: int) -> Iterator[NDArray[np.float32]]:
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


def not_finite(name: str) -> AudioError:
    return AudioError(f"{name}: has NaN or infinite samples. Whatever wrote it overflowed: make it again.")
