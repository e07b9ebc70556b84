"""Speech LMs that others published, as folders of transformers.

Their folders do not say which tokenizer made their units, so the caller must. Three layouts are known:

- TWIST's release (textlesslib, examples/twist): `config.json` has an extra integer `offset`; unit u is token
  u + offset, and documents have no `<s>`: a prompt is its units and nothing else.
- SlamKit's `UnitLM`: model_type "speech_language_model" around a whole `base_config`, weights under the prefix `lm.`;
  0 is padding, 1 is `<s>`, unit u is token u + 2.
- ours, which `UnitLM.save` writes, when only what transformers knows of it is left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedModel

from twistlm.errors import BadInput, CheckpointError, offenders
from twistlm.files.jsonl import read_json
from twistlm.lm.heads import untie
from twistlm.lm.model import UnitLM
from twistlm.lm.pretrained import REFUSALS, from_config, is_derived, load_causal_lm, require_finite
from twistlm.lm.vocab import Vocab
from twistlm.lm.warmstart import generation_config, set_tokens
from twistlm.lm.weights import read_state, stored_tensors
from twistlm.types import UnitSpec


def is_slamkit(folder: str | Path) -> bool:
    """Whether a folder holds SlamKit's wrapper, as far as its configuration says."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        return False  # as `load_published` will say
    said = read_json(path, "the configuration of a speech LM", error=CheckpointError)
    return said.get("model_type") == "speech_language_model"


def load_published(folder: str | Path, spec: UnitSpec) -> UnitLM:
    """Read a published speech LM, in float32 and evaluation mode; nothing is fetched.

    What comes back is a `UnitLM` as any other: it scores, continues, and is saved as ours.

    Args:
        folder: unpacked, with `config.json` and the weights: safetensors, or `pytorch_model.bin`, which torch's
            restricted reader opens without running code.
        spec: the units it was trained on. Nothing in the folder can confirm it, so it is believed.

    Raises:
        BadInput: none of the layouts above, or the units do not fit its vocabulary.
        CheckpointError: files are missing or damaged, or do not fit the configuration.
    """
    folder = Path(folder)
    said = read_json(
        folder / "config.json",
        "the configuration of a published speech LM",
        shape={"model_type?": str, "base_config?": (dict, None)},
        fix="Unpack it, or download it again.",
        error=CheckpointError,
    )
    if said.get("model_type") == "speech_language_model":
        layout, model = "SlamKit", _slamkit(folder, said, spec)
        vocab = Vocab(spec.n_units, n_tokens=_rows(model))
    elif isinstance(said.get("offset"), int):
        layout, model = "TWIST release", load_causal_lm(folder)
        vocab = _twist_vocab(said, spec, _rows(model))
        model.config.bos_token_id = model.config.eos_token_id = None  # the text LM's, which are units here
        model.generation_config = generation_config(vocab)
    else:
        layout, model = "twistlm", load_causal_lm(folder)
        vocab = _our_vocab(folder, said, spec, _rows(model))
    origin = {"start": "published", "layout": layout, "text_lm": said.get("base_model_name"), "source": folder.name}
    return UnitLM(model, vocab, spec, {**origin, "unit_spec": spec.fingerprint})


def _twist_vocab(said: dict[str, Any], spec: UnitSpec, rows: int) -> Vocab:
    pad = said.get("pad_token_id")
    # What padding holds is never looked at, so any token in range will do where the configuration names none.
    pad = pad if isinstance(pad, int) and 0 <= pad < rows else 0
    return Vocab(spec.n_units, offset=said["offset"], pad=pad, bos=None, eos=None, n_tokens=rows)


def _our_vocab(folder: Path, said: dict[str, Any], spec: UnitSpec, rows: int) -> Vocab:
    vocab = Vocab(spec.n_units)
    found = (rows, said.get("pad_token_id"), said.get("bos_token_id"), said.get("eos_token_id"))
    if found != (vocab.size, vocab.pad, vocab.bos, vocab.eos):
        raise BadInput(
            f"{folder} is no speech LM of a known layout over {spec.n_units} units: config.json has no `offset` "
            f"(TWIST's release), model_type is {said.get('model_type')!r} (SlamKit's is 'speech_language_model'), and "
            f"its tokens, padding, <s> and </s> are {found}, where ours would be "
            f"{(vocab.size, vocab.pad, vocab.bos, vocab.eos)}. For a text LM use a warm start, else check the units."
        )
    return vocab


def _slamkit(folder: Path, said: dict[str, Any], spec: UnitSpec) -> PreTrainedModel:
    """Read the base model out of SlamKit's wrapper."""
    base = dict(said.get("base_config") or {})
    kind = base.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        raise BadInput(
            f"{folder}: base_config in config.json is of type {kind!r}, which this version of transformers lacks."
        )
    for name in ("_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "auto_map"):
        base.pop(name, None)  # of the machine it was trained on
    base["vocab_size"] = said.get("vocab_size", base.get("vocab_size"))
    try:
        config = AutoConfig.for_model(kind, **base)
        vocab = Vocab(spec.n_units, n_tokens=config.vocab_size)
        set_tokens(config, vocab)
        # Not by from_pretrained and its key_mapping: that would put the prefix back when the model is saved.
        with torch.random.fork_rng(devices=[]):
            model = from_config(config)
    except REFUSALS as error:
        raise BadInput(f"{folder}: base_config in config.json makes no model: {error}") from error
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    kinds = {name.removeprefix("lm."): tensor for name, tensor in stored_tensors(folder).items()}
    state = {name.removeprefix("lm."): value for name, value in read_state(folder).items()}
    head = model.get_output_embeddings().weight
    tables = [state[n] for n, p in model.named_parameters(remove_duplicate=False) if p is head and n in state]
    if any(not torch.equal(table, tables[0]) for table in tables):  # base_config says one, the file has two
        untie(model)
        tied = False
    try:
        lost, odd = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: its weights are damaged, or not those of its base_config: {error}") from error
    if lost := sorted(name for name in lost if not (tied and name == "lm_head.weight")):
        raise CheckpointError(f"{folder} lacks the weights {offenders(lost)} (under the prefix `lm.`).")
    if odd := sorted(name for name in odd if not is_derived(name, kinds.get(name))):
        raise CheckpointError(
            f"{folder} has tensors that its base_config has no place for: {offenders(odd)}. Without them it would be "
            "another model than the one that was trained: get weights and config.json from one place."
        )
    require_finite(folder, model)
    model.generation_config = generation_config(vocab)
    return model.eval()


def _rows(model: PreTrainedModel) -> int:
    return len(model.get_output_embeddings().weight)
