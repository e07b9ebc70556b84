"""Which vocoder speaks given units: among those bundled, in the cache, and below named folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twistlm.errors import ArtifactError, BadInput, TwistError
from twistlm.files.artifacts import bundled_or_folder, cache_folder
from twistlm.files.configs import read_unit_spec
from twistlm.files.known import Known, is_one, known
from twistlm.files.named import ARTIFACTS
from twistlm.files.sources import Bundled
from twistlm.types import UnitSpec

_SHIPPED = {name for name, one in ARTIFACTS.items() if isinstance(one.sources[0], Bundled)}


def vocoder_folder(name_or_folder: str | Path) -> Path:
    """Return the folder of a vocoder: one given, a bundled one by name, or a published one that was taken over.

    Raises:
        BadInput: no such name or folder; or a published one that was not taken over yet.
    """
    name = str(name_or_folder)
    published = [known for known, one in ARTIFACTS.items() if one.kind == "vocoder" and known not in _SHIPPED]
    if name in published and not Path(name).is_dir():
        if not (imported_folder(name) / "config.json").is_file():
            raise BadInput(f"the published vocoder {name} is not here yet: twist vocoder import {name}")
        return imported_folder(name)
    folder = bundled_or_folder(name_or_folder, "vocoder", published=published)
    trained = folder / "vocoder"  # a folder of twist vocoder train stands for what it made
    return trained if (trained / "unit_spec.json").is_file() and not (folder / "unit_spec.json").is_file() else folder


def imported_folder(name: str) -> Path:
    """Where a published vocoder lies in the cache once it was taken over."""
    return cache_folder() / "vocoders" / name


def read_spec(name_or_folder: str | Path) -> UnitSpec:
    """Return what a vocoder speaks, without loading it.

    Raises:
        BadInput: no such name or folder. ArtifactError: it does not say what it speaks.
    """
    path = vocoder_folder(name_or_folder) / "unit_spec.json"
    return read_unit_spec(path, "the units that a vocoder speaks", error=ArtifactError)


def vocoder_of(spec: UnitSpec, *, search: Sequence[str | Path] = (), named: str | Path | None = None) -> Known | None:
    """Return the first vocoder that speaks units of `spec`, found by its `unit_spec.json`; None when none is here.

    Args:
        spec: what the units are.
        search: folders looked through before the bundled ones and the cache.
        named: the folder that a run says it used; believed only as far as its spec goes.

    Raises:
        BadInput: one of `search` is no folder.
    """
    if named is not None and is_one(Path(named), "vocoder") and _is_of(Path(named), spec):
        return Known(str(named), Path(named), "named by the run")
    return next((one for one in known("vocoder", search=search) if _is_of(one.folder, spec)), None)


def vocoder_like(spec: UnitSpec) -> Known | None:
    """Return a bundled vocoder that makes as many samples a unit at the same rate: one whose shape fits `spec`.

    One that speaks `spec` itself goes first.
    """
    shapes = {one: read_spec(one.folder) for one in known("vocoder") if one.place == "bundled"}
    fit = [one for one, of in shapes.items() if (of.hop, of.sample_rate) == (spec.hop, spec.sample_rate)]
    return min(fit, key=lambda one: shapes[one] != spec, default=None)


def _is_of(folder: Path, spec: UnitSpec) -> bool:
    try:
        return read_spec(folder) == spec
    except TwistError:  # of no units; it says so when it is loaded
        return False
