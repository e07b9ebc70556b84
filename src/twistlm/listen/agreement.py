"""How far raters agree: Krippendorff's alpha (Krippendorff 2011), 1 for always, 0 for chance."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from twistlm.listen.resampling import Floats
from twistlm.listen.table import Table

Level = Literal["nominal", "ordinal", "interval"]


def krippendorff_alpha(data: Floats, level: Level) -> float:
    """Return alpha of raters x units, NaN where unrated.

    Units with fewer than two ratings tell nothing of agreement and are left out. NaN where no unit is left, or all
    ratings are the same: then there is no chance to agree by chance with anything else.
    """
    values, of = np.unique(data[~np.isnan(data)], return_inverse=True)
    units = np.broadcast_to(np.arange(data.shape[1]), data.shape)[~np.isnan(data)]
    counts = np.zeros((data.shape[1], len(values)))
    np.add.at(counts, (units, of), 1)
    m = counts.sum(1)
    counts, m = counts[m >= 2], m[m >= 2]
    if not len(m):
        return math.nan
    weighted = counts / (m - 1)[:, None]
    coincidences = weighted.T @ counts - np.diag(weighted.sum(0))
    n_values = counts.sum(0)
    n = n_values.sum()
    apart = _distances(values, n_values, level)
    expected = (np.outer(n_values, n_values) * apart).sum()
    return 1 - float((n - 1) * (coincidences * apart).sum() / expected) if expected > 0 else math.nan


def agreement(table: Table) -> dict[str, float]:
    """Return alpha over all clips (or pairs of clips) of a study, on the ordinal and the interval scale."""
    data = np.concatenate([table.matrix(i) for i in range(len(table.conditions))], axis=1)
    return {"ordinal": krippendorff_alpha(data, "ordinal"), "interval": krippendorff_alpha(data, "interval")}


def _distances(values: Floats, n: Floats, level: Level) -> Floats:
    """Return the squared distance of any two values."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "interval":
        return np.subtract.outer(values, values) ** 2
    middles = np.cumsum(n) - n / 2  # ranks: the distance of two values is the number of ratings between them
    return np.subtract.outer(middles, middles) ** 2
