"""Pseudo-words: what could be English and is not.

A pseudo-word keeps its word's syllables, stress, and number of phones in every onset, nucleus and coda; as many of
those parts as the word has syllables are exchanged for parts of other words, as Wuggy does (Keuleers and Brysbaert
2010). All its phone pairs occur in English, its bigram log-probability is near the word's, and no word sounds like it.

Phones are those of CMUdict in lower case with stress ("ay1"), AH0 is "ax0" and secondary stress is none, as flite has
it. Log-probabilities are in nats.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from twistlm.errors import BadInput, offenders
from twistlm.files.jsonl import parse_json

MAX_LOGP_GAP = 1.5  # nats, of the whole word's bigram log-probability
_TRIES = 4000  # draws for one word before no more pseudo-words are looked for
MIN_PAIR_COUNT = 5  # a phone pair that is rarer is not English
Phones = tuple[str, ...]
Slot = tuple[str, int, str]


@dataclass(frozen=True)
class Part:
    """An onset, nucleus or coda. What it may be exchanged for has the same role, number of phones and stress."""

    role: str
    phones: Phones

    @property
    def slot(self) -> Slot:
        return self.role, len(self.phones), self.phones[0][-1] if self.role.startswith("nucleus") else ""


def bare(phones: Phones) -> Phones:
    """Return the phones without stress marks."""
    return tuple(phone.rstrip("012") for phone in phones)


def heard(phones: Phones) -> Phones:
    """Return what two words are compared by: no stress, one short vowel where unstressed."""
    return tuple("ax" if phone in ("ax0", "ih0", "eh0", "ah0", "uh0") else phone.rstrip("012") for phone in phones)


def syllables(phones: Iterable[str]) -> int:
    """Return the number of vowels."""
    return sum(phone[-1].isdigit() for phone in phones)


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
        """Return whether `phones` sound like a dictionary word, or like one with -s or -d added."""
        inflected = phones[-1] in ("s", "z", "t", "d") and heard(phones[:-1]) in self._known
        return inflected or heard(phones) in self._known

    def log_p(self, phones: Phones) -> float:
        """Return the bigram log-probability; -inf where a pair occurs fewer than MIN_PAIR_COUNT times."""
        if any(self.pairs[pair] < MIN_PAIR_COUNT for pair in self._pairs(phones)):
            return -math.inf
        return sum(math.log(self.pairs[pair] / self.firsts[pair[0]]) for pair in self._pairs(phones))


@dataclass(frozen=True)
class Stock:
    """What parts may be exchanged for: those of a list of words.

    Attributes:
        onsets: word beginnings that at least 3 of the words have.
        parts: slot -> the parts that fit it, one for each occurrence.
    """

    onsets: set[Phones]
    parts: Mapping[Slot, Sequence[Part]]

    @classmethod
    def of(cls, words: Sequence[Sequence[Phones]]) -> Stock:
        """Return the stock of `words`: each one's pronunciations, the first of which gives the parts."""
        said = [phones for pronunciations in words for phones in pronunciations]
        firsts = Counter(phones[: [p[-1].isdigit() for p in phones].index(True)] for phones in said)
        onsets = {onset for onset, count in firsts.items() if count >= 3 and onset}
        parts: dict[Slot, list[Part]] = defaultdict(list)
        for pronunciations in words:
            for part in parts_of(pronunciations[0], onsets):
                parts[part.slot].append(part)
        return cls(onsets, parts)


def pseudo_words(
    phones: Phones, stock: Stock, tactics: Phonotactics, rng: np.random.Generator, *, limit: int
) -> list[Phones]:
    """Return up to `limit` different pseudo-words of one word of the stock, as chance finds them."""
    parts = parts_of(phones, stock.onsets)
    aim = tactics.log_p(phones)
    full = [i for i, part in enumerate(parts) if part.phones]
    found: dict[Phones, None] = {}
    for _ in range(_TRIES):
        if len(found) == limit:
            break
        changed = list(parts)
        for i in rng.choice(full, size=min(syllables(phones), len(full)), replace=False):
            options = stock.parts[parts[i].slot]
            changed[i] = options[int(rng.integers(len(options)))]
        made = tuple(phone for part in changed for phone in part.phones)
        differing = sum(a != b for a, b in zip(heard(made), heard(phones), strict=True))
        near = abs(tactics.log_p(made) - aim) <= MAX_LOGP_GAP
        if differing >= 2 and near and not tactics.is_word(made):
            found[made] = None
    return list(found)


Traits = Mapping[Hashable, float]


@dataclass
class Balance:
    """Finds, of each word's pseudo-words, those that keep the set balanced.

    No rule, such as "the shorter one", "the higher voice" or "the one with more n", shall be right more often than
    chance. Chance alone does not see to that: pseudo-words near their words in probability have the commoner phones,
    and an engine whose melody was learned from sentences says what was in them lower than what was not (flite's `rms`,
    by 1.3 Hz).

    Attributes:
        resolution: trait -> what difference is none.
        lead: trait -> in how many more pairs so far the word's is greater.
        taken: pseudo-words in use.
    """

    resolution: Callable[[Hashable], float]
    lead: Counter[Hashable] = field(default_factory=Counter)
    taken: set[Phones] = field(default_factory=set)

    def rank(self, word: Traits, made: Mapping[Phones, Traits]) -> list[Phones]:
        """Return those of `made` that are not taken, the one that balances best first; a missing trait is 0."""

        def cost(phones: Phones) -> int:
            signs = self._signs(word, made[phones])
            return sum((self.lead[trait] + sign) ** 2 - self.lead[trait] ** 2 for trait, sign in signs.items())

        return sorted(
            (phones for phones in made if phones not in self.taken), key=lambda phones: (cost(phones), phones)
        )

    def take(self, word: Traits, phones: Phones, traits: Traits) -> None:
        """Remember that `phones` is the word's pseudo-word."""
        self.lead.update(self._signs(word, traits))
        self.taken.add(phones)

    def _signs(self, word: Traits, other: Traits) -> dict[Hashable, int]:
        """Return 1 for each trait that is greater in the word, -1 where it is smaller; traits that tie are left out."""
        gaps = {trait: word.get(trait, 0.0) - other.get(trait, 0.0) for trait in {**word, **other}}
        return {t: 1 if gap > 0 else -1 for t, gap in gaps.items() if gap and abs(gap) >= self.resolution(t)}


def read_cmudict(path: str | Path) -> dict[str, list[Phones]]:
    """Return lower-case word -> pronunciations, from CMUdict's text ("word P1 P2 …") or a JSON object of such strings.

    Raises:
        BadInput: no such file, or lines that are not CMUdict's; the first five are named.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}): give CMUdict's cmudict.dict.") from error
    if text.lstrip().startswith("{"):
        lines = list(parse_json(text, where=str(path), kind="CMUdict's pronunciations", shape={str: str}).items())
    else:
        kept = (line.partition(" #")[0].split(None, 1) for line in text.splitlines() if not line.startswith(";;;"))
        lines = [(row[0], row[1] if len(row) > 1 else "") for row in kept if row]
    entries: dict[str, list[Phones]] = defaultdict(list)
    odd = []
    for word, said in lines:
        if not re.fullmatch(r"[A-Z]{1,2}[012]?( +[A-Z]{1,2}[012]?)*", said.strip()):
            odd.append(word)
            continue
        phones = tuple("ax0" if phone == "AH0" else phone.lower().replace("2", "0") for phone in said.split())
        entries[re.sub(r"\(\d+\)$", "", word).lower()].append(phones)
    if odd or not entries:
        raise BadInput(f"{path}: {len(odd)} lines are not pronunciations of CMUdict: {offenders(odd) or 'no line is'}.")
    return dict(entries)
