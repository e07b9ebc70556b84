"""SPHERE files (NIST, LDC) whose samples shorten compressed, which libsndfile does not decode.

FFmpeg has a decoder of shorten, for files of its own that begin with a wav header. The stream in a SPHERE file is the
same without it, so one is put in: a verbatim section of whole bytes, which moves no bit in its byte. The format:
Robinson, SHORTEN: simple lossless and near-lossless waveform compression, CUED/F-INFENG/TR.156 (1994), in the version 2
that NIST's tools embed.
"""

from __future__ import annotations

import re
import struct
from contextlib import AbstractContextManager

from twistlm.audio import ffmpeg
from twistlm.audio.defects import unreadable
from twistlm.audio.window import Window
from twistlm.errors import AudioError

_FIELD = re.compile(rb"^(\w+) -(?:i|s\d+) (\S+)", re.MULTILINE)
_MOST_HEADER = 1 << 16  # bytes; 1024 as a rule
_PARAMETERS = 6  # type of samples, channels, block size, order of prediction, blocks in a mean, bytes to be skipped
_PCM = (3, 5)  # types: 16 bits, big-endian and little-endian before they were compressed
_MOST_PARAMETERS = 256  # bytes
_VERBATIM = 9  # a command: bytes follow as they are


def opened(window: Window, path: object) -> AbstractContextManager[ffmpeg.Decoded] | None:
    """Return what decodes a SPHERE file compressed with shorten; None for any other file.

    Raises:
        AudioError: a damaged header, or samples that FFmpeg's decoder does not know (µ-law, A-law).
    """
    head = window.at(0, 16)
    if not head.startswith(b"NIST_1A\n") or not head[8:].strip().isdigit():
        return None
    size = min(int(head[8:]), _MOST_HEADER)
    fields = {name.decode(): value.decode("latin-1") for name, value in _FIELD.findall(window.at(0, size))}
    coding = fields.get("sample_coding", "")
    if "shorten" not in coding:
        return None
    begin = window.at(size, _MOST_PARAMETERS)
    bits = "".join(f"{byte:08b}" for byte in begin[5:])
    try:
        rate, channels, n_samples = (int(fields[name]) for name in ("sample_rate", "channel_count", "sample_count"))
        if not begin.startswith(b"ajkg") or begin[4] not in (1, 2, 3):
            raise ValueError("no stream of shorten 1 to 3 behind it")
        (kind, n_channels, *_), at = _parameters(bits)
        if n_channels != channels or not 1 <= channels <= 8 or not 0 < rate < 1 << 28:
            raise ValueError(f"{channels} and {n_channels} channels at {rate} Hz")
    except (KeyError, ValueError, IndexError) as error:
        raise unreadable(path, f"a damaged header of SPHERE or shorten: {error}") from error
    if kind not in _PCM:
        raise AudioError(
            f"{path}: SPHERE compressed with shorten ({coding}), of which only 16-bit PCM is decoded here, and no "
            "telephone codes. Unpack it first, with LDC's sph2pipe: `sph2pipe -p -f wav IN.sph OUT.wav`."
        )
    put_in = bits[:at] + _verbatim(_wav_header(rate, channels)) + bits[at : at + -at % 8]
    before = begin[:5] + int(put_in, 2).to_bytes(len(put_in) // 8, "big")
    behind = window.part(size + 5 + (at + 7) // 8, window.size)
    return ffmpeg.decoded(_Joined(before, behind), path, "shn", declared=n_samples)


class _Joined(Window):
    """Some bytes and a window behind them, as one file."""

    def __init__(self, before: bytes, behind: Window) -> None:
        self._before, self._behind = before, behind
        self._at, self.size, self.name = 0, len(before) + behind.size, "sound"

    def at(self, offset: int, n: int) -> bytes:
        head = self._before[offset : offset + n]
        return head + self._behind.at(max(0, offset - len(self._before)), n - len(head))


def _parameters(bits: str) -> tuple[list[int], int]:
    """Return what a stream says of itself, and the bit behind that. ValueError where that is not all there."""
    found, at = [], 0
    for _ in range(_PARAMETERS):
        width, at = _number(bits, at, 2)
        value, at = _number(bits, at, width)
        found.append(value)
    at += 8 * found[-1]
    if at + 8 > len(bits):
        raise ValueError("its parameters do not end")
    return found, at


def _number(bits: str, at: int, width: int) -> tuple[int, int]:
    """Return a Rice code (unary, a one, `width` bits) and the bit behind it."""
    one = bits.index("1", at)
    end = one + 1 + width
    if end > len(bits):
        raise ValueError("its parameters do not end")
    return ((one - at) << width) + int(bits[one + 1 : end] or "0", 2), end


def _code(value: int, width: int) -> str:
    return "0" * (value >> width) + "1" + (f"{value & ((1 << width) - 1):0{width}b}" if width else "")


def _verbatim(data: bytes) -> str:
    """Return a section that holds `data`: of 44 bytes it is 51 bytes long."""
    return _code(_VERBATIM, 2) + _code(len(data), 5) + "".join(_code(byte, 8) for byte in data)


def _wav_header(rate: int, channels: int) -> bytes:
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    return b"RIFF\x24\0\0\0WAVEfmt " + form + b"data\0\0\0\0"
