"""A trained unit LM as what it differs by from the text LM it began as: a few megabytes instead of half a gigabyte.

    lowrank.safetensors   NAME/out float16 [out, r] and NAME/in float16 [r, in] for each matrix of the body: the best
                          approximation of its difference by a product of that rank (Eckart and Young 1936); the
                          differences of vectors, and what is new (embedding, output layer), whole
    lowrank.json          the text LM and the sha256 of its weights, the rank
    unit_spec.json, vocab.json, provenance.json: as of a whole model

The text LM is fetched by its name, checked, and the sum is a model like any other (`restore`).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from twistlm.errors import BadInput, CheckpointError, offenders
from twistlm.files.atomic import atomic_folder
from twistlm.files.configs import read_unit_spec
from twistlm.files.jsonl import read_json
from twistlm.files.regular import file_sha256
from twistlm.lm.heads import untie
from twistlm.lm.model import UnitLM
from twistlm.lm.phases import text_lm_files, weights_folder
from twistlm.lm.pretrained import load_causal_lm
from twistlm.lm.text_lms import text_lm_folder
from twistlm.lm.vocab import Vocab
from twistlm.lm.warmstart import generation_config, set_tokens

NAME = "lowrank.safetensors"
_RECORD = {"text_lm": str, "text_lm_files": {str: str}, "rank": int, "sha256": str}
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
    write(tensors, lm, text_lm, folder, out, rank=rank)
    return {"rank": rank, "bytes": (Path(out) / NAME).stat().st_size, "kept": kept / whole if whole else 1.0}


def write(tensors: Tensors, lm: UnitLM, text_lm: str, folder: Path, out: str | Path, *, rank: int) -> None:
    """Write the folder `out`: these tensors, and of `lm` what its units are and where it came from."""
    with atomic_folder(out) as temporary:
        save_file(tensors, temporary / NAME)
        files = {name: sha for name, sha in text_lm_files(folder).items() if name.endswith(".safetensors")}
        record = {"text_lm": text_lm, "text_lm_files": files, "rank": rank, "sha256": file_sha256(temporary / NAME)}
        (temporary / "lowrank.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (temporary / "unit_spec.json").write_text(lm.spec.to_json(), encoding="utf-8")
        (temporary / "vocab.json").write_text(json.dumps(dataclasses.asdict(lm.vocab)), encoding="utf-8")
        (temporary / "provenance.json").write_text(json.dumps(lm.provenance, indent=1), encoding="utf-8")


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
    files = {name: sha for name, sha in text_lm_files(base).items() if name.endswith(".safetensors")}
    if files != record["text_lm_files"]:
        raise CheckpointError(
            f"{folder} is the difference from another {record['text_lm']} than the one in {base}: its weights have "
            "another sha256. Remove that folder of the cache, and it is fetched and made again."
        )
    spec = read_unit_spec(folder / "unit_spec.json", "the units of a model", error=CheckpointError)
    vocab = Vocab(**read_json(folder / "vocab.json", "the vocabulary of a model", error=CheckpointError))
    provenance = read_json(folder / "provenance.json", "where a model came from", error=CheckpointError)
    model = load_causal_lm(base)
    try:
        tensors = load_file(folder / NAME)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / NAME} cannot be read: {error}") from error
    _add(model, tensors, vocab)
    model.generation_config = generation_config(vocab)
    return UnitLM(model.eval(), vocab, spec, provenance)


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
    for layer, name in zip((table, output), names, strict=True):
        if name in tensors:
            layer.weight = torch.nn.Parameter(tensors.pop(name).float())
    table.num_embeddings = output.out_features = vocab.size
    if tied:
        output.weight = table.weight
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name in {key.removesuffix("/out").removesuffix("/in") for key in tensors}:
            if name in tensors:
                own[name].add_(tensors[name].float())
            else:
                own[name].add_(tensors[f"{name}/out"].float() @ tensors[f"{name}/in"].float())


def _name(model: torch.nn.Module, layer: torch.nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is layer) + ".weight"


def _tables(lm: UnitLM) -> Tensors:
    """The embedding and, where it is not the embedding, the output layer, by name."""
    layers = (lm.model.get_input_embeddings(), lm.model.get_output_embeddings())
    mine = {id(layer.weight) for layer in layers}
    return {name: p.detach() for name, p in lm.model.named_parameters() if id(p) in mine}
