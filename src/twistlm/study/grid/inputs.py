"""What every run of a grid is given: documents to train on, to choose rates on and to report on, a text LM, a suite."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twistlm.config import GridConfig
from twistlm.corpus.opened import UnitCorpus, open_corpus
from twistlm.errors import BadInput, offenders
from twistlm.evaluate.suites.catalogue import open_suite
from twistlm.evaluate.unit_cache import SpokenSuite, tokenize_suite
from twistlm.files.artifacts import cache_to_write
from twistlm.lm.phases import text_lm_files
from twistlm.lm.text_lms import text_lm_folder
from twistlm.study.keys import digest
from twistlm.study.run import choose, subset
from twistlm.units.tokenizer import SpeechTokenizer

DATA_SEED = 0  # of the choice of validation and test documents, the same for every run


@dataclass(frozen=True, eq=False)
class Inputs:
    """What every run of a grid is given.

    Attributes:
        train: documents of the split "train" but for those of `validation`.
        validation: documents whose loss chooses the rates; no reported number is over them.
        test: documents the final numbers are over.
        curve: those of them that are scored at every evaluation.
        text_lm: its folder.
        spoken: mini sWUGGY in units.
        fingerprint: 16 hex digits over all of it.
    """

    train: UnitCorpus
    validation: UnitCorpus
    test: UnitCorpus
    curve: UnitCorpus
    text_lm: Path
    spoken: SpokenSuite
    fingerprint: str

    def documents(self, amount: float, *, seed: int) -> UnitCorpus:
        """Return a seeded choice of a share of the training documents; a smaller share is part of a larger one."""
        if amount == 1:
            return self.train
        return subset(self.train, units=round(amount * int(self.train.lengths.sum())), seed=seed)


def open_inputs(config: GridConfig, *, progress: bool = False) -> Inputs:
    """Open what `config` names; fetch the text LM and cut the suite into units where that has not been done.

    Raises:
        UnitSpecMismatch: units and tokenizer do not belong together.
        BadInput: too few documents, or a text that is both trained on and tested.
        As `open_corpus` and `text_lm_folder`.
    """
    tok = SpeechTokenizer.load(config.tokenizer)
    whole, heldout = open_corpus(config.units, split="train"), open_corpus(config.heldout, split="heldout")
    for folder, corpus in ((config.units, whole), (config.heldout, heldout)):
        tok.spec.require(corpus.spec, mine=f"the tokenizer {config.tokenizer}", theirs=f"the units in {folder}")
    if both := sorted((set(whole.texts) & set(heldout.texts)) - {""}):
        raise BadInput(
            f"{len(both)} texts of {config.heldout} are also trained on in {config.units}, so the test would not be "
            f"held out: {offenders(both, limit=3)}. Take them out of one of the two."
        )
    chosen = choose(whole, units=config.validation_units, seed=DATA_SEED)
    rest = np.setdiff1d(np.arange(len(whole)), chosen)
    if not len(rest):
        raise BadInput(
            f"{config.units} has {int(whole.lengths.sum()):,} units to train on, and {config.validation_units:,} are "
            "to be held back for the validation: lower validation_units, or tokenize more speech."
        )
    train, validation = whole.select(rest), whole.select(chosen)
    test = subset(heldout, units=config.test_units, seed=DATA_SEED) if config.test_units else heldout
    curve = subset(test, units=config.curve_units, seed=DATA_SEED)
    text_lm = text_lm_folder(config.text_lm)
    spoken = tokenize_suite(open_suite("mini-swuggy"), tok, cache=cache_to_write("eval-units"), progress=progress)
    made_of = [
        tok.spec.fingerprint,
        *(corpus.fingerprint for corpus in (train, validation, test, curve)),
        text_lm_files(text_lm),
        spoken.checksum,
    ]
    return Inputs(train, validation, test, curve, text_lm, spoken, digest(made_of))
