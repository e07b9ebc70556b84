"""A trained unit vocoder: units in, speech out. Refuses units of another tokenizer.

Shapes: R units, F frames, N samples.
"""

from __future__ import annotations

import math
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from twistlm.audio.clip import Clip
from twistlm.errors import ArtifactError, BadInput, offenders
from twistlm.files.artifacts import bundled_or_folder
from twistlm.files.atomic import atomic_folder
from twistlm.files.jsonl import read_json
from twistlm.files.text import read_text
from twistlm.types import Units, UnitSpec
from twistlm.vocoder.hifigan import HiFiGANConfig, UnitHiFiGAN, durations

CHUNK = 250  # frames spoken at once; bounds the memory of an hour of units
CHUNK_UNITS = 4096  # units whose durations are predicted at once
DURATION_CONTEXT = 16  # units on each side that a chunk of them also sees; the predictor reaches kernel - 1


class Vocoder:
    """Speak units. `Vocoder.load(name_or_folder)` reads one, `train_vocoder` makes one.

    Attributes:
        spec: the units it speaks.
        name: what it is called in messages.
    """

    def __init__(self, generator: UnitHiFiGAN, spec: UnitSpec, *, name: str) -> None:
        """Take a folded generator in eval mode.

        Raises:
            BadInput: the generator makes another rate, hop or number of units than `spec` says.
        """
        config = generator.config
        if (config.sampling_rate, config.hop, config.num_embeddings) != (spec.sample_rate, spec.hop, spec.n_units):
            raise BadInput(
                f"the vocoder {name} makes {config.hop} samples a frame at {config.sampling_rate} Hz from "
                f"{config.num_embeddings} units, but its unit spec says {spec.hop}, {spec.sample_rate} and "
                f"{spec.n_units}."
            )
        self.generator = generator
        self.spec = spec
        self.name = name

    @property
    def sample_rate(self) -> int:
        """Hz, of what it speaks."""
        return self.generator.config.sampling_rate

    @classmethod
    def load(cls, name_or_folder: str | Path) -> Self:
        """Read a bundled vocoder by name ("mini-25hz-500"), or one from a folder.

        Raises:
            ArtifactError: there is none, or a file of it is missing, damaged or does not fit its config.
        """
        folder = bundled_or_folder(name_or_folder, "vocoder")
        try:
            spec = UnitSpec.from_dict(read_json(folder / "unit_spec.json", "the units of a vocoder"))
            config = HiFiGANConfig.from_json(read_text(folder / "config.json", "the shape of a vocoder"))
            weights = load_file(folder / "model.safetensors")
        except (OSError, ValueError, BadInput, SafetensorError) as error:
            raise ArtifactError(
                f"the vocoder {folder} cannot be read: {error}. It needs model.safetensors, config.json and "
                "unit_spec.json, whole: copy or make it again."
            ) from error
        with torch.random.fork_rng(devices=[]):  # the first weights are overwritten and must not move the global RNG
            generator = UnitHiFiGAN(config).fold().eval()
        expected = {key: tuple(value.shape) for key, value in generator.state_dict().items()}
        found = {key: tuple(value.shape) for key, value in weights.items()}
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        if wrong:
            raise ArtifactError(
                f"the vocoder {folder} does not fit its config.json: {offenders(wrong)}. Copy or make it again."
            )
        generator.load_state_dict({key: value.float() for key, value in weights.items()})
        return cls(generator, spec, name=str(name_or_folder))

    def save(self, folder: str | Path, *, card: str = "") -> None:
        """Write `model.safetensors` (fp16), `config.json` (published keys), `unit_spec.json`, and `CARD.md` when given.

        The folder appears whole or not at all; one that is there is replaced.
        """
        with atomic_folder(folder) as temporary:
            weights = {key: value.half().contiguous() for key, value in self.generator.state_dict().items()}
            (temporary / "model.safetensors").write_bytes(save(weights))  # save_file would make it unreadable to others
            (temporary / "config.json").write_text(self.generator.config.to_json())
            (temporary / "unit_spec.json").write_text(self.spec.to_json() + "\n")
            if card:
                (temporary / "CARD.md").write_text(card)

    def __call__(self, units: Units, *, durations: Literal["given", "predicted"]) -> Clip:
        """Speak.

        Args:
            units: of this vocoder's spec.
            durations: "given" gives each unit its run; "predicted" ignores the runs, as units from a language model
                need not have any worth hearing.

        Returns:
            A clip of frames * hop samples with the units' id. However long the units are, memory beyond the clip itself
            stays bounded, and a long clip is what it would be if made at once.

        Raises:
            UnitSpecMismatch: the units are of another tokenizer.
            BadInput: no units, or predicted durations where there can be none.
        """
        self.spec.require(units.spec, mine=f"the vocoder {self.name}", theirs=f"the units {units.id!r}")
        if len(units) == 0:
            raise BadInput(f"the units {units.id!r} are empty: there is nothing to speak.")
        frames = units.frames if durations == "given" else np.repeat(units.ids, self.predict_runs(units))
        return Clip(samples=self._speak(frames), sample_rate=self.sample_rate, id=units.id)

    def predict_runs(self, units: Units) -> NDArray[np.int64]:
        """Frames each unit should last, int64 [R], at least 1; the units' own runs are not looked at.

        Raises:
            BadInput: there is no duration predictor, or the units are not deduplicated and so last one frame each.
        """
        if not self.spec.deduplicate:
            raise BadInput(f"the units of {self.name} are not deduplicated, each is one frame: use durations='given'.")
        ids = torch.from_numpy(units.ids.astype(np.int64))
        with torch.inference_mode():
            parts = [
                durations(self.generator.log_durations(ids[None, low:high]))[0, start - low : stop - low]
                for start, stop, low, high in _chunks(len(ids), CHUNK_UNITS, DURATION_CONTEXT)
            ]
        return torch.cat(parts).numpy()

    def _speak(self, frames: NDArray[np.uint16]) -> NDArray[np.float32]:
        hop = self.generator.config.hop
        samples = np.empty(len(frames) * hop, np.float32)
        with torch.inference_mode():
            for start, stop, low, high in _chunks(len(frames), CHUNK, self.generator.config.context):
                part = self.generator(torch.from_numpy(frames[None, low:high].astype(np.int64)))[0]
                samples[start * hop : stop * hop] = part[(start - low) * hop : (stop - low) * hop].numpy()
        return samples


def load_published(checkpoint: str | Path, config: str | Path, spec: UnitSpec) -> Vocoder:
    """Read a vocoder in the published textless form: a `.pt` with key `generator`, and its JSON config.

    The file says nothing about which tokenizer made its units, so the caller must: `spec` is believed.
    The pickle is read by torch's restricted reader, which runs no code.

    Raises:
        ArtifactError: a file cannot be read, or its tensors do not fit its config.
        BadInput: the config is of a kind that is not supported, or does not fit `spec`.
    """
    checkpoint = Path(checkpoint)
    try:
        shape = HiFiGANConfig.from_json(read_text(config, "the shape of a vocoder", error=ArtifactError))
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["generator"]
    except (OSError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise ArtifactError(
            f"the published vocoder {checkpoint} cannot be read: {error!r}. Download it again."
        ) from error
    with torch.random.fork_rng(devices=[]):
        generator = UnitHiFiGAN(shape)
    try:
        generator.load_state_dict(weights)  # torch's weight norm also reads the old names weight_g and weight_v
    except RuntimeError as error:
        raise ArtifactError(f"the published vocoder {checkpoint} does not fit {config}: {error}") from error
    return Vocoder(generator.fold().eval(), spec, name=checkpoint.name)


def _chunks(n: int, size: int, context: int) -> list[tuple[int, int, int, int]]:
    """Cut 0 … n into near-equal pieces (start, stop) of at most `size`; each with the (low, high) it needs."""
    count = math.ceil(n / size)
    edges = [n * i // count for i in range(count + 1)]
    return [(start, stop, max(0, start - context), min(n, stop + context)) for start, stop in pairwise(edges)]
