"""Leaks and shortcuts: whether a benchmark can be solved, or was seen, without knowing any language.

A rule says of each pair which side is the right one, from something that is no language: the longer one, the louder
one. It must be right as often as chance. A rule that is fixed beforehand could be used in both directions, so it is
tested on both sides; one that is learned from other pairs is tested above chance only (where each ending is right once
and wrong once, learning from the others makes it wrong more often, which helps nobody). p-values are of a sign-flip
test over items, corrected for the number of tests in the suite (Holm 1979).

A text LM that reads the transcripts is the other end: where it is no better than chance, there is nothing to find.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twistlm.benchmarks.chance import Rule, Tested, shortcuts, toplines
from twistlm.benchmarks.cues import RESOLUTION, Cues, measure, unigram_learned, unigram_log_p
from twistlm.benchmarks.release import SUMS, find_suites, validate
from twistlm.benchmarks.texts import read_text
from twistlm.corpus import manifest
from twistlm.errors import BadInput, offenders
from twistlm.evaluate.suites.catalogue import BUNDLED, open_suite
from twistlm.evaluate.suites.sounds import Joined, load
from twistlm.evaluate.suites.suite import Suite
from twistlm.evaluate.unit_cache import tokenize_suite
from twistlm.evaluate.words import words_of
from twistlm.files.artifacts import bundled, cache_to_write
from twistlm.progress import track
from twistlm.types import Pair

if TYPE_CHECKING:
    from twistlm.units.tokenizer import SpeechTokenizer

SAMPLE_RATE = 16_000  # Hz at which clips are measured
_GRAM = 8  # words in a row that no two texts share by chance
_MIN_WORDS = 4  # a shorter sentence may be anywhere
_RULES = {
    "seconds": "the longer one", "level": "the louder one", "lead": "the later start", "trail": "the longer end",
    "pitch": "the higher voice",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found in one suite.

    Attributes:
        suite, version: which one.
        pairs: how many.
        tested: every rule.
        toplines: how often a text LM is right, per text token and summed; empty where none read the suite.
        leaks: what makes a score on it worthless, in words; empty is good.
        notes: what is no fault by itself.
    """

    suite: str
    version: str
    pairs: int
    tested: tuple[Tested, ...]
    toplines: tuple[Tested, ...]
    leaks: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return not self.leaks and not any(test.shortcut for test in self.tested)


def open_suites(where: str | Path) -> tuple[list[Suite], dict[Path, str]]:
    """Return the suites at `where`, and sound file -> speaker where a manifest tells.

    Args:
        where: a folder, or a name as for `twist eval`; checked against its checksums where the folder has them.

    Raises:
        BadInput: as `release.validate`, `release.find_suites` and `catalogue.open_suite`.
    """
    named = None if Path(where).is_dir() else open_suite(str(where))
    name, _, given = str(where).partition("=")
    folder = Path(where) if named is None else Path(given) if given else bundled(BUNDLED[name])
    suites = validate(folder) if (folder / SUMS).is_file() else find_suites(folder)
    listed = manifest.read(folder / manifest.NAME) if (folder / manifest.NAME).is_file() else []
    speakers = {entry.path: entry.speaker for entry in listed if entry.speaker and isinstance(entry.path, Path)}
    return suites if named is None else [named], speakers


def check_suite(
    suite: Suite,
    *,
    alpha: float,
    seed: int,
    speakers: Mapping[Path, str] | None = None,
    tok: SpeechTokenizer | None = None,
    cache: str | Path | None = None,
    training: Sequence[str] | None = None,
    text_lm: str | Path | None = None,
    progress: bool = False,
) -> Checked:
    """Look for leaks and shortcuts in `suite`.

    Args:
        suite: its pairs' clusters are the items.
        alpha: a corrected p-value below it is a shortcut, 0 … 1.
        seed: of resampling, folds and the random rule.
        speakers: sound file -> speaker, to find pairs of two speakers.
        tok: adds rules on units.
        cache: where units are kept; None: twistlm's cache.
        training: what is said in training, to find what was seen there.
        text_lm: folder of a text LM that reads the transcripts, where the suite has those of both sides.
        progress: whether to draw bars.

    Raises:
        BadInput: alpha is no probability. AudioError: a clip cannot be read.
    """
    if not 0 < alpha < 1:
        raise BadInput(f"alpha must lie between 0 and 1, got {alpha}.")
    pairs = sorted(suite.pairs, key=lambda pair: pair.id)
    wanted = sorted(suite.wanted(), key=lambda i: (str(type(suite.clips[i])), suite.clips[i]))
    cues: dict[str, Cues] = {}
    for id in track(wanted, description=f"sounds of {suite.name}", enabled=progress):
        cues[id] = measure(load(suite.clips[id], sample_rate=SAMPLE_RATE, id=id))

    def outcome(value: Callable[[str], float], resolution: float = 0.0) -> NDArray[np.float64]:
        gaps = np.array([value(pair.positive) - value(pair.negative) for pair in pairs])
        gaps[~(np.abs(gaps) >= resolution)] = 0.0  # not heard, or (nan) not there
        return (np.sign(gaps) + 1) / 2

    rng = np.random.default_rng(seed)
    coin = dict(zip(wanted, rng.random(len(wanted)), strict=True))
    rules = [Rule(name="a coin", won=outcome(coin.__getitem__))]
    for field, name in _RULES.items():
        rules.append(Rule(name=name, won=outcome(lambda id, field=field: getattr(cues[id], field), RESOLUTION[field])))  # type: ignore[misc]
    sides = [(pair.positive, pair.negative, suite.clusters[pair.id]) for pair in pairs]
    if tok is not None:
        spoken = tokenize_suite(suite, tok, cache=cache or cache_to_write("eval-units"), progress=progress)
        units = {id: spoken.units[id].ids.tolist() for id in wanted}
        log_p = unigram_log_p(units)
        rules.append(Rule(name="more units", won=outcome(lambda id: float(len(units[id])))))
        rules.append(Rule(name="likelier by unit unigrams", won=outcome(log_p.__getitem__, 1e-9)))
        learned = _won(unigram_learned(units, sides, seed=seed))
        rules.append(Rule(name="learned unit unigrams", won=learned, one_sided=True))
    if suite.texts:
        said = {id: words_of(suite.texts[id]) for id in wanted}
        learned = _won(unigram_learned(said, sides, seed=seed))
        rules.append(Rule(name="learned word unigrams", won=learned, one_sided=True))
    read = toplines(suite, text_lm, seed=seed) if text_lm is not None and suite.texts else ()
    leaks = _leaks(pairs, cues, _speakers(suite, speakers or {}), suite.texts, training)
    if read and min(test.p for test in read) >= alpha:
        leaks.append("a text LM that reads the transcripts is no better than chance: there may be nothing to find")
    return Checked(
        suite=suite.name,
        version=suite.version,
        pairs=len(pairs),
        tested=shortcuts(suite, rules, alpha=alpha, seed=seed),
        toplines=read,
        leaks=tuple(leaks),
        notes=tuple(_notes(cues, suite.texts, training)),
    )


def read_training(path: str | Path) -> list[str]:
    """Return what is said in training: the lines of a text file, or the texts of a manifest's training clips.

    Raises:
        BadInput: it cannot be read, or holds no text.
    """
    path = Path(path)
    if path.is_dir() or path.suffix == ".jsonl":
        texts = [entry.text for entry in manifest.load(path) if entry.split == "train" and entry.text]
    else:
        texts = [line for line in read_text(path).splitlines() if line.strip()]
    if not texts:
        raise BadInput(f"{path} holds no text: give a text file, or a manifest whose training clips have texts.")
    return texts


def seen_in_training(texts: Mapping[str, str], training: Sequence[str]) -> list[str]:
    """Return the clips of `texts` that share a sentence, or 8 words in a row, with a text of `training`."""
    sentences = {sentence for text in training for sentence in _sentences(text)}
    grams = {gram for text in training for gram in _grams(words_of(text))}
    return [
        id
        for id, text in sorted(texts.items())
        if not sentences.isdisjoint(_sentences(text)) or not grams.isdisjoint(_grams(words_of(text)))
    ]


def facts(checked: Checked) -> dict[str, Any]:
    """Return `checked` as JSON."""
    return {
        "suite": checked.suite, "version": checked.version, "pairs": checked.pairs, "clean": checked.clean,
        "leaks": list(checked.leaks), "notes": list(checked.notes), "tested": [vars(test) for test in checked.tested],
        "toplines": [vars(test) for test in checked.toplines],
    }  # fmt: skip


def table(checked: Checked) -> str:
    """Return `checked` for people: a line for each rule and leak."""
    rows = [
        f"  {test.rule:26} {test.group:16} {test.accuracy:6.1%} [{test.ci[0]:.1%}, {test.ci[1]:.1%}]  p {test.p:.3g}"
        f"{'  SHORTCUT' if test.shortcut else ''}"
        for test in (*checked.tested, *checked.toplines)
    ]
    verdict = "clean" if checked.clean else "NOT clean"
    heading = f"{checked.suite} version {checked.version}: {checked.pairs} pairs, {verdict}"
    return "\n".join(
        [heading, *rows, *(f"  LEAK: {x}" for x in checked.leaks), *(f"  note: {x}" for x in checked.notes)]
    )


def _speakers(suite: Suite, of_file: Mapping[Path, str]) -> dict[str, set[str]]:
    """Return clip id -> who speaks in it, as far as it is known."""
    files = {
        id: sound.parts if isinstance(sound, Joined) else (sound,)
        for id, sound in suite.clips.items()
        if isinstance(sound, Path | Joined)
    }
    return {id: {of_file[path] for path in paths if path in of_file} for id, paths in files.items()}


def _leaks(
    pairs: Sequence[Pair],
    cues: Mapping[str, Cues],
    speakers: Mapping[str, set[str]],
    texts: Mapping[str, str],
    training: Sequence[str] | None,
) -> list[str]:
    found = []
    digests = {pair.id: (cues[pair.positive].digest, cues[pair.negative].digest) for pair in pairs}
    if same := [id for id, (good, bad) in digests.items() if good == bad]:
        found.append(f"{len(same)} pairs have the same sound on both sides: {offenders(same)}")
    counts = Counter(digests.values())
    if doubled := [id for id, both in digests.items() if counts[both] > 1 and both[0] != both[1]]:
        found.append(f"{len(doubled)} pairs are one pair under several ids: {offenders(doubled)}")
    mixed = [
        pair.id for pair in pairs if len(speakers.get(pair.positive, set()) | speakers.get(pair.negative, set())) > 1
    ]
    if mixed:
        found.append(f"{len(mixed)} pairs have two speakers: {offenders(mixed)}")
    if training is not None and texts and (seen := seen_in_training(texts, training)):
        found.append(
            f"{len(seen)} of {len(texts)} clips share a sentence or {_GRAM} words with training: {offenders(seen)}"
        )
    return found


def _notes(cues: Mapping[str, Cues], texts: Mapping[str, str], training: Sequence[str] | None) -> list[str]:
    notes = []
    counts = Counter(cue.digest for cue in cues.values())
    if repeated := sorted(id for id, cue in cues.items() if counts[cue.digest] > 1):
        notes.append(f"{len(repeated)} clips sound exactly like another one: {offenders(repeated)}")
    if not texts:
        notes.append("the suite has no texts: words, and overlap with training, were not looked at")
    elif training is None:
        notes.append("no training text was given: overlap with it was not looked at")
    return notes


def _won(margin: NDArray[np.float64]) -> NDArray[np.float64]:
    return (np.sign(np.where(np.abs(margin) < 1e-9, 0.0, margin)) + 1) / 2


def _sentences(text: str) -> set[tuple[str, ...]]:
    said = (tuple(words_of(sentence)) for sentence in re.split(r"[.!?]+", text))
    return {words for words in said if len(words) >= _MIN_WORDS}


def _grams(words: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)}
