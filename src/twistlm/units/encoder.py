"""The SSL encoder, cut at the layer whose output is quantised: no layer above the tap exists, so none is computed.

Four families of transformers share one build (convolutions, a positional convolution, blocks) and are one class here:
HuBERT, wav2vec 2.0, WavLM and data2vec-audio, base and large. Whisper's encoder is another build: `units.whisper`.

An encoder may run in phases, for more frames than its convolutions make: in two phases of a 25 Hz encoder every other
frame is one of the sound without its first 20 ms, which gives 50 Hz for twice the work.

Shapes: B clips, N samples, F frames, D feature dimensions.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers.masking_utils import create_bidirectional_mask

from twistlm.audio.stream import Survey, survey
from twistlm.compute.devices import full_float32, send
from twistlm.errors import ArtifactError, AudioError, BadInput
from twistlm.files.configs import read_config
from twistlm.files.regular import require_regular_files
from twistlm.units.frontend import FrontEnd
from twistlm.units.weights import as_configured, loaded

# Longer clips are encoded in windows of this many seconds, each seeing CONTEXT_SECONDS of its neighbours that are then
# dropped. Memory stays bounded, but units are not those of the clip in one piece, far from the seams as near them:
# attention over all of it moves every frame (77 % agree at 120 s).
WINDOW_SECONDS = 30
CONTEXT_SECONDS = 2

# transformers' model_type, and how the names of that family's classes begin.
FAMILIES = {"hubert": "Hubert", "wav2vec2": "Wav2Vec2", "wavlm": "WavLM", "data2vec-audio": "Data2VecAudio"}


class Encoder(Protocol):
    """What a tokenizer needs of an encoder; anyone's works."""

    @property
    def sample_rate(self) -> int:
        """Hz."""

    @property
    def hop(self) -> int:
        """Samples between two frames."""

    @property
    def dim(self) -> int: ...

    def n_frames(self, n_samples: int) -> int:
        """Frames of a clip of `n_samples`, exact for every length."""

    def __call__(self, samples: NDArray[np.float32], /) -> NDArray[np.float32]:
        """float32 [N] -> float32 [F, D]."""

    def batch(self, clips: Sequence[NDArray[np.float32]], /) -> list[NDArray[np.float32]]:
        """B times float32 [N] -> B times float32 [F, D], equal to each clip's own within float32 rounding."""


@dataclass(frozen=True)
class Window:
    """A piece of a long clip that is encoded at once.

    Attributes:
        start, stop: its samples, counted from the clip's first.
        kept: which of its frames are the clip's; the others are the context they were given.
    """

    start: int
    stop: int
    kept: slice


@runtime_checkable
class Windowed(Protocol):
    """What a tokenizer needs of an encoder besides, to cut clips of any length in bounded memory."""

    def windows(self, n_samples: int, /) -> list[Window]:
        """The windows of a clip, in order; one when it is encoded whole. The frames they keep are the clip's F."""

    def encode_window(self, samples: NDArray[np.float32], /, *, clip: Survey) -> NDArray[np.float32]:
        """Features of one window of a clip that has several, all its frames: float32 [N] -> float32 [F, D]."""


@runtime_checkable
class Tensors(Protocol):
    """What a tokenizer needs of an encoder besides, to find units where the features are: on a GPU."""

    def features(self, clips: Sequence[NDArray[np.float32]], /) -> list[torch.Tensor]:
        """Features of clips of one window each, encoded together: float32 [F, D] each, on the encoder's device."""


def on(encoder: Encoder, device: torch.device) -> Encoder:
    """This encoder, computing on `device` if it is one of ours. The one that was given stays where it is."""
    model = getattr(encoder, "model", None)
    if model is None or model.device == device:
        return encoder
    return cast("Encoder", dataclasses.replace(cast("Any", encoder), model=copy.deepcopy(model).to(device)))


def frames_of(n_samples: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Exact number of frames unpadded convolutions make of `n_samples`; 0 when the clip is too short."""
    for kernel, stride in zip(kernels, strides, strict=True):
        n_samples = (n_samples - kernel) // stride + 1
        if n_samples < 1:
            return 0
    return n_samples


@dataclass(frozen=True, eq=False)
class SSLEncoder:
    """A HuBERT or a relative of it that maps samples to the features of one transformer block.

    Attributes:
        model: HubertModel, or another of FAMILIES, holding blocks 1 … layer, in eval mode.
        layer: 1-based block whose output is returned.
        sample_rate: Hz.
        normalize_input: scale each clip to zero mean and unit variance first.
        phases: how often a clip is encoded, each time from `hop` samples later on; their frames take turns. A divisor
            of the convolutions' stride.
    """

    model: Any
    layer: int
    sample_rate: int = 16_000
    normalize_input: bool = False
    phases: int = 1

    @property
    def hop(self) -> int:
        """Samples between two frames."""
        return int(np.prod(self.model.config.conv_stride)) // self.phases

    @property
    def dim(self) -> int:
        return int(self.model.config.hidden_size)

    def n_frames(self, n_samples: int) -> int:
        """Frames of a clip of `n_samples`, exact for every length."""
        # Floors nest: a stack of convolutions makes the frames of one that is as wide and as coarse as all of it. Those
        # of P phases add up to those of one P times as fine (Hermite's identity).
        return max(0, (n_samples - self.min_samples()) // self.hop + 1)

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
        windows = self.windows(len(samples))
        if len(windows) == 1:
            return self._encode(self._prepared(samples))
        clip = survey([samples])
        return np.concatenate([self.encode_window(samples[w.start : w.stop], clip=clip)[w.kept] for w in windows])

    def windows(self, n_samples: int) -> list[Window]:
        """The windows of a clip, in order; one when it has at most WINDOW_SECONDS and two contexts."""
        total = self.n_frames(n_samples)
        window, context = (s * self.sample_rate // self.hop for s in (WINDOW_SECONDS, CONTEXT_SECONDS))
        if total <= window + 2 * context:
            return [Window(0, n_samples, slice(0, total))]
        windows = []
        for start in range(0, total, window):
            first, last = max(0, start - context), min(total, start + window + context)
            # Frame f sees samples f*hop … f*hop + receptive field.
            stop = (last - 1) * self.hop + self.min_samples()
            kept = slice(start - first, start - first + min(window, total - start))
            windows.append(Window(first * self.hop, stop, kept))
        return windows

    def encode_window(self, samples: NDArray[np.float32], *, clip: Survey) -> NDArray[np.float32]:
        """Features of one window: float32 [N] -> float32 [F, D]; `clip` says what the whole clip is scaled by."""
        if self.normalize_input:
            samples = (samples - np.float32(clip.mean)) / np.float32(np.sqrt(clip.variance + 1e-7))
        return self._encode(samples)

    def batch(self, clips: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Features of several clips at once: B times float32 [N] -> B times float32 [F, D], in the order given.

        All that mixes neighbouring frames (convolutions, the group norm over time of base models, the positional
        convolution) runs on each clip alone, so there is no padding it could see. The blocks run on frames padded to
        the longest clip, and attention never looks at the padding. What remains is the order in which matrix products
        are summed, which may differ with a batch's shape: features equal those of `encoder(clip)` to a few units in
        the last place, not bit for bit. Clips longer than one window are encoded alone, which bounds memory by the
        batch, not by the longest clip. Give clips of similar length together: padding is computed, then dropped.

        Raises:
            AudioError: a clip is shorter than one frame.
        """
        short = [i for i, samples in enumerate(clips) if len(self.windows(len(samples))) == 1]
        prepared = {i: self._prepared(clips[i]) for i in short}
        if len(short) < 2:
            return [self(samples) for samples in clips]
        together = dict(zip(short, self._encode_batch([prepared[i] for i in short]), strict=True))
        return [together[i] if i in together else self(samples) for i, samples in enumerate(clips)]

    def _prepared(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.n_frames(len(samples)) == 0:
            raise AudioError(
                f"{len(samples)} samples are too short for one frame of this encoder, which needs {self.min_samples()}."
            )
        if self.normalize_input:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        return samples

    @cached_property
    def _front_end(self) -> FrontEnd:
        return FrontEnd(self.model)

    def features(self, clips: Sequence[NDArray[np.float32]]) -> list[torch.Tensor]:
        """Features of clips of at most one window each, encoded together, where they were made: float32 [F, D] each.

        Raises:
            AudioError: a clip is shorter than one frame.
        """
        prepared = [self._prepared(samples) for samples in clips]
        with torch.inference_mode(), full_float32():
            return self._together(prepared)

    def _encode(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._encode_batch([samples])[0]

    def _encode_batch(self, clips: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        with torch.inference_mode(), full_float32():
            return [features.cpu().numpy() for features in self._together(clips)]

    def _together(self, clips: Sequence[NDArray[np.float32]]) -> list[torch.Tensor]:
        # What each phase of each clip hears; a clip with fewer frames than there are phases has one phase a frame.
        heard = [[c[p * self.hop :] for p in range(min(self.phases, self.n_frames(len(c))))] for c in clips]
        waves = [samples for phases in heard for samples in phases]
        n_frames = np.array([(len(wave) - self.min_samples()) // (self.phases * self.hop) + 1 for wave in waves])
        real = np.arange(n_frames.max()) < n_frames[:, None]  # [B, F]
        if self.model.device.type == "cpu":
            hidden = pad_sequence([self._first_block_input(wave)[0] for wave in waves], batch_first=True)  # [B, F, D]
        else:
            hidden = self._first_block_inputs(waves)
        hidden = self._through_blocks(hidden, None if real.all() else send(real, hidden.device))
        found = iter(features[:n] for features, n in zip(hidden, n_frames.tolist(), strict=True))
        return [self._in_turn([next(found) for _ in phases]) for phases in heard]

    def _first_block_inputs(self, waves: Sequence[NDArray[np.float32]]) -> torch.Tensor:
        """`_first_block_input` of all of them, in as few kernels as of one: B times [N] -> [B, F, D]."""
        frames = self._front_end.together(waves, self.model.device)
        made = self.model.feature_projection(torch.cat(frames)[None])
        made = made[0] if isinstance(made, tuple) else made
        lengths = [len(f) for f in frames]
        hidden = pad_sequence(list(made[0].split(lengths)), batch_first=True)
        hidden = hidden + self._front_end.all_positions(hidden, lengths)
        return hidden if _is_stable(self.model.config) else self.model.encoder.layer_norm(hidden)

    def _in_turn(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Frames of a clip's phases, float32 [F', D] each, in order of time: float32 [F, D]."""
        if len(features) == 1:
            return features[0]
        frames = features[0].new_empty((sum(map(len, features)), self.dim))
        for phase, own in enumerate(features):
            frames[phase :: self.phases] = own
        return frames

    def _first_block_input(self, samples: NDArray[np.float32]) -> torch.Tensor:
        """float32 [N] -> [1, F, D]: transformers' hidden_states[0]."""
        wave = send(np.ascontiguousarray(samples, dtype=np.float32), self.model.device)
        hidden = self.model.feature_projection(self._front_end.frames(wave)[None])
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden  # HuBERT gives a tensor, the others a pair
        hidden = hidden + self._front_end.positions(hidden)
        return hidden if _is_stable(self.model.config) else self.model.encoder.layer_norm(hidden)

    def _through_blocks(self, hidden: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """[B, F, D] -> [B, F, D], attending only to frames that are `real`, bool [B, F]; None: all are."""
        layers = self.model.encoder.layers
        if self.model.config.model_type == "wavlm":  # makes a bias by relative position once, and masks by itself
            bias = None
            for layer in layers:
                hidden, bias = layer(hidden, attention_mask=real, position_bias=bias)
            return hidden
        mask = None
        if real is not None:
            mask = create_bidirectional_mask(self.model.config, inputs_embeds=hidden, attention_mask=real)
        for layer in layers:
            hidden = layer(hidden, attention_mask=mask)
        return hidden

    @classmethod
    def load(
        cls, folder: str | Path, *, layer: int, normalize_input: bool = False, hop: int | None = None
    ) -> SSLEncoder:
        """Read `encoder.json` (a configuration of one of FAMILIES) and `encoder.safetensors` (any float type).

        Args:
            folder: holds both.
            layer, normalize_input: see the class.
            hop: samples between two frames, the convolutions' stride or a divisor of it (phases, then); None takes the
                stride.

        Raises:
            ArtifactError: files missing or not of this shape.
            BadInput: the encoder has fewer blocks than `layer`, is of a family that is not supported, or cannot have
                that hop.
        """
        folder = Path(folder)
        require_regular_files(folder, "a folder with an encoder", error=ArtifactError)
        if not (folder / "encoder.json").is_file() or not (folder / "encoder.safetensors").is_file():
            raise ArtifactError(f"{folder} holds no encoder: expected encoder.json and encoder.safetensors in it.")
        file = folder / "encoder.json"
        config = configuration(
            read_config(file, "the configuration of an encoder", shape={"model_type?": str}, error=ArtifactError),
            where=str(file),
        )
        if not 1 <= layer <= config.num_hidden_layers:
            raise BadInput(f"layer {layer} asked of an encoder with {config.num_hidden_layers} blocks in {folder}.")
        state = {name: tensor.float() for name, tensor in load_file(folder / "encoder.safetensors").items()}
        stride = int(np.prod(config.conv_stride))
        if stride % (hop or stride):
            raise BadInput(
                f"the encoder in {folder} has a frame every {stride} samples, which is no multiple of {hop}."
            )
        phases = stride // (hop or stride)
        return cls(cut(config, state, layer, where=str(folder)), layer, normalize_input=normalize_input, phases=phases)


def configuration(fields: dict[str, Any], *, where: str = "this configuration") -> Any:
    """The transformers configuration of these fields; HuBERT's where `model_type` is not said.

    Raises:
        BadInput: a family that is not in FAMILIES, or fields that no encoder of it has.
    """
    family = fields.get("model_type", "hubert")
    if family not in FAMILIES:
        raise BadInput(
            f"{where}: an encoder of type {family!r} is not supported here. Known: {', '.join(FAMILIES)}, whisper."
        )
    with as_configured(where):
        config = getattr(transformers, f"{FAMILIES[family]}Config")(**fields)
        for name in ("num_attention_heads", "conv_dim", "conv_kernel", "conv_stride"):
            if np.min(getattr(config, name)) < 1:
                raise ValueError(f"{name} is {getattr(config, name)}")
    return config


def cut(config: Any, state: dict[str, torch.Tensor], layer: int, *, where: str = "the encoder") -> Any:
    """Build the encoder's first `layer` blocks from a full state dict. Nothing passed in is changed.

    Args:
        config: HubertConfig, or that of another of FAMILIES.
        state: every tensor of HubertModel, or of that family's model, by its name.
        layer: blocks to keep.
        where: what the encoder is called in errors.

    Raises:
        BadInput: there is no such encoder.
        ArtifactError: tensors are missing, have other shapes than the configuration says, or hold NaN or infinity.
    """
    # Without SpecAugment, which only training uses, the model has no embedding for masked frames. An adapter would come
    # behind the last block, so it is above any tap.
    changes = {"num_hidden_layers": layer, "mask_time_prob": 0.0, "mask_feature_prob": 0.0, "add_adapter": False}
    config = configuration({**config.to_dict(), **changes}, where=where)
    with as_configured(where), torch.device("meta"):
        model = getattr(transformers, f"{FAMILIES[config.model_type]}Model")(config)
    if _is_stable(config):
        # "Layer L" is the block's output, before the encoder's last norm: nothing asks for that norm's weights.
        model.encoder.set_submodule("layer_norm", nn.Identity())
        unused: tuple[str, ...] = ("masked_spec_embed", "adapter.", "encoder.layer_norm.")
    else:
        unused = ("masked_spec_embed", "adapter.")
    kept = {
        name: tensor for name, tensor in state.items()
        if not name.startswith(unused)
        and (not name.startswith("encoder.layers.") or int(name.split(".")[2]) < layer)
    }  # fmt: skip
    return loaded(model, kept, where=where)


def _is_stable(config: Any) -> bool:
    """Whether blocks norm their input and not their output, as those of large models do."""
    return bool(getattr(config, "do_stable_layer_norm", False))
