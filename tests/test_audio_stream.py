"""Sound in pieces: the samples of the whole file, whatever the pieces, in memory that does not grow with it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from twistlm.audio import clip as reading
from twistlm.audio import sndfile
from twistlm.audio.stream import blocks, regrouped, spans, survey
from twistlm.errors import AudioError, BadInput


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.7, 0.9, n).astype(np.float32)


def in_pieces(samples: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    return np.split(samples, sorted(min(cut, len(samples)) for cut in cuts))


@settings(deadline=None, max_examples=50)
@given(n=st.integers(0, 400), cuts=st.lists(st.integers(0, 400), max_size=8), size=st.integers(1, 150))
def test_regrouped_pieces_are_the_same_samples(n, cuts, size):
    samples = noise(n)
    pieces = list(regrouped(in_pieces(samples, cuts), size))
    assert [len(p) for p in pieces[:-1]] == [size] * (len(pieces) - 1)
    assert np.array_equal(np.concatenate([*pieces, samples[:0]]), samples)
    assert all(len(p) for p in pieces)


@settings(deadline=None, max_examples=50)
@given(
    n=st.integers(1, 400),
    cuts=st.lists(st.integers(0, 400), max_size=8),
    edges=st.lists(st.integers(0, 400), max_size=9),
)
def test_spans_are_slices(n, cuts, edges):
    samples = noise(n)
    edges = sorted(min(edge, n) for edge in edges)
    wanted = [*zip(edges, edges[2:], strict=False), *[(n // 2, n)][: not edges]]  # overlapping, with gaps, or one
    found = list(spans(in_pieces(samples, cuts), wanted, name="x"))
    assert len(found) == len(wanted)
    assert all(np.array_equal(f, samples[a:b]) for f, (a, b) in zip(found, wanted, strict=True))


def test_spans_name_a_sound_that_ended_early():
    with pytest.raises(AudioError, match=r"talk: ended after 90 samples where there were 100.*changed"):
        list(spans([noise(90)], [(0, 50), (40, 100)], name="talk"))


@settings(deadline=None, max_examples=5)
@given(cuts=st.lists(st.integers(0, 900_000), max_size=6), offset=st.floats(-10, 10))
def test_a_survey_does_not_depend_on_the_pieces(cuts, offset):
    samples = noise(600_000) + np.float32(offset)
    found = survey(in_pieces(samples, cuts))
    assert found == survey([samples])
    assert (found.n_samples, found.peak) == (600_000, np.abs(samples).max())
    assert found.mean == pytest.approx(samples.mean(dtype=np.float64), abs=1e-12)
    assert found.variance == pytest.approx(samples.var(dtype=np.float64), rel=1e-9)


@pytest.mark.parametrize(
    "name, rate, channels", [("a.wav", 16_000, 1), ("a.wav", 44_100, 2), ("a.flac", 8_000, 3), ("a.ogg", 48_000, 1)]
)
def test_blocks_are_what_read_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name, rate, channels):
    monkeypatch.setattr(sndfile, "_BLOCK", 1000)
    sf.write(tmp_path / name, noise(3 * rate + 77).repeat(channels).reshape(-1, channels), rate)
    whole = reading.read(tmp_path / name).samples
    pieces = list(blocks(tmp_path / name, sample_rate=16_000))
    assert len(pieces) > 3 and max(map(len, pieces)) < 5000
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)


@pytest.mark.parametrize(("rate", "seconds"), [(8_000, 31.11), (16_000, 9.3), (16_000, 0.4)])
def test_parts_of_vorbis_are_slices_of_the_whole(tmp_path: Path, rate: int, seconds: float):
    """libsndfile 1.2 seeks to a wrong place within a stream's last page."""
    sf.write(tmp_path / "a.ogg", noise(round(seconds * rate)), rate, format="OGG", subtype="VORBIS")
    whole, _ = sf.read(tmp_path / "a.ogg", dtype="float32")
    for behind in np.arange(0.05, min(seconds, 2.5), 0.05):
        first = len(whole) - round(behind * rate)
        part = np.concatenate(list(blocks(tmp_path / "a.ogg", sample_rate=rate, start=first / rate)))
        np.testing.assert_allclose(part, whole[first:], atol=1e-4)


def test_a_part_is_a_file_of_its_own(tmp_path: Path):
    samples = noise(5 * 22_050)
    sf.write(tmp_path / "a.wav", samples, 22_050, subtype="FLOAT")
    part = np.concatenate(list(blocks(tmp_path / "a.wav", sample_rate=16_000, start=1.5, seconds=2.25)))
    expected = soxr.resample(samples[33_075 : 33_075 + 49_613], 22_050, 16_000)  # 82687.5 is rounded up
    np.testing.assert_allclose(part, expected, atol=1e-6)
    rest = np.concatenate(list(blocks(tmp_path / "a.wav", sample_rate=22_050, start=4.0, seconds=1.05)))
    assert np.array_equal(rest, samples[4 * 22_050 :])  # 0.05 s behind the end is a rounded table
    for start, seconds in ((4.0, 1.2), (5.1, None)):
        with pytest.raises(AudioError, match=r"is not there: the file ends at 5.00 s"):
            list(blocks(tmp_path / "a.wav", sample_rate=16_000, start=start, seconds=seconds))
    for start, seconds in ((-1.0, None), (0.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(BadInput, match="a part needs a start"):
            list(blocks(tmp_path / "a.wav", sample_rate=16_000, start=start, seconds=seconds))


def test_broken_files_are_named(tmp_path: Path):
    samples = noise(48_000)
    sf.write(tmp_path / "cut.flac", samples, 16_000)
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    samples[40_000] = np.nan
    sf.write(tmp_path / "nan.wav", samples, 16_000, subtype="FLOAT")
    sf.write(tmp_path / "none.wav", samples[:0], 16_000)
    for name, message in (
        ("cut.flac", "truncated|corrupt"),
        ("nan.wav", "NaN"),
        ("none.wav", "empty"),
        ("no.wav", "no such file"),
    ):
        with pytest.raises(AudioError, match=rf"{name}.*({message})"):
            list(blocks(tmp_path / name, sample_rate=8_000))
    with pytest.raises(BadInput, match="positive"):
        list(blocks(tmp_path / "nan.wav", sample_rate=0))


def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    with sf.SoundFile(tmp_path / "long.wav", "w", 16_000, 2) as sound:
        for _ in range(10):
            sound.write(np.tile(noise(30 * 16_000)[:, None], 2))
    tracemalloc.start()
    found = survey(blocks(tmp_path / "long.wav", sample_rate=24_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.n_samples == 300 * 24_000
    assert peak < 14e6 < found.n_samples * 4
