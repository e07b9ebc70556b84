"""Make a tokenizer of a published encoder and the centroids that belong to it."""

from __future__ import annotations

from pathlib import Path

from twistlm.errors import BadInput
from twistlm.types import UnitSpec
from twistlm.units.importing import import_tokenizer
from twistlm.units.published import PUBLISHED, published_codebook, published_encoder


def take_tokenizer(
    out: str | Path,
    *,
    codebook: str,
    encoder: str | None,
    layer: int | None,
    normalize_input: bool,
    padding: int | None,
    name: str | None,
) -> UnitSpec:
    """Write a tokenizer folder and return what its units are.

    Args:
        out: the folder; one that is there is not touched.
        codebook: file of the centroids, or a name of `units.published.PUBLISHED`.
        encoder, layer, padding: of `import_tokenizer`; None takes what is known of a published codebook (and no padding
            for any other).
        normalize_input: as for `import_tokenizer`.
        name: of the encoder in the spec; None for the codebook's published name, else the folder's.

    Raises:
        BadInput: the folder is there; encoder or layer are not known; as `import_tokenizer` says.
        ArtifactError: something could not be fetched or read.
    """
    if Path(out).exists():
        raise BadInput(f"{out} is there already. Choose another folder, or remove it.")
    known = PUBLISHED.get(codebook) if not Path(codebook).exists() else None
    if known is None and not Path(codebook).is_file():
        raise BadInput(
            f"{codebook!r} is neither a file nor a published codebook. Published: {', '.join(PUBLISHED)}. Give one of "
            "these, or a file: km.bin of scikit-learn, .npy, .pt, a flat FAISS index, .safetensors."
        )
    layer = known.layer if layer is None and known else layer
    if layer is None:
        raise BadInput(f"the layer whose features {codebook} was fitted on is not known: give --layer.")
    if encoder is None and known is None:
        raise BadInput(f"the encoder whose features {codebook} was fitted on is not known: give --encoder.")
    if padding is None:
        padding = known.padding if known else 0
    return import_tokenizer(
        out,
        name=name or (known and (known.known_as or codebook)) or Path(out).name,
        encoder=encoder or published_encoder(codebook),
        codebook=published_codebook(codebook) if known else codebook,
        layer=layer,
        normalize_input=normalize_input,
        padding=padding,
    )
