"""Fundamental frequency and its errors: how a spoken clip's melody and voicing differ from another's.

F0 is found by YIN (de Cheveigné & Kawahara 2002, steps 1 to 5: difference function, cumulative mean normalisation,
absolute threshold, parabolic interpolation; no search among neighbouring windows). A window is voiced where the
normalised difference falls below the threshold. The errors are those of Chu & Alwan 2009 and Nakatani et al. 2008, by
the field's names: VDE, GPE, FFE, RMSE. Another tracker gives other numbers: compare only within this one.

Shapes: N samples, T windows, L lags.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twistlm.errors import BadInput
from twistlm.evaluate.cepstral import STEP, waveform, windowed

THRESHOLD = 0.15  # of the normalised difference
QUIET = 1e-3  # root mean square of a window (-60 dB of full scale) below which nothing is voiced
GROSS = 0.2  # relative deviation from which an F0 is a gross error


class PitchErrors(NamedTuple):
    """How one clip's F0 differs from another's, window by window.

    Attributes:
        voicing: VDE, share of all windows that are voiced in one clip and not in the other.
        gross: GPE, share of the windows voiced in both whose F0 deviates by more than 20 % of the true one.
        frame: FFE, share of all windows with either error.
        rmse_hz: root mean square deviation over the windows voiced in both, Hz.
        rmse_cents: the same in cents (1200 an octave).
        n: windows compared.
        n_voiced: windows voiced in both; where there are none, gross, rmse_hz and rmse_cents are NaN.
    """

    voicing: float
    gross: float
    frame: float
    rmse_hz: float
    rmse_cents: float
    n: int
    n_voiced: int


def f0(samples: ArrayLike, sample_rate: int, *, low: float, high: float) -> NDArray[np.float64]:
    """Return the F0 of samples [N] every 10 ms, Hz, float64 [T]; 0 where nothing is voiced.

    A window is two of the longest periods, 2 / low seconds; only whole ones count.

    Args:
        samples: of one channel.
        sample_rate: Hz.
        low, high: the range of F0 that is looked through, Hz.

    Raises:
        BadInput: samples as of `cepstral.waveform`; a range that is empty or does not fit the rate.
    """
    wave = waveform(samples)
    if not 0 < low < high <= sample_rate / 4:
        raise BadInput(f"F0 can be sought between 0 and a quarter of {sample_rate} Hz, not from {low:g} to {high:g}.")
    longest, shortest = math.ceil(sample_rate / low), math.floor(sample_rate / high)
    windows = windowed(wave, 2 * longest, round(STEP * sample_rate))
    found = np.zeros(len(windows))
    for first in range(0, len(windows), 512):  # bounds memory
        part = windows[first : first + 512]
        normalised = _normalised(_differences(part, longest))
        found[first : first + 512] = [
            0.0 if np.sqrt(np.square(row).mean()) < QUIET else _lowest(curve, shortest, longest, sample_rate)
            for row, curve in zip(part, normalised, strict=True)
        ]
    return found


def _differences(windows: NDArray[np.float64], longest: int) -> NDArray[np.float64]:
    """d(lag) = sum over j < longest of (x_j - x_{j + lag})^2 for lags 0 … longest, of [T, 2 longest]."""
    n_fft = 2 ** math.ceil(math.log2(3 * longest))
    head = np.fft.rfft(windows[:, :longest], n_fft)
    products = np.fft.irfft(np.fft.rfft(windows, n_fft) * head.conj(), n_fft)[:, : longest + 1]
    energy = np.pad(np.cumsum(np.square(windows), axis=1), ((0, 0), (1, 0)))
    later = energy[:, longest : 2 * longest + 1] - energy[:, : longest + 1]
    return np.maximum(later[:, :1] + later - 2 * products, 0)


def _normalised(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """d(lag) over its mean from lag 1 on; 1 at lag 0, and where all is 0."""
    lags = np.arange(1, differences.shape[1])
    sums = np.cumsum(differences[:, 1:], axis=1)
    ratio = np.divide(differences[:, 1:] * lags, sums, out=np.ones_like(sums), where=sums > 0)
    return np.pad(ratio, ((0, 0), (1, 0)), constant_values=1.0)


def _lowest(curve: NDArray[np.float64], shortest: int, longest: int, sample_rate: int) -> float:
    """F0 of the first valley below the threshold; 0 without one."""
    below = np.flatnonzero(curve[shortest : longest + 1] < THRESHOLD)
    if not len(below):
        return 0.0
    lag = shortest + int(below[0])
    while lag < longest and curve[lag + 1] < curve[lag]:
        lag += 1
    if not 0 < lag < longest or curve[lag - 1] < curve[lag]:  # no valley of the range: a parabola would leave it
        return sample_rate / lag
    before, at, after = curve[lag - 1 : lag + 2]
    bend = before - 2 * at + after
    return sample_rate / (lag + (before - after) / (2 * bend) if bend > 0 else lag)


def pitch_errors(true: ArrayLike, spoken: ArrayLike, *, relative: bool) -> PitchErrors:
    """Compare two F0 tracks [T] of one timing (`f0` of both clips; one window of difference in length is cut off).

    Args:
        true, spoken: Hz, 0 where unvoiced.
        relative: scale the spoken track so that its median over voiced windows is the true one's, which leaves the
            melody and takes the voice's own height away: needed where a vocoder speaks in another voice.

    Raises:
        BadInput: tracks that are empty, negative, not finite, or of unlike length.
    """
    a, b = waveform(true), waveform(spoken)
    if abs(len(a) - len(b)) > 1:
        raise BadInput(f"the F0 tracks have {len(a)} and {len(b)} windows: only clips of one timing can be compared.")
    if min(a.min(), b.min()) < 0:
        raise BadInput("an F0 cannot be negative; unvoiced windows are 0.")
    n = min(len(a), len(b))
    a, b = a[:n], b[:n]
    if relative and a.any() and b.any():
        b = b * (np.median(a[a > 0]) / np.median(b[b > 0]))
    both = (a > 0) & (b > 0)
    voicing = (a > 0) != (b > 0)
    gross = np.abs(b[both] / a[both] - 1) > GROSS
    known = int(both.sum())
    return PitchErrors(
        voicing=float(voicing.mean()),
        gross=float(gross.mean()) if known else math.nan,
        frame=float((voicing.sum() + gross.sum()) / n),
        rmse_hz=float(np.sqrt(np.square(b[both] - a[both]).mean())) if known else math.nan,
        rmse_cents=float(np.sqrt(np.square(1200 * np.log2(b[both] / a[both])).mean())) if known else math.nan,
        n=n,
        n_voiced=known,
    )
