"""Layouts that are unusual and right: blanks in a header, linked folders, sides of a call, cuts of odd types."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tokenizer_standins import sound
from twistlm.corpus import manifest
from twistlm.corpus.readers import read_corpus
from twistlm.corpus.slamkit import import_units
from twistlm.corpus.sounds import place_of
from twistlm.errors import AudioError, BadInput
from twistlm.units.catalogue import read_spec


def test_blanks_around_names_and_cells_are_nothing(tmp_path: Path) -> None:
    for i, name in enumerate("ab"):
        sound(tmp_path / f"{name}.wav", i)
    (tmp_path / "list.csv").write_text("path, text, speaker, split\na.wav, hi, s1, train\nb.wav, yo there, s2, test\n")
    found = [(e.id, e.text, e.speaker, e.split) for e in read_corpus(tmp_path, corpus="csv")]
    assert found == [("a.wav", "hi", "s1", "train"), ("b.wav", "yo there", "s2", "test")]
    (tmp_path / "list.csv").write_text("path, path\na.wav,b.wav\n")
    with pytest.raises(BadInput, match="twice"):
        read_corpus(tmp_path, corpus="csv")


def test_folders_that_are_links_are_gone_into(tmp_path: Path) -> None:
    sound(tmp_path / "set" / "x" / "1.wav", 1)
    sound(tmp_path / "elsewhere" / "2.wav", 2)
    (tmp_path / "set" / "y").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "x" / "back").symlink_to(tmp_path / "set")  # ends nowhere
    ids = {corpus: [e.id for e in read_corpus(tmp_path / "set", corpus=corpus)] for corpus in ("folder", "audiofolder")}
    assert ids["folder"] == ids["audiofolder"] == ["x/1.wav", "y/2.wav"]


def test_a_folder_of_two_names_is_listed_once_by_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sound(tmp_path / "set" / "real" / "1.wav", 1)
    sound(tmp_path / "elsewhere" / "deep" / "2.wav", 2)
    (tmp_path / "set" / "a link").symlink_to(tmp_path / "set" / "real")
    for name in ("b", "c"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere")
    assert [e.id for e in read_corpus(tmp_path / "set", corpus="folder")] == ["b/deep/2.wav", "real/1.wav"]
    assert "links to folders whose files are listed by another way: a link, c" in caplog.text


def test_speakers_have_the_names_of_folders_however_these_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(tmp_path / "ann" / "1.wav", 1)
    (tmp_path / "ann" / "notes").mkdir()
    monkeypatch.chdir(tmp_path / "ann" / "notes")
    for source in ("..", "../1.wav", "../notes/..", tmp_path / "ann", "../../ann/1.wav"):
        (entry,) = manifest.load(source)
        assert entry.speaker == "ann" and place_of(entry) == "ann/1.wav"


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound(tmp_path / "set" / "open" / "1.wav", 1)
    sound(tmp_path / "set" / "shut" / "2.wav", 2)
    (tmp_path / "set" / "lost+found").mkdir()  # of a whole disk, and its owner's alone
    scan = os.scandir

    def scandir(path: str) -> Any:
        if Path(path).name in ("shut", "lost+found"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(AudioError, match=r"shut: this folder cannot be listed \(Permission denied\)"):
        read_corpus(tmp_path / "set", corpus="folder")


def test_two_names_that_are_written_alike_are_two_sounds(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", 1)
    for name in (b"\xe9.wav", rb"\xe9.wav"):
        shutil.copy(tmp_path / "a.wav", tmp_path / os.fsdecode(name))
    with pytest.raises(BadInput, match=r"ids must be unique, these are not: \\xe9\.wav"):
        manifest.build(tmp_path)


def test_a_sound_without_a_suffix_is_told_as_one(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", 1)
    (tmp_path / "a.wav").rename(tmp_path / "a")
    with pytest.raises(BadInput, match=r"begins as a sound does.*Give it the suffix"):
        manifest.load(tmp_path / "a")


def test_each_side_of_a_call_is_heard_by_itself(tmp_path: Path) -> None:
    sound(tmp_path / "real" / "r.wav", 1, seconds=2.0)
    (tmp_path / "real" / "wav.scp").write_text(f"r {tmp_path}/real/r.wav\n")
    segments = tmp_path / "real" / "segments"
    segments.write_text("u1 r 0.0 1.0 0\nu2 r 0.0 1.0 1\nu3 r 0.5 1.0 -1\nu4 r 0.5 1.0\n")
    (tmp_path / "test_clean").symlink_to(tmp_path / "real")
    found = read_corpus(tmp_path / "test_clean", corpus="kaldi")
    assert [e.channel for e in found] == [1, 2, None, None] and {e.split for e in found} == {"test"}
    for odd in ("u1 r 0.0 1.0 x\n", "u1 r 0.0 1.0 0 9\n", "u1 r 0.0 1.0 -2\n"):
        segments.write_text(odd)
        with pytest.raises(BadInput, match="'u1' has no recording, start and end"):
            read_corpus(tmp_path / "real", corpus="kaldi")


def cut(path: Path, **changes: Any) -> dict[str, Any]:
    source = {"type": "file", "channels": [0], "source": str(path)}
    recording = {"id": "r", "sources": [source], "sampling_rate": 16_000, "num_samples": 3200, "duration": 0.2}
    told = {"text": "hi", "speaker": 103}
    return {"id": "c", "start": 0, "duration": 0.2, "type": "MonoCut", "supervisions": [told]} | (
        {"recording": recording} | changes
    )


def test_cuts_of_odd_types_are_named_and_lost_sounds_too(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", 1)
    whole, file = cut(tmp_path / "a.wav"), tmp_path / "cuts.jsonl"
    file.write_text(json.dumps(whole))
    assert [e.speaker for e in read_corpus(file, corpus="lhotse")] == ["103"]
    odd: list[dict[str, Any]] = [{"supervisions": it} for it in ([None], {"a": 1}, [{"text": 5}], [{"speaker": ["a"]}])]
    odd += [{"recording": whole["recording"] | {"sources": it}} for it in (["x"], {"a": 1}, [{"channels": None}])]
    for changes in odd:
        file.write_text(json.dumps(cut(tmp_path / "a.wav", **changes)))
        with pytest.raises(BadInput, match="cuts that cannot be read exactly: 'c'"):
            read_corpus(file, corpus="lhotse")
    file.write_text(json.dumps(cut(tmp_path / "lost.wav")))
    with pytest.raises(BadInput, match="lists sounds that are not there"):
        read_corpus(file, corpus="lhotse")


@pytest.mark.parametrize("number", ["9" * 20, "1" * 5000])
def test_units_of_too_many_digits_are_no_units(number: str, tmp_path: Path) -> None:
    (tmp_path / "u.jsonl").write_text(json.dumps({"file_name": "a", "audio_repr": f"<Un{number}>"}))
    with pytest.raises(BadInput, match=r"u\.jsonl, line 1"):
        import_units(tmp_path / "u.jsonl", tmp_path / "out", read_spec("mini-25hz-500"), durations="unknown")
