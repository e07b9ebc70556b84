"""The names of tokenizers: bundled, published, or a folder."""

from __future__ import annotations

import json
from pathlib import Path

from twistlm.errors import ArtifactError, BadInput
from twistlm.files.artifacts import bundled_or_folder
from twistlm.types import UnitSpec
from twistlm.units.published import PUBLISHED, published_folder


def tokenizer_folder(name_or_folder: str | Path) -> Path:
    """Return the folder of a tokenizer; a published one is fetched and made in the cache when first asked for.

    Raises:
        BadInput: no such name or folder. ArtifactError: it could not be fetched.
    """
    if str(name_or_folder) in PUBLISHED and not Path(name_or_folder).is_dir():
        return published_folder(str(name_or_folder))
    return bundled_or_folder(name_or_folder, "tokenizer", published=list(PUBLISHED))


def read_spec(source: str | Path) -> UnitSpec:
    """Return what the units of a tokenizer are, without loading it.

    Args:
        source: name or folder of a tokenizer, as for `SpeechTokenizer.load`, or a JSON file like its `spec.json`.

    Raises:
        BadInput: no such name, folder or file; not a UnitSpec. ArtifactError: as `SpeechTokenizer.load`.
    """
    path = Path(source)
    if not path.is_file():
        path = tokenizer_folder(source) / "spec.json"
        if not path.is_file():
            raise ArtifactError(f"{path.parent} is not a tokenizer: it has no spec.json.")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path}: not JSON ({error}). A UnitSpec is as in the spec.json of a tokenizer.") from error
    if not isinstance(fields, dict):
        raise BadInput(f"{path}: not a JSON object. A UnitSpec is as in the spec.json of a tokenizer.")
    try:
        return UnitSpec.from_dict(fields)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
