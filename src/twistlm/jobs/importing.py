"""Take over what others published: units, speech LMs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from twistlm.corpus.slamkit import PADDING, Imported, import_units
from twistlm.errors import BadInput
from twistlm.files.replacing import require_replaceable
from twistlm.lm.model import PROVENANCE, UnitLM
from twistlm.lm.published import is_slamkit, load_published
from twistlm.types import UnitSpec
from twistlm.units.catalogue import read_spec
from twistlm.units.tokenizer import SpeechTokenizer


def import_published(
    folder: str | Path, tokenizer: str | Path, out: str | Path, *, padding: int | None = None
) -> UnitLM:
    """Write a published speech LM as a folder of ours, over the units of `tokenizer`, and return it.

    Args:
        folder, out: of theirs, and for ours.
        tokenizer: name or folder of the tokenizer it was trained with.
        padding: zero samples on both sides of each clip it was trained on; None for the tokenizer's, which of SlamKit's
            models must have some.

    Raises:
        BadInput: a model of SlamKit's, and nothing says how its units were padded; something else in `out`.
        As `load_published` and `SpeechTokenizer.load`.
    """
    require_replaceable(out, what="a unit LM", mark=PROVENANCE, inputs=(folder, tokenizer))
    spec = SpeechTokenizer.load(tokenizer).spec
    if padding is not None or is_slamkit(folder):
        spec = _with_padding(spec, padding, str(folder))
    lm = load_published(folder, spec)
    lm.save(out)
    return lm


def take_units(
    source: str | Path,
    tokenizer: str | Path,
    out: str | Path,
    *,
    split: str,
    heldout: float,
    durations: Literal["given", "unknown"],
    seed: int,
    padding: int | None = None,
    progress: bool = False,
) -> tuple[Imported, UnitSpec]:
    """Store published units as shards over the units of `tokenizer`; return what was done, and what the units are.

    Args:
        source, out, split, heldout, durations, seed, progress: as for `corpus.slamkit.import_units`.
        tokenizer: name or folder of the tokenizer that cut them, or a file like its `spec.json`; it is not loaded.
        padding: zero samples on both sides of each clip when they were cut; None for the tokenizer's, if it has some.

    Raises:
        BadInput: nothing says how they were padded.
        As `import_units` and `units.tokenizer.read_spec`.
    """
    spec = _with_padding(read_spec(tokenizer), padding, str(source))
    report = import_units(
        source, out, spec, split=split, heldout=heldout, durations=durations, seed=seed, progress=progress
    )
    return report, spec


def _with_padding(spec: UnitSpec, padding: int | None, what: str) -> UnitSpec:
    """The spec of units that SlamKit may have cut: how they were padded must be known, since it moves one in five."""
    if padding is not None:
        return dataclasses.replace(spec, padding=padding)
    if spec.padding:
        return spec
    raise BadInput(
        f"{what}: SlamKit puts {PADDING} samples on both sides of each clip, which moves one unit in five, and the "
        f"tokenizer named puts none. Say --padding {PADDING} for units that SlamKit cut (its published tokenizer is "
        "slamkit-mhubert-base-25hz-kmeans-500), or --padding 0 for units that were cut without."
    )
