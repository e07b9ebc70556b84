"""The randomness of sampling: a number of its own for each token of the vocabulary at each place of a sequence.

A token is drawn from softmax(x) as argmax(x + noise) with Gumbel noise. Inverting the cumulated distribution with one
number is as exact, but there a slightly different x moves the borders of all tokens behind it; here a token keeps its
noise, and two nearly equal x give the same token nearly always. So drafts come true (97 to 99 % of int8 ones, against
68 to 88 %), and the order of a sum decides far less often what is said.

The numbers come from SplitMix64 (Steele, Lea and Flood, 2014): integers only, so they are the same on every device.
"""

from __future__ import annotations

import torch

from twistlm.compute.seeds import torch_seed

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_BITS = 53  # of a float64's significand


def seeds_of_places(seed: int, n: int) -> list[int]:
    """Return n numbers in -2**63 … 2**63 - 1, one for each place of a sequence, from its own generator."""
    generator = torch.Generator().manual_seed(torch_seed(seed))
    return torch.randint(-(2**63), 2**63 - 1, (n,), generator=generator).tolist()


def gumbel(places: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """Return Gumbel noise for each token at these places: int64 [...] of `seeds_of_places` -> float64 [..., V]."""
    count = torch.arange(1, n_tokens + 1, device=places.device)
    z = places[..., None] + count * _signed(_STEP)
    z = (z ^ _shifted(z, 30)) * _signed(_FIRST)
    z = (z ^ _shifted(z, 27)) * _signed(_SECOND)
    z = z ^ _shifted(z, 31)
    uniform = (_shifted(z, 64 - _BITS).double() + 0.5) * 2.0**-_BITS  # inside 0 … 1, both ends left out
    return -(-uniform.log()).log()


def _signed(x: int) -> int:
    """Return the int64 that has the bits of an unsigned number."""
    return x - 2**64 if x >= 2**63 else x


def _shifted(z: torch.Tensor, by: int) -> torch.Tensor:
    """Shift int64 to the right as if it had no sign."""
    return (z >> by) & (2 ** (64 - by) - 1)
