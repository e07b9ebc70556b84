"""Measures of what was heard: each row of each system gets its numbers of text, read by a text LM and counted."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twistlm.errors import ArtifactError
from twistlm.evaluate.generation.embedding import Embedder, similarities
from twistlm.evaluate.generation.journal import Journal
from twistlm.evaluate.generation.ngrams import (
    auto_bleu_gslm,
    auto_bleu_slamkit,
    cont_bleu,
    distinct,
    repetition,
    self_bleu,
)
from twistlm.evaluate.generation.protocols import Protocol
from twistlm.evaluate.generation.reading import TextLM, win_rates
from twistlm.evaluate.words import normalize, words_of

Values = dict[str, Any]
OTHERS = 2  # prompts of others that a continuation is read after
CHUNK = 64  # texts between two lines of the journal


def tokens_of(text: str, tokens: str) -> list[str]:
    """Return what n-grams of a text are made of, by a protocol's rule.

    Raises:
        ArtifactError: NLTK's tokenizer is asked for and not installed.
    """
    if tokens == "words":
        return normalize(text).split()
    if tokens == "whitespace":
        return text.split()
    try:
        from nltk.tokenize import NLTKWordTokenizer
    except ImportError as error:
        raise ArtifactError(
            "this protocol counts NLTK's word tokens, and the package nltk is not installed: pip install "
            "'twistlm[generation]'."
        ) from error
    return list(NLTKWordTokenizer().tokenize(text))


def scored_text(text: str, protocol: Protocol) -> str | None:
    """Return a transcript as the protocol scores it; None where it is too short to be scored at all."""
    if protocol.case == "lower":
        text = text.lower()
    if protocol.words is None:
        return text.strip()
    words = text.split()
    return " ".join(words[: protocol.words]) if len(words) >= protocol.words else None


def count(texts: Sequence[str | None], protocol: Protocol) -> list[Values]:
    """Return for each text of one system what can be counted: words, repetition, likeness to the system's other texts.

    A text that is not scored (None) has no numbers, and is no reference for others.
    """
    rows: list[Values] = [{} for _ in texts]
    there = [(row, text) for row, text in zip(rows, texts, strict=True) if text is not None]
    cut = [tokens_of(text, protocol.tokens) for _, text in there]
    selves = self_bleu(cut, n=2, mean="geometric") if len(cut) > 1 else [math.nan] * len(cut)
    for (row, text), tokens, likeness in zip(there, cut, selves, strict=True):
        words = words_of(text)
        auto = auto_bleu_gslm(tokens, n=2, mean="geometric")
        row |= {
            "words": float(len(words)),
            "empty": float(not words),
            "one_word": float(len(words) == 1),
            "self_bleu": likeness,
            "auto_bleu_gslm": auto,
            "auto_bleu_slamkit": auto_bleu_slamkit(tokens, n=2),
            "vert": math.sqrt(likeness * auto),
            "distinct_1": distinct([tokens], n=1) if tokens else None,
            "repetition": repetition(tokens, n=2) if tokens else None,
        }
    return rows


def corpus_counts(texts: Sequence[str | None], protocol: Protocol) -> Values:
    """Return distinct-1 and -2 of all texts of a system together; they have no intervals, as resamples repeat texts."""
    cut = [tokens_of(text, protocol.tokens) for text in texts if text and words_of(text)]
    return {f"corpus_distinct_{n}": distinct(cut, n=n) for n in (1, 2)}


def read(
    texts: Sequence[str | None],
    prompts: Sequence[str] | None,
    others: Sequence[Sequence[str]],
    protocol: Protocol,
    *,
    lm: Callable[[], TextLM],
    identity: str,
    folder: Path,
    description: str,
    progress: bool,
) -> list[Values]:
    """Return for each text what a text LM makes of it.

    Args:
        texts: of one system.
        prompts: what its prompt says, for each; None where there is none.
        others: what other prompts say, for each.
        protocol: how it is read.
        lm: gives the LM, when it is needed first.
        identity: of the LM, in the name of the journal.
        folder: of journals.
        description, progress: of the bar.

    Returns:
        `loss`, `loss_two_words`, `ppl`, and with prompts `loss_after`, `wins`, `gain`; None where nothing was said.
    """
    rule = [identity, protocol.begin, protocol.end]
    journal = Journal(folder / f"read.{hashlib.sha256(json.dumps(rule).encode()).hexdigest()[:12]}.jsonl")
    # With what it is read after in one key: equal texts are read once.
    asked = {}
    for i, text in enumerate(texts):
        if text is not None:
            context = None if prompts is None else [prompts[i], *others[i]]
            asked[hashlib.sha256(json.dumps([text, context]).encode()).hexdigest()[:24]] = (text, context)

    def work(keys: list[str]) -> list[Values]:
        chosen = [asked[key] for key in keys]
        model = lm()
        losses = model.losses([text for text, _ in chosen], begin=protocol.begin, end=protocol.end)
        rows: list[Values] = [{"total": loss.total, "n": loss.n} for loss in losses]
        pairs = [(context[0], text) for text, context in chosen if context is not None]
        if pairs:
            rest = [context[1:] for _, context in chosen if context is not None]
            after, wins, gains = win_rates(model, pairs, rest)
            for row, loss, win, gain in zip(rows, after, wins, gains, strict=True):
                row |= {"after": loss.total, "after_n": loss.n, "wins": _known(win), "gain": _known(gain)}
        return rows

    found = journal.fill_batches(list(asked), work, size=CHUNK, description=description, progress=progress)
    by_text = {(text, None if c is None else tuple(c)): found[key] for key, (text, c) in asked.items()}
    rows: list[Values] = []
    for i, text in enumerate(texts):
        if text is None:
            rows.append({})
            continue
        row = by_text[(text, None if prompts is None else (prompts[i], *others[i]))]
        # Without words it is empty, whatever signs a recogniser writes; an end token may be all that was read of it.
        said = bool(words_of(text))
        loss = row["total"] / row["n"] if row["n"] and said else None
        two = loss if len(words_of(text)) >= 2 else None
        made: Values = {"loss": loss, "loss_two_words": two, "ppl": None if loss is None else math.exp(loss)}
        if "after" in row:
            after = row["after"] / row["after_n"] if row["after_n"] and said else None
            made |= {"loss_after": after} | {name: row[name] if said else None for name in ("wins", "gain")}
        rows.append(made)
    return rows


def against_truth(
    texts: Sequence[str | None], truths: Sequence[str], protocol: Protocol, embedder: Embedder, *, n_samples: int
) -> list[Values]:
    """Return for each text its likeness to the true continuation, and cont-BLEU with the prompt's first sample.

    Args:
        texts: prompt by prompt, `n_samples` of each.
        truths: what the recordings go on to say, one for each prompt; "" where nothing.
        protocol, embedder: how they are cut, and what gives them a place.
    """
    spread = [truth for truth in truths for _ in range(n_samples)]
    cosines = similarities(embedder([text if text and words_of(text) else "" for text in texts]), embedder(spread))
    rows: list[Values] = [{"similarity": _known(cosine)} for cosine in cosines]
    for i, truth in enumerate(truths):
        samples = [text for text in texts[i * n_samples : (i + 1) * n_samples] if text is not None]
        if truth and samples:
            cut = [tokens_of(sample, protocol.tokens) for sample in samples]
            rows[i * n_samples]["cont_bleu"] = cont_bleu(tokens_of(truth, protocol.tokens), cut)
    return rows


def other_prompts(
    said: Sequence[str], *, seed: int, dealt: Sequence[int] | None = None, n: int = OTHERS
) -> list[list[str]]:
    """Return for each prompt what n others say, drawn from `seed`: those that say something, and something else.

    Args:
        said: what each prompt says.
        dealt: of continuations that were dealt to other prompts, whose they are: prompt i has that of `dealt[i]`, which
            is none of the others then, as it would win more than half of the time.
    """
    rng = np.random.default_rng([seed, 3])
    found = []
    for i, own in enumerate(said):
        order = rng.permutation(len(said))
        theirs = None if dealt is None else said[dealt[i]]
        found.append([said[j] for j in order if said[j] and said[j] not in (own, theirs)][:n])
    return found


def shuffled_words(texts: Sequence[str | None], *, seed: int) -> list[str | None]:
    """Return each text with its words in another order: the floor of fluency."""
    rng = np.random.default_rng([seed, 4])
    return [None if text is None else " ".join(rng.permutation(text.split()).tolist()) for text in texts]


def with_numbers(rows: Sequence[Mapping[str, Any]], *parts: Sequence[Mapping[str, Any]]) -> list[Values]:
    """Return rows with the numbers of each part added."""
    merged = [dict(row) for row in rows]
    for part in parts:
        for row, more in zip(merged, part, strict=True):
            row |= more
    return merged


def _known(number: float) -> float | None:
    return None if math.isnan(number) else float(number)
