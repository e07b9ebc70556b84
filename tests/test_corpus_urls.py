"""Sounds, manifests and shards behind URLs: what is done there is what is done on the disk, and what fails is named."""

from __future__ import annotations

import dataclasses
import json
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import fsspec
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from test_cli import twist  # noqa: F401  a fixture
from tokenizer_standins import FakeTokenizer, sound
from twistlm.audio import clip as reading
from twistlm.audio import decoding
from twistlm.audio.clip import Clip
from twistlm.corpus import cutting, manifest
from twistlm.corpus import tokenize as module
from twistlm.corpus.manifest import Entry
from twistlm.corpus.opened import open_corpus
from twistlm.corpus.readers import read_corpus
from twistlm.corpus.shards import PLACE, ShardWriter, read_facts, shard_paths
from twistlm.corpus.tokenize import tokenize
from twistlm.errors import AudioError, BadInput, TwistError, UrlError
from twistlm.files.urls import UrlPath, as_path
from twistlm.types import Units


@pytest.mark.parametrize("name", ["a*b", "what?", "take[1]"])
def test_a_name_that_is_a_pattern_to_fsspec_is_refused_where_it_would_be_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(BadInput, match="for patterns where it writes"):
        (UrlPath("memory://patterns") / name / "x").put(tmp_path / "x")
    assert not fsspec.filesystem("memory").find("/patterns")


def test_two_colons_are_a_border_of_urls_and_of_nothing_else() -> None:
    for url in ("memory://d/x::1.txt", "memory://d/x::"):
        with pytest.raises(BadInput, match="takes :: for the border between two URLs"):
            as_path(url)
    with pytest.raises(BadInput, match="takes ::"):
        UrlPath("memory://d") / "x::1.txt"
    assert str(UrlPath("zip://a.wav::memory://d/b.zip")) == "zip://a.wav::memory://d/b.zip"


class Flaky(MemoryFileSystem):
    """A store in memory that counts what is asked and fails when told to, each time once."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    asked: ClassVar[list[tuple[str, str]]] = []
    fails: ClassVar[list[tuple[str, str]]] = []  # (method, a part of the path)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.removeprefix("flaky://"))

    def _ask(self, method: str, path: str) -> None:
        self.asked.append((method, path))
        for fail in self.fails:
            if fail[0] == method and fail[1] in path:
                self.fails.remove(fail)
                raise TimeoutError("nobody answered") if method == "ls" else RuntimeError("the line is dead")

    def info(self, path: str, **options: Any) -> Any:
        self._ask("info", path)
        return super().info(path, **options)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self._ask("ls", path)
        return super().ls(path, detail, **options)

    def get_file(self, path: str, *args: Any, **options: Any) -> None:
        self._ask("get_file", path)
        super().get_file(path, *args, **options)

    def put_file(self, file: str, path: str, **options: Any) -> None:
        self._ask("put_file", path)
        super().put_file(file, path, **options)

    def mv(self, path: str, other: str, **options: Any) -> None:
        self._ask("mv", path)
        super().mv(path, other, **options)


fsspec.register_implementation("flaky", Flaky, clobber=True)


@pytest.fixture
def speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Twelve sounds on the disk, at memory://speech and at flaky://speech; nothing may stay in the temporary folder."""
    for i in range(12):
        sound(tmp_path / "speech" / f"voice{i % 3}" / f"{i:02d}.wav", i)
    stores = [fsspec.filesystem("memory"), fsspec.filesystem("flaky")]
    for store in stores:
        store.store.clear()
        store.put(f"{tmp_path / 'speech'}/", "/speech/", recursive=True)
    Flaky.asked.clear()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "speech"
    assert not list((tmp_path / "tmp").iterdir())
    assert not Flaky.fails


def rows(folder: Any) -> dict[str, list[Any]]:
    """What a corpus is made of: id to units and facts, but for the times and places of its files."""
    found = {}
    for path in shard_paths(folder):
        for row in pq.read_table(path).to_pylist():
            assert row["id"] not in found
            row["source_sha256"] = row["source_sha256"].partition(PLACE)[0]
            found[row.pop("id")] = [value for key, value in row.items() if key != "source_mtime_ns"]
    return found


def test_url_to_url_is_as_disk_to_disk_and_a_rerun_does_what_is_missing(speech: Path, tmp_path: Path) -> None:
    report = tokenize("memory://speech", "memory://units", FakeTokenizer(), shard_clips=5)
    assert (report.n_done, report.n_skipped, report.failures) == (12, 0, ())
    assert [path.name for path in shard_paths("memory://units")] == [f"shard-{i:05d}.parquet" for i in range(3)]
    tokenize(speech, tmp_path / "units", FakeTokenizer(), shard_clips=5)
    assert rows("memory://units") == rows(tmp_path / "units")

    store = fsspec.filesystem("memory").store
    before = {name: file.getvalue() for name, file in store.items()}
    tok = FakeTokenizer()
    report = tokenize("memory://speech", "memory://units", tok)
    assert (report.n_done, report.n_skipped, tok.heard) == (0, 12, [])
    assert {name: file.getvalue() for name, file in store.items()} == before

    sound(speech / "voice0" / "00.wav", 100)
    sound(speech / "voice9" / "new.flac", 101)
    for name in ("voice0/00.wav", "voice9/new.flac"):
        fsspec.filesystem("memory").put_file(str(speech / name), f"/speech/{name}")
    fsspec.filesystem("memory").pipe_file("/speech/voice1/.hidden.wav", b"")
    report = tokenize("memory://speech/", "memory://units/", tok)
    assert (report.n_done, report.n_skipped, tok.heard) == (2, 11, ["voice0/00.wav", "voice9/new.flac"])
    tokenize(speech, tmp_path / "units", FakeTokenizer())
    assert rows("memory://units") == rows(tmp_path / "units")


def test_a_manifest_lies_anywhere_and_names_sounds_anywhere(speech: Path, tmp_path: Path) -> None:
    there, here = manifest.load("memory://speech"), manifest.load(speech)
    assert [(e.id, e.speaker, e.split) for e in there] == [(e.id, e.speaker, e.split) for e in here]
    manifest.write(there, "memory://speech/manifest.jsonl")
    text = fsspec.filesystem("memory").cat_file("/speech/manifest.jsonl").decode()
    assert json.loads(text.splitlines()[0])["path"] == "voice0/00.wav"  # so that the folder can move
    assert manifest.load("memory://speech") == manifest.load("memory://speech/manifest.jsonl") == there
    mixed = [*there[:3], *here[3:6]]
    for place in (tmp_path / "manifest.jsonl", "memory://manifest.jsonl"):
        manifest.write(mixed, place)
        assert manifest.load(place) == mixed
    assert tokenize(tmp_path / "manifest.jsonl", tmp_path / "units", FakeTokenizer()).n_done == 6


def test_a_file_url_is_a_path(speech: Path, tmp_path: Path) -> None:
    assert as_path(f"file://{speech}") == speech
    tokenize(f"file://{speech}", f"file://{tmp_path}/units", FakeTokenizer())
    assert tokenize(speech, tmp_path / "units", FakeTokenizer()).n_skipped == 12


def test_parts_and_members_of_a_file_are_fetched_once(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Streams(FakeTokenizer):
        def stream(
            self, path: Any, /, *, start: float = 0.0, seconds: float | None = None, channel: int | None = None
        ) -> Units:
            return self(reading.read(path, start=start, seconds=seconds))

    monkeypatch.setattr(cutting, "STREAM_SECONDS", 0.5)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(5):
            tar.add(speech / f"voice{i % 3}" / f"{i:02d}.wav", arcname=f"{i}.wav")
    sound(tmp_path / "long.wav", 50, seconds=4.0)
    entries = []
    for name in ("a.tar", "long.wav"):
        fsspec.filesystem("flaky").put_file(str(tmp_path / name), f"/{name}")
    for folder in (tmp_path, UrlPath("flaky://")):
        parts = [Entry(id=f"p{i}", path=folder / "long.wav", start=0.7 * i, seconds=0.3 + 0.1 * i) for i in range(5)]
        members = [Entry(id=f"m{i}", path=folder / "a.tar", member=f"{i}.wav") for i in range(5)]
        entries.append([*parts, *members, Entry(id="whole", path=folder / "long.wav")])
    tokenize(entries[0], tmp_path / "units", Streams())
    tokenize(entries[1], "memory://units", Streams())
    assert rows("memory://units") == rows(tmp_path / "units") and len(rows("memory://units")) == 11
    assert sorted(path for method, path in Flaky.asked if method == "get_file") == ["/a.tar", "/long.wav"]
    assert tokenize(entries[1], "memory://units", Streams()).n_skipped == 11
    assert len(reading.read("flaky://long.wav").samples) == 64_000 and decoding.info("flaky://long.wav") == (
        4.0,
        16_000,
        1,
        "",
    )


def test_what_fails_once_is_named_and_a_rerun_completes(speech: Path, tmp_path: Path) -> None:
    Flaky.fails += [("get_file", "voice1/04"), ("info", "voice2/05.wav")]
    with pytest.raises(TwistError, match="2 of 12 clips could not be tokenized"):
        tokenize("flaky://speech", "flaky://units", FakeTokenizer(), shard_clips=5)
    failures = [json.loads(line) for line in UrlPath("flaky://units/failures.jsonl").read_text().splitlines()]
    assert [(f["id"], f["path"]) for f in failures] == [
        ("voice1/04.wav", "flaky://speech/voice1/04.wav"),
        ("voice2/05.wav", "flaky://speech/voice2/05.wav"),
    ]
    assert "flaky://speech/voice1/04.wav: could not be fetched (RuntimeError: the line is dead)" in failures[0]["error"]
    assert "05.wav: could not be looked at" in failures[1]["error"]
    assert len(rows("flaky://units")) == 10
    tok = FakeTokenizer()
    report = tokenize("flaky://speech", "flaky://units", tok)
    assert (report.n_done, report.n_skipped, sorted(tok.heard)) == (2, 10, ["voice1/04.wav", "voice2/05.wav"])
    assert not UrlPath("flaky://units/failures.jsonl").is_file()
    tokenize(speech, tmp_path / "units", FakeTokenizer())
    assert rows("flaky://units") == rows(tmp_path / "units")

    # A sound that is away while it is planned and back when it could be cut must not be stored twice.
    Flaky.fails += [("info", "voice1/04.wav")]
    assert len(tokenize("flaky://speech", "flaky://units", FakeTokenizer(), max_failures=0.1).failures) == 1
    assert rows("flaky://units") == rows(tmp_path / "units")


@pytest.mark.parametrize("step", ["put_file", "mv"])
def test_a_shard_that_cannot_be_put_there_ends_the_job_and_leaves_whole_ones(speech: Path, step: str) -> None:
    Flaky.fails += [(step, "shard-00001")]
    with pytest.raises(UrlError, match=r"flaky://units/shard-00001.parquet: could not be written \(RuntimeError"):
        tokenize("flaky://speech", "flaky://units", FakeTokenizer(), shard_clips=5)
    assert [path.name for path in shard_paths("flaky://units")] == ["shard-00000.parquet"]
    tok = FakeTokenizer()
    assert tokenize("flaky://speech", "flaky://units", tok, shard_clips=5).n_skipped == 5
    assert len(tok.heard) == 7 and len(rows("flaky://units")) == 12


def test_a_listing_that_fails_is_an_error_and_not_an_empty_folder(speech: Path) -> None:
    tokenize("flaky://speech", "flaky://units", FakeTokenizer())
    for place in ("/speech/voice1", "/units"):
        Flaky.fails += [("ls", place)]
        with pytest.raises(UrlError, match=r"could not be listed \(TimeoutError: nobody answered\)"):
            tokenize("flaky://speech", "flaky://units", FakeTokenizer())
    Flaky.fails += [("get_file", "/units/shard-00000")]  # nor is a shard that cannot be fetched a broken one
    with pytest.raises(UrlError, match=r"shard-00000.parquet: could not be fetched"):
        read_facts("flaky://units/")
    entries = manifest.load("flaky://speech")
    Flaky.fails += [("ls", "/speech/voice0")]  # who may not list may still read
    assert tokenize(entries, "flaky://units", FakeTokenizer()).n_skipped == 12


def test_what_tells_no_times_is_compared_by_its_content(speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def untold(self: Any, path: str) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(Flaky, "modified", untold)
    tokenize("flaky://speech", "flaky://units", FakeTokenizer())
    Flaky.asked.clear()
    assert tokenize("flaky://speech", "flaky://units", FakeTokenizer()).n_skipped == 12
    assert sum(method == "get_file" and "/speech/" in path for method, path in Flaky.asked) == 12
    data = bytearray(Flaky.store["/speech/voice0/00.wav"].getvalue())
    data[-2:] = b"\0\0"
    fsspec.filesystem("flaky").pipe_file("/speech/voice0/00.wav", bytes(data))
    assert tokenize("flaky://speech", "flaky://units", FakeTokenizer()).n_done == 1


def test_a_corpus_behind_a_url_is_copied_once_and_again_where_it_changed(speech: Path, tmp_path: Path) -> None:
    def fetched() -> list[str]:
        names = [path.rpartition("/")[2] for method, path in Flaky.asked if method == "get_file" and "/units/" in path]
        Flaky.asked.clear()
        return names

    tokenize("flaky://speech", "flaky://units", FakeTokenizer(), shard_clips=5)
    assert fetched() == []
    corpus = open_corpus("flaky://units", split=None)
    assert fetched() == [f"shard-{i:05d}.parquet" for i in range(3)]
    tokenize(speech, tmp_path / "units", FakeTokenizer(), shard_clips=5)
    assert corpus.fingerprint == open_corpus(tmp_path / "units", split=None).fingerprint
    assert open_corpus("flaky://units/", split="train").fingerprint and fetched() == []

    entries = manifest.load("flaky://speech")
    moved = [dataclasses.replace(entry, split="elsewhere") if i == 7 else entry for i, entry in enumerate(entries)]
    assert tokenize(moved, "flaky://units", FakeTokenizer()).n_done == 1
    assert fetched() == []
    assert open_corpus("flaky://units", split="elsewhere").ids == [entries[7].id]
    assert fetched() == ["shard-00001.parquet", "shard-00003.parquet"]
    fsspec.filesystem("flaky").rm_file("/units/shard-00003.parquet")
    assert len(open_corpus("flaky://units", split=None)) == 11 and fetched() == []


@given(
    st.lists(st.text("ab.-_ é", min_size=1), min_size=1, max_size=4), st.sampled_from(["s3://b/c", "s3://b/", "x://"])
)
def test_paths_join_and_part_as_text(names: list[str], start: str) -> None:
    folder, name = UrlPath(start), "/".join(names)
    path = folder / name
    assert path.below(folder) == name and path.below(path) is None
    assert path.parent / path.name == path and str(path) == f"{start.rstrip('/') if start != 'x://' else 'x:/'}/{name}"
    assert (path.stem, path.suffix) == (PurePosixPath(names[-1]).stem, PurePosixPath(names[-1]).suffix)
    assert manifest._below(path, folder) == name and as_path(name, below=folder) == path


def test_two_writers_of_a_url_on_one_machine_are_refused(speech: Path) -> None:
    with module.locked(UrlPath("memory://units")), pytest.raises(TwistError, match="another process is writing"):
        tokenize("memory://speech", "memory://units", FakeTokenizer())


def test_what_cannot_be_is_refused_with_the_reason(speech: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere://a/b: .*nowhere"):
        tokenize("nowhere://a/b", tmp_path / "units", FakeTokenizer())
    with pytest.raises(AudioError, match="memory://void: no such folder"):
        manifest.build("memory://void")
    with pytest.raises(AudioError, match=r"memory://speech/no.wav: no such file"):
        Clip.read("memory://speech/no.wav")
    with pytest.raises(AudioError, match="memory://speech: could not be fetched"):
        Clip.read("memory://speech")
    with pytest.raises(BadInput, match="memory:/units: a URL that became a path"):
        tokenize(speech, Path("memory://units"), FakeTokenizer())
    with pytest.raises(BadInput, match="only plain folders are read behind URLs"):
        read_corpus("memory://speech", corpus="librispeech")
    tokenize(speech, "memory://units", FakeTokenizer())
    other = dataclasses.replace(FakeTokenizer().spec, layer=6)
    with pytest.raises(BadInput, match="layer"):
        ShardWriter("memory://units", other)


def test_the_command_line_takes_urls(twist, tiny, speech: Path, tmp_path: Path) -> None:  # noqa: F811
    assert twist("manifest", "memory://speech", "--out", tmp_path / "m.jsonl", "--json").json["clips"] == 12
    manifest.write(manifest.load("memory://speech"), "memory://speech/manifest.jsonl")
    noted = twist("manifest", "memory://speech", "--out", tmp_path / "n.jsonl", "--heldout", 0)
    assert "as memory://speech/manifest.jsonl lists them" in noted.out
    options = ("--tokenizer", tiny.tokenizer, "--json")
    for done in (12, 0):
        facts = twist("tokenize", tmp_path / "m.jsonl", "--out", "memory://units", *options).json
        assert (facts["done"], facts["skipped"], facts["failed"]) == (done, 12 - done, 0)
    assert twist("tokenize", f"file://{speech}", "--out", f"file://{tmp_path}/units", *options).json["done"] == 12
    assert rows(tmp_path / "units") == rows("memory://units")
    Flaky.fails += [("get_file", "voice1/04")]
    twist("tokenize", "flaky://speech", "--out", "flaky://units", *options).refused(
        "1 of 12", "flaky://speech/voice1/04.wav: could not be fetched", "flaky://units/failures.jsonl", code=1
    )
    assert twist("tokenize", "flaky://speech", "--out", "flaky://units", *options).json["done"] == 1
    twist("tokenize", speech, "--out", "nowhere://units", *options).refused("nowhere://units", "fsspec")
