"""`twist bench check`: shortcuts that were put in are found, and a benchmark without any is called clean."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from standins import babble, make_suite
from suite_standins import make_sblimp
from test_cli import twist  # noqa: F401
from test_evaluate_suites import Tokenizer
from twistlm.audio.clip import Clip
from twistlm.benchmarks import chance, check
from twistlm.benchmarks.check import check_suite, open_suites, seen_in_training
from twistlm.benchmarks.cues import measure, unigram_learned, unigram_log_p
from twistlm.cli import bench
from twistlm.corpus import manifest
from twistlm.errors import BadInput
from twistlm.evaluate import topline
from twistlm.evaluate.stats import holm
from twistlm.evaluate.suites.catalogue import open_suite
from twistlm.evaluate.suites.sounds import Joined
from twistlm.evaluate.suites.suite import Suite
from twistlm.evaluate.words import words_of
from twistlm.types import Pair

N = 40


def make(folder, *, change=lambda positive, negative: (positive, negative), texts=None, rate=16_000):
    """N pairs of babble; `change` is what makes the sides differ in more than chance."""
    rng = np.random.default_rng(5)
    clips = {}
    for i in range(N):
        sounds = [babble(float(rng.uniform(0.2, 0.3)), seed=int(rng.integers(10**6))) for _ in "+-"]
        for side, sound in zip("+-", change(*sounds), strict=True):
            clips[f"{i}{side}"] = folder / f"{i}{side}.wav"
            soundfile.write(clips[f"{i}{side}"], sound, rate)
    pairs = tuple(Pair(id=str(i), positive=f"{i}+", negative=f"{i}-") for i in range(N))
    return Suite(
        name="made", version="0", pairs=pairs, clips=clips, clusters={p.id: p.id for p in pairs}, texts=texts or {}
    )


def found(suite, **given):
    checked = check_suite(suite, alpha=0.05, seed=0, **given)
    return {test.rule for test in checked.tested if test.shortcut}, checked


def silence(n):
    return np.zeros(n, dtype=np.float32)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda p, n: (p, n), None),
        (lambda p, n: (np.concatenate([p, p[:1600]]), n), "the longer one"),
        (lambda p, n: (p[:-1600], n), "the longer one"),  # the shorter one is right: as good a shortcut
        (lambda p, n: (p * 0.7, n), "the louder one"),
        (lambda p, n: (np.concatenate([silence(800), p[:-800]]), n), "the later start"),
        (lambda p, n: (np.concatenate([p[:-800], silence(800)]), n), "the longer end"),
    ],
)
def test_planted_shortcuts_are_found(tmp_path, change, rule):
    rules, checked = found(make(tmp_path, change=change))
    assert (rule in rules) if rule else checked.clean, checked
    coin = checked.tested[0]
    assert coin.rule == "a coin" and coin.n == N and coin.ci[0] < 0.5 < coin.ci[1]


def test_a_perfect_shortcut_is_found_among_any_number_of_tests():
    """p of drawn flips is never below one in their number: 60 voices with 9 rules once made it chance again."""
    pairs = tuple(Pair(id=f"{v:02d}-{i:03d}", positive="+", negative="-") for v in range(60) for i in range(40))
    speakers = {pair.id: f"v{pair.id[:2]}" for pair in pairs}
    clusters = {pair.id: pair.id for pair in pairs}
    suite = Suite(name="made", version="0", pairs=pairs, clips={}, clusters=clusters, facets={"voice": speakers})
    rules = [chance.Rule(name="the longer one", won=np.ones(len(pairs)))]
    coin = np.random.default_rng(0).integers(2, size=len(pairs)).astype(float)
    rules += [chance.Rule(name=f"coin {i}", won=np.random.default_rng(i).permutation(coin)) for i in range(8)]
    told = chance.shortcuts(suite, rules, alpha=0.05, seed=0)
    assert len(told) == 9 * 61 and {test.rule for test in told if test.shortcut} == {"the longer one"}
    assert all(test.shortcut for test in told if test.rule == "the longer one")


def test_a_voice_may_be_called_all(tmp_path):
    suite = make(tmp_path, change=lambda p, n: (np.concatenate([p, p[:1600]]), n))
    voices = {pair.id: "all" if i % 4 else "other" for i, pair in enumerate(suite.pairs)}
    _, checked = found(dataclasses.replace(suite, facets={"voice": voices}))
    longer = [test for test in checked.tested if test.rule == "the longer one"]
    assert [(test.group, test.n) for test in longer] == [("all", N), ("all", 30), ("other", 10)]


def test_a_voice_of_its_own_pitch_is_found(tmp_path):
    def higher(positive, negative):
        return babble(0.25, seed=len(positive), pitch=190.0), negative

    assert "the higher voice" in found(make(tmp_path, change=higher))[0]


def test_same_sounds_doubled_pairs_speakers_and_training(tmp_path):
    suite = make(tmp_path, texts={f"{i}{s}": f"Number {i} goes {s * (i + 3)} home." for i in range(N) for s in "+-"})
    (tmp_path / "3-.wav").write_bytes((tmp_path / "3+.wav").read_bytes())
    for side in "+-":
        (tmp_path / f"5{side}.wav").write_bytes((tmp_path / f"4{side}.wav").read_bytes())
    speakers = dict.fromkeys(suite.clips.values(), "ann") | {suite.clips["7-"]: "bob"}
    rules, checked = found(suite, speakers=speakers, training=["He said. Number 9 goes home."])
    assert not checked.clean and not rules
    told = " | ".join(checked.leaks)
    assert "1 pairs have the same sound on both sides: 3 |" in told and "one pair under several ids: 4, 5" in told
    assert "two speakers: 7" in told and "9+, 9-" in told
    assert any("sound exactly like another one" in note for note in checked.notes)


def test_a_story_whose_ending_another_voice_speaks_is_found(tmp_path):
    suite = make(tmp_path)
    clips = suite.clips | {f"3{s}": Joined((suite.clips["0+"], suite.clips[f"3{s}"]), 0.1) for s in "+-"}
    speakers = dict.fromkeys(suite.clips.values(), "ann") | {suite.clips["3+"]: "bob", suite.clips["3-"]: "bob"}
    _, checked = found(replace(suite, clips=clips), speakers=speakers)
    assert checked.leaks == ("1 pairs have two speakers: 3",)


def test_a_text_lm_must_beat_chance(tmp_path, monkeypatch):
    texts = {f"{i}{s}": f"{s}{i}" for i in range(N) for s in "+-"}
    suite, seen = make(tmp_path, texts=texts), {}

    def reader(likes):
        def read(folder, given):
            seen.update(folder=folder, given=dict(given))
            return {id: (float(likes(id)), 4) for id in given}

        return read

    monkeypatch.setattr(topline, "score_texts", reader(lambda id: 0.5 * (id[-1] == "+")))
    _, checked = found(suite, text_lm="lm")
    assert checked.clean and seen == {"folder": "lm", "given": texts}
    assert [test.accuracy for test in checked.toplines] == [1.0, 1.0] and checked.toplines[0].p < 0.001
    monkeypatch.setattr(topline, "score_texts", reader(lambda id: int(id[:-1]) % 2 == (id[-1] == "+")))
    _, checked = found(suite, text_lm="lm")
    assert not checked.clean and "no better than chance" in checked.leaks[0]
    assert found(make(tmp_path), text_lm="lm")[1].toplines == ()  # nothing to read


def test_words_that_tell_the_side(tmp_path):
    texts = {f"{i}{s}": f"w{i % 7} {'never' if s == '-' else 'then'} x{i % 5}" for i in range(N) for s in "+-"}
    rules, checked = found(make(tmp_path, texts=texts))
    assert rules == {"learned word unigrams"}
    accuracy = next(test.accuracy for test in checked.tested if test.rule == "learned word unigrams")
    assert accuracy == 1.0


def test_dealt_endings_do_not_look_like_a_shortcut(tmp_path):
    """Every ending is right once and wrong once: what is learned from other pairs is wrong, and nobody can use that."""
    texts = {f"{i}+": f"only{i}" for i in range(N)} | {f"{i}-": f"only{(i + 1) % N}" for i in range(N)}
    rules, checked = found(make(tmp_path, texts=texts))
    low = next(test for test in checked.tested if test.rule == "learned word unigrams")
    assert not rules and low.accuracy < 0.5


def test_units_tell(tmp_path):
    def faint(positive, negative):  # the stand-in's units are degrees of loudness
        return positive, negative * 0.01

    rules, checked = found(make(tmp_path, change=faint), tok=Tokenizer(), cache=tmp_path / "units")
    assert "learned unit unigrams" in rules
    assert {"more units", "likelier by unit unigrams"} <= {test.rule for test in checked.tested}


def test_learned_unigrams_against_a_slow_count():
    rng = np.random.default_rng(0)
    tokens = {f"{i}{s}": rng.integers(5, size=rng.integers(1, 9)).tolist() for i in range(12) for s in "+-"}
    pairs = [(f"{i}+", f"{i}-", f"item{i // 2}") for i in range(12)]
    fold = np.random.default_rng(3).permutation(6) % 5
    vocabulary = sorted({token for one in tokens.values() for token in one})
    for (positive, negative, item), margin in zip(pairs, unigram_learned(tokens, pairs, seed=3), strict=True):
        others = [p for p in pairs if fold[int(p[2][4:])] != fold[int(item[4:])]]
        log = {}
        for n in (0, 1):
            seen = [token for p in others for token in tokens[p[n]]]
            log[n] = {t: np.log((seen.count(t) + 1) / (len(seen) + len(vocabulary))) for t in vocabulary}
        weigh = [sum(log[0][t] - log[1][t] for t in tokens[side]) for side in (positive, negative)]
        assert abs(margin - (weigh[0] - weigh[1])) < 1e-9
    everything = [token for one in tokens.values() for token in one]
    for id, value in unigram_log_p(tokens).items():
        assert abs(value - np.mean([np.log(everything.count(t) / len(everything)) for t in tokens[id]])) < 1e-9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_closed_test_of_bonferroni(p):
    """Oracle: a hypothesis is rejected at p when every set of hypotheses it belongs to is, by Bonferroni."""
    n = len(p)
    sets = [[i for i in range(n) if mask >> i & 1] for mask in range(1, 2**n)]
    slow = [max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(n)]
    assert np.allclose(holm(p), slow)


@pytest.mark.parametrize("pitch", [75.0, 120.0, 210.0, 330.0])
def test_pitch_of_a_hum_and_of_noise(pitch):
    assert abs(measure(Clip(babble(0.5, seed=1, pitch=pitch), 16_000)).pitch / pitch - 1) < 0.03
    noise = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    assert np.isnan(measure(Clip(noise * 0.1, 16_000)).pitch)


def test_overlap_with_training_needs_a_sentence_or_eight_words():
    texts = {
        "same": "It rained. The old man, who was tired, SLEPT!",
        "eight": "and then one two three four five six seven eight again",
        "short": "He slept. I know.",
        "other": "one two three four five six seven nine",
    }
    training = ["The old man who was tired slept. He slept. I know.", "zero one two three four five six seven eight"]
    assert seen_in_training(texts, training) == ["eight", "same"]
    assert words_of("It's Ann's, 'so' — déjà_vu!") == ["it's", "ann's", "so", "déjà", "vu"]
    assert words_of("rock'n'roll, dogs' ''tis'' a''b") == ["rock'n'roll", "dogs", "tis", "a", "b"]
    assert words_of("de\u0301ja\u0300 हिन्दी में") == ["déjà", "हिन्दी", "में"]  # marks are of the letter before them


def test_folders_are_told_by_their_layout(tmp_path):
    make_suite(tmp_path / "mini")
    make_sblimp(tmp_path / "z")
    suites, speakers = open_suites(tmp_path / "z")
    assert [suite.name for suite in suites] == ["sblimp-dev"] and speakers == {}
    assert open_suites(tmp_path / "mini")[0][0].version == open_suite(f"mini-swuggy={tmp_path / 'mini'}").version
    named = f"sblimp-dev={tmp_path / 'z'}"
    assert open_suites(named)[0][0].name == "sblimp-dev"
    sounds = sorted((tmp_path / "z").rglob("*.wav"))
    manifest.write([manifest.Entry(id=p.stem, path=p, speaker="ann") for p in sounds], tmp_path / "z" / manifest.NAME)
    assert open_suites(named)[1] == open_suites(tmp_path / "z")[1] == dict.fromkeys(sounds, "ann")
    with pytest.raises(BadInput, match="known by its layout"):
        open_suites(tmp_path)
    with pytest.raises(BadInput, match="alpha"):
        check_suite(suites[0], alpha=0, seed=0)


def test_words_that_got_no_pseudo_word_are_told():
    facts = {"out": "w", "suites": ["swuggy-dev"], "pairs": 3, "written": True}
    told = bench._made(facts | {"refused": {"so": "not in CMUdict"}}).text
    assert "1 words of the list got no pseudo-word: so (not in CMUdict)" in told
    assert "pseudo-word" not in bench._made(facts | {"refused": {}}).text


def test_verbs(twist, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "cache"))
    sounds = tmp_path / "sound.wav"
    soundfile.write(sounds, babble(0.3, seed=0), 16_000)
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"id": i, "phenomenon": "p", "type": "t", "good": f"Good {i}.", "bad": f"Bad {i}."} for i in range(2)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "b"
    command = ["bench", "blimp", pairs, "--out", out, "--voice", "ann", "--json", "--tts-command"]
    made = twist(*command, f"sh -c 'cp {sounds} \"$1\"' {{text}} {tmp_path}/elsewhere {{wav}}")
    made.refused("wrote no sound", code=1)  # it went elsewhere
    assert not out.exists()
    made = twist(*command, f"sh -c 'cp {sounds} \"$2\"' {{text}} {{text}} {{wav}}")
    assert made.code == 0 and made.json["pairs"] == 2 and made.json["written"], made.err
    assert twist("bench", "validate", out).code == 0
    checked = twist("bench", "check", out, "--json")  # this voice says the same whatever the text
    assert checked.code == 1 and not checked.json["clean"]
    assert "same sound on both sides" in checked.json["suites"][0]["leaks"][0]
    twist("bench", "check", tmp_path / "nowhere").refused("there is no suite")
    twist("bench", "blimp", pairs, "--out", out, "--voice", "slt").refused("ENGINE:VOICE")
    carded = twist("bench", "check", out, "--card")
    card = (out / "CARD.md").read_text()
    assert carded.code == 1 and card.count("## Checked") == 1 and "NOT clean" in card
    assert twist("bench", "validate", out).code == 0  # its checksum is the new card's
    twist("bench", "check", out, "--card")
    assert (out / "CARD.md").read_text() == card
    make_sblimp(tmp_path / "z")
    monkeypatch.setattr(check, "check_suite", None)  # what is refused is refused before anything is measured
    for suite in (tmp_path / "z", f"sblimp-dev={out}", "mini-sblimp"):
        twist("bench", "check", suite, "--card").refused("no whole benchmark of twist bench")
    assert "storycloze" in twist("bench", "--help").out
