"""Ratings as arrays: who, what, of which system, and the score. Letters: n ratings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import BadInput
from twistlm.listen.ratings import Rating
from twistlm.listen.resampling import Floats

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Table:
    """What is analysed.

    Attributes:
        raters, items, conditions: names; of A/B a condition is a pair of systems.
        rater, item, condition: [n], indices of these.
        score: [n].
    """

    raters: tuple[str, ...]
    items: tuple[str, ...]
    conditions: tuple[tuple[str, ...], ...]
    rater: Ints
    item: Ints
    condition: Ints
    score: Floats

    @property
    def n(self) -> int:
        return len(self.score)

    def means(self, weights: Floats) -> Floats:
        """Return the mean score of each condition [B, K] under weights [B, n]; NaN where none has weight."""
        of = self.of.astype(np.float64)
        n = weights @ of
        with np.errstate(invalid="ignore", divide="ignore"):
            result: Floats = (weights * self.score) @ of / n
            return result

    @property
    def of(self) -> NDArray[np.bool_]:
        """Which ratings are of which condition: [n, K]."""
        return self.condition[:, None] == np.arange(len(self.conditions))

    def matrix(self, condition: int) -> Floats:
        """Return the scores of a condition as raters x items, NaN where there is none; the mean of several."""
        shape = (len(self.raters), len(self.items))
        of = self.condition == condition
        at = self.rater[of] * shape[1] + self.item[of]
        n = np.bincount(at, minlength=shape[0] * shape[1])
        total = np.bincount(at, weights=self.score[of], minlength=shape[0] * shape[1])
        with np.errstate(invalid="ignore"):
            result: Floats = (total / np.where(n, n, np.nan)).reshape(shape)
            return result


def tabulate(ratings: Sequence[Rating], *, conditions: Sequence[tuple[str, ...]] = ()) -> Table:
    """Return ratings that count (of kind "rating") as arrays; conditions in the order given, or as they come.

    Raises:
        BadInput: there are none.
    """
    counted = [one for one in ratings if one.kind == "rating"]
    if not counted:
        raise BadInput("no ratings are left to analyse: nobody has rated, or every rater is excluded.")
    found = [(one.system, one.other) if one.other else (one.system,) for one in counted]
    known = list(dict.fromkeys([*(c for c in conditions if c in set(found)), *found]))
    raters, items = sorted({one.rater for one in counted}), sorted({one.item for one in counted})
    index = [{name: i for i, name in enumerate(names)} for names in (raters, items)]
    of = {condition: i for i, condition in enumerate(known)}
    return Table(
        tuple(raters),
        tuple(items),
        tuple(known),
        np.array([index[0][one.rater] for one in counted], dtype=np.int64),
        np.array([index[1][one.item] for one in counted], dtype=np.int64),
        np.array([of[condition] for condition in found], dtype=np.int64),
        np.array([one.score for one in counted], dtype=np.float64),
    )
