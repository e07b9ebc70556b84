"""Files of any length: streamed units equal those of the clip read whole, and a killed run leaves no part of a file."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from encoders import LAYERS, encoder_state, stand_in
from forking import fork
from standins import Tiny
from test_units_batch import PHASED, sound, tokenizer
from tokenizer_standins import FakeTokenizer, Streamer, by_id
from twistlm.audio import stream as stream_module
from twistlm.audio.clip import Clip
from twistlm.corpus import cutting
from twistlm.corpus.manifest import Entry
from twistlm.corpus.shards import read_facts, shard_paths
from twistlm.corpus.tokenize import tokenize
from twistlm.errors import AudioError, TwistError
from twistlm.units import encoder as encoder_module
from twistlm.units.kmeans import Codebook
from twistlm.units.pretrained import build
from twistlm.units.tokenizer import SpeechTokenizer


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "WINDOW_SECONDS", 1)
    monkeypatch.setattr(encoder_module, "CONTEXT_SECONDS", 1)
    monkeypatch.setattr(stream_module, "BLOCK", 10_000)


@pytest.mark.parametrize(
    "name", ["hubert-base", "hubert-large", "mhubert-25hz", PHASED, "whisper"]
)  # large: normalised input
def test_streamed_units_are_those_of_the_whole_clip(tmp_path: Path, small_windows, name: str):
    tok = tokenizer(name)
    for seconds in (0.3, 3.02, 5.37):
        sf.write(tmp_path / "a.wav", sound(seconds, 5), 16_000, subtype="FLOAT")
        clip = Clip.read(tmp_path / "a.wav")
        streamed, whole = tok.stream(tmp_path / "a.wav"), tok(clip)
        assert np.array_equal(streamed.frames, whole.frames)
        assert len(streamed.frames) == tok.encoder.n_frames(len(clip.samples))
        assert (streamed.ids[1:] != streamed.ids[:-1]).all()  # runs go on across seams
        assert streamed.id == "a" and streamed.spec == tok.spec
        assert [np.array_equal(u.frames, whole.frames) for u in tok.batch([clip] * 3)] == [True] * 3
    assert len(tok.encoder.windows(len(clip.samples))) > 2
    assert len(np.unique(whole.frames)) > 3


def test_a_part_of_a_file_is_streamed_as_that_clip(tmp_path: Path, small_windows):
    tok, samples = tokenizer("hubert-base"), sound(6.0, 5)
    sf.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    part = tok.stream(tmp_path / "a.wav", start=0.5, seconds=4.25)
    assert np.array_equal(part.frames, tok(Clip(samples[8000:76_000], 16_000)).frames)


def test_normalised_input_is_scaled_by_the_whole_clip(small_windows):
    """The scale is the clip's, not the window's: as an encoder without scaling hears the clip scaled beforehand."""
    model, fields = stand_in("hubert-large")
    encoder = build(fields, encoder_state(model), layer=LAYERS, normalize_input=True, where="")
    plain = dataclasses.replace(encoder, normalize_input=False)
    loud = np.concatenate([0.02 * sound(2.5, 1), sound(2.5, 2) + np.float32(0.1)])  # its windows differ in level
    scaled = ((loud - loud.mean(dtype=np.float64)) / np.sqrt(loud.var(dtype=np.float64) + 1e-7)).astype(np.float32)
    np.testing.assert_allclose(encoder(loud), plain(scaled), atol=1e-4)
    assert np.abs(plain(loud) - plain(scaled)).max() > 1e-2


@pytest.mark.thorough
def test_at_the_true_window(tmp_path: Path, tiny: Tiny):
    tok = SpeechTokenizer.load(tiny.tokenizer)
    sf.write(tmp_path / "a.flac", sound(71.0, 3), 16_000)
    streamed = tok.stream(tmp_path / "a.flac")
    assert len(tok.encoder.windows(71 * 16_000)) == 3
    assert np.array_equal(streamed.frames, tok(Clip.read(tmp_path / "a.flac")).frames)


def test_features_are_let_go_with_their_window(tmp_path: Path):
    """However long the file, no more than a window of it is held: an encoder that counts what is alive."""

    class Counted:
        sample_rate, hop, dim, longest = 16_000, 160, 1, 0

        def n_frames(self, n: int) -> int:
            return n // 160

        def windows(self, n: int) -> list[encoder_module.Window]:
            steps = range(0, n - n % 160, 16_000)
            return [encoder_module.Window(a, min(a + 16_000, n - n % 160), slice(None)) for a in steps]

        def encode_window(self, samples, *, clip):
            self.longest = max(self.longest, len(samples if samples.base is None else samples.base))
            return np.abs(samples).reshape(-1, 160).mean(1, keepdims=True)

    with sf.SoundFile(tmp_path / "a.wav", "w", 16_000, 1) as file:
        for i in range(30):
            file.write(sound(10.0, 1) * (i + 1) / 30)
    encoder = Counted()
    spec = dataclasses.replace(FakeTokenizer().spec, hop=160, n_units=2)
    tok = SpeechTokenizer(encoder, Codebook(np.array([[0.0], [0.1]], np.float32)), spec)
    assert len(tok.stream(tmp_path / "a.wav").frames) == 30_000
    assert encoder.longest <= 16_000 + 2 * stream_module.BLOCK < 300 * 16_000


def test_bad_files_are_named_before_anything_is_encoded(tmp_path: Path):
    tok = tokenizer("hubert-base")
    sf.write(tmp_path / "silent.wav", np.zeros(50_000), 16_000)
    sf.write(tmp_path / "short.wav", np.full(800, 0.3), 16_000)
    for name, message in (("silent", "silent"), ("short", "too short"), ("none", "no such file")):
        with pytest.raises(AudioError, match=rf"{name}\.wav: .*{message}"):
            tok.stream(tmp_path / f"{name}.wav")


@pytest.fixture
def speech(tmp_path: Path) -> list[Entry]:
    (tmp_path / "speech").mkdir()
    entries = []
    for name, seconds in (("a", 0.5), ("b", 0.5), ("long", 3.0), ("z", 0.5)):
        path = tmp_path / "speech" / f"{name}.wav"
        sf.write(path, sound(seconds, len(entries)), 16_000)
        entries.append(Entry(id=path.name, path=path))
    return entries


def test_tokenize_streams_what_is_long_and_stores_the_same(speech, tmp_path: Path, monkeypatch):
    cuts = [
        Entry(id="long.wav@0-1.5", path=speech[2].path, start=0.0, seconds=1.5),
        Entry(id="long.wav@1.5-2", path=speech[2].path, start=1.5, seconds=0.5),
    ]
    tokenize([*speech, *cuts], tmp_path / "whole", FakeTokenizer())
    monkeypatch.setattr(cutting, "STREAM_SECONDS", 1)
    tok = Streamer()
    tokenize([*speech, *cuts], tmp_path / "streamed", tok)
    assert tok.streamed == ["long.wav", "long.wav"]
    assert by_id(tmp_path / "streamed") == by_id(tmp_path / "whole")
    for one, other in zip(read_facts(tmp_path / "whole"), read_facts(tmp_path / "streamed"), strict=True):
        assert one == other
    whole = by_id(tmp_path / "whole")
    assert len(whole["long.wav@1.5-2"]) == 12 and whole["long.wav@0-1.5"] == whole["long.wav"][:37]

    lost = [Entry(id="lost", path=speech[0].path, start=2.0, seconds=1.0)]
    with pytest.raises(TwistError, match="the part from 2 s to 3 s is not there"):
        tokenize(lost, tmp_path / "lost", tok)


def test_a_killed_run_begins_a_long_file_again_and_leaves_no_part_of_it(speech, tmp_path: Path):
    out, mark = tmp_path / "units", tmp_path / "in-the-middle"

    def killed() -> None:
        cutting.STREAM_SECONDS = 1
        tokenize(tmp_path / "speech", out, Streamer(mark), shard_clips=1)

    child = fork(killed)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (mark.exists() and len(shard_paths(out)) == 2):
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert mark.exists() and [fact["id"] for fact in read_facts(out)] == ["a.wav", "b.wav"]
    tok = Streamer()
    report = tokenize(tmp_path / "speech", out, tok, shard_clips=1)
    assert (report.n_done, report.n_skipped) == (2, 2) and sorted(by_id(out)) == [e.id for e in speech]
    assert tokenize(tmp_path / "speech", out, tok).n_done == 0
