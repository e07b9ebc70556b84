"""The SSL encoder, cut at the layer whose output is quantised: no layer above the tap exists, so none is computed.

Shapes: N samples, F frames, D feature dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from transformers import HubertConfig, HubertModel

from twistlm.errors import ArtifactError, AudioError, BadInput

# Longer clips are encoded in windows of this many seconds, each seeing CONTEXT_SECONDS of its neighbours that are then
# dropped: memory stays bounded, and units equal the unwindowed ones except where attention reaches past the context.
WINDOW_SECONDS = 30
CONTEXT_SECONDS = 2


def frames_of(n_samples: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Exact number of frames unpadded convolutions make of `n_samples`; 0 when the clip is too short."""
    for kernel, stride in zip(kernels, strides, strict=True):
        n_samples = (n_samples - kernel) // stride + 1
        if n_samples < 1:
            return 0
    return n_samples


@dataclass(frozen=True, eq=False)
class SSLEncoder:
    """A HuBERT that maps samples to the features of one transformer block.

    Attributes:
        model: HubertModel holding blocks 1 … layer, in eval mode.
        layer: 1-based block whose output is returned.
        sample_rate: Hz.
        normalize_input: scale each clip to zero mean and unit variance first.
    """

    model: HubertModel
    layer: int
    sample_rate: int = 16_000
    normalize_input: bool = False

    @property
    def hop(self) -> int:
        """Samples between two frames."""
        return int(np.prod(self.model.config.conv_stride))

    @property
    def dim(self) -> int:
        return int(self.model.config.hidden_size)

    def n_frames(self, n_samples: int) -> int:
        """Frames of a clip of `n_samples`, exact for every length."""
        return frames_of(n_samples, self.model.config.conv_kernel, self.model.config.conv_stride)

    def min_samples(self) -> int:
        """The shortest clip that has one frame: the receptive field of the convolutions."""
        n = 1
        for kernel, stride in zip(
            reversed(self.model.config.conv_kernel), reversed(self.model.config.conv_stride), strict=True
        ):
            n = (n - 1) * stride + kernel
        return n

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features of one clip: float32 [N] -> float32 [F, D]. The clip is alone, so batch mates cannot change it.

        Raises:
            AudioError: the clip is shorter than one frame.
        """
        total = self.n_frames(len(samples))
        if total == 0:
            raise AudioError(
                f"{len(samples)} samples are too short for one frame of this encoder, which needs {self.min_samples()}."
            )
        if self.normalize_input:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        window = WINDOW_SECONDS * self.sample_rate // self.hop
        context = CONTEXT_SECONDS * self.sample_rate // self.hop
        if total <= window + 2 * context:
            return self._encode(samples)
        parts = []
        for start in range(0, total, window):
            first, last = max(0, start - context), min(total, start + window + context)
            # Frame f sees samples f*hop … f*hop + receptive field.
            part = self._encode(samples[first * self.hop : (last - 1) * self.hop + self.min_samples()])
            parts.append(part[start - first : start - first + min(window, total - start)])
        return np.concatenate(parts)

    @torch.inference_mode()
    def _encode(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        wave = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))[None]
        return self.model(wave.to(self.model.device)).last_hidden_state[0].cpu().numpy()

    @classmethod
    def load(cls, folder: str | Path, *, layer: int, normalize_input: bool = False) -> SSLEncoder:
        """Read `encoder.json` (a HubertConfig) and `encoder.safetensors` (any float type) from a folder.

        Raises:
            ArtifactError: files missing or not of this shape.
            BadInput: the encoder has fewer blocks than `layer`.
        """
        folder = Path(folder)
        if not (folder / "encoder.json").is_file() or not (folder / "encoder.safetensors").is_file():
            raise ArtifactError(f"{folder} holds no encoder: expected encoder.json and encoder.safetensors in it.")
        config = HubertConfig(**json.loads((folder / "encoder.json").read_text()))
        if not 1 <= layer <= config.num_hidden_layers:
            raise BadInput(f"layer {layer} asked of an encoder with {config.num_hidden_layers} blocks in {folder}.")
        state = {name: tensor.float() for name, tensor in load_file(folder / "encoder.safetensors").items()}
        return cls(cut(config, state, layer), layer, normalize_input=normalize_input)


def cut(config: HubertConfig, state: dict[str, torch.Tensor], layer: int) -> HubertModel:
    """Build the encoder's first `layer` blocks from a full state dict. Nothing passed in is changed.

    Raises:
        ArtifactError: tensors are missing, or have other shapes than the configuration says.
    """
    # Without SpecAugment, which only training uses, the model has no embedding for masked frames.
    config = HubertConfig(
        **{**config.to_dict(), "num_hidden_layers": layer, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    )
    with torch.device("meta"):
        model = HubertModel(config)
    kept = {
        name: tensor for name, tensor in state.items()
        if name != "masked_spec_embed"
        and (not name.startswith("encoder.layers.") or int(name.split(".")[2]) < layer)
    }  # fmt: skip
    try:
        model.load_state_dict(kept, strict=True, assign=True)
    except RuntimeError as error:
        raise ArtifactError(f"the encoder's weights do not fit its configuration: {error}") from error
    if config.do_stable_layer_norm:
        model.encoder.set_submodule(
            "layer_norm", nn.Identity()
        )  # "layer L" is the block's output, before the encoder's last norm
    return model.float().eval().requires_grad_(False)
