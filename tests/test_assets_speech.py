"""The texts' split, and what the bundled speech sample promises, checked on the files that ship."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from twistlm.benchmarks import pseudowords
from twistlm.files.artifacts import bundled

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "assets" / "make"))
import encoder
import texts
import voices

UNSEEN = "rms"
PROSE = st.lists(
    st.sampled_from(
        [
            "In",
            "the",
            "Beginning,",
            "he:",
            "spake;",
            "unto",
            "Mr.",
            "12",
            "LORD",
            "whale!",
            "O'",
            "sea-men",
            "why?",
            "(x)",
            "thé",
            "end.",
        ]
    ),
    max_size=80,
)


def rows_of(folder: str, name: str = "manifest.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (bundled(folder) / name).read_text(encoding="utf-8").splitlines()]


# --- texts ---------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(PROSE)
def test_cut_gives_short_plain_sentences(prose: list[str]) -> None:
    for sentence in texts.cut(" ".join(prose), source="kjv"):
        assert texts.MIN_WORDS <= len(texts.words(sentence.text)) <= texts.MAX_WORDS
        assert sentence.text.isascii() and not any(c.isdigit() or c in "()" for c in sentence.text)
        assert sentence.text[0].isupper() or not sentence.text[0].isalpha()
        assert sentence.text[-1] in ".!?"


@settings(max_examples=50, deadline=None)
@given(PROSE)
def test_the_split_follows_the_words_alone(prose: list[str]) -> None:
    text = " ".join(prose)
    assert texts.split_of(text) == texts.split_of(text.upper()) == texts.split_of(f"  {text},; ")


@settings(max_examples=40, deadline=None)
@given(st.lists(PROSE, max_size=6))
def test_no_sentence_is_in_both_splits_and_none_twice(blocks: list[list[str]]) -> None:
    sentences = texts.unique(s for block in blocks for s in texts.cut(" ".join(block), source="moby"))
    wordings = [" ".join(texts.words(s.text)) for s in sentences]
    assert len(wordings) == len(set(wordings))
    train, heldout = (
        {w for w, s in zip(wordings, sentences, strict=True) if s.split == name} for name in ("train", "heldout")
    )
    assert not train & heldout


def test_about_a_tenth_is_held_out() -> None:
    held = Counter(
        texts.split_of(f"{a * i} sentence {b}") for i in range(1, 21) for a in "abcdefghij" for b in "klmnopqrst"
    )
    assert 0.07 < held["heldout"] / 2000 < 0.13


def test_joined_sentences_come_apart_again() -> None:
    sentences = ["He said, Mr. Starbuck, go now.", "Is it so?", "Behold!"]
    assert texts.sentences_of(" ".join(sentences)) == sentences


# --- voices --------------------------------------------------------------------------------------------------------


def test_no_trained_voice_derives_from_the_unseen_one() -> None:
    assert voices.UNSEEN == UNSEEN
    assert {name for name, voice in voices.VOICES.items() if voice.base == UNSEEN} == set(voices.UNSEEN_VOICES)
    assert all(name.startswith(UNSEEN) for name in voices.UNSEEN_VOICES)
    with pytest.raises(ValueError, match="nothing may be trained on"):
        voices.Voice(name="low", engine="flite", base=UNSEEN, shift=0.9)


@given(st.floats(1e-4, 1.0), st.integers(0, 9))
def test_normalize_sets_the_level_and_keeps_the_peak(gain: float, seed: int) -> None:
    noise = gain * np.random.default_rng(seed).standard_normal(4000)
    level = 20 * np.log10(np.sqrt(np.mean(voices.normalize(noise) ** 2)))
    assert abs(level - voices.LEVEL_DBFS) < 0.01
    click = np.zeros(16_000)
    click[0] = gain
    assert abs(np.abs(voices.normalize(click)).max() - voices.PEAK) < 1e-6


# --- the bundled sample --------------------------------------------------------------------------------------------


def test_sample_holds_an_hour_of_many_voices_in_15_mb() -> None:
    rows = rows_of("speech")
    minutes: dict[str, float] = defaultdict(float)
    for row in rows:
        minutes[row["split"]] += row["seconds"] / 60
    assert sum(minutes.values()) >= 62
    assert set(minutes) == {"train", "heldout_text", "heldout_voice", "librivox"}
    assert minutes["train"] >= 49 and minutes["heldout_text"] >= 6 and minutes["heldout_voice"] >= 6
    assert sum(path.stat().st_size for path in bundled("speech").rglob("*") if path.is_file()) <= 14 * 2**20
    assert len({row["speaker"] for row in rows if row["split"] == "train"}) >= 9
    assert all(3 <= row["seconds"] <= 15 for row in rows if row["split"] != "librivox")


def test_sample_holds_out_a_voice_and_text() -> None:
    rows = rows_of("speech")
    speakers = {
        split: {row["speaker"] for row in rows if row["split"] == split}
        for split in ("train", "heldout_text", "heldout_voice")
    }
    assert speakers["heldout_voice"] == {UNSEEN} and UNSEEN not in speakers["train"] | speakers["heldout_text"]
    assert speakers["heldout_text"] == speakers["train"]
    assert sum(row["split"] == "heldout_voice" for row in rows) >= 60
    said: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row["split"] != "librivox":
            for sentence in texts.sentences_of(row["text"]):
                said[row["split"]].add(" ".join(texts.words(sentence)))
                # A sentence's split never changes: no corpus that is not bundled holds it on the other side.
                assert texts.split_of(sentence) == ("train" if row["split"] == "train" else "heldout"), sentence
    assert not said["train"] & (said["heldout_text"] | said["heldout_voice"])
    assert not said["heldout_text"] & said["heldout_voice"]


def test_sample_files_are_what_the_manifest_says() -> None:
    rows, folder = rows_of("speech"), bundled("speech")
    assert len({row["id"] for row in rows}) == len(rows)
    assert {folder / row["path"] for row in rows} == set((folder / "clips").iterdir())
    for row in rows:
        info = soundfile.info(folder / row["path"])
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "OPUS"), row["id"]
        assert abs(info.duration - row["seconds"]) < 1e-3, row["id"]
    for row in rows[::40]:
        samples, rate = soundfile.read(folder / row["path"])
        assert abs(len(samples) / rate - row["seconds"]) < 1e-3 and np.sqrt(np.mean(samples**2)) > 0.01


# --- pseudo-words --------------------------------------------------------------------------------------------------

ONSETS = {("s",), ("t",), ("t", "r"), ("s", "t", "r"), ("k",), ("m",)}
PHONE = st.sampled_from(["s", "t", "r", "k", "m", "aa1", "ih0", "ax0", "er0"])
WORD = st.lists(PHONE, min_size=1, max_size=9).filter(pseudowords.syllables)


@settings(max_examples=40, deadline=None)
@given(WORD)
def test_parts_join_to_the_word_and_onsets_are_english(word: list[str]) -> None:
    parts = pseudowords.parts_of(tuple(word), ONSETS)
    assert [phone for part in parts for phone in part.phones] == word
    assert len(parts) == 3 * pseudowords.syllables(tuple(word))
    assert all(part.phones in ONSETS | {()} for part in parts if part.role == "onset")


def test_a_word_is_known_by_its_sound() -> None:
    tactics = pseudowords.Phonotactics({("m", "aa1", "s", "t", "er0"), ("k", "ih0", "t", "aa1", "m")})
    assert tactics.is_word(("m", "aa0", "s", "t", "er1"))  # stress does not make another word
    assert tactics.is_word(("m", "aa1", "s", "t", "er0", "z"))  # nor does an ending
    assert tactics.is_word(("k", "ax0", "t", "aa1", "m"))  # nor which short vowel is unstressed
    assert not tactics.is_word(("m", "aa1", "k", "t", "er0"))
    assert tactics.log_p(("m", "aa1")) == -np.inf  # pairs that occur fewer than 5 times are not English


# --- targets of the encoder ----------------------------------------------------------------------------------------


def test_phones_of_the_waveform_are_those_of_its_clips(tmp_path: Path) -> None:
    clips = {"a": (0.7, [["x", 0.0, 0.3], ["y", 0.3, 0.7]]), "b": (0.5, None), "c": (0.3331, [["y", 0.1, 0.3]])}
    manifest = [{"id": id, "path": f"{id}.wav", "seconds": seconds} for id, (seconds, _) in clips.items()]
    phones = [{"id": id, "set": "radio", "phones": told} for id, (_, told) in clips.items() if told is not None]
    for name, rows in (("manifest", manifest), ("phones", phones)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for id, (seconds, _) in clips.items():
        soundfile.write(tmp_path / f"{id}.wav", np.full(round(seconds * 16_000), 0.1), 16_000)
    samples, inside = encoder.waveform([tmp_path], tmp_path)
    slow, names = encoder.phone_labels([tmp_path], "radio", hop=640)
    fast, _ = encoder.phone_labels([tmp_path], "radio", hop=320)
    assert names == ["x", "y"] and len(slow) == len(inside) == len(samples) // 640
    assert np.array_equal(fast[::2], slow) and (slow[~inside] == -1).all() and (fast[36:62] == -1).all()
    # The first clip: centres at 27.5 ms and every 20 ms from there; its last frame ends with it.
    assert fast[:36].tolist() == [0] * 14 + [1] * 19 + [-1] * 3
