"""Voice activity: silero's model in blocks is silero's model, and segments are bounded, in order and at pauses."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import faster_whisper.vad
import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from standins import babble
from twistlm.audio import vad
from twistlm.audio.clip import read
from twistlm.audio.vad import CHUNK, RATE, segments, speech_probabilities, speech_segments
from twistlm.corpus import manifest
from twistlm.errors import AudioError, BadInput
from twistlm.files.artifacts import bundled


def walk(seed: int, n: int) -> np.ndarray:
    """Probabilities that stay high and low for a while, as those of speech do: float32 [n]."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.choice([0.02, 0.3, 0.42, 0.7, 0.98], n), rng.integers(1, 120, n))[:n]
    return np.clip(level + 0.1 * rng.standard_normal(n), 0, 1).astype(np.float32)


@pytest.mark.parametrize("n", [100_000, 512 * 130, 1])
def test_blocks_give_the_probabilities_of_the_whole(monkeypatch: pytest.MonkeyPatch, n: int):
    samples = babble(7.0, seed=1)[:n]
    padded = np.pad(samples, (0, -n % CHUNK))
    padded[-64:] = 0  # which the library does
    expected = faster_whisper.vad.get_vad_model()(padded.copy()).reshape(-1)
    monkeypatch.setattr(vad, "BLOCK", 16 * CHUNK)
    found, counted = speech_probabilities(np.array_split(samples, 7))
    assert counted == n and found.dtype == np.float32 and len(found) == -(-n // CHUNK)
    np.testing.assert_allclose(found[:-1], expected[:-1], atol=1e-5)


def test_no_sound_has_no_probabilities():
    assert len(speech_probabilities([])[0]) == 0 and segments(np.zeros(0, np.float32), n_samples=0, max_seconds=5) == []


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**20), n=st.integers(1, 2500), last=st.integers(1, CHUNK))
def test_unbounded_segments_are_those_of_faster_whisper(seed, n, last):
    n_samples = (n - 1) * CHUNK + last
    probabilities = walk(seed, n)
    options = faster_whisper.vad.VadOptions(min_speech_duration_ms=250)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faster_whisper.vad, "get_vad_model", lambda: lambda audio: probabilities)
        expected = faster_whisper.vad.get_speech_timestamps(np.zeros(n_samples, np.float32), options)
    found = segments(probabilities, n_samples=n_samples, max_seconds=1e6)
    assert found == [(s["start"], s["end"]) for s in expected]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**20), n=st.integers(1, 2500), max_seconds=st.floats(2, 40))
def test_bounded_segments_cover_the_same_speech_and_are_cut_where_it_is_quietest(seed, n, max_seconds):
    probabilities = walk(seed, n)
    free = segments(probabilities, n_samples=n * CHUNK, max_seconds=1e6)
    bounded = segments(probabilities, n_samples=n * CHUNK, max_seconds=max_seconds)
    assert all(0 < stop - start <= max_seconds * RATE for start, stop in bounded)
    assert all(a[1] <= b[0] for a, b in pairwise(bounded))
    starts, stops = ({edge for edge, _ in free}, {edge for _, edge in free})
    assert starts <= {start for start, _ in bounded} and stops <= {stop for _, stop in bounded}
    assert sum(b - a for a, b in bounded) == sum(b - a for a, b in free)  # so nothing but cuts was added
    cut = [(a, b) for a, b in pairwise(bounded) if b[0] not in starts]
    limit = int(max_seconds * RATE)
    for (start, at), (_, stop) in cut:
        end = next(b for a, b in free if a <= at < b)
        assert stop - at >= limit // 4 - CHUNK or stop < end

        def loudness(chunk: int) -> float:
            near = np.clip(np.arange(chunk - 4, chunk + 5), 0, n - 1)
            return float(probabilities[near].mean(dtype=np.float64))

        allowed = range(-(-(start + limit // 2) // CHUNK), min(start + limit, end - limit // 4) // CHUNK + 1)
        assert at // CHUNK in allowed
        assert loudness(at // CHUNK) <= min(loudness(c) for c in allowed) + 1e-6


def test_real_speech_is_found_between_silences(tmp_path: Path):
    entries = manifest.build(bundled("speech"))[:3]
    parts, places, at = [np.zeros(3 * RATE, np.float32)], [], 3.0
    for entry in entries:
        clip = read(entry.path)
        places.append((at, at + clip.seconds))
        parts += [clip.samples, np.zeros(3 * RATE, np.float32)]
        at += clip.seconds + 3
    sf.write(tmp_path / "talk.flac", np.concatenate(parts), RATE)
    found = speech_segments(tmp_path / "talk.flac", max_seconds=30)
    assert len(found) == 3
    for (start, seconds), (first, last) in zip(found, places, strict=True):
        assert first - 0.5 < start < first + 0.5 and last - 0.8 < start + seconds < last + 0.8
    shorter = speech_segments(tmp_path / "talk.flac", max_seconds=2)
    assert len(shorter) > 3 and max(s for _, s in shorter) <= 2
    assert sum(s for _, s in shorter) == pytest.approx(sum(s for _, s in found), abs=0.01)
    assert all(round(x, 3) == x for pair in shorter for x in pair)


def test_what_cannot_be_cut_is_named(tmp_path: Path):
    sf.write(tmp_path / "silence.wav", np.zeros(40_000), 8_000)
    assert speech_segments(tmp_path / "silence.wav", max_seconds=30) == []
    for bad in (1.9, float("inf"), float("nan"), -1):
        with pytest.raises(BadInput, match="at least 2 s"):
            speech_segments(tmp_path / "silence.wav", max_seconds=bad)
    with pytest.raises(AudioError, match="no such file"):
        speech_segments(tmp_path / "none.wav", max_seconds=30)


@pytest.mark.slow
def test_nothing_is_written_down_for_upload(tmp_path: Path):
    """onnxruntime 1.32 keeps a device id and events in the home and temporary folders unless told not to."""
    (tmp_path / "tmp").mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    code = "import numpy, twistlm; from twistlm.audio.vad import speech_probabilities as f; f([numpy.zeros(9999, 'f')])"
    subprocess.run(
        [sys.executable, "-c", code], env={**env, "HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}, check=True
    )
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
