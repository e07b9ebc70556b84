"""The network of a vocoder: units and voice are embedded, a generator speaks them, a predictor says how long they last.

Shapes: B batch, R units before expansion, C channels, F frames, N samples (N = F * hop).
"""

from __future__ import annotations

import hashlib
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from twistlm.errors import BadInput
from twistlm.vocoder.durations import DurationPredictor
from twistlm.vocoder.generator import Generator, InputShape, Reach

_OWN = ("dict", "lang", "spkr", "style", "dur_predictor")  # by the first part of a published name: not the generator's


class Synthesizer(nn.Module):
    """Units, one per frame, to a waveform.

    It is built with weight normalisation where its generator has any (for training, and for published checkpoints);
    `fold` removes it.
    """

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        self.shape = shape
        self.dict = nn.Embedding(shape.num_embeddings, shape.embedding_dim)
        for table in shape.tables:
            self.add_module(table.name, nn.Embedding(table.rows, table.width))
        self.generator = shape.build()
        duration = shape.dur_predictor_params
        self.dur_predictor = None if duration is None else DurationPredictor(duration)

    @property
    def hop(self) -> int:
        """Samples a frame lasts."""
        return self.shape.hop

    @property
    def reach(self) -> Reach:
        """Frames before and behind a frame that its samples depend on."""
        return cast("Generator", self.generator).reach

    @property
    def duration_reach(self) -> int:
        """Units on each side that a unit's predicted duration depends on; 0 without a predictor."""
        return 0 if self.shape.dur_predictor_params is None else self.shape.dur_predictor_params.reach

    def features(self, frames: Tensor, voice: Tensor | None = None) -> Tensor:
        """Return what the generator is given, [B, C, F].

        Args:
            frames: units int64 [B, F], one per frame.
            voice: int64 [B, V] or [B, F, V], a row for each of the V tables of `shape.tables`; None where V is 0.

        The order of channels is the published one: language, units, speaker, style.
        """
        units = self.dict(frames)
        before: list[Tensor] = []
        behind: list[Tensor] = []
        for i, table in enumerate(self.shape.tables):
            assert voice is not None
            rows = voice[..., i] if voice.ndim == 3 else voice[:, i : i + 1].expand_as(frames)
            embedded = self.get_submodule(table.name)(rows)
            (before if table.kind == "language" else behind).append(embedded)
        return torch.cat([*before, units, *behind], 2).transpose(1, 2)

    def forward(self, frames: Tensor, voice: Tensor | None = None, *, trim: int = 0) -> Tensor:
        """Return the samples [B, (F - 2 * trim) * hop], in -1 … 1, of units int64 [B, F]; see `features`."""
        return self.generator(self.features(frames, voice), trim=trim)

    def log_durations(self, units: Tensor) -> Tensor:
        """Return predicted log(frames + 1), [B, R], of units int64 [B, R]; `durations` turns it into frames."""
        if self.dur_predictor is None:
            raise BadInput("this vocoder has no duration predictor: use durations='given'.")
        return self.dur_predictor(self.dict(units))

    def fold(self) -> Self:
        """Multiply weight normalisation out, and let the generator do what it does before it speaks, in place.

        What is computed stays the same.
        """
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
        fold = getattr(self.generator, "fold", None)
        if fold is not None:
            fold()
        return self

    def weights(self) -> dict[str, Tensor]:
        """Every tensor under its published name, in which the generator's stand beside the embeddings."""
        return {name.removeprefix("generator."): value for name, value in self.state_dict().items()}

    def sha256(self) -> str:
        """Return a hash of every tensor's values, in the order of their published names: the same on any device."""
        digest = hashlib.sha256()
        for _, value in sorted(self.weights().items()):
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def take(self, weights: dict[str, Tensor]) -> Self:
        """Take over tensors under their published names, in place.

        Raises:
            RuntimeError: a name is missing or unknown, or a shape differs (torch's words).
        """
        self.load_state_dict({inner_name(name): value for name, value in weights.items()})
        return self


def inner_name(published: str) -> str:
    """The name in a `Synthesizer` of what is called `published` in a vocoder's file."""
    return published if published.partition(".")[0] in _OWN else f"generator.{published}"
