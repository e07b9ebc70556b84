"""Mel-cepstral distortion: how far apart two readings of the same words are in the envelopes of their spectra, in dB.

Source: Kubichek 1993. The mel cepstrum is that of a bank of filters, as in most toolkits that need no SPTK: windows of
25 ms (Hann) every 10 ms, magnitudes gathered in 40 triangular HTK mel bands over 0 … Nyquist, natural logarithm,
DCT-II. Coefficients are scaled as SPTK's are, ln|H| = c0 + sum of c_k cos(k w), so that the distortion is the root mean
square difference of the two smoothed spectra in dB. Another analysis gives other numbers: compare only within this one.

Shapes: N samples, T and U windows of two clips, D coefficients.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dct

from twistlm.errors import BadInput
from twistlm.vocoder.mel import mel_filters

WINDOW, STEP, BANDS = 0.025, 0.010, 40
FLOOR = 1e-5  # of a band's magnitude: below is silence
DECIBELS = 10 / np.log(10) * np.sqrt(2)

Align = Literal["windows", "dtw"]


class Distortion(NamedTuple):
    """Mel-cepstral distortion: mean `db` over `n` pairs of windows."""

    db: float
    n: int


def mel_cepstra(samples: ArrayLike, sample_rate: int, *, order: int) -> NDArray[np.float64]:
    """Return the mel cepstra c_1 … c_order of samples [N], float64 [T, order]; c_0, the loudness, is left out.

    Only whole windows count: T = 1 + (N - window) // step, at least 1 (a shorter clip is filled up with zeros).

    Raises:
        BadInput: no samples, not one-dimensional, not finite, or an order outside 1 … 39.
    """
    wave = waveform(samples)
    if not 1 <= order < BANDS:
        raise BadInput(f"the order of a mel cepstrum must be 1 to {BANDS - 1}, got {order}.")
    size, step = round(WINDOW * sample_rate), round(STEP * sample_rate)
    windows = windowed(wave, size, step) * np.hanning(size + 1)[:-1]
    n_fft = 2 ** int(np.ceil(np.log2(size)))
    filters = mel_filters(n_fft, BANDS, sample_rate).numpy().astype(np.float64)
    bands = np.abs(np.fft.rfft(windows, n_fft)) @ filters
    # An orthonormal DCT of M values holds sqrt(M / 2) c_k in this scale.
    return dct(np.log(bands + FLOOR), norm="ortho")[:, 1 : order + 1] * np.sqrt(2 / BANDS)


def mel_cepstral_distortion(
    true: ArrayLike, spoken: ArrayLike, sample_rate: int, *, order: int, align: Align
) -> Distortion:
    """Return how far `spoken` [N] is from `true` [M], both at `sample_rate`.

    Args:
        true, spoken: two readings of the same words.
        sample_rate: Hz, of both.
        order: coefficients compared, usually 13 or 24; more give larger numbers.
        align: "windows" compares window by window and needs clips of one timing (at most one window of difference in
            length is cut off); "dtw" aligns them first and takes the mean over the path.

    Raises:
        BadInput: as `mel_cepstra`, or lengths that differ where nothing aligns them.
    """
    a, b = (mel_cepstra(wave, sample_rate, order=order) for wave in (true, spoken))
    if align == "windows":
        if abs(len(a) - len(b)) > 1:
            raise BadInput(
                f"the clips have {len(a)} and {len(b)} windows of {1000 * STEP:.0f} ms: clips of unlike timing cannot "
                'be compared window by window; use align="dtw".'
            )
        n = min(len(a), len(b))
        distances = np.sqrt(np.square(a[:n] - b[:n]).sum(1))
    else:
        cost = np.sqrt(np.maximum(np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T, 0))
        path = cheapest_path(cost)
        distances = np.sqrt(np.square(a[path[:, 0]] - b[path[:, 1]]).sum(1))
    return Distortion(float(DECIBELS * distances.mean()), len(distances))


def cheapest_path(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the path of dynamic time warping, int64 [n, 2], from (0, 0) to (T - 1, U - 1) of costs [T, U].

    Steps are (1, 1), (1, 0) and (0, 1), in this order where they cost the same; the sum of the costs on the path is the
    least.
    """
    t, u = cost.shape
    total = np.full((t + 1, u + 1), np.inf)
    total[0, 0] = 0
    for diagonal in range(t + u - 1):  # cells on one antidiagonal depend on earlier ones only
        i = np.arange(max(0, diagonal - u + 1), min(t, diagonal + 1))
        j = diagonal - i
        total[i + 1, j + 1] = cost[i, j] + np.minimum(np.minimum(total[i, j], total[i, j + 1]), total[i + 1, j])
    i, j = t - 1, u - 1
    path = [(i, j)]
    while i or j:
        i, j = min(((i - 1, j - 1), (i - 1, j), (i, j - 1)), key=lambda at: total[at[0] + 1, at[1] + 1])
        path.append((i, j))
    return np.array(path[::-1], np.int64)


def waveform(samples: ArrayLike) -> NDArray[np.float64]:
    """Return samples as float64 [N].

    Raises:
        BadInput: none, more than one channel, or not finite.
    """
    wave = np.asarray(samples, np.float64)
    if wave.ndim != 1 or not len(wave):
        raise BadInput(f"a clip must be a row of at least one sample, got shape {wave.shape}.")
    if not np.isfinite(wave).all():
        raise BadInput(f"{int((~np.isfinite(wave)).sum())} of {len(wave)} samples of a clip are not finite.")
    return wave


def windowed(wave: NDArray[np.float64], size: int, step: int) -> NDArray[np.float64]:
    """Return every whole window of `size` samples, each `step` after the one before, as a view [T, size]."""
    wave = np.pad(wave, (0, max(0, size - len(wave))))
    return np.lib.stride_tricks.sliding_window_view(wave, size)[::step]
