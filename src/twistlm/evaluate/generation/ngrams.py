"""Diversity and repetition of texts, by n-grams: self-BLEU, auto-BLEU, VERT, cont-BLEU, distinct-n.

A text is a sequence of tokens: how it was cut into them moves every number, and is the caller's to say. All values are
0 … 1; papers print them times 100. Two measures are called auto-BLEU in the field and differ: `auto_bleu_gslm`
(Lakhotia et al., 2021, as fairseq's asr_metrics computes it) and `auto_bleu_slamkit` (Maimon et al., 2025).

self-BLEU depends on how many texts there are, auto-BLEU and distinct-n on how long they are: fix both to compare.

Shapes: M texts, N the highest order.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Literal

from twistlm.errors import BadInput

Tokens = Sequence[Hashable]
Mean = Literal["geometric", "arithmetic"]


def auto_bleu_gslm(tokens: Tokens, *, n: int, mean: Mean) -> float:
    """Return GSLM's auto-BLEU-n of one text: how much of it occurs again in itself.

    Of each order 1 … n, the share of the text's n-grams that are found again among the words wholly to the left of
    them, or wholly to the right: occurrences that overlap do not count. The orders are averaged with equal weights.

    Returns:
        0 … 1; 0 for a text of at most one token. NaN where the text is shorter than n and has two tokens or more, as
        in fairseq, whose corpus mean is then NaN: count such texts.

    Raises:
        BadInput: n below 1.
    """
    _require_order(n)
    if len(tokens) <= 1:
        return 0.0
    shares = [_again_apart(tokens, order) for order in range(1, n + 1)]
    return _averaged(shares, mean)


def auto_bleu_slamkit(tokens: Tokens, *, n: int) -> float:
    """Return SlamKit's auto-BLEU of one text: the share of its n-gram positions whose n-gram occurs elsewhere too.

    Only order n is looked at (SlamKit: 2), and occurrences may overlap. 0 for a text without an n-gram.

    Raises:
        BadInput: n below 1.
    """
    _require_order(n)
    counts = Counter(_ngrams(tokens, n))
    total = counts.total()
    return sum(count for count in counts.values() if count > 1) / total if total else 0.0


def self_bleu(texts: Sequence[Tokens], *, n: int, mean: Mean) -> list[float]:
    """Return self-BLEU-n of each text, length M: BLEU of it with all others as references, without brevity penalty.

    A text without a token, or without one that another text has, gets 0.

    Raises:
        BadInput: n below 1.
    """
    _require_order(n)
    matched = [[0] * n for _ in texts]
    totals = [[max(0, len(text) - order) for order in range(n)] for text in texts]
    for order in range(1, n + 1):
        counts = [Counter(_ngrams(text, order)) for text in texts]
        best: dict[tuple[Hashable, ...], tuple[int, int, int]] = {}  # n-gram -> whose count is highest, it, the second
        for i, found in enumerate(counts):
            for gram, count in found.items():
                owner, first, second = best.get(gram, (-1, 0, 0))
                best[gram] = (i, count, first) if count > first else (owner, first, max(second, count))
        for i, found in enumerate(counts):
            for gram, count in found.items():
                owner, first, second = best[gram]
                matched[i][order - 1] += min(count, second if owner == i else first)
    return [_bleu(hits, total, mean) for hits, total in zip(matched, totals, strict=True)]


def cont_bleu(truth: Tokens, samples: Sequence[Tokens], *, n: int = 2) -> float:
    """Return GSLM's cont-BLEU of one prompt: geometric BLEU-n of its true continuation with all samples as references.

    No brevity penalty. GSLM takes n = 2 and the median over prompts.

    Raises:
        BadInput: n below 1, or no samples.
    """
    _require_order(n)
    if not samples:
        raise BadInput("cont-BLEU needs at least one sample of the prompt.")
    hits, totals = [], []
    for order in range(1, n + 1):
        wanted = Counter(_ngrams(truth, order))
        found = [Counter(_ngrams(sample, order)) for sample in samples]
        hits.append(sum(min(count, max(one[gram] for one in found)) for gram, count in wanted.items()))
        totals.append(wanted.total())
    return _bleu(hits, totals, "geometric")


def vert(self_bleus: Sequence[float], auto_bleus: Sequence[float]) -> float:
    """Return VERT: the geometric mean of the corpus' self-BLEU and auto-BLEU (of order 2, geometric, in GSLM).

    Raises:
        BadInput: no texts.
    """
    _require_texts(self_bleus, auto_bleus)
    return math.sqrt(math.fsum(self_bleus) / len(self_bleus) * (math.fsum(auto_bleus) / len(auto_bleus)))


def vert_of_texts(self_bleus: Sequence[float], auto_bleus: Sequence[float]) -> float:
    """Return the mean over texts of sqrt(self-BLEU x auto-BLEU): another number than `vert`, which some report.

    Raises:
        BadInput: no texts, or not as many of one as of the other.
    """
    _require_texts(self_bleus, auto_bleus)
    roots = [math.sqrt(s * a) for s, a in zip(self_bleus, auto_bleus, strict=True)]
    return math.fsum(roots) / len(roots)


def distinct(texts: Sequence[Tokens], *, n: int) -> float:
    """Return distinct-n of a corpus (Li et al., 2016): different n-grams over all n-grams; NaN for none."""
    _require_order(n)
    counts = Counter(gram for text in texts for gram in _ngrams(text, n))
    return len(counts) / counts.total() if counts else math.nan


def repetition(tokens: Tokens, *, n: int) -> float:
    """Return seq-rep-n of one text (Welleck et al., 2020): 1 - different n-grams / n-grams; 0 for none."""
    _require_order(n)
    total = len(tokens) - n + 1
    return 1 - len(set(_ngrams(tokens, n))) / total if total > 0 else 0.0


def _ngrams(tokens: Tokens, n: int) -> list[tuple[Hashable, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _again_apart(tokens: Tokens, n: int) -> float:
    """Return the share of n-grams that occur again without overlap; NaN where there are none."""
    places: dict[tuple[Hashable, ...], list[int]] = defaultdict(list)
    grams = _ngrams(tokens, n)
    for i, gram in enumerate(grams):
        places[gram].append(i)
    again = sum(places[gram][-1] >= i + n or places[gram][0] + n <= i for i, gram in enumerate(grams))
    return again / len(grams) if grams else math.nan


def _bleu(hits: Sequence[int], totals: Sequence[int], mean: Mean) -> float:
    """Return BLEU of clipped matches and n-grams of each order; 0 without a matching unigram."""
    if not totals[0] or not hits[0]:
        return 0.0
    return _averaged([hit / max(1, total) for hit, total in zip(hits, totals, strict=True)], mean)


def _averaged(shares: Sequence[float], mean: Mean) -> float:
    if any(math.isnan(share) for share in shares):
        return math.nan
    if mean == "arithmetic":
        return math.fsum(shares) / len(shares)
    # The field's code takes the smallest float for a share of 0, which gives some 1e-154 in place of 0.
    return 0.0 if 0.0 in shares else math.exp(math.fsum(map(math.log, shares)) / len(shares))


def _require_order(n: int) -> None:
    if n < 1:
        raise BadInput(f"the order of n-grams must be at least 1, got {n}.")


def _require_texts(self_bleus: Sequence[float], auto_bleus: Sequence[float]) -> None:
    if not self_bleus or len(self_bleus) != len(auto_bleus):
        raise BadInput(f"VERT needs the BLEUs of the same texts, got {len(self_bleus)} and {len(auto_bleus)}.")
