"""Sounds as lists of samples in tables: the same clip as from a sound file, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora_standins import put, saved_split
from test_cli import twist  # noqa: F401  a fixture
from twistlm.audio.clip import Clip, read, write
from twistlm.corpus.readers import Options, read_corpus
from twistlm.corpus.sounds import read_clip
from twistlm.errors import AudioError, BadInput

RATE = 8_000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 3 * RATE)).astype(np.float32)
MONO = (NOISE[0] * 32767).round().astype(np.int16)  # as a sound file of 16 bits has them
FLOATS = MONO / np.float32(32768)
LISTS = {
    "floats": FLOATS.tolist(),
    "integers": MONO.tolist(),
    "channels first": [FLOATS.tolist(), FLOATS.tolist()],
    "channels last": [[value, value] for value in FLOATS.tolist()],
}
KINDS = {
    "floats": pa.list_(pa.float32()), "doubles": pa.large_list(pa.float64()), "integers": pa.list_(pa.int64()),
    "int16": pa.list_(pa.int16()), "fixed": pa.list_(pa.float32(), len(MONO)),
    "channels first": pa.list_(pa.list_(pa.float32())), "channels last": pa.list_(pa.list_(pa.float32(), 2)),
}  # fmt: skip
OF = {"doubles": "floats", "int16": "integers", "fixed": "floats"}


def told(table: pa.Table, rate: int | None = RATE) -> pa.Table:
    """With what the library datasets notes with a table."""
    feature = {"_type": "Audio"} | ({} if rate is None else {"sampling_rate": rate})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": {"audio": feature}}})})


def layouts(kind: str) -> dict[str, pa.Table]:
    """Three rows each, in the ways to say a rate."""
    array = pa.array([LISTS[OF.get(kind, kind)]] * 3, KINDS[kind])
    rates, texts = pa.array([RATE] * 3), pa.array(["a", "b", "c"])
    struct = pa.StructArray.from_arrays([array, pa.array([None] * 3, pa.string()), rates],
                                        names=["array", "path", "sampling_rate"])  # fmt: skip
    return {
        "struct": pa.table({"audio": struct, "text": texts}),
        "column": pa.table({"audio": array, "Sample_Rate": rates, "text": texts}),
        "feature": told(pa.table({"audio": array, "text": texts})),
    }


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The samples as a sound file gives them."""
    path = tmp_path_factory.mktemp("wav") / "a.wav"
    write(Clip(FLOATS, RATE), path)
    return read(path, sample_rate=16_000).samples


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_is_the_clip_that_a_file_is(tmp_path: Path, kind: str, wav: np.ndarray) -> None:
    for name, table in layouts(kind).items():
        pq.write_table(table, put(tmp_path / name / "train.parquet", b""), row_group_size=2)
        saved_split(tmp_path / f"{name}-saved", [table], "train")
        for place in (name, f"{name}-saved"):
            entries = read_corpus(tmp_path / place, corpus="huggingface", heldout=0)
            assert [e.text for e in entries] == ["a", "b", "c"]
            for entry in (entries[2], entries[0]):
                clip = read_clip(entry, sample_rate=16_000)
                assert np.array_equal(clip.samples, wav), (kind, place)


def test_a_channel_of_a_list_can_be_taken(tmp_path: Path) -> None:
    table = pa.table({"waveform": pa.array([NOISE.tolist()], pa.list_(pa.list_(pa.float32()))), "sr": [RATE]})
    pq.write_table(table, tmp_path / "a.parquet")
    (entry,) = read_corpus(tmp_path, corpus="huggingface", heldout=0)
    second = dataclasses.replace(entry, channel=2)
    assert np.array_equal(read_clip(second, sample_rate=None).samples, NOISE[1])


def one(tmp_path: Path, cells: list | None, kind: pa.DataType, rate: object = RATE) -> Path:
    pq.write_table(pa.table({"audio": pa.array([cells], kind), "sampling_rate": [rate]}), tmp_path / "a.parquet")
    return tmp_path


FLOAT, LONG = pa.list_(pa.float32()), pa.list_(pa.int64())
BAD = [
    ([0.5, float("nan")] * RATE, FLOAT, RATE, "NaN"),
    ([1e300] * RATE, pa.list_(pa.float64()), RATE, "NaN"),
    ([1, None] * RATE, LONG, RATE, "8000 of its samples are null"),
    ([0, 1 << 22] * RATE, LONG, RATE, "integers from 0 to 4194304, where samples of 16 bits"),
    ([[0.5] * 9, [0.5] * 8], pa.list_(FLOAT), RATE, "unlike lengths"),
    ([[0.5] * 40] * 40, pa.list_(FLOAT), RATE, "are no channels"),
    ([0.5] * RATE, FLOAT, 0, "its sampling rate is 0"),
    ([0.5] * RATE, FLOAT, 44_100.5, "its sampling rate is 44100.5"),
    ([0.5] * RATE, FLOAT, None, "its sampling rate is None"),
    (None, FLOAT, RATE, "row 0 of 'audio' holds no sound"),
    ([], FLOAT, RATE, "empty"),
    ([], pa.list_(FLOAT), RATE, "empty"),
]  # fmt: skip


@pytest.mark.parametrize("cells, kind, rate, message", BAD, ids=[message for *_, message in BAD])
def test_what_is_no_sound_is_named(tmp_path: Path, cells: list, kind: pa.DataType, rate, message: str) -> None:
    (entry,) = read_corpus(one(tmp_path, cells, kind, rate), corpus="huggingface", heldout=0)
    with pytest.raises(AudioError, match=message):
        read_clip(entry, sample_rate=16_000)


def test_samples_in_another_scale_are_refused_where_they_are_cut(tmp_path: Path, tiny, twist) -> None:  # noqa: F811
    one(tmp_path / "c" if (tmp_path / "c").mkdir() is None else tmp_path, MONO.astype(np.float32).tolist(), FLOAT)
    assert (
        twist("manifest", tmp_path / "c", "--corpus", "huggingface", "--heldout", 0, "--out", tmp_path / "m").code == 0
    )
    cut = twist("tokenize", tmp_path / "m", "--tokenizer", tiny.tokenizer, "--out", tmp_path / "units")
    assert cut.code and "full scale is 1" in cut.err + (tmp_path / "units/failures.jsonl").read_text()


def test_samples_without_a_rate_are_refused_and_numbers_that_are_no_sound_are_not_taken(tmp_path: Path) -> None:
    table = pa.table({"audio": pa.array([FLOATS.tolist()], FLOAT), "embedding": pa.array([[0.5]], FLOAT)})
    for noted in (table, told(table, rate=None)):
        pq.write_table(noted, tmp_path / "a.parquet")
        with pytest.raises(BadInput, match=r"nothing says their rate. Add a column 'sampling_rate'"):
            read_corpus(tmp_path, corpus="huggingface")
    pq.write_table(table.drop_columns("audio").append_column("sr", [[RATE]]), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=r"no audio column.*Columns: embedding .*--path-column"):
        read_corpus(tmp_path, corpus="huggingface")
    assert read_corpus(tmp_path, corpus="huggingface", heldout=0, options=Options(path="embedding"))
    byte = table.drop_columns("audio").append_column("audio", pa.array([[1]], pa.list_(pa.int8())))
    pq.write_table(byte, tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="no audio column"):
        read_corpus(tmp_path, corpus="huggingface")


def test_an_embedding_beside_paths_is_no_sound(tmp_path: Path) -> None:
    table = pa.table({"path": ["x.wav"], "embedding": pa.array([[0.5]], FLOAT), "sr": [RATE]})
    saved_split(tmp_path, [table], "train")
    with pytest.raises(BadInput, match=r"not there: .*x\.wav"):
        read_corpus(tmp_path, corpus="huggingface")


@pytest.mark.thorough
def test_a_few_bytes_that_stand_for_a_flood_of_samples_are_refused(tmp_path: Path) -> None:
    flood = pa.array([np.zeros(1 << 24, np.float32)], FLOAT)
    pq.write_table(pa.table({"audio": flood, "sampling_rate": [RATE]}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 1 << 20
    (entry,) = read_corpus(tmp_path, corpus="huggingface", heldout=0)
    with pytest.raises(BadInput, match=r"to 16777216 values, .* made to fill the memory"):
        read_clip(entry, sample_rate=16_000)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(1, 5), st.data())
def test_rows_in_any_order_and_any_batches(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n_rows: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(seed)
    rows = [rng.integers(-32768, 32768, rng.integers(1000, 2000)) for _ in range(n_rows)]
    table = pa.table({"audio": pa.array(rows, LONG), "sr": [RATE] * n_rows})
    if data.draw(st.booleans()):
        saved_split(folder, [table])
    else:
        pq.write_table(table, folder / "a.parquet", row_group_size=data.draw(st.integers(1, 5)))
    entries = read_corpus(folder, corpus="huggingface", heldout=0)
    for i in data.draw(st.permutations(range(n_rows))):
        samples = read_clip(entries[i], sample_rate=None).samples
        assert np.array_equal(samples, rows[i].astype(np.float32) / 32768)
