"""The scores of one model, as the plain values that results.json holds."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twistlm.corpus.opened import UnitCorpus, open_corpus
from twistlm.errors import BadInput
from twistlm.evaluate.pairs import accuracy_by_group, score_pairs
from twistlm.evaluate.perplexity import Perplexity, heldout
from twistlm.evaluate.suites.suite import SEEN, UNSEEN, Suite
from twistlm.files.metrics import Row
from twistlm.lm.model import UnitLM
from twistlm.study.keys import digest
from twistlm.types import Score, Units

Values = dict[str, Any]


def compared(units: str | Path) -> UnitCorpus:
    """Return all splits of a folder of units on which two models are to be compared.

    Raises:
        BadInput: nothing of it is held out. As `open_corpus`.
    """
    corpus = open_corpus(units, split=None)
    if set(corpus.splits) == {"train"}:
        raise BadInput(f"{units} has nothing held out to compare two models on: tokenize with --heldout.")
    return corpus


def division(corpus: UnitCorpus) -> str:
    """Return 16 hex digits over which document is in which split, of which the corpus's fingerprint knows nothing."""
    return digest(sorted(zip(corpus.ids, corpus.splits, strict=True)))


def curve(metrics: Sequence[Row]) -> Values:
    """Return what a study keeps of the lines of a run: `history` of its evaluations, `grad_norm` (None before the
    first update), `seconds`."""
    norms = [row["grad_norm"] for row in metrics if "grad_norm" in row]
    return {
        "history": [{"update": row["update"], "val_nll": row["val_nll"]} for row in metrics if "val_nll" in row],
        "grad_norm": {"median": statistics.median(norms), "highest": max(norms)} if norms else None,
        "seconds": sum(row.get("seconds", 0.0) for row in metrics),
    }


def perplexity(lm: UnitLM, corpus: UnitCorpus, *, context: int, seed: int, **options: int) -> Perplexity:
    """Return the held-out perplexity in windows as long as training's rows, so that no position is new to the model."""
    return heldout(lm, corpus, max_units=context - 1, include_end=False, seed=seed, **options)


def perplexity_values(p: Perplexity) -> Values:
    return {
        "val_nll": p.nll,
        "val_nll_ci": p.ci,
        "val_ppl": p.ppl,
        "val_ppl_ci": p.ppl_ci,
        "nll_per_second": p.nll_per_second,
        "nll_per_second_ci": p.nll_per_second_ci,
        "bits_per_second": p.bits_per_second,
        "bits_per_second_ci": p.bits_per_second_ci,
        "n_units": p.n_units,
        "n_documents": p.n_documents,
    }


def pair_values(lm: UnitLM, suite: Suite, spoken: Mapping[str, Units], *, seed: int) -> Values:
    """Return the accuracy on a suite, over all voices and over those seen and not seen in training."""
    score, rows = score_pairs(
        lm, spoken, suite.pairs, normalize="mean", seed=seed, name=suite.name, clusters=suite.clusters
    )
    groups = accuracy_by_group(rows, of=score, seed=seed)
    sizes = Counter(row["group"] for row in rows)
    return {
        **_accuracy(score, len(rows)),
        "seen_voice": _accuracy(groups[SEEN], sizes[SEEN]) if SEEN in groups else None,
        "unseen_voice": _accuracy(groups[UNSEEN], sizes[UNSEEN]) if UNSEEN in groups else None,
        "protocol": score.protocol,
        "suite_version": suite.version,
    }


def _accuracy(score: Score, n_pairs: int) -> Values:
    return {"accuracy": score.value, "ci": score.ci, "n": score.n, "n_pairs": n_pairs}
