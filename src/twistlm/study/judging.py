"""The scores of one model, as the plain values that results.json holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twistlm.corpus.shards import UnitCorpus, open_corpus
from twistlm.errors import BadInput
from twistlm.evaluate.catalogue import open_suite
from twistlm.evaluate.pairs import accuracy_by_group, score_pairs
from twistlm.evaluate.perplexity import Perplexity, compare_per_second, heldout
from twistlm.evaluate.suites import SEEN, UNSEEN, Suite
from twistlm.lm.model import UnitLM
from twistlm.study.models import load_model
from twistlm.types import Score, Units
from twistlm.units.tokenizer import SpeechTokenizer

Values = dict[str, Any]


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


def without_nan(value: Any) -> Any:
    """Return `value` with null for each number that is not finite: JSON has no others."""
    if isinstance(value, Mapping):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _accuracy(score: Score, n_pairs: int) -> Values:
    return {"accuracy": score.value, "ci": score.ci, "n": score.n, "n_pairs": n_pairs}


def judge(
    model: str | Path,
    *,
    units: str | Path | None,
    against: str | Path | None = None,
    against_units: str | Path | None = None,
    split: str,
    context: int,
    suite: str | None,
    tokenizer: str | Path,
    seed: int,
    progress: bool = False,
) -> Values:
    """Return `perplexity` on a split of `units` and `mini_swuggy`, whichever was asked for.

    With `against` and `against_units`, another model and the same clips in its units, also `perplexity_against` and
    `bits_per_second_difference`, the first less the second.

    Raises:
        BadInput: neither was asked for. UnitSpecMismatch: model, units and tokenizer do not belong together.
    """
    if against_units is not None and (units is None or against is None):
        raise BadInput("--against-units compares perplexities: give --against, and --units for the first model.")
    if units is None and suite is None:
        raise BadInput("nothing to judge with: name suites of pairs, or give --units or --suite.")
    lm = load_model(model)
    values: Values = {"model": str(model), "unit_spec": lm.spec.fingerprint}
    if units is not None:
        p = perplexity(lm, open_corpus(units, split=split), context=context, seed=seed)
        values["perplexity"] = perplexity_values(p) | {"protocol": p.protocol}
    if against is not None and against_units is not None:
        other = perplexity(load_model(against), open_corpus(against_units, split=split), context=context, seed=seed)
        values["perplexity_against"] = perplexity_values(other) | {"protocol": other.protocol}
        values["bits_per_second_difference"] = compare_per_second(p, other, seed=seed)._asdict()
    if suite is not None:
        tok = SpeechTokenizer.load(tokenizer)
        lm.spec.require(tok.spec, mine=f"the model {model}", theirs=f"the tokenizer {tokenizer}")
        pairs = open_suite(suite)
        values["mini_swuggy"] = pair_values(lm, pairs, pairs.tokenize(tok, progress=progress), seed=seed)
    return without_nan(values)
