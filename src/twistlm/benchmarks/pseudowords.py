"""Pseudo-words: what could be English and is not.

A pseudo-word keeps its word's syllables, stress, and number of phones in every onset, nucleus and coda; as many of
those parts as the word has syllables are exchanged for parts of other words, as Wuggy does (Keuleers and Brysbaert
2010). All its phone pairs occur in English, its bigram log-probability is near the word's, and no word sounds like it.

Phones are those of CMUdict in lower case with stress ("ay1"), AH0 is "ax0" and secondary stress is none, as flite has
it. Log-probabilities are in nats.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from twistlm.errors import BadInput, offenders

MAX_LOGP_GAP = 1.5  # nats, of the whole word's bigram log-probability
MAX_LENGTH_RATIO = 0.2  # natural logarithm of the longer clip over the shorter
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
    """Return up to `limit` pseudo-words of one word of the stock, the nearest in bigram log-probability first."""
    parts = parts_of(phones, stock.onsets)
    aim = tactics.log_p(phones)
    full = [i for i, part in enumerate(parts) if part.phones]
    found: dict[Phones, float] = {}
    for _ in range(4000):
        if len(found) == 40:
            break
        changed = list(parts)
        for i in rng.choice(full, size=min(syllables(phones), len(full)), replace=False):
            options = stock.parts[parts[i].slot]
            changed[i] = options[int(rng.integers(len(options)))]
        made = tuple(phone for part in changed for phone in part.phones)
        differing = sum(a != b for a, b in zip(heard(made), heard(phones), strict=True))
        gap = abs(tactics.log_p(made) - aim)
        if differing >= 2 and gap <= MAX_LOGP_GAP and not tactics.is_word(made):
            found[made] = gap
    return sorted(found, key=lambda made: (found[made], made))[:limit]


@dataclass
class Balance:
    """Keeps, of each word's pseudo-words, the one that balances the set.

    Neither "the shorter one" in any voice nor "the likelier by bigrams" shall be right more often than chance.

    Attributes:
        lead: rule -> of how many more pairs so far the word is the longer, or the likelier one.
        taken: pseudo-words in use.
    """

    lead: dict[str, int]
    taken: set[Phones] = field(default_factory=set)

    @classmethod
    def of(cls, voices: Iterable[str]) -> Balance:
        return cls(dict.fromkeys([*voices, "log_p"], 0))

    def choose(
        self,
        phones: Phones,
        lengths: Mapping[str, int],
        made: Mapping[Phones, Mapping[str, int]],
        tactics: Phonotactics,
    ) -> Phones | None:
        """Return the best of `made` for the word `phones`, and remember it; None when none fits.

        Args:
            phones: the word.
            lengths: voice -> samples of the word, for each voice that says it.
            made: pseudo-word -> voice -> samples of it. One that differs by more than MAX_LENGTH_RATIO does not fit.
            tactics: gives log-probabilities.
        """
        best: tuple[float, Phones, dict[str, int]] | None = None
        for candidate, said in made.items():
            signs = {voice: _sign(lengths[voice] - said[voice]) for voice in lengths}
            signs["log_p"] = _sign(tactics.log_p(phones) - tactics.log_p(candidate))
            ratio = max(abs(math.log(lengths[voice] / said[voice])) for voice in lengths)
            cost = sum((self.lead[name] + sign) ** 2 for name, sign in signs.items()) + 5 * ratio
            if candidate not in self.taken and ratio < MAX_LENGTH_RATIO and (best is None or cost < best[0]):
                best = (cost, candidate, signs)
        if best is None:
            return None
        self.lead |= {name: self.lead[name] + sign for name, sign in best[2].items()}
        self.taken.add(best[1])
        return best[1]


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
        try:
            lines = list(json.loads(text).items())
        except (json.JSONDecodeError, AttributeError) as error:
            raise BadInput(f"{path} is not a JSON object of pronunciations: {error}.") from error
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


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)
