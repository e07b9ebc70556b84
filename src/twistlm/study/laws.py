"""How a loss falls with what was trained on, and when one side has caught up with the other, as far as runs can say."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares

from twistlm.errors import BadInput

LEAST_BUDGETS = 4  # of a law of three numbers
RESAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class Law:
    """loss(tokens) = floor + scale * (tokens / 1e6) ** -power, in nats a unit (Hoffmann et al. 2022).

    Attributes:
        floor: what is left after endless training, at least 0.
        scale: what a million tokens leave above it.
        power: at least 0.
        rms: root of the mean squared residual, nats.
    """

    floor: float
    scale: float
    power: float
    rms: float

    def __call__(self, tokens: ArrayLike) -> NDArray[np.float64]:
        return self.floor + self.scale * (np.asarray(tokens, np.float64) / 1e6) ** -self.power


def fit(tokens: ArrayLike, losses: ArrayLike) -> Law:
    """Return the law nearest to `losses` [N] after `tokens` [N], by least squares.

    Raises:
        BadInput: fewer than LEAST_BUDGETS different numbers of tokens.
    """
    at, seen = np.asarray(tokens, np.float64) / 1e6, np.asarray(losses, np.float64)
    if len(set(at.tolist())) < LEAST_BUDGETS:
        raise BadInput(
            f"a law of three numbers wants {LEAST_BUDGETS} budgets or more; there are {len(set(at.tolist()))}."
        )

    def off(values: NDArray[np.float64]) -> NDArray[np.float64]:
        floor, scale, power = values
        return floor + scale * at**-power - seen

    low, high = [0.0, 0.0, 0.0], [float(seen.min()), np.inf, 3.0]
    starts = [
        (share * seen.min(), max(seen.min() * (1 - share), 1e-3), power) for share in (0.3, 0.8) for power in (0.1, 0.5)
    ]
    best = min((least_squares(off, start, bounds=(low, high)) for start in starts), key=lambda found: found.cost)
    floor, scale, power = (float(v) for v in best.x)
    return Law(floor=floor, scale=scale, power=power, rms=float(np.sqrt(np.mean(best.fun**2))))


def crossing(warm: Law, cold: Law, *, start: float, stop: float = 1e12) -> float | None:
    """Return after how many tokens `cold` has caught up with `warm`: is no higher, having been so. None where that is
    beyond `stop`. `start` where it is no higher from there to `stop`.

    Args:
        start, stop: tokens; the law is asked on a grid of 1 % steps between them. Where `warm` is behind at first, it
            is after it has come to lead that cold may catch up.
    """
    at = np.geomspace(start, stop, int(np.ceil(np.log(stop / start) / np.log(1.01))) + 1)
    below = cold(at) <= warm(at)
    if below.all():
        return float(at[0])
    leads = int(np.argmin(below))
    after = np.flatnonzero(below[leads:])
    return float(at[leads + after[0]]) if len(after) else None


def laws(runs: Sequence[Mapping[str, Any]], *, seed: int) -> dict[str, Any] | None:
    """Return the laws of both sides and their crossing, with what resampling the seeds makes of them.

    Args:
        runs: {side, seed, tokens, nll}; only budgets and seeds that both sides have count.
        seed: of the bootstrap over training seeds, RESAMPLES times; with one seed there is no interval.

    Returns:
        `warm`, `cold` (a Law), `crossing` (tokens, or None), `never_behind` (whether cold is no higher than warm from
        the first budget on, of which `crossing` is then the tokens), and with two seeds or more `crossing_ci`: the
        2.5th and 97.5th percentile (inf where it never comes). None where no seed has LEAST_BUDGETS budgets.
    """
    at = {(r["side"], r["seed"], r["tokens"]): r["nll"] for r in runs}
    both = sorted({(s, t) for side, s, t in at if all((x, s, t) in at for x in ("warm", "cold"))})
    # A budget is other tokens to each seed, by how its documents fall into rows, so the points of one seed count.
    enough = {s for s, _ in both if sum(one == s for one, _ in both) >= LEAST_BUDGETS}
    if not enough:
        return None

    @functools.cache  # few seeds give the same draw again and again
    def of(chosen: tuple[int, ...]) -> tuple[Law, Law, float | None]:
        points = [(s, t) for one in chosen for s, t in both if s == one]
        tokens = [t for _, t in points]
        warm, cold = (fit(tokens, [at[side, s, t] for s, t in points]) for side in ("warm", "cold"))
        return warm, cold, crossing(warm, cold, start=min(tokens))

    seeds = sorted({s for s, _ in both})
    warm, cold, cross = of(tuple(seeds))
    first = min(t for _, t in both)
    found: dict[str, Any] = {"warm": warm, "cold": cold, "crossing": cross, "never_behind": cross == first}
    if len(seeds) > 1:
        rng, draws = np.random.default_rng(seed), []
        for _ in range(RESAMPLES):
            chosen = rng.choice(seeds, len(seeds)).tolist()
            if enough.intersection(chosen):
                draws.append(of(tuple(sorted(chosen)))[2] or np.inf)
        found["crossing_ci"] = [float(v) for v in np.percentile(draws, [2.5, 97.5], method="nearest")]
    return found
