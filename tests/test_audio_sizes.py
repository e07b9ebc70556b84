"""Headers that do not tell the truth of how much sound there is, and parts of sounds that cannot simply be sought."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from standins import babble
from twistlm.audio import flac
from twistlm.audio.clip import Clip
from twistlm.audio.decoding import info
from twistlm.audio.stream import blocks
from twistlm.audio.window import Window
from twistlm.errors import AudioError

RATE = 16_000
SOUND = babble(3.0, seed=5)


def encoded(form: str, subtype: str, sound: np.ndarray = SOUND, rate: int = RATE) -> bytearray:
    out = io.BytesIO()
    sf.write(out, sound, rate, format=form, subtype=subtype)
    return bytearray(out.getvalue())


def test_sizes_that_are_too_small_are_not_believed(tmp_path: Path) -> None:
    data = encoded("WAV", "PCM_16")
    one = 2 * RATE  # bytes of a second
    data[4:8], data[40:44] = struct.pack("<I", 36 + one), struct.pack("<I", one)
    (tmp_path / "stale.wav").write_bytes(data)
    seconds, *_, note = info(tmp_path / "stale.wav")
    assert seconds == 3.0 and "less sound than follows" in note
    assert np.array_equal(Clip.read(tmp_path / "stale.wav").samples, Clip.read(written(tmp_path, "a.wav")).samples)
    for behind in (b"LIST" + struct.pack("<I", 2 * one) + bytes(range(256)) * 260, bytes(2 * one)):  # a chunk; padding
        (tmp_path / "fine.wav").write_bytes(bytes(data[: 44 + one]) + behind)
        assert info(tmp_path / "fine.wav")[0] == 1.0


def part_of(path: Path, start: float, seconds: float) -> np.ndarray:
    return np.concatenate(list(blocks(path, sample_rate=RATE, start=start, seconds=seconds)))


def written(folder: Path, name: str) -> Path:
    sf.write(folder / name, SOUND, RATE)
    return folder / name


@pytest.mark.parametrize(("form", "subtype"), [("NIST", "PCM_16"), ("NIST", "ULAW"), ("RF64", "PCM_16")])
def test_half_a_file_is_truncated(form: str, subtype: str, tmp_path: Path) -> None:
    data = encoded(form, subtype)
    (tmp_path / "whole").write_bytes(data)
    assert info(tmp_path / "whole")[0] == pytest.approx(3.0)
    (tmp_path / "half").write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match="truncated"):
        info(tmp_path / "half")


def test_a_length_of_two_gigabytes_is_one_and_a_sample_that_is_missing_is_not_many(tmp_path: Path) -> None:
    data = encoded("WAV", "PCM_16")
    (tmp_path / "short.wav").write_bytes(data[:-2])
    assert len(Clip.read(tmp_path / "short.wav").samples) == len(SOUND) - 1
    data[4:8], data[40:44] = struct.pack("<I", 3_000_000_036), struct.pack("<I", 3_000_000_000)
    (tmp_path / "cut.wav").write_bytes(data)
    with pytest.raises(AudioError, match="truncated"):
        info(tmp_path / "cut.wav")
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"  # from a pipe
    (tmp_path / "piped.wav").write_bytes(data)
    assert info(tmp_path / "piped.wav")[0] == 3.0


def test_a_part_at_the_very_end_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"the part from 3 s to 4 s is not there: the file ends at 3\.00 s"):
        part_of(written(tmp_path, "a.wav"), 3.0, 1.0)


@pytest.mark.parametrize(("form", "subtype"), [("WAV", "GSM610"), ("AIFF", "GSM610"), ("MP3", "MPEG_LAYER_III")])
def test_parts_are_those_of_the_whole_where_there_is_no_seeking(form: str, subtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    loud = (0.3 * rng.standard_normal(8 * RATE) * np.repeat(rng.uniform(0, 1, 80), RATE // 10)).astype(np.float32)
    (tmp_path / "x").write_bytes(encoded(form, subtype, loud))
    whole = Clip.read(tmp_path / "x").samples
    for start in (0.5, 3.25, 7.0):
        part = part_of(tmp_path / "x", start, 0.75)
        np.testing.assert_allclose(part, whole[round(start * RATE) :][: len(part)], atol=2e-4)


def test_a_tag_before_a_flac_file_is_no_file(tmp_path: Path) -> None:
    data = bytes(encoded("FLAC", "PCM_16"))
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 1, 0]) + bytes(128)
    (tmp_path / "tagged.flac").write_bytes(tag + data)
    assert len(Clip.read(tmp_path / "tagged.flac").samples) == len(SOUND)
    assert flac.last_sample(Window(io.BytesIO(tag + data))) == len(SOUND)
    (tmp_path / "joined.flac").write_bytes(tag + data + data)
    with pytest.raises(AudioError, match="several FLAC files joined"):
        info(tmp_path / "joined.flac")


def test_the_last_frame_is_one_whose_sum_is_right(tmp_path: Path) -> None:
    data = bytes(encoded("FLAC", "PCM_16"))
    last = flac.last_sample(Window(io.BytesIO(data)))
    assert last == len(SOUND) == flac.last_sample(Window(io.BytesIO(data + b"TAG" + bytes(125))))
    # Bytes in a frame's sound that look like a header: of another rate, or with a sum that is wrong.
    head = bytearray(b"\xff\xf8\x69\x08\x01")
    head.append(flac._crc8(bytes(head)))
    inside = data[:-30] + bytes(head) + data[-30 + len(head) :]
    assert flac._frame(bytes(head) + bytes(10), 4096) is not None
    assert flac.last_sample(Window(io.BytesIO(inside))) != 4096 * 2


@pytest.mark.parametrize("kind", ["au", "caf"])
def test_joined_files_of_which_the_first_alone_is_read_are_told(kind: str, tmp_path: Path) -> None:
    sf.write(tmp_path / f"one.{kind}", np.full(8_000, 0.1), 16_000)
    data = (tmp_path / f"one.{kind}").read_bytes()
    (tmp_path / f"two.{kind}").write_bytes(data + data)
    assert info(tmp_path / f"one.{kind}").seconds == 0.5
    with pytest.raises(AudioError, match=f"several {kind.upper()} files joined"):
        info(tmp_path / f"two.{kind}")
