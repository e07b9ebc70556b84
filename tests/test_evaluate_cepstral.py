"""Mel-cepstral distortion against a slow oracle, on known sounds, and its refusals."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twistlm.errors import BadInput
from twistlm.evaluate.cepstral import BANDS, DECIBELS, cheapest_path, mel_cepstra, mel_cepstral_distortion
from twistlm.vocoder.mel import mel_filters

RATE = 16_000


def noise(n: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(n)


def slow_cepstra(wave: np.ndarray, order: int) -> list[list[float]]:
    """The definition, a sum at a time."""
    filters = mel_filters(512, BANDS, RATE).double().numpy()
    turns = [cmath.exp(-2j * math.pi * n / 512) for n in range(512)]
    rows = []
    for start in range(0, len(wave) - 400 + 1, 160):
        frame = [wave[start + j] * (0.5 - 0.5 * math.cos(2 * math.pi * j / 400)) for j in range(400)]
        bins = [abs(sum(frame[j] * turns[k * j % 512] for j in range(400))) for k in range(257)]
        log = [math.log(sum(b * filters[k, m] for k, b in enumerate(bins)) + 1e-5) for m in range(BANDS)]
        rows.append([
            2 / BANDS * sum(log[m] * math.cos(math.pi * c * (m + 0.5) / BANDS) for m in range(BANDS))
            for c in range(1, order + 1)
        ])  # fmt: skip
    return rows


def slow_path(cost: np.ndarray) -> float:
    best: dict[tuple[int, int], float] = {}
    for i in range(cost.shape[0]):
        for j in range(cost.shape[1]):
            ways = [best[at] for at in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if at in best]
            best[i, j] = cost[i, j] + (min(ways) if ways else 0.0)
    return best[cost.shape[0] - 1, cost.shape[1] - 1]


@pytest.mark.thorough
def test_equals_the_definition() -> None:
    a, b = noise(560), noise(560, seed=1)
    ours, slow = mel_cepstra(a, RATE, order=13), np.array(slow_cepstra(a, 13))
    np.testing.assert_allclose(ours, slow, atol=1e-9)
    differ = slow - np.array(slow_cepstra(b, 13))
    db = sum(10 / math.log(10) * math.sqrt(2 * sum(d * d for d in row)) for row in differ) / len(differ)
    found = mel_cepstral_distortion(a, b, RATE, order=13, align="windows")
    assert found.db == pytest.approx(db, abs=1e-9) and found.n == len(differ)


def test_is_the_spectral_distance_in_db_when_all_coefficients_count() -> None:
    # Two sounds whose log spectra differ by a cosine over the bands: 6 dB at its crest is 6 / sqrt(2) dB rms.
    cosine = 6 / (20 / math.log(10)) * np.cos(math.pi * 5 * (np.arange(BANDS) + 0.5) / BANDS)
    from scipy.fft import dct

    c = dct(cosine, norm="ortho")[5] * math.sqrt(2 / BANDS)
    assert DECIBELS * abs(c) == pytest.approx(6 / math.sqrt(2), abs=1e-9)


def test_loudness_alone_is_no_distortion_and_a_clip_is_none_from_itself() -> None:
    wave = noise(RATE)
    for align in ("windows", "dtw"):
        assert mel_cepstral_distortion(wave, wave, RATE, order=13, align=align).db == 0
    assert mel_cepstral_distortion(wave, wave / 2, RATE, order=13, align="windows").db < 0.05


def test_alignment_undoes_a_change_of_pace() -> None:
    cuts = [noise(1600, seed=s) * (s + 1) for s in range(6)]
    slow = np.concatenate([np.tile(c, 2) for c in cuts])
    fast = np.concatenate(cuts)
    aligned = mel_cepstral_distortion(fast, slow, RATE, order=13, align="dtw")
    half = mel_cepstral_distortion(fast, slow[: len(fast)], RATE, order=13, align="windows")
    assert aligned.db < half.db
    with pytest.raises(BadInput, match="dtw"):
        mel_cepstral_distortion(fast, slow, RATE, order=13, align="windows")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
def test_the_cheapest_path_costs_what_the_oracle_says(t: int, u: int, seed: int) -> None:
    cost = np.random.default_rng(seed).random((t, u))
    path = cheapest_path(cost)
    assert tuple(path[0]) == (0, 0) and tuple(path[-1]) == (t - 1, u - 1)
    steps = {tuple(step) for step in np.diff(path, axis=0).tolist()}
    assert steps <= {(1, 1), (1, 0), (0, 1)}
    assert cost[path[:, 0], path[:, 1]].sum() == pytest.approx(slow_path(cost), abs=1e-9)


@pytest.mark.parametrize("wave", [[], [[0.0, 1.0]], [0.0, math.nan]])
def test_bad_clips_are_refused(wave: list) -> None:
    with pytest.raises(BadInput):
        mel_cepstra(wave, RATE, order=13)


def test_a_bad_order_is_refused_and_a_short_clip_is_one_window() -> None:
    with pytest.raises(BadInput, match="order"):
        mel_cepstra(noise(800), RATE, order=40)
    assert mel_cepstra(noise(10), RATE, order=13).shape == (1, 13)
