"""Take over what others published: units, speech LMs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from twistlm.corpus.slamkit import Imported, import_units
from twistlm.lm.model import UnitLM
from twistlm.lm.published import load_published
from twistlm.types import UnitSpec
from twistlm.units.catalogue import read_spec
from twistlm.units.tokenizer import SpeechTokenizer


def import_published(folder: str | Path, tokenizer: str | Path, out: str | Path) -> UnitLM:
    """Write a published speech LM as a folder of ours, over the units of `tokenizer`, and return it.

    Raises:
        As `load_published` and `SpeechTokenizer.load`.
    """
    lm = load_published(folder, SpeechTokenizer.load(tokenizer).spec)
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
    progress: bool = False,
) -> tuple[Imported, UnitSpec]:
    """Store published units as shards over the units of `tokenizer`; return what was done, and what the units are.

    Args:
        source, out, split, heldout, durations, seed, progress: as for `corpus.slamkit.import_units`.
        tokenizer: name or folder of the tokenizer that cut them, or a file like its `spec.json`; it is not loaded.

    Raises:
        As `import_units` and `units.tokenizer.read_spec`.
    """
    spec = read_spec(tokenizer)
    report = import_units(
        source, out, spec, split=split, heldout=heldout, durations=durations, seed=seed, progress=progress
    )
    return report, spec
