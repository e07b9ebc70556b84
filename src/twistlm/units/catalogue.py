"""The names of tokenizers: bundled, published, or a folder; and which one makes given units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from twistlm.errors import ArtifactError, TwistError
from twistlm.files.artifacts import bundled_or_folder
from twistlm.files.configs import read_unit_spec
from twistlm.files.known import Known, is_one, known
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
    return read_unit_spec(path, "a UnitSpec, as in the spec.json of a tokenizer")


def tokenizer_of(
    spec: UnitSpec, *, search: Sequence[str | Path] = (), named: str | Path | None = None, fetch: bool = True
) -> Known | None:
    """Return the tokenizer that makes units of `spec`, found by its `spec.json` and not loaded; None when none is here.

    Args:
        spec: what the units are.
        search: folders looked through before the bundled ones and the cache.
        named: the folder that a run says it used; believed only as far as its spec goes.
        fetch: whether a published tokenizer (`PUBLISHED`) whose name the spec bears is fetched, if nothing else fits.

    Raises:
        BadInput: one of `search` is no folder; or as `published_folder`, which see for ArtifactError.
    """
    if named is not None and is_one(Path(named), "tokenizer") and _spec(Path(named)) == spec:
        return Known(str(named), Path(named), "named by the run")
    for one, of in tokenizers(search=search):
        if of == spec:
            return one
    if fetch and spec.encoder in PUBLISHED and _spec(folder := published_folder(spec.encoder)) == spec:
        return Known(spec.encoder, folder, "published")
    return None


def tokenizers(*, search: Sequence[str | Path] = ()) -> Iterator[tuple[Known, UnitSpec]]:
    """Yield every tokenizer here and what its units are; one that cannot be read is left out, and says why if loaded.

    Raises:
        BadInput: one of `search` is no folder.
    """
    for one in known("tokenizer", search=search):
        if (spec := _spec(one.folder)) is not None:
            yield one, spec


def _spec(folder: Path) -> UnitSpec | None:
    try:
        return read_spec(folder)
    except (TwistError, OSError):
        return None
