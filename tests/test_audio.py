"""Sound files in and out: every format and rate, every way a file can be broken, and the length rule."""

from __future__ import annotations

import shutil
import struct
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
from hypothesis import given
from hypothesis import strategies as st

from twistlm.audio import clip as reading
from twistlm.audio import decoding, finding, sndfile
from twistlm.audio.clip import Clip
from twistlm.errors import AudioError

RATE = 16_000


def tone(seconds: float = 1.0, rate: int = RATE, hz: float = 440.0) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * hz * time)).astype(np.float32)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    n = min(len(a), len(b))
    return float(np.corrcoef(a[:n], b[:n])[0, 1])


@pytest.mark.parametrize(
    "name", ["a.wav", "a.flac", "vorbis.ogg", "opus.ogg", "a.mp3", "a.aiff", "a.caf", "a.w64", "a.au"]
)
@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_reads_every_format_at_every_rate(tmp_path: Path, name: str, rate: int) -> None:
    subtype = {"vorbis.ogg": "VORBIS", "opus.ogg": "OPUS"}.get(name)
    sf.write(tmp_path / name, tone(rate=rate), rate, subtype=subtype)
    clip = Clip.read(tmp_path / name)
    assert (clip.sample_rate, len(clip.samples), clip.samples.dtype) == (RATE, RATE, np.float32)
    assert clip.id == Path(name).stem
    assert correlation(clip.samples, tone()) > 0.98
    assert decoding.info(tmp_path / name) == (1.0, rate, 1, "")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.opus"])
def test_round_trip_keeps_rate_and_length(tmp_path: Path, name: str) -> None:
    Clip(tone(), RATE).write(tmp_path / name)
    back = Clip.read(tmp_path / name, sample_rate=None)
    assert (back.sample_rate, len(back.samples)) == (RATE, RATE)
    assert correlation(back.samples, tone()) > 0.98
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_block_wise_reading_equals_resampling_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sndfile, "_BLOCK", 1000)
    rng = np.random.default_rng(0)
    left, right = rng.uniform(-0.5, 0.5, (2, 44_101)).astype(np.float32)
    sf.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 44_100, subtype="FLOAT")
    clip = Clip.read(tmp_path / "a.wav")
    expected = soxr.resample((left + right) / 2, 44_100, RATE)
    np.testing.assert_allclose(clip.samples, expected, atol=1e-6)
    both = Clip.read(tmp_path / "a.wav", sample_rate=None)
    np.testing.assert_allclose(reading.resample(both, sample_rate=RATE).samples, expected, atol=1e-6)


def test_a_long_file_never_lies_in_memory_at_its_own_rate(tmp_path: Path) -> None:
    n = 48_000 * 120
    with sf.SoundFile(tmp_path / "long.wav", "w", 48_000, 2) as sound:
        for _ in range(120):
            sound.write(np.tile(tone(rate=48_000)[:, None], 2))
    tracemalloc.start()
    clip = Clip.read(tmp_path / "long.wav")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(clip.samples) == n // 3
    assert peak < clip.samples.nbytes + 12e6 < n * 2 * 4  # the result and a few blocks, not the 46 MB of the input


@given(st.integers(0, 200_000), st.sampled_from([8_000, 11_025, 12_345, 16_000, 22_050, 44_100, 48_000, 96_000]))
def test_length_rule_is_round_half_up(n: int, rate: int) -> None:
    exact = Fraction(n * RATE, rate)
    assert decoding.resampled_length(n, rate, RATE) == int(exact + Fraction(1, 2))


@pytest.mark.parametrize("rate", [8_000, 11_025, 12_345, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("n", [1, 2, 1601, 44_101])
def test_read_obeys_the_length_rule(tmp_path: Path, rate: int, n: int) -> None:
    sf.write(tmp_path / "a.wav", np.full(n, 0.1, dtype=np.float32), rate)
    if (expected := decoding.resampled_length(n, rate, RATE)) == 0:
        with pytest.raises(AudioError, match="empty"):
            Clip.read(tmp_path / "a.wav")
    else:
        assert len(Clip.read(tmp_path / "a.wav").samples) == expected


def test_seconds_to_samples_rounds_halves_up() -> None:
    assert [decoding.seconds_to_samples(s, 10) for s in (0, 0.04, 0.05, 0.25, 1.0)] == [0, 0, 1, 3, 10]


@pytest.mark.parametrize(
    "name", ["a.wav", "f.wav", "a.flac", "vorbis.ogg", "opus.ogg", "a.mp3", "a.aiff", "a.au", "a.w64"]
)
def test_truncated_file_is_an_error(tmp_path: Path, name: str) -> None:
    subtype = {"vorbis.ogg": "VORBIS", "opus.ogg": "OPUS", "f.wav": "FLOAT"}.get(name)
    sf.write(tmp_path / name, tone(3.0) + np.random.default_rng(0).normal(0, 0.05, 48_000), RATE, subtype=subtype)
    whole = (tmp_path / name).read_bytes()
    assert Clip.read(tmp_path / name).seconds == 3.0
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioError, match=rf"{name}.*(truncated|corrupt)"):
        Clip.read(tmp_path / name)


def test_wav_from_a_pipe_has_no_length_and_is_read_whole(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", tone(), RATE)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[40:44] = struct.pack("<I", 0x7FFFF000)
    (tmp_path / "a.wav").write_bytes(data)
    assert len(Clip.read(tmp_path / "a.wav").samples) == RATE


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".ogg", ".flac", ".raw"])
def test_text_named_like_sound_is_an_error(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"text{suffix}").write_text("this is not a sound\n" * 50)
    with pytest.raises(AudioError, match=f"text{suffix}"):
        Clip.read(tmp_path / f"text{suffix}")


def test_missing_empty_and_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such file"):
        Clip.read(tmp_path / "none.wav")
    (tmp_path / "zero.wav").touch()
    with pytest.raises(AudioError, match="empty"):
        Clip.read(tmp_path / "zero.wav")
    sf.write(tmp_path / "header.wav", np.zeros(0), RATE)
    with pytest.raises(AudioError, match="empty"):
        Clip.read(tmp_path / "header.wav")
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(AudioError, match="is a folder"):
        Clip.read(tmp_path / "folder.wav")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_errors(tmp_path: Path, bad: float) -> None:
    samples = tone()
    samples[777] = bad
    sf.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN or infinite"):
        Clip.read(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="NaN or infinite"):
        reading.check(Clip(samples, RATE))
    with pytest.raises(AudioError, match="NaN or infinite"):
        Clip(samples, RATE).write(tmp_path / "b.wav")
    assert not (tmp_path / "b.wav").exists()


def test_check_names_silent_and_short_clips() -> None:
    reading.check(Clip(tone(0.1), RATE))
    with pytest.raises(AudioError, match="x: silent"):
        reading.check(Clip(np.full(RATE, 5e-5, dtype=np.float32), RATE, id="x"))
    with pytest.raises(AudioError, match=r"too short: 0\.050 s, needs 0\.1 s"):
        reading.check(Clip(tone(0.05), RATE))


def test_samples_of_another_type_or_shape_are_refused() -> None:
    for samples in (
        (tone() * 32767).astype(np.int16), tone().astype(np.float64), np.stack([tone(), tone()], axis=1),
        tone().tolist(), np.float32(0.5),
    ):  # fmt: skip
        with pytest.raises(AudioError, match=r"^a: samples are float32 \[N\] in -1 … 1, not"):
            Clip(samples, RATE, id="a")
    assert Clip(tone()[::2], RATE // 2).seconds == Clip(tone(), RATE).seconds
    with pytest.raises(AudioError, match="silent"):
        reading.check(Clip(np.zeros(0, dtype=np.float32), RATE), min_seconds=0)


def test_write_refuses_what_it_cannot_do_and_clips_what_is_loud(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="Opus has no 22050 Hz"):
        Clip(tone(rate=22_050), 22_050).write(tmp_path / "a.ogg")
    with pytest.raises(AudioError, match=r"cannot write \.mp3"):
        Clip(tone(), RATE).write(tmp_path / "a.mp3")
    with pytest.raises(AudioError, match="no samples"):
        Clip(np.zeros(0, dtype=np.float32), RATE).write(tmp_path / "a.wav")
    assert not list(tmp_path.iterdir())
    loud = 4 * tone()
    Clip(loud, RATE).write(tmp_path / "a.wav")
    np.testing.assert_allclose(Clip.read(tmp_path / "a.wav").samples, np.clip(loud, -1, 1), atol=1e-4)


def test_find_audio_is_sorted_recursive_and_survives_link_loops(tmp_path: Path) -> None:
    for name in ("b/2.FLAC", "b/1.wav", "a.ogg", "b/notes.txt", ".hidden/x.wav", "b/.tmp.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert [str(p.relative_to(tmp_path)) for p in finding.find_audio(tmp_path)] == ["a.ogg", "b/1.wav", "b/2.FLAC"]
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "a.ogg").unlink()
    with pytest.raises(AudioError, match="no sound files"):
        finding.find_audio(tmp_path)
    with pytest.raises(AudioError, match="no such folder"):
        finding.find_audio(tmp_path / "none")
