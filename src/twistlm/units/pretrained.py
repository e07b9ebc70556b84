"""Encoders as others publish them: a transformers folder or a hub id becomes an encoder, cut at its layer.

Weights are read as tensors only (safetensors, or a `.bin` by `files.torch_files`), and every tensor of the cut
encoder must be there and fit: nothing is left at a random value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import WhisperConfig

from twistlm.errors import ArtifactError, BadInput
from twistlm.files import artifacts, sources
from twistlm.files.configs import read_config
from twistlm.files.regular import require_regular_files
from twistlm.files.torch_files import Tensor, plain, read_torch
from twistlm.units.encoder import Encoder, SSLEncoder, configuration, cut
from twistlm.units.fairseq import read_fairseq
from twistlm.units.weights import as_configured

# What stands before the encoder's names when it was saved inside a larger model (with a CTC head, a decoder).
_PREFIXES = {
    "hubert": ("hubert.",), "wav2vec2": ("wav2vec2.",), "wavlm": ("wavlm.",), "data2vec-audio": ("data2vec_audio.",),
    "whisper": ("model.encoder.", "encoder."),
}  # fmt: skip
# transformers renamed the two halves of a weight norm; published files have the old names.
_RENAMED = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}


def pretrained(encoder: str | Path, *, layer: int, normalize_input: bool) -> Encoder:
    """Load a published encoder: HuBERT, wav2vec 2.0, WavLM, data2vec-audio (base or large), or Whisper's.

    Args:
        encoder: a folder with `config.json` and weights as transformers saves them; a `.pt` of fairseq (HuBERT,
            wav2vec 2.0); or a hub id such as `"facebook/hubert-base-ls960"` (kept in the cache; a copy there needs no
            network).
        layer: 1-based block whose output is returned, `hidden_states[layer]` of transformers before any final norm.
        normalize_input: scale each clip to zero mean and unit variance first. It moves every unit: no default,
            and a `preprocessor_config.json` is not believed: mHuBERT-25Hz and HuBERT base were trained on raw samples,
            whatever theirs says. Whisper takes False.

    Raises:
        BadInput: neither a folder nor a hub id; a family that is not supported; a layer the encoder has not.
        ArtifactError: it could not be fetched, or tensors are missing or do not fit.
    """
    folder = encoder_folder(encoder)
    fields, state = read_transformers(folder) if folder.is_dir() else read_fairseq(folder)
    return build(fields, state, layer=layer, normalize_input=normalize_input, where=str(encoder))


def encoder_folder(encoder: str | Path) -> Path:
    """The folder or file itself, or the cached copy of a hub id, fetched when it is not there."""
    if Path(encoder).is_dir() or Path(encoder).is_file():
        return Path(encoder)
    if str(encoder).count("/") != 1 or str(encoder).startswith((".", "/", "~")):
        raise BadInput(
            f"{str(encoder)!r} is neither a folder nor a hub id. Give the path of a transformers folder "
            "(config.json and weights) or of a fairseq checkpoint (.pt), or an id such as facebook/hubert-base-ls960."
        )
    hub = sources.Hub(repo=str(encoder), patterns=("config.json", "model*.safetensors", "pytorch_model*.bin"))
    named = sources.Artifact(
        name=str(encoder).replace("/", "--"), kind="encoder", sources=(hub,),
        licence="as its hub page says", note="A speech encoder of the hub.",
    )  # fmt: skip
    return artifacts.resolve(named, prefer="auto")


def read_transformers(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read a transformers folder: the configuration's fields, and the encoder's tensors under their bare names.

    Raises:
        BadInput: the configuration is of a family that is not supported.
        ArtifactError: no configuration or no weights, or they cannot be read.
    """
    require_regular_files(folder, "a transformers folder", error=ArtifactError)
    if not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder} is no transformers folder: it has no config.json.")
    kind, shape = "the configuration of a speech encoder", {"model_type?": str}
    fields = read_config(folder / "config.json", kind, shape=shape, error=ArtifactError)
    family = fields.get("model_type")
    if family not in _PREFIXES:
        raise BadInput(
            f"{folder} holds a model of type {family!r}, not a speech encoder twistlm knows ({', '.join(_PREFIXES)})."
        )
    state = _tensors(folder)
    for prefix in _PREFIXES[family]:
        if any(name.startswith(prefix + "layers.0.") or name.startswith(prefix + "encoder.") for name in state):
            state = {n.removeprefix(prefix): tensor for n, tensor in state.items() if n.startswith(prefix)}
            break
    return fields, {_modern(name): tensor for name, tensor in state.items()}


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ArtifactError(f"{folder} holds no weights: expected model.safetensors or pytorch_model.bin.")
    state: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            state |= load_file(file) if file.suffix == ".safetensors" else _pickled(file)
        except (SafetensorError, OSError, BadInput) as error:
            raise ArtifactError(f"{file} cannot be read as weights: {error}. Fetch it again.") from error
    return state


def _pickled(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in a `.bin`, of which nothing runs. Raises BadInput, which does not name the file."""
    found = read_torch(file)
    if not isinstance(found, dict) or not all(isinstance(plain(value), Tensor) for value in found.values()):
        raise BadInput("it holds something else than tensors by their names, which is not read")
    return {str(name): torch.from_numpy(np.array(plain(value).array())) for name, value in found.items()}


def _modern(name: str) -> str:
    for old, new in _RENAMED.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def build(
    fields: dict[str, Any], state: dict[str, torch.Tensor], *, layer: int, normalize_input: bool, where: str
) -> Encoder:
    """The encoder of a configuration and its tensors, cut at `layer`; `where` names it in errors.

    Raises:
        BadInput: a layer the encoder has not; a normalised input for Whisper; a configuration that no encoder has.
        ArtifactError: tensors are missing or do not fit.
    """
    whisper = fields.get("model_type") == "whisper"
    with as_configured(where):
        config = WhisperConfig(**fields) if whisper else configuration(fields, where=where)
    n_blocks = config.encoder_layers if whisper else config.num_hidden_layers
    if not 1 <= layer <= n_blocks:
        raise BadInput(f"layer {layer} asked of {where}, which has blocks 1 to {n_blocks}.")
    if not whisper:
        model = cut(config, _floats(state), layer, where=where)
        return SSLEncoder(model, layer, normalize_input=normalize_input)
    if normalize_input:
        raise BadInput(f"{where} is a Whisper encoder, which scales its own log-mel input: use normalize_input=False.")
    from twistlm.units.whisper import WhisperEncoder, cut_whisper  # slow to import, for its decoder's sake

    return WhisperEncoder(cut_whisper(config, _floats(state), layer, where=where), layer)


def load_encoder(folder: Path, *, layer: int, normalize_input: bool, hop: int) -> Encoder:
    """Read the encoder of a tokenizer folder: `encoder.json` and `encoder.safetensors`.

    Raises:
        ArtifactError: files missing or not of this shape.
        BadInput: a layer, a family or a hop there is not.
    """
    require_regular_files(folder, "a tokenizer", error=ArtifactError)
    file = folder / "encoder.json"
    kind, shape = "the configuration of an encoder", {"model_type?": str}
    fields = read_config(file, kind, shape=shape, error=ArtifactError) if file.is_file() else {}
    if fields.get("model_type") != "whisper":
        return SSLEncoder.load(folder, layer=layer, normalize_input=normalize_input, hop=hop)
    if not (folder / "encoder.safetensors").is_file():
        raise ArtifactError(f"{folder} holds no encoder: encoder.safetensors is missing.")
    try:
        state = load_file(folder / "encoder.safetensors")
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{folder / 'encoder.safetensors'} cannot be read as weights: {error}.") from error
    return build(fields, state, layer=layer, normalize_input=normalize_input, where=str(folder))


def _floats(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
