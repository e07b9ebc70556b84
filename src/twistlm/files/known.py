"""What says which units it is of: tokenizers and vocoders that are bundled, in the cache, or below a named folder.

The rooms of both read the spec in each folder (`units.catalogue`, `vocoder.catalogue`); this only knows where to look.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from twistlm.errors import BadInput
from twistlm.files.artifacts import bundled, cache_folder

Kind = Literal["tokenizer", "vocoder"]
DEPTH = 6  # of folders below one that is searched
_HOLDS = {  # what every folder of its kind has; a unit LM's has the second three as well, and more
    "tokenizer": ("spec.json", "codebook.safetensors"),
    "vocoder": ("unit_spec.json", "config.json", "model.safetensors"),
}
# A unit LM, and one that was exported for vLLM.
_NOT_ONE = {"tokenizer": (), "vocoder": ("provenance.json", "vocab.json")}


@dataclass(frozen=True)
class Known:
    """A folder of a tokenizer or vocoder.

    Attributes:
        name: what a command line would call it: a bundled name, or a path.
        folder: where it lies.
        place: how it was found: "given", "searched", "named by the run", "bundled" or "cached".
    """

    name: str
    folder: Path
    place: str

    def __str__(self) -> str:
        return f"{self.name} ({self.place})"

    @property
    def facts(self) -> dict[str, str]:
        """Name, folder and place, as `--json` tells them."""
        return {"name": self.name, "folder": str(self.folder), "found": self.place}


def known(kind: Kind, *, search: Sequence[str | Path] = ()) -> Iterator[Known]:
    """Yield every tokenizer or vocoder there is here: below the folders of `search`, bundled, in the cache.

    Raises:
        BadInput: one of `search` is no folder.
    """
    for place in map(Path, search):
        if not place.is_dir():
            raise BadInput(f"{place} is no folder: --search takes folders in which tokenizers and vocoders lie.")
        yield from (Known(str(folder), folder, "searched") for folder in _below(place, kind))
    shipped = bundled(kind)
    yield from (Known(folder.name, folder, "bundled") for folder in _below(shipped, kind))
    cached = cache_folder() / f"{kind}s"
    yield from (Known(str(folder), folder, "cached") for folder in _below(cached, kind))


def is_one(folder: Path, kind: Kind) -> bool:
    """Whether a folder holds what a tokenizer or vocoder does."""
    return all((folder / name).is_file() for name in _HOLDS[kind]) and not any(
        (folder / name).exists() for name in _NOT_ONE[kind]
    )


def _below(place: Path, kind: Kind) -> Iterator[Path]:
    """Yield the folders of that kind at and below `place`, sorted; hidden ones and links are left out."""
    for root, folders, _ in os.walk(place):
        here = Path(root)
        if is_one(here, kind):
            yield here
        deep = len(here.relative_to(place).parts) >= DEPTH
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))
