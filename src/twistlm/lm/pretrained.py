"""A causal LM read from a folder of transformers: looked at before it is loaded, compared with its files after.

transformers loads what fits and logs the rest, asks whether a folder's own Python may run, takes an adapter beside a
model for the model, and obeys what a configuration says of its own machine. Here each of these is settled in the open:
nothing of a folder runs, nothing is asked, and what is not wholly the model that its files describe is an error.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch._subclasses.fake_tensor import FakeTensor
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    ImageGPTConfig,
    ImageGPTForCausalImageModeling,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from twistlm.compute.shared import Shared
from twistlm.errors import BadInput, CheckpointError, TwistError, offenders
from twistlm.files.configs import read_config
from twistlm.files.jsonl import read_json
from twistlm.files.regular import require_regular_files
from twistlm.lm.causal import require_causal
from twistlm.lm.trainable import find_layers
from twistlm.lm.weights import Stored, first_line, read_state, refuse_pointer, stored_tensors

# What transformers and the readers below it raise at a configuration or weights that they do not like.
REFUSALS = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, AssertionError,
    ZeroDivisionError, SafetensorError, StrictDataclassError,
)  # fmt: skip
_ADAPTER = "adapter_config.json"
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # anywhere in a name
_OF_THE_MACHINE = ("auto_map", "fusion_config", "transformers_weights", "distributed_config")
# Tables of numbers that follow from the configuration, which older versions of transformers kept in their files.
_DERIVED = re.compile(r"(^|[._])(rotary_emb\.inv_freq|masked_bias|position_ids|causal_mask)$")
_OLD_MASK = re.compile(r"(^|\.)(attn|attention|self_attention)\.bias$")
_FLOATS = {"F64", "F32", "F16", "BF16"}


def load_config(folder: Path) -> PretrainedConfig:
    """Read the configuration of a causal LM folder, from local files only.

    Raises:
        BadInput: there is none, this version of transformers does not know its architecture without code of the
            folder's own, or its weights are quantised or an adapter's.
    """
    said = _look(folder)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, attn_implementation=None
            )
    except REFUSALS as error:
        raise BadInput(f"{folder} is not a causal LM folder: {first_line(error)}") from error
    kind = str(said.get("model_type", config.model_type))
    if config.model_type not in (*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "imagegpt"):
        raise BadInput(f"{folder}: {kind} is no causal LM of transformers. Give a decoder-only text LM.")
    for name in _OF_THE_MACHINE:
        vars(config).pop(name, None)
    # Whatever it names: the first could be a kernel to be fetched. Set anew by who makes the model.
    config._attn_implementation, config._experts_implementation = None, None
    rows, pad = getattr(config, "vocab_size", None), getattr(config, "pad_token_id", None)
    if isinstance(rows, int) and isinstance(pad, int) and not -rows <= pad < rows:
        config.pad_token_id = None  # a tokenizer got a pad token and the table no row: nothing here pads with it
    return config


def from_config(config: PretrainedConfig) -> PreTrainedModel:
    """Return a new model in float32, its weights drawn from torch's global generator as the architecture does."""
    empty = torch.empty(0)
    if empty.device.type != "meta" and not isinstance(empty, FakeTensor):  # else it gets no data: a plan, a comparison
        _require_memory(config)
    if isinstance(config, ImageGPTConfig):
        return ImageGPTForCausalImageModeling(config)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, trust_remote_code=False, attn_implementation=_attention(_kind(config))
    )
    require_causal(model)
    return model


def load_causal_lm(folder: Path, config: PretrainedConfig | None = None) -> PreTrainedModel:
    """Load any causal LM folder in float32, in evaluation mode, from local files only.

    Args:
        folder: of transformers.
        config: instead of the folder's own, with fewer layers: the weights of the others are left out.

    Raises:
        BadInput: as of `load_config`.
        CheckpointError: files are missing or damaged; the files and the configuration are not of one model: a tensor
            too few, too many, of another shape, or of a type that is no float; a weight is NaN or infinite.
    """
    own = load_config(folder)
    config = config or own
    stored = stored_tensors(folder)
    names = _plain_names(folder, stored)
    state = None
    if any(name != plain for name, plain in names.items()):
        state = {names[name]: value for name, value in read_state(folder).items()}
        stored = {names[name]: tensor for name, tensor in stored.items()}
    _require_floats(folder, stored)
    _require_shapes(folder, config, stored)
    kind = _kind(config)
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            loaded: Any = kind.from_pretrained(
                None if state is not None else folder,
                state_dict=state,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                attn_implementation=_attention(kind),
                ignore_mismatched_sizes=True,  # they are in the report, with both shapes
                output_loading_info=True,
            )
    except REFUSALS as error:
        raise CheckpointError(f"{folder} is not a complete causal LM folder: {first_line(error)}") from error
    model, report = loaded
    cut = range(config.num_hidden_layers, own.num_hidden_layers)
    without_place = sorted(
        name
        for name in report["unexpected_keys"]
        if not is_derived(name, stored.get(name)) and not _in_layers(model, name, cut)
    )
    _require_whole(folder, model, report, without_place)
    require_finite(folder, model)
    require_causal(model)
    head = model.get_output_embeddings()
    if config.tie_word_embeddings and head is not None and head.weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False  # the files have two tables, and whoever reads a copy must as well
    return model.eval()


def require_finite(folder: Path, model: PreTrainedModel) -> None:
    """Raise `CheckpointError` where a parameter of `model`, which was read from `folder`, is NaN or infinite."""
    bad = [
        name
        for name, p in model.named_parameters()
        if p.numel() and not all(end.isfinite() for end in torch.aminmax(p.detach()))
    ]
    if bad:
        raise CheckpointError(
            f"{folder} has weights that are NaN or infinite: {offenders(bad)}. Its training diverged, or the file was "
            "damaged or saved in a format too small for it: get it again, or an earlier checkpoint."
        )


def positions_of(config: PretrainedConfig) -> int | None:
    """Return how many positions a model has; None where its configuration sets no limit."""
    found: int | None = getattr(config, "max_position_embeddings", getattr(config, "max_seq_len", None))  # MPT's name
    return found


def require_form(model: PreTrainedModel) -> None:
    """Raise `BadInput` where a model could not be saved: its tensors have other shapes than its configuration says, or
    that cannot be written and read."""
    try:  # in memory: a file would be left behind by whoever is killed here
        type(model.config).from_dict(json.loads(json.dumps(model.config.to_dict())))
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise BadInput(
            f"the configuration of this {model.config.model_type} cannot be written and read again, so the trained "
            f"model could not be saved: {error}. Take another text LM, or all of its layers; please report this."
        ) from error
    wanted = _form(model.config).shapes
    odd = [n for n, value in model.state_dict().items() if n in wanted and tuple(value.shape) != wanted[n]]
    if odd:
        raise BadInput(
            f"the vocabulary of a {model.config.model_type} cannot be swapped: {offenders(odd)} would be of another "
            "shape than its configuration says, and the trained model could not be saved. Please report this."
        )


def require_saved(folder: Path, model: PreTrainedModel) -> None:
    """Raise `TwistError` unless `folder` holds a configuration and the tensors that it asks for, in their shapes.

    The configuration is read back and a model without data made from it, as a later `load_causal_lm` will.
    """
    config = load_config(folder)
    if (config.model_type, config.vocab_size) != (model.config.model_type, model.config.vocab_size):
        raise TwistError(f"{folder} was written with the configuration of another model than the one trained.")
    form = _form(config)
    wanted, unsaved = form.shapes, re.compile("|".join(form.unsaved or ("(?!)",)))
    stored = {name: tensor.shape for name, tensor in stored_tensors(folder).items()}
    odd = sorted(name for name in wanted.keys() & stored.keys() if wanted[name] != stored[name])
    # Some families have other names in files, and their experts apart there: then the numbers of values compare.
    ours = [name for name in wanted.keys() - stored.keys() if name not in form.tied and not unsaved.search(name)]
    theirs = list(stored.keys() - wanted.keys())
    if sum(math.prod(wanted[name]) for name in ours) != sum(math.prod(stored[name]) for name in theirs):
        odd += sorted([*ours, *theirs])
    if odd:
        raise TwistError(
            f"the model written to {folder} would not load again: {offenders(odd)} are missing, unknown or of another "
            "shape. The folder is not kept; checkpoints of the run are. Please report this, with its config.json."
        )


def _silence() -> Callable[[], None]:
    shown, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)

    def put_back() -> None:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()

    return put_back


_silent = Shared(_silence)


def quiet() -> AbstractContextManager[None]:
    """No progress bars and reports of transformers inside the block: what matters of them becomes an error of ours.

    Several threads may be inside.
    """
    return _silent()


def _look(folder: Path) -> dict[str, Any]:
    """Return config.json as it stands, after everything that a folder can be instead of a plain model."""
    path, adapter = folder / "config.json", folder / _ADAPTER
    require_regular_files(folder, "a causal LM folder", error=CheckpointError)
    if not path.is_file():
        if adapter.is_file():
            base = read_json(adapter, "a PEFT adapter's settings", error=CheckpointError).get("base_model_name_or_path")
            raise BadInput(
                f"{folder} holds a PEFT adapter alone, made for {base!r}, and no model. Merge it into that model first "
                "(peft's merge_and_unload, then save_pretrained) and give the merged folder."
            )
        raise BadInput(f"{folder} is not a causal LM folder: it has no config.json. Give a folder of transformers.")
    refuse_pointer(path)
    said = read_config(path, "the configuration of a causal LM", error=CheckpointError)
    if adapter.is_file():
        raise BadInput(
            f"{folder} holds a model and a PEFT adapter ({_ADAPTER}) beside it, and cannot say which of the two is "
            f"meant. If the adapter is merged already, or not wanted, move {_ADAPTER} and the adapter's weights out of "
            "the folder; else merge it first (peft's merge_and_unload, then save_pretrained)."
        )
    kind = said.get("model_type")
    if said.get("auto_map") and not (isinstance(kind, str) and kind in CONFIG_MAPPING):
        raise BadInput(
            f"{folder} needs its own Python (auto_map in config.json names it; model_type is {kind!r}, which "
            "transformers does not have), which twistlm never runs. Give a model that transformers has itself."
        )
    quantised = said.get("quantization_config") or said.get("compression_config")
    if quantised:
        about = quantised if isinstance(quantised, Mapping) else {}
        method, bits = about.get("quant_method", "unknown"), about.get("bits")
        bits = bits or next((n for n in (4, 8) if about.get(f"load_in_{n}bit")), None)
        raise BadInput(
            f"{folder} holds quantised weights (quantization_config in config.json: {method}"
            f"{f', {bits} bits' if bits else ''}), which cannot be trained on. Give the model as it was before, "
            "unquantised."
        )
    return said


def _kind(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Return transformers' own class for a configuration, whatever its `auto_map` says."""
    if isinstance(config, ImageGPTConfig):
        return ImageGPTForCausalImageModeling  # the paper's image start is autoregressive too, but listed apart
    found: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found


@dataclass(frozen=True)
class _Form:
    """What a model of a configuration holds: shapes by name, names that are another's tensor, and what no file has."""

    shapes: dict[str, tuple[int, ...]]
    n_parameters: int
    tied: frozenset[str]
    unsaved: tuple[str, ...]


@dataclass(frozen=True)
class _Asked:
    """Equal where two configurations say the same, wherever they were read."""

    kind: type[PretrainedConfig]
    said: str
    config: PretrainedConfig = field(compare=False)


def _form(config: PretrainedConfig) -> _Form:
    said = {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}
    return _made_empty(_Asked(type(config), repr(said), config))


# A model without data takes as long to make as a small one: it is asked for at every start, load and save.
@functools.lru_cache(maxsize=32)
def _made_empty(asked: _Asked) -> _Form:
    with torch.device("meta"):
        empty = from_config(asked.config)
    return _Form(
        {name: tuple(value.shape) for name, value in empty.state_dict().items()},
        sum(p.numel() for p in empty.parameters()),
        frozenset(getattr(empty, "all_tied_weights_keys", None) or ()),
        tuple(map(str, getattr(empty, "_keys_to_ignore_on_save", None) or ())),
    )


def _require_memory(config: PretrainedConfig) -> None:
    """Raise `BadInput` where a model's weights alone are more than this machine's memory."""
    n_parameters = _form(config).n_parameters
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 4 * n_parameters > there:
        raise BadInput(
            f"a {config.model_type} of this configuration has {n_parameters / 1e9:,.1f} billion parameters, which take "
            f"{4 * n_parameters / 1e9:,.0f} GB, and this machine has {there / 1e9:,.0f} GB. Is a number in config.json "
            "wrong? Else use a smaller model, or a larger machine."
        )


def _require_shapes(folder: Path, config: PretrainedConfig, stored: Mapping[str, Stored]) -> None:
    """Raise `CheckpointError` where weights have other shapes than a configuration asks for, or far fewer numbers.

    Before anything is allocated: what the files lack would be made up, at whatever size the configuration says.
    """
    wanted = _form(config).shapes
    both = [(name, stored[name].shape, wanted[name]) for name in sorted(wanted.keys() & stored.keys())]
    if odd := [(name, theirs, ours) for name, theirs, ours in both if theirs != ours]:
        raise _misfit(folder, odd, config.vocab_size)
    asked, held = (sum(map(math.prod, shapes)) for shapes in (wanted.values(), (t.shape for t in stored.values())))
    if asked > 4 * held + 10**7:
        raise CheckpointError(
            f"{folder}: config.json asks for {asked:,} numbers, the weights hold {held:,}. They are not of one model: "
            "get both from one place."
        )


def _attention(kind: type[PreTrainedModel]) -> str:
    """What transformers chooses where nothing is said, said: a config.json must have no voice in it."""
    return "sdpa" if kind._supports_sdpa else "eager"


def _plain_names(folder: Path, stored: Mapping[str, Stored]) -> dict[str, str]:
    """Return each tensor's name without what torch.compile, FSDP and DDP put around a model."""
    names = {name: functools.reduce(lambda n, wrapper: n.replace(wrapper, ""), _WRAPPERS, name) for name in stored}
    if all(plain.startswith("module.") for plain in names.values()):
        names = {name: plain.removeprefix("module.") for name, plain in names.items()}
    if len(set(names.values())) < len(names):
        raise CheckpointError(
            f"{folder} holds tensors under two names, with and without {' or '.join(_WRAPPERS)} in them: a model saved "
            "inside and outside of a wrapper. Save it again, once."
        )
    return names


def _require_floats(folder: Path, stored: Mapping[str, Stored]) -> None:
    odd = [f"{n} ({t.dtype})" for n, t in stored.items() if t.dtype not in _FLOATS and not is_derived(n, t)]
    if odd:
        raise CheckpointError(
            f"{folder} has weights that are not plain floats: {offenders(odd)}. They are quantised (float8 or integer "
            "values that mean something only with their scales), though config.json has no quantization_config. Give "
            "the model as it was before, unquantised."
        )


def is_derived(name: str, tensor: Stored | None) -> bool:
    """Whether a tensor follows from the configuration: frequencies, positions, the causal mask of old GPT-2."""
    if _DERIVED.search(name):
        return True
    return bool(_OLD_MASK.search(name) and tensor and len(tensor.shape) == 4 and tensor.shape[2] == tensor.shape[3])


def _in_layers(model: PreTrainedModel, name: str, layers: range) -> bool:
    """Whether a tensor belongs to one of these layers, of which the model has none."""
    if not layers:
        return False
    mine = find_layers(model)
    where = next(place for place, module in model.named_modules() if module is mine)
    base = f"{model.base_model_prefix}."
    rest = name.removeprefix(base)
    stem = f"{where.removeprefix(base)}."
    number = rest.removeprefix(stem).partition(".")[0]
    return rest.startswith(stem) and number.isdecimal() and int(number) in layers


def _misfit(folder: Path, odd: Sequence[tuple[str, Any, Any]], vocab_size: int) -> CheckpointError:
    """Return the error for tensors (name, shape in the file, shape that is asked for) of another shape."""
    shapes = [f"{name} is {tuple(theirs)} in the file and {tuple(ours)} here" for name, theirs, ours in odd]
    rows = {theirs[0] for _, theirs, ours in odd if len(ours) == 2 and theirs[1:] == ours[1:]}
    fix = "config.json is of another model, or was changed: get both from one place."
    if len(rows) == 1 and all(ours[0] == vocab_size for _, _, ours in odd):
        fix = f"If its tables were padded or extended after config.json was written, set vocab_size to {rows.pop()}."
    return CheckpointError(f"{folder}: weights and config.json do not fit: {offenders(shapes)}. {fix}")


def _require_whole(folder: Path, model: PreTrainedModel, report: Mapping[str, Any], without_place: list[str]) -> None:
    """Raise unless every tensor of the files went into the model and every one of the model came from them."""
    if odd := sorted(report["mismatched_keys"]):
        raise _misfit(folder, odd, model.config.vocab_size)
    missing = sorted(report["missing_keys"])
    if missing:
        besides = f", and has instead {offenders(without_place)}" if without_place else ""
        raise CheckpointError(
            f"{folder} lacks the weights {offenders(missing)}{besides}. The file is of another architecture than "
            "config.json says, or a part of it is missing: get both from one place."
        )
    if without_place:
        why = "weights and config.json are of two models, or one was changed"
        if any(".lora_" in name for name in without_place):
            why = "a LoRA adapter was saved unmerged: merge it first (peft's merge_and_unload, then save_pretrained)"
        elif any(name.endswith(("scale_inv", "_scale", "scales", "qzeros", "g_idx")) for name in without_place):
            why = "they are scales of quantised weights: give the model as it was before, unquantised"
        raise CheckpointError(
            f"{folder} has tensors that its configuration has no place for: {offenders(without_place)}. Without them "
            f"it would be another model than the one that was trained: {why}."
        )
