"""The sound files of a study: PCM in wav, all of one size, so that no size, header or time to load tells a system.

Any compression would give a clip away by its size. Here a file's length is padded, in a chunk that players pass over,
to that of the longest; how long the sound in it lasts a rater hears anyway.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

_HEAD = 12 + 24 + 8 + 8  # RIFF, fmt, JUNK's and data's heads


def size_of(frames: int, channels: int) -> int:
    """Return the bytes of a file of so many frames without padding."""
    return _HEAD + 2 * frames * channels


def wav(samples: NDArray[np.floating], sample_rate: int, *, size: int) -> bytes:
    """Return 16-bit PCM in a wav file of exactly `size` bytes.

    Args:
        samples: [N] or [N, channels], in -1 … 1.
        sample_rate: Hz.
        size: bytes, at least `size_of` these samples and even.
    """
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    data = np.clip(np.round(samples * 32767.0), -32768, 32767).astype("<i2").tobytes()
    junk = size - _HEAD - len(data)
    if junk < 0 or size % 2:
        raise ValueError(f"{len(data) + _HEAD} bytes do not fit into an even {size}")
    form = struct.pack("<HHIIHH", 1, channels, sample_rate, 2 * channels * sample_rate, 2 * channels, 16)
    chunks = b"fmt " + struct.pack("<I", 16) + form + b"JUNK" + struct.pack("<I", junk) + bytes(junk)
    return b"RIFF" + struct.pack("<I", size - 8) + b"WAVE" + chunks + b"data" + struct.pack("<I", len(data)) + data
