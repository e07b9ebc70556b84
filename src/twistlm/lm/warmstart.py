"""Warm start: keep the body of a text LM and give it a unit vocabulary (TWIST). Cold start: the same shape, random.

Paper: Hassid et al. 2023, "Textually pretrained speech language models", section 3. There the text rows are thrown away
and the unit rows are random; the other `rows` are the usual alternatives.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from twistlm.compute.seeds import checked_seed, torch_seed
from twistlm.compute.threads import one_thread
from twistlm.config import Head, HeadStart, Rows
from twistlm.errors import BadInput
from twistlm.files import artifacts
from twistlm.lm.heads import begin_head, check_head, untie
from twistlm.lm.likeness import ALIKE, check, cold_rows
from twistlm.lm.model import UnitLM
from twistlm.lm.pretrained import from_config, load_causal_lm, load_config, require_form
from twistlm.lm.shapes import PUBLISHED, named_shape
from twistlm.lm.text_lms import Prefer, text_lm_folder
from twistlm.lm.trainable import Freeze, LoRA, restrict
from twistlm.lm.vocab import Vocab
from twistlm.types import UnitSpec


def warm_start(
    text_lm: str | Path,
    spec: UnitSpec,
    *,
    rows: Rows,
    seed: int,
    head: Head = "as-is",
    head_start: HeadStart = "rows",
    fit_on: Sequence[NDArray[np.integer]] | None = None,
    alike: NDArray[np.float32] | None = None,
    layers: int | None = None,
    freeze: Freeze | None = None,
    lora: LoRA | None = None,
    shuffled: bool = False,
    prefer: Prefer = "registry",
) -> UnitLM:
    """Return a text LM with its vocabulary swapped for units; every other tensor is bit-identical.

    Provenance counts what was kept, new and dropped. Tested families: OPT,
    BLOOM, GPT-NeoX (Pythia), LLaMA (SmolLM2), GPT-2, Qwen2.5, Gemma 3 (text) and, as the paper's image start, ImageGPT;
    any other that transformers loads as a causal LM with a plain embedding and output layer should do.

    Args:
        text_lm: the name of an artifact ("smollm2-135m"), the folder of a causal LM, or a model of the hub; see
            `text_lms`. A unit LM of the same units (its folder or its run's) goes on with the rows and the head it
            has, whatever `rows` and `head` say.
        spec: the units to be modelled.
        rows: how the V new rows of the embedding (and of an untied head) begin.
            "random": N(0, s), s the standard deviation the architecture initialises with and at most 0.02; nothing of
            the text vocabulary is left. "mean": N(m, s), m and s each dimension's mean and standard deviation over the
            text rows. "covariance": N(m, C), C the whole covariance of the text rows (transformers' resizing draws from
            N(m, 1e-9 C), which makes all new rows nearly equal). "centroids", "neighbours": each row drawn as by
            "covariance", but those of two units go together as far as the units are `alike`. "first-rows": the first V
            rows of the text table.
        seed: of the new rows and of LoRA's adapters; the global generator is not used.
        head: "as-is" leaves the model tied or untied as it was, as the paper does; "own" gives it an output layer of
            its own where its output is the embedding.
        head_start: how an output layer of its own begins: with "rows" (those of the embedding where it was tied, else
            drawn like them from its own text rows), at "zero", or "fitted" to the body's states, see `heads`.
        fit_on: unit ids of documents, for "fitted".
        alike: float32 [K, d], vectors of length 1 (or 0: like no other) of the units, for "centroids"
            (`likeness.by_centroids`) and "neighbours" (`likeness.by_neighbours`): two rows correlate as their vectors.
        layers: keep only the first so many; None keeps all.
        freeze: what does not train, see `trainable.restrict`; None trains everything.
        lora: train adapters and the tables only.
        shuffled: a control: permute the values inside each kept tensor (seeded). What the text LM knew is gone, the
            scale and the histogram of every tensor stay.
        prefer: which source a named artifact comes from first; see `artifacts.resolve`.

    Raises:
        BadInput: unknown name or `rows`; a text table with fewer rows than needed; no output layer; an architecture
            transformers does not know as a causal LM; layers the model does not have.
        ArtifactError: the named artifact could not be had.
        CheckpointError: the folder is incomplete.
    """
    check(alike, rows, spec.n_units)
    seed = checked_seed(seed)
    folder = text_lm_folder(text_lm, prefer=prefer)
    if (folder / "unit_spec.json").is_file():
        if shuffled or layers is not None:
            raise BadInput(f"{text_lm} is a unit LM, which goes on whole: leave out layers and shuffled.")
        return continued(text_lm, folder, spec, seed=seed, freeze=freeze, lora=lora)
    vocab = Vocab(spec.n_units)
    config, of_layers = _config(folder, layers)
    model = load_causal_lm(folder, config)
    before = _named_sizes(model)
    body = dict(model.named_parameters())
    table, output = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(table, nn.Embedding) or not isinstance(output, nn.Linear):
        raise BadInput(
            f"{type(model).__name__} has no plain embedding and output layer, so its vocabulary cannot be swapped."
        )
    tied = output.weight is table.weight
    check_head(head, head_start, tied=tied)
    generator = torch.Generator().manual_seed(torch_seed(seed))
    # A trained final norm amplifies: with SmolLM2's own 1/24 tied random rows begin 1.9 nats above ln V, with 0.02 0.5.
    std = min(_init_std(model.config), 0.02)
    set_tokens(model.config, vocab)
    table.num_embeddings = model.config.vocab_size
    new = functools.partial(
        _new_rows, rows=rows, std=std, generator=generator, alike=alike if rows in ALIKE else None, offset=vocab.offset
    )
    table.weight = nn.Parameter(new(table.weight.detach(), table.num_embeddings))
    table.padding_idx = vocab.pad if table.padding_idx is not None else None
    if tied:
        output.weight = table.weight
    else:
        output.weight = nn.Parameter(new(output.weight.detach(), vocab.size))
    if output.bias is not None:
        old = output.bias
        new_bias = old.detach()[: vocab.size].clone() if rows == "first-rows" else torch.zeros(vocab.size)
        _put_for(model, old, nn.Parameter(new_bias))
    output.out_features = vocab.size
    if tied and head == "own":
        untie(model)
    model.generation_config = generation_config(vocab)
    require_form(model)
    kept = {name for name, value in model.named_parameters() if body.get(name) is value}
    if shuffled:
        with torch.no_grad():
            for value in (value for name, value in model.named_parameters() if name in kept):
                value.copy_(value.flatten()[torch.randperm(value.numel(), generator=generator)].view_as(value))
    fit = begin_head(model, vocab, head_start, fit_on)
    after = _named_sizes(model)
    counted = {
        "tied": tied and head == "as-is",
        "head_start": head_start,
        **fit,
        "kept": _count(after, kept),
        "new": _count(after, set(after) - kept, names=True),
        "dropped": _count(before, set(before) - kept, names=True),
        "layers": [config.num_hidden_layers, of_layers],
    }
    return UnitLM(
        model,
        vocab,
        spec,
        {
            **_origin("warm", text_lm, folder, spec, seed),
            "rows": rows,
            "rows_std": std if rows == "random" else None,
            "shuffled": shuffled,
            **counted,
            **restrict(model, freeze, lora, seed=seed),
        },
    )


def continued(
    text_lm: str | Path, folder: Path, spec: UnitSpec, *, seed: int, freeze: Freeze | None, lora: LoRA | None
) -> UnitLM:
    """Return a unit LM as it is, to be trained further: of `warm_start`, where a unit LM is given.

    Raises:
        UnitSpecMismatch: it was trained on other units.
        BadInput: its documents have no ends (TWIST's published layout), so it cannot be trained.
    """
    lm = UnitLM.load(folder)
    lm.require(spec, theirs="the units to be trained on")
    if lm.vocab.bos is None or lm.vocab.eos is None:
        raise BadInput(f"{text_lm} has no token that ends a document (TWIST's published layout): it cannot train on.")
    sizes = _named_sizes(lm.model)
    layers = lm.model.config.num_hidden_layers
    provenance = {
        **_origin("continued", text_lm, folder, spec, seed),
        "rows": "kept",
        "rows_std": None,
        "tied": lm.model.get_output_embeddings().weight is lm.model.get_input_embeddings().weight,
        "kept": _count(sizes, set(sizes)),
        "new": _count(sizes, set(), names=True),
        "dropped": _count(sizes, set(), names=True),
        "layers": [layers, layers],
        "before": lm.provenance,
        **restrict(lm.model, freeze, lora, seed=seed),
    }
    return UnitLM(lm.model, lm.vocab, spec, provenance)


def cold_start(
    text_lm: str | Path,
    spec: UnitSpec,
    *,
    seed: int,
    rows: Rows = "random",
    head: Head = "as-is",
    head_start: HeadStart = "rows",
    fit_on: Sequence[NDArray[np.integer]] | None = None,
    alike: NDArray[np.float32] | None = None,
    layers: int | None = None,
    freeze: Freeze | None = None,
    lora: LoRA | None = None,
    prefer: Prefer = "registry",
) -> UnitLM:
    """Return the twin of `warm_start` with the same shape and random weights, by the architecture's own initialisation.

    With the `rows` "centroids" and "neighbours", units that are `alike` begin alike here as well, each row as wide as
    the architecture has it; all others need a text table, so there each row is drawn by itself. Only the configuration
    of the text LM is read, and for the paper's (`shapes.PUBLISHED`) the name is enough; for arguments and errors see
    `warm_start`.
    """
    check(alike, rows, spec.n_units)
    seed = checked_seed(seed)
    named = str(text_lm) in PUBLISHED and not Path(text_lm).is_dir()
    folder = None if named else text_lm_folder(text_lm, prefer=prefer, weights=False)
    vocab = Vocab(spec.n_units)
    config, of_layers = (
        cut_config(named_shape(str(text_lm)), str(text_lm), layers) if folder is None else _config(folder, layers)
    )
    set_tokens(config, vocab)
    check_head(head, head_start, tied=config.tie_word_embeddings)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_seed(seed))  # torch.manual_seed would also reseed the GPUs
        model = from_config(config)
    if alike is not None and rows in ALIKE:
        generator = torch.Generator().manual_seed(torch_seed(seed))
        tables = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
        for drawn in (value.detach() for value in model.parameters() if value in tables):
            _draw_together(drawn, alike, offset=vocab.offset, std=float(drawn.std()), generator=generator)
    model.generation_config = generation_config(vocab)
    if head == "own" and config.tie_word_embeddings:
        untie(model)
    fit = begin_head(model, vocab, head_start, fit_on)
    require_form(model)
    sizes = _named_sizes(model)
    counted = {
        "tied": model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        "head_start": head_start,
        **fit,
        "kept": _count(sizes, set()),
        "new": _count(sizes, set(sizes)),
        "dropped": _count(sizes, set()),
        "layers": [config.num_hidden_layers, of_layers],
    }
    return UnitLM(
        model.eval(),
        vocab,
        spec,
        {
            **_origin("cold", text_lm, folder, spec, seed),
            "rows": cold_rows(rows),
            "rows_std": _init_std(config),
            **counted,
            **restrict(model, freeze, lora, seed=seed),
        },
    )


def _config(folder: Path, layers: int | None) -> tuple[PretrainedConfig, int]:
    """Return the text LM's configuration, cut to its first `layers`, and how many layers it had."""
    config = load_config(folder)
    if config.get_text_config() is not config:
        raise BadInput(
            f"{folder} is a {config.model_type} model, which has a text LM inside one of several modalities. Save its "
            "text LM alone (a causal LM folder) and give that."
        )
    return cut_config(config, folder.name, layers)


def cut_config(config: PretrainedConfig, name: str, layers: int | None) -> tuple[PretrainedConfig, int]:
    """Keep the first `layers` of a configuration, in place; return it and how many layers it had."""
    decoder = "decoder_layers" in vars(config)  # BART's, of which the other number is the encoder's
    whole = config.decoder_layers if decoder else config.num_hidden_layers
    if layers is not None:
        if not 1 <= layers <= whole:
            raise BadInput(f"layers is {layers}; {name} has 1 to {whole} to keep.")
        config.num_hidden_layers = layers
        if decoder:
            config.decoder_layers = layers
        if isinstance(types := vars(config).get("layer_types"), list):  # a property where it follows from the number
            config.layer_types = types[:layers]
        if isinstance(types := vars(config).get("attention_layers"), list):  # GPT-Neo's, told in two ways
            config.attention_layers, config.attention_types = types[:layers], [[types[:layers], 1]]
    return config, whole


def _put_for(model: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    """Put a parameter under every name of another: the bias of BERT's head has two."""
    for module in model.modules():
        for name, value in list(module._parameters.items()):
            if value is old:
                setattr(module, name, new)


@one_thread()
def _new_rows(
    text: torch.Tensor, n_rows: int, *, rows: Rows, std: float, generator: torch.Generator,
    alike: NDArray[np.float32] | None, offset: int,
) -> torch.Tensor:  # fmt: skip
    """Return float32 [V, D]; `text` is the old table [V_text, D], `offset` the row of unit 0."""
    if rows == "first-rows":
        if len(text) < n_rows:
            raise BadInput(f'rows="first-rows" needs {n_rows} rows; the text LM has only {len(text)}. Use "random".')
        return text[:n_rows].clone()
    if rows == "covariance" or alike is not None:
        # Random mixtures of the centred rows have exactly their covariance, without factorising a D x D matrix.
        mixture = torch.empty(n_rows, len(text)).normal_(generator=generator)
        if alike is not None:
            _draw_together(mixture, alike, offset=offset, std=1.0, generator=generator)
        return text.mean(0) + mixture @ (text - text.mean(0)) / math.sqrt(len(text))
    noise = torch.empty(n_rows, text.shape[1]).normal_(generator=generator)
    return noise * std if rows == "random" else text.mean(0) + noise * text.std(0)


@one_thread()
def _draw_together(
    drawn: torch.Tensor, alike: NDArray[np.float32], *, offset: int, std: float, generator: torch.Generator
) -> None:
    """Replace the units' rows of `drawn` [V, N], in place: each as wide as its own, two correlate as their vectors do.

    They are mixtures of common ones, in shares whose squares add up to 1. Units with the vector 0 keep their own.
    """
    shares = torch.from_numpy(alike)
    of_units = drawn[offset : offset + len(shares)]
    common = torch.empty(shares.shape[1], drawn.shape[1]).normal_(0, std, generator=generator)
    of_units.copy_(torch.where(shares.any(1, keepdim=True), shares @ common, of_units))


def _init_std(config: PretrainedConfig) -> float:
    """The standard deviation this architecture draws its embedding from; the families name it differently."""
    return float(getattr(config, "initializer_range", None) or getattr(config, "init_std", None) or 0.02)


def set_tokens(config: PretrainedConfig, vocab: Vocab) -> None:
    # ImageGPT's class has an input row more than outputs: its start-of-image token, which units do not use.
    config.vocab_size = vocab.size + (config.model_type == "imagegpt" and not config.tie_word_embeddings)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = vocab.bos, vocab.eos, vocab.pad


def generation_config(vocab: Vocab) -> GenerationConfig:
    # A new one: the text model's may name its own special tokens and sampling settings.
    return GenerationConfig(bos_token_id=vocab.bos, eos_token_id=vocab.eos, pad_token_id=vocab.pad)


def _named_sizes(model: PreTrainedModel) -> dict[str, int]:
    """Parameter counts by name; a tied head is counted once, under the embedding's name."""
    return {name: value.numel() for name, value in model.named_parameters()}


def _count(sizes: dict[str, int], names_in: set[str], *, names: bool = False) -> dict[str, Any]:
    counted: dict[str, Any] = {"tensors": len(names_in), "parameters": sum(sizes[name] for name in names_in)}
    return counted | {"names": sorted(names_in)} if names else counted


def _origin(start: str, text_lm: str | Path, folder: Path | None, spec: UnitSpec, seed: int) -> dict[str, Any]:
    return {
        "start": start,
        "text_lm": Path(text_lm).name,
        "source": "shape only" if folder is None else (came := artifacts.provenance(folder))["source"],
        **({"revision": came["commit"]} if folder is not None and "commit" in came else {}),
        "unit_spec": spec.fingerprint,
        "seed": seed,
    }
