"""FLAC: how much a file holds by its frames, which may be more than its header counts.

Written into a pipe, a file has no count (which the format allows); a recorder that was killed may have left an old one.
"""

from __future__ import annotations

import re

from twistlm.audio.window import Window

_TAIL = 1 << 18  # bytes in which the last frame's header must lie: larger frames are not made of speech
_BLOCKS = {1: 192, **{n: 576 << (n - 2) for n in range(2, 6)}, **{n: 256 << (n - 8) for n in range(8, 16)}}
_SECOND = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_SYNC = re.compile(rb"\xff[\xf8\xf9]")


def last_sample(window: Window) -> int | None:
    """Return the number of samples up to the end of the last frame of a FLAC file, by that frame's own number.

    Returns:
        None when the file is not FLAC from its first byte, or no frame is found near its end.
    """
    head = window.at(0, 42)
    if head[:4] != b"fLaC" or head[4] & 0x7F != 0 or len(head) < 42:
        return None
    smallest, largest = int.from_bytes(head[8:10], "big"), int.from_bytes(head[10:12], "big")
    start = max(42, window.size - _TAIL)
    tail = window.at(start, _TAIL)
    for match in reversed(list(_SYNC.finditer(tail))):
        found = _frame(tail[match.start() : match.start() + 16], smallest if smallest == largest else 0)
        if found is not None:
            return found
    return None


def is_joined(window: Window) -> bool:
    """Return whether another FLAC file begins inside this one."""
    at, size = 4, 1 << 22
    while at < window.size:
        if _SECOND.search(window.at(at, size + 8)):
            return True
        at += size
    return False


def _frame(data: bytes, fixed: int) -> int | None:
    """Return the sample behind a frame, None where `data` is no header of one. `fixed`: samples of all but the last."""
    if len(data) < 6 or data[3] & 1 or data[2] & 15 == 15 or data[2] >> 4 == 0 or data[3] >> 4 > 10:
        return None
    lead = data[4]
    n_more = 0 if lead < 0x80 else 7 - (lead ^ 0xFF).bit_length()  # as UTF-8 has it, to 7 bytes
    if lead & 0xC0 == 0x80 or n_more > 6 or len(data) < 5 + n_more:
        return None
    number = lead if n_more == 0 else lead & (0x3F >> n_more)
    for byte in data[5 : 5 + n_more]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
    at, code, rate = 5 + n_more, data[2] >> 4, data[2] & 15
    size = _BLOCKS.get(code, 0)
    if code in (6, 7):
        size = int.from_bytes(data[at : at + code - 5], "big") + 1
        at += code - 5
    at += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if at >= len(data) or _crc8(data[:at]) != data[at]:
        return None
    if data[1] & 1:  # its number is that of its first sample
        return number + size
    return None if fixed == 0 else number * fixed + size


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x07 if crc & 0x80 else 0)) & 0xFF
    return crc
