"""Caches that are not believed: each entry that was changed, however well it reads, is made again, and that is said."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from suite_standins import make_storycloze
from test_evaluate_suites import Tokenizer
from tokenizer_standins import FakeTokenizer, sound
from twistlm.audio.clip import Clip
from twistlm.benchmarks.spoken import Spoken
from twistlm.corpus.opened import open_corpus
from twistlm.corpus.shards import shard_paths
from twistlm.corpus.tokenize import tokenize
from twistlm.errors import BadInput
from twistlm.evaluate.averages import ScoredPairs
from twistlm.evaluate.suites.storycloze import storycloze
from twistlm.evaluate.unit_cache import tokenize_suite
from twistlm.files.sealed import is_sealed, seal, seal_of
from voices_standins import Hummer


def as_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twistlm.files.sealed._seen", set())
    monkeypatch.setattr("twistlm.corpus.opened._hashed", {})


def change_units(shard: Path) -> None:
    """Make a whole shard of other units, of the same size and time, as far as its reader can tell."""
    before, table = shard.stat(), pq.read_table(shard)
    column = table.schema.get_field_index("units")
    other = [[(unit + 1) % 3 for unit in units] for units in table.column("units").to_pylist()]
    field = table.schema.field(column)
    table = table.set_column(column, field, pa.array(other, type=field.type))
    pq.write_table(table, shard, compression="zstd")
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("damage", ["bytes", "size", "seal", "no seal", "gone"])
def test_a_seal(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"content")
    assert not is_sealed(path)
    seal(path)
    assert is_sealed(path) and not caplog.records
    as_other_process(monkeypatch)
    match damage:
        case "bytes":
            before = path.stat()
            path.write_bytes(b"Content")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        case "size":
            path.write_bytes(b"cont")
        case "seal":
            seal_of(path).write_text("{")
        case "no seal":
            seal_of(path).unlink()
        case "gone":
            path.unlink()
    assert not is_sealed(path)
    assert ("made again" in caplog.text) == (damage in ("bytes", "size", "seal"))


def test_another_sound_in_the_store_of_spoken_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    voice, store = Hummer(), Spoken(16_000, tmp_path)
    right = store.say(voice, "One.")
    path = store.path(voice, "One.")
    Clip(right.samples[::-1].copy(), 16_000).write(path)
    as_other_process(monkeypatch)
    assert store.say_all([(voice, "One.")]) == 1
    assert np.array_equal(store.say(voice, "One.").samples, right.samples)
    assert voice.said == ["One.", "One."] and "made again" in caplog.text


def test_other_units_in_the_cache_of_suites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_storycloze(tmp_path / "files")
    suite, tok = storycloze(tmp_path / "files", name="storycloze"), Tokenizer()
    right = tokenize_suite(suite, tok, cache=tmp_path / "cache").units
    (shard,) = shard_paths(tmp_path / "cache" / tok.spec.fingerprint)
    change_units(shard)
    as_other_process(monkeypatch)
    again = tokenize_suite(suite, tok, cache=tmp_path / "cache")
    assert again.n_cut == 6 and "made again" in caplog.text
    assert all(np.array_equal(units.ids, right[i].ids) for i, units in again.units.items())


def test_other_scores_in_the_tables_that_are_kept(tmp_path: Path) -> None:
    make_storycloze(tmp_path / "files")
    suite = storycloze(tmp_path / "files", name="storycloze")
    facts = {"suite": "x", "version": "1", "checksum": "2", "unit_spec": "3", "model_sha256": "4"}
    scored = ScoredPairs.join(suite, {i: (-float(len(i)), 7) for i in suite.wanted()}, facts)
    scored.write(tmp_path / "a.parquet")
    assert ScoredPairs.read(tmp_path / "a.parquet").table.equals(scored.table)
    table = pq.read_table(tmp_path / "a.parquet")
    column = table.schema.get_field_index("positive_logprob")
    other = [[value + 1 for value in table.column("positive_logprob").to_pylist()]]
    pq.write_table(table.set_column(column, table.schema.field(column), other), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="not those that were written"):
        ScoredPairs.read(tmp_path / "a.parquet")


def test_a_changed_shard_of_the_same_size_and_time_is_another_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(tmp_path / "speech" / "a.wav", 1)
    tokenize(tmp_path / "speech", tmp_path / "units", FakeTokenizer())
    before = open_corpus(tmp_path / "units", split=None)
    (shard,) = shard_paths(tmp_path / "units")
    change_units(shard)
    as_other_process(monkeypatch)
    after = open_corpus(tmp_path / "units", split=None)
    assert after.fingerprint != before.fingerprint
    assert after[0].ids.tolist() == pq.read_table(shard).column("units").to_pylist()[0]


def test_a_changed_copy_of_what_lies_behind_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "cache"))
    fsspec.filesystem("memory").store.clear()
    sound(tmp_path / "speech" / "a.wav", 1)
    tokenize(tmp_path / "speech", "memory://units", FakeTokenizer())
    right = open_corpus("memory://units", split=None).fingerprint
    (copy,) = shard_paths("memory://units")
    change_units(copy)
    as_other_process(monkeypatch)
    assert open_corpus("memory://units", split=None).fingerprint == right
    assert "made again" in caplog.text


def test_what_is_said_names_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"1")
    seal_of(path).write_text(json.dumps({"size": 1, "sha256": "0" * 64}))
    with caplog.at_level(logging.WARNING):
        assert not is_sealed(path)
    assert str(path) in caplog.text and "its size or hash is another" in caplog.text
