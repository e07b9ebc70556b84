"""Sounds that libsndfile reads, with what it knows of them and does not say.

Shapes: N samples, C channels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from twistlm.audio import flac, mpeg, riff
from twistlm.audio.defects import truncated, unreadable
from twistlm.audio.ffmpeg import Decoded, decoded
from twistlm.audio.ogg import check_pages, last_pages
from twistlm.audio.quiet import quiet_decoder
from twistlm.audio.window import Window
from twistlm.errors import AudioError

TOLERANCE_SECONDS = 0.1  # of sound that may be missing at the end: headers and tables of parts are rounded
RATES = (1_000, 768_000)  # Hz: nobody records speech below, no converter runs above; a header that says so is damaged
_BLOCK = 1 << 18  # samples read at once, of up to 8 channels: a long file never lies in memory at its own rate
_MAX_SAMPLES_PER_BYTE = 10_000  # no codec holds more (flac of pure silence: about 5000); a header that says so lies
_NO_COUNT = 1 << 62  # samples or more: libsndfile's way to say that a FLAC file does not know
# What libsndfile notes when a header declares more bytes than the file holds ("data : 96000 (should be 47978)").
_SHORT_CHUNK = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_PIPED = ((0x7FFF_F000, 0x8000_0000), (0xFFFF_F000, 0xFFFF_FFFF))  # lengths that wav written into a pipe declares
_WIDTHS = {
    "PCM_S8": 1,
    "PCM_U8": 1,
    "ULAW": 1,
    "ALAW": 1,
    "PCM_16": 2,
    "PCM_24": 3,
    "PCM_32": 4,
    "FLOAT": 4,
    "DOUBLE": 8,
}
_RESERVOIR = 16 * 1152  # samples before a place in an mp3 that its frames may want bits of
_KILLED = "its header gives it no length: a recorder that was killed; what follows the header was read"
_STALE = "its header gives it less sound than follows it, by sizes that are old or past 4 GB; all of it was read"


_NIST_COUNT = re.compile(rb"^sample_count -i (\d+)", re.MULTILINE)


class Sound:
    """An open sound that libsndfile decodes; attributes as of `ffmpeg.Decoded`."""

    def __init__(
        self, file: sf.SoundFile, note: str = "", *, sought: Callable[[], int] | None = None, back: int = 0
    ) -> None:
        """`sought`: gives the last place that may be sought; `back`: samples before a part that are read with it."""
        self._file, self._sought, self._back = file, sought, back
        self.rate, self.channels, self.frames = int(file.samplerate), int(file.channels), int(file.frames)
        self.exact, self.tolerance, self.note = True, TOLERANCE_SECONDS, note

    def blocks(self, first: int, last: int | None) -> Iterator[NDArray[np.float32]]:
        """Yield samples `first` … `last` - 1 (None: to the end), float32 [n, C] each. For one caller, once."""
        if first:
            at = max(0, first - self._back)
            at = at if self._sought is None else min(at, self._sought())
            at = at if self._file.seekable() else 0  # of GSM 6.10 and the like all before it is decoded
            with quiet_decoder():
                if at:
                    self._file.seek(at)
                while at < first:  # read what lies before it
                    at += len(self._file.read(min(first - at, _BLOCK), always_2d=True)) or first - at
        left = (self.frames if last is None else last) - first
        size = max(1, min(_BLOCK, 8 * _BLOCK // self.channels))
        while left:
            with quiet_decoder():
                block = self._file.read(min(left, size), dtype="float32", always_2d=True)
            if not len(block):
                return
            left -= len(block)
            yield block


@contextmanager
def opened(source: Any, window: Window, path: object) -> Iterator[Sound | Decoded]:
    """Open a sound that libsndfile knows; where it would not read all of it, FFmpeg does.

    Args:
        source: descriptor of the file, or an object to read from; its position becomes libsndfile's.
        window: the same bytes.
        path: what it is called in errors.

    Raises:
        AudioError: as `decoding.opened`.
    """
    try:
        with quiet_decoder():
            file = sf.SoundFile(source, closefd=False)
        with file:
            _require_sane(file, window, path)
            if file.subtype.startswith("MPEG_LAYER"):
                other = _counted_mpeg(file, window, path)
            elif file.format == "FLAC":
                other = _counted_flac(file, window, path)
            else:
                other = None
            if other is not None:
                with other as sound:
                    yield sound
            elif file.frames == 0 and (patches := riff.unsized(window)):
                with sf.SoundFile(window.patched(patches)) as whole:
                    yield Sound(whole, _KILLED)
            elif patches := riff.stale(window, least=file.samplerate * file.channels * _WIDTHS.get(file.subtype, 0)):
                with sf.SoundFile(window.patched(patches)) as whole:
                    yield Sound(whole, _STALE)
            elif file.subtype.startswith("MPEG_LAYER"):
                yield Sound(file, back=_RESERVOIR)
            elif file.subtype == "VORBIS":
                # In a stream's last page libsndfile 1.2 seeks to some hundred samples behind what was asked for.
                yield Sound(file, sought=lambda: max(0, file.frames - last_pages(window, 2)))
            else:
                yield Sound(file)
    except sf.SoundFileError as error:
        detail = error.error_string if isinstance(error, sf.LibsndfileError) else str(error)
        raise unreadable(path, detail) from error


def _require_sane(file: sf.SoundFile, window: Window, path: object) -> None:
    log = file.extra_info
    mpeg_in_wav = file.subtype.startswith("MPEG_LAYER") and file.format == "WAV"
    may_lack = TOLERANCE_SECONDS * file.samplerate * file.channels * _WIDTHS.get(file.subtype, 0)
    for declared, held in _SHORT_CHUNK.findall(log):
        piped = any(low <= int(declared) <= high for low, high in _PIPED)
        if int(declared) - int(held) > may_lack and not piped:
            raise truncated(path, f"{held} of {declared} bytes")
    if (counted := riff.counted(window)) is not None and counted[0] - counted[1] > may_lack:
        raise truncated(path, f"{counted[1]} of {counted[0]} bytes")
    count = _NIST_COUNT.search(window.at(0, 1024)) if file.format == "NIST" else None
    if count is not None and int(count[1]) - file.frames > TOLERANCE_SECONDS * file.samplerate:
        raise truncated(path, f"{file.frames} of {int(count[1])} samples")
    if "lacks an end-of-stream bit" in log:
        raise truncated(path, "an Ogg stream without its last page")
    if not RATES[0] <= file.samplerate <= RATES[1]:
        raise AudioError(f"{path}: the header declares a sample rate of {file.samplerate} Hz: corrupt.")
    unknown = file.format == "FLAC" and file.frames >= _NO_COUNT
    if file.frames > _MAX_SAMPLES_PER_BYTE * window.size and not unknown and not mpeg_in_wav:
        raise AudioError(f"{path}: the header declares {file.frames} samples and cannot hold them: corrupt.")
    if riff.is_joined(window):
        raise AudioError(
            f"{path}: several {file.format} files joined in one, of which players hear the first alone. Take them "
            "apart."
        )
    if file.format == "OGG":
        check_pages(window, path, opus=file.subtype == "OPUS")


def _counted_mpeg(file: sf.SoundFile, window: Window, path: object) -> Any:
    """Return what reads MPEG audio whole, or None where libsndfile does."""
    if file.format == "WAV":
        chunk = riff.data_chunk(window)
        if chunk is None:
            return None
        window = window.part(chunk[0], chunk[0] + chunk[1])
    count = mpeg.count(window)
    if count is None:
        return None
    off = count.n_samples - file.frames
    if abs(off) <= TOLERANCE_SECONDS * file.samplerate or (off < 0 and count.declared):
        return None  # of one that declares more than there is, libsndfile's own end tells
    note = ""
    if count.joined or count.declared:
        what = "several mp3 files joined" if count.joined else "a wrong count of frames"
        declared, there = file.frames / file.samplerate, count.n_samples / file.samplerate
        note = f"{what}: its header declares {declared:.2f} s, all {there:.2f} s were read"
    # Without the frame that counts, from which FFmpeg would take where to leave out padding.
    whole = window.part(count.begin, window.size)
    return decoded(whole, path, "mp3", frames=count.n_frames_samples, note=note)


def _counted_flac(file: sf.SoundFile, window: Window, path: object) -> Any:
    """Return what reads a FLAC file whole that declares no length, or too little; None where libsndfile does."""
    there, unknown = flac.last_sample(window), file.frames >= _NO_COUNT
    if flac.is_joined(window):
        raise AudioError(
            f"{path}: several FLAC files joined in one, of which players hear the first alone. Take them apart."
        )
    if unknown:
        return decoded(window, path, "flac", frames=there)
    if there is None or there - file.frames <= TOLERANCE_SECONDS * file.samplerate:
        return None
    rate = file.samplerate
    note = f"its header declares {file.frames / rate:.2f} s, all {there / rate:.2f} s were read"
    return decoded(window, path, "flac", frames=there, note=note)
