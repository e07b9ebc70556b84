"""Verbs about tokenizers of others: `twist tokenizer import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twistlm.cli.command import Result, group

verb = group("tokenizer", help="Make tokenizers of what others published.")

NormalizeInput = Annotated[
    bool,
    typer.Option(
        "--normalize/--raw",
        help="Scale each clip to zero mean and unit variance first, or not: it moves every unit.",
    ),
]


@verb
def import_(
    codebook: Annotated[
        str, typer.Argument(help="Centroids: km.bin, .npy, .pt, a flat FAISS index, .safetensors, or a published name.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the tokenizer.")],
    normalize: NormalizeInput,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Hub id (facebook/hubert-base-ls960), transformers folder, or fairseq checkpoint (.pt); default: that "
            "of a published codebook."
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(help="Block whose output is quantised, from 1; default: a published codebook's.", min=1),
    ] = None,
    padding: Annotated[
        int | None,
        typer.Option(
            help="Zero samples on both sides of each clip (SlamKit: 40); default: none, or as published.", min=0
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the encoder in the spec; default: the folder's.")] = None,
) -> Result:
    """Make a tokenizer of a published encoder and its centroids."""
    from twistlm.jobs.tokenizers import take_tokenizer

    spec = take_tokenizer(
        out, codebook=codebook, encoder=encoder, layer=layer, normalize_input=normalize, padding=padding, name=name
    )
    padded = f", {spec.padding} samples of padding" if spec.padding else ""
    return Result(
        {"tokenizer": str(out), "unit_spec": spec.fingerprint, **spec.to_dict()},
        f"{out}: {spec.n_units} units at {float(spec.frame_rate):g} Hz of layer {spec.layer}{padded}, "
        f"spec {spec.fingerprint}",
    )
