"""Cutting by voice activity: every file once, whatever was interrupted, and the clips are those parts of the files."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from filelock import FileLock

from standins import babble
from test_cli import twist  # noqa: F401  a fixture
from tokenizer_standins import FakeTokenizer, by_id
from twistlm.audio.clip import Clip
from twistlm.corpus import cuts, manifest
from twistlm.corpus.cuts import cut_by_voice
from twistlm.corpus.manifest import Entry
from twistlm.corpus.tokenize import tokenize
from twistlm.errors import AudioError, BadInput, TwistError
from twistlm.files.artifacts import bundled

FOUND = {"a": [(0.0, 2.5), (3.1, 4.0)], "b": [], "c": [(1.25, 2.0)], "d": [(0.5, 1.0)]}


@pytest.fixture
def speech(tmp_path: Path) -> list[Entry]:
    entries = []
    for i, name in enumerate(FOUND):
        sf.write(tmp_path / f"{name}.wav", babble(8.0, seed=i), 16_000)
        entries.append(Entry(id=name, path=tmp_path / f"{name}.wav", speaker=name.upper(), split="dev", text="words"))
    return entries


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def fake(path: Path, *, max_seconds: float, channel: int | None = None) -> list[tuple[float, float]]:
        names.append(path.stem)
        if not path.is_file() or path.stat().st_size < 100:
            raise AudioError(f"{path}: broken")
        return FOUND[path.stem]

    monkeypatch.setattr(cuts, "speech_segments", fake)
    return names


def test_files_become_their_stretches_of_speech(speech, heard, tmp_path: Path):
    speech[3].path.write_text("no sound")
    found = cut_by_voice(speech, tmp_path / "cuts.jsonl", max_seconds=5)
    assert [e.id for e in found.entries] == ["a@0.000-2.500", "a@3.100-7.100", "c@1.250-3.250", "d"]
    assert found.entries[1] == Entry(
        id="a@3.100-7.100", path=speech[0].path, speaker="A", split="dev", start=3.1, seconds=4.0
    )
    assert found.silent == ("b",) and found.entries[3] == speech[3]
    assert len(found.unreadable) == 1 and "d.wav: broken" in found.unreadable[0]

    manifest.write(found.entries, tmp_path / "m.jsonl")
    assert manifest.read(tmp_path / "m.jsonl") == list(found.entries)
    report = tokenize(tmp_path / "m.jsonl", tmp_path / "units", FakeTokenizer(), max_failures=0.5)
    assert report.n_done == 3 and [f.id for f in report.failures] == ["d"]
    samples = Clip.read(speech[0].path).samples[49_600 : 49_600 + 64_000]
    assert by_id(tmp_path / "units")["a@3.100-7.100"] == FakeTokenizer()(Clip(samples, 16_000)).ids.tolist()


def test_a_rerun_cuts_only_what_is_missing_or_changed(speech, heard, tmp_path: Path, monkeypatch):
    journal = tmp_path / "cuts.jsonl"
    first = cut_by_voice(speech[:2], journal, max_seconds=5)
    assert cut_by_voice(speech, journal, max_seconds=5).entries[:2] == first.entries
    assert sorted(heard) == ["a", "b", "c", "d"]
    everything = cut_by_voice(speech, journal, max_seconds=5)
    assert len(heard) == 4

    text = journal.read_text()
    journal.write_text(text[:-7])  # a kill in the middle of the last line
    assert cut_by_voice(speech, journal, max_seconds=5) == everything
    assert heard[4:] == ["d"] and journal.read_text() == text

    os.utime(speech[2].path, ns=(1, 1))
    assert cut_by_voice(speech, journal, max_seconds=5) == everything
    assert heard[5:] == ["c"]
    cut_by_voice(speech, journal, max_seconds=6)
    monkeypatch.setattr(cuts, "VERSION", 1000)
    cut_by_voice(speech, journal, max_seconds=6)
    assert len(heard) == 6 + 4 + 4


def test_an_interrupted_run_keeps_what_is_done(speech, heard, tmp_path: Path, monkeypatch):
    real = cuts.speech_segments

    def interrupted(path: Path, *, max_seconds: float, channel: int | None = None) -> list[tuple[float, float]]:
        if path.stem == "c":
            raise KeyboardInterrupt
        return real(path, max_seconds=max_seconds)

    monkeypatch.setattr(cuts, "speech_segments", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cut_by_voice(speech, tmp_path / "cuts.jsonl", max_seconds=5)
    done = [json.loads(line)[2] for line in (tmp_path / "cuts.jsonl").read_text().splitlines()]
    assert [key.partition("\x1f")[0] for key in done] == ["a", "b"] and done[0].endswith("/a.wav")


def test_what_cannot_be_cut_is_refused(speech, heard, tmp_path: Path):
    part = Entry(id="part", path=speech[0].path, start=0.0, seconds=1.0)
    with pytest.raises(BadInput, match="parts of files, and only whole files are cut: part"):
        cut_by_voice([*speech, part], tmp_path / "cuts.jsonl", max_seconds=5)
    with pytest.raises(BadInput, match="nobody speaks in any of the 1 files: b"):
        cut_by_voice([speech[1]], tmp_path / "cuts.jsonl", max_seconds=5)
    (tmp_path / "bad.jsonl").write_text("{\n[]\n")
    with pytest.raises(BadInput, match=r"bad\.jsonl, line 1: not JSON"):
        cut_by_voice(speech, tmp_path / "bad.jsonl", max_seconds=5)
    parts = [part, *cut_by_voice(speech, tmp_path / "cuts.jsonl", max_seconds=5).entries]
    whole = [part, *(dataclasses.replace(speech[i], text="") for i in (0, 2, 3))]
    assert cuts.whole_again(parts) == whole  # nobody speaks in speech[1]
    (tmp_path / "m.jsonl").write_text('{"id": "a", "path": "a.wav", "start": 2}\n')
    with pytest.raises(BadInput, match=r"line 1: .*a '?start"):
        manifest.read(tmp_path / "m.jsonl")


def test_the_verb(twist, tmp_path: Path):  # noqa: F811
    folder = tmp_path / "speech" / "reader"
    folder.mkdir(parents=True)
    clips = [Clip.read(entry.path).samples for entry in manifest.build(bundled("speech"))[:2]]
    pause = np.zeros(40_000, np.float32)
    sf.write(folder / "talk.wav", np.concatenate([pause, clips[0], pause, clips[1]]), 16_000)
    sf.write(folder / "hush.wav", np.zeros(80_000), 16_000)
    (folder / "torn.wav").write_text("no sound")
    out = tmp_path / "m.jsonl"
    made = twist("manifest", tmp_path / "speech", "--out", out, "--vad", "--max-seconds", 30, "--json").json
    assert (made["files"], made["clips"], made["silent"]) == (3, 3, ["reader/hush.wav"])
    assert "torn.wav" in made["unreadable"][0]
    entries = manifest.read(out)
    assert [e.id.partition("@")[0] for e in entries] == ["reader/talk.wav"] * 2 + ["reader/torn.wav"]
    assert entries[0].start > 1.5 and entries[1].start > entries[0].start + entries[0].seconds
    again = twist("manifest", tmp_path / "speech", "--out", out, "--vad", "--max-seconds", 30)
    assert "3 clips" in again.out and "nobody speaks in reader/hush.wav" in again.out and "torn.wav" in again.out
    twist("manifest", tmp_path / "speech", "--out", out, "--vad", "--max-seconds", 1).refused("at least 2 s")
    twist("manifest", tmp_path / "speech", "--out", out, "--max-seconds", 9).refused("--max-seconds says nothing")
    own = tmp_path / "speech" / manifest.NAME  # where the folder's own is looked for
    for longest in (30, 30, 5):
        twist("manifest", tmp_path / "speech", "--out", own, "--vad", "--max-seconds", longest)
        listed = manifest.read(own)
        assert [e.id for e in listed] == [e.id for e in entries] or longest == 5
    assert len(listed) > len(entries) and max(e.seconds or 0 for e in listed) <= 5


def test_two_processes_do_not_share_a_journal(tmp_path: Path, speech: list[Entry], heard: list[str]) -> None:
    with (
        FileLock(tmp_path / ".j.jsonl.lock"),
        pytest.raises(TwistError, match=r"j\.jsonl: another process is cutting by voice activity here"),
    ):
        cut_by_voice(speech, tmp_path / "j.jsonl", max_seconds=30)
    assert not heard and cut_by_voice(speech, tmp_path / "j.jsonl", max_seconds=30).entries
