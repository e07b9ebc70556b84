"""Corpora in tables with named columns, in Arrow files and on two channels: what is told, and what is refused."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf

import corpora_standins as corpora
from corpora_standins import put, saved_split, sound, write_arrow
from test_cli import twist  # noqa: F401
from twistlm.corpus.archives import ArrowFile
from twistlm.corpus.readers import Options, read_corpus
from twistlm.corpus.sounds import read_clip
from twistlm.errors import BadInput


def rewrite(path: str, old: str, new: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text
        put(root / path, text.replace(old, new))

    return change


def test_a_quote_that_is_never_closed_swallows_no_rows(tmp_path: Path) -> None:
    for i, name in enumerate("abc"):
        put(tmp_path / f"{name}.wav", sound(i, form="WAV"))
    rows = ["path\tsentence", 'a.wav\t"Hello, he said.', "b.wav\tPlain.", 'c.wav\tThe end."']
    put(tmp_path / "x.tsv", "\n".join(rows) + "\n")
    with pytest.raises(BadInput, match=r"line 2: a cell that begins with a quote goes on over lines and columns"):
        read_corpus(tmp_path / "x.tsv", corpus="csv", options=Options(path="path"))


def drop(path: str) -> Callable[[Path], object]:
    return lambda root: (root / path).unlink()


def number_texts(root: Path) -> None:
    write_arrow(root / "test/data-00000-of-00001.arrow", pa.table({"audio": [b"x"], "text": [7]}))


def cut_arrow(root: Path) -> None:
    path = root / "test/data-00000-of-00001.arrow"
    put(path, path.read_bytes()[:-600])


CV, TTS = "en/clips/common_voice_en_c.mp3", "LibriTTS/train-clean-100/103/1241/103_1241_000001_000000"
TRANS = "fe_03_p1_tran/data/trans/000/fe_03_00002.txt"
BROKEN = [
    ("libritts", corpora.libritts, drop(f"{TTS}.wav"), "no sound for the transcripts of 103_1241_000001"),
    ("libritts", corpora.libritts, drop(f"{TTS}.normalized.txt"), "no transcripts for the sounds 103_1241_000001"),
    ("common-voice", corpora.common_voice, drop(CV), "no sound for the transcripts of common_voice_en_c.mp3"),
    ("common-voice", corpora.common_voice, rewrite("en/dev.tsv", "client_id", "who"), "lacks the columns client_id"),
    ("common-voice", corpora.common_voice, rewrite("en/dev.tsv", "_c.mp3", "_a.mp3"), "listed twice"),
    ("common-voice", corpora.common_voice, rewrite("en/dev.tsv", "common_voice_en_c", "../../c"), "points out of"),
    ("common-voice", corpora.common_voice, rewrite("en/clip_durations.tsv", "\t300", "\tlong"), "no milliseconds of"),
    ("common-voice", corpora.libritts, None, "none of train.tsv, dev.tsv and test.tsv"),
    ("vctk", corpora.vctk, drop("VCTK-Corpus-0.92/txt/p225/p225_001.txt"), "no transcripts for the sounds p225_001"),
    ("vctk", corpora.vctk, drop("VCTK-Corpus-0.92/wav48_silence_trimmed/p225/p225_001_mic1.flac"), "no sound for"),
    ("vctk", corpora.libritts, None, "has no wav48_silence_trimmed"),
    ("gigaspeech", corpora.gigaspeech, drop("audio/podcast/P0000/YOU2.opus"), "are not there: .*YOU2.*--subset M"),
    ("gigaspeech", corpora.gigaspeech, rewrite("GigaSpeech.json", '"end_time": 0.75', '"end_time": 0.2'), "is a part"),
    ("gigaspeech", corpora.gigaspeech, rewrite("GigaSpeech.json", '"text_tn"', '"text"'), "text_tn is missing"),
    ("gigaspeech", corpora.gigaspeech, rewrite("GigaSpeech.json", "audio/podcast", "../podcast"), "points out of"),
    ("fisher", corpora.fisher, rewrite(TRANS, "1.25 2.75", "2.75 1.25"), "fe_03_00002.txt: not .* line 6"),
    ("fisher", corpora.fisher, rewrite(TRANS, "B: it", "C: it"), "fe_03_00002.txt: not .* line 6"),
    ("fisher", corpora.fisher, drop(TRANS), "no transcripts for the sounds fe_03_00002"),
    ("fisher", corpora.fisher, drop("fe_03_p1_sph1/audio/000/fe_03_00002.sph"), "no sound for the transcripts of fe"),
    ("huggingface", corpora.saved, drop("train/data-00001-of-00002.arrow"), "data-00001-of-00002.arrow: not a whole"),
    ("huggingface", corpora.saved, drop("elsewhere/4.flac"), "that are not there: .*4.flac"),
    ("huggingface", corpora.saved, cut_arrow, "not a whole Arrow file"),
    ("huggingface", corpora.saved, number_texts, "the column 'text' holds int64, which is no text"),
    ("huggingface", corpora.saved, rewrite("test/state.json", "data-00000", "../data-00000"), "points out of"),
    ("huggingface", corpora.saved, rewrite("test/state.json", "_data_files", "_files"), "_data_files is missing"),
    ("audiofolder", corpora.audiofolder, drop("train/sounds/a.wav"), "not there: .*train/sounds/a.wav"),
    ("audiofolder", corpora.audiofolder, rewrite("train/metadata.csv", "sounds/a", "../a"), "points out of"),
    ("audiofolder", corpora.audiofolder, rewrite("train/metadata.csv", "file_name", "name"), "no column names sound"),
    ("audiofolder", corpora.audiofolder, rewrite("train/metadata.csv", ",7", ""), "first line: line 2 has 2"),
    ("audiofolder", corpora.audiofolder, lambda r: put(r / "train/new.wav", sound(1)), "names the sounds train/new"),
    ("csv", corpora.table, rewrite("list.csv", "0.5", "soon"), "line 2: a part of a file needs numbers"),
    ("csv", corpora.table, rewrite("list.csv", "wavs/1.wav", " "), "line 3: no sound file is named"),
    ("csv", corpora.table, rewrite("list.csv", "wavs/1.wav", "wavs/0.wav"), "ids must be unique"),
    ("csv", corpora.table, rewrite("list.csv", '"one; ""two"" 1"', '"one"'), None),
    ("csv", corpora.libritts, None, "no .csv or .tsv files in it"),
]  # fmt: skip


@pytest.mark.parametrize("corpus, build, change, message", BROKEN, ids=[f"{c}-{m}"[:50] for c, _, _, m in BROKEN])
def test_what_does_not_fit_is_refused(tmp_path: Path, corpus: str, build, change, message: str | None) -> None:
    root = build(tmp_path / "c")
    if change is not None:
        change(root)
    if message is None:
        assert read_corpus(root, corpus=corpus)
        return
    with pytest.raises(BadInput, match=message):
        read_corpus(root, corpus=corpus)


def test_columns_can_be_named_and_a_wrong_name_lists_what_is_there(tmp_path: Path) -> None:
    root = corpora.table(tmp_path)
    named = Options(speaker="voice", text="", split="", id="Voice")
    entries = read_corpus(root / "list.csv", corpus="csv", options=named, heldout=0)
    assert [(e.id, e.speaker, e.text, e.split) for e in entries] == [(f"v{i}", f"v{i}", "", "train") for i in range(3)]
    with pytest.raises(BadInput, match=r"no column 'said' \(--text-column\); it has: Wav, Start, End, Sentence, Voice"):
        read_corpus(root, corpus="csv", options=Options(text="said"))
    put(root / "list.csv", "recording,words\nwavs/0.wav,a\n")
    with pytest.raises(BadInput, match=r"no column names sound files\. It has: recording, words\. .*--path-column"):
        read_corpus(root, corpus="csv")
    assert read_corpus(root, corpus="csv", options=Options(path="recording", text="words"))[0].text == "a"
    with pytest.raises(BadInput, match="--text-column says nothing of the corpus 'vctk'; it is for huggingface"):
        read_corpus(root, corpus="vctk", options=Options(text="words"))
    with pytest.raises(BadInput, match="--subset says nothing of the corpus 'folder'; it is for gigaspeech"):
        read_corpus(root, corpus="folder", options=Options(subset="M"))


def test_through_the_command_line(twist, tmp_path: Path) -> None:  # noqa: F811
    root = corpora.table(tmp_path)
    put(root / "list.tsv", "recording\twords\nwavs/0.wav\teins\nwavs/1.wav\tzwei\n")
    words = ["--path-column", "recording", "--text-column", "words", "--heldout", "0"]
    done = twist("manifest", root / "list.tsv", "--corpus", "csv", *words, "--out", tmp_path / "m.jsonl")
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [(line["path"], line["text"]) for line in lines] == [("wavs/0.wav", "eins"), ("wavs/1.wav", "zwei")]


def test_gigaspeech_takes_a_subset_and_sets_that_were_not_fetched_are_absent(tmp_path: Path) -> None:
    root = corpora.gigaspeech(tmp_path)
    entries = read_corpus(root, corpus="gigaspeech", options=Options(subset="m"))
    assert [e.id for e in entries] == ["POD1_S1", "POD3_S1"]
    (root / "audio/podcast/P0000/POD3.opus").unlink()
    assert {e.split for e in read_corpus(root, corpus="gigaspeech")} == {"train"}
    with pytest.raises(BadInput, match="'xxl' is no subset of GigaSpeech"):
        read_corpus(root, corpus="gigaspeech", options=Options(subset="xxl"))


def test_the_sides_of_a_call_are_heard_apart_and_held_out_together(tmp_path: Path) -> None:
    entries = read_corpus(corpora.fisher(tmp_path), corpus="fisher")
    by_call = {e.path.stem: e.split for e in entries}
    assert set(by_call.values()) == {"train", "heldout"} and all(e.split == by_call[e.path.stem] for e in entries)
    both, rate = sf.read(entries[0].path, dtype="float32")
    for entry, channel in zip(entries[:2], (0, 1), strict=True):
        clip = read_clip(entry, sample_rate=None)
        first = round(entry.start * rate)
        assert np.array_equal(clip.samples, both[first : first + len(clip.samples), channel])
    speakers = {e.id[:13]: e.speaker for e in entries if e.channel == 1}
    assert speakers == {"fe_03_00001-A": "2602", "fe_03_00002-A": "fe_03_00002-A"}  # the table lacks the second call


def test_one_microphone_of_vctk_is_read_and_p315_has_no_text(tmp_path: Path) -> None:
    entries = {e.id: e for e in read_corpus(corpora.vctk(tmp_path), corpus="vctk")}
    assert len(entries) == 5 and entries["p315_001"].text == "" and entries["p280_001"].text
    assert {e.path.name.rpartition("_")[2] for e in entries.values()} == {"mic1.flac"}


def test_arrow_files_of_paths_or_plain_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.flac", sound(1))
    paths = saved_split(tmp_path / "paths", [pa.table({"audio": ["a.flac"], "text": ["x"]})])
    plain = saved_split(tmp_path / "plain", [pa.table({"sound": [sound(1)], "text": ["x"]})])
    monkeypatch.chdir(tmp_path)
    heard = [read_clip(read_corpus(home, corpus="huggingface")[0], sample_rate=None) for home in (paths, plain)]
    assert np.array_equal(heard[0].samples, heard[1].samples)
    pq.write_table(pa.table({"sound": [sound(1)], "text": ["x"]}), tmp_path / "p.parquet")
    (entry,) = read_corpus(tmp_path, corpus="huggingface")
    assert np.array_equal(read_clip(entry, sample_rate=None).samples, heard[0].samples)


def test_packed_and_damaged_arrow_files_are_refused(tmp_path: Path) -> None:
    table = pa.table({"audio": [bytes(10**6)] * 3})
    with pa.OSFile(str(tmp_path / "z.arrow"), "wb") as file:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(file, table.schema, options=options) as stream:
            stream.write_table(table)
    with pytest.raises(BadInput, match="its batches are packed"):
        ArrowFile(tmp_path / "z.arrow")
    whole = write_arrow(tmp_path / "a.arrow", pa.table({"audio": [b"abc", b"de"]})).read_bytes()
    offsets = whole.rindex(np.array([0, 3, 5], "<i4").tobytes())
    put(tmp_path / "a.arrow", whole[:offsets] + np.array([0, 2**30, 5], "<i4").tobytes() + whole[offsets + 12 :])
    with pytest.raises(BadInput, match=r"a\.arrow: damaged"):
        list(ArrowFile(tmp_path / "a.arrow").batches())
    for data in (b"", b"x" * 100, whole[: len(whole) // 2]):
        put(tmp_path / "b.arrow", data)
        with pytest.raises(BadInput, match=r"b\.arrow: not a whole Arrow file"):
            ArrowFile(tmp_path / "b.arrow")
    os.mkfifo(tmp_path / "f.arrow")
    with pytest.raises(BadInput, match="no regular file"):
        ArrowFile(tmp_path / "f.arrow")


def test_columns_that_are_no_texts_are_refused_and_others_may_be_named(tmp_path: Path) -> None:
    columns = {"audio": [sound(0), sound(1)], "text": [1, 2], "said": ["a", None], "split": ["train", "test"]}
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    with pytest.raises(BadInput, match=r"'text' holds int64, which is no text. Name another with --text-column"):
        read_corpus(tmp_path, corpus="huggingface")
    entries = read_corpus(tmp_path, corpus="huggingface", options=Options(text="said"))
    assert [(e.text, e.split) for e in entries] == [("a", "train"), ("", "test")]  # a column `split` is believed
    entries = read_corpus(tmp_path, corpus="huggingface", options=Options(text="", split=""), heldout=0)
    assert Counter(e.split for e in entries) == {"train": 2}
    pq.write_table(pa.table({"audio": [sound(0)], "duration_ms": ["long"]}), tmp_path / "d.parquet")
    with pytest.raises(BadInput, match="'duration_ms' holds string, which is no number"):
        read_corpus(tmp_path, corpus="huggingface")


def test_a_plain_folder_with_metadata_says_that_they_are_not_read(twist, tmp_path: Path) -> None:  # noqa: F811
    done = twist("manifest", corpora.audiofolder(tmp_path / "f"), "--out", tmp_path / "m.jsonl", "--json")
    assert done.code == 0, done.err
    assert done.json["metadata"] == ["train/metadata.csv", "validation/metadata.csv"]
