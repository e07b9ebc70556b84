"""Whether a model looks ahead: then every score of it would be of units that it has seen."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PreTrainedModel

from twistlm.errors import BadInput

# Of these types nothing needs to be computed to know.
_KNOWN = frozenset({
    "bloom", "gemma3_text", "gpt2", "gpt_neox", "imagegpt", "llama", "mamba", "mistral", "opt", "qwen2",
})  # fmt: skip


_COUNTING = frozenset({"xlm", "flaubert"})


def require_causal(model: PreTrainedModel) -> None:
    """Compute two rows that differ in their last token alone, where the type does not tell.

    Raises:
        BadInput: what comes before that token is not the same: BERT without `is_decoder`, attention in both directions.
            Or a type that tells the length of a row by its tokens.
    """
    config, first = model.config, next(model.parameters())
    if config.model_type in _COUNTING:
        raise BadInput(
            f"a {config.model_type} tells how long a row is by which of its tokens are the pad, so a unit of that "
            "number would end rows. Give another text LM."
        )
    known = config.model_type in _KNOWN and not getattr(config, "use_bidirectional_attention", False)
    if known or first.device.type == "meta" or isinstance(first, FakeTensor):
        return
    training = model.training
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        rows = torch.tensor([[1, 2, 3, 0], [1, 2, 3, 1]], device=first.device)
        logits = model.eval()(input_ids=rows).logits[:, :-1].float()
    model.train(training)
    if (logits[0] - logits[1]).abs().max() > 1e-5 * logits.abs().max():
        raise BadInput(
            f"a {config.model_type} of this configuration looks ahead: what it says of a token depends on later ones. "
            "It is no causal LM. Give a decoder-only text LM (of BERT's kind: is_decoder in its configuration)."
        )
