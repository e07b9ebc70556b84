"""Many clips at once and clips that arrive: the same samples as alone and as a whole."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from test_vocoder import CONFIG, SPEC, make_units, make_vocoder, random_frames
from twistlm.errors import BadInput, UnitSpecMismatch
from twistlm.types import Units
from twistlm.vocoder import vocoder as vocoder_module
from twistlm.vocoder.generator import Reach
from twistlm.vocoder.synthesizer import Synthesizer
from twistlm.vocoder.vocoder import Vocoder
from twistlm.vocoder.windows import through

VOC = make_vocoder(2)
LOUD = 50.0  # the toy's samples are scaled up to a real clip's level, so that 1e-5 means what it means there


def batches_equal_alone(seed: int, durations: str, most: int, monkeypatch) -> None:
    rng = np.random.default_rng(seed)
    many = [make_units(random_frames(int(n), seed + i)) for i, n in enumerate(rng.integers(1, 150, rng.integers(1, 9)))]
    alone = [VOC(units, durations=durations) for units in many]
    monkeypatch.setitem(vocoder_module.MOST, "cpu", most)
    for clip, expected in zip(VOC.batch(many, durations=durations), alone, strict=True):
        assert (clip.id, clip.sample_rate, len(clip.samples)) == ("clip", 16_000, len(expected.samples))
        assert LOUD * np.abs(clip.samples - expected.samples).max() < 1e-5
        assert np.abs(expected.samples).max() * LOUD > 0.2


@pytest.mark.parametrize("most", [0, 60, 500])
@pytest.mark.parametrize("durations", ["given", "predicted"])
def test_batches_give_the_samples_of_clips_alone(durations: str, most: int, monkeypatch) -> None:
    for seed in range(4):
        batches_equal_alone(seed, durations, most, monkeypatch)


@pytest.mark.slow
def test_two_hundred_random_batches_give_the_samples_of_clips_alone(monkeypatch) -> None:
    for seed in range(200):
        batches_equal_alone(1_000 + seed, ("given", "predicted")[seed % 2], (60, 500, 2_000)[seed % 3], monkeypatch)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8), left=st.integers(0, 4), right=st.integers(0, 4),
    size=st.integers(1, 20), most=st.integers(0, 80),
)  # fmt: skip
def test_a_network_of_finite_reach_sees_no_filling(lengths, left, right, size, most) -> None:
    kernel = torch.arange(1.0, left + right + 2, dtype=torch.float64)[None, None]

    def network(rows: torch.Tensor, which: list[int]) -> torch.Tensor:
        assert most == 0 or len(rows) == 1 or rows.numel() <= most
        assert len(which) == len(rows)
        padded = torch.nn.functional.pad(rows + 1, (left, right))[:, None]  # a bias: zeros are not the outside
        return torch.nn.functional.conv1d(padded, kernel)[:, 0].repeat_interleave(2, 1)

    rng = np.random.default_rng(0)
    sequences = [torch.from_numpy(rng.integers(1, 9, n).astype(np.float64)) for n in lengths]
    made = through(network, sequences, Reach(left=left, right=right), size=size, most=most, device=torch.device("cpu"))
    for sequence, out in zip(sequences, made, strict=True):
        assert torch.equal(out, network(sequence[None], [0])[0])


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 120), seed=st.integers(0, 99), cuts=st.lists(st.integers(0, 120), max_size=12),
    first=st.integers(1, 9), chunk=st.integers(1, 40), durations=st.sampled_from(["given", "predicted"]),
)  # fmt: skip
def test_a_stream_with_the_whole_look_ahead_is_the_clip(n, seed, cuts, first, chunk, durations) -> None:
    units = make_units(random_frames(n, seed))
    expected = VOC(units, durations=durations).samples
    stream = VOC.open_stream(durations=durations, first=first, chunk=chunk)
    edges = sorted({0, len(units), *(min(c, len(units)) for c in cuts)})
    sound = [
        stream.push(units.ids[a:b], units.runs[a:b] if durations == "given" else None)
        for a, b in itertools.pairwise(edges)
    ]
    made = np.concatenate([*sound, stream.finish()])
    assert made.dtype == np.float32 and made.shape == expected.shape
    assert LOUD * np.abs(made - expected).max() < 1e-5


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 99), early=st.integers(0, CONFIG.reach.right), first=st.integers(1, 6),
    durations=st.sampled_from(["given", "predicted"]),
)  # fmt: skip
@pytest.mark.thorough
def test_only_the_first_sound_is_not_exact_when_it_alone_comes_early(seed, early, first, durations) -> None:
    units = make_units(random_frames(60, seed))
    frames = units.ids if durations == "predicted" else units.frames
    expected = VOC(units, durations=durations).samples
    whole, soon = (
        VOC.open_stream(durations=durations, first=first, chunk=1, first_look_ahead=ahead) for ahead in (None, early)
    )
    made: list[list[np.ndarray]] = [[], []]
    begun = [0, 0]
    for i, one in enumerate(frames):
        for at, stream in enumerate((whole, soon)):
            made[at].append(stream.push([one]))
            begun[at] = begun[at] or (len(made[at][-1]) and i + 1)
    sound = np.concatenate([*made[1], soon.finish()])
    n_first = next(len(piece) for piece in made[1] if len(piece))
    assert begun[1] <= begun[0] and n_first >= first * SPEC.hop and sound.shape == expected.shape
    if durations == "given":
        assert begun[1] == begun[0] - (CONFIG.reach.right - early)
    rest = slice(n_first + SPEC.hop, None)  # behind the seam
    assert LOUD * np.abs(sound[rest] - expected[rest]).max() < 1e-5
    assert early < CONFIG.reach.right or LOUD * np.abs(sound - expected).max() < 1e-5


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 120), before=st.integers(0, 120), seed=st.integers(0, 99), step=st.integers(1, 30),
    durations=st.sampled_from(["given", "predicted"]),
)  # fmt: skip
def test_what_is_continued_is_heard_and_not_spoken(n, before, seed, step, durations) -> None:
    units = make_units(random_frames(n, seed))
    cut = min(before, len(units))
    start = Units(ids=units.ids[:cut], runs=units.runs[:cut], spec=SPEC)
    runs = VOC.predict_runs(units) if durations == "predicted" else units.runs
    expected = VOC(units, durations=durations).samples[int(runs[:cut].sum()) * SPEC.hop :]
    stream = VOC.open_stream(durations=durations, before=start)
    sound = [
        stream.push(units.ids[a : a + step], units.runs[a : a + step] if durations == "given" else None)
        for a in range(cut, len(units), step)
    ]
    made = np.concatenate([*sound, stream.finish()])
    assert made.shape == expected.shape
    assert not len(made) or LOUD * np.abs(made - expected).max() < 1e-5
    assert stream.lasting == runs[cut:].tolist()


def test_sound_comes_as_soon_as_nothing_can_change_it_and_memory_stays() -> None:
    stream, frames = VOC.open_stream(durations="given", first=1, chunk=1), random_frames(600)
    lengths = [len(stream.push(frames[i : i + 1])) // SPEC.hop for i in range(600)]
    ahead = CONFIG.reach.right
    assert lengths == [0] * ahead + [1] * (600 - ahead) and len(stream.finish()) == ahead * SPEC.hop
    assert len(stream._frames) <= CONFIG.reach.left + ahead + 1

    stream = VOC.open_stream(durations="predicted", look_ahead=0, first=1, chunk=1)
    assert len(stream.push([3])) > 0  # nothing is waited for, its duration neither


@pytest.mark.parametrize("durations", ["predicted", pytest.param("given", marks=pytest.mark.slow)])
@pytest.mark.thorough
def test_less_look_ahead_is_nearer_the_clip_the_more_there_is(durations: str) -> None:
    ids = make_units(random_frames(150)).ids
    units = Units(ids=ids, runs=np.ones(len(ids), np.int32), spec=SPEC)
    clip = VOC(units, durations=durations).samples
    errors = []
    for look_ahead in (2, 4, CONFIG.reach.right):
        sound = np.concatenate(
            [*VOC.stream(ids.tolist(), durations=durations, look_ahead=look_ahead, first=1, chunk=1)]
        )
        assert sound.shape == clip.shape
        errors.append(float(np.abs(sound - clip).mean() / np.abs(clip).mean()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-5 and errors[0] < 0.5


def test_streams_side_by_side_do_not_meet() -> None:
    ids = [random_frames(40, seed) for seed in (0, 1)]
    streams = [VOC.open_stream(durations="given", first=2, chunk=3) for _ in ids]
    sound: list[list[np.ndarray]] = [[], []]
    for at in range(0, 40, 5):
        for k, stream in enumerate(streams):
            sound[k].append(stream.push(ids[k][at : at + 5]))
    for k, stream in enumerate(streams):
        made = np.concatenate([*sound[k], stream.finish()])
        units = Units(ids=ids[k], runs=np.ones(40, np.int32), spec=SPEC)
        np.testing.assert_allclose(made, VOC(units, durations="given").samples, atol=1e-6)


def test_bad_pushes_are_named_and_take_nothing() -> None:
    stream = VOC.open_stream(durations="given")
    for ids, runs, word in (([1, 11], None, "11"), ([-1], None, "-1"), ([1.5], None, "whole"), ([1, 2], [1], "frames"),
                            ([1], [0], "1 or more"), ([[1]], None, "list")):  # fmt: skip
        with pytest.raises(BadInput, match=word):
            stream.push(ids, runs)
    assert len(stream.finish()) == 0
    with pytest.raises(BadInput, match="finished"):
        stream.push([1])
    with pytest.raises(BadInput, match="finished"):
        stream.finish()
    with pytest.raises(BadInput, match="runs"):
        VOC.open_stream(durations="predicted").push([1], [1])
    with pytest.raises(BadInput, match="look-ahead"):
        VOC.open_stream(durations="given", look_ahead=-1)
    with pytest.raises(BadInput, match="first sound's"):
        VOC.open_stream(durations="given", look_ahead=2, first_look_ahead=3)
    silent = Vocoder(Synthesizer(dataclasses.replace(CONFIG, dur_predictor_params=None)).fold(), SPEC, name="toy")
    with pytest.raises(BadInput, match="no duration predictor"):
        silent.open_stream(durations="predicted")


def test_bad_batches_are_refused_before_anything_is_spoken() -> None:
    good, other = make_units(random_frames(5)), dataclasses.replace(SPEC, layer=3)
    with pytest.raises(UnitSpecMismatch, match="layer"):
        VOC.batch([good, make_units(random_frames(5), other)], durations="given")
    with pytest.raises(BadInput, match="empty"):
        VOC.batch([good, make_units(random_frames(0))], durations="given")
    assert VOC.batch([], durations="given") == []


def test_moving_leaves_the_vocoder_where_it_is() -> None:
    assert VOC.on("cpu") is VOC
    moved = VOC.on("meta")
    assert moved.device.type == "meta" and VOC.device.type == "cpu" and moved.spec == VOC.spec
