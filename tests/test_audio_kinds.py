"""Kinds of sound files beyond libsndfile's, headers that count wrong, and channels."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf

from twistlm.audio import ffmpeg, finding, flac, mpeg
from twistlm.audio.clip import Clip, decode, read
from twistlm.audio.decoding import info
from twistlm.audio.stream import blocks
from twistlm.audio.window import Window
from twistlm.errors import AudioError

RATE = 16_000


def voice(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Something a codec keeps: a slow sweep under a slow envelope, float32."""
    time = np.arange(int(seconds * rate)) / rate
    sweep = np.sin(2 * np.pi * (200 + seed) * time + 3 * np.sin(2 * np.pi * 0.7 * time))
    return (0.3 * sweep * (0.6 + 0.4 * np.sin(2 * np.pi * 1.3 * time))).astype(np.float32)


def by_ffmpeg(form: str, codec: str, channels: np.ndarray, rate: int) -> bytes:
    """Return a sound file that FFmpeg made of float32 [C, N]."""
    layout = "mono" if len(channels) == 1 else "stereo"
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 12_200 if codec.startswith("libopencore") else 64_000
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()


def by_libsndfile(samples: np.ndarray, form: str, subtype: str | None = None, rate: int = RATE) -> bytearray:
    file = io.BytesIO()
    sf.write(file, samples, rate, format=form, subtype=subtype)
    return bytearray(file.getvalue())


KINDS = [  # name, FFmpeg's container and codec, rate, seconds of what it may add at the end, whether times are exact
    ("a.m4a", "ipod", "aac", 44_100, 0.0),
    ("a.mp4", "mp4", "aac", 16_000, 0.0),
    ("a.aac", "adts", "aac", 44_100, 0.06),
    ("a.webm", "webm", "libopus", 48_000, 0.0),
    ("a.mka", "matroska", "flac", 44_100, 0.0),
    ("a.wma", "asf", "wmav2", 44_100, 0.06),
    ("a.amr", "amr", "libopencore_amrnb", 8_000, 0.03),
    ("a.3gp", "3gp", "aac", 16_000, 0.0),
    ("a.wv", "wv", "wavpack", 44_100, 0.0),
    ("a.tta", "tta", "tta", 44_100, 0.0),
]


@pytest.mark.parametrize("name, form, codec, rate, extra", KINDS)
def test_kinds_of_ffmpeg_are_read_as_those_of_libsndfile(tmp_path: Path, name, form, codec, rate, extra) -> None:
    path = tmp_path / name
    path.write_bytes(by_ffmpeg(form, codec, voice(1.5, rate)[None], rate))
    clip, own = read(path), read(path, sample_rate=None)
    assert own.sample_rate == rate and abs(own.seconds - 1.5) <= extra
    assert clip.sample_rate == RATE and clip.note == "" and abs(clip.seconds - own.seconds) < 1e-3
    assert np.array_equal(decode(path.read_bytes(), name=name).samples, clip.samples)
    assert np.array_equal(np.concatenate(list(blocks(path, sample_rate=RATE))), clip.samples)
    if name not in ("a.aac", "a.wma", "a.amr"):  # which begin with what their encoder needs to start
        assert np.corrcoef(clip.samples[:RATE], voice(1.0))[0, 1] > 0.95
    part = read(path, sample_rate=None, start=0.5, seconds=0.5)
    assert np.array_equal(part.samples, own.samples[rate // 2 : rate // 2 + len(part.samples)])
    assert len(part.samples) == rate // 2
    assert info(path)[1:3] == (rate, 1) and abs(info(path).seconds - own.seconds) < 0.05
    with pytest.raises(AudioError, match=r"is not there|truncated"):
        read(path, start=1.0, seconds=2.0)


@pytest.mark.parametrize(
    "form, codec", [("ipod", "aac"), ("matroska", "aac"), ("webm", "libopus"), ("matroska", "flac")]
)
def test_late_parts_are_sought_and_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch, form, codec) -> None:
    monkeypatch.setattr(ffmpeg, "_SEEK_SECONDS", 5.0)
    rate = 48_000 if codec == "libopus" else 44_100
    data = by_ffmpeg(form, codec, voice(10, rate)[None], rate)
    whole = decode(data, name="x", sample_rate=None)
    part = decode(data, name="x", sample_rate=None, start=7.3, seconds=1)
    first = round(7.3 * rate)
    assert np.abs(part.samples - whole.samples[first : first + rate]).max() < 1e-3


@pytest.mark.parametrize("name, form, codec, rate, extra", [KINDS[0], KINDS[2], KINDS[3], KINDS[4]])
def test_half_of_a_file_is_refused(tmp_path: Path, name, form, codec, rate, extra) -> None:
    data = by_ffmpeg(form, codec, voice(3.0, rate)[None], rate)
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match=rf"{name}: (truncated|not a sound file, or corrupt)"):
        read(tmp_path / name)


def test_pictures_alone_are_no_sound(tmp_path: Path) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for packet in [*stream.encode(av.VideoFrame(32, 32, "yuv420p")), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(AudioError, match="film: holds no sound"):
        decode(file.getvalue(), name="film")


def xing(data: bytearray, frames: int | None) -> bytes:
    """Return an mp3 with another count in its Xing frame, or without the frame."""
    at = data.index(b"Xing") if b"Xing" in data else data.index(b"Info")
    begin = data.rindex(b"\xff", 0, at)
    while mpeg._frame(int.from_bytes(data[begin : begin + 4], "big") >> 9)[0] == 0:
        begin = data.rindex(b"\xff", 0, begin)
    if frames is None:
        return bytes(data[:begin] + data[begin + mpeg._frame(int.from_bytes(data[begin : begin + 4], "big") >> 9)[0] :])
    return bytes(data[: at + 8] + frames.to_bytes(4, "big") + data[at + 12 :])


def changing(seconds: float) -> np.ndarray:
    """Sound whose bit rate varies: silence, then noise, then a tone."""
    noise = np.random.default_rng(0).normal(0, 0.1, int(seconds * RATE)).astype(np.float32)
    return np.concatenate([0.001 * noise, noise, voice(seconds)])


def test_mp3_is_read_whole_whatever_its_header_counts() -> None:
    whole = by_libsndfile(changing(2.0), "MP3")
    good = decode(bytes(whole), name="x")
    assert good.seconds == pytest.approx(6.0, abs=0.01) and good.note == ""
    fewer = decode(xing(whole, 20), name="x")
    assert fewer.seconds == pytest.approx(6.0, abs=0.1) and "wrong count of frames" in fewer.note
    late = len(fewer.samples) - len(good.samples)  # what the encoder put before, and nobody says any more
    assert 0 <= late < 2500
    fits = (np.corrcoef(fewer.samples[n : n + 90_000], good.samples[:90_000])[0, 1] for n in range(late + 1))
    assert max(fits) > 0.99
    for count in (0, None):
        assert decode(xing(whole, count), name="x").seconds == pytest.approx(6.0, abs=0.15)
    joined = decode(bytes(whole + by_libsndfile(voice(2.0), "MP3")), name="x")
    assert joined.seconds == pytest.approx(8.0, abs=0.25) and "several mp3 files joined" in joined.note
    with pytest.raises(AudioError, match="truncated"):
        decode(bytes(whole[: len(whole) // 2]), name="x")


def test_mp3_in_wav_is_read_whole() -> None:
    stream = xing(by_libsndfile(changing(2.0), "MP3"), None)
    size = struct.pack("<HHIIHHHIHHH", 0x55, 1, RATE, 4000, 1, 0, 12, 1, 2, 1, 1)
    chunks = b"fmt " + struct.pack("<I", len(size)) + size + b"fact" + struct.pack("<II", 4, 6 * RATE)
    chunks += b"data" + struct.pack("<I", len(stream)) + stream
    data = b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
    assert decode(data, name="x").seconds == pytest.approx(6.0, abs=0.15)


def test_flac_is_read_whole_whatever_its_header_counts() -> None:
    samples = voice(2.0)
    data = by_libsndfile(samples, "FLAC")
    assert flac.last_sample(Window(io.BytesIO(data))) == len(samples)
    good = decode(bytes(data), name="x")
    counts = int.from_bytes(data[18:26], "big") >> 36 << 36
    for n in (0, 5000):
        data[18:26] = (counts | n).to_bytes(8, "big")
        clip = decode(bytes(data), name="x")
        assert np.array_equal(clip.samples, good.samples)
        assert clip.note == ("" if n == 0 else "its header declares 0.31 s, all 2.00 s were read")
        part = decode(bytes(data), name="x", start=1.0, seconds=0.5)
        assert np.array_equal(part.samples, good.samples[RATE : RATE + RATE // 2])
        with pytest.raises(AudioError, match=r"truncated|corrupt"):
            decode(bytes(data[: len(data) * 2 // 3 + 7]), name="x")
    with pytest.raises(AudioError, match="several FLAC files joined"):
        decode(bytes(data * 2), name="x")


@pytest.mark.parametrize("form, at", [("WAV", 40), ("AU", 8)])
def test_what_a_killed_recorder_left_is_read_and_said(tmp_path: Path, form: str, at: int) -> None:
    data = by_libsndfile(voice(0.5), form, "PCM_16")
    whole = decode(bytes(data), name="x").samples
    data[at : at + 4] = bytes(4)
    if form == "WAV":
        data[4:8] = struct.pack("<I", 36)
    (tmp_path / "a").write_bytes(data)
    clip = read(tmp_path / "a")
    assert np.array_equal(clip.samples, whole) and "killed" in clip.note and "killed" in info(tmp_path / "a").note
    empty = by_libsndfile(voice(0), "WAV", "PCM_16")
    with pytest.raises(AudioError, match="empty"):
        decode(bytes(empty), name="x")


def test_one_channel_or_their_mean(tmp_path: Path) -> None:
    left, right = voice(0.5), voice(0.5, seed=77)
    sf.write(tmp_path / "a.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    (tmp_path / "a.m4a").write_bytes(by_ffmpeg("ipod", "alac", np.stack([left, right]), RATE))
    for name in ("a.wav", "a.m4a"):
        for channel, wanted in ((1, left), (2, right), (None, (left + right) / 2)):
            np.testing.assert_allclose(read(tmp_path / name, channel=channel).samples, wanted, atol=1e-4)
        for channel in (0, 3):
            with pytest.raises(AudioError, match=f"has 2 channels: there is no channel {channel}"):
                read(tmp_path / name, channel=channel)


def test_channels_that_cancel_are_named(tmp_path: Path) -> None:
    left = voice(0.5)
    sf.write(tmp_path / "a.wav", np.stack([left, -left], axis=1), RATE)
    with pytest.raises(AudioError, match=r"a.wav: the channels cancel: .* choose one with --channel"):
        read(tmp_path / "a.wav")
    assert np.abs(read(tmp_path / "a.wav", channel=2).samples).max() > 0.1
    for other in (np.zeros_like(left), -0.5 * left, voice(0.5, seed=50)):  # quieter, but not gone
        sf.write(tmp_path / "b.wav", np.stack([left, other], axis=1), RATE)
        read(tmp_path / "b.wav")
    sf.write(tmp_path / "b.wav", np.zeros((RATE, 2)), RATE)  # silence is for check
    read(tmp_path / "b.wav")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    for reader in (read, info):
        with pytest.raises(AudioError, match="no regular file"):
            reader(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="no regular file"):
        read("/dev/zero")


def test_one_rule_of_names(tmp_path: Path) -> None:
    for name in ("a.M4A", "b.ape", "c.txt", "._a.m4a", ".x/d.wav", "e.wave"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in finding.find_audio(tmp_path)] == ["a.M4A", "b.ape", "e.wave"]
    assert (
        finding.is_sound("a/b.WAV") and not finding.is_sound("a/._b.wav") and not finding.is_sound("__MACOSX/._b.wav")
    )


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_sound_that_cannot_be_written_whole_is_not_there(tmp_path: Path, monkeypatch, suffix: str) -> None:
    def full(self: Path, data: bytes) -> int:
        self.open("wb").write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Exception, match="the disk is full"):
        Clip(voice(0.5), RATE).write(tmp_path / f"a.{suffix}")
    assert not list(tmp_path.iterdir())


def test_what_the_decoder_prints_is_not_seen(capfd: pytest.CaptureFixture[str]) -> None:
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    sf.write(buffer, rng.uniform(-0.5, 0.5, 48_000).astype(np.float32), 16_000, format="MP3")
    data = bytearray(buffer.getvalue())
    middle = len(data) // 2
    data[middle : middle + 300] = rng.integers(0, 256, 300, dtype=np.uint8).tobytes()
    with sf.SoundFile(io.BytesIO(bytes(data))) as file:
        file.read()
    assert "Illegal Audio-MPEG-Header" in capfd.readouterr().err  # it does print
    decode(bytes(data), name="x")
    assert capfd.readouterr().err == ""
    with sf.SoundFile(io.BytesIO(bytes(data))) as file:
        file.read()
    assert capfd.readouterr().err  # and whoever asks libsndfile hears it again
