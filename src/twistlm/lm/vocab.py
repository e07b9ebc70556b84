"""The token ids of a unit language model: the only place where units are shifted into tokens and back. numpy only.

Layout (the same as SlamKit's): 0 is padding, 1 is `<s>`, which both opens and closes a document, and unit u is u + 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import BadInput, offenders


@dataclass(frozen=True)
class Vocab:
    """The vocabulary over `n_units` units.

    Attributes:
        n_units: K; units are 0 … K-1.
        pad, bos, eos: special token ids; bos and eos are the same token.
        offset: token of unit 0.
    """

    n_units: int

    pad: ClassVar[int] = 0
    bos: ClassVar[int] = 1
    eos: ClassVar[int] = 1
    offset: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.n_units < 1:
            raise BadInput(f"a vocabulary needs at least 1 unit, got {self.n_units}.")

    @property
    def size(self) -> int:
        """V, the number of tokens: units and the two special ones."""
        return self.n_units + self.offset

    def prompt(self, unit_ids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return int64 [R+1]: `<s>` and the units, an open document to be continued."""
        return np.concatenate([[self.bos], self._tokens(unit_ids)]).astype(np.int64)

    def encode(self, unit_ids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return int64 [R+2]: `<s>`, the units, `<s>`, a whole document. No units gives the two ends only.

        Raises:
            BadInput: a unit outside 0 … K-1.
        """
        return np.concatenate([[self.bos], self._tokens(unit_ids), [self.eos]]).astype(np.int64)

    def decode(self, tokens: NDArray[np.integer]) -> NDArray[np.uint16]:
        """Return uint16 [R], the units of one document; its `<s>` ends and the padding after it are stripped.

        Raises:
            BadInput: a special token between units (two documents, or a token that must not reach a vocoder), or a
                token outside the vocabulary.
        """
        tokens = np.asarray(tokens, dtype=np.int64)
        if tokens.ndim != 1:
            raise BadInput(f"tokens of one document must be 1-D, got shape {tokens.shape}.")
        outside = tokens[(tokens < 0) | (tokens >= self.size)]
        if len(outside):
            raise BadInput(f"tokens outside 0 … {self.size - 1}: {offenders(outside.tolist())}.")
        units = np.flatnonzero(tokens >= self.offset)
        if not len(units):
            return np.zeros(0, dtype=np.uint16)
        inner = tokens[units[0] : units[-1] + 1]
        if (inner < self.offset).any():
            where = (np.flatnonzero(inner < self.offset) + units[0]).tolist()
            raise BadInput(
                f"special tokens between units, at positions {offenders(where)}: decode one document at a time."
            )
        return (inner - self.offset).astype(np.uint16)

    def _tokens(self, unit_ids: NDArray[np.integer]) -> NDArray[np.int64]:
        units = np.asarray(unit_ids)
        if units.ndim != 1 or (units.size and units.dtype.kind not in "iu"):
            raise BadInput(f"unit ids must be a 1-D integer array, got {units.dtype} {units.shape}.")
        outside = units[(units < 0) | (units >= self.n_units)]
        if len(outside):
            raise BadInput(f"units outside 0 … {self.n_units - 1}: {offenders(outside.tolist())}.")
        return units.astype(np.int64) + self.offset
