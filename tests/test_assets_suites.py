"""What the bundled suites promise, checked on the files that ship."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from twistlm.audio.clip import read
from twistlm.benchmarks.check import open_suites
from twistlm.benchmarks.pseudowords import syllables
from twistlm.benchmarks.release import problems
from twistlm.evaluate.suites.catalogue import BUNDLED, UNSEEN_VOICE, open_suite
from twistlm.evaluate.suites.suite import SEEN, UNSEEN
from twistlm.files.artifacts import bundled

VOICES = {"flite-slt", "flite-awb", "flite-kal16", UNSEEN_VOICE}
SIZES = {"mini-swuggy": 560, "mini-sblimp": 810, "mini-storycloze": 340, "mini-topic-storycloze": 340}
FOLDERS = sorted(set(BUNDLED.values()))


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_size_voices_and_names(name: str, size: int) -> None:
    suite = open_suite(name)
    assert suite.name == name and len(suite.pairs) == size and suite.submission == ""
    voices = suite.facets.get("voice") or suite.facets["speaker"]
    assert set(voices.values()) == VOICES and min(Counter(voices.values()).values()) >= size // 4 - 1
    heard = {pair: UNSEEN if voice == UNSEEN_VOICE else SEEN for pair, voice in voices.items()}
    assert suite.facets["heard"] == heard == {pair.id: pair.group for pair in suite.pairs}
    assert len(set(suite.clusters.values())) == size  # each item is said once
    assert bool(suite.texts) == (name != "mini-swuggy")  # a pseudo-word has no spelling


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_is_there_as_it_was_made(folder: str) -> None:
    assert problems(bundled(folder)) == []
    card = (bundled(folder) / "CARD.md").read_text(encoding="utf-8")
    assert "## Voices" in card and "Texts: " in card and "runs/assets.sh" in card


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_card_says_that_the_check_was_clean(folder: str) -> None:
    card = (bundled(folder) / "CARD.md").read_text(encoding="utf-8")
    assert ", clean\n" in card.partition("## Checked")[2] and "NOT clean" not in card


def test_all_of_them_are_small() -> None:
    files = [path for folder in FOLDERS for path in bundled(folder).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25_000_000


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.thorough
def test_a_pair_has_one_speaker_and_sounds_are_level(name: str) -> None:
    (suite,), speakers = open_suites(name)
    assert set(speakers.values()) == VOICES
    for pair in suite.pairs[:: len(suite.pairs) // 4]:
        for side in (pair.positive, pair.negative):
            sound = suite.clips[side]
            for path in [sound] if isinstance(sound, Path) else sound.parts:
                clip = read(path, sample_rate=None)
                level = 20 * np.log10(np.sqrt(np.mean(np.square(clip.samples))))
                assert clip.sample_rate == 16_000 and -28 < level < -25 and speakers[path] in VOICES


def test_pseudo_words_keep_the_form_and_are_no_words() -> None:
    with (bundled("mini-swuggy") / "lexical" / "dev" / "gold.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    words = {row["phones"] for row in rows if row["correct"] == "1"}
    for word, other in zip(rows[::2], rows[1::2], strict=True):
        good, bad = word["phones"].split(), other["phones"].split()
        assert (word["id"], word["voice"], word["correct"]) == (other["id"], other["voice"], "1")
        assert word["word"] and not other["word"] and other["phones"] not in words
        assert len(good) == len(bad) and 2 <= syllables(good) == syllables(bad) <= 4
        assert sum(a != b for a, b in zip(good, bad, strict=True)) >= 2


def test_topic_endings_are_right_once_and_wrong_once() -> None:
    suite = open_suite("mini-topic-storycloze")
    right = Counter(suite.clips[pair.positive].parts[1] for pair in suite.pairs)  # type: ignore[union-attr]
    wrong = Counter(suite.clips[pair.negative].parts[1] for pair in suite.pairs)  # type: ignore[union-attr]
    assert right == wrong and set(right.values()) == {1}
    other = open_suite("mini-storycloze")
    prompts = [{pair.id: one.clips[pair.positive].parts[0] for pair in one.pairs} for one in (suite, other)]  # type: ignore[union-attr]
    assert prompts[0] == prompts[1]
