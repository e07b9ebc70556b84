"""From rows, one for each continuation, to measures of a system, with intervals and differences.

A measure is a function of means over continuations, so one set of resamples serves all of them: whole prompts are
drawn, and within each prompt its samples, as seeds are. Both systems of a pair are drawn together.

Shapes: M prompts, S samples of each, C columns, B resamples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import BadInput
from twistlm.evaluate.stats import LEVEL, RESAMPLES

Array = NDArray[np.float64]
Columns = Mapping[str, Array]  # each [M, S]; NaN where a continuation has no such value


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of a system.

    Attributes:
        name: key in the results.
        title: in tables.
        columns: of the rows, whose means it is made of.
        of: from the means (each [B] or a float) to the value; None takes the first.
        whole: undefined (NaN) where any continuation lacks a value, instead of leaving it out.
        median: of prompts instead of the mean.
        about: what it is, in a sentence.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    about: str
    of: Callable[..., Any] | None = None
    whole: bool = False
    median: bool = False


def _times(factor: float) -> Callable[..., Any]:
    return lambda mean: factor * mean


def _vert(self_bleu: Any, auto_bleu: Any) -> Any:
    return 100 * np.sqrt(self_bleu * auto_bleu)


_LM = "text LM's perplexity a token"
MEASURES: tuple[Measure, ...] = (
    Measure(name="gen_ppl", title="GenPPL, all texts", columns=("loss",), of=np.exp, whole=True,
            about=f"{_LM}: exp of the mean of the texts' losses; undefined where a text is empty"),
    Measure(name="gen_ppl_not_empty", title="GenPPL, empty texts left out", columns=("loss",), of=np.exp,
            about=f"{_LM}: exp of the mean loss of texts that are not empty"),
    Measure(name="gen_ppl_two_words", title="GenPPL, texts of two words and more", columns=("loss_two_words",),
            of=np.exp, about=f"{_LM}: exp of the mean loss of texts of at least two words"),
    Measure(name="mean_ppl", title="mean perplexity (GSLM's PPX)", columns=("ppl",),
            about=f"{_LM}: the mean of the texts' perplexities, empty ones left out; a few odd texts move it far"),
    Measure(name="loss_after_prompt", title="loss after the prompt's text, nats a token", columns=("loss_after",),
            about="how likely the text LM finds the text after what the prompt says"),
    Measure(name="wins", title="beats shuffled prompts", columns=("wins",), of=_times(100),
            about="how often its own prompt makes a text likelier than other prompts do, in %; chance 50"),
    Measure(name="gain", title="gain by the own prompt, nats a token", columns=("gain",),
            about="how much likelier its own prompt makes a text than other prompts do"),
    Measure(name="similarity", title="likeness to the truth", columns=("similarity",),
            about="cosine of the embeddings of the text and of what the recording goes on to say"),
    Measure(name="cont_bleu", title="cont-BLEU2", columns=("cont_bleu",), of=_times(100), median=True,
            about="the true continuation's BLEU2 with the samples as references, median over prompts"),
    Measure(name="self_bleu", title="self-BLEU2", columns=("self_bleu",), of=_times(100),
            about="likeness of the texts to each other: low is diverse; grows with the number of texts"),
    Measure(name="auto_bleu_gslm", title="auto-BLEU2 (GSLM)", columns=("auto_bleu_gslm",), of=_times(100),
            about="repetition within a text, occurrences apart"),
    Measure(name="auto_bleu_slamkit", title="auto-BLEU2 (SlamKit)", columns=("auto_bleu_slamkit",), of=_times(100),
            about="share of bigrams that occur again, overlaps counted"),
    Measure(name="vert", title="VERT", columns=("self_bleu", "auto_bleu_gslm"), of=_vert,
            about="geometric mean of self-BLEU2 and GSLM's auto-BLEU2 of the corpus"),
    Measure(name="vert_of_texts", title="VERT, mean of texts", columns=("vert",), of=_times(100),
            about="mean over texts of the geometric mean of both"),
    Measure(name="distinct_1", title="distinct-1 of a text", columns=("distinct_1",), of=_times(100),
            about="different words over words of a text, mean; depends on length"),
    Measure(name="repetition", title="word repetition", columns=("repetition",), of=_times(100),
            about="share of a text's bigrams that were in it before"),
    Measure(name="unit_repetition", title="unit repetition", columns=("unit_repetition",), of=_times(100),
            about="share of a continuation's 4-grams of units that were in it before"),
    Measure(name="empty", title="empty transcripts, %", columns=("empty",), of=_times(100),
            about="nothing was heard"),
    Measure(name="one_word", title="one-word transcripts, %", columns=("one_word",), of=_times(100),
            about="a single word was heard"),
    Measure(name="words", title="words", columns=("words",), about="of a transcript"),
    Measure(name="words_per_second", title="words a second", columns=("words", "seconds"),
            of=lambda words, seconds: words / seconds, about="heard in what was scored"),
    Measure(name="seconds", title="seconds", columns=("seconds",), about="of what was scored"),
    Measure(name="silence", title="silence, %", columns=("silence",), of=_times(100),
            about="share of the time without voice activity"),
    Measure(name="ended", title="ended by itself, %", columns=("ended",), of=_times(100),
            about="the model stopped before the limit"),
    Measure(name="distillmos", title="Distill-MOS", columns=("distillmos",),
            about="how good it sounds, 1 to 5"),
    Measure(name="dnsmos_p808", title="DNSMOS P.808", columns=("dnsmos_p808",),
            about="how good it sounds, 1 to 5"),
    Measure(name="dnsmos_ovrl", title="DNSMOS P.835 overall", columns=("dnsmos_ovrl",),
            about="how good it sounds, 1 to 5"),
    Measure(name="dnsmos_sig", title="DNSMOS P.835 signal", columns=("dnsmos_sig",),
            about="how good the speech in it sounds, 1 to 5"),
    Measure(name="dnsmos_bak", title="DNSMOS P.835 background", columns=("dnsmos_bak",),
            about="how little noise is behind it, 1 to 5"),
    Measure(name="utmos", title="UTMOS", columns=("utmos",),
            about="how good it sounds, about 1 to 5"),
    Measure(name="voice", title="likeness of the voice to the prompt's", columns=("voice",),
            about="cosine of Resemblyzer's embeddings; says nothing of a vocoder of one voice"),
    Measure(name="judge", title="judge, 1 to 5", columns=("judge",),
            about="how likely and relevant the judge finds the continuation; replies that it could not read left out"),
)  # fmt: skip
BY_NAME = {measure.name: measure for measure in MEASURES}


@dataclass(frozen=True, eq=False)
class Resamples:
    """Drawn once for a set of prompts: how often each continuation is in each resample, and which prompts are.

    Attributes:
        counts: float64 [B, M * S].
        prompts: int64 [B, M].
        flips: bool [B, M]: whose systems are swapped under the null hypothesis that they are alike.
    """

    counts: Array
    prompts: NDArray[np.int64]
    flips: NDArray[np.bool_]

    @classmethod
    def draw(cls, n_prompts: int, n_samples: int, *, seed: int, n: int = RESAMPLES) -> Resamples:
        """Draw `n` resamples of M prompts with replacement; S > 1 samples of each are drawn again in each."""
        rng = np.random.default_rng(seed)
        prompts = rng.integers(n_prompts, size=(n, n_prompts))
        counts = np.empty((n, n_prompts * n_samples))
        for row, chosen in zip(counts, prompts, strict=True):  # all at once would take four times the memory
            drawn = chosen
            if n_samples > 1:
                within = rng.integers(n_samples, size=(n_prompts, n_samples))
                drawn = (chosen[:, None] * n_samples + within).reshape(-1)
            row[:] = np.bincount(drawn, minlength=n_prompts * n_samples)
        return cls(counts, prompts, rng.integers(2, size=(n, n_prompts)).astype(bool))


def value(measure: Measure, columns: Columns) -> float:
    """Return a measure of a system; NaN where nothing has the values it needs."""
    found = [columns.get(name) for name in measure.columns]
    if any(one is None for one in found):
        return math.nan
    arrays = [one for one in found if one is not None]
    return float(_combined(measure, [np.array([_centre(measure, one)]) for one in arrays])[0])


def with_interval(measure: Measure, columns: Columns, draws: Resamples) -> dict[str, Any]:
    """Return `value`, its 95% percentile interval `ci`, and `n`, how many continuations have what it needs."""
    estimate = value(measure, columns)
    n = _n(measure, columns)
    if math.isnan(estimate) or n < 2:
        return {"value": estimate, "ci": (math.nan, math.nan), "n": n}
    return {"value": estimate, "ci": _ends(drawn_values(measure, columns, draws)), "n": n}


def difference(measure: Measure, a: Columns, b: Columns, draws: Resamples) -> dict[str, Any]:
    """Return a - b of a measure: `mean`, its 95% interval `ci`, and `p` of a permutation test that swaps the systems
    prompt by prompt, at least 1 / (B + 1). Prompts of which one of the two lacks a value count for neither: `n` is how
    many are left.

    Raises:
        BadInput: the systems have other prompts.
    """
    pairs = [(a.get(name), b.get(name)) for name in measure.columns]
    if any(one is None or other is None for one, other in pairs):
        return {"mean": math.nan, "ci": (math.nan, math.nan), "p": math.nan, "n": 0}
    ours, theirs = dict[str, Array](), dict[str, Array]()
    lacking: list[NDArray[np.bool_]] = []
    for name, (one, other) in zip(measure.columns, pairs, strict=True):
        assert one is not None and other is not None
        if one.shape != other.shape:
            raise BadInput(f"systems of {one.shape} and {other.shape} prompts and samples cannot be compared in pairs.")
        ours[name], theirs[name] = one, other
        lacking.append(np.asarray(np.isnan(one).all(axis=1) | np.isnan(other).all(axis=1)))
    missing = np.logical_or.reduce(lacking)
    for columns in (ours, theirs):
        for name in measure.columns:
            columns[name] = np.where(missing[:, None], np.nan, columns[name])
    n = int((~missing).sum())
    both = value(measure, ours), value(measure, theirs)
    gap = both[0] - both[1]
    if math.isnan(gap) or n < 2:
        return {"mean": gap, "ci": (math.nan, math.nan), "p": math.nan, "n": n}
    drawn = drawn_values(measure, ours, draws) - drawn_values(measure, theirs, draws)
    null = _swapped(measure, ours, theirs, draws)
    rounding = 1e-12 * (abs(both[0]) + abs(both[1]))  # the same sum in another order of addition is the same
    extreme = int((np.abs(null) >= abs(gap) - rounding).sum())
    return {"mean": gap, "ci": _ends(drawn), "p": (extreme + 1) / (len(null) + 1), "n": n}


def drawn_values(measure: Measure, columns: Columns, draws: Resamples) -> Array:
    """Return [B]: the measure in each resample."""
    arrays = [columns[name] for name in measure.columns]
    if measure.median:
        with warnings.catch_warnings():  # of a resample in which no prompt has a value
            warnings.simplefilter("ignore", RuntimeWarning)
            return _combined(measure, [np.nanmedian(_by_prompt(one)[draws.prompts], axis=1) for one in arrays])
    flat = np.stack([one.reshape(-1) for one in arrays], axis=1)
    there = ~np.isnan(flat)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (draws.counts @ np.where(there, flat, 0.0)) / (draws.counts @ there.astype(np.float64))
    return _combined(measure, list(means.T))


def columns_of(rows: Sequence[Mapping[str, Any]], *, n_samples: int) -> dict[str, Array]:
    """Return the numbers of rows (prompt by prompt, sample by sample) as columns [M, S]; None and absent ones are NaN.

    Raises:
        BadInput: not as many rows as prompts times samples.
    """
    if not rows or len(rows) % n_samples:
        raise BadInput(f"{len(rows)} rows are no prompts of {n_samples} samples each.")
    names = sorted({name for measure in MEASURES for name in measure.columns})
    found = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if any(one is not None for one in values):
            column = np.array([math.nan if one is None else float(one) for one in values])
            found[name] = column.reshape(-1, n_samples)
    return found


def _swapped(measure: Measure, ours: Columns, theirs: Columns, draws: Resamples) -> Array:
    """Return [B]: the difference after systems were swapped at random, prompt by prompt."""
    sides = []
    for flips in (draws.flips, ~draws.flips):
        means = []
        for name in measure.columns:
            one, other = ours[name], theirs[name]
            if measure.median:
                both = np.where(flips, _by_prompt(other)[None], _by_prompt(one)[None])
                means.append(np.nanmedian(both, axis=1))
                continue
            total, count = (flips @ f(other) + ~flips @ f(one) for f in (_sums, _counts))
            means.append(total / count)
        sides.append(_combined(measure, means))
    return sides[0] - sides[1]


def _sums(column: Array) -> Array:
    return np.nansum(column, axis=1)


def _counts(column: Array) -> Array:
    return (~np.isnan(column)).sum(axis=1).astype(np.float64)


def _by_prompt(column: Array) -> Array:
    """Return [M]: the mean over a prompt's samples that have a value, NaN where none has."""
    n = _counts(column)
    return np.divide(_sums(column), n, out=np.full(len(column), np.nan), where=n > 0)


def _centre(measure: Measure, column: Array) -> float:
    if measure.whole and np.isnan(column).any():
        return math.nan
    values = _by_prompt(column) if measure.median else column
    values = values[~np.isnan(values)]
    if not values.size:
        return math.nan
    return float(np.median(values) if measure.median else values.mean())


def _combined(measure: Measure, means: list[Array]) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(means[0] if measure.of is None else measure.of(*means), dtype=np.float64)


def _n(measure: Measure, columns: Columns) -> int:
    there = [~np.isnan(columns[name]) for name in measure.columns if name in columns]
    return int(np.logical_and.reduce(there).sum()) if len(there) == len(measure.columns) else 0


def _ends(draws: Array) -> tuple[float, float]:
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return (math.nan, math.nan)
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(finite, [tail, 100 - tail])
    return float(low), float(high)
