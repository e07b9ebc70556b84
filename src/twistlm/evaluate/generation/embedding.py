"""How near a continuation is in meaning to the true one: the cosine of two text embeddings.

Offline the embeddings are WordLlama's (MIT): a table of vectors for the tokens of Llama 2, in 256 dimensions; a text is
the mean of its tokens' vectors. SpeechSSM and others use Sentence-BERT, whose numbers are not comparable: give
its name of the hub where sentence-transformers is installed. Shapes: M texts, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from twistlm.errors import ArtifactError, BadInput
from twistlm.files.artifacts import resolve
from twistlm.lm.pretrained import REFUSALS
from twistlm.lm.weights import first_line

WORDLLAMA = "wordllama-256"


class Embedder(Protocol):
    """Gives texts a place."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return [M, D], each of length 1; zeros for a text without a token."""
        ...


@dataclass(frozen=True, eq=False)
class WordLlama:
    """Means of token vectors."""

    table: NDArray[np.float32]
    tokenizer: Tokenizer
    name: str = WORDLLAMA

    @classmethod
    def load(cls) -> WordLlama:
        """Fetch it where it has to be.

        Raises:
            ArtifactError: it cannot be had.
        """
        folder = resolve(WORDLLAMA)
        [table] = load_file(folder / "l2_supercat_256.safetensors").values()
        tokenizer = Tokenizer.from_file(str(folder / "l2_supercat_tokenizer_config.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if tokenizer.get_vocab_size() > len(table):
            raise ArtifactError(
                f"{folder} is damaged: its tokenizer has {tokenizer.get_vocab_size()} tokens and its table "
                f"{len(table)} rows. Remove it, and it is fetched again."
            )
        return cls(table.astype(np.float32), tokenizer)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        found = np.zeros((len(texts), self.table.shape[1]), dtype=np.float32)
        for row, coded in zip(found, self.tokenizer.encode_batch(list(texts), add_special_tokens=False), strict=True):
            if coded.ids:
                row[:] = self.table[coded.ids].mean(axis=0)
        return unit(found)


@dataclass(frozen=True, eq=False)
class SentenceTransformer:
    """A model of the package sentence-transformers."""

    model: Any
    name: str

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        found = np.asarray(self.model.encode(list(texts), show_progress_bar=False), dtype=np.float32)
        found[[not text.strip() for text in texts]] = 0.0
        return unit(found)


def open_embedder(name: str) -> Embedder:
    """Return WordLlama, or a model of sentence-transformers by its name on the hub or its folder.

    Raises:
        ArtifactError: it cannot be had, or the package is not installed.
    """
    if name == WORDLLAMA:
        return WordLlama.load()
    try:
        import sentence_transformers  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ArtifactError(
            f"{name} needs the package sentence-transformers: pip install sentence-transformers. {WORDLLAMA} does not."
        ) from error
    try:
        return SentenceTransformer(sentence_transformers.SentenceTransformer(name, trust_remote_code=False), name)
    except REFUSALS as error:
        raise ArtifactError(f"the text embedder {name} cannot be had: {first_line(error)}") from error


def similarities(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosines [M] of rows of unit length; NaN where one is zero (a text without a word).

    Raises:
        BadInput: other shapes.
    """
    if one.shape != other.shape:
        raise BadInput(f"embeddings of shapes {one.shape} and {other.shape} belong to other texts.")
    cosines = np.einsum("md,md->m", one.astype(np.float64), other.astype(np.float64))
    empty = ~(one.any(axis=1) & other.any(axis=1))
    return np.where(empty, np.nan, cosines)


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows scaled to length 1; zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
