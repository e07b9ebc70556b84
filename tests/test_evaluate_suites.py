"""The published layouts: what is joined with what, and every broken copy gives an error that says where."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata

import numpy as np
import pytest

from standins import babble
from suite_standins import (
    make_multispeaker,
    make_prosaudit,
    make_salmon,
    make_salmon_tables,
    make_sblimp,
    make_storycloze,
    make_swuggy,
    story_rows,
    wav,
    write_gold,
    write_table,
)
from test_evaluate_perplexity import SPEC, K
from twistlm.errors import AudioError, BadInput
from twistlm.evaluate.suites.catalogue import open_suite
from twistlm.evaluate.suites.salmon import PARTS, salmon
from twistlm.evaluate.suites.sounds import Cell, load
from twistlm.evaluate.suites.storycloze import storycloze
from twistlm.evaluate.suites.zerospeech import prosaudit, sblimp, swuggy, write_submission
from twistlm.evaluate.unit_cache import tokenize_suite
from twistlm.types import Units
from twistlm.units.tokenizer import SpeechTokenizer


class Tokenizer:
    """Units from loudness; counts the clips it was given."""

    spec = SPEC

    def __init__(self):
        self.cut = 0

    def __call__(self, clip):
        assert clip.sample_rate == SPEC.sample_rate
        self.cut += 1
        ids = np.abs(clip.samples[::640] * 1000).astype(np.int64) % K
        return Units(ids.astype(np.uint16), np.ones(len(ids), np.int32), SPEC, clip.id)


def sides(suite):
    return {p.id: (p.positive, p.negative) for p in suite.pairs}


def test_swuggy_joins_on_voice_and_id(tmp_path):
    make_swuggy(tmp_path)
    suite = swuggy(tmp_path, "dev")
    assert len(suite.pairs) == 9 and sides(suite)["A/1"] == ("A1w", "A1n")
    assert all(good[:2] == bad[:2] and (good[2], bad[2]) == ("w", "n") for good, bad in sides(suite).values())
    assert suite.facets["frequency"] == {
        p: {"1": ">100", "2": "6-20", "3": "oov", "4": "1-5"}[p[-1]] for p in sides(suite)
    }
    assert suite.facets["vocabulary"]["B/3"] == "oov" and suite.facets["vocabulary"]["B/4"] == "in"
    assert suite.texts == {}  # pseudo-words have no spelling there
    assert suite.submission == "lexical/dev.txt"


def test_sblimp_and_prosaudit_join_by_id_not_by_row(tmp_path):
    gold = make_sblimp(tmp_path)
    lines = gold.read_text().splitlines()
    gold.write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    suite = sblimp(tmp_path, "dev")
    assert len(suite.pairs) == 8 and len(set(suite.clusters.values())) == 4
    assert all((good[:-1], good[-1], bad[-1]) == (bad[:-1], "1", "0") for good, bad in sides(suite).values())
    assert suite.texts["sA00"] == "Sentence 0 are, twice." and len(suite.texts) == 16
    make_prosaudit(tmp_path)
    pros = prosaudit(tmp_path, "dev")
    assert sides(pros)["lexical/2/A"] == ("pl21", "pl20") and set(pros.facets["type"].values()) == {
        "protosyntax", "lexical",
    }  # fmt: skip


def test_storycloze_joins_on_the_story(tmp_path):
    make_storycloze(tmp_path / "files")
    suite = storycloze(tmp_path / "files", name="storycloze")
    assert sides(suite) == {
        "0f-a1": ("0_0f-a1_correct", "101_0f-a1_incorrect"),
        "b_2": ("2_b_2_correct", "100_b_2_incorrect"),
        "é-3": ("4_é-3_correct", "99_é-3_incorrect"),
    }
    make_multispeaker(tmp_path / "tables")
    spoken = storycloze(tmp_path / "tables", name="topic-storycloze")
    assert len(spoken.pairs) == 6 and set(spoken.clusters.values()) == {"s1", "s2", "s3"}
    # The second speaker's rows are in another order, in row groups of two: s1 is alone in the second.
    assert spoken.clips["af/s1/negative"] == Cell(
        tmp_path / "tables/af/train-00000-of-00001.parquet", 1, "negative_audio", 0
    )
    assert spoken.texts["bm/s2/correct"] == "s2 ends well."
    clip = load(spoken.clips["bm/s3/correct"], sample_rate=24_000, id="x")
    assert np.abs(clip.samples - babble(0.2, seed=2, rate=24_000)).max() < 1e-3
    alone = storycloze(tmp_path / "tables" / "af", name="storycloze")
    assert sorted(sides(alone)) == ["af/s1", "af/s2", "af/s3"]


@pytest.mark.parametrize("make", [make_salmon, make_salmon_tables])
def test_salmon_has_eight_parts(tmp_path, make):
    make(tmp_path)
    suite = salmon(tmp_path)
    assert len(suite.pairs) == (16 if make is make_salmon else 24)
    assert set(suite.facets["part"].values()) == set(PARTS)
    if make is make_salmon:
        assert suite.clips["rir_consistency/10/positive"] == tmp_path / "rir_consistency" / "sample_10_0.wav"
        assert suite.clips["rir_consistency/10/negative"] == tmp_path / "rir_consistency" / "sample_10_1.wav"
    else:
        assert suite.clips["rir_consistency/2/negative"].column == "negative_audio"


def test_sounds_are_cut_once_for_all_suites(tmp_path):
    make_storycloze(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    tok, cache = Tokenizer(), tmp_path / "cache"
    first = tokenize_suite(storycloze(tmp_path / "a", name="storycloze"), tok, cache=cache)
    assert (first.n_cut, tok.cut) == (6, 6)
    wav(tmp_path / "b" / "0_0f-a1_correct.wav", 77, seconds=0.3)
    second = tokenize_suite(storycloze(tmp_path / "b", name="topic-storycloze"), tok, cache=cache)
    assert (second.n_cut, tok.cut) == (1, 7)
    same, changed = "2_b_2_correct", "0_0f-a1_correct"
    assert second.units[same].ids.tolist() == first.units[same].ids.tolist() and second.units[same].id == same
    assert second.units[changed].ids.tolist() != first.units[changed].ids.tolist()
    assert first.suite.version == second.suite.version and first.checksum != second.checksum
    again = tokenize_suite(storycloze(tmp_path / "a", name="storycloze"), tok, cache=cache)
    assert (again.n_cut, again.checksum, tok.cut) == (0, first.checksum, 7)
    for i, units in again.units.items():
        assert np.array_equal(units.ids, tok(load(again.suite.clips[i], sample_rate=16_000, id=i)).ids)


def test_words_are_cut_together_and_are_what_each_is_alone(tiny, tmp_path, monkeypatch):
    tok, sizes, together = SpeechTokenizer.load(tiny.tokenizer), list[int](), SpeechTokenizer.batch

    def counted(self, clips):
        sizes.append(len(clips))
        return together(self, clips)

    monkeypatch.setattr(SpeechTokenizer, "batch", counted)
    shutil.copytree(tiny.suite, tmp_path / "words")
    place = tmp_path / "words" / "lexical" / "dev"
    wav(place / "3.wav", 77, seconds=2.5)  # among words: as before
    found = tokenize_suite(open_suite(f"swuggy-dev={tmp_path / 'words'}"), tok, cache=tmp_path / "cache")
    assert sorted(sizes) == [4, 7]  # of 12 sounds, taken by 8
    for i, units in found.units.items():
        assert np.array_equal(units.ids, tok(load(found.suite.clips[i], sample_rate=16_000, id=i)).ids)
    wav(place / "5.wav", 78, seconds=0.01)
    with pytest.raises(AudioError, match="1 of 12 sounds cannot be used"):
        tokenize_suite(open_suite(f"swuggy-dev={tmp_path / 'words'}"), tok, cache=tmp_path / "new")
    kept = tokenize_suite(open_suite(f"swuggy-dev={tiny.suite}"), tok, cache=tmp_path / "new")
    assert kept.n_cut == 2  # 3 and 5 alone


def test_a_killed_pass_goes_on(tmp_path, monkeypatch):
    make_salmon_tables(tmp_path / "salmon")
    monkeypatch.setattr(
        "twistlm.evaluate.unit_cache.ShardWriter", lambda out, spec, **more: writer(out, spec, clips=10, **more)
    )
    from twistlm.corpus.shards import ShardWriter as writer

    class Stopped(Tokenizer):
        def __call__(self, clip):
            if self.cut == 25:
                raise KeyboardInterrupt
            return super().__call__(clip)

    with pytest.raises(KeyboardInterrupt):
        tokenize_suite(salmon(tmp_path / "salmon"), Stopped(), cache=tmp_path / "cache")
    tok = Tokenizer()
    found = tokenize_suite(salmon(tmp_path / "salmon"), tok, cache=tmp_path / "cache")
    distinct = len({load(s, sample_rate=16_000, id="").samples.tobytes() for s in found.suite.clips.values()})
    assert tok.cut == distinct - 20 and len(found.units) == 48


def test_a_submission_holds_what_the_validator_asks(tmp_path):
    make_swuggy(tmp_path / "data")
    stems = {f.stem for f in (tmp_path / "data/lexical/dev").glob("*.wav")}
    write_submission(
        tmp_path / "sub", {"lexical/dev.txt": {s: -1 / (i + 3) for i, s in enumerate(sorted(stems))}}, benchmark="sLM21"
    )
    lines = [line.split(" ") for line in (tmp_path / "sub/lexical/dev.txt").read_text().splitlines()]
    assert all(len(line) == 2 for line in lines) and {line[0] for line in lines} == stems and len(lines) == len(stems)
    assert float(lines[0][1]) == -1 / 3
    meta = json.loads((tmp_path / "sub/meta.yaml").read_text())
    assert meta["benchmark_name"] == "sLM21" and meta["publication"]["authors"].startswith("<")
    (tmp_path / "sub/meta.yaml").write_text("mine")
    write_submission(tmp_path / "sub", {"lexical/test.txt": {"a": 1.0}}, benchmark="sLM21")
    assert (tmp_path / "sub/meta.yaml").read_text() == "mine" and (tmp_path / "sub/lexical/dev.txt").exists()
    with pytest.raises(BadInput, match=r"spaces.*a b"):
        write_submission(tmp_path, {"x.txt": {"a b": 1.0}}, benchmark="sLM21")


def edit(old, new, count=-1):
    def change(gold):
        text = gold.read_text()
        assert old in text
        gold.write_text(text.replace(old, new, count))

    return change


BROKEN_GOLD = [
    (lambda gold: (gold.parent / "A1w.wav").unlink(), r"lexical/dev lacks 1 sounds that gold.csv names: A1w.wav"),
    (lambda gold: wav(gold.parent / "more.wav", 1), r"holds 1 sounds that gold.csv does not name: more.wav"),
    (edit("A1n,", "A1w,"), r"1 files are listed more than once: A1w"),
    (edit("2,B2n", "1,B2n"), r"voice B, id 1: 1 correct, 2 incorrect, voice B, id 2: 1 correct, 0 incorrect"),
    (edit("frequency", "count"), r"lacks the columns frequency; its first line has id, filename"),
    (edit(",300,", ",often,"), r"frequency holds 3 values that are no counts: A/1: 'often', B/1: 'often', C/1"),
    (edit(",1\n", ",yes\n"), r"9 bad lines: line 3: correct is 'yes', not 0 or 1, line 5.*line 11.* … \(9 in all\)"),
    (edit(",1\n", ",yes\n", 1), r"line 3: correct is 'yes'"),
    (edit("A2w,A", "A2w, "), r"line 5: voice is empty"),
    (edit("A1n,A", "A1n"), r"rows without the 8 columns of the first line: line 2 has 7"),
    (lambda gold: gold.write_text(""), r"lacks the columns.*its first line has nothing"),
    (lambda gold: gold.write_text(gold.read_text().splitlines()[0] + "\n"), r"has no rows"),
    (lambda gold: gold.write_bytes(gold.read_bytes() + b"9,\xff\xfe"), r"not UTF-8"),
    (lambda gold: gold.write_text(gold.read_text() + '5,"x'), r"line 20: no row of a table"),
    (lambda gold: gold.unlink(), r"holds lexical/dev/gold.csv"),
]


@pytest.mark.parametrize(("damage", "words"), BROKEN_GOLD)
def test_a_broken_gold_table_is_an_error_that_says_where(tmp_path, damage, words):
    damage(make_swuggy(tmp_path))
    with pytest.raises(BadInput, match=words):
        swuggy(tmp_path, "dev")


def test_a_huge_table_is_refused_unread(tmp_path):
    gold = make_swuggy(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "gold.csv").write_text("task")
    for path, read in (
        (gold, lambda: swuggy(tmp_path, "dev")),
        (tmp_path / "own" / "gold.csv", lambda: storycloze(tmp_path / "own", name="storycloze")),
    ):
        with path.open("r+b") as file:
            file.truncate(10**9)  # a hole: takes no space
        with pytest.raises(BadInput, match=f"{path.name} has more than 95 MB"):
            read()


def test_only_the_first_five_are_named(tmp_path):
    gold = make_swuggy(tmp_path)
    for path in gold.parent.glob("A*.wav"):
        path.unlink()
    with pytest.raises(BadInput, match=r"A1n.wav, A1w.wav, A2n.wav, A2w.wav, A3n.wav … \(8 in all\)"):
        swuggy(tmp_path, "dev")


def test_unicode_names_work_and_their_other_form_is_recognised(tmp_path):
    rows = [
        {"id": "ß", "filename": f"caf\u00e9{correct}", "voice": "Ö", "frequency": 3, "word": "é", "length": 4,
         "correct": correct}
        for correct in (0, 1)
    ]  # fmt: skip
    gold = write_gold(tmp_path / "lexical" / "dev", rows)
    assert sides(swuggy(tmp_path, "dev")) == {"Ö/ß": ("caf\u00e91", "caf\u00e90")}
    (gold.parent / "caf\u00e91.wav").rename(gold.parent / unicodedata.normalize("NFD", "caf\u00e91.wav"))
    with pytest.raises(BadInput, match=r"lacks 1 sounds.*another Unicode form"):
        swuggy(tmp_path, "dev")


def test_ids_with_slashes_stay_apart(tmp_path):
    make_sblimp(tmp_path)
    rows = [{"id": "1", "filename": f"x{i}{c}", "voice": "A", "type": kind, "subtype": sub, "transcription": "x",
             "correct": c} for i, (kind, sub) in enumerate([("a/b", "c"), ("a", "b/c")]) for c in (0, 1)]  # fmt: skip
    shutil.rmtree(tmp_path / "syntactic")
    write_gold(tmp_path / "syntactic" / "dev", rows)
    suite = sblimp(tmp_path, "dev")
    assert len(sides(suite)) == 2 and len(set(suite.clusters.values())) == 2


BROKEN_STORIES = [
    (lambda f: (f / "2_b_2_correct.wav").unlink(), r"1 of 3 stories do not have one.*b_2: 0 correct, 1 incorrect"),
    (lambda f: wav(f / "7_b_2_correct.wav", 3), r"b_2: 2 correct, 1 incorrect"),
    (lambda f: wav(f / "7_b_2_right.wav", 3), r"1 names are not <n>_<story id>_<correct\|incorrect>.wav: 7_b_2_right"),
    (lambda f: shutil.rmtree(f), r"no such folder"),
    (lambda f: [p.unlink() for p in f.iterdir()], r"neither wav files nor Parquet"),
]


@pytest.mark.parametrize(("damage", "words"), BROKEN_STORIES)
def test_a_broken_storycloze_is_an_error_that_says_where(tmp_path, damage, words):
    make_storycloze(tmp_path / "s")
    damage(tmp_path / "s")
    with pytest.raises(BadInput, match=words):
        storycloze(tmp_path / "s", name="storycloze")


def rewrite(change, *, doubled=False):
    def damage(folder):
        rows = story_rows(0)
        change(rows)
        write_table(folder / "bm" / "train-00000-of-00001.parquet", rows)

    return damage


BROKEN_TABLES = [
    (rewrite(lambda rows: rows.append(rows[0])), r"1 stories occur more than once: bm/s1"),
    (rewrite(lambda rows: rows.pop()), r"1 stories are missing for some of the 2 speakers: bm: s3"),
    (rewrite(lambda rows: rows[1].update(negative_text=" ")), r"1 recordings have no text: bm/s2/negative"),
    (rewrite(lambda rows: [r.pop("correct_audio") for r in rows]), r"lacks the columns correct_audio; it has id"),
    (rewrite(lambda rows: [r.update(correct_audio="a.wav") for r in rows]), r"correct_audio holds string, not sound"),
    (lambda f: (f / "bm" / "train-00000-of-00001.parquet").write_bytes(b"PAR1"), r"not a whole Parquet file"),
    (lambda f: (f / "bm" / "train-00000-of-00001.parquet").unlink(), r"1 of 2 folders have no Parquet tables.*: bm"),
]


@pytest.mark.parametrize(("damage", "words"), BROKEN_TABLES)
def test_broken_story_tables_are_an_error_that_says_where(tmp_path, damage, words):
    make_multispeaker(tmp_path)
    damage(tmp_path)
    with pytest.raises(BadInput, match=words):
        storycloze(tmp_path, name="storycloze")


BROKEN_SALMON = [
    (lambda f: shutil.rmtree(f / "rir_consistency"), r"lacks the parts rir_consistency of SALMon"),
    (lambda f: (f / PARTS[0] / "sample_2_0.wav").unlink(), r"bg_alignment: 1 of 2 samples.*sample 2 has k = 1"),
    (lambda f: wav(f / PARTS[0] / "sample_2_2.wav", 1), r"sample 2 has k = 0, 1, 2"),
    (lambda f: wav(f / PARTS[0] / "sample_02_1.wav", 1), r"sample_02_1.wav and sample_2_1.wav are the same sample"),
    (lambda f: wav(f / PARTS[0] / "take_2_1.wav", 1), r"1 names are not sample_<index>_<k>.wav: take_2_1.wav"),
    (lambda f: [p.unlink() for p in (f / PARTS[3]).iterdir()], r"gender_consistency holds neither"),
]


@pytest.mark.parametrize(("damage", "words"), BROKEN_SALMON)
def test_a_broken_salmon_is_an_error_that_says_where(tmp_path, damage, words):
    make_salmon(tmp_path)
    damage(tmp_path)
    with pytest.raises(BadInput, match=words):
        salmon(tmp_path)


def test_doubled_samples_in_tables(tmp_path):
    make_salmon_tables(tmp_path)
    part = tmp_path / PARTS[5]
    shutil.copy(part / "train-00000-of-00001.parquet", part / "train-00001-of-00002.parquet")
    with pytest.raises(BadInput, match="sentiment_alignment: 3 samples occur more than once: 0, 1, 2"):
        salmon(tmp_path)


def test_broken_sounds_are_an_error_that_says_where(tmp_path):
    folder, cache = tmp_path / "s", tmp_path / "cache"

    def cut():
        return tokenize_suite(storycloze(folder, name="storycloze"), Tokenizer(), cache=cache)

    make_storycloze(folder)
    wav(folder / "2_b_2_correct.wav", 1, seconds=0.3, rate=24_000)
    with pytest.raises(BadInput, match=r"1 of 6 sounds are not at 16000 Hz.*2_b_2_correct.wav \(24000 Hz\)"):
        cut()
    (folder / "2_b_2_correct.wav").write_bytes(b"")
    with pytest.raises(AudioError, match=r"2_b_2_correct.wav: empty"):
        cut()
    (folder / "2_b_2_correct.wav").write_bytes(b"RIFF no")
    with pytest.raises(AudioError, match=r"2_b_2_correct.wav: not a sound file"):
        cut()
    whole = (folder / "4_é-3_correct.wav").read_bytes()
    (folder / "2_b_2_correct.wav").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioError, match=r"2_b_2_correct.wav: truncated"):
        cut()
    rows = story_rows(0)
    rows[2]["negative_audio"] = rows[2]["negative_audio"] | {"bytes": None}
    write_table(tmp_path / "t" / "bm" / "a.parquet", rows)
    with pytest.raises(AudioError, match=r"a.parquet \(row group 1, row 0, column negative_audio\): empty"):
        tokenize_suite(storycloze(tmp_path / "t", name="storycloze"), Tokenizer(), cache=cache)
    rows = story_rows(0)
    data = rows[2]["negative_audio"]["bytes"]
    rows[2]["negative_audio"] = {"bytes": data[: len(data) // 2], "path": "x.wav"}
    write_table(tmp_path / "t" / "bm" / "a.parquet", rows)
    with pytest.raises(AudioError, match=r"a.parquet \(row group 1, row 0, column negative_audio\): truncated"):
        tokenize_suite(storycloze(tmp_path / "t", name="storycloze"), Tokenizer(), cache=cache)


def test_all_broken_sounds_are_counted_and_the_first_five_named(tmp_path):
    make_salmon(tmp_path / "salmon")
    paths = sorted((tmp_path / "salmon" / PARTS[0]).iterdir()) + sorted((tmp_path / "salmon" / PARTS[1]).iterdir())
    suite = salmon(tmp_path / "salmon")
    whole = [path.read_bytes() for path in paths]
    for path in paths[:6]:
        path.write_bytes(b"")
    with pytest.raises(AudioError, match=rf"6 of 32 sounds.*{paths[0].name}: empty.*… \(6 in all\)") as raised:
        tokenize_suite(suite, Tokenizer(), cache=tmp_path / "cache")
    assert str(paths[4]) in str(raised.value) and str(paths[5]) not in str(raised.value)
    for path, data in zip(paths[:6], whole, strict=False):  # headers are whole, sounds are cut short
        path.write_bytes(data[: len(data) // 3])
    with pytest.raises(AudioError, match=r"6 of 32 sounds cannot be used: .*truncated.*… \(6 in all\)"):
        tokenize_suite(suite, Tokenizer(), cache=tmp_path / "cache")
    for path, data in zip(paths, whole, strict=True):
        path.write_bytes(data)
    assert tokenize_suite(suite, Tokenizer(), cache=tmp_path / "cache").n_cut <= 6  # the others were kept


def test_an_empty_ending_is_never_a_number(tmp_path):
    import soundfile

    make_storycloze(tmp_path / "files")
    empty = tmp_path / "files" / "100_b_2_incorrect.wav"
    soundfile.write(empty, np.zeros(0), 16_000)
    with pytest.raises(AudioError, match=r"1 of 6 sounds cannot be used: .*100_b_2_incorrect.wav"):
        tokenize_suite(storycloze(tmp_path / "files", name="storycloze"), Tokenizer(), cache=tmp_path / "cache")
    columns = "task,id,voice,topic,prompt,correct,incorrect,pause,prompt_text,correct_text,incorrect_text"
    own = tmp_path / "own"
    for name in ("p", "c"):
        wav(own / f"{name}.wav", 1)
    soundfile.write(own / "i.wav", np.zeros(0), 16_000)
    row = "storycloze,1,A,,p.wav,c.wav,i.wav,0.2,Once.,Well.,{}"
    (own / "gold.csv").write_text(f"{columns}\n{row.format('')}\n")
    with pytest.raises(BadInput, match="1 rows of storycloze have empty fields: A/1"):
        storycloze(own, name="storycloze")
    (own / "gold.csv").write_text(f"{columns}\n{row.format('Badly.')}\n")
    with pytest.raises(AudioError, match=r"1 of 2 sounds cannot be used: .*i.wav"):
        tokenize_suite(storycloze(own, name="storycloze"), Tokenizer(), cache=tmp_path / "cache")


def test_suites_have_names(tmp_path):
    make_sblimp(tmp_path, "test")
    assert open_suite(f"sblimp-test={tmp_path}").name == "sblimp-test"
    with pytest.raises(BadInput, match="did you mean 'sblimp-dev'"):
        open_suite(f"sblimp_dev={tmp_path}")
    with pytest.raises(BadInput, match="salmon=FOLDER"):
        open_suite("salmon")


def test_what_is_only_laid_out_like_a_benchmark_says_so(tmp_path):
    make_sblimp(tmp_path / "release", "dev")
    make_storycloze(tmp_path / "stories")
    assert open_suite(f"sblimp-dev={tmp_path / 'release'}").made_by == ""
    (tmp_path / "release" / "build.json").write_text("{}")
    assert open_suite(f"sblimp-dev={tmp_path / 'release'}").made_by == "twist bench"
    assert open_suite("mini-sblimp").made_by == ""  # its name says that it is another one
    for name, folder, voices in (("mini-sblimp", "release", "A, B"), ("mini-storycloze", "stories", "no voice told")):
        with pytest.raises(BadInput, match=rf"no copy of {name}.* it has {voices}.*{name[5:]}(-dev)?={tmp_path}"):
            open_suite(f"{name}={tmp_path / folder}")


def test_suffixes_in_capitals_and_hidden_names_beside_a_table(tmp_path):
    gold = make_swuggy(tmp_path)
    (gold.parent / "A1w.wav").rename(gold.parent / "A1w.WAV")
    (gold.parent / "._A1n.wav").write_bytes(b"\0\5\26\7")
    gold.write_text(gold.read_text().replace("A1w,", "A1w.WAV,"))
    assert swuggy(tmp_path, "dev").clips["A1w"].name == "A1w.WAV"
    make_storycloze(tmp_path / "s")
    make_salmon(tmp_path / "m")
    for path in (tmp_path / "s" / "4_é-3_correct.wav", tmp_path / "m" / PARTS[0] / "sample_2_0.wav"):
        path.rename(path.with_suffix(".Wav"))
        (path.parent / f"._{path.name}").write_bytes(b"\0")
    assert storycloze(tmp_path / "s", name="storycloze").clips["4_é-3_correct"].name == "4_é-3_correct.Wav"
    assert salmon(tmp_path / "m").clips[f"{PARTS[0]}/2/positive"].name == "sample_2_0.Wav"
    shutil.copy(gold.parent / "A2w.wav", gold.parent / "A2w.WAV")
    with pytest.raises(BadInput, match=r"differ in the case of the suffix: A2w"):
        swuggy(tmp_path, "dev")


@pytest.mark.parametrize(
    ("encoding", "said"), [("utf-16", "it is UTF-16"), ("latin-1", "perhaps Latin-1"), ("utf-8-sig", "")]
)
def test_tables_in_other_encodings(tmp_path, encoding, said):
    gold = make_sblimp(tmp_path)
    gold.write_text(gold.read_text().replace("Sentence 0,", "Phrase à deux,"), encoding=encoding)
    if not said:
        assert sblimp(tmp_path, "dev").pairs
        return
    with pytest.raises(BadInput, match=rf"gold\.csv is not UTF-8 text \(.*{said}.*save it as UTF-8"):
        sblimp(tmp_path, "dev")


def test_formulas_and_wrong_types_are_refused(tmp_path):
    gold = make_sblimp(tmp_path)
    gold.write_text(gold.read_text().replace("Sentence 0,", "=HYPERLINK(1),"))
    with pytest.raises(BadInput, match=r"2 cells are formulas, which spreadsheets run: row 1: transcription '=HYPER"):
        sblimp(tmp_path, "dev")
    for change, said in (
        (lambda rows: [r.update(correct_text=7) for r in rows], "column correct_text holds int64, which is no text"),
        (lambda rows: rows[1].update(id=None), "row 1 of row group 0 has no id"),
        (lambda rows: [r.update(id=[1]) for r in rows], "column id holds list"),
    ):
        rewrite(change)(tmp_path / "t")
        with pytest.raises(BadInput, match=said):
            storycloze(tmp_path / "t", name="storycloze")
    make_salmon_tables(tmp_path / "m")
    table = tmp_path / "m" / PARTS[0] / "a.parquet"
    for path in table.parent.iterdir():
        path.unlink()
    write_table(table, [{"ind": "x", "positive_audio": {"bytes": b""}, "negative_audio": {"bytes": b""}}])
    with pytest.raises(BadInput, match="'x' in the column ind is no number of a sample"):
        salmon(tmp_path / "m")


def test_pipes_in_place_of_what_a_suite_reads_are_not_waited_for(tmp_path):
    gold = make_swuggy(tmp_path)
    suite = swuggy(tmp_path, "dev")
    (gold.parent / "A1w.wav").unlink()
    os.mkfifo(gold.parent / "A1w.wav")
    with pytest.raises(AudioError, match=r"A1w.wav is no regular file"):
        tokenize_suite(suite, Tokenizer(), cache=tmp_path / "cache")
    gold.unlink()
    os.mkfifo(gold)
    with pytest.raises(BadInput, match=r"gold.csv is no regular file"):
        swuggy(tmp_path, "dev")
    (tmp_path / "t" / "bm").mkdir(parents=True)
    os.mkfifo(tmp_path / "t" / "bm" / "a.parquet")
    with pytest.raises(BadInput, match=r"a.parquet: not a whole Parquet file .no regular file"):
        storycloze(tmp_path / "t", name="storycloze")
