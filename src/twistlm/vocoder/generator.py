"""What a waveform generator is to the rest of the room: features at the frame rate in, samples out, from a known reach.

A generator knows nothing of units, speakers or durations (`synthesizer`), nor of clips, batches or streams (`windows`,
`vocoder`, `streaming`). Whatever has this form can be trained, batched and streamed.

Shapes: B batch, C channels of the features, F frames, N samples.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from twistlm.errors import BadInput
from twistlm.vocoder.durations import DurationConfig


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far an output position looks in the input: positions before and behind its own, at most."""

    left: int
    right: int


class Generator(Protocol):
    """Features to samples, every operation local in time. A `torch.nn.Module` (`InputShape.build` makes it)."""

    @property
    def hop(self) -> int:
        """Samples a frame gives: F frames give exactly F * hop."""
        ...

    @property
    def reach(self) -> Reach:
        """Frames before and behind a frame that its samples depend on.

        It must not be too small: clips are cut into pieces with so much around them, spoken apart and laid together.
        """
        ...

    def __call__(self, features: Tensor, *, trim: int = 0) -> Tensor:
        """Return the samples [B, (F - 2 * trim) * hop], in -1 … 1, of features [B, C, F].

        Outside of the features is whatever the generator takes for the outside of a clip (zeros at every convolution).
        `trim` frames at each end are heard by the first layer but not spoken (see `crops.TRIM`).
        """
        ...


@dataclass(frozen=True)
class Table:
    """A table of embeddings beside that of the units: of languages, speakers or styles.

    Attributes:
        kind: "language", "speaker" or "style".
        name: its published name.
        rows, width: its shape.
    """

    kind: str
    name: str
    rows: int
    width: int


@dataclass(frozen=True, kw_only=True)
class InputShape(ABC):
    """What a vocoder's config says whatever its generator is, in the published names; a generator's config adds to it.

    Attributes:
        num_embeddings: units it can speak, K.
        embedding_dim: width of a unit's embedding.
        model_in_dim: channels of the features that the generator is given: all embeddings side by side.
        num_languages, num_speakers, num_styles: rows of the tables beside that of the units; 0 for no table.
        language_dim, speaker_dim, style_dim: their widths; 0 for `embedding_dim`.
        sampling_rate: Hz.
        dur_predictor_params: None for a vocoder without duration predictor.
    """

    kind: ClassVar[str]  # the generator's name in config.json

    num_embeddings: int
    embedding_dim: int
    model_in_dim: int
    sampling_rate: int
    dur_predictor_params: DurationConfig | None = None
    num_languages: int = 0
    language_dim: int = 0
    num_speakers: int = 0
    speaker_dim: int = 0
    num_styles: int = 0
    style_dim: int = 0

    def __post_init__(self) -> None:
        parts = [f"{table.kind}s {table.width}" for table in self.tables]
        wanted = self.embedding_dim + sum(table.width for table in self.tables)
        if self.model_in_dim != wanted:
            raise BadInput(
                f"vocoder config: model_in_dim is {self.model_in_dim}, but what is embedded is {wanted} wide: "
                f"{', '.join([f'units {self.embedding_dim}', *parts])}. It belongs to another kind of vocoder."
            )

    @property
    def tables(self) -> tuple[Table, ...]:
        """What is embedded beside the units, in the order in which rows are given (`Synthesizer.features`)."""
        found = (
            Table("language", "lang", self.num_languages, self.language_dim or self.embedding_dim),
            Table("speaker", "spkr", self.num_speakers, self.speaker_dim or self.embedding_dim),
            Table("style", "style", self.num_styles, self.style_dim or self.embedding_dim),
        )
        return tuple(table for table in found if table.rows)

    @property
    @abstractmethod
    def hop(self) -> int:
        """Samples a frame lasts."""

    @abstractmethod
    def build(self) -> nn.Module:
        """A `Generator` of this shape, with random weights; one with a method `fold()` is folded before it speaks."""

    def fields(self) -> dict[str, Any]:
        """`config.json` of a vocoder's folder, as values."""
        read_from = "from_input_file"  # how the published training learnt them; what counts is that it is not null
        return {
            "generator": self.kind,
            **dataclasses.asdict(self),
            "multispkr": read_from if self.num_speakers else None,
            "multistyle": read_from if self.num_styles else None,
        }

    def to_json(self) -> str:
        """`config.json` of a vocoder's folder; `configs.read_shape` reads it back."""
        return json.dumps(self.fields(), indent=2) + "\n"
