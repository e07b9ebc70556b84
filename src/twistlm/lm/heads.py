"""The output table of a unit LM: the text model's own arrangement, or one of its own, and how that begins.

Why it may matter: new rows that stand in for thousands of trained ones, seen through a trained final norm, give a first
loss far above ln V and gradients to match where they are also the output (`tie_word_embeddings`). A head of its own
that begins at zero begins at ln V exactly. A unit vocabulary of some hundred rows costs nothing to untie.

Shapes: N tokens, V tokens of the vocabulary, D channels before the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from twistlm.config import Head, HeadStart
from twistlm.errors import BadInput
from twistlm.lm.pretrained import positions_of
from twistlm.lm.vocab import Vocab

FIT_TOKENS = 4096  # states that a head is fitted to
_FIT_ROW = 256  # tokens of a document that are read for it
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # of the squared weights, in nats a token; the best on held-out states is taken
_HELD = 5  # one state in so many chooses the penalty


def check_head(head: Head, head_start: HeadStart, *, tied: bool) -> None:
    """Raise `BadInput` where a head that is the embedding should begin in another way than the embedding does."""
    if tied and head == "as-is" and head_start != "rows":
        raise BadInput(
            f'head_start is "{head_start}", but the head of this text LM is its embedding, which begins with the new '
            'rows: give head="own" (an output table of its own), or head_start="rows".'
        )


def untie(model: PreTrainedModel) -> None:
    """Give `model`, whose head is its embedding, a head of its own with the same values, in place."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}  # what transformers would tie again when it saves or loads


def begin_head(
    model: PreTrainedModel, vocab: Vocab, head_start: HeadStart, documents: Sequence[NDArray[np.integer]] | None
) -> dict[str, Any]:
    """Set an output layer's first values, in place; return what a record should say of it.

    Args:
        model: with a head that is no embedding where `head_start` is not "rows".
        vocab: its tokens.
        head_start: "rows" leaves what is there; "zero" makes every token equally likely; "fitted" is the logistic
            regression of the next token on the body's states as they are, of `documents`. It is the same in every
            process with the same number of threads, and elsewhere up to rounding.
        documents: unit ids of whole documents; read in their order, up to FIT_TOKENS tokens.

    Raises:
        BadInput: "fitted" without documents.
    """
    head = model.get_output_embeddings()
    if head_start == "rows":
        return {}
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    if head_start == "zero":
        return {}
    if not documents:
        raise BadInput('head_start="fitted" needs documents of units to fit the head to: give fit_on.')
    states, targets = _states(model, vocab, documents)
    held = torch.arange(len(targets)) % _HELD == _HELD - 1
    if not held.any():  # too few to choose by
        with torch.no_grad():
            head.weight.copy_(_fit(states, targets, vocab.size, _PENALTIES[-1]))
        return {"head_fit": {"tokens": len(targets), "penalty": _PENALTIES[-1]}}
    tried = {p: _nll(_fit(states[~held], targets[~held], vocab.size, p), states[held], targets[held])
             for p in _PENALTIES}  # fmt: skip
    penalty = min(tried, key=lambda p: tried[p])
    with torch.no_grad():
        head.weight.copy_(_fit(states, targets, vocab.size, penalty))
    return {"head_fit": {"tokens": len(targets), "penalty": penalty, "heldout_nll": tried[penalty]}}


def _states(
    model: PreTrainedModel, vocab: Vocab, documents: Sequence[NDArray[np.integer]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 [N, D], what the head is given at each token, and int64 [N], the token that follows it."""
    seen: list[torch.Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(0, 1)))
    targets: list[NDArray[np.int64]] = []
    training, n = model.training, 0
    positions = positions_of(model.config) or _FIT_ROW
    model.eval()
    try:
        with torch.no_grad():
            for units in documents:
                tokens = vocab.encode(units)[: min(_FIT_ROW, positions + 1)]
                model(input_ids=torch.from_numpy(tokens[None, :-1]).to(model.device), use_cache=False)
                targets.append(tokens[1:])
                n += len(tokens) - 1
                if n >= FIT_TOKENS:
                    break
    finally:
        hook.remove()
        model.train(training)
    return torch.cat(seen)[:FIT_TOKENS].float(), torch.from_numpy(np.concatenate(targets)[:FIT_TOKENS]).to(model.device)


def _fit(states: torch.Tensor, targets: torch.Tensor, n_tokens: int, penalty: float) -> torch.Tensor:
    """Return float32 [V, D]: the minimum of the mean negative log-likelihood + `penalty` / 2 times the squared weights.

    The states' scale does not move it: weights are counted where states have a mean square of 1.
    """
    scale = states.square().mean().sqrt()
    inputs = states / scale
    weight = torch.zeros(n_tokens, states.shape[1], device=states.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(inputs @ weight.T, targets) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return (weight / scale).detach()


def _nll(weight: torch.Tensor, states: torch.Tensor, targets: torch.Tensor) -> float:
    return float(nn.functional.cross_entropy(states @ weight.T, targets))
