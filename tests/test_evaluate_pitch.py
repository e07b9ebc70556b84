"""F0 against a slow oracle and known tones; its errors counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twistlm.errors import BadInput
from twistlm.evaluate.pitch import THRESHOLD, f0, pitch_errors

RATE = 8_000


def pulse(hz: float, n: int, rate: int = RATE) -> np.ndarray:
    """A harmonic tone with a falling spectrum."""
    t = np.arange(n) / rate
    return sum(0.2 / k * np.sin(2 * np.pi * k * hz * t) for k in range(1, 6))


def slow_f0(wave: np.ndarray, low: float, high: float) -> list[float]:
    """YIN as the paper writes it, a sum at a time."""
    longest, shortest, found = math.ceil(RATE / low), math.floor(RATE / high), []
    for start in range(0, len(wave) - 2 * longest + 1, RATE // 100):
        x = wave[start : start + 2 * longest]
        d = [sum((x[j] - x[j + lag]) ** 2 for j in range(longest)) for lag in range(longest + 1)]
        curve, total = [1.0], 0.0
        for lag in range(1, longest + 1):
            total += d[lag]
            curve.append(d[lag] * lag / total if total > 0 else 1.0)
        lag = next((k for k in range(shortest, longest + 1) if curve[k] < THRESHOLD), 0)
        if not lag or math.sqrt(sum(v * v for v in x) / len(x)) < 1e-3:
            found.append(0.0)
            continue
        while lag < longest and curve[lag + 1] < curve[lag]:
            lag += 1
        shift = 0.0
        if lag < longest and curve[lag - 1] >= curve[lag]:
            a, b, c = curve[lag - 1 : lag + 2]
            shift = (a - c) / (2 * (a - 2 * b + c)) if a - 2 * b + c > 0 else 0.0
        found.append(RATE / (lag + shift))
    return found


def test_equals_the_slow_oracle() -> None:
    rng = np.random.default_rng(0)
    wave = np.concatenate([pulse(180, 900), 0.05 * rng.standard_normal(700), np.zeros(400), pulse(95, 900)])
    wave += 1e-4 * rng.standard_normal(len(wave))
    ours, slow = f0(wave, RATE, low=80, high=400), np.array(slow_f0(wave, 80, 400))
    np.testing.assert_allclose(ours, slow, rtol=1e-9, atol=1e-9)
    assert (ours > 0).any() and (ours == 0).any()


@settings(max_examples=25, deadline=None)
@given(st.floats(75, 380))
def test_a_tone_has_its_own_f0(hz: float) -> None:
    found = f0(pulse(hz, 8000, rate=16_000), 16_000, low=60, high=400)
    assert (found > 0).all() and np.abs(found / hz - 1).max() < 0.005


@pytest.mark.parametrize("hz", [401.0, 405.0, 415.0, 430.0, 460.0])
def test_a_tone_above_the_range_is_never_found_outside_of_it(hz: float) -> None:
    """Its valley is before the shortest lag, where the curve only rises: a parabola moves it by half a lag at most."""
    found = f0(pulse(hz, 4000), RATE, low=80, high=400)
    assert ((found == 0) | ((found >= 80) & (found <= RATE / (RATE / 400 - 0.5)))).all()


def test_silence_and_noise_are_not_voiced() -> None:
    assert not f0(np.zeros(8000), 16_000, low=60, high=400).any()
    noise = np.random.default_rng(0).standard_normal(8000)
    assert (f0(noise, 16_000, low=60, high=400) > 0).mean() < 0.05


def test_errors_counted_by_hand() -> None:
    true = [100.0, 100.0, 200.0, 200.0, 0.0, 0.0, 100.0, 0.0]
    spoken = [110.0, 130.0, 200.0, 0.0, 0.0, 150.0, 100.0, 0.0]
    e = pitch_errors(true, spoken, relative=False)
    assert (e.n, e.n_voiced) == (8, 4)
    assert e.voicing == 2 / 8 and e.gross == 1 / 4 and e.frame == 3 / 8
    assert e.rmse_hz == pytest.approx(math.sqrt((10**2 + 30**2) / 4), abs=1e-9)
    cents = [1200 * math.log2(1.1), 1200 * math.log2(1.3)]
    assert e.rmse_cents == pytest.approx(math.sqrt(sum(c * c for c in cents) / 4), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.3, 3), st.integers(0, 99))
def test_a_voice_that_is_only_higher_has_no_relative_error(factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = rng.uniform(80, 300, 50) * (rng.random(50) < 0.6)
    e = pitch_errors(true, true * factor, relative=True)
    assert e.voicing == 0 and e.frame == 0
    assert e.n_voiced == 0 or e.rmse_cents < 1e-6


def test_nothing_voiced_is_nan_and_bad_tracks_are_refused() -> None:
    e = pitch_errors([0.0, 0.0], [0.0, 100.0], relative=False)
    assert e.voicing == 0.5 and math.isnan(e.gross) and math.isnan(e.rmse_hz)
    for true, spoken in (([], []), ([1.0] * 5, [1.0]), ([-1.0], [1.0]), ([math.nan], [1.0])):
        with pytest.raises(BadInput):
            pitch_errors(true, spoken, relative=False)
    with pytest.raises(BadInput, match="sought"):
        f0(np.zeros(800), RATE, low=400, high=80)
