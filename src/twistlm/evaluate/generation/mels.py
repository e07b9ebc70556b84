"""Mel spectrograms as librosa makes them, for published models that learnt from those.

Shapes: N samples, W windows, M mel bands.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

_LINEAR, _LOG_FROM = 200.0 / 3, 1000.0  # Slaney's scale: Hz a mel below, and where it becomes logarithmic
_LOG_STEP = np.log(6.4) / 27


def mel_power(samples: NDArray[np.float32], *, n_fft: int, hop: int, n_mels: int, rate: int) -> NDArray[np.float32]:
    """Return [W, M]: power in mel bands of centred Hann windows, zeros beyond both ends; W = 1 + N // hop."""
    padded = np.pad(samples.astype(np.float32), n_fft // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)
    power = np.abs(np.fft.rfft(windows * hann, axis=1)) ** 2
    return (power @ _filters(n_fft, n_mels, rate)).astype(np.float32)


@functools.cache
def _filters(n_fft: int, n_mels: int, rate: int) -> NDArray[np.float64]:
    """Return [n_fft // 2 + 1, M]: triangles evenly spaced on Slaney's mel scale up to Nyquist, each of area 1."""
    top = _to_mel(rate / 2)
    edges = np.array([_to_hertz(mel) for mel in np.linspace(0.0, top, n_mels + 2)])
    bins = np.fft.rfftfreq(n_fft, 1 / rate)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))


def _to_mel(hertz: float) -> float:
    linear = hertz / _LINEAR
    return linear if hertz < _LOG_FROM else _LOG_FROM / _LINEAR + float(np.log(hertz / _LOG_FROM)) / _LOG_STEP


def _to_hertz(mel: float) -> float:
    if mel < _LOG_FROM / _LINEAR:
        return mel * _LINEAR
    return _LOG_FROM * float(np.exp(_LOG_STEP * (mel - _LOG_FROM / _LINEAR)))
