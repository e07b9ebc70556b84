"""Manifest and tokenize: each clip exactly once, whatever was interrupted, changed or broken."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import torch
from filelock import FileLock

from forking import fork
from tokenizer_standins import SPEC, FakeTokenizer, by_id, sound
from twistlm.audio.clip import Clip
from twistlm.corpus import cutting, manifest
from twistlm.corpus.cutting import cut
from twistlm.corpus.opened import open_corpus
from twistlm.corpus.shards import Row, read_facts, shard_paths
from twistlm.corpus.tokenize import _write_lines, tokenize
from twistlm.errors import AudioError, BadInput, TwistError, UnitSpecMismatch
from twistlm.types import Units


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    for i in range(12):
        sound(tmp_path / "speech" / f"voice{i % 3}" / f"{i:02d}.wav", i)
    return tmp_path / "speech"


def test_tokenize_stores_each_clip_once_and_a_rerun_adds_nothing(speech: Path, tmp_path: Path) -> None:
    tok, out = FakeTokenizer(), tmp_path / "units"
    report = tokenize(speech, out, tok, shard_clips=5)
    assert (report.n_done, report.n_skipped, report.failures) == (12, 0, ())
    assert len(shard_paths(out)) == 3 and not (out / "failures.jsonl").exists()
    units = by_id(out)
    for entry in manifest.load(speech):
        assert units[entry.id] == tok(Clip.read(entry.path)).ids.tolist()
    corpus = open_corpus(out, split=None)
    assert [corpus.speakers[i] for i in range(3)] == ["voice0"] * 3 and corpus.seconds[0] == 0.2

    before = {path: path.read_bytes() for path in shard_paths(out)}
    again = FakeTokenizer()
    for path in speech.rglob("*.wav"):
        os.utime(path)  # a copy has new times and the same sound
    report = tokenize(speech, out, again)
    assert (report.n_done, report.n_skipped, again.heard) == (0, 12, [])
    assert {path: path.read_bytes() for path in shard_paths(out)} == before


def test_one_sound_file_is_a_corpus_of_one_clip(speech: Path, tmp_path: Path) -> None:
    tokenize(speech, tmp_path / "all", FakeTokenizer())
    for kind in (Path, str):
        report = tokenize(kind(speech / "voice1" / "01.wav"), tmp_path / "one", FakeTokenizer())
    assert (report.n_done, report.n_skipped) == (0, 1)
    assert by_id(tmp_path / "one") == {"01.wav": by_id(tmp_path / "all")["voice1/01.wav"]}
    (entry,) = manifest.load(speech / "voice1" / "01.wav")
    assert (entry.speaker, entry.split) == ("voice1", "train")
    with pytest.raises(BadInput, match="no such manifest"):
        manifest.load(speech / "voice1" / "99.wav")


def test_only_what_is_new_or_changed_is_done(speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "units"
    tokenize(speech, out, FakeTokenizer(), shard_clips=4)
    old = by_id(out)
    sound(speech / "voice0" / "00.wav", 100)
    sound(speech / "voice9" / "new.flac", 101, rate=44_100)
    tok = FakeTokenizer()
    report = tokenize(speech, out, tok)
    assert (report.n_done, report.n_skipped, report.n_replaced) == (2, 11, 1)
    assert tok.heard == ["voice0/00.wav", "voice9/new.flac"]
    new = by_id(out)
    assert new.keys() == old.keys() | {"voice9/new.flac"}
    assert {id for id in old if old[id] != new[id]} == {"voice0/00.wav"}


def test_another_split_replaces_the_row_and_keeps_its_units(speech: Path, tmp_path: Path) -> None:
    entries = manifest.load(speech)
    tokenize(entries, tmp_path / "units", FakeTokenizer())
    before = by_id(tmp_path / "units")
    moved = [dataclasses.replace(entry, split="elsewhere") if i == 3 else entry for i, entry in enumerate(entries)]
    deaf = FakeTokenizer()
    report = tokenize(moved, tmp_path / "units", deaf)
    assert (report.n_done, report.n_replaced, report.n_marked, deaf.heard) == (1, 1, 1, [])
    assert open_corpus(tmp_path / "units", split="elsewhere").ids == [entries[3].id]
    assert by_id(tmp_path / "units") == before and len(before) == 12
    again = tokenize(moved, tmp_path / "units", deaf)
    assert (again.n_done, again.n_skipped) == (0, 12)


def test_ids_that_moved_to_files_that_look_the_same_are_cut_anew(tmp_path: Path) -> None:
    for i in range(4):
        sound(tmp_path / f"{i}.wav", i)
        os.utime(tmp_path / f"{i}.wav", (1e9, 1e9))  # as tar leaves them
    paths = [tmp_path / f"{i}.wav" for i in range(4)]
    assert len({path.stat().st_size for path in paths}) == 1
    first, turned = (
        [manifest.Entry(id=f"m/{n}", path=path, text=path.stem) for n, path in enumerate(order)]
        for order in (paths, paths[::-1])
    )
    tokenize(first, tmp_path / "units", FakeTokenizer())
    report = tokenize(turned, tmp_path / "units", FakeTokenizer())
    assert (report.n_done, report.n_marked, report.n_skipped) == (4, 0, 0)
    tokenize(turned, tmp_path / "fresh", FakeTokenizer())
    assert by_id(tmp_path / "units") == by_id(tmp_path / "fresh")
    assert tokenize(turned, tmp_path / "units", FakeTokenizer()).n_skipped == 4
    moved = tmp_path / "elsewhere"  # copied: the same sounds, by their sha256
    moved.mkdir()
    for path in paths:
        (moved / path.name).write_bytes(path.read_bytes())
    again = [dataclasses.replace(entry, path=moved / entry.path.name) for entry in turned]
    assert tokenize(again, tmp_path / "units", FakeTokenizer()).n_skipped == 4


class Stop(Exception):
    """Ends a run in the middle of the work."""


def test_old_rows_stay_until_the_new_ones_are_written(speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "units"
    tokenize(speech, out, FakeTokenizer(), shard_clips=4)
    before = by_id(out)
    for i, path in enumerate(sorted(speech.rglob("*.wav"))):
        sound(path, 200 + i)

    def stopped(pending: Sequence[manifest.Entry], tok: FakeTokenizer) -> Generator[Any]:
        with closing(cut(pending, tok)) as made:
            for n, row in enumerate(made):
                if n == 6:
                    raise Stop
                yield row

    with pytest.raises(Stop):
        tokenize(speech, out, FakeTokenizer(), shard_clips=4, cutter=stopped)
    half = by_id(out)
    assert half.keys() == before.keys() and sum(half[id] != before[id] for id in half) == 4  # one shard
    report = tokenize(speech, out, FakeTokenizer(), shard_clips=4)
    assert (report.n_done, report.n_skipped, report.n_replaced) == (8, 4, 8) and len(by_id(out)) == 12


def test_a_clip_that_a_killed_run_left_twice_is_there_once_again(speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "units"
    tokenize(speech, out, FakeTokenizer(), shard_clips=4)
    changed = speech / "voice0" / "00.wav"
    sound(changed, 300)
    with pytest.raises(Stop), mock.patch("twistlm.corpus.tokenize.drop", side_effect=Stop):
        tokenize(speech, out, FakeTokenizer())
    assert len(read_facts(out)) == 13
    report = tokenize(speech, out, FakeTokenizer())
    assert (report.n_done, report.n_skipped) == (0, 12) and len(read_facts(out)) == 12
    tokenize(speech, tmp_path / "fresh", FakeTokenizer())
    assert by_id(out) == by_id(tmp_path / "fresh")


def test_a_changed_clip_that_cannot_be_cut_loses_its_old_units(speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "units"
    tokenize(speech, out, FakeTokenizer())
    (speech / "voice0" / "00.wav").write_text("not a sound")
    with pytest.raises(TwistError, match="1 of 12 clips"):
        tokenize(speech, out, FakeTokenizer())
    assert len(by_id(out)) == 11


def test_another_part_that_cannot_be_cut_leaves_the_units_that_are_there(speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "units"
    tokenize(speech, out, FakeTokenizer())
    before = by_id(out)
    with pytest.raises(TwistError, match="12 of 12 clips") as error:
        tokenize(manifest.on_channel(manifest.load(speech), 2), out, FakeTokenizer())  # of sounds of one channel
    assert by_id(out) == before and "are gone" not in str(error.value)
    (speech / "voice0" / "00.wav").write_text("not a sound")
    with pytest.raises(TwistError, match="Of 1 of them the sound has changed, and their old units are gone"):
        tokenize(speech, out, FakeTokenizer())


def test_notes_are_written_with_each_shard_and_not_with_each_clip(speech: Path, tmp_path: Path) -> None:
    written = []

    def noting(pending: Sequence[manifest.Entry], tok: FakeTokenizer) -> Generator[Any]:
        with closing(cut(pending, tok)) as made:
            for row in made:
                yield dataclasses.replace(row, note="mended") if isinstance(row, Row) else row

    def write(items: Any, path: Any) -> None:
        written.append((path.name, len(items)))
        _write_lines(items, path)

    with mock.patch("twistlm.corpus.tokenize._write_lines", write):
        report = tokenize(speech, tmp_path / "units", FakeTokenizer(), shard_clips=4, cutter=noting)
    assert [n for name, n in written if name == "notes.jsonl"] == [4, 8, 12, 12] and len(report.notes) == 12
    assert len((tmp_path / "units" / "notes.jsonl").read_text().splitlines()) == 12


def test_another_tokenizer_is_refused(speech: Path, tmp_path: Path) -> None:
    tokenize(speech, tmp_path / "units", FakeTokenizer())
    other = FakeTokenizer(dataclasses.replace(SPEC, layer=6))
    with pytest.raises(UnitSpecMismatch, match="layer"):
        tokenize(speech, tmp_path / "units", other)
    assert other.heard == []


def test_failures_are_collected_and_lose_nothing(speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "units"
    (speech / "voice0" / "00.wav").write_text("not a sound")
    sf.write(speech / "voice0" / "03.wav", np.zeros(16_000), 16_000)
    with pytest.raises(TwistError, match="2 of 12 clips could not be tokenized") as caught:
        tokenize(speech, out, FakeTokenizer(), shard_clips=4)
    assert caught.value.exit_code == 1
    failures = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert [f["id"] for f in failures] == ["voice0/00.wav", "voice0/03.wav"]
    assert "not a sound file" in failures[0]["error"] and "silent" in failures[1]["error"]
    assert len(by_id(out)) == 10

    report = tokenize(speech, out, FakeTokenizer(), max_failures=2 / 12)
    assert (report.n_done, report.n_skipped, len(report.failures)) == (0, 10, 2)
    sound(speech / "voice0" / "00.wav", 0)
    sound(speech / "voice0" / "03.wav", 3)
    assert tokenize(speech, out, FakeTokenizer()).n_done == 2
    assert len(by_id(out)) == 12 and not (out / "failures.jsonl").exists()


def test_a_lost_file_is_a_failure_and_its_units_stay(speech: Path, tmp_path: Path) -> None:
    entries = manifest.load(speech)
    tokenize(entries, tmp_path / "units", FakeTokenizer())
    entries[0].path.unlink()
    with pytest.raises(TwistError, match="no such file"):
        tokenize(entries, tmp_path / "units", FakeTokenizer())
    assert len(by_id(tmp_path / "units")) == 12


def test_a_tokenizer_that_changes_its_units_is_an_error_not_a_failure(speech: Path, tmp_path: Path) -> None:
    class Liar(FakeTokenizer):
        def __call__(self, clip: Clip) -> Units:
            return dataclasses.replace(super().__call__(clip), spec=dataclasses.replace(SPEC, layer=9))

    with pytest.raises(UnitSpecMismatch):
        tokenize(speech, tmp_path / "units", Liar(), max_failures=1.0)
    assert not shard_paths(tmp_path / "units")


def test_a_full_disk_is_one_clear_error_and_leaves_whole_shards(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real, n = tmp_path / "units", pq.write_table, 0

    def full_after_two(table: Any, path: Path, **options: Any) -> None:
        nonlocal n
        n += 1
        if n > 2:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(table, path, **options)

    monkeypatch.setattr(pq, "write_table", full_after_two)
    with pytest.raises(TwistError, match="disk is full"):
        tokenize(speech, out, FakeTokenizer(), shard_clips=3)
    assert sorted(p.name for p in out.iterdir()) == [".lock", "shard-00000.parquet", "shard-00001.parquet"]
    monkeypatch.undo()
    report = tokenize(speech, out, FakeTokenizer())
    assert (report.n_done, report.n_skipped, len(by_id(out))) == (6, 6, 12)


def test_two_writers_are_refused(speech: Path, tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    with FileLock(tmp_path / "units" / ".lock"), pytest.raises(TwistError, match="another process"):
        tokenize(speech, tmp_path / "units", FakeTokenizer())
    (tmp_path / "file").touch()
    with pytest.raises(TwistError, match="could not write"):
        tokenize(speech, tmp_path / "file", FakeTokenizer())


def test_kill_9_leaves_whole_shards_and_a_rerun_completes(speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "units"
    child = fork(lambda: tokenize(speech, out, FakeTokenizer(seconds_each=0.15), shard_clips=3))
    deadline = time.monotonic() + 60
    while len(shard_paths(out)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # into the third shard
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    there = [fact["id"] for fact in read_facts(out)]  # reads every shard: all are whole
    assert 6 <= len(there) < 12 and len(there) % 3 == 0
    tok = FakeTokenizer()
    report = tokenize(speech, out, tok, shard_clips=3)
    assert sorted(there + tok.heard) == sorted(entry.id for entry in manifest.load(speech))
    assert report.n_skipped == len(there) and len(by_id(out)) == 12


def test_bare_folder_splits_by_hash(speech: Path) -> None:
    entries = manifest.build(speech, heldout=0.4, seed=0)
    assert [e.id for e in entries] == sorted(p.relative_to(speech).as_posix() for p in speech.rglob("*.wav"))
    held = {e.id for e in entries if e.split == "heldout"}
    assert 0 < len(held) < 12 and {e.split for e in entries} == {"train", "heldout"}
    assert held != {e.id for e in manifest.build(speech, heldout=0.4, seed=1) if e.split == "heldout"}
    sound(speech / "voice9" / "new.wav", 1)  # what was held out stays held out
    assert held == {e.id for e in manifest.build(speech, heldout=0.4) if e.split == "heldout"} - {"voice9/new.wav"}
    assert {e.split for e in manifest.build(speech, heldout=1e-9)} == {"train", "heldout"}  # never an empty side
    assert {e.split for e in manifest.build(speech, heldout=0)} == {"train"}
    with pytest.raises(BadInput, match="share"):
        manifest.build(speech, heldout=2)


def test_manifest_round_trip_and_moved_folder(speech: Path, tmp_path: Path) -> None:
    entries = manifest.build(speech)
    manifest.write(entries, speech / "manifest.jsonl")
    assert manifest.load(speech) == manifest.load(speech / "manifest.jsonl") == entries
    speech.rename(tmp_path / "moved")
    assert all(entry.path.is_file() for entry in manifest.load(tmp_path / "moved"))


def test_entries_may_come_one_by_one(speech: Path, tmp_path: Path) -> None:
    entries = manifest.build(speech)
    manifest.write(iter(entries), speech / "manifest.jsonl")
    assert manifest.load(speech) == manifest.load(iter(entries)) == entries
    assert [entry.channel for entry in manifest.on_channel(iter(entries), 1)] == [1] * 12
    assert tokenize(iter(entries), tmp_path / "units", FakeTokenizer()).n_done == 12
    with pytest.raises(BadInput, match="lists no clips"):
        tokenize(iter([]), tmp_path / "units", FakeTokenizer())


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "line 1: not JSON"),
        ("[1]", "line 1: .*which is not a JSON object"),
        ('{"id": "a", "path": "a.wav"}\n{"id": "b"}', "line 2: 'path' must be a string"),
        ('{"id": 3, "path": "a.wav"}', "'id' must be a string, got 3"),
        ('{"id": "a", "path": "a.wav", "seconds": "2"}', "'seconds' must be a number"),
        ('{"id": "a", "path": "a.wav"}\n\n{"id": "a", "path": "b.wav"}', "ids must be unique, these are not: a"),
        ("\n", "lists no clips"),
    ],
)
def test_broken_manifests_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(text)
    with pytest.raises(BadInput, match=message):
        manifest.load(tmp_path)
    with pytest.raises(BadInput, match="no such manifest"):
        manifest.load(tmp_path / "other.jsonl")


def sounds(folder: Path, n: int, *, longest: float) -> None:
    """Sounds of random lengths, 00.wav and so on."""
    for i, seconds in enumerate(np.random.default_rng(0).uniform(0.1, longest, n)):
        sound(folder / f"{i:02d}.wav", i, seconds=float(seconds))


class BatchTokenizer(FakeTokenizer):
    """Takes batches, and keeps what they were."""

    batch_seconds = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[float]] = []

    def require(self, clip: Clip) -> None:
        if clip.seconds < 0.05:
            raise AudioError(f"{clip.id} is too short")

    def batch(self, clips: list[Clip]) -> list[Units]:
        self.batches.append([clip.seconds for clip in clips])
        return [self(clip) for clip in clips]


def test_batches_make_the_rows_of_clips_alone_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "POOL_CLIPS", 7)
    sounds(tmp_path / "speech", 20, longest=0.6)
    sound(tmp_path / "speech" / "05.wav", 5, seconds=0.04)
    (tmp_path / "speech" / "11.wav").write_bytes(b"no sound")
    entries, tok = manifest.load(tmp_path / "speech"), BatchTokenizer()
    rows = list(cutting.cut(entries, tok))
    alone = list(cutting.cut(entries, FakeTokenizer()))
    for i, (row, other) in enumerate(zip(rows, alone, strict=True)):
        if i in (5, 11):
            assert isinstance(row, cutting.Failure) and row.id == entries[i].id
        else:
            assert row.units.ids.tolist() == other.units.ids.tolist() and row.source_sha256 == other.source_sha256
            assert (row.units.id, row.seconds) == (entries[i].id, other.seconds)
    assert sum(map(len, tok.batches)) == 18 and max(map(len, tok.batches)) > 1
    assert all(len(batch) == 1 or len(batch) * max(batch) <= 1.0 for batch in tok.batches)
    report = tokenize(tmp_path / "speech", tmp_path / "units", BatchTokenizer(), max_failures=0.2)
    assert report.n_done == 18 and [f.id for f in report.failures] == [entries[5].id, entries[11].id]


@pytest.mark.parametrize(("seconds", "expected"), [(2.0, 1024), (10.0, 768), (600.0, 16), (7200.0, 16), (None, 256)])
def test_what_is_read_ahead_is_bounded_by_its_length(seconds: float | None, expected: int, tmp_path: Path) -> None:
    """In memory: 7,680 s of sound are half a gigabyte, 1,024 clips of ten minutes would be forty."""
    entries = [manifest.Entry(id=str(i), path=tmp_path / f"{i}.wav", seconds=seconds) for i in range(3)]
    assert cutting._ahead(entries, 7680.0) == expected


@pytest.mark.thorough
def test_our_tokenizer_in_batches_cuts_what_it_cuts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the long one window by window, the others in batches."""
    from twistlm.units.tokenizer import SpeechTokenizer

    monkeypatch.setattr(cutting, "STREAM_SECONDS", 36)
    sounds(tmp_path / "speech", 5, longest=1.5)
    sound(tmp_path / "speech" / "02.wav", 2, seconds=37)
    tok, entries = SpeechTokenizer.load("mini-25hz-100-fourth"), manifest.load(tmp_path / "speech")
    alone = list(cutting.cut(entries, tok))
    assert tok.batch_seconds == 0 and tok.on(torch.device("cpu")) is tok
    monkeypatch.setattr(SpeechTokenizer, "batch_seconds", 4.0)
    together_of = SpeechTokenizer.batch
    sizes: list[int] = []
    monkeypatch.setattr(
        SpeechTokenizer, "batch", lambda tok, clips: sizes.append(len(clips)) or together_of(tok, clips)
    )
    together = list(cutting.cut(entries, tok))
    assert sum(sizes) == 4 and max(sizes) > 1, "all but the long one came in batches"
    assert [r.units.ids.tolist() for r in together] == [r.units.ids.tolist() for r in alone]
    assert tok.on(torch.device("meta")).encoder.model.device.type == "meta" and tok.encoder.model.device.type == "cpu"


def test_channels_of_a_recording_do_not_mix_and_a_mended_file_is_noted(tmp_path: Path) -> None:
    (tmp_path / "speech").mkdir()
    left = np.random.default_rng(0).normal(0, 0.1, 8_000)
    sf.write(tmp_path / "speech" / "call.wav", np.stack([left, -left], axis=1), 16_000)
    out, tok = tmp_path / "u", FakeTokenizer()
    with pytest.raises(TwistError, match="the channels cancel"):
        tokenize(tmp_path / "speech", out, tok)
    entries = manifest.load(tmp_path / "speech")
    for channel in (1, 2):
        chosen = manifest.on_channel(entries, channel)
        manifest.write(chosen, tmp_path / "m.jsonl")
        assert manifest.read(tmp_path / "m.jsonl") == [
            dataclasses.replace(entry, path=entry.path.absolute()) for entry in chosen
        ]
        assert (tokenize(tmp_path / "m.jsonl", out, tok).n_done, tokenize(chosen, out, tok).n_done) == (1, 0)
    with pytest.raises(BadInput, match=r"these clips name another: call\.wav"):
        manifest.on_channel(chosen, 1)
    sf.write(tmp_path / "speech" / "call.wav", left, 16_000)
    sound = bytearray((tmp_path / "speech" / "call.wav").read_bytes())
    sound[4:8], sound[40:44] = (36).to_bytes(4, "little"), bytes(4)
    (tmp_path / "speech" / "call.wav").write_bytes(sound)
    report = tokenize(tmp_path / "speech", out, tok)
    assert [(note.id, "killed" in note.note) for note in report.notes] == [("call.wav", True)]
    assert tokenize(tmp_path / "speech", out, tok).notes == ()
    assert "killed" in (out / "notes.jsonl").read_text()


def test_what_is_no_regular_file_is_a_failure_and_nobody_waits(tmp_path: Path) -> None:
    (tmp_path / "speech").mkdir()
    for name in ("a.wav", "b.tar", "c.parquet"):
        os.mkfifo(tmp_path / "speech" / name)
    entries = [
        manifest.Entry(id=name, path=tmp_path / "speech" / name, member=member)
        for name, member in (("a.wav", ""), ("b.tar", "x.wav"), ("c.parquet", "audio[0]"))
    ]
    with pytest.raises(TwistError, match=r"3 of 3 clips could not be tokenized: .*no regular file"):
        tokenize(entries, tmp_path / "u", FakeTokenizer())


def test_a_name_that_is_not_utf8_is_one_failure_and_the_rest_is_cut(tmp_path: Path) -> None:
    sound(tmp_path / "speech" / "a.wav", 1)
    sound(tmp_path / "speech" / "b.wav", 2)
    (tmp_path / "speech" / "b.wav").rename(tmp_path / "speech" / os.fsdecode(b"caf\xe9.wav"))
    with pytest.raises(TwistError, match=r"1 of 2 clips .*caf\\xe9\.wav: its name is not UTF-8"):
        tokenize(tmp_path / "speech", tmp_path / "units", FakeTokenizer())
    assert list(by_id(tmp_path / "units")) == ["a.wav"]
    failures = [json.loads(line) for line in (tmp_path / "units" / "failures.jsonl").read_text().splitlines()]
    assert [f["id"] for f in failures] == ["caf\\xe9.wav"]
    manifest.write(manifest.build(tmp_path / "speech"), tmp_path / "m.jsonl")
    report = tokenize(tmp_path / "m.jsonl", tmp_path / "units", FakeTokenizer(), max_failures=0.5)
    assert report.n_skipped == 1 and "not UTF-8" in report.failures[0].error
