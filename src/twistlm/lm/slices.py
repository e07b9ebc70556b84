"""A warm start of which no process holds the whole: the model without data, and where each slice of a weight is read.

A text LM of 13e9 parameters is 52 GB in float32; eight ranks that each read it whole need 416 GB of a machine's memory
before FSDP2 cuts it. Here the new tables, and what else stands outside the layers, come from a warm start of the first
layer alone, which draws them as that of the whole model does; the layers' weights stay in their files until a rank
reads its own rows of them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from twistlm.config import Head, HeadStart, Rows
from twistlm.errors import CheckpointError
from twistlm.lm.model import UnitLM
from twistlm.lm.pretrained import from_config, load_config
from twistlm.lm.text_lms import text_lm_folder
from twistlm.lm.trainable import Freeze, find_layers, restrict
from twistlm.lm.warmstart import cut_config, set_tokens, warm_start
from twistlm.lm.weights import weight_files
from twistlm.types import UnitSpec


@dataclass(frozen=True, eq=False)
class Slices:
    """Where the weights of a model without data are.

    Attributes:
        held: parameter -> the whole tensor, of those outside the layers.
        files: parameter -> its file, and its name there.
    """

    held: dict[str, torch.Tensor]
    files: dict[str, tuple[Path, str]]

    def rows(self, name: str, first: int, last: int) -> torch.Tensor:
        """Return float32 rows `first` … `last` of a parameter, along its first dimension.

        Raises:
            CheckpointError: the file is damaged, or they are not finite.
        """
        if name in self.held:
            return self.held[name][first:last]
        file, there = self.files[name]
        try:
            with safe_open(file, "pt") as opened:  # each time anew: what was read leaves the memory with the map
                found = opened.get_slice(there)[first:last].float()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged: {error}. Get it again.") from error
        if found.numel() and not all(end.isfinite() for end in torch.aminmax(found)):
            raise CheckpointError(f"{file}: {there} has weights that are NaN or infinite. Get it again.")
        return found


def warm_slices(
    text_lm: str | Path,
    spec: UnitSpec,
    *,
    rows: Rows,
    seed: int,
    head: Head,
    head_start: HeadStart,
    alike: NDArray[np.float32] | None = None,
    layers: int | None = None,
    freeze: Freeze | None = None,
) -> tuple[UnitLM, Slices] | None:
    """Return `warm_start` of these arguments as a model without data and its slices.

    None where that cannot be: a unit LM that goes on, a head that is fitted to the whole body, weights that are not
    safetensors or whose names there are not the model's, layers of several kinds.
    """
    folder = text_lm_folder(text_lm)
    if (folder / "unit_spec.json").is_file() or head_start == "fitted":
        return None
    files = weight_files(folder)
    if any(file.suffix != ".safetensors" for file in files):
        return None
    first = warm_start(text_lm, spec, rows=rows, seed=seed, head=head, head_start=head_start, alike=alike, layers=1)
    model = _without_data(folder, first, layers)
    if model is None:
        return None
    inside = {id(p) for p in find_layers(model).parameters()}
    stored: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (it cannot be iterated over)
                stored[name] = file, tuple(opened.get_slice(name).get_shape())
    outside = {name: p.detach() for name, p in first.model.named_parameters()}
    held: dict[str, torch.Tensor] = {}
    where: dict[str, tuple[Path, str]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in inside:
            held[name] = outside[name]
            continue
        there = next((n for n in (name, name.removeprefix(f"{model.base_model_prefix}.")) if n in stored), None)
        if there is None or stored[there][1] != tuple(parameter.shape):
            return None
        where[name] = stored[there][0], there
    return dataclasses.replace(first, model=model, provenance=_provenance(first, model, freeze)), Slices(held, where)


def _without_data(folder: Path, first: UnitLM, layers: int | None) -> PreTrainedModel | None:
    """Return the model of all layers on the meta device; its buffers, which follow from its configuration, are real.

    None where layers have buffers of their own: those of later ones may be others (GPT-Neo's two kinds of attention).
    """
    config, _ = cut_config(load_config(folder), folder.name, layers)
    set_tokens(config, first.vocab)
    config.tie_word_embeddings = first.model.config.tie_word_embeddings
    with torch.device("meta"):
        model = from_config(config)
    model.generation_config = first.model.generation_config
    model.get_input_embeddings().padding_idx = first.model.get_input_embeddings().padding_idx
    if any(True for _ in find_layers(model).buffers()):
        return None
    known = dict(first.model.named_buffers())
    for name, _ in list(model.named_buffers()):
        if name not in known:  # Gemma 3's of a kind of attention that the first layer has not
            return None
        module, _, key = name.rpartition(".")
        model.get_submodule(module)._buffers[key] = known[name].clone()
    return model.eval()


def _provenance(first: UnitLM, model: PreTrainedModel, freeze: Freeze | None) -> dict[str, Any]:
    """Return what `warm_start` of all layers says of itself."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    kept = sizes.keys() - set(first.provenance["new"]["names"])
    n_layers = model.config.num_hidden_layers
    return {
        **first.provenance,
        "kept": {"tensors": len(kept), "parameters": sum(sizes[name] for name in kept)},
        "layers": [n_layers, first.provenance["layers"][1]],
        **restrict(model, freeze, None, seed=0),
    }
