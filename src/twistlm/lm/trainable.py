"""Which parameters of a warm-started model train: all, the tables alone, all but some layers, or LoRA adapters.

LoRA (Hu et al. 2021, "LoRA: low-rank adaptation of large language models") needs the optional package peft.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from twistlm.compute.seeds import torch_seed
from twistlm.errors import BadInput, TwistError, offenders

Freeze = Literal["body"] | range


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Low-rank adapters on every linear map inside the layers; the tables train as they are, all else is frozen.

    Attributes:
        rank: of each adapter, at least 1.
        alpha: adapters are scaled by alpha / rank.
        dropout: of what enters an adapter, 0 … 1.
    """

    rank: int
    alpha: float
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < math.inf or not 0 <= self.dropout < 1:
            raise BadInput(f"{self}: use a rank of at least 1, an alpha above 0 and a dropout from 0 to below 1.")


def restrict(model: PreTrainedModel, freeze: Freeze | None, lora: LoRA | None, *, seed: int) -> dict[str, Any]:
    """Set what trains in a model that was just made, in place; return what a record should say of it.

    Args:
        model: all of its parameters train.
        freeze: "body" leaves the tables (the embedding and the output layer) alone to train; a range freezes those
            layers, counted from 0, and nothing else. None freezes nothing.
        lora: adapters instead; the body is frozen then, so `freeze` must be None.
        seed: of the adapters' first weights; the global generator is not used.

    Raises:
        BadInput: both are given, or a range of layers that the model does not have.
        TwistError: LoRA is asked for and peft is not installed.
    """
    if freeze is not None and lora is not None:
        raise BadInput("give freeze or lora, not both: LoRA freezes the whole body.")
    layers = find_layers(model)
    if lora is not None:
        _add_adapters(model, layers, lora, seed)
    if freeze == "body" or lora is not None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name)
        for table in (model.get_input_embeddings(), model.get_output_embeddings()):
            table.requires_grad_(True)
    elif freeze is not None:
        if len(freeze) == 0 or freeze.step != 1 or freeze.start < 0 or freeze.stop > len(layers):
            raise BadInput(f"freeze is {freeze}; the model has layers 0 … {len(layers) - 1}.")
        for layer in layers[freeze.start : freeze.stop]:
            layer.requires_grad_(False)
    trainable = [p.numel() for p in model.parameters() if p.requires_grad]
    return {
        "freeze": [freeze.start, freeze.stop] if isinstance(freeze, range) else freeze,
        "lora": None if lora is None else {"rank": lora.rank, "alpha": lora.alpha, "dropout": lora.dropout},
        "trainable": {"tensors": len(trainable), "parameters": sum(trainable)},
    }


def parse_freeze(text: str) -> Freeze:
    """Return what `freeze` says in words: "body", or the first and the last frozen layer, "0-11".

    Raises:
        BadInput: it is neither.
    """
    if text == "body":
        return "body"
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()):
        raise BadInput(f'freeze is {text!r}; write "body", or the first and the last frozen layer, as 0-11.')
    return range(int(first), int(last) + 1)


def find_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the list of the model's layers.

    Raises:
        BadInput: no list in the model is as long as its configuration says.
    """
    count = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise BadInput(f"{type(model).__name__} has no list of {count} layers, so they cannot be told apart.")


def merged_state(model: PreTrainedModel) -> dict[str, torch.Tensor] | None:
    """Return the model's state with each adapter added to the weight it adapts, under that weight's plain name.

    None without adapters: there is nothing to merge. The model is not changed.
    """
    adapted = {name: m for name, m in model.named_modules() if hasattr(m, "lora_A")}
    if not adapted:
        return None
    state = {k.replace(".base_layer.", "."): v for k, v in model.state_dict().items() if ".lora_" not in k}
    for name, module in adapted.items():
        layer: Any = module
        state[f"{name}.weight"] = layer.base_layer.weight.detach() + layer.get_delta_weight("default").detach()
    return state


def put_weights(model: PreTrainedModel, saved: PreTrainedModel) -> None:
    """Give a model the weights that it was saved with, in place: `saved` was read from what `merged_state` wrote.

    What its adapters had learnt is in the weights that they adapt, so they add nothing.
    """
    stored = saved.state_dict()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if ".lora_" not in name:
                value.copy_(stored[name.replace(".base_layer.", ".")])
            elif ".lora_B." in name:
                value.zero_()


def _add_adapters(model: PreTrainedModel, layers: nn.ModuleList, lora: LoRA, seed: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise TwistError(
            f"LoRA needs the package peft, which cannot be imported ({error}): pip install 'twistlm[lora]'."
        ) from error
    inside = {id(m) for m in layers.modules() if isinstance(m, nn.Linear | Conv1D)}
    names = [name for name, m in model.named_modules() if id(m) in inside]
    transposed = any(isinstance(m, Conv1D) for m in layers.modules())
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides it, so any number serves
        lora_dropout=lora.dropout,
        target_modules=names,
        fan_in_fan_out=transposed,
    )
    # Experts lie in tensors of three dimensions, which no adapter of ours goes round: they would stay as they are.
    wide = {n for n, p in layers.named_parameters() if sum(size > 1 for size in p.shape) > 2}
    odd = [n for n in sorted(wide) if not _convolves(layers, n)]
    if odd:
        raise BadInput(
            f"LoRA adapts matrices, and this {model.config.model_type} has tensors of three dimensions: "
            f"{offenders(odd)}. Train all of it, or name what is not trained (--freeze)."
        )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(torch_seed(seed))
            inject_adapter_in_model(config, model)
    except ValueError as error:
        raise BadInput(
            f"LoRA cannot adapt this {model.config.model_type}: {str(error).rstrip('.')}. Train all of it, or name "
            "what is not trained (--freeze)."
        ) from error


def _convolves(layers: nn.Module, parameter: str) -> bool:
    return isinstance(layers.get_submodule(parameter.rpartition(".")[0]), nn.Conv1d)
