"""MPEG audio (mp3, mp2): how much of it there is, by counting its frames.

Neither file nor stream need say how long they are. What libsndfile takes for it (the count of a Xing frame, or the size
over the first frame's bit rate) is wrong where an encoder left the frame out, a file was cut, or several were joined.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from twistlm.audio.window import Window

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # MPEG 1, 2, 2.5
_KBIT = {
    (True, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # (MPEG 1, layer bits: 3 is layer I, 1 is layer III)
_SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]", re.DOTALL)
_CHUNK = 1 << 20  # bytes looked at at once
_MOST_LOST = 10_000  # places that look like a frame and are none, after which counting is given up


@dataclass(frozen=True, kw_only=True)
class Count:
    """What a stream holds.

    Attributes:
        n_samples: of all frames that are there whole, but what the first Xing frame says is an encoder's padding.
        n_frames_samples: of all frames of sound, an encoder's padding too.
        begin: where the first of them begins, in bytes.
        declared: whether a Xing frame stands at its beginning with a count of frames, right or wrong.
        joined: whether another such frame follows later: several files in one.
    """

    n_samples: int
    n_frames_samples: int
    begin: int
    declared: bool
    joined: bool


def count(window: Window) -> Count | None:
    """Return how many samples a stream holds; tags before, behind and between frames are passed over.

    Returns:
        None when its frames cannot be told: none are there, they have no fixed size (bit rate "free"), or what stands
        between them looks too often like one.
    """
    at, n_frames, lost = 0, 0, 0
    like: tuple[int, int, int] | None = None  # what every frame must share
    samples = 0
    declared = joined = False
    padding = begin = 0
    data, base = b"", 0
    while at + 4 <= window.size:
        if not base <= at <= base + len(data) - 4096 and not (base <= at and base + len(data) == window.size):
            data, base = window.at(at, _CHUNK), at
        here = at - base
        word = int.from_bytes(data[here : here + 4], "big")
        size, per_frame, kind = _frame(word >> 9)
        if size and (like is None or kind == like) and (n_frames or _follows(window, at + size, kind)):
            if at + size > window.size:
                break
            like = kind
            found = _xing(data[here : here + size], word)
            if found is not None and n_frames == 0:
                declared, padding, begin = found[0] > 0, found[1], at + size
            elif found is not None:
                joined = True
                samples += per_frame
            else:
                begin = begin if n_frames else at
                samples += per_frame
            n_frames += 1
            at += size
            continue
        head = data[here : here + 10]
        if head[:3] == b"ID3" and len(head) == 10 and not any(byte & 0x80 for byte in head[6:]):
            at += 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) + (10 if head[5] & 0x10 else 0)
            continue
        lost += 1
        if lost > _MOST_LOST:
            return None
        place = _next(window, at + 1, like)
        if place is None:
            break
        at = place
    if not n_frames:
        return None
    return Count(
        n_samples=max(0, samples - padding), n_frames_samples=samples, begin=begin, declared=declared, joined=joined
    )


def _next(window: Window, at: int, like: tuple[int, int, int] | None) -> int | None:
    """Return where, from `at` on, the next two frames stand one behind the other, or one at the very end."""
    tries = 0
    while at < window.size:
        data = window.at(at, _CHUNK)
        for match in _SYNC.finditer(data):
            word = int.from_bytes(data[match.start() : match.start() + 4], "big")
            size, _, kind = _frame(word >> 9)
            place = at + match.start()
            if size and (like is None or kind == like) and _follows(window, place + size, kind):
                return place
            tries += 1
            if tries > _MOST_LOST:
                return None
        at += max(1, len(data) - 3)
    return None


def _follows(window: Window, at: int, kind: tuple[int, int, int]) -> bool:
    if at >= window.size:
        return at == window.size
    head = window.at(at, 4)
    if head[:3] in (b"TAG", b"ID3", b"APE"):
        return True
    size, _, found = _frame(int.from_bytes(head, "big") >> 9)
    return bool(size) and found == kind


@functools.lru_cache(maxsize=4096)
def _frame(bits: int) -> tuple[int, int, tuple[int, int, int]]:
    """Return size in bytes, samples, and (version, layer, rate) of a frame by its header's first 23 bits.

    The size is 0 where they are no header, or its bit rate is "free".
    """
    padded, rate, bitrate, layer, version = bits & 1, bits >> 1 & 3, bits >> 3 & 15, bits >> 8 & 3, bits >> 10 & 3
    kind = (version, layer, rate)
    if bits >> 12 != 0x7FF or version == 1 or layer == 0 or rate == 3 or bitrate in (0, 15):
        return 0, 0, kind
    hertz, first = _RATES[version][rate], version == 3
    bits_a_second = 1000 * _KBIT[first, layer][bitrate - 1]
    if layer == 3:
        return (12 * bits_a_second // hertz + padded) * 4, 384, kind
    samples = 1152 if first or layer == 2 else 576
    return samples // 8 * bits_a_second // hertz + padded, samples, kind


def _xing(frame: bytes, word: int) -> tuple[int, int] | None:
    """Return (frames, samples of padding) that a Xing or VBRI frame declares; None of a frame of sound."""
    if frame[36:40] == b"VBRI":
        return int.from_bytes(frame[50:54], "big"), 0
    mono, first = word >> 6 & 3 == 3, word >> 19 & 3 == 3
    at = 4 + ((17 if mono else 32) if first else (9 if mono else 17))
    if word >> 16 & 1 == 0 and frame[at : at + 4] not in (b"Xing", b"Info"):
        at += 2  # behind a checksum
    if frame[at : at + 4] not in (b"Xing", b"Info"):
        return None
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    n_frames = int.from_bytes(frame[at + 8 : at + 12], "big") if flags & 1 else 0
    lame = at + 8 + 4 * bool(flags & 1) + 4 * bool(flags & 2) + 100 * bool(flags & 4) + 4 * bool(flags & 8)
    tag = frame[lame : lame + 24]
    if len(tag) < 24 or not tag[:4].isalnum():
        return n_frames, 0
    gap = int.from_bytes(tag[21:24], "big")
    return n_frames, (gap >> 12) + (gap & 0xFFF)
