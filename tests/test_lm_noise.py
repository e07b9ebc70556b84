"""Noise of sampling: SplitMix64's numbers, Gumbel's distribution, and what it is there for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twistlm.lm.noise import gumbel, seeds_of_places

WORD = 2**64


def splitmix64(state: int, n: int) -> list[int]:
    """The generator as its authors give it, with Python's integers."""
    made = []
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) % WORD
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
        made.append(z ^ (z >> 31))
    return made


def test_the_oracle_is_splitmix64() -> None:
    """The first numbers from state 1234567, as published with other implementations."""
    assert splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@settings(max_examples=25)
@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 40))
def test_noise_is_of_the_generators_numbers(place: int, n: int) -> None:
    found = gumbel(torch.tensor(place), n)
    expected = [-math.log(-math.log(((z >> 11) + 0.5) / 2**53)) for z in splitmix64(place % WORD, n)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_many_places_at_once() -> None:
    places = torch.tensor([seeds_of_places(seed, 3) for seed in range(4)])
    found = gumbel(places, 7)
    assert found.shape == (4, 3, 7) and found.isfinite().all()
    assert torch.equal(found[2, 1], gumbel(places[2, 1], 7))
    assert len(set(places.flatten().tolist())) == 12


def test_places_are_the_seeds_own_and_begin_alike() -> None:
    before = torch.random.get_rng_state()
    assert seeds_of_places(7, 4) != seeds_of_places(7 + 2**32, 4) != seeds_of_places(7 + 5 * 2**40, 4)
    assert seeds_of_places(np.uint32(5), 4) == seeds_of_places(5, 9)[:4] != seeds_of_places(6, 4)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_distribution() -> None:
    """Kolmogorov and Smirnov against Gumbel's, over places and over tokens; no token's noise tells another's."""
    noise = gumbel(torch.tensor(seeds_of_places(0, 400)), 50).numpy()
    for values in (noise.ravel(), noise[:, 0], noise[0], noise[:, -1]):
        x = np.sort(values)
        distance = np.abs(np.exp(-np.exp(-x)) - (np.arange(len(x)) + 0.5) / len(x)).max()
        assert distance < 1.95 / math.sqrt(len(x))  # of a thousand such samples one is beyond it
    assert np.abs(np.corrcoef(noise.T) - np.eye(50)).max() < 0.25


@pytest.mark.parametrize("error", [0.01, 0.05])
def test_nearly_equal_distributions_give_the_same_token(error: float) -> None:
    """What inverting the cumulated distribution does not do, which stands beside it."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(500, 500)))
    y = x + torch.from_numpy(rng.normal(scale=error, size=x.shape))
    noise = gumbel(torch.tensor(seeds_of_places(0, 500)), 500)
    same = ((x + noise).argmax(1) == (y + noise).argmax(1)).double().mean()
    one = torch.from_numpy(rng.random((500, 1)))
    inverted = [torch.searchsorted(z.softmax(1).cumsum(1), one) for z in (x, y)]
    assert same > 1 - 2 * error
    assert (inverted[0] == inverted[1]).double().mean() < same - 4 * error
