"""Readers of corpora, on stand-ins with the directories, names and columns of the real ones."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

import corpora_standins as corpora
from test_corpus_sounds import encoded, wave, write_parquet, write_tar
from tokenizer_standins import FakeTokenizer, by_id
from twistlm.corpus import manifest
from twistlm.corpus import readers as room
from twistlm.corpus.manifest import Entry
from twistlm.corpus.readers import READERS, Options, read_corpus
from twistlm.corpus.readers.librivox import MAX_PAUSE, _join
from twistlm.corpus.readers.options import choose
from twistlm.corpus.readers.tables import split_of
from twistlm.corpus.sounds import Sounds
from twistlm.corpus.tokenize import tokenize
from twistlm.errors import BadInput


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def ogg(seed: int, seconds: float = 0.3) -> bytes:
    return encoded(seed, seconds, "OGG")


def librispeech(root: Path) -> Path:
    for subset, speaker, chapter in (
        ("train-clean-100", "103", "1240"),
        ("train-clean-100", "1034", "121119"),
        ("dev-clean", "84", "121123"),
        ("test-other", "367", "130732"),
    ):
        folder, stem = root / "LibriSpeech" / subset / speaker / chapter, f"{speaker}-{chapter}"
        put(folder / f"{stem}.trans.txt", f"{stem}-0000 CHAPTER ONE\n{stem}-0001 MISSUS RACHEL LYNDE\n")
        for i in range(2):
            put(folder / f"{stem}-{i:04d}.flac", encoded(i))
    put(root / "LibriSpeech" / "SPEAKERS.TXT", "; ID  |SEX| SUBSET\n")
    return root


def libri_light(root: Path) -> Path:
    for speaker, speech in (("960", [[0.4, 1.0], [1.2, 2.0], [3.5, 4.9]]), ("1401", [[0, 0.9]]), ("7", [])):
        folder = root / "small" / speaker / "history_of_holland_319_librivox_64kb_mp3"
        put(folder / "holland_01.flac", encoded(len(speech), 5.0))
        book = {"id": "319", "title": "History of Holland", "genre": ["History"], "meta_genre": "Literature"}
        fields = {"speaker": speaker, "book_meta": book, "snr": 5.391, "voice_activity": speech}
        put(folder / "holland_01.json", json.dumps(fields))
    return root


def mls(root: Path) -> Path:
    for split, book in (("train", "10049"), ("dev", "8758"), ("test", "9034")):
        folder, stem = root / "mls_polish_opus" / split, f"6892_{book}"
        put(folder / "transcripts.txt", f"{stem}_000000\tpierwszy raz\n{stem}_000001\tdrugi\n")
        put(folder / "segments.txt", f"{stem}_000000\thttp://www.archive.org/download/x.mp3\t1.0\t11.0\n")
        for i in range(2):
            put(folder / "audio" / "6892" / book / f"{stem}_{i:06d}.opus", encoded(i, form="FLAC"))
    put(root / "mls_polish_opus" / "metainfo.txt", " SPEAKER   |   GENDER   | PARTITION\n")
    put(root / "mls_lm_polish" / "data.txt", "tekst\n")
    return root


def ljspeech(root: Path) -> Path:
    rows = [f'LJ001-{i:04d}|He said "{i}|He said "number {i}' for i in range(12)]
    put(root / "LJSpeech-1.1" / "metadata.csv", "\n".join(rows) + "\n")
    for i in range(12):
        put(root / "LJSpeech-1.1" / "wavs" / f"LJ001-{i:04d}.wav", encoded(i, form="WAV"))
    return root


def peoples_speech_parquet(root: Path) -> Path:
    for name, ids in (
        ("clean/train-00000-of-00804", "abc"),
        ("dirty_sa/train-00000-of-00001", "d"),
        ("validation/validation-00000-of-00005", "e"),
        ("test/test-00000-of-00009", "f"),
        ("microset/train-00000-of-00001", "a"),
    ):
        columns = {"id": list(ids), "duration_ms": [300] * len(ids), "text": [f"text {id}" for id in ids]}
        write_parquet(root / f"{name}.parquet", [encoded(ord(id)) for id in ids], **columns)
    return root


def peoples_speech_tables(root: Path) -> Path:
    """The table of clean speaks of a tar, that of the test set of files."""
    for table, sounds in (("train/clean", ["show_1/a_0.flac", "show_1/a_1.flac"]), ("test/test", ["b_0.flac"])):
        data = {"duration_ms": [300] * len(sounds), "label": [f"text {s}" for s in sounds], "name": sounds}
        fields = {"identifier": "show", "audio_document_id": "x.mp3", "training_data": data}
        put(root / f"{table}.json", json.dumps(fields) + "\n")
        if table == "train/clean":
            write_tar(root / table / "clean_000000.tar", {f"./{s}": encoded(i) for i, s in enumerate(sounds)})
        else:
            put(root / table / sounds[0], encoded(5))
    return root


SESSION = "20131007-0900-PLENARY-19"


def voxpopuli(root: Path) -> Path:
    header = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender"
    for split, session in (("train", "20120101-0900-PLENARY"), ("dev", SESSION), ("test", "20140101-0900-PLENARY")):
        id = f"{session}-en_{session[:8]}-19:36:20_3"
        put(
            root / "transcribed_data/en" / f"asr_{split}.tsv", f"{header}\n{id}\t\tmister president\t5\t{split}\tmale\n"
        )
        put(root / "transcribed_data/en" / id[:4] / f"{id}.ogg", ogg(1))
    for event, n in ((f"{SESSION}_en", 2), ("20150101-0900-PLENARY_en", 1)):
        for i in range(n):
            put(root / "unlabelled_data/en" / event[:4] / f"{event}_{i}.ogg", ogg(i))
    rows = [f"{SESSION}_de\t0\t0.1\t0.5", f"{SESSION}_de\t1\t0.5\t1.0", "20150101-0900-PLENARY_de\t0\t0\t0.7"]
    rows += ["20150101-0900-PLENARY_fr\t0\t0\t30"]  # a language that is not here
    table = "event_id\tsegment_no\tstart\tend\n" + "\n".join(rows) + "\n"
    put(root / "unlabelled_data/unlabelled_v2.tsv.gz", gzip.compress(table.encode()))
    for event in (f"{SESSION}_de", "20150101-0900-PLENARY_de"):
        put(root / "raw_audios/de" / event[:4] / f"{event}.ogg", ogg(3, 1.0))
    put(root / "raw_audios/original/2013" / f"{SESSION}_original.ogg", ogg(4))
    return root


def stinystories(root: Path) -> Path:
    for shard in (0, 7):
        blobs = [encoded(shard + i) for i in range(6)]
        columns = {"text": [f"Once upon a time {i}." for i in range(6)], "split_sentence": [False] * 6}
        write_parquet(root / "data" / f"data-{shard:05d}-of-02191.parquet", blobs, **columns)
    return root


def webdataset(root: Path) -> Path:
    for shard, keys in (("train-000000", "ab"), ("valid-000000", "c")):
        files = {}
        for key in keys:
            files |= {f"x/{key}.flac": encoded(ord(key)), f"x/{key}.txt": f"text {key}\n".encode()}
            files |= {f"x/{key}.json": json.dumps({"speaker": f"voice {key}", "text": "less"}).encode()}
        write_tar(root / f"{shard}.tar", files | {"x/d.mp3.json": b"[]", "README": b"who made this"})
    return root


def lhotse_cut(id: str, path: Path, start: float = 0.0, seconds: float = 1.0, **changes: object) -> dict:
    recording = {
        "id": "recording-1",
        "sources": [{"type": "file", "channels": [0], "source": str(path)}],
        "sampling_rate": 16_000,
        "num_samples": 16_000,
        "duration": 1.0,
    }
    said = {"id": id, "recording_id": "recording-1", "start": 0.0, "duration": seconds, "channel": 0}
    said |= {"text": f"text {id}", "speaker": "84"}
    cut = {"id": id, "start": start, "duration": seconds, "channel": 0, "supervisions": [said], "recording": recording}
    return cut | {"type": "MonoCut"} | changes


def lhotse(root: Path) -> Path:
    sound = put(root / "audio" / "one.flac", encoded(1, 1.0))
    cuts = [lhotse_cut("a", sound), lhotse_cut("b", sound, 0.25, 0.5), lhotse_cut("c", sound, 0.0, 0.5)]
    put(root / "librispeech_cuts_train-clean-100.jsonl.gz", gzip.compress("\n".join(map(json.dumps, cuts)).encode()))
    put(root / "librispeech_cuts_dev-clean.jsonl", json.dumps(lhotse_cut("d", sound, type="Cut")) + "\n")
    put(root / "librispeech_recordings_dev-clean.jsonl", "{}\n")
    return root


# Name, builder, splits with their number of clips, and one entry: id, speaker, text, whether it is a part, a member.
def fairseq(root: Path) -> Path:
    for i, name in enumerate("abc"):
        put(root / "sounds" / f"{name}.flac", encoded(i))
    put(root / "train.tsv", "sounds\na.flac\t4800\nb.flac\t4800\n")
    put(root / "valid.tsv", f"{root.absolute() / 'sounds'}\nc.flac\t4800\n")
    return root


def test_so_many_seconds_without_an_offset_are_those_from_the_beginning(tmp_path: Path) -> None:
    put(tmp_path / "a.flac", encoded(0, 2.0))
    put(tmp_path / "train.json", json.dumps({"audio_filepath": "a.flac", "duration": 0.5, "text": "half a second"}))
    (entry,) = read_corpus(tmp_path, corpus="nemo", heldout=0.0)
    assert (entry.start, entry.seconds) == (0.0, 0.5)


def test_a_tar_behind_another_is_not_lost_in_silence(tmp_path: Path) -> None:
    for i in range(2):
        write_tar(tmp_path / f"{i}.tar", {f"{i}.flac": encoded(i)})
    joined = b"".join((tmp_path / f"{i}.tar").read_bytes() for i in range(2))
    put(tmp_path / "wds" / "all.tar", joined)
    with pytest.raises(BadInput, match="something follows its end, perhaps a second archive"):
        read_corpus(tmp_path / "wds", corpus="webdataset")


def nemo(root: Path) -> Path:
    put(root / "a.flac", encoded(0, 2.0))
    rows = [{"audio_filepath": "a.flac", "duration": 2.0, "text": "one"},
            {"audio_filepath": "a.flac", "duration": 0.5, "offset": 1.0, "text": "two", "speaker": 7}]  # fmt: skip
    put(root / "train_manifest.json", "\n".join(map(json.dumps, rows)))
    put(root / "dev_manifest.json", json.dumps(rows[0]))
    return root


def kaldi(root: Path) -> Path:
    place = put(root / "train" / "a.flac", encoded(0, 2.0)).absolute()
    put(root / "train" / "wav.scp", f"call {place}\n")
    put(root / "train" / "segments", "s1-a call 0.0 0.5\ns1-b call 1.0 1.5\n")
    put(root / "train" / "text", "s1-a eins\ns1-b zwei Worte\n")
    put(root / "train" / "utt2spk", "s1-a s1\ns1-b s1\n")
    return root / "train"


LAYOUTS = [
    ("librispeech", librispeech, {"train": 4, "dev-clean": 2, "test-other": 2},
     ("103-1240-0001", "103", "MISSUS RACHEL LYNDE", False, False)),
    ("libri-light", libri_light, {"train": 1, "heldout": 2},
     ("small/960/history_of_holland_319_librivox_64kb_mp3/holland_01_0001", "960", "", True, False)),
    ("mls", mls, {"train": 2, "dev": 2, "test": 2}, ("6892_8758_000001", "6892", "drugi", False, False)),
    ("ljspeech", ljspeech, {"train": 9, "heldout": 3}, ("LJ001-0003", "LJ", 'He said "number 3', False, False)),
    ("peoples-speech", peoples_speech_parquet, {"train": 4, "validation": 1, "test": 1},
     ("b", "", "text b", False, True)),
    ("peoples-speech", peoples_speech_tables, {"train": 2, "test": 1},
     ("clean/show_1/a_1.flac", "", "text show_1/a_1.flac", False, True)),
    ("voxpopuli", voxpopuli, {"train": 3, "dev": 5, "test": 1},
     (f"de/{SESSION}_de_1", "", "", True, False)),
    ("stinystories", stinystories, {"train": 11, "heldout": 1},
     ("data/data-00007-of-02191/5", "LJ", "Once upon a time 5.", False, True)),
    ("huggingface", stinystories, {"train": 11, "heldout": 1},
     ("data/data-00000-of-02191/2", "", "Once upon a time 2.", False, True)),
    ("webdataset", webdataset, {"train": 2, "validation": 1},
     ("valid-000000/x/c", "voice c", "text c", False, True)),
    ("lhotse", lhotse, {"train": 3, "validation": 1}, ("b", "84", "text b", True, False)),
    ("fairseq", fairseq, {"train": 2, "validation": 1}, ("valid/c.flac", "", "", False, False)),
    ("nemo", nemo, {"train": 2, "validation": 1}, ("train_manifest/2", "7", "two", True, False)),
    ("kaldi", kaldi, {"train": 1, "heldout": 1}, ("s1-b", "s1", "zwei Worte", True, False)),
    ("libritts", corpora.libritts, {"train": 2, "dev-other": 2},
     ("116_288045_000001_000000", "116", "mister Cuthbert 1.", False, False)),
    ("common-voice", corpora.common_voice, {"train": 2, "dev": 1, "test": 1},
     ("common_voice_en_c", "voice c", 'He said "c, twice.', False, False)),
    ("vctk", corpora.vctk, {"train": 3, "heldout": 2}, ("p225_002", "p225", "Please call Stella 2.", False, False)),
    ("gigaspeech", corpora.gigaspeech, {"train": 2, "dev": 1},
     ("YOU2_S1", "", "AS THEY'RE LEAVING, CAN KASH PULL ZAHRA ASIDE?", True, False)),
    ("fisher", corpora.fisher, {"train": 2, "heldout": 2},
     ("fe_03_00001-B-0001250-0002750", "1790", "it is me [laughter]", True, False)),
    ("huggingface", corpora.saved, {"train": 5, "test": 1},
     ("train/data-00001-of-00002/0", "3", "text 3", False, True)),
    ("audiofolder", corpora.audiofolder, {"train": 2, "validation": 1},
     ("validation/sounds/c.wav", "7", "well, text c", False, False)),
    ("audiofolder", corpora.classes, {"train": 2, "test": 1}, ("test/dog/evaluation.wav", "dog", "", False, False)),
    ("csv", corpora.table, {"train": 2, "validation": 1},
     ("wavs/2.wav@0.5", "", 'one; "two" 2', True, False)),
]  # fmt: skip


@pytest.mark.parametrize("corpus, build, splits, one", LAYOUTS, ids=[f"{c}-{b.__name__}" for c, b, *_ in LAYOUTS])
def test_a_corpus_becomes_a_manifest_and_units(tmp_path: Path, corpus: str, build, splits: dict, one: tuple) -> None:
    entries = read_corpus(build(tmp_path / "corpus"), corpus=corpus)
    assert Counter(e.split for e in entries) == splits
    found = {e.id: e for e in entries}[one[0]]
    assert (found.speaker, found.text, found.start is not None, bool(found.member)) == one[1:]

    manifest.write(entries, tmp_path / "manifest.jsonl")
    assert manifest.read(tmp_path / "manifest.jsonl") == entries
    report = tokenize(tmp_path / "manifest.jsonl", tmp_path / "units", FakeTokenizer())
    assert report.n_done == len(entries) and by_id(tmp_path / "units").keys() == {e.id for e in entries}


def test_every_reader_is_tried_and_says_its_source_licence_and_splits() -> None:
    assert {corpus for corpus, *_ in LAYOUTS} == READERS.keys()
    for read in (
        room.librivox.librispeech,
        room.librivox.libri_light,
        room.librivox.mls,
        room.librivox.ljspeech,
        room.peoples_speech.peoples_speech,
        room.voxpopuli.voxpopuli,
        room.parquet.stinystories,
        room.parquet.huggingface,
        room.webdataset.webdataset,
        room.lhotse.lhotse,
        room.listed.fairseq,
        room.listed.nemo,
        room.listed.kaldi,
        room.librivox.libritts,
        room.common_voice.common_voice,
        room.vctk.vctk,
        room.gigaspeech.gigaspeech,
        room.fisher.fisher,
        room.named.csv,
        room.named.audiofolder,
    ):
        said = " ".join((read.__doc__ or "").split())
        missing = [word for word in ("Source", "icence", "Layout", "Splits: ", "Raises: ") if word not in said]
        assert not missing, (read.__name__, missing)


@given(
    st.lists(st.tuples(st.floats(0, 3), st.floats(0.01, 40)), max_size=12),
    st.floats(0.5, 40),
)
def test_clips_of_marked_speech_hold_all_of_it_and_no_long_pause(gaps: list, max_seconds: float) -> None:
    speech, now = [], 0.0
    for pause, length in gaps:
        speech.append((now + pause, now := now + pause + length))
    clips = list(_join(speech, max_seconds))
    for (_, end), (start, _) in itertools.pairwise(clips):
        assert end <= start  # in order, nothing twice
    assert all(0 < end - start <= max_seconds + 1e-9 for start, end in clips)
    for start, end in speech:
        held = math.fsum(max(0.0, min(end, e) - max(start, s)) for s, e in clips)
        assert held == pytest.approx(end - start)
    for (_, end), (start, _) in itertools.pairwise(speech):
        if start - end > MAX_PAUSE:
            assert all(e <= end + 1e-9 or s >= start - 1e-9 for s, e in clips)


def test_libri_light_joins_near_speech_and_one_subset_may_be_given(tmp_path: Path) -> None:
    root = libri_light(tmp_path)
    entries = read_corpus(root / "small", corpus="libri-light", options=Options(max_seconds=1.6))
    parts = [(e.start, e.seconds) for e in entries if e.speaker == "960"]
    assert parts == [(0.4, 1.6), (3.5, 1.4)]
    assert len(read_corpus(root, corpus="libri-light", options=Options(max_seconds=0.5))) == 2 + 2 + 3 + 2
    by_speaker = {e.speaker: e.split for e in entries}
    assert all(e.split == by_speaker[e.speaker] for e in entries) and set(by_speaker.values()) == {"train", "heldout"}


def test_held_out_share_and_splits_are_as_asked(tmp_path: Path) -> None:
    root = librispeech(tmp_path)
    half = read_corpus(root, corpus="librispeech", heldout=0.5)
    assert 0 < Counter(e.split for e in half)["heldout"] < 4 and Counter(e.split for e in half)["dev-clean"] == 2
    only = read_corpus(root, corpus="librispeech", splits=["dev-clean", "test-other"])
    assert {e.split for e in only} == {"dev-clean", "test-other"} and len(only) == 4
    with pytest.raises(BadInput, match="nothing is in the split dev-other; there are: dev-clean, test-other, train"):
        read_corpus(root, corpus="librispeech", splits=["dev-other"])
    assert read_corpus(root, corpus="folder", seed=3) == manifest.build(root, seed=3)


def test_a_column_is_taken_as_it_is_written_before_as_it_may_be(tmp_path: Path) -> None:
    there = ["path", "Text", "text"]
    for named in ("Text", "text", None):
        options = Options(text=named)
        assert choose(there, options, where="a.csv").text == (named or "text")
    assert choose(["path", "TEXT"], Options(text="Text"), where="a.csv").text == "TEXT"


@pytest.mark.parametrize(
    "name, split",
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("validation/00.tar", "validation"),
        ("clean/test-00000.parquet", "test"),
        ("test/train-0.tar", "train"),
        ("contest/latest.tar", "train"),
        ("librispeech_cuts_train-clean-100.jsonl.gz", "train"),
    ],
)
def test_splits_by_name(tmp_path: Path, name: str, split: str) -> None:
    assert split_of(name, where=tmp_path) == split
    with pytest.raises(BadInput, match="does not tell one split"):
        split_of("train-test-0.tar", where=tmp_path)


def broken(build, change):
    return lambda root: (build(root), change(root))[0]


def rewrite(path: str, old: str, new: str):
    def change(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text
        put(root / path, text.replace(old, new))

    return change


def link_in_tar(root: Path) -> None:
    with tarfile.open(root / "train-000001.tar", "w") as tar:
        member = tarfile.TarInfo("a.flac")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)


LS, VP = "LibriSpeech/train-clean-100/103/1240/103-1240", "transcribed_data/en/asr_dev.tsv"
LL = "small/960/history_of_holland_319_librivox_64kb_mp3/holland_01"


def changed_cut(**changes: object):
    return lambda root: put(root / "cuts_odd.jsonl", json.dumps(lhotse_cut("odd", root / "a.flac", **changes)))


def changed_recording(**changes: object):
    cut = lhotse_cut("odd", Path("a.flac"))
    return lambda root: put(root / "cuts_odd.jsonl", json.dumps(cut | {"recording": cut["recording"] | changes}))


def source(kind: str, channels: list[int]) -> dict:
    return {"sources": [{"type": kind, "channels": channels, "source": "sox a.sph -t wav - |"}]}


BROKEN = [
    ("librispeech", broken(librispeech, lambda r: (r / f"{LS}.trans.txt").unlink()), "no transcripts for the sounds"),
    ("librispeech", broken(librispeech, lambda r: (r / f"{LS}-0001.flac").unlink()), "no sound for the transcripts of"),
    ("librispeech", broken(librispeech, rewrite(f"{LS}.trans.txt", "-0001", "-0000")), "listed twice: 103-1240-0000"),
    ("librispeech", broken(librispeech, lambda r: (r / "LibriSpeech/train-clean-200").mkdir()), "unknown subsets"),
    ("librispeech", ljspeech, "has none of train-clean-100"),
    ("libri-light", broken(libri_light, lambda r: (r / f"{LL}.json").unlink()), "have a .flac or a .json, not both"),
    ("libri-light", broken(libri_light, rewrite(f"{LL}.json", "voice_activity", "vad")), "no voice_activity"),
    ("libri-light", broken(libri_light, rewrite(f"{LL}.json", "[1.2, 2.0]", "[0.9, 2.0]")), "runs backwards"),
    ("mls", broken(mls, rewrite("mls_polish_opus/dev/transcripts.txt", "\t", " ")), "line 1: 1 columns where 2"),
    ("mls", broken(mls, lambda r: (r / "mls_polish_opus/dev/transcripts.txt").unlink()), "no such file"),
    ("mls", broken(mls, lambda r: put(r / "mls_polish_opus/dev/transcripts.txt", b"a\t\xff\n")), "UTF-8"),
    ("ljspeech", broken(ljspeech, rewrite("LJSpeech-1.1/metadata.csv", "LJ001-0003", "../secret")), "no sound for the"),
    ("ljspeech", librispeech, "metadata.csv: no such file"),
    ("peoples-speech", broken(peoples_speech_parquet, lambda r: (r / "clean/train-00001-of-00804.parquet").write_bytes(
        (r / "clean/train-00000-of-00804.parquet").read_bytes())), "ids must be unique, these are not: a, b, c"),
    ("peoples-speech", broken(peoples_speech_tables, lambda r: (r / "test/test/b_0.flac").unlink()), "lists sounds"),
    ("peoples-speech", broken(peoples_speech_tables, rewrite("test/test.json", "[300]", "[300, 1]")), "of one length"),
    ("peoples-speech", broken(peoples_speech_tables, rewrite("test/test.json", '["b_0', '["../../b_0')), "points out"),
    ("peoples-speech", broken(peoples_speech_tables, lambda r: put(r / "test/test.json", "{")), "line 1: not JSON"),
    ("voxpopuli", broken(voxpopuli, rewrite(VP, "\tdev\t", "\teval\t")), "unknown split 'eval'"),
    ("voxpopuli", broken(voxpopuli, rewrite(VP, "speaker_id", "speaker")), "lacks the columns speaker_id"),
    ("voxpopuli", broken(voxpopuli, lambda r: put(r / "raw_audios/de/2016/x-PLENARY_de.ogg", ogg(0))), "no segments"),
    ("voxpopuli", broken(voxpopuli, lambda r: put(r / "unlabelled_data/unlabelled_v2.tsv.gz", b"\x1f\x8bx")), "cannot"),
    ("huggingface", lambda r: write_parquet(r / "train.parquet", [b"x"], audio2=[{"bytes": b"x"}]).parent, "several"),
    ("huggingface", broken(stinystories, lambda r: put(r / "data/x.parquet", b"PAR1")), "not a whole Parquet file"),
    ("huggingface", librispeech, "no .parquet files below it"),
    ("webdataset", broken(webdataset, link_in_tar), "are links, not files: a.flac"),
    ("webdataset", broken(webdataset, lambda r: write_tar(r / "z.tar", {"../a.flac": b""})), "point out of"),
    ("webdataset", broken(webdataset, lambda r: write_tar(r / "z.tar", {"a.flac": b"", "a.wav": b""})), "than one"),
    ("webdataset", broken(webdataset, lambda r: write_tar(r / "z.tar", {"a.txt": b"text"})), "without a sound: a"),
    ("webdataset", broken(webdataset, lambda r: write_tar(r / "z.tar", {"a.flac": b"", "a.json": b"[]"})), "is not"),
    ("webdataset", broken(webdataset, lambda r: put(r / "z.tar", b"x" * 2048)), "not a whole tar file"),
    ("lhotse", broken(lhotse, changed_cut(type="MixedCut")), "'odd' .a MixedCut."),
    ("lhotse", broken(lhotse, changed_cut(recording=None)), "no recording"),
    ("lhotse", broken(lhotse, changed_cut(start="soon")), "a field is missing or wrong"),
    ("lhotse", broken(lhotse, changed_recording(transforms=[{"name": "Speed"}])), "transforms"),
    ("lhotse", broken(lhotse, changed_recording(**source("command", [0]))), "a 'command', not a file"),
    ("lhotse", broken(lhotse, changed_recording(**source("file", [0, 1]))), "not one source of one channel"),
    ("lhotse", ljspeech, "no cut manifests in it"),
    ("timit", librispeech, "not a corpus that can be read. Known: folder, librispeech"),
]  # fmt: skip


@pytest.mark.parametrize("corpus, build, message", BROKEN, ids=[f"{c}-{m[:24]}" for c, _, m in BROKEN])
def test_what_does_not_fit_is_refused(tmp_path: Path, corpus: str, build, message: str) -> None:
    with pytest.raises(BadInput, match=message.replace(".flac", r"\.flac").replace(".parquet", r"\.parquet")):
        read_corpus(build(tmp_path / "corpus"), corpus=corpus)


def test_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    root = ljspeech(tmp_path)
    with pytest.raises(BadInput, match="share"):
        read_corpus(root, corpus="ljspeech", heldout=1.5)
    with pytest.raises(BadInput, match="longer than 0 s"):
        read_corpus(root, corpus="libri-light", options=Options(max_seconds=0))
    with pytest.raises(BadInput, match=r"--max-seconds says nothing of the corpus 'ljspeech'; it is for libri-light"):
        read_corpus(root, corpus="ljspeech", options=Options(max_seconds=9))
    with pytest.raises(BadInput, match="no such folder"):
        read_corpus(root / "elsewhere", corpus="ljspeech")


def test_a_voxpopuli_session_of_the_test_set_is_not_trained_on(tmp_path: Path) -> None:
    entries = {e.id: e for e in read_corpus(voxpopuli(tmp_path), corpus="voxpopuli")}
    assert {entries[f"{lang}/{SESSION}_{lang}_{i}"].split for lang in ("en", "de") for i in range(2)} == {"dev"}
    assert entries["de/20150101-0900-PLENARY_de_0"] == Entry(
        id="de/20150101-0900-PLENARY_de_0",
        path=tmp_path / "raw_audios/de/2015/20150101-0900-PLENARY_de.ogg",
        start=0.0,
        seconds=0.7,
    )
    part = sf.read(entries[f"de/{SESSION}_de_1"].path)[0]
    assert len(part) == len(wave(3, 1.0))  # the session itself is never cut on the disk


def test_hidden_names_are_no_sounds_and_suffixes_count_in_any_case(tmp_path: Path) -> None:
    root = ljspeech(tmp_path / "lj") / "LJSpeech-1.1"
    put(root / "wavs" / "._LJ001-0001.wav", b"\0\5\26\7")
    (root / "wavs" / "LJ001-0002.wav").rename(root / "wavs" / "LJ001-0002.WAV")
    assert len(read_corpus(tmp_path / "lj", corpus="ljspeech")) == 12
    for corpus, build, hidden in (
        ("stinystories", stinystories, "data/._data-00000.parquet"),
        ("webdataset", webdataset, "._a.tar"),
        ("librispeech", librispeech, "LibriSpeech/dev-clean/84/121123/._84-121123.trans.txt"),
    ):
        folder = build(tmp_path / corpus)
        before = len(read_corpus(folder, corpus=corpus))
        put(folder / hidden, b"\0\5\26\7")
        assert len(read_corpus(folder, corpus=corpus)) == before


def test_a_bar_in_a_text_and_repeated_rows_are_named(tmp_path: Path) -> None:
    table = ljspeech(tmp_path / "lj") / "LJSpeech-1.1" / "metadata.csv"
    table.write_text(table.read_text().replace('LJ001-0003|He said "3|', 'LJ001-0003|He | said "3|'))
    with pytest.raises(BadInput, match=r"more than three columns in the lines of LJ001-0003: a \| inside a text"):
        read_corpus(tmp_path / "lj", corpus="ljspeech")
    for subset in ("train", "9_hours"):
        (tmp_path / "hf").mkdir(exist_ok=True)
        write_parquet(tmp_path / "hf" / f"{subset}-00000.parquet", [encoded(0)], id=["x_1"])
    with pytest.raises(
        BadInput, match=r"'x_1' is in both .*9_hours-00000.parquet and .*train-00000.parquet.*one subset"
    ):
        read_corpus(tmp_path / "hf", corpus="huggingface")


def test_manifests_of_others_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = kaldi(tmp_path / "kaldi")
    put(folder / "wav.scp", f"call touch {tmp_path / 'RAN'} |\n")
    with pytest.raises(BadInput, match="Commands are never run"):
        read_corpus(folder, corpus="kaldi")
    assert not (tmp_path / "RAN").exists()
    put(folder / "wav.scp", "other a.flac\n")
    with pytest.raises(BadInput, match="'s1-a' is of 'call', which wav"):
        read_corpus(folder, corpus="kaldi")
    folder = fairseq(tmp_path / "fairseq")
    (folder / "sounds" / "b.flac").unlink()
    with pytest.raises(BadInput, match=r"sounds that are not there: .*b\.flac"):
        read_corpus(folder, corpus="fairseq")
    put(folder / "train.tsv", "sounds\n../../x.flac\t10\n")
    with pytest.raises(BadInput, match="points out of"):
        read_corpus(folder, corpus="fairseq")
    put(nemo(tmp_path / "nemo") / "dev_manifest.json", '{"audio_filepath": "a.flac", "duration": "2"}')
    with pytest.raises(BadInput, match="line 1: needs audio_filepath, and numbers"):
        read_corpus(tmp_path / "nemo", corpus="nemo")


def test_a_part_that_begins_at_0_is_not_the_whole_recording(tmp_path: Path) -> None:
    put(tmp_path / "a.flac", encoded(0, 2.0))
    put(tmp_path / "train_manifest.json", json.dumps({"audio_filepath": "a.flac", "duration": 0.5, "offset": 0.0}))
    (entry,) = read_corpus(tmp_path, corpus="nemo")
    with Sounds() as sounds:
        assert entry.start == 0 and sounds.fetch(entry).clip(sample_rate=16_000).samples.shape == (8_000,)


def test_kaldi_s_ids_may_be_parted_by_a_tab(tmp_path: Path) -> None:
    kaldi(tmp_path)
    folder = tmp_path / "train"
    for name in ("wav.scp", "segments", "text"):
        (folder / name).write_text((folder / name).read_text().replace(" ", "\t", 1))
    assert [e.text for e in read_corpus(folder, corpus="kaldi")] == ["eins", "zwei Worte"]
