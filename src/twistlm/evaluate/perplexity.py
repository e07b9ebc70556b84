"""Held-out perplexity of a unit language model.

Per unit, natural logarithm. Documents are scored alone, each from its own `<s>`; documents longer than the window are
cut (rule below). Perplexities of two unit vocabularies are not comparable; bits per second of speech come closer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twistlm.errors import BadInput, offenders
from twistlm.evaluate.stats import RESAMPLES, Paired, paired_difference, ratio_ci
from twistlm.lm.score import score

if TYPE_CHECKING:
    from twistlm.corpus.opened import UnitCorpus
    from twistlm.lm.model import UnitLM


@dataclass(frozen=True, kw_only=True)
class Document:
    """One held-out document's share: nll in nats, summed over `n_units`; its seconds, and the windows it took."""

    id: str
    nll: float
    n_units: int
    seconds: float
    n_windows: int


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Held-out perplexity with its uncertainty.

    Attributes:
        nll: nats per unit, total over total (every unit weighs the same).
        ci: 95% bootstrap interval of `nll` over documents; (nan, nan) for a single document.
        ppl: exp(nll); `ppl_ci` is exp of the interval's ends.
        nll_per_second: nats of all documents over their seconds of speech; exp of it is the perplexity per second.
        nll_per_second_ci: 95% bootstrap interval of it over documents.
        bits_per_second: the same in bits: the one of these numbers to compare across tokenizers. Where units are
            deduplicated, how long each lasts is not in it.
        bits_per_second_ci: 95% bootstrap interval of it over documents.
        n_units: predictions averaged; includes one end `<s>` a document when `include_end`.
        n_documents: independent items behind the interval.
        n_cut: documents longer than the window.
        unit_spec: fingerprint of the units.
        rule: how a document is scored, in words.
        protocol: all that moves the number, in words.
        documents: each document's share, in corpus order; for paired comparisons.
    """

    nll: float
    ci: tuple[float, float]
    ppl: float
    ppl_ci: tuple[float, float]
    nll_per_second: float
    nll_per_second_ci: tuple[float, float]
    bits_per_second: float
    bits_per_second_ci: tuple[float, float]
    n_units: int
    n_documents: int
    n_cut: int
    unit_spec: str
    rule: str
    protocol: str
    documents: tuple[Document, ...]


def heldout(
    lm: UnitLM,
    corpus: UnitCorpus,
    *,
    max_units: int,
    include_end: bool,
    seed: int = 0,
    n_resamples: int = RESAMPLES,
    batch_tokens: int | None = None,
) -> Perplexity:
    """Score every document of `corpus` and return the perplexity.

    A document longer than `max_units` is cut into consecutive windows of `max_units` (the last one shorter) and each is
    scored from a fresh `<s>`: what training's packing does to long documents. Every unit is predicted exactly once.
    Cutting loses context, so `max_units` moves the number and is required.

    Args:
        lm: any model with `.spec` that `twistlm.lm.score.score` takes.
        corpus: `.spec`, `len()`, and `corpus[i]` returning Units.
        max_units: units a window holds at most.
        include_end: whether the `<s>` that ends a document (its last window only) is predicted and counted too.
        seed: of the bootstrap.
        n_resamples: of the bootstrap.
        batch_tokens: passed to `score`; affects speed and memory only.

    Raises:
        UnitSpecMismatch: the model was made for other units.
        BadInput: no documents, an empty document, or a log-probability that is not finite.
    """
    if max_units < 1:
        raise BadInput(f"max_units is {max_units}; a window must hold at least one unit.")
    if len(corpus) == 0:
        raise BadInput("the held-out corpus has no documents: check the split's name, or that something was tokenized.")
    lm.spec.require(corpus.spec, mine="the language model", theirs="the held-out corpus")

    items = [corpus[i] for i in range(len(corpus))]
    names = [units.id or str(i) for i, units in enumerate(items)]
    if empty := [name for name, units in zip(names, items, strict=True) if len(units) == 0]:
        raise BadInput(f"held-out documents without units: {offenders(empty)}. Leave them out of the corpus.")

    windows, owners, last = [], [], []
    for i, units in enumerate(items):
        starts = range(0, len(units), max_units)
        windows += [units.ids[s : s + max_units] for s in starts]
        owners += [i] * len(starts)
        last += [s == starts[-1] for s in starts]

    nll, counts = np.zeros(len(items)), np.zeros(len(items), dtype=np.int64)
    for end in (False, True):  # only the last window of a document is followed by its end
        # Without <s> nothing is predicted in a window of one unit.
        chosen = [
            w
            for w in range(len(windows))
            if (include_end and last[w]) == end and (lm.vocab.bos is not None or len(windows[w]) > 1)
        ]
        scores = score(lm, [windows[w] for w in chosen], include_end=end, batch_tokens=batch_tokens)
        for w, result in zip(chosen, scores, strict=True):
            nll[owners[w]] -= result.sum_logprob
            counts[owners[w]] += result.n
    if bad := [name for name, value in zip(names, nll, strict=True) if not math.isfinite(value)]:
        raise BadInput(
            f"the model's log-probability is not finite for {offenders(bad)}: its weights may have diverged."
        )

    if none := [name for name, count in zip(names, counts, strict=True) if count == 0]:
        raise BadInput(
            f"this model has no <s>, so documents of one unit are not predicted: {offenders(none)}. Leave them out."
        )
    taken = Counter(owners)
    documents = [
        Document(
            id=names[i],
            nll=float(nll[i]),
            n_units=int(counts[i]),
            seconds=items[i].seconds,
            n_windows=taken[i],
        )
        for i in range(len(items))
    ]
    rule = (
        f"nats per {'deduplicated ' if lm.spec.deduplicate else ''}unit, each document {lm.vocab.opening}, final <s> "
        f"{'counted' if include_end else 'not counted'}; windows of at most {max_units} units"
    )
    return _summarise(documents, rule, lm.spec.fingerprint, seed=seed, n_resamples=n_resamples)


def among(whole: Perplexity, ids: Collection[str], *, seed: int = 0, n_resamples: int = RESAMPLES) -> Perplexity:
    """Return the perplexity over some of the documents of `whole`; nothing is scored again.

    Raises:
        BadInput: none of `ids` is a document of `whole`.
    """
    documents = [d for d in whole.documents if d.id in ids]
    if not documents:
        raise BadInput(f"none of the {len(ids)} documents asked for was scored.")
    return _summarise(documents, whole.rule, whole.unit_spec, seed=seed, n_resamples=n_resamples)


def compare_per_second(a: Perplexity, b: Perplexity, *, seed: int = 0) -> Paired:
    """Return a - b in bits per second of speech, paired document by document; their units may differ.

    Every second weighs the same. What a tokenizer leaves out costs its model nothing, so fewer bits are a better model
    only where the units keep as much of the speech; how long deduplicated units last is in neither number.

    Raises:
        BadInput: not the same documents, of the same length to half a second.
    """
    of_b = {d.id: d for d in b.documents}
    shared = [(d, of_b[d.id]) for d in a.documents if d.id in of_b]
    if len(shared) != len(a.documents) or len(shared) != len(b.documents):
        raise BadInput(
            f"only {len(shared)} documents are in both perplexities ({len(a.documents)} and {len(b.documents)}): score "
            "the same held-out clips with both."
        )
    if odd := [d.id for d, other in shared if abs(d.seconds - other.seconds) > 0.5]:
        raise BadInput(f"{len(odd)} documents are not equally long in both: {offenders(odd)}. Are they the same clips?")
    # Where the frames end, up to a hop short of the clip, differs between tokenizers.
    seconds = np.array([(d.seconds + other.seconds) / 2 for d, other in shared])
    bits_of_a = np.array([d.nll / d.seconds for d, _ in shared]) * seconds / math.log(2)
    bits_of_b = np.array([d.nll / d.seconds for _, d in shared]) * seconds / math.log(2)
    return paired_difference(bits_of_a, bits_of_b, sizes=seconds, seed=seed)


def _summarise(documents: Sequence[Document], rule: str, unit_spec: str, *, seed: int, n_resamples: int) -> Perplexity:
    nll, counts = np.array([d.nll for d in documents]), np.array([d.n_units for d in documents])
    mean = float(nll.sum() / counts.sum())
    low, high = ratio_ci(nll, counts, seed=seed, n=n_resamples)
    seconds = np.array([d.seconds for d in documents])
    slow, fast = ratio_ci(nll, seconds, seed=seed, n=n_resamples)
    per_second = float(nll.sum() / seconds.sum())
    n_cut = sum(d.n_windows > 1 for d in documents)
    return Perplexity(
        nll=mean,
        ci=(low, high),
        ppl=_exp(mean),
        ppl_ci=(_exp(low), _exp(high)),
        nll_per_second=per_second,
        nll_per_second_ci=(slow, fast),
        bits_per_second=per_second / math.log(2),
        bits_per_second_ci=(slow / math.log(2), fast / math.log(2)),
        n_units=int(counts.sum()),
        n_documents=len(documents),
        n_cut=n_cut,
        unit_spec=unit_spec,
        rule=rule,
        protocol=f"{rule}, {n_cut} of {len(documents)} documents cut; 95% bootstrap over documents",
        documents=tuple(documents),
    )


def compare(a: Perplexity, b: Perplexity, *, seed: int = 0) -> Paired:
    """Return a - b in nats per unit, paired document by document (below 0: `a` predicts better).

    Raises:
        BadInput: they were not measured on the same documents, or with other units or windows.
    """
    if a.unit_spec != b.unit_spec:
        raise BadInput(f"perplexities of different units ({a.unit_spec}, {b.unit_spec}) cannot be compared.")
    if [(d.id, d.n_units) for d in a.documents] != [(d.id, d.n_units) for d in b.documents]:
        raise BadInput("the two perplexities were not measured on the same documents in the same way.")
    return paired_difference(
        [d.nll for d in a.documents],
        [d.nll for d in b.documents],
        sizes=[d.n_units for d in a.documents],
        seed=seed,
    )


def _exp(nats: float) -> float:
    """e to the power of it; infinity where that is no float, of a model that has diverged."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
