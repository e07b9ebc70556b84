"""ABX: against plain loops, against fastabx's own numbers, and what must hold of any error rate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twistlm.errors import BadInput
from twistlm.units.quality.abx import Token, abx, draw, tokens_of
from twistlm.units.quality.dtw import frame_distances, warped


def token(i: int, phone: str, speaker: str, *, clip: str | None = None) -> Token:
    return Token(clip=clip or f"c{i // 4}", speaker=speaker, phone=phone, first=0, last=1)


def instances(seed: int, *, units: bool, n: int = 90):
    """Phones of three speakers, as 1 to 6 frames each."""
    rng = np.random.default_rng(seed)
    phones = [f"p{int(i)}" for i in rng.integers(0, 5, n)]
    speakers = [f"s{int(i)}" for i in rng.integers(0, 3, n)]
    sizes = rng.integers(1, 7, n)
    of_phone, of_speaker = rng.standard_normal((5, 6)), rng.standard_normal((3, 6))
    features = []
    for phone, speaker, size in zip(phones, speakers, sizes, strict=True):
        centre = of_phone[int(phone[1])] + 0.5 * of_speaker[int(speaker[1])]
        frames = (centre + 1.5 * rng.standard_normal((size, 6))).astype(np.float32)
        features.append(np.abs(frames).argmax(1) if units else frames)
    return features, [token(i, p, s) for i, (p, s) in enumerate(zip(phones, speakers, strict=True))]


def slow_dtw(costs: np.ndarray) -> float:
    """By the cheapest way to each frame pair, then back along it, counting."""
    total = np.zeros_like(costs)
    for i, j in itertools.product(*map(range, costs.shape)):
        ways = [total[a, b] for a, b in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if a >= 0 and b >= 0]
        total[i, j] = costs[i, j] + min(ways, default=0.0)
    i, j, steps = costs.shape[0] - 1, costs.shape[1] - 1, 1
    while i or j:
        ways = [(i - 1, j - 1), (i, j - 1), (i - 1, j)]
        i, j = min(((a, b) for a, b in ways if a >= 0 and b >= 0), key=lambda at: total[at])  # the first of equals
        steps += 1
    return float(total[-1, -1] / steps)


sequences = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(sequences, sequences)
def test_warped_units_equal_plain_loops(x, y):
    x, y = [np.array(s) for s in x], [np.array(s) for s in y]
    found = warped(x, y, distance="identical")
    for i, j in itertools.product(range(len(x)), range(len(y))):
        assert found[i, j] == slow_dtw((x[i][:, None] != y[j]).astype(float))


def test_warped_features_equal_plain_loops():
    features, _ = instances(3, units=False, n=12)
    found = warped(features[:5], features[5:], distance="angular")
    for i, j in itertools.product(range(5), range(7)):
        costs = frame_distances(features[i], features[5 + j], distance="angular")
        assert found[i, j] == pytest.approx(slow_dtw(costs), abs=1e-12)
    assert (found >= 0).all() and (found <= 1).all()
    opposite = frame_distances(
        np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[-2.0, 0.0], [0.0, 3.0]]), distance="angular"
    )
    assert opposite.tolist() == [[1.0, 0.5], [0.5, 0.5]]


def slow_abx(features, tokens, mode: str, distance: str) -> float:
    """Every triplet, then means of cells over speakers, then over pairs of phones."""
    d = warped(features, features, distance=distance)
    cells: dict = {}
    for x, a, b in itertools.permutations(range(len(tokens)), 3):
        X, A, B = tokens[x], tokens[a], tokens[b]
        if A.phone != X.phone or B.phone == X.phone or A.speaker != B.speaker:
            continue
        if (X.speaker == A.speaker) == (mode == "within"):
            score = 1.0 if d[x, a] > d[x, b] else 0.5 if d[x, a] == d[x, b] else 0.0
            cells.setdefault((A.phone, B.phone), {}).setdefault((A.speaker, X.speaker), []).append(score)
    return float(np.mean([np.mean([np.mean(c) for c in pair.values()]) for pair in cells.values()]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from(["within", "across"]))
def test_abx_equals_plain_loops(seed, units, mode):
    features, tokens = instances(seed, units=units, n=24)
    distance = "identical" if units else "angular"
    found = abx(features, tokens, speakers=mode, distance=distance, max_x_speakers=None, seed=0)
    assert found.error == pytest.approx(slow_abx(features, tokens, mode, distance), abs=1e-12)


# fastabx 0.9.0 with torchdtw 0.4.2 on `instances`: Task(on="phone", by or across=["speaker"]), no subsampler, distances
# "angular" and "identical", collapse(levels=["speaker"]); float32.
FASTABX = {
    (0, False, "within"): 0.19773998837918044,
    (0, False, "across"): 0.2076743759214878,
    (0, True, "within"): 0.38024171739816665,
    (0, True, "across"): 0.4104017481207848,
    (1, False, "within"): 0.36871232874691484,
    (1, False, "across"): 0.3452077515423298,
    (1, True, "within"): 0.4793269619345665,
    (1, True, "across"): 0.4763511121273041,
}


@pytest.mark.parametrize("case", FASTABX)
def test_abx_equals_fastabx(case):
    seed, units, mode = case
    features, tokens = instances(seed, units=units)
    distance = "identical" if units else "angular"
    found = abx(features, tokens, speakers=mode, distance=distance, max_x_speakers=None, seed=0)
    assert found.error == pytest.approx(FASTABX[case], abs=1e-6)
    assert found.ci[0] < found.error < found.ci[1]


def test_perfect_features_err_never_and_constant_ones_half_the_time():
    _, tokens = instances(0, units=True)
    perfect = [np.array([int(t.phone[1])]) for t in tokens]
    constant = [np.array([0]) for _ in tokens]
    for mode in ("within", "across"):
        options = {"speakers": mode, "distance": "identical", "max_x_speakers": None, "seed": 0}
        assert abx(perfect, tokens, **options).error == 0.0
        assert abx(constant, tokens, **options).error == 0.5


def test_the_jackknife_leaves_whole_clips_out():
    features, tokens = instances(0, units=False)
    options = {"speakers": "within", "distance": "angular", "max_x_speakers": None}
    few = [token(i, t.phone, t.speaker, clip=f"c{i % 9}") for i, t in enumerate(tokens)]
    assert np.isnan(abx(features, few, **options, seed=0).ci).all()
    two = abx(features, [token(i, t.phone, t.speaker, clip=f"c{i % 2}") for i, t in enumerate(tokens)], **options,
              seed=0, groups=2)  # fmt: skip
    halves = [
        slow_abx([features[i] for i in part], [tokens[i] for i in part], "within", "angular")
        for part in (range(0, 90, 2), range(1, 90, 2))
    ]
    spread = np.sqrt(0.5 * np.square(halves - np.mean(halves)).sum())
    assert two.ci[1] - two.error == pytest.approx(min(12.7062047 * spread, 1 - two.error), rel=1e-6)


def test_too_little_to_compare_is_said():
    with pytest.raises(BadInput, match="too few speakers"):
        abx([np.array([0]), np.array([1])], [token(0, "a", "s"), token(1, "b", "s")], speakers="across",
            distance="identical", max_x_speakers=None, seed=0)  # fmt: skip
    with pytest.raises(BadInput, match="different phones"):
        abx([np.array([0])], [token(0, "a", "s")], speakers="within", distance="identical", max_x_speakers=5, seed=0)


def test_tokens_are_the_frames_centred_in_a_phone():
    alignment = (("pau", 0.0, 0.06), ("a", 0.06, 0.15), ("b", 0.15, 0.16), ("c", 0.16, 0.9))
    grid = {"hop": 640, "sample_rate": 16_000, "receptive": 720}  # centres 22.5, 62.5, 102.5, 142.5, 182.5 ms
    tokens, without = tokens_of("x", "s", alignment, 5, **grid, leave_out={"pau"})
    assert [(t.phone, t.first, t.last) for t in tokens] == [("a", 1, 4), ("c", 4, 5)] and without == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.integers(0, 5))
def test_a_draw_keeps_a_few_of_each_phone_and_speaker(most, seed):
    _, tokens = instances(0, units=True)
    kept = draw(tokens, max_items=most, seed=seed)
    sizes = {key: sum((t.phone, t.speaker) == key for t in tokens) for key in {(t.phone, t.speaker) for t in tokens}}
    for key, size in sizes.items():
        assert sum((t.phone, t.speaker) == key for t in kept) == min(size, most)
    assert draw(tokens, max_items=None, seed=seed) == tokens
    assert kept == draw(tokens, max_items=most, seed=seed)
