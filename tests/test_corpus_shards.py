"""Shards and the flat cache: what is written is what is read, damage is named, stale caches are not used."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forking import fork
from twistlm.corpus.opened import UnitCorpus, open_corpus
from twistlm.corpus.shards import Row, ShardWriter, drop, read_facts, shard_paths
from twistlm.errors import BadInput, ShardError, TwistError, UnitSpecMismatch
from twistlm.types import Units, UnitSpec

SPEC = UnitSpec(
    encoder="fake",
    encoder_sha256="0" * 64,
    layer=1,
    tap="block_output",
    normalize_input=False,
    sample_rate=16_000,
    hop=640,
    n_units=500,
    centroids_sha256="1" * 64,
    deduplicate=True,
)


def row(id: str, ids: list[int], *, split: str = "train", speaker: str = "", text: str = "") -> Row:
    units = Units(np.array(ids, dtype=np.uint16), np.arange(1, len(ids) + 1, dtype=np.int32), SPEC, id=id)
    return Row(units=units, seconds=units.seconds, split=split, speaker=speaker, text=text)


def write(folder: Path, rows: list[Row], *, clips: int = 2) -> None:
    with ShardWriter(folder, SPEC, clips=clips) as writer:
        for r in rows:
            writer.add(r)


documents = st.lists(st.lists(st.integers(0, 499), max_size=8), min_size=1, max_size=12)


@given(documents, st.integers(1, 5), st.text(st.characters(codec="utf-8"), max_size=6))
@settings(max_examples=12, deadline=None)
def test_shards_round_trip(
    tmp_path_factory: pytest.TempPathFactory, docs: list[list[int]], clips: int, text: str
) -> None:
    folder = tmp_path_factory.mktemp("units")
    rows = [row(f"c{i}", ids, speaker=f"s{i % 2}", text=text) for i, ids in enumerate(docs)]
    write(folder, rows, clips=clips)
    assert len(shard_paths(folder)) == -(-len(docs) // clips)
    corpus = open_corpus(folder, split=None)
    assert corpus.ids == [f"c{i}" for i in range(len(docs))] and corpus.spec == SPEC
    assert corpus.lengths.tolist() == [len(ids) for ids in docs]
    assert corpus.texts == [text] * len(docs) and corpus.speaker(0) == "s0"
    for i, r in enumerate(rows):
        np.testing.assert_array_equal(corpus[i].ids, r.units.ids)
        np.testing.assert_array_equal(corpus[i].runs, r.units.runs)
        assert corpus[i].id == r.units.id and corpus.seconds[i] == r.units.seconds
    assert corpus.fingerprint == UnitCorpus.from_units([r.units for r in rows]).fingerprint
    with pytest.raises(IndexError):
        corpus[len(docs)]


def test_splits(tmp_path: Path) -> None:
    splits = ["train", "heldout_text", "train", "heldout_voice", "heldout_voice"]
    write(tmp_path, [row(f"c{i}", [i], split=split) for i, split in enumerate(splits)])
    ids = {name: open_corpus(tmp_path, split=name).ids for name in ("train", "heldout", "heldout_voice")}
    assert ids == {"train": ["c0", "c2"], "heldout": ["c1", "c3", "c4"], "heldout_voice": ["c3", "c4"]}
    assert open_corpus(tmp_path, split=("train", "heldout_text")).ids == ["c0", "c1", "c2"]
    held = open_corpus(tmp_path, split="heldout")
    assert held[1].ids.tolist() == [3] and held.select([2, 0]).ids == ["c4", "c1"]
    with pytest.raises(BadInput, match="'test'; there are: heldout_text, heldout_voice, train"):
        open_corpus(tmp_path, split="test")


def test_documents_are_chosen_by_whole_numbers_or_by_a_mask() -> None:
    whole = UnitCorpus.from_units([row(f"c{i}", [i]).units for i in range(4)], speakers=list("abab"))
    for corpus, of_b in ((whole, ["c1", "c3"]), (whole.select([3, 1, 2, 0]), ["c3", "c1"])):
        assert corpus.select(np.array(corpus.speakers) == "b").ids == of_b
        assert corpus.select([False] * 4).ids == corpus.select([]).ids == []
        assert corpus.select([-1]).ids == corpus.ids[-1:]
        for wrong in ([True, False], [1.9], np.zeros((2, 2), int), ["c1"]):
            with pytest.raises(BadInput, match=r"whole numbers \[n\] or by a mask, bool \[4\]"):
                corpus.select(wrong)
        with pytest.raises(BadInput, match="a corpus of 4 documents has none of 4 … 4"):
            corpus.select([4])


def test_spec_travels_and_other_units_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [row("a", [1])])
    other = dataclasses.replace(SPEC, layer=2)
    with pytest.raises(UnitSpecMismatch, match="layer is 2"):
        ShardWriter(tmp_path, other)
    units = dataclasses.replace(row("b", [2]).units, spec=other)
    with pytest.raises(UnitSpecMismatch), ShardWriter(tmp_path, SPEC) as writer:
        writer.add(Row(units=units, seconds=1.0))
    table = pq.read_table(tmp_path / "shard-00000.parquet").replace_schema_metadata({b"unit_spec": other.to_json()})
    pq.write_table(table, tmp_path / "shard-00001.parquet")
    with pytest.raises(UnitSpecMismatch, match="shard-00001"):
        open_corpus(tmp_path, split=None)


def test_cache_follows_the_shards(tmp_path: Path) -> None:
    write(tmp_path, [row("a", [1, 2]), row("b", [3])])
    before = open_corpus(tmp_path, split=None)
    built = [p.stat().st_mtime_ns for p in (tmp_path / ".cache").glob("*/units")]
    assert open_corpus(tmp_path, split=None).fingerprint == before.fingerprint
    assert [p.stat().st_mtime_ns for p in (tmp_path / ".cache").glob("*/units")] == built  # not made again
    write(tmp_path, [row("c", [4])])
    drop(tmp_path, {"a"})
    after = open_corpus(tmp_path, split=None)
    assert after.ids == ["b", "c"] and after[1].ids.tolist() == [4]
    assert before[0].ids.tolist() == [1, 2]  # whoever had the old one open keeps it
    assert len(list((tmp_path / ".cache").glob("*/units"))) == 1
    drop(tmp_path, {"b"})
    assert [fact["id"] for fact in read_facts(tmp_path)] == ["c"] and len(shard_paths(tmp_path)) == 1


def test_two_processes_open_at_once(tmp_path: Path) -> None:
    write(tmp_path, [row(f"c{i}", [i % 500] * (i % 7)) for i in range(300)], clips=30)
    said = [tmp_path / name for name in ("one", "two")]
    children = [fork(lambda to=to: to.write_text(open_corpus(tmp_path, split=None).fingerprint)) for to in said]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert {to.read_text() for to in said} == {open_corpus(tmp_path, split=None).fingerprint}
    assert not [p.name for p in (tmp_path / ".cache").iterdir() if p.name.startswith(".tmp")]


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no unit shards"):
        open_corpus(tmp_path, split=None)
    write(tmp_path, [row("a", [1, 2]), row("b", [3]), row("c", [4])])
    shard = tmp_path / "shard-00001.parquet"
    whole = shard.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"text" * 100):
        shard.write_bytes(damage)
        with pytest.raises(ShardError, match="shard-00001"):
            open_corpus(tmp_path, split=None)
    pq.write_table(pq.read_table(tmp_path / "shard-00000.parquet").replace_schema_metadata(None), shard)
    with pytest.raises(ShardError, match="does not say what its units are"):
        open_corpus(tmp_path, split=None)
    table = pq.read_table(tmp_path / "shard-00000.parquet")
    pq.write_table(table.drop(["runs"]), shard)
    with pytest.raises(ShardError, match="runs"):
        open_corpus(tmp_path, split=None)
    pq.write_table(table, shard)
    with pytest.raises(ShardError, match="more than one place: a, b"):
        open_corpus(tmp_path, split=None)
    small = dataclasses.replace(SPEC, n_units=3)
    pq.write_table(table.replace_schema_metadata({b"unit_spec": small.to_json()}), tmp_path / "shard-00000.parquet")
    shard.unlink()
    with pytest.raises(ShardError, match="do not fit"):
        open_corpus(tmp_path, split=None)
    assert not list((tmp_path / ".cache").glob("*/units"))


def test_a_folder_that_cannot_hold_the_cache_is_named(tmp_path: Path) -> None:
    write(tmp_path, [row("a", [1])])
    (tmp_path / ".cache").write_text("in the way")
    with pytest.raises(TwistError, match="cannot be opened"):
        open_corpus(tmp_path, split=None)


@pytest.mark.parametrize(
    ("column", "values", "match"),
    [
        ("units", pa.array([[1.5, 2.0]], pa.list_(pa.float32())), "units is list<.*float.*uint16"),
        ("units", pa.array([["1", "2"]]), "units is list<.*string"),
        ("runs", pa.array([[1, 2]], pa.list_(pa.int64())), "runs is list<.*int64.*int32"),
        ("runs", pa.array([[1, -2]], pa.list_(pa.int32())), "units and runs do not fit"),
        ("runs", pa.array([[1, None]], pa.list_(pa.int32())), "without runs"),
        ("id", pa.array([None], pa.string()), "without id"),
        ("seconds", pa.array(["1"]), "seconds is string, not double"),
        ("source_bytes", None, "source_bytes is missing"),
    ],
)
def test_a_shard_of_other_types_is_refused(tmp_path: Path, column: str, values: pa.Array | None, match: str) -> None:
    with ShardWriter(tmp_path, SPEC) as writer:
        writer.add(Row(units=Units(np.array([1, 2], np.uint16), np.array([3, 4], np.int32), SPEC, "a"), seconds=0.28))
    [path] = shard_paths(tmp_path)
    table = pq.read_table(path)
    at = table.schema.get_field_index(column)
    table = table.remove_column(at) if values is None else table.set_column(at, column, values)
    pq.write_table(table, path)
    with pytest.raises(ShardError, match=rf"shard-00000\.parquet.*{match}"):
        open_corpus(tmp_path, split=None)
    if values is None or values.type != table.schema.field(column).type:
        with pytest.raises(ShardError):
            read_facts(tmp_path)


def test_a_shard_whose_spec_is_of_other_types_is_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, SPEC) as writer:
        writer.add(Row(units=Units(np.array([1], np.uint16), np.array([3], np.int32), SPEC, "a"), seconds=0.12))
    [path] = shard_paths(tmp_path)
    said = SPEC.to_json().replace('"deduplicate": true', '"deduplicate": "yes"')
    pq.write_table(pq.read_table(path).replace_schema_metadata({"unit_spec": said}), path)
    with pytest.raises(ShardError, match=r"deduplicate is 'yes', not of type bool"):
        open_corpus(tmp_path, split=None)
