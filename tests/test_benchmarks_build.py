"""Building benchmarks: what is dealt, spoken, kept and written, and that the evaluation's readers read it."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from test_evaluate_suites import Tokenizer
from twistlm.audio.clip import Clip
from twistlm.benchmarks.blimp import build_blimp, read_pairs
from twistlm.benchmarks.pseudowords import Phonotactics, heard, read_cmudict, syllables
from twistlm.benchmarks.release import Casting, problems, validate, write_table
from twistlm.benchmarks.spoken import LEVEL_DBFS, MARGIN, Spoken, cut, normalize, speech_edges
from twistlm.benchmarks.storycloze import build_storycloze, deal_endings, read_stories
from twistlm.benchmarks.wuggy import build_wuggy, read_words
from twistlm.errors import AudioError, BadInput
from twistlm.evaluate.suites.sounds import join, load
from twistlm.evaluate.suites.storycloze import PARTS, storycloze
from twistlm.evaluate.suites.zerospeech import sblimp, swuggy
from twistlm.evaluate.unit_cache import tokenize_suite
from voices_standins import Hummer, Talker

HEADER = "id,topic,sentence1,sentence2,sentence3,sentence4,right,wrong\n"


def casting(*voices, rotate=False, format="wav"):
    return Casting(voices=voices or (Hummer(),), rotate=rotate, sample_rate=16_000, format=format)


def story(i, topic="", right=None):
    return {"id": f"s{i}", **{f"sentence{k}": f"Story {i}, {k}." for k in (1, 2, 3, 4)}, "topic": topic,
            "right": right or f"Ends well {'really ' * i}{i}.", "wrong": f"Ends badly {i}."}  # fmt: skip


# --- what was spoken -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [7_999, 10**9])
def test_rates_that_no_clip_has(rate):
    with pytest.raises(BadInput, match="8000 to 192000 Hz"):
        Casting(voices=[Hummer()], rotate=False, sample_rate=rate, format="wav")


def test_a_line_is_spoken_once_and_never_meets_another(tmp_path):
    voice, store = Hummer(), Spoken(16_000, tmp_path)
    clip = store.say(voice, "One.")
    assert clip.sample_rate == 16_000 and abs(20 * np.log10(np.sqrt(np.mean(clip.samples**2))) - LEVEL_DBFS) < 0.05
    assert np.array_equal(Spoken(16_000, tmp_path).say(voice, "One.").samples, clip.samples)
    assert voice.said == ["One."]
    store.say(voice, "Two.")
    store.say(voice, ("t", "uw1"))
    store.say(Hummer(identity="hummer 2"), "One.")
    Spoken(8_000, tmp_path).say(voice, "One.")
    assert voice.said == ["One.", "Two.", "t uw1", "One."] and len(list(tmp_path.rglob("*.flac"))) == 5
    store.path(voice, "Two.").write_bytes(b"damaged")
    assert store.say_all([(voice, "One."), (voice, "Three."), (voice, "Three.")]) == 1
    assert len(store.say(voice, "Two.").samples) and voice.said[-2:] == ["Three.", "Two."]
    with pytest.raises(BadInput, match="takes no phones"):
        store.say(Talker(), ("t", "uw1"))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(500, 4000), st.integers(0, 9))
def test_cut_leaves_the_same_margins_whatever_the_engine_paused(lead, trail, n, seed):
    speech = np.random.default_rng(seed).uniform(0.1, 0.5, n) * np.where(np.arange(n) % 2, 1, -1)
    clip = cut(Clip(np.concatenate([np.zeros(lead), speech, np.zeros(trail)]).astype(np.float32), 16_000))
    margin = round(MARGIN * 16_000)
    assert speech_edges(clip.samples) == (margin, margin + n) and len(clip.samples) == n + 2 * margin
    assert np.abs(normalize(clip.samples)).max() <= 0.9701


# --- StoryCloze ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=2, max_size=12), st.booleans(), st.integers(0, 99))
def test_endings_are_a_permutation_without_a_storys_own(topics, match_length, seed):
    stories = [story(i, topic) for i, topic in enumerate(topics)]
    dealt = deal_endings(stories, match_length=match_length, seed=seed)
    assert sorted(dealt) == list(range(len(stories))) and all(i != j for i, j in enumerate(dealt))
    assert dealt == deal_endings(stories, match_length=match_length, seed=seed)
    if not match_length and max((topics.count(t) for t in topics if t), default=0) * 2 <= len(topics):
        assert not any(topics[i] and topics[i] == topics[j] for i, j in enumerate(dealt))


def test_texts_with_the_same_words_are_one_text(tmp_path):
    stories = [
        story(i, right=right) for i, right in enumerate(["He was happy.", "He was HAPPY!", "It rained.", "Snow."])
    ]
    for seed in range(8):
        dealt = deal_endings(stories, match_length=False, seed=seed)
        assert all({i, j} != {0, 1} and i != j for i, j in enumerate(dealt))
    (tmp_path / "pairs.jsonl").write_text(
        json.dumps({"id": "a", "phenomenon": "p", "type": "t", "good": "He left.", "bad": "he left!"}) + "\n"
    )
    with pytest.raises(BadInput, match="one sentence twice: a"):
        read_pairs(tmp_path / "pairs.jsonl")
    for good, bad in (("It costs $5.", "It costs 5%."), ("Three - two.", "Three + two."), ("It is 1.5", "It is 1 5")):
        row = {"id": "a", "phenomenon": "p", "type": "t", "good": good, "bad": bad}
        (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
        assert len(read_pairs(tmp_path / "pairs.jsonl")) == 1, "signs are spoken"


def test_matching_length_and_chance():
    stories = [story(i) for i in range(30)]
    gap = {
        match: sum(
            abs(len(stories[j]["right"]) - len(stories[i]["right"]))
            for i, j in enumerate(deal_endings(stories, match_length=match, seed=0))
        )
        for match in (True, False)
    }
    assert gap[True] < gap[False] / 3
    assert deal_endings(stories, match_length=False, seed=0) != deal_endings(stories, match_length=False, seed=1)
    with pytest.raises(BadInput, match="same words"):
        deal_endings([story(0, right="Same."), story(1, right="same."), story(2)], match_length=False, seed=0)
    with pytest.raises(BadInput, match="at least 2"):
        deal_endings([story(0)], match_length=False, seed=0)


def build_stories(out, store, *voices, rotate=False, pause=0.2, joined=True, n=3):
    return build_storycloze(
        [story(i, topic=f"t{i}") for i in range(n)], out, casting=casting(*voices, rotate=rotate), pause=pause,
        match_length=False, joined=joined, seed=0, licence="CC0", store=store,
    )  # fmt: skip


def test_storycloze_is_read_apart_and_joined_and_made_once(tmp_path):
    voices = (Hummer(name="low"), Hummer(name="high", identity="hummer high"))
    out, store = tmp_path / "sc", tmp_path / "store"
    made = build_stories(out, store, *voices)
    assert made["written"] and made["spoken"] == 2 * 3 * 3 and made["pairs"] == 12
    apart, joined = storycloze(out, name="storycloze"), storycloze(out / "storycloze", name="storycloze")
    assert sorted(p.id for p in apart.pairs) == sorted(p.id for p in joined.pairs)
    assert apart.facets["speaker"] == joined.facets["speaker"] and set(apart.facets["topic"].values()) == {
        "t0", "t1", "t2"
    }  # fmt: skip
    for side, other in (("correct", "correct"), ("incorrect", "negative")):
        a = load(apart.clips[f"low/s2/{side}"], sample_rate=16_000, id="a")
        b = load(joined.clips[f"low/s2/{other}"], sample_rate=16_000, id="b")
        assert np.array_equal(a.samples, b.samples)
        assert apart.texts[f"low/s2/{side}"] == joined.texts[f"low/s2/{other}"]
    units = tokenize_suite(apart, Tokenizer(), cache=tmp_path / "units")
    assert units.n_cut == 12 and tokenize_suite(joined, Tokenizer(), cache=tmp_path / "units").n_cut == 0
    topic = storycloze(out, name="topic-storycloze")
    assert sorted(topic.texts[f"low/s{i}/incorrect"].split("4. ")[1] for i in range(3)) == sorted(
        story(i)["right"] for i in range(3)
    )
    assert [suite.name for suite in validate(out)] == ["storycloze", "topic-storycloze"]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = build_stories(out, store, *voices)
    assert not again["written"] and not again["spoken"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert build_stories(out, store, *voices, pause=0.5)["written"]
    a2 = load(storycloze(out, name="storycloze").clips["low/s2/correct"], sample_rate=16_000, id="a")
    a = load(joined.clips["low/s2/correct"], sample_rate=16_000, id="a")
    assert len(a2.samples) - len(a.samples) in (0, round(0.3 * 16_000))


def test_parts_that_cannot_be_joined_and_damaged_tables(tmp_path):
    one = Clip(np.ones(10, np.float32), 16_000, id="a")
    assert len(join([one, one, one], pause=0.001).samples) == 30 + 2 * 16
    with pytest.raises(AudioError, match="different rates"):
        join([one, Clip(one.samples, 8_000, id="b")], pause=0)
    with pytest.raises(BadInput, match="pause"):
        join([one, one], pause=-1)
    gold = tmp_path / "gold.csv"
    row = dict.fromkeys(PARTS, "x") | {"task": "storycloze", "pause": "0.3"}
    for rows, said in (
        ([{"id": "1"}], "lacks the columns task"),
        ([row | {"pause": "soon"}], "a pause in it is no number"),
        ([row | {"task": "other"}], "no rows of the task"),
        ([row | {"prompt": ""}], "empty fields: x/x"),
        ([row, row], "more than once: x/x"),
        ([row], "lacks 1 sounds"),
    ):
        write_table(gold, rows)
        with pytest.raises(BadInput, match=said):
            storycloze(tmp_path, name="storycloze")


def test_voices_in_turn_and_a_broken_copy(tmp_path, monkeypatch):
    voices = (Hummer(name="low"), Hummer(name="high", identity="hummer high"))
    out = tmp_path / "sc"
    assert build_stories(out, tmp_path / "store", *voices, rotate=True, joined=False)["pairs"] == 6
    suite = storycloze(out, name="storycloze")
    assert [p.id for p in suite.pairs] == ["low/s0", "high/s1", "low/s2"]
    victim = next((out / "clips" / "low").iterdir())
    data = victim.read_bytes()
    victim.write_bytes(data[:-2] + b"xx")
    with pytest.raises(BadInput, match="changed"):
        validate(out)
    victim.unlink()
    with pytest.raises(BadInput, match="lacks 1 sounds"):
        storycloze(out, name="storycloze")
    (out / "more.txt").write_text("")
    assert {problem.split()[-1] for problem in problems(out)} == {"missing", "listed"}
    with pytest.raises(BadInput, match=r"1 files in it are no part of it: more\.txt"):
        build_stories(out, tmp_path / "store", *voices, rotate=True, joined=False)
    (out / "more.txt").unlink()
    assert build_stories(out, tmp_path / "store", *voices, rotate=True, joined=False)["written"] and not problems(out)
    again = build_stories(out, tmp_path / "store", *voices[::-1], rotate=True, joined=False)  # others take the turns
    assert again["written"] and [p.id for p in storycloze(out, name="storycloze").pairs] == [
        "high/s0",
        "low/s1",
        "high/s2",
    ]
    for pause in (-1.0, math.nan, 100.0):
        with pytest.raises(BadInput, match="--pause"):
            build_stories(out, tmp_path / "store", *voices, pause=pause)
    for facts in ({"benchmark": "wuggy", "split": "dev"}, {"my": "build"}):
        (out / "build.json").write_text(json.dumps(facts))
        with pytest.raises(BadInput, match="holds another benchmark"):
            build_stories(out, tmp_path / "store", *voices)
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("")
    with pytest.raises(BadInput, match="is not a benchmark that twist bench made"):
        build_stories(foreign, tmp_path / "store")
    assert (foreign / "thesis.tex").exists()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(BadInput, match="the folder that this runs in"):
        build_stories(".", tmp_path / "store", *voices)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,right\na,b\n", "lacks the columns sentence1"),
        (HEADER, "no rows"),
        (HEADER + "a,t,1,2,3,4,r,w\na,t,1,2,3,4,r,w\n", "ids occur more than once: a"),
        (HEADER + "a,t,1,2,,4,r,w\n", "row 1: sentence3"),
        (HEADER + "a,t,1,2,3,4,r,r\n", "one ending twice: a"),
        (HEADER + "a,t,1,2,3,4,r,w,more\n", "must be quoted"),
    ],
)
def test_broken_stories(tmp_path, text, said):
    path = tmp_path / "stories.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=said):
        read_stories(path)


def test_stories_without_topics_and_with_a_mark_at_the_start(tmp_path):
    path = tmp_path / "stories.csv"
    path.write_bytes(b"\xef\xbb\xbf" + (HEADER.replace("topic,", "") + 'a,"1, so",2,3,4,r  é,w\n').encode())
    assert read_stories(path)[0] | {} == {
        "id": "a", "sentence1": "1, so", "sentence2": "2", "sentence3": "3", "sentence4": "4", "right": "r é",
        "wrong": "w", "topic": "",
    }  # fmt: skip


# --- pairs of sentences --------------------------------------------------------------------------------------------

PAIRS = [
    {"id": str(i), "phenomenon": kind, "type": "t", "good": f"The cats {i} run.", "bad": f"The cats {i} runs."}
    for i, kind in enumerate(("agreement", "agreement", "island"))
]


@pytest.mark.parametrize("format", ["wav", "ogg"])
def test_blimp_is_read_by_sblimp(tmp_path, format):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair | {"more": 1}) + "\n" for pair in PAIRS))
    made = build_blimp(
        read_pairs(path), tmp_path / "b", casting=casting(Hummer(), Talker(), format=format), split="dev",
        licence="CC0", store=tmp_path / "store",
    )  # fmt: skip
    suite = sblimp(tmp_path / "b", "dev")
    assert made["pairs"] == len(suite.pairs) == 6 and len(set(suite.clusters.values())) == 3
    pair = next(p for p in suite.pairs if p.id == "island/t/2/hum")
    assert suite.texts[pair.positive] == "The cats 2 run." and suite.texts[pair.negative] == "The cats 2 runs."
    assert load(suite.clips[pair.positive], sample_rate=16_000, id="x").seconds > 0.1
    assert [s.name for s in validate(tmp_path / "b")] == ["sblimp-dev"]


def test_broken_pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    for text, said in (
        ("{", "line 1: not JSON"),
        ("[]", "not a JSON object"),
        (json.dumps(PAIRS[0] | {"good": ""}), "row 1: good"),
        (json.dumps(PAIRS[0] | {"bad": "The cats 0 run."}), "one sentence twice: 0"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=said):
            read_pairs(path)
    with pytest.raises(BadInput, match="no such file"):
        read_pairs(tmp_path / "gone.jsonl")
    path.write_text(json.dumps(PAIRS[0] | {"good": "The\u2028cats."}, ensure_ascii=False), encoding="utf-8")
    assert read_pairs(path)[0]["good"] == "The cats."  # no end of a line


# --- words ---------------------------------------------------------------------------------------------------------


def write_cmudict(path):
    """Words of two syllables from all combinations, so that every pair of phones occurs often; a third is missing."""
    onsets, vowels, codas = ["B", "D", "T", "K", "M"], ["AA", "IH"], ["S", "N", "L"]
    lines = [";;; a comment"]
    for a in onsets:
        for v in vowels:
            for c in codas:
                for b in onsets:
                    for w in vowels:
                        if (len(lines) % 3) or a == b:
                            lines.append(f"{a}{v}{c}{b}{w}N  {a} {v}1 {c} {b} {w}0 N")
    path.write_text("\n".join([*lines, "TWICE  T AA1 S T AA0 N", "TWICE(2)  T IH1 S T AA0 N", "SO S AA1 # short"]))
    return read_cmudict(path)


@pytest.mark.thorough
def test_wuggy_is_read_by_swuggy_and_its_pseudo_words_are_none(tmp_path):
    cmudict = write_cmudict(tmp_path / "cmudict.dict")
    words = [word for word in cmudict if word not in ("twice", "so")][::9][:6]
    listed = tmp_path / "words.txt"
    listed.write_text("\n".join([*(f"{word} {7 * i}" for i, word in enumerate(words)), "twice", "so", "unheard"]))
    known = Phonotactics({phones for said in cmudict.values() for phones in said})

    def build(out, seed):
        return build_wuggy(
            read_words(listed), out, cmudict=cmudict, casting=casting(), split="test", seed=seed, licence="CC0",
            store=tmp_path / "store",
        )  # fmt: skip

    made = build(tmp_path / "w", 0)
    assert made["refused"]["twice"] == "2 pronunciations in CMUdict" and made["refused"]["unheard"] == "not in CMUdict"
    assert made["refused"]["so"].startswith("fewer than")
    suite = swuggy(tmp_path / "w", "test")
    assert len(suite.pairs) == made["words"] >= 4 and suite.facets["vocabulary"]
    with (tmp_path / "w" / "lexical" / "test" / "gold.csv").open() as file:
        rows = list(csv.DictReader(file))
    for word, other in zip(rows[::2], rows[1::2], strict=True):
        good, bad = tuple(word["phones"].split()), tuple(other["phones"].split())
        assert (word["id"], word["correct"], other["correct"], other["word"]) == (other["id"], "1", "0", "")
        assert not known.is_word(bad) and len(good) == len(bad) and syllables(good) == syllables(bad)
        assert sum(a != b for a, b in zip(heard(good), heard(bad), strict=True)) >= 2
        assert abs(known.log_p(good) - known.log_p(bad)) <= 1.5
    assert not build(tmp_path / "w", 0)["written"] and build(tmp_path / "w2", 0)["written"]
    gold = "lexical/test/gold.csv"
    assert (tmp_path / "w2" / gold).read_bytes() == (tmp_path / "w" / gold).read_bytes()
    # A corrected dictionary may have the same pronunciations, by other words.
    before = cmudict[words[0]], cmudict[words[1]]
    cmudict[words[1]], cmudict[words[0]] = before
    assert build(tmp_path / "w", 0)["written"]
    # Which words come first decides what is taken (--limit) and who says it: another order is another list.
    listed.write_text("\n".join(reversed(listed.read_text().split("\n"))))
    assert build(tmp_path / "w", 0)["written"]


def test_no_more_words_are_spoken_than_are_wanted(tmp_path):
    """`--limit`: the others lend their parts to pseudo-words and are not spoken; what is chosen is the same."""
    cmudict = write_cmudict(tmp_path / "cmudict.dict")
    words = {word: str(i) for i, word in enumerate([w for w in cmudict if w not in ("twice", "so")][::9][:12])}
    given = {"cmudict": cmudict, "casting": casting(), "split": "test", "seed": 0, "licence": "CC0"}
    made = build_wuggy(words, tmp_path / "few", limit=2, store=tmp_path / "few-spoken", **given)
    build_wuggy(words, tmp_path / "all", store=tmp_path / "all-spoken", **given)
    spoken = [len([p for p in (tmp_path / name).rglob("*") if p.is_file()]) for name in ("few-spoken", "all-spoken")]
    assert made["words"] == 2 and spoken[0] < spoken[1] / 2
    gold = [(tmp_path / name / "lexical" / "test" / "gold.csv").read_text().splitlines() for name in ("few", "all")]
    assert gold[0] == gold[1][: len(gold[0])]


def test_broken_words_and_dictionaries(tmp_path):
    path = tmp_path / "x"
    for text, said in (("a b c\n", "not a word"), ("", "there are no lines"), ("a\nA 3\n", "more than once: a")):
        path.write_text(text)
        with pytest.raises(BadInput, match=said):
            read_words(path)
    for text in ("<html>", "", "{]", "[1]"):
        path.write_text(text)
        with pytest.raises(BadInput):
            read_cmudict(path)
    path.write_text(json.dumps({"HELLO": "HH AH0 L OW2", "HELLO(1)": "HH EH0 L OW1"}))
    assert read_cmudict(path) == {"hello": [("hh", "ax0", "l", "ow0"), ("hh", "eh0", "l", "ow1")]}
