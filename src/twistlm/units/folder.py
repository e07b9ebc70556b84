"""What a tokenizer's folder holds: spec.json, the codebook, the encoder (unless it is a bundled one), a card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from twistlm.errors import ArtifactError
from twistlm.files.artifacts import bundled
from twistlm.files.atomic import atomic_folder
from twistlm.types import UnitSpec
from twistlm.units.kmeans import Codebook


def encoder_folder(folder: Path, spec: UnitSpec) -> Path:
    """Where a tokenizer's encoder lies: in its folder, or, for codebooks that share one, in the bundled encoder's."""
    if (folder / "encoder.safetensors").is_file():
        return folder
    try:
        return bundled(f"encoder/{spec.encoder}")
    except ArtifactError:
        return folder  # where it is then said to be missing


def save_tokenizer(
    folder: str | Path, *, name: str, encoder_config: dict | None, encoder_weights: bytes, layer: int,
    codebook: Codebook, normalize_input: bool, sample_rate: int, hop: int, card: str, padding: int = 0,
    check: Callable[[Path, UnitSpec], None] | None = None,
) -> UnitSpec:  # fmt: skip
    """Write a tokenizer folder, atomically, and return its spec.

    Args:
        folder: target; replaced when it exists.
        name: encoder name in the spec.
        encoder_config: HubertConfig fields; None leaves the encoder out, which then is the bundled one of that name.
        encoder_weights: bytes of a safetensors file.
        layer: the tap.
        codebook: fitted on that layer's features of exactly these weights.
        normalize_input, sample_rate, hop: as in UnitSpec.
        card: Markdown: data, recipe, licence.
        padding: as in UnitSpec.
        check: looks at the folder before it gets its name; what it raises is raised, and `folder` stays as it was.
    """
    spec = UnitSpec(
        encoder=name, encoder_sha256=hashlib.sha256(encoder_weights).hexdigest(), layer=layer, tap="block_output",
        normalize_input=normalize_input, sample_rate=sample_rate, hop=hop, n_units=codebook.n_units,
        centroids_sha256=codebook.sha256, deduplicate=True, padding=padding,
    )  # fmt: skip
    with atomic_folder(Path(folder)) as temporary:
        if encoder_config is not None:
            (temporary / "encoder.json").write_text(json.dumps(encoder_config, indent=1, sort_keys=True))
            (temporary / "encoder.safetensors").write_bytes(encoder_weights)
        (temporary / "codebook.safetensors").write_bytes(codebook.to_bytes())
        (temporary / "spec.json").write_text(spec.to_json())
        (temporary / "CARD.md").write_text(card)
        if check is not None:
            check(temporary, spec)
    return spec
