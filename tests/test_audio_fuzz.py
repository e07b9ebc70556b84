"""Damaged sound files: a named error or a valid clip, whatever is broken (`runs/fuzz_audio.py` runs ten thousand)."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from twistlm.audio import clip as reading
from twistlm.audio import decoding, sndfile
from twistlm.audio.clip import Clip
from twistlm.errors import AudioError

SCRIPT = Path(__file__).parents[1] / "runs" / "fuzz_audio.py"


@pytest.mark.thorough
def test_two_hundred_damaged_files_are_refused_by_name_or_read_well() -> None:
    run = subprocess.run([sys.executable, SCRIPT, "--n", "200", "--seed", "1"], capture_output=True, text=True)
    report = json.loads(run.stdout)
    assert (run.returncode, report["wrong"]) == (0, {}), run.stderr
    assert sum(report["total"].values()) == 200
    assert report["total"]["refused"] > 50 and report["total"]["valid"] > 50
    assert report["by damage"]["whole"].keys() == {"valid"}
    assert report["by damage"]["zero length"].keys() == report["by damage"]["stump"].keys() == {"refused"}


@pytest.mark.parametrize("suffix", ["au", "snd", "mp3", "vox", "raw"])
def test_noise_is_no_sound_whatever_its_name_and_a_sound_is_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(bytes(range(1, 100)) * 100)
    with pytest.raises(AudioError, match=f"a.{suffix}: not a sound file"):
        reading.read(path)
    sf.write(path, np.full(1600, 0.1), 16_000, format="WAV")
    assert len(reading.read(path).samples) == 1600


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_a_rate_that_cannot_be_is_an_error(tmp_path: Path, rate: int) -> None:
    sf.write(tmp_path / "a.wav", np.zeros(1600), rate)
    for reader in (reading.read, decoding.info):
        with pytest.raises(AudioError, match=f"a.wav: the header declares a sample rate of {rate} Hz"):
            reader(tmp_path / "a.wav")


def test_memory_is_taken_for_what_is_there_not_for_what_the_header_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    sf.write(tmp_path / "a.flac", rng.uniform(-0.5, 0.5, 40_000), 16_000)
    whole = reading.read(tmp_path / "a.flac")
    monkeypatch.setattr(reading, "_TRUST", 1000)
    monkeypatch.setattr(sndfile, "_BLOCK", 700)
    assert np.array_equal(reading.read(tmp_path / "a.flac").samples, whole.samples)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[22:26] = b"\x0f\xff\xff\xff"  # STREAMINFO: 268 million samples, as few bytes could hold if they were silent
    (tmp_path / "a.flac").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(AudioError, match=r"a.flac: (truncated|not a sound file, or corrupt)"):
        reading.read(tmp_path / "a.flac")
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()
    data[21] |= 0x0F  # 64 thousand million: more than so few bytes can hold
    (tmp_path / "a.flac").write_bytes(data)
    with pytest.raises(AudioError, match="samples and cannot hold them"):
        decoding.info(tmp_path / "a.flac")


def test_an_opus_stream_whose_page_times_go_back_is_refused_and_not_filled_from_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.opus"
    Clip(np.random.default_rng(0).uniform(-0.5, 0.5, 48_000).astype(np.float32), 16_000).write(path)
    data = bytearray(path.read_bytes())
    pages = [at for at in range(len(data)) if data[at : at + 4] == b"OggS"]
    assert len(pages) > 4 and len(reading.read(path).samples) == 48_000
    data[pages[-2] + 11] ^= 0x08  # 2**43 samples later, as the file that was read in two ways of 10,000
    for damaged in (bytes(data), bytes(data) + b"OggS"):  # a page that is cut off ends the search
        path.write_bytes(damaged)
        for reader in (decoding.info, reading.read, lambda path: reading.decode(path.read_bytes(), name=path.name)):
            with pytest.raises(AudioError, match=r"a.opus: (the times of its Ogg pages go back|truncated)"):
                reader(path)


@pytest.mark.parametrize("suffix", [".ogg", ".opus"])
def test_streams_one_after_the_other_are_not_read_as_their_first(suffix: str, tmp_path: Path) -> None:
    parts = []
    for i in range(2):
        samples = np.random.default_rng(i).uniform(-0.5, 0.5, 32_000).astype(np.float32)
        Clip(samples, 16_000).write(tmp_path / f"{i}{suffix}")
        parts.append(bytearray((tmp_path / f"{i}{suffix}").read_bytes()))
    for second in parts:
        path = tmp_path / f"joined{suffix}"
        path.write_bytes(parts[0] + second)
        for reader in (decoding.info, reading.read, lambda path: reading.decode(path.read_bytes(), name=path.name)):
            with pytest.raises(AudioError, match=r"joined\.\w+: several Ogg streams one after the other"):
                reader(path)


def test_a_float_file_that_was_not_scaled_is_refused() -> None:
    sound = np.sin(np.arange(16_000)).astype(np.float32)
    reading.check(Clip(10 * sound, 16_000))  # 20 dB over full scale is a gain, 90 dB are integers
    with pytest.raises(AudioError, match=r"x: samples up to 32767, where full scale is 1"):
        reading.check(Clip(32767 * sound / np.abs(sound).max(), 16_000, id="x"))
