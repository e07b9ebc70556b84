"""Vocoders as others published them: which layout a file has, and the same network under the names used here.

    layout          | files                                    | whose
    code-hifigan    | `.pt` with key `generator`, config.json  | textlesslib, fairseq, Spirit-LM base
    seamless        | `.pt` with key `model` or `generator`    | seamless_communication
    transformers    | safetensors, config.json                 | SeamlessM4T(v2)CodeHifiGan, alone or in a whole model
    unit-hifigan    | safetensors, config.json                 | bootphon's unit-hifigan
    speechbrain     | generator.ckpt, hyperparams.yaml         | speechbrain's UnitHifiganGenerator

Weight normalisation is multiplied out, whichever way it is written. No pickle is run (`files.torch_files`). What a
layout has beside the units that cannot be spoken here (pitch, a speaker's vector, several units a frame) is refused.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from twistlm.errors import ArtifactError, BadInput, offenders
from twistlm.files import torch_files
from twistlm.files.jsonl import read_json
from twistlm.files.regular import file_sha256
from twistlm.files.text import read_text
from twistlm.vocoder.configs import read_shape
from twistlm.vocoder.generator import InputShape
from twistlm.vocoder.seamless_voices import SEAMLESS
from twistlm.vocoder.voices import Voices

Weights = dict[str, Tensor]
_NORM = "parametrizations.weight"
_WEIGHTS = ("generator.pt", "generator.ckpt", "model.safetensors", "*.safetensors", "g_*", "*.pt", "*.ckpt")
_INDEX = "model.safetensors.index.json"
_CONFIGS = ("config.json", "*config*.json", "hyperparams.yaml")
# What every published vocoder of these layouts has, where its files do not say.
_USUAL: dict[str, Any] = {
    "upsample_rates": [5, 4, 4, 2, 2], "upsample_kernel_sizes": [11, 8, 8, 4, 4], "upsample_initial_channel": 512,
    "resblock_kernel_sizes": [3, 7, 11], "resblock_dilation_sizes": [[1, 3, 5]] * 3, "sampling_rate": 16_000,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What was read.

    Attributes:
        layout: see the head of this file.
        shape, weights: of a `Synthesizer` that is folded; the names are the published ones.
        voices: as far as the files name them.
        notes: which files were read; what was left out and why.
    """

    layout: str
    shape: InputShape
    weights: Weights
    voices: Voices
    notes: tuple[str, ...] = ()


def read_published(source: str | Path, *, config: str | Path | None = None) -> Taken:
    """Read a published vocoder from its folder, or from its file of weights with the config beside it.

    Args:
        source: the folder or the file.
        config: where the config lies, if not beside the weights.

    Raises:
        BadInput: no weights or no config there, or several weights; or it is of a kind that cannot be spoken here.
        ArtifactError: a file is damaged.
    """
    weights_file, config_file = _found(Path(source), None if config is None else Path(config))
    try:
        raw, files = _read_weights(weights_file, asked=Path(source).is_file())
    except (OSError, ValueError, SafetensorError, BadInput) as error:
        raise ArtifactError(
            f"the vocoder's weights {weights_file} cannot be read: {error}. Fetch them again."
        ) from error
    try:
        taken = _understood(raw, config_file, weights_file)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"{weights_file}: a tensor of the vocoder is missing or of another shape ({error}). Fetch it again."
        ) from error
    if wrong := [name for name, value in taken.weights.items() if not torch.isfinite(value).all()]:
        raise ArtifactError(f"{weights_file}: not finite: {offenders(wrong)}. Fetch it again.")
    read = ", ".join(f"{file.name} (sha256 {file_sha256(file)})" for file in files)
    return dataclasses.replace(taken, notes=(f"Weights: {read}.", *taken.notes))


def _found(source: Path, config: Path | None) -> tuple[Path, Path | None]:
    if config is not None and not config.is_file():
        raise BadInput(f"there is no config {config}.")
    if source.is_file():
        folder, weights = source.parent, source
    elif source.is_dir():
        folder = source
        by_form = [[path for path in sorted(source.glob(form)) if path.is_file()] for form in _WEIGHTS]
        there = next((paths for paths in by_form if paths), [])
        if len(there) > 1 and not (source / _INDEX).is_file():
            raise BadInput(
                f"{source} holds several files of weights: {offenders([path.name for path in there])}. Name the one to "
                f"take, such as {there[-1]}: no rule tells which is best."
            )
        if not there:
            raise BadInput(
                f"{source} holds no weights of a vocoder ({', '.join(_WEIGHTS)}): a config alone cannot speak. "
                "Download the weights into it."
            )
        weights = there[0]
    else:
        raise BadInput(f"there is no file or folder {source}.")
    if config is None:
        config = next((path for form in _CONFIGS for path in sorted(folder.glob(form))), None)
    return weights, config


def _read_weights(path: Path, *, asked: bool) -> tuple[dict[str, Any], list[Path]]:
    """Return a file's tensors and which files they were in: all of an index's, unless another file was `asked` for."""
    if path.suffix == ".safetensors":
        index = path.parent / _INDEX
        files = {path.name}
        if index.is_file():
            listed = read_json(index, "the index of a model's files", shape={"weight_map": {str: str}})["weight_map"]
            if not asked or path.name in listed.values():
                files = {name for key, name in listed.items() if key.startswith("vocoder.")} or set(listed.values())
        if outside := [name for name in files if Path(name).name != name]:
            raise BadInput(f"its index names files elsewhere: {offenders(outside)}")
        parts = [load_file(path.parent / name) for name in sorted(files)]
        tensors = {key: value for part in parts for key, value in part.items()}
        return tensors, [path.parent / name for name in sorted(files)]
    found = torch_files.read_torch(path)
    if not isinstance(found, dict):
        raise BadInput("it holds no tensors by name")
    return found, [path]


def _tensors(found: Mapping[Any, Any]) -> Weights:
    """The tensors among what was read, as float32."""
    made: Weights = {}
    for name, value in found.items():
        value = torch_files.plain(value)
        if isinstance(value, torch_files.Tensor):
            made[str(name)] = torch.from_numpy(np.array(value.array(), dtype=np.float32))
        elif isinstance(value, torch.Tensor):
            made[str(name)] = value.float()
    return made


def _understood(raw: dict[str, Any], config: Path | None, path: Path) -> Taken:
    """Tell the layout by the names of its tensors, and read it."""
    inner = next((raw[key] for key in ("generator", "model") if isinstance(raw.get(key), dict)), raw)
    weights = folded(_tensors(inner))
    for prefix in ("code_generator.", "vocoder."):
        if any(name.startswith(prefix) for name in weights):
            weights = {n.removeprefix(prefix): value for n, value in weights.items() if n.startswith(prefix)}
    if "dict.weight" in weights and "lang.weight" in weights:
        return _seamless(weights)
    if "dict.weight" in weights:
        return _code_hifigan(weights, config, path)
    if "unit_embedding.weight" in weights and "hifi_gan.conv_pre.weight" in weights:
        return _transformers(weights, config, path)
    if "unit_embedding.weight" in weights and "generator.conv_pre.weight" in weights:
        return _unit_hifigan(weights, config, path)
    if "unit_embedding.weight" in weights and "conv_pre.conv.weight" in weights:
        return _speechbrain(weights, config, path)
    raise BadInput(
        f"{path} is no unit vocoder of a layout that is known (code-hifigan, seamless, transformers, unit-hifigan, "
        f"speechbrain): its tensors are {offenders(sorted(weights)) or 'none'}."
    )


def folded(weights: Weights) -> Weights:
    """The weights with weight normalisation multiplied out, in torch's old (`weight_g`) and new way of writing it."""
    made = {}
    for name, value in weights.items():
        for g, v in (("weight_g", "weight_v"), (f"{_NORM}.original0", f"{_NORM}.original1")):
            if name.endswith(f".{v}"):
                stem = name.removesuffix(v)
                if f"{stem}{g}" not in weights:
                    raise ArtifactError(f"the vocoder's weights lack {stem}{g}, the length of {name}.")
                made[f"{stem}weight"] = torch._weight_norm(value, weights[f"{stem}{g}"], 0)
                break
            if name.endswith(f".{g}"):
                break
        else:
            made[name] = value
    return made


def _code_hifigan(weights: Weights, config: Path | None, path: Path) -> Taken:
    fields = _fields(config, path)
    for name, key, switch in (("spkr", "num_speakers", "multispkr"), ("style", "num_styles", "multistyle")):
        table = weights.get(f"{name}.weight")
        if table is not None:
            fields |= {key: len(table), switch: fields.get(switch) or True}
    leftover = [name for name in weights if name.startswith(("quantizer.", "f0_"))]
    if leftover:
        raise BadInput(f"{path} needs a pitch curve beside the units ({offenders(leftover)}), which is not supported.")
    names = {kind: _lines(path.parent, f"{kind}s.txt", len(weights.get(f"{table}.weight", ())))
             for kind, table in (("speaker", "spkr"), ("style", "style"))}  # fmt: skip
    if fields.get("multispkr") == "single" and not names["speaker"]:
        names["speaker"] = {"single": 0}  # it was trained on one speaker, who has the first row
    voices = Voices(speakers=names["speaker"], styles=names["style"])
    return Taken(layout="code-hifigan", shape=read_shape(json.dumps(fields)), weights=weights, voices=voices)


def _seamless(weights: Weights) -> Taken:
    shape = _shape_of(weights, dict(_USUAL))
    return Taken(layout="seamless", shape=shape, weights=weights, voices=Voices())


def _transformers(weights: Weights, config: Path | None, path: Path) -> Taken:
    fields = _fields(config, path)
    keys = [key for key in _USUAL if key in fields]
    renamed = {}
    for name, value in weights.items():
        head, _, rest = name.partition(".")
        if head in _TABLES:
            renamed[f"{_TABLES[head]}.{rest}"] = value
        elif head == "hifi_gan":
            renamed[rest.replace("upsampler.", "ups.", 1)] = value
        elif head == "dur_predictor":
            renamed[re.sub(r"^(dur_predictor\.conv[12])\.", r"\1.0.", name)] = value
    shape = _shape_of(renamed, {**_USUAL, **{key: fields[key] for key in keys}})
    languages: dict[str, int] = {}
    generation = path.parent / "generation_config.json"
    if generation.is_file():
        about = read_json(
            generation, "a model's settings of generation", shape={"vocoder_lang_code_to_id?": {str: int}}
        )
        languages = about.get("vocoder_lang_code_to_id", {})
    return Taken(layout="transformers", shape=shape, weights=renamed, voices=Voices(languages=languages))


_TABLES = {
    "unit_embedding": "dict", "speaker_embedding": "spkr", "style_embedding": "style", "language_embedding": "lang",
}  # fmt: skip


def _unit_hifigan(weights: Weights, config: Path | None, path: Path) -> Taken:
    if "f0_embedding.weight" in weights:
        raise BadInput(f"{path} needs pitch beside the units, which is not supported.")
    names = {"speakers?": ([str], None), "styles?": ([str], None)}
    fields = {} if config is None else read_json(config, "the config of a unit-hifigan", shape=names)
    blocks = 1 + max(
        int(found[1]) for name in weights if (found := re.search(r"mrfs\.0\.residual_blocks\.(\d+)", name))
    )
    renamed = {}
    for name, value in weights.items():
        head, _, rest = name.partition(".")
        if head in _TABLES:
            renamed[f"{_TABLES[head]}.{rest}"] = value
        elif found := re.fullmatch(r"mrfs\.(\d+)\.residual_blocks\.(\d+)\.(\d+)\.conv([12])\.(.+)", rest):
            stage, block, layer, conv, leaf = found.groups()
            renamed[f"resblocks.{int(stage) * blocks + int(block)}.convs{conv}.{layer}.{leaf}"] = value
        else:
            renamed[rest.replace("upsamplers.", "ups.", 1)] = value
    rows = {kind: {name: row for row, name in enumerate(fields.get(kind) or ())} for kind in ("speakers", "styles")}
    notes = ("its own code scales each clip to a peak of 1 afterwards; here samples are as the network gives them",)
    voices = Voices(speakers=rows["speakers"], styles=rows["styles"])
    return Taken(
        layout="unit-hifigan", shape=_shape_of(renamed, dict(_USUAL)), weights=renamed, voices=voices, notes=notes
    )


def _speechbrain(weights: Weights, config: Path | None, path: Path) -> Taken:
    fields, notes = dict(_USUAL), []
    if config is None or config.suffix.lower() not in (".yaml", ".yml"):  # its repositories have a config.json, too
        config = path.parent / "hyperparams.yaml"
    said = _yaml_lists(read_text(config, "the hyperparameters of a vocoder")) if config.is_file() else {}
    if not said:
        notes.append(f"no {config.name} beside it: its shape and rate are those that the published ones have")
    for theirs, ours in (("upsample_factors", "upsample_rates"), ("upsample_kernel_sizes",) * 2,
                         ("resblock_kernel_sizes",) * 2, ("resblock_dilation_sizes",) * 2,
                         ("sample_rate", "sampling_rate")):  # fmt: skip
        if theirs in said:
            fields[ours] = said[theirs]
    renamed = {}
    for name, value in weights.items():
        head = name.partition(".")[0]
        if head == "unit_embedding":
            renamed["dict.weight"] = value[1:]  # row 0 is padding: unit u has row u + 1
        elif head == "var_predictor":
            notes += ["its duration predictor is left out: its publisher does not use it to speak"]
        elif head != "attn_pooling":  # over one unit a frame it is the identity
            renamed[name.replace(".conv.", ".", 1)] = value
    width = renamed["conv_pre.weight"].shape[1] - renamed["dict.weight"].shape[1]
    if width:
        raise BadInput(
            f"{path} hears {width} channels beside the units, a speaker's vector (ECAPA) of each clip: only vocoders "
            "that name their speakers are supported."
        )
    if said.get("layers") or said.get("num_codebooks", 1) not in (1, None):
        raise BadInput(f"{path} hears several units a frame, of several layers; here a frame has one unit.")
    fields["padding"] = "reflect"
    return Taken(
        layout="speechbrain", shape=_shape_of(renamed, fields), weights=renamed, voices=Voices(), notes=tuple(notes)
    )


def _yaml_lists(text: str) -> dict[str, Any]:
    """The top-level entries of a YAML file whose values are numbers or lists of them; tags and references are not."""
    found = {}
    for line in re.finditer(r"^(\w+):[ \t]*([\d\[][\d\[\], .]*)(?:#.*)?$", text, re.M):
        try:
            found[line[1]] = json.loads(line[2])
        except (ValueError, RecursionError):
            continue
    return found


def _fields(config: Path | None, path: Path) -> dict[str, Any]:
    if config is None:
        raise BadInput(
            f"there is no config.json beside {path}: name it with --config. Weights alone do not say their shape."
        )
    return dict(read_json(config, "the shape of a vocoder"))


def _shape_of(weights: Weights, fields: dict[str, Any]) -> InputShape:
    """A shape that takes what the tensors themselves say from them."""
    tables = {
        name: weights[f"{name}.weight"] for name in ("dict", "lang", "spkr", "style") if f"{name}.weight" in weights
    }
    fields |= {
        "num_embeddings": len(tables["dict"]), "embedding_dim": tables["dict"].shape[1],
        "upsample_initial_channel": weights["conv_pre.weight"].shape[0],
        "model_in_dim": weights["conv_pre.weight"].shape[1], "dur_predictor_params": None,
    }  # fmt: skip
    for name, kind in (("lang", "language"), ("spkr", "speaker"), ("style", "style")):
        if name in tables:
            fields |= {f"num_{kind}s": len(tables[name]), f"{kind}_dim": tables[name].shape[1]}
    fields |= {"multispkr": "spkr" in tables, "multistyle": "style" in tables}
    first = weights.get("dur_predictor.conv1.0.weight")
    if first is not None:
        fields["dur_predictor_params"] = {
            "encoder_embed_dim": first.shape[1], "var_pred_hidden_dim": first.shape[0],
            "var_pred_kernel_size": first.shape[2], "var_pred_dropout": 0.5,
        }  # fmt: skip
    return read_shape(json.dumps(fields))


def _lines(folder: Path, name: str, rows: int) -> dict[str, int]:
    """Names of rows from a text file, a name a line; none where there is no such table or file."""
    if not rows or not (folder / name).is_file():
        return {}
    return names_of(folder / name, rows)


def names_of(path: str | Path, rows: int) -> dict[str, int]:
    """Rows by name, from a text file with a name a line.

    Raises:
        BadInput: no such file; a name twice or empty; or more names than rows.
    """
    names = [line.strip() for line in read_text(path, "names, one a line").splitlines()]
    while names and not names[-1]:
        names.pop()
    twice = sorted({name for name in names if names.count(name) > 1 or not name})
    if twice or not names:
        raise BadInput(f"{path}: each line should be another name; empty or there twice: {offenders(twice) or 'all'}.")
    if len(names) > rows:
        raise BadInput(f"{path} has {len(names)} names, and the vocoder's table {rows} rows: it belongs to another.")
    return {name: row for row, name in enumerate(names)}


def named_voices(name: str) -> Voices:
    """Voices that are known by the name of what was published, "seamless-m4t-v2".

    Raises:
        BadInput: no such name.
    """
    if name not in SEAMLESS:
        raise BadInput(f"{name!r} names no voices that are known: {', '.join(SEAMLESS)}.")
    return SEAMLESS[name]
