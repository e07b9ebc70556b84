"""Log-probabilities of unit sequences.

Each sequence is a document of its own: log p(u_i | <s>, u_1 … u_(i-1)) in nats, float32, over the whole vocabulary (the
special tokens included). A model without `<s>` predicts from the second unit on.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from twistlm.compute.batching import batches
from twistlm.compute.devices import send
from twistlm.compute.products import quick_products
from twistlm.compute.threads import in_order
from twistlm.compute.underway import done
from twistlm.errors import BadInput, offenders
from twistlm.lm.model import UnitLM


@dataclass(frozen=True, eq=False)
class SequenceScore:
    """The score of one sequence.

    Attributes:
        sum_logprob: nats, the sum of `token_logprobs` in float64.
        n: how many log-probabilities were summed: the units (without the first where there is no `<s>` before it), and
            the final `<s>` when it was included.
        token_logprobs: float32 [n].
    """

    sum_logprob: float
    n: int
    token_logprobs: NDArray[np.float32]

    @property
    def mean_logprob(self) -> float:
        """Nats per token."""
        return self.sum_logprob / self.n


def score(
    lm: UnitLM, sequences: Iterable[NDArray[np.integer]], *, include_end: bool, batch_tokens: int | None = None
) -> list[SequenceScore]:
    """Return one score for each sequence of unit ids, in the given order.

    The result does not depend on the other sequences or on `batch_tokens`, except for the last float32 digits: padding
    comes after the units, where a causal model cannot see it.

    Args:
        lm: the model; its training mode is put back afterwards.
        sequences: unit ids, each a 1-D integer array with at least one unit; not changed.
        include_end: whether the final `<s>` is scored too. It moves published numbers, so there is no default.
        batch_tokens: how many tokens, padding included, one forward pass may hold; bounds the memory. None: 512 on a
            CPU, where more is slower (less fits its cache, more is padding), or fewer, so that a few sequences make
            work for every core; 8192 elsewhere.

    Raises:
        BadInput: a sequence without units, with ids outside the vocabulary, or longer than the model has positions for;
            for a model without `<s>`, a sequence of one unit, or `include_end`.
    """
    sequences = list(sequences)
    empty = [i for i, units in enumerate(sequences) if len(units) == 0]
    if empty:
        raise BadInput(f"sequences without units have no probability: numbers {offenders(empty)}. Leave them out.")
    tokens = [lm.vocab.encode(units) if include_end else lm.vocab.prompt(units) for units in sequences]
    if single := [i for i, row in enumerate(tokens) if len(row) == 1]:
        raise BadInput(
            f"this model has no <s>, so the first unit is not predicted and a sequence of one unit has no probability: "
            f"numbers {offenders(single)}. Leave them out."
        )
    too_long = [i for i, row in enumerate(tokens) if lm.max_tokens is not None and len(row) - 1 > lm.max_tokens]
    if too_long:
        raise BadInput(
            f"longer than the {lm.max_tokens} tokens the model has positions for: numbers {offenders(too_long)}. "
            "Score shorter pieces (of a perplexity: a shorter window, --context)."
        )
    threads = lm.device.type == "cpu" and not lm.sharded
    if batch_tokens is None:
        batch_tokens = 512 if lm.device.type == "cpu" else 8192
        if threads and (n := torch.get_num_threads()) > 1:  # of three batches, the last would leave a core of two idle
            batch_tokens = min(batch_tokens, max(128, sum(map(len, tokens)) // (4 * n)))
    scores: dict[int, SequenceScore] = {}
    with lm.inference(), quick_products(lm.model):
        drawn = list(batches([len(row) for row in tokens], batch_tokens))
        work = partial(_logprobs, lm, tokens)
        # On a CPU each core takes a batch of its own: these products are too small to be shared out.
        made = in_order(work, drawn) if threads and len(drawn) > 1 else map(work, drawn)
        for rows, found in zip(drawn, made, strict=True):
            for i, logprobs in zip(rows, found, strict=True):
                scores[i] = SequenceScore(float(logprobs.sum(dtype=np.float64)), len(logprobs), logprobs)
            done(len(rows) / len(tokens))
    return [scores[i] for i in range(len(tokens))]


@torch.no_grad()  # a thread has its own
def _logprobs(lm: UnitLM, tokens: list[NDArray[np.int64]], which: list[int]) -> list[NDArray[np.float32]]:
    """Return float32 [length - 1] for each of these rows of tokens: what was given to each token after the first."""
    rows = [tokens[i] for i in which]
    padded = np.full((len(rows), max(map(len, rows))), lm.vocab.pad, dtype=np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    batch = send(padded, lm.device)
    logits = lm.forward_logits(batch[:, :-1])
    chosen = logits.gather(2, batch[:, 1:, None])[:, :, 0] - logits.logsumexp(dim=2)
    return [line[: len(row) - 1].copy() for line, row in zip(chosen.cpu().numpy(), rows, strict=True)]
