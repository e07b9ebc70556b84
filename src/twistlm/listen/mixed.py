"""A check of the scores by another way: a linear mixed model, score ~ system + (1|rater) + (1|item) + (1|clip)."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np

from twistlm.errors import TwistError
from twistlm.listen.table import Ints, Table

MOST_RATINGS = 6_000  # the fit takes minutes beyond


class Fitted(NamedTuple):
    """What the model says of a system.

    Attributes:
        system: its name.
        mean, se: its mean score and standard error.
    """

    system: str
    mean: float
    se: float


class Mixed(NamedTuple):
    """A fitted model.

    Attributes:
        systems: means.
        sd_raters, sd_items, sd_clips, sd_rest: standard deviations of raters, of items, of clips, and of the rest.
        converged: whether the fit ended well.
    """

    systems: list[Fitted]
    sd_raters: float
    sd_items: float
    sd_clips: float
    sd_rest: float
    converged: bool


def mixed_model(table: Table) -> Mixed | None:
    """Fit the model by restricted maximum likelihood, with statsmodels. None where the ratings do not tell its parts
    apart, such as where all of them are the same.

    A part that groups ratings as another does (with one system, clips are items) is left out: its standard deviation
    is 0.

    Raises:
        TwistError: statsmodels is not installed.
    """
    try:
        from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec
    except ImportError as error:
        raise TwistError("the mixed model is fitted by statsmodels: pip install 'twistlm[listen]'.") from error
    n_conditions, n_items = len(table.conditions), len(table.items)
    exog = (table.condition[:, None] == np.arange(n_conditions)).astype(float)
    clip = np.unique(table.condition * n_items + table.item, return_inverse=True)[1]
    parts = {"raters": table.rater, "items": table.item, "clips": clip}
    names: list[str] = []
    for name, of in parts.items():
        alike = any(_same(of, parts[other]) for other in names)
        if 1 < of.max() + 1 < table.n and not alike and not _same(of, table.condition):
            names.append(name)
    if not names or np.ptp(table.score) == 0:
        return None
    blocks = [(parts[name][:, None] == np.arange(parts[name].max() + 1)).astype(float) for name in names]
    # One group holds all: raters and items cross. statsmodels wants, for each part, a matrix a group.
    spec = VCSpec(
        names,
        [[[f"{name}{i}" for i in range(b.shape[1])]] for name, b in zip(names, blocks, strict=True)],
        [[b] for b in blocks],
    )
    model = MixedLM(table.score, exog, groups=np.zeros(table.n), exog_vc=spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a part of no variance is on the border, which is no fault
        try:
            fit = model.fit(reml=True, method=["lbfgs"])
        except np.linalg.LinAlgError:
            return None
        if not np.isfinite([*fit.fe_params, *fit.bse_fe, *fit.vcomp, fit.scale]).all():
            return None
    sd = {name: math.sqrt(max(0.0, float(v))) for name, v in zip(names, fit.vcomp, strict=True)}
    return Mixed(
        [Fitted(c[0], float(fit.fe_params[i]), float(fit.bse_fe[i])) for i, c in enumerate(table.conditions)],
        sd.get("raters", 0.0),
        sd.get("items", 0.0),
        sd.get("clips", 0.0),
        math.sqrt(float(fit.scale)),
        bool(fit.converged),
    )


def _same(one: Ints, other: Ints) -> bool:
    """Whether two parts group the ratings alike."""
    pairs = len(np.unique(np.stack([one, other]), axis=1).T)
    return pairs == len(np.unique(one)) == len(np.unique(other))
