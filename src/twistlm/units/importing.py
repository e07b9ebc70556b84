"""A published encoder and a k-means fitted on its features become a tokenizer folder, read again and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save

from twistlm.errors import ArtifactError, BadInput
from twistlm.files import artifacts
from twistlm.types import UnitSpec
from twistlm.units.encoder import Encoder
from twistlm.units.folder import save_tokenizer
from twistlm.units.kmeans import Codebook
from twistlm.units.kmeans_files import read_kmeans
from twistlm.units.pretrained import encoder_folder, load_encoder, pretrained


def import_tokenizer(
    folder: str | Path, *, name: str, encoder: str | Path, codebook: Codebook | str | Path, layer: int,
    normalize_input: bool, padding: int = 0,
) -> UnitSpec:  # fmt: skip
    """Make a tokenizer folder of a published encoder and a k-means fitted on its features, and return its spec.

    What was written is read again, and must give the same units of a sound.

    Args:
        folder: target; replaced when it exists.
        name: the encoder's name in the spec.
        encoder: a transformers folder, a hub id, or a fairseq checkpoint; see `pretrained.pretrained`.
        codebook: the centroids; or a file with them, in any form that `kmeans_files.read_kmeans` knows.
        layer: the tap, 1-based; blocks above it are left out of the folder.
        normalize_input: scale each clip to zero mean and unit variance first.
        padding: zero samples put on both sides of each clip; see `UnitSpec`.

    Raises:
        BadInput: as `pretrained` and `read_kmeans` say; or the codebook has another width than the encoder.
        ArtifactError: the encoder could not be fetched, does not fit its configuration, or is not read again as it was.
    """
    source = encoder_folder(encoder)
    cut_encoder = pretrained(source, layer=layer, normalize_input=normalize_input)
    if not isinstance(codebook, Codebook):
        codebook = read_kmeans(codebook)
    if codebook.dim != cut_encoder.dim:
        raise BadInput(
            f"the codebook has {codebook.dim} dimensions and the encoder {encoder} {cut_encoder.dim}: "
            "it was fitted on another encoder."
        )
    if cut_encoder.n_frames(2 * padding):
        raise BadInput(f"{padding} samples of padding on each side make a frame without any sound: less is needed.")
    origin = artifacts.provenance(source if source.is_dir() else source.parent)["source"]
    fields, weights = encoder_files(cut_encoder)
    return save_tokenizer(
        folder, name=name, encoder_config=fields, encoder_weights=weights, layer=layer, codebook=codebook,
        normalize_input=normalize_input, sample_rate=cut_encoder.sample_rate, hop=cut_encoder.hop, padding=padding,
        check=lambda made, spec: read_again(made, spec, cut_encoder, codebook),
        card=f"# {name}\n\nEncoder: {encoder} ({origin}), cut at layer {layer}; "
        f"{codebook.n_units} units. Data, recipe and licence: as its publisher says.\n",
    )  # fmt: skip


def read_again(folder: Path, spec: UnitSpec, encoder: Encoder, codebook: Codebook) -> None:
    """Raise ArtifactError unless a tokenizer folder gives the units of the encoder and codebook it was made of."""
    again = load_encoder(folder, layer=spec.layer, normalize_input=spec.normalize_input, hop=spec.hop)
    rng = np.random.default_rng(0)
    time = np.arange(spec.sample_rate) / spec.sample_rate
    sound = 0.1 * np.sin(2 * np.pi * 200 * time * (1 + time)) + 0.01 * rng.standard_normal(len(time))
    here, there = (each(sound.astype(np.float32)) for each in (encoder, again))
    book = Codebook.load(folder / "codebook.safetensors")
    if not np.isfinite(here).all():
        raise BadInput(f"features behind layer {spec.layer} of {spec.encoder} are NaN or infinite: it overflows.")
    if not np.array_equal(here, there) or not np.array_equal(codebook.assign(here), book.assign(there)):
        raise ArtifactError(
            f"{folder}: what was written gives other units than what it was made of: the disk is damaged, or it is a "
            "fault of twistlm."
        )


def encoder_files(encoder: Encoder) -> tuple[dict[str, Any], bytes]:
    """Configuration and safetensors of an encoder as it is: what it computes with, whatever file it came from."""
    model: Any = encoder.model  # type: ignore[attr-defined]  # both classes that `pretrained` returns have one
    fields = json.loads(model.config.to_json_string(use_diff=False))
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    return fields, save(state)
