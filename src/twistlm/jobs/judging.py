"""One model's perplexity and pairs, for `twist eval` without suites."""

from __future__ import annotations

from pathlib import Path

from twistlm.corpus.shards import open_corpus
from twistlm.errors import BadInput
from twistlm.evaluate.perplexity import compare_per_second
from twistlm.evaluate.suites.catalogue import open_suite
from twistlm.lm.folders import load_model
from twistlm.study.judging import Values, pair_values, perplexity, perplexity_values, without_nan
from twistlm.units.tokenizer import SpeechTokenizer


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
