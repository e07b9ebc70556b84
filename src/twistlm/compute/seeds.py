"""Seeds: whole numbers, all of whose bits count."""

from __future__ import annotations

import operator

import numpy as np

from twistlm.errors import BadInput


def checked_seed(seed: object) -> int:
    """Return a seed as a plain int, which JSON and torch take; numpy's integers are as good.

    Raises:
        BadInput: no whole number, below 0, or 2**63 or more.
    """
    try:
        found = operator.index(seed)  # type: ignore[arg-type]  # that is what is asked
    except TypeError as error:
        raise BadInput(f"seed is {seed!r}; use a whole number.") from error
    if not 0 <= found < 2**63:
        raise BadInput(f"seed is {seed}; use 0 or more, below 2**63.")
    return found


def torch_seed(seed: int) -> int:
    """Return what torch's generator of a CPU is seeded with, of which it takes the low 32 bits alone.

    A seed of so many bits is itself; of a longer one, all bits are mixed into them.
    """
    seed = checked_seed(seed)
    return seed if seed < 2**32 else int(np.random.SeedSequence(seed).generate_state(1)[0])
