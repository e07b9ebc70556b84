"""sWUGGY from a list of words: each beside a pseudo-word, both spoken from phones, in the layout of ZeroSpeech 2021.

lexical/<split>/gold.csv    id, filename, voice, frequency, word (empty for pseudo-words), phones, length (in phones),
                            correct
lexical/<split>/<name>.wav  names say nothing of the side
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twistlm.benchmarks.cues import RESOLUTION, measure
from twistlm.benchmarks.engines import Voice, label
from twistlm.benchmarks.pseudowords import Balance, Phones, Phonotactics, Stock, bare, pseudo_words, syllables
from twistlm.benchmarks.release import Casting, Split, stem, write_card, write_gold, write_release
from twistlm.benchmarks.spoken import Spoken
from twistlm.benchmarks.texts import fingerprint_rows, read_text
from twistlm.errors import BadInput, offenders
from twistlm.progress import track

FOUND, CANDIDATES = 40, 6  # pseudo-words found and spoken for each word
MAX_LENGTH_RATIO = 0.2  # natural logarithm of the longer clip over the shorter
_BALANCED = ("seconds", "level", "pitch")
MIN_PHONES = 5  # shorter words have too many neighbours that are words


def read_words(path: str | Path) -> dict[str, str]:
    """Read words, one a line, each alone or with its frequency in LibriSpeech: `house 1234`.

    Returns:
        lower-case word -> frequency, "" where not given (the word is then in no frequency band).

    Raises:
        BadInput: no such file, no words, another kind of line, or a word that occurs twice; the first five are named.
    """
    lines = [line.split() for line in read_text(path).splitlines() if line.strip() and not line.startswith("#")]
    odd = [" ".join(line) for line in lines if len(line) > 2 or (len(line) == 2 and not re.fullmatch(r"\d+", line[1]))]
    if odd or not lines:
        raise BadInput(
            f"{path}: {len(odd)} lines are not a word, or a word and a count: {offenders(odd) or 'there are no lines'}."
        )
    words = [line[0].lower() for line in lines]
    if doubled := sorted(word for word, n in Counter(words).items() if n > 1):
        raise BadInput(f"{path}: {len(doubled)} words occur more than once: {offenders(doubled)}.")
    return {word: "".join(line[1:]) for word, line in zip(words, lines, strict=True)}


def usable_words(words: Mapping[str, str], cmudict: Mapping[str, Sequence[Phones]]) -> tuple[list[str], dict[str, str]]:
    """Return the words that can get a pseudo-word, and why each of the others cannot."""
    refused: dict[str, str] = {}
    for word in words:
        said = cmudict.get(word, [])
        if len(said) != 1:
            refused[word] = f"{len(said)} pronunciations in CMUdict" if said else "not in CMUdict"
        elif len(said[0]) < MIN_PHONES or syllables(said[0]) < 2:
            refused[word] = f"fewer than {MIN_PHONES} phones or 2 syllables"
    return [word for word in words if word not in refused], refused


def build_wuggy(
    words: Mapping[str, str],
    out: str | Path,
    *,
    cmudict: Mapping[str, Sequence[Phones]],
    casting: Casting,
    split: Split,
    limit: int | None = None,
    seed: int,
    licence: str,
    about: str = "",
    store: Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Make a spoken benchmark of words and pseudo-words in `out`, whole or not at all.

    Pseudo-words are as `pseudowords` says; of the CANDIDATES spoken for each word the one kept balances the set best.

    Args:
        words: word -> frequency or "", from `read_words`; the parts of pseudo-words are those of these words.
        out: the folder; one of an earlier build is replaced.
        cmudict: from `read_cmudict`.
        casting: who speaks: voices that take phones.
        split: "dev" or "test", as `twist eval` is to call it.
        limit: how many words, the first ones, at most; the others lend their parts. None: all.
        seed: of the pseudo-words.
        licence: of the list, for the card.
        about: what else the card says, first.
        store: where spoken lines are kept; None: twistlm's cache.
        progress: whether to draw bars.

    Returns:
        facts: out, suites, words, pairs, voices, refused (word -> why it got no pseudo-word), written.

    Raises:
        BadInput: no word can be used, or a voice takes no phones.
    """
    usable, refused = usable_words(words, cmudict)
    if not usable:
        raise BadInput(
            f"none of the {len(words)} words can be used: {offenders([f'{w}: {y}' for w, y in refused.items()])}."
        )
    pronunciations = {phones for said in cmudict.values() for phones in said}
    in_order = {"words": list(words.items())}  # the first ones are taken, and voices take turns
    build = {
        "benchmark": "wuggy", "split": split, "limit": limit, "words": fingerprint_rows([in_order]), "seed": seed,
        "licence": licence, "about": about,
        "cmudict": fingerprint_rows([{word: [" ".join(p) for p in said] for word, said in sorted(cmudict.items())}]),
        **casting.facts(),
    }  # fmt: skip
    spoken = Spoken(casting.sample_rate, store)
    chosen, unmatched = _choose(
        {word: cmudict[word][0] for word in usable},
        Phonotactics(pronunciations),
        casting,
        spoken,
        limit,
        seed,
        progress,
    )
    refused |= unmatched
    if not chosen:
        raise BadInput(f"none of the {len(usable)} words found a pseudo-word near it: give more words.")
    said: list[tuple[Voice, Phones]] = []
    rows: list[dict[str, str]] = []
    for number, (word, made) in enumerate(chosen.items()):
        for voice in casting.of(usable.index(word)):
            for phones, correct in ((cmudict[word][0], "1"), (made, "0")):
                said.append((voice, phones))
                rows.append({
                    "id": str(number), "filename": stem(label(voice), word, correct), "voice": label(voice),
                    "frequency": words[word], "word": word if correct == "1" else "", "phones": " ".join(phones),
                    "length": str(len(phones)), "correct": correct,
                })  # fmt: skip

    def fill(folder: Path) -> None:
        write_gold(folder, place=f"lexical/{split}", said=said, rows=rows, text="word", spoken=spoken, casting=casting)
        body = f"""
{len(chosen)} English words, each beside a pseudo-word that could be English. A speech language model that has learned
words finds the word likelier. The layout is that of sWUGGY in ZeroSpeech 2021; the words are others, so no number on it
compares with sWUGGY's. {len(refused)} words of the list got no pseudo-word.

A pseudo-word keeps its word's syllables, stress and number of phones in every onset, nucleus and coda; its bigram
log-probability in CMUdict is within 1.5 nats of the word's, and nothing in CMUdict sounds like it. Of up to {FOUND}
the one was kept that best balances the set: how often each phone occurs, log-probability and, for each voice, length,
level and pitch. Both sides are spoken from phones.

Score it with `twist eval RUN swuggy-{split}=FOLDER --normalize both`.
"""
        write_card(
            folder,
            title="Words and pseudo-words",
            body=body,
            casting=casting,
            licence=licence,
            command="twist bench wuggy",
            about=about,
        )

    written = write_release(out, build, fill)
    return {
        "out": str(out), "suites": [f"swuggy-{split}"], "words": len(chosen), "pairs": len(rows) // 2,
        "voices": [label(voice) for voice in casting.voices], "refused": refused, "written": written,
    }  # fmt: skip


def _choose(
    words: Mapping[str, Phones],
    tactics: Phonotactics,
    casting: Casting,
    spoken: Spoken,
    limit: int | None,
    seed: int,
    progress: bool,
) -> tuple[dict[str, Phones], dict[str, str]]:
    """Return word -> its pseudo-word, and why the others have none.

    Of FOUND pseudo-words the CANDIDATES that best balance phones and log-probability are spoken; of those the one is
    kept that balances what each voice gives away too.
    """
    rng = np.random.default_rng(seed)
    stock = Stock.of([[phones] for phones in words.values()])

    def written(phones: Phones) -> dict[Hashable, float]:
        return {"log_p": tactics.log_p(phones), **Counter(bare(phones))}

    balance = Balance(lambda _: 0.0)
    spelt: dict[str, list[Phones]] = {}
    for word, phones in track(words.items(), description="pseudo-words", total=len(words), enabled=progress):
        found = {made: written(made) for made in pseudo_words(phones, stock, tactics, rng, limit=FOUND)}
        spelt[word] = balance.rank(written(phones), found)[:CANDIDATES]
        for best in spelt[word][:1]:
            balance.take(written(phones), best, found[best])

    def speak(first: int, count: int) -> None:
        spoken.say_all(
            [
                (voice, line)
                for number, (word, made) in itertools.islice(enumerate(spelt.items()), first, first + count)
                for voice in casting.of(number)
                for line in (words[word], *made)
            ],
            progress=progress,
        )

    def traits(phones: Phones, voices: Sequence[Voice]) -> dict[Hashable, float]:
        cues = {label(voice): measure(spoken.say(voice, phones)) for voice in voices}
        heard = {(name, cue): getattr(measured, cue) for name, measured in cues.items() for cue in _BALANCED}
        return written(phones) | heard

    balance = Balance(lambda trait: RESOLUTION[trait[1]] if isinstance(trait, tuple) else 0.0)
    chosen: dict[str, Phones] = {}
    refused: dict[str, str] = {}
    ready = 0  # how many words are spoken: as many at a time as are still wanted
    for number, (word, phones) in enumerate(words.items()):
        if len(chosen) == limit:
            break
        if number == ready:
            count = len(words) if limit is None else limit - len(chosen)
            speak(ready, count)
            ready += count
        voices = casting.of(number)
        lengths = [(label(voice), "seconds") for voice in voices]
        of_word = traits(phones, voices)
        made = {one: traits(one, voices) for one in spelt[word]}
        near = {
            one: its
            for one, its in made.items()
            if all(abs(math.log(of_word[length] / its[length])) < MAX_LENGTH_RATIO for length in lengths)
        }
        ranked = list(balance.rank(of_word, near))
        if not ranked:
            refused[word] = f"no pseudo-word near {' '.join(bare(phones))}"
        else:
            best = ranked[0]
            balance.take(of_word, best, near[best])
            chosen[word] = best
    return chosen, refused
