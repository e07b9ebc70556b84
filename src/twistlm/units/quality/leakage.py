"""How much units betray of the speaker: a probe that guesses who speaks from how often a clip has each unit.

Shapes: C clips, F frames, K units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import BadInput, offenders

FOLDS = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class Leakage:
    """What the probe guesses.

    Attributes:
        accuracy: share of clips whose speaker it names, each clip by a probe that was not fitted on it.
        chance: share of the commonest speaker: what one reaches who always names that one.
        guesses: the speaker guessed for each clip, in their order.
        speakers: how many there are to choose from.
    """

    accuracy: float
    chance: float
    guesses: tuple[str, ...]
    speakers: int


def speaker_leakage(
    units: Sequence[NDArray[np.uint16]], speakers: Sequence[str], *, n_units: int, seed: int, folds: int = FOLDS
) -> Leakage:
    """Guess the speaker of C clips from their bags of units, cross-validated.

    A clip is the square roots of its units' shares (the Hellinger embedding, in which rare units count too); the probe
    is scikit-learn's logistic regression over standardised shares; folds are stratified by speaker. Deduplicated or
    not, a bag says nothing of order: this is a lower bound on what a stronger probe would find. Where speakers say
    different things, the probe may tell them by what they say.

    Args:
        units: one uint16 [F] a clip, at least one frame.
        speakers: [C], who speaks.
        n_units: K.
        seed: of the folds.
        folds: parts; all but one are fitted on, each once not.

    Raises:
        BadInput: fewer than two speakers, or one with fewer clips than folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(units) != len(speakers):
        raise BadInput(f"{len(units)} clips and {len(speakers)} speakers; both need one entry a clip.")
    clips = Counter(speakers)
    few = [f"{name} ({n})" for name, n in sorted(clips.items()) if n < folds]
    if len(clips) < 2 or few:
        why = f"these have fewer than {folds} clips: {offenders(few)}" if few else f"there is {len(clips)} speaker"
        raise BadInput(f"the speaker probe needs two speakers with {folds} clips each; {why}.")
    shares = np.stack([np.bincount(clip, minlength=n_units) / len(clip) for clip in units])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    guesses = cross_val_predict(probe, np.sqrt(shares), np.array(speakers), cv=parts)
    return Leakage(
        accuracy=float((guesses == np.array(speakers)).mean()),
        chance=max(clips.values()) / len(speakers),
        guesses=tuple(map(str, guesses)),
        speakers=len(clips),
    )
