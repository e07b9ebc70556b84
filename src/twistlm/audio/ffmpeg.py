"""Sounds that libsndfile does not read, or not whole, by FFmpeg's decoders, which PyAV brings with it.

Shapes: N samples, C channels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twistlm.audio.defects import truncated, unreadable
from twistlm.audio.window import Window
from twistlm.errors import AudioError

_SEEK_SECONDS, _PREROLL_SECONDS = 60.0, 2.0  # later parts are sought, that much before: decoders carry a state
_EXACT = ("mov", "matroska", "flac")  # containers that know where in time their packets lie
_SAMPLES_PER_BYTE = 2_000  # no codec here holds more (flac of silence: about 400); tables that say so lie
_ROUNDED_SECONDS = {"asf": 1.0}  # of what a header declares; 0.1 s in others
_OPTIONS = {"protocol_whitelist": "none", "enable_drefs": "0"}  # a file may name others, which are never opened
_ID3 = re.compile(rb"ID3[^\xff]{2}.([\x00-\x7f]{4})", re.DOTALL)


def kind_of(window: Window) -> str:
    """Return FFmpeg's name for the container of a file that this room gives to it, known by content; "" for others."""
    head = window.at(0, 64)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return "mov"  # m4a, mp4, 3gp, mov
    if head[:4] == b"OggS" and head[28:36] == b"Speex   ":
        return "ogg"
    for magic, kind in (
        (b"\x1a\x45\xdf\xa3", "matroska"),  # webm, mka, mkv
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),  # wma
        (b"#!AMR", "amr"),
        (b"wvpk", "wv"),
        (b"TTA1", "tta"),
    ):
        if head.startswith(magic):
            return kind
    return "aac" if _is_adts(window, head) else ""


def _is_adts(window: Window, head: bytes) -> bool:
    """Three frames of raw AAC, one behind the other: two bytes that look like one are in any noise."""
    tag = _ID3.match(head)
    at = 0 if tag is None else 10 + (tag[1][0] << 21 | tag[1][1] << 14 | tag[1][2] << 7 | tag[1][3])
    like = b""
    for _ in range(3):
        frame = window.at(at, 7)
        size = (frame[3] & 3) << 11 | frame[4] << 3 | frame[5] >> 5 if len(frame) == 7 else 0
        if len(frame) < 7 or frame[0] != 0xFF or frame[1] & 0xF6 != 0xF0 or size < 7 or (like and frame[:3] != like):
            return bool(like) and at == window.size
        like = frame[:3]
        at += size
    return True


class Decoded:
    """An open sound that FFmpeg decodes.

    Attributes:
        rate: Hz. channels: C.
        frames: N; None where nothing says it.
        exact: whether `frames` is a count, and not what a header declares.
        tolerance: seconds by which a declared length may be off.
        note: what a reader should know of how the sound was read; "".
    """

    def __init__(
        self,
        container: Any,
        path: object,
        window: Window,
        *,
        kind: str,
        frames: int | None,
        declared: int | None,
        note: str,
    ) -> None:
        tracks = container.streams.audio
        if not tracks:
            raise AudioError(f"{path}: holds no sound, only pictures or data. Leave it out.")
        self._container, self._path, self._kind, self._stream = container, path, kind, tracks[0]
        self._most = _SAMPLES_PER_BYTE * window.size
        self._decoded = container.decode(self._stream)
        first = next(self._decoded, None)
        if first is None:
            raise unreadable(path, "no sound could be decoded")
        self._first = first
        self.rate, self.channels = int(first.sample_rate), len(first.layout.channels)
        self._origin = first.pts or 0
        self.exact, self.tolerance = frames is not None, _ROUNDED_SECONDS.get(kind, 0.1)
        self.frames = frames if frames is not None else declared if declared is not None else self._declared()
        if len(tracks) > 1:
            note = f"has {len(tracks)} sound tracks, of which the first is read"
        self.note = note

    def _declared(self) -> int | None:
        stream = self._stream
        if self._kind in ("aac", "amr", "ogg", "mp3"):  # guessed from the size
            return None
        if stream.duration is not None and stream.duration > 0:
            return round(stream.duration * stream.time_base * self.rate)
        held = self._container.duration
        return round(held / 1_000_000 * self.rate) if held and held > 0 else None

    def blocks(self, first: int, last: int | None) -> Iterator[NDArray[np.float32]]:
        """Yield samples `first` … `last` - 1 (None: to the end), float32 [n, C] each. For one caller, once."""
        if self._kind == "mov" and self.frames is not None:  # what is behind it pads the last packet
            last = self.frames if last is None else min(last, self.frames)
        at, frames = self._started(first)
        for frame in frames:
            if frame.sample_rate != self.rate or len(frame.layout.channels) != self.channels:
                raise AudioError(f"{self._path}: changes its rate or channels in the middle. Convert it again.")
            if at + frame.samples > self._most:
                raise unreadable(self._path, "it unpacks to more sound than so few bytes can hold")
            begin, end = max(0, first - at), frame.samples if last is None else min(frame.samples, last - at)
            if begin < end:
                yield _floats(frame)[begin:end]
            at += frame.samples
            if last is not None and at >= last:
                return

    def _started(self, first: int) -> tuple[int, Iterator[Any]]:
        """Return the place in samples of the frame that comes first, and the frames from there on."""
        if self._kind in _EXACT and first > _SEEK_SECONDS * self.rate:
            base = self._stream.time_base
            wanted = first / self.rate - _PREROLL_SECONDS
            self._container.seek(self._origin + int(wanted / base), stream=self._stream)
            frames = self._container.decode(self._stream)
            frame = next(frames, None)
            if frame is not None and frame.pts is not None:
                at = self._settled(round((frame.pts - self._origin) * base * self.rate), frame.samples)
                if at <= first:
                    return at, _chained(frame, frames)
            self._container.seek(0)
            self._decoded = self._container.decode(self._stream)
            self._first = next(self._decoded)
        return 0, _chained(self._first, self._decoded)

    def _settled(self, at: int, size: int) -> int:
        """Return the place of a frame of `size` samples: Matroska's times are whole milliseconds, its packets alike."""
        begins = self._first.samples % size + round((at - self._first.samples % size) / size) * size
        return begins if abs(begins - at) * 1000 <= self.rate else at


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _floats(frame: Any) -> NDArray[np.float32]:
    """Return a frame's samples as float32 [N, C] with full scale 1."""
    found = frame.to_ndarray()
    samples = found.T if frame.format.is_planar else found.reshape(-1, len(frame.layout.channels))
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if np.issubdtype(samples.dtype, np.integer):
        return samples.astype(np.float32) / np.float32(-float(np.iinfo(samples.dtype).min))
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(samples, dtype=np.float32)


@contextmanager
def decoded(
    window: Window, path: object, kind: str, *, frames: int | None = None, declared: int | None = None, note: str = ""
) -> Iterator[Decoded]:
    """Open a sound by FFmpeg.

    Args:
        window: the file's bytes.
        path: what it is called in errors.
        kind: FFmpeg's name of the container: it is not left to guess, as some containers open other files.
        frames: samples that there are, where somebody counted.
        declared: samples that a header outside of the container says there are: fewer are an error, more are read.
        note: of what was done to read it.

    Raises:
        AudioError: not of that kind, corrupt, or without a sound track; the same while it is read.
    """
    import av

    try:
        with av.open(window, format=kind, options=_OPTIONS, metadata_errors="replace") as container:
            yield Decoded(container, path, window, kind=kind, frames=frames, declared=declared, note=note)
    except av.FFmpegError as error:
        if kind == "mov" and window.size and not _has_index(window):
            raise truncated(
                path, "no index (moov): the recorder stopped before it wrote one, and only parts"
            ) from error
        raise unreadable(path, error.strerror or str(error)) from error
    except (UnicodeDecodeError, OverflowError) as error:  # of what PyAV makes of damaged headers
        raise unreadable(path, str(error)) from error


def _has_index(window: Window) -> bool:
    at = 0
    for _ in range(1000):
        head = window.at(at, 16)
        if len(head) < 8:
            return False
        if head[4:8] == b"moov":
            return True
        size = int.from_bytes(head[:4], "big")
        size = int.from_bytes(head[8:16], "big") if size == 1 else size
        if size < 8:
            return False
        at += size
    return True
