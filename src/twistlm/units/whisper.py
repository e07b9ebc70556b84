"""Whisper's encoder as a unit encoder, cut at its layer like the others.

It is built for windows of exactly 30 s: a shorter clip is followed by silence up to there, which attention sees, in
training and here alike. So a clip has one form, and a batch needs no padding of its own. Positions are absolute, so the
units of a sound depend on where in its clip it stands.

Shapes: B clips, N samples, F frames, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Blocks

from twistlm.audio.stream import Survey
from twistlm.compute.devices import full_float32, send
from twistlm.errors import AudioError
from twistlm.units.encoder import Window
from twistlm.units.weights import as_configured, loaded

# Longer clips are encoded in windows of 30 s, each giving the frames that have 2 s of sound (this share of the window)
# on both sides of them, or the clip's end; the log-mel's floor, 80 dB below the loudest moment, is that of each window.
_CONTEXT = 15


@dataclass(frozen=True, eq=False)
class WhisperEncoder:
    """Maps samples to the features of one block of a Whisper encoder, at 50 Hz.

    Attributes:
        model: transformers' encoder half, holding blocks 1 … layer, in eval mode.
        layer: 1-based block whose output is returned, before the encoder's final layer norm.
        sample_rate: Hz.
    """

    model: Any
    layer: int
    sample_rate: int = 16_000

    hop = 320  # two steps of 10 ms

    @property
    def dim(self) -> int:
        return int(self.model.config.d_model)

    @property
    def window(self) -> int:
        """Frames the encoder sees at once: 1500 in every published model."""
        return int(self.model.config.max_source_positions)

    def n_frames(self, n_samples: int) -> int:
        """Frames of a clip of `n_samples`: those centred in it, at samples 0, 320, 640 …"""
        return -(-n_samples // self.hop)

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features of one clip: float32 [N] -> float32 [F, D].

        Raises:
            AudioError: the clip is empty.
        """
        pieces = self.windows(self._checked(samples))
        return np.concatenate([self._encode([samples[w.start : w.stop]])[0][w.kept] for w in pieces])

    def batch(self, clips: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Features of several clips at once: B times float32 [N] -> B times float32 [F, D], in the order given.

        They equal those of `encoder(clip)` but for the rounding of sums. Longer clips than one window go alone.

        Raises:
            AudioError: a clip is empty.
        """
        windows = [self.windows(self._checked(samples)) for samples in clips]
        short = [i for i, pieces in enumerate(windows) if len(pieces) == 1]
        if len(short) < 2:
            return [self(samples) for samples in clips]
        encoded = self._encode([clips[i] for i in short])
        together = {i: features[windows[i][0].kept] for i, features in zip(short, encoded, strict=True)}
        return [together[i] if i in together else self(samples) for i, samples in enumerate(clips)]

    def windows(self, n_samples: int) -> list[Window]:
        """The windows of a clip, in order; one when it has at most `window` frames."""
        total = self.n_frames(n_samples)
        if total <= self.window:
            return [Window(0, n_samples, slice(0, total))]
        context = self.window // _CONTEXT
        windows = []
        for start in range(0, total, self.window - 2 * context):
            first, stop = max(0, start - context), min(total, start + self.window - 2 * context)
            last = min(n_samples, (first + self.window) * self.hop)
            windows.append(Window(first * self.hop, last, slice(start - first, stop - first)))
        return windows

    def encode_window(self, samples: NDArray[np.float32], *, clip: Survey) -> NDArray[np.float32]:  # noqa: ARG002
        """Features of one window: float32 [N] -> float32 [F, D]. The log-mel is scaled by the window alone."""
        return self._encode([samples])[0]

    def _checked(self, samples: NDArray[np.float32]) -> int:
        if not len(samples):
            raise AudioError("the clip is empty.")
        return len(samples)

    @cached_property
    def _log_mel(self) -> WhisperFeatureExtractor:
        return WhisperFeatureExtractor(
            feature_size=self.model.config.num_mel_bins, chunk_length=self.window * self.hop // self.sample_rate
        )

    def features(self, clips: Sequence[NDArray[np.float32]]) -> list[torch.Tensor]:
        """Features of clips of at most one window each, encoded together, where they were made: float32 [F, D] each.

        Raises:
            AudioError: a clip is empty.
        """
        kept = [self.windows(self._checked(samples))[0].kept for samples in clips]
        return [hidden[part] for hidden, part in zip(self._hidden(clips), kept, strict=True)]

    def _encode(self, pieces: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        return list(self._hidden(pieces).cpu().numpy())

    @torch.inference_mode()
    @full_float32()
    def _hidden(self, pieces: Sequence[NDArray[np.float32]]) -> torch.Tensor:
        # One at a time: a batched transform could round otherwise.
        mel = [
            self._log_mel(piece, sampling_rate=self.sample_rate, return_tensors="pt").input_features for piece in pieces
        ]
        hidden: torch.Tensor = self.model(send(torch.cat(mel).numpy(), self.model.device)).last_hidden_state
        return hidden


def cut_whisper(
    config: WhisperConfig, state: dict[str, torch.Tensor], layer: int, *, where: str = "the encoder"
) -> Any:
    """Build the first `layer` blocks from the encoder's full state dict. Nothing passed in is changed.

    Raises:
        BadInput: there is no such encoder.
        ArtifactError: tensors are missing, have other shapes than the configuration says, or hold NaN or infinity.
    """
    with as_configured(where):
        config = WhisperConfig(**{**config.to_dict(), "encoder_layers": layer})
    with as_configured(where), torch.device("meta"):
        model = Blocks(config)
    # "Layer L" is the block's output, before the encoder's last norm.
    model.set_submodule("layer_norm", nn.Identity())
    kept = {
        name: tensor for name, tensor in state.items()
        if not name.startswith("layer_norm.") and (not name.startswith("layers.") or int(name.split(".")[1]) < layer)
    }  # fmt: skip
    return loaded(model, kept, where=where)
