"""A trained unit LM as what it differs by from the text LM it began as: a few megabytes instead of half a gigabyte.

    lowrank.safetensors   NAME/out float16 [out, r] and NAME/in float16 [r, in] for each matrix of the body: the best
                          approximation of its difference by a product of that rank (Eckart and Young 1936); the
                          differences of vectors, and what is new (embedding, output layer), whole
    lowrank.json          the text LM and the sha256 of its weights, the rank
    unit_spec.json, vocab.json, provenance.json: as of a whole model

The text LM is fetched by its name, checked, and the sum is a model like any other (`restore`).
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from twistlm.errors import BadInput, CheckpointError, offenders
from twistlm.files.atomic import atomic_folder
from twistlm.files.jsonl import read_json
from twistlm.files.regular import file_sha256
from twistlm.files.replacing import require_replaceable
from twistlm.lm.heads import untie
from twistlm.lm.model import UnitLM, read_facts, write_facts
from twistlm.lm.phases import text_lm_weights, weights_folder
from twistlm.lm.pretrained import load_causal_lm, load_config
from twistlm.lm.text_lms import text_lm_folder
from twistlm.lm.vocab import Vocab
from twistlm.lm.warmstart import generation_config, set_tokens

NAME = "lowrank.safetensors"
_RECORD = {"text_lm": str, "text_lm_files": {str: str}, "text_lm_config?": dict, "rank": int, "sha256": str}
Tensors = dict[str, torch.Tensor]


def lowrank(model: str | Path, text_lm: str, out: str | Path, *, rank: int) -> dict[str, Any]:
    """Write what a model differs by from `text_lm`, its matrices to `rank`, into the folder `out`.

    Args:
        model: folder of a model that began as `text_lm`, all layers kept, or of its run.
        text_lm: name of the text LM, by which it will be fetched.
        rank: r, of every matrix of the body.

    Returns:
        `rank`, `bytes` (of the safetensors) and `kept`: the share of the squared difference of the matrices that is in
        what was written, between 0 and 1.

    Raises:
        BadInput: a rank below 1, or another architecture than the text LM's.
    """
    if rank < 1:
        raise BadInput(f"the rank is {rank}; it must be at least 1.")
    text_lm = str(Path(text_lm).absolute()) if Path(text_lm).is_dir() else text_lm  # found from elsewhere too
    lm, folder = UnitLM.load(weights_folder(model)), text_lm_folder(text_lm)
    tables = _tables(lm)
    body = {name: p.detach() for name, p in lm.model.named_parameters() if name not in tables}
    base = {name: p.detach() for name, p in load_causal_lm(folder).named_parameters() if name not in tables}
    shapes = [{name: tuple(p.shape) for name, p in of.items()}.items() for of in (body, base)]
    if odd := sorted({name for name, _ in shapes[0] ^ shapes[1]}):
        raise BadInput(f"{model} did not begin as {text_lm}: other tensors are {offenders(odd)}.")
    tensors: Tensors = {name: tables[name].half() for name in tables}
    whole = kept = 0.0
    for name, value in body.items():
        difference = value - base[name]
        if difference.ndim != 2 or min(difference.shape) <= rank:
            tensors[name] = difference.half()
            continue
        u, s, v = torch.linalg.svd(difference, full_matrices=False)
        root = s[:rank].sqrt()
        tensors[f"{name}/out"] = (u[:, :rank] * root).half().contiguous()
        tensors[f"{name}/in"] = (root[:, None] * v[:rank]).half().contiguous()
        whole, kept = whole + float((s**2).sum()), kept + float((s[:rank] ** 2).sum())
    _write(tensors, lm, text_lm, folder, out, rank=rank)
    return {"rank": rank, "bytes": (Path(out) / NAME).stat().st_size, "kept": kept / whole if whole else 1.0}


def _write(tensors: Tensors, lm: UnitLM, text_lm: str, folder: Path, out: str | Path, *, rank: int) -> None:
    """Write the folder `out`: these tensors, and of `lm` what its units are and where it came from.

    Raises:
        BadInput: something else is there.
    """
    require_replaceable(out, what="a low-rank model", mark="lowrank.json")
    with atomic_folder(out) as temporary:
        save_file(tensors, temporary / NAME)
        record = {
            "text_lm": text_lm,
            "text_lm_files": text_lm_weights(folder),
            "text_lm_config": _config(folder),
            "rank": rank,
            "sha256": file_sha256(temporary / NAME),
        }
        (temporary / "lowrank.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        write_facts(temporary, lm)


def restore(folder: str | Path) -> UnitLM:
    """Return the model that `lowrank` wrote into `folder`, in float32 and in evaluation mode.

    Raises:
        ArtifactError: the text LM cannot be had.
        CheckpointError: the file is damaged, or the text LM here is another than the one it differs from.
    """
    folder = Path(folder)
    record = read_json(folder / "lowrank.json", "the record of a low-rank model", shape=_RECORD, error=CheckpointError)
    if file_sha256(folder / NAME) != record["sha256"]:
        raise CheckpointError(f"{folder / NAME} is not the file that was written (another sha256): get it again.")
    base = text_lm_folder(record["text_lm"])
    if text_lm_weights(base) != record["text_lm_files"]:
        raise CheckpointError(
            f"{folder} is the difference from another {record['text_lm']} than the one in {base}: its weights have "
            "another sha256. Remove that folder of the cache, and it is fetched and made again."
        )
    here, then = _config(base), record.get("text_lm_config", {})
    if odd := sorted(key for key in here.keys() & then.keys() if here[key] != then[key]):
        raise CheckpointError(
            f"{folder} is the difference from a {record['text_lm']} of another configuration than {base} has now: "
            f"{offenders([f'{key} was {then[key]!r}, is {here[key]!r}' for key in odd])}. Put config.json back."
        )
    spec, vocab, provenance = read_facts(folder)
    model = load_causal_lm(base)
    try:
        _add(model, load_file(folder / NAME), vocab)
        model.generation_config = generation_config(vocab)
        return UnitLM(model.eval(), vocab, spec, provenance)
    except (OSError, SafetensorError, RuntimeError, ValueError, BadInput) as error:
        why = str(error).rstrip(".")
        raise CheckpointError(
            f"{folder / NAME} cannot be added to {record['text_lm']}: {why}. It was damaged or changed, or is of "
            "another text LM or vocab.json: get the folder again."
        ) from error


def _config(text_lm: Path) -> dict[str, Any]:
    """What the configuration of a text LM says of its computation, as JSON has it."""
    said = load_config(text_lm).to_dict()
    named = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")
    written = json.dumps({k: v for k, v in said.items() if k not in named}, default=str)
    kept: dict[str, Any] = json.loads(written, parse_constant=str)  # Mamba-2 has a limit that is infinite
    return kept


def _add(model: PreTrainedModel, tensors: Tensors, vocab: Vocab) -> None:
    """Give `model` the tables among `tensors`, and add the other ones to its body."""
    names = [_name(model, layer) for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if tied and names[1] in tensors:
        untie(model)
        tied = False
    set_tokens(model.config, vocab)
    table: Any = model.get_input_embeddings()
    output: Any = model.get_output_embeddings()
    # ImageGPT has an input row more than tokens.
    for layer, name, rows in zip((table, output), names, (model.config.vocab_size, vocab.size), strict=True):
        if tied and layer is output:
            output.weight = table.weight
        else:
            layer.weight = torch.nn.Parameter(_take(tensors, name, (rows, layer.weight.shape[1])))
    table.num_embeddings, output.out_features = model.config.vocab_size, vocab.size
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name not in names:
                value.add_(_take(tensors, name, tuple(value.shape)))
    if tensors:
        raise ValueError(f"tensors that the text LM has not: {offenders(sorted(tensors))}")


def _take(tensors: Tensors, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Take one out of `tensors`, whole or as the product of its two parts; float32.

    Raises:
        ValueError: it is not there, not finite or of another shape.
    """
    if name in tensors:
        parts = [tensors.pop(name)]
        made = tuple(parts[0].shape)
    else:
        parts = [tensors.pop(f"{name}/{part}", torch.empty(0)) for part in ("out", "in")]
        if any(part.ndim != 2 for part in parts):
            raise ValueError(f"{name} is missing, or a part of it")
        made = (len(parts[0]), parts[1].shape[1])
    if made != shape:
        raise ValueError(f"{name} is {list(made)} and must be {list(shape)}")
    found = functools.reduce(torch.matmul, (part.float() for part in parts))
    if not found.isfinite().all():
        raise ValueError(f"{name} has values that are NaN or infinite")
    return found


def _name(model: torch.nn.Module, layer: torch.nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is layer) + ".weight"


def _tables(lm: UnitLM) -> Tensors:
    """The embedding and, where it is not the embedding, the output layer, by name."""
    layers = (lm.model.get_input_embeddings(), lm.model.get_output_embeddings())
    mine = {id(layer.weight) for layer in layers}
    return {name: p.detach() for name, p in lm.model.named_parameters() if id(p) in mine}
