"""The token ids of a unit language model: the only place where units are shifted into tokens and back. numpy only.

Our layout (the same as SlamKit's): 0 is padding, 1 is `<s>`, which both opens and closes a document, and unit u is
u + 2. Published models may have another: TWIST's own have an offset of their own and no `<s>`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import BadInput, offenders


@dataclass(frozen=True)
class Vocab:
    """The vocabulary over `n_units` units; `Vocab(500)` is our layout.

    Attributes:
        n_units: K; units are 0 … K-1.
        offset: token of unit 0.
        pad: the token that fills a batch where nothing is looked at.
        bos, eos: the tokens that open and close a document. None: documents are bare, and their first unit is given
            instead of predicted.
        n_tokens: V, when there are more tokens than `offset` + K.
    """

    n_units: int
    offset: int = 2
    pad: int = 0
    bos: int | None = 1
    eos: int | None = 1
    n_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.n_units < 1:
            raise BadInput(f"a vocabulary needs at least 1 unit, got {self.n_units}.")
        if self.offset < 0 or self.size < self.offset + self.n_units:
            raise BadInput(
                f"{self.n_units} units from token {self.offset} on do not fit a vocabulary of {self.size} tokens: the "
                "units are of another tokenizer, or the offset is of another model."
            )
        units = range(self.offset, self.offset + self.n_units)
        for name in ("pad", "bos", "eos"):
            token = getattr(self, name)
            if token is not None and not 0 <= token < self.size:
                raise BadInput(f"{name} is token {token}, outside 0 … {self.size - 1}.")
            if token in units and name != "pad":
                raise BadInput(f"{name} is token {token}, which is unit {token - self.offset}.")

    @property
    def size(self) -> int:
        """V, the number of tokens: units, special ones, and any the model has besides."""
        return self.offset + self.n_units if self.n_tokens is None else self.n_tokens

    @property
    def opening(self) -> str:
        """How a document begins, in the words of a protocol."""
        return "from its own <s>" if self.bos is not None else "without <s>, its first unit not predicted"

    def is_unit(self, tokens: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return bool, the shape of `tokens`: which of them are units."""
        return (tokens >= self.offset) & (tokens < self.offset + self.n_units)

    def prompt(self, unit_ids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return int64 [R+1]: `<s>` and the units, an open document to be continued; [R] where there is no `<s>`."""
        opening = [] if self.bos is None else [self.bos]
        return np.concatenate([opening, self._tokens(unit_ids)]).astype(np.int64)

    def encode(self, unit_ids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return int64 [R+2]: `<s>`, the units, `<s>`, a whole document. No units gives the two ends only.

        Raises:
            BadInput: a unit outside 0 … K-1, or a vocabulary whose documents have no ends.
        """
        if self.bos is None or self.eos is None:
            raise BadInput(
                "documents of this model have no <s> (TWIST's published layout): it can be scored and continued, but "
                "the end of a document can be neither scored nor trained."
            )
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
        units = np.flatnonzero(self.is_unit(tokens))
        if not len(units):
            return np.zeros(0, dtype=np.uint16)
        inner = tokens[units[0] : units[-1] + 1]
        if not self.is_unit(inner).all():
            where = (np.flatnonzero(~self.is_unit(inner)) + units[0]).tolist()
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
