"""Parts of files, members of archives: the same sound as in a file of its own, read once, redone when it changes."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_standins import FakeTokenizer, by_id
from twistlm.audio.clip import decode, read
from twistlm.corpus import archives, manifest
from twistlm.corpus.archives import tar_members
from twistlm.corpus.manifest import Entry
from twistlm.corpus.sounds import Sounds, check_header, read_clip
from twistlm.corpus.tokenize import tokenize
from twistlm.errors import AudioError, BadInput, TwistError


def wave(seed: int, seconds: float = 0.3, rate: int = 16_000) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * rate)).astype(np.float32)


def encoded(seed: int, seconds: float = 0.3, form: str = "FLAC") -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, wave(seed, seconds), 16_000, format=form)
    return buffer.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_parquet(path: Path, blobs: list[bytes | None], *, row_group_size: int = 5, **columns: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    audio = pa.array([{"bytes": blob, "path": f"{i}.flac"} for i, blob in enumerate(blobs)], type=kind)
    pq.write_table(pa.table({"audio": audio, **columns}), path, row_group_size=row_group_size)
    return path


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "long.flac"
    sf.write(path, np.stack([wave(1, 3.0, 22_050), wave(2, 3.0, 22_050)], axis=1), 22_050)
    return path


@settings(max_examples=30, deadline=None)
@given(start=st.floats(0, 2.5), seconds=st.floats(0.01, 3.0), rate=st.sampled_from([None, 8_000, 16_000, 22_050]))
def test_a_part_is_read_as_a_file_of_its_own(
    long_file: Path, tmp_path_factory: pytest.TempPathFactory, start: float, seconds: float, rate: int | None
) -> None:
    samples, own = sf.read(long_file, dtype="int16")
    first, last = (int(np.floor(s * own + 0.5)) for s in (start, start + seconds))
    if last > len(samples) + 0.1 * own:
        with pytest.raises(AudioError, match="is not there"):
            read(long_file, sample_rate=rate, start=start, seconds=seconds)
        return
    alone = tmp_path_factory.getbasetemp() / "part.flac"
    sf.write(alone, samples[first:last], own)
    expected = read(alone, sample_rate=rate)
    for clip in (
        read(long_file, sample_rate=rate, start=start, seconds=seconds),
        decode(long_file.read_bytes(), name="x", sample_rate=rate, start=start, seconds=seconds),
    ):
        assert clip.sample_rate == expected.sample_rate
        np.testing.assert_array_equal(clip.samples, expected.samples)


@pytest.mark.parametrize("form, suffix", [("WAV", "wav"), ("OGG", "ogg"), ("MP3", "mp3")])
def test_parts_of_other_formats(tmp_path: Path, form: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    sf.write(path, wave(0, 2.0), 16_000, format=form)
    whole = read(path).samples
    np.testing.assert_allclose(read(path, start=0.5, seconds=1).samples, whole[8_000:24_000], atol=1e-4)


@pytest.mark.parametrize("start, seconds", [(-0.1, 1), (0, 0), (0, -1), (float("nan"), 1), (0, float("inf"))])
def test_impossible_parts_are_refused(long_file: Path, start: float, seconds: float) -> None:
    with pytest.raises(BadInput, match="positive length"):
        read(long_file, start=start, seconds=seconds)
    with pytest.raises(BadInput, match="positive length"):
        Entry(id="a", path=long_file, start=start, seconds=seconds)


def test_sound_in_memory_fails_as_a_file_does() -> None:
    for data, message in ((b"", "empty"), (b"not a sound", "not a sound file"), (encoded(0)[:900], "a.tar#x")):
        with pytest.raises(AudioError, match=message):
            decode(data, name="a.tar#x")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 22), min_size=1, max_size=12))
def test_rows_of_parquet_in_any_order(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.parquet"
    blobs = [f"sound {i}".encode() * (i + 1) for i in range(23)]
    if not path.exists():
        write_parquet(path, blobs, row_group_size=10)
    with Sounds() as found:
        for row in order:
            assert found.fetch(Entry(id="x", path=path, member=f"audio[{row}]")).data == blobs[row]


def test_missing_members_are_named(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.flac": encoded(0)})
    parquet = write_parquet(tmp_path / "a.parquet", [encoded(0), None])
    (tmp_path / "a.zip").write_bytes(b"PK")
    cases = [
        (tar, "b.flac", "has no file 'b.flac'"),
        (parquet, "audio[2]", "among its 2 rows"),
        (parquet, "audio", "among its 2 rows"),
        (parquet, "sound[0]", "has no sounds in the column .sound."),
        (parquet, "audio[1]", "row 1 of 'audio' holds no sound"),
        (tmp_path / "a.zip", "a.flac", "can lie in .tar, .parquet, .arrow files"),
        (tmp_path / "b.tar", "a.flac", "no such file"),
    ]
    with Sounds() as found:
        for path, member, message in cases:
            with pytest.raises(BadInput, match=message.replace("[", r"\[")):
                found.fetch(Entry(id="x", path=path, member=member))
        assert found.fetch(Entry(id="x", path=parquet, member="audio[0]")).data == encoded(0)  # and goes on


@pytest.mark.parametrize("name", ["../a.flac", "/a.flac", "a/../../b.flac", "..\\a.flac", "\\a.flac", "a\0b"])
def test_members_that_point_out_of_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="points out of the archive"):
        Entry(id="x", path=tmp_path / "a.tar", member=name)
    if "\0" not in name:
        tar = write_tar(tmp_path / "a.tar", {"good.flac": encoded(0), name: encoded(1)})
        with pytest.raises(BadInput, match="point out of the archive"):
            tar_members(tar)


def test_broken_tars_are_refused_wherever_they_break(tmp_path: Path) -> None:
    good = write_tar(tmp_path / "a.tar", {f"{i}.flac": encoded(i) for i in range(3)})
    data = good.read_bytes()
    second = tar_members(good)[1].offset
    for broken in (
        data[: second + 700],  # ends in a sound
        data[: second + 100],  # ends in a header
        data[:second] + bytes([data[second] ^ 1]) + data[second + 1 :],  # a header's checksum is wrong
        b"x" * 4096,
        b"",
    ):
        (tmp_path / "b.tar").write_bytes(broken)
        with pytest.raises(BadInput, match=r"tar file|damaged behind byte"):
            tar_members(tmp_path / "b.tar")
    with tarfile.open(tmp_path / "c.tar", "w:gz") as tar:
        tar.add(good, "a.flac")
    with pytest.raises(BadInput, match="decompress it first"):
        tar_members(tmp_path / "c.tar")


def shards_and_files(root: Path, n: int = 9) -> tuple[list[Entry], list[Entry]]:
    """The same sounds three times: as files of their own, and in a tar, a Parquet file and a long file."""
    blobs = {f"{i}.flac": encoded(i) for i in range(n)}
    apart = []
    for i, (name, data) in enumerate(blobs.items()):
        (root / name).write_bytes(data)
        apart.append(Entry(id=str(i), path=root / name, text=f"text {i}"))
    third = n // 3
    tar = write_tar(root / "a.tar", dict(list(blobs.items())[:third]))
    parquet = write_parquet(root / "b.parquet", list(blobs.values())[third : 2 * third], row_group_size=2)
    sf.write(root / "long.flac", np.concatenate([wave(i) for i in range(2 * third, n)]), 16_000)
    packed = [dataclasses.replace(apart[i], path=tar, member=f"{i}.flac") for i in range(third)]
    packed += [dataclasses.replace(apart[third + i], path=parquet, member=f"audio[{i}]") for i in range(third)]
    for i in range(third):
        part = {"path": root / "long.flac", "start": 0.3 * i, "seconds": 0.3}
        packed.append(dataclasses.replace(apart[2 * third + i], **part))
    return apart, packed


def test_units_are_the_same_wherever_the_sound_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apart, packed = shards_and_files(tmp_path)
    manifest.write([packed[i] for i in (8, 0, 4, 1, 3, 7, 2, 5, 6)], tmp_path / "m.jsonl")  # shuffled over the files
    opened: list[str] = []
    real = archives.tar_members
    monkeypatch.setattr(archives, "tar_members", lambda path: (opened.append(path.name), real(path))[1])
    tokenize(apart, tmp_path / "apart", FakeTokenizer())
    report = tokenize(tmp_path / "m.jsonl", tmp_path / "packed", FakeTokenizer())
    assert (report.n_done, report.failures, opened) == (9, (), ["a.tar"])
    assert by_id(tmp_path / "packed") == by_id(tmp_path / "apart")
    for entry in packed:
        alone = read_clip(apart[int(entry.id)], sample_rate=16_000)
        clip = read_clip(entry, sample_rate=16_000)
        assert clip.id == entry.id
        np.testing.assert_array_equal(clip.samples, alone.samples)

    again = FakeTokenizer()
    assert tokenize(tmp_path / "m.jsonl", tmp_path / "packed", again).n_skipped == 9
    for path in tmp_path.iterdir():
        os.utime(path)  # a copy has other times
    assert tokenize(tmp_path / "m.jsonl", tmp_path / "packed", again).n_skipped == 9
    assert again.heard == []


def test_only_clips_whose_sound_or_part_changed_are_done_again(tmp_path: Path) -> None:
    _, packed = shards_and_files(tmp_path)
    out, tok = tmp_path / "units", FakeTokenizer()
    tokenize(packed, out, FakeTokenizer())

    blobs = {f"{i}.flac": encoded(i) for i in range(3)} | {"1.flac": encoded(77)}
    write_tar(tmp_path / "a.tar", {**blobs, "new.flac": encoded(88)})  # another sound, and one more
    write_parquet(tmp_path / "b.parquet", [encoded(3), encoded(66), encoded(5), encoded(99)])
    moved = dataclasses.replace(packed[7], start=0.31)
    new = Entry(id="new", path=tmp_path / "a.tar", member="new.flac")
    renamed = dataclasses.replace(packed[5], member="audio[3]")
    wanted = [*packed[:5], renamed, packed[6], moved, packed[8], new]
    report = tokenize(wanted, out, tok)
    assert sorted(tok.heard) == ["1", "4", "5", "7", "new"] and report.n_skipped == 5
    assert by_id(out)["7"] == tok(read_clip(moved, sample_rate=16_000)).ids.tolist()


def test_failures_in_archives_are_collected_and_old_units_stay(tmp_path: Path) -> None:
    _, packed = shards_and_files(tmp_path)
    out = tmp_path / "units"
    tokenize(packed, out, FakeTokenizer())
    before = by_id(out)
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:2000])
    write_parquet(tmp_path / "b.parquet", [encoded(3), b"no sound"])
    sf.write(tmp_path / "long.flac", wave(0, 0.4), 16_000)
    with pytest.raises(TwistError, match="7 of 9 clips"):
        tokenize(packed, out, FakeTokenizer())
    failures = {f["id"]: f for f in map(json.loads, (out / "failures.jsonl").read_text().splitlines())}
    assert failures["0"]["path"].endswith("a.tar#0.flac") and "not a whole tar" in failures["0"]["error"]
    assert "not a sound file" in failures["4"]["error"] and "is not there" in failures["8"]["error"]
    after = by_id(out)
    assert {id for id in before if id not in after} == {"4", "7", "8"}  # what is there is another sound than it was
    assert all(after[id] == before[id] for id in ("0", "1", "2", "3", "5"))


def test_headers_are_checked_without_decoding(tmp_path: Path) -> None:
    _, packed = shards_and_files(tmp_path)
    assert check_header(packed[8]) == 0.3 and check_header(packed[0]) is None
    assert check_header(Entry(id="x", path=tmp_path / "0.flac")) == pytest.approx(0.3)
    with pytest.raises(AudioError, match="ends at 9 s"):
        check_header(dataclasses.replace(packed[8], start=8, seconds=1))
    with pytest.raises(AudioError, match="no such file"):
        check_header(dataclasses.replace(packed[0], path=tmp_path / "gone.tar"))


def test_manifests_keep_parts_and_members_and_say_no_more_than_before(tmp_path: Path) -> None:
    _, packed = shards_and_files(tmp_path)
    plain = Entry(id="plain", path=tmp_path / "0.flac", text="a line\u2028that\x85is one")
    manifest.write([*packed, plain], tmp_path / "m.jsonl")
    assert manifest.read(tmp_path / "m.jsonl") == [*packed, plain]
    last = json.loads((tmp_path / "m.jsonl").read_text().split("\n")[-2])
    assert last.keys() == {"id", "path", "speaker", "split", "text", "seconds"}
    for line, message in (
        ('{"id": "a", "path": "a", "start": 1}', "line 1: .*positive length"),
        ('{"id": "a", "path": "a", "start": "1", "seconds": 1}', "'start' must be a number"),
        ('{"id": "a", "path": "a", "member": 3}', "'member' must be a string"),
        ('{"id": "a", "path": "a", "member": "../b"}', "line 1: .*points out of the archive"),
    ):
        (tmp_path / "bad.jsonl").write_text(line)
        with pytest.raises(BadInput, match=message):
            manifest.read(tmp_path / "bad.jsonl")


@pytest.mark.thorough
def test_headers_of_tars_and_columns_of_parquet_files_are_bounded(tmp_path: Path) -> None:
    head = tarfile.TarInfo("PaxHeaders/x")
    head.type, head.size = tarfile.XHDTYPE, 3 << 30
    (tmp_path / "a.tar").write_bytes(head.tobuf() + bytes(10_240))
    with pytest.raises(BadInput, match="claims 3221225472 bytes"):
        tar_members(tmp_path / "a.tar")
    long = tarfile.TarInfo("a" * 300 + ".wav")
    long.size = 3
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(long, io.BytesIO(b"abc"))
    assert [member.name for member in tar_members(tmp_path / "b.tar")] == [long.name]
    cells = pa.table({"audio": pa.array([{"bytes": bytes(100 << 20)}])})  # 100 MB of zeros in some kB
    pq.write_table(cells, tmp_path / "a.parquet", compression="zstd")
    with Sounds() as sounds, pytest.raises(BadInput, match="made to fill the memory"):
        sounds.fetch(Entry(id="x", path=tmp_path / "a.parquet", member="audio[0]"))
