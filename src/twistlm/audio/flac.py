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
    begin = _begin(window)
    head = window.at(begin, 42)
    if head[:4] != b"fLaC" or head[4] & 0x7F != 0 or len(head) < 42:
        return None
    smallest, largest = int.from_bytes(head[8:10], "big"), int.from_bytes(head[10:12], "big")
    start = max(begin + 42, window.size - _TAIL)
    tail = window.at(start, _TAIL)
    tail = tail[:-128] if tail[-128:-125] == b"TAG" else tail
    likely = None
    for match in reversed(list(_SYNC.finditer(tail))):
        data = tail[match.start() :]
        found = _frame(data[:16], smallest if smallest == largest else 0)
        if found is None or not _fits(data, head):
            continue
        if _crc16(data) == 0:  # of a whole frame with its own sum behind it
            return found
        if likely is not None:
            return likely  # the file was cut, or something follows its sound
        likely = found
    return likely


def is_joined(window: Window) -> bool:
    """Return whether another FLAC file begins inside this one."""
    at, size = _begin(window) + 4, 1 << 22
    while at < window.size:
        if _SECOND.search(window.at(at, size + 8)):
            return True
        at += size
    return False


def _begin(window: Window) -> int:
    """Return where the file begins behind an ID3 tag, which some programs put before it."""
    head = window.at(0, 10)
    if head[:3] != b"ID3" or len(head) < 10 or any(byte & 0x80 for byte in head[6:]):
        return 0
    return 10 + sum(byte << 7 * (3 - i) for i, byte in enumerate(head[6:]))


def _fits(frame: bytes, head: bytes) -> bool:
    """Whether a frame's header says of rate, channels and sample size what the file's does: sound may look like one."""
    rate = int.from_bytes(head[18:21], "big") >> 4
    channels, bits = (head[20] >> 1 & 7) + 1, ((head[20] & 1) << 4 | head[21] >> 4) + 1
    rates = {1: 88_200, 2: 176_400, 3: 192_000, 4: 8_000, 5: 16_000, 6: 22_050, 7: 24_000, 8: 32_000, 9: 44_100,
             10: 48_000, 11: 96_000}  # fmt: skip
    widths = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}
    code, assigned, width = frame[2] & 15, frame[3] >> 4, frame[3] >> 1 & 7
    return (
        rates.get(code, rate) == rate
        and (assigned + 1 if assigned < 8 else 2) == channels
        and widths.get(width, bits) == bits
    )


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


def _crc16(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = (crc << 8 ^ _SUMS[crc >> 8 ^ byte]) & 0xFFFF
    return crc


def _sum_of(byte: int) -> int:
    crc = byte << 8
    for _ in range(8):
        crc = (crc << 1 ^ (0x8005 if crc & 0x8000 else 0)) & 0xFFFF
    return crc


_SUMS = [_sum_of(byte) for byte in range(256)]
