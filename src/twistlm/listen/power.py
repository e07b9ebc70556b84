"""How many raters it takes to see a difference, from the variances of the ratings that there are."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from twistlm.listen.resampling import Spread

ALPHA, POWER = 0.05, 0.8


class Need(NamedTuple):
    """What a difference takes.

    Attributes:
        difference: in points.
        raters: each with as many clips as now, on as many items; None where no number is enough.
        items: how many are needed at least, were there no end of raters.
    """

    difference: float
    raters: int | None
    items: int


def raters_needed(spread: Spread, *, raters: int, items: int, targets: tuple[float, ...]) -> list[Need]:
    """Return how many raters see each of `targets`, two-sided at 5 %, four times out of five.

    The variance of a difference has a part that more raters make smaller and one that only more items do, since all
    raters hear the same. Both are means over all pairs of systems.

    Args:
        spread: of differences between systems, as `scores.differences` gives it.
        raters, items: behind it.
        targets: differences in points.

    Returns:
        One a target; none where no pair tells these variances.
    """
    told = (spread.df > 0) & np.isfinite(spread.se)
    if not told.any():
        return []
    by_raters = float(spread.v_raters[told].mean()) * raters
    by_items = max(0.0, float((spread.v_items - spread.v_ratings)[told].mean())) * items
    out = []
    for target in targets:
        allowed = (target / (float(ndtri(1 - ALPHA / 2)) + float(ndtri(POWER)))) ** 2
        left = allowed - by_items / items
        enough = math.floor(by_items / allowed) + 1
        out.append(Need(target, max(2, math.ceil(by_raters / left)) if left > 0 else None, max(2, enough)))
    return out
