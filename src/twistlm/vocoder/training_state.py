"""What a vocoder's training is told, and everything that changes in it, so that it can be written and read as one."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from twistlm.compute.seeds import torch_seed
from twistlm.errors import BadInput, CheckpointError, offenders
from twistlm.files.atomic import atomic_folder
from twistlm.files.jsonl import read_json
from twistlm.files.regular import require_regular_files
from twistlm.vocoder.discriminator import Critics
from twistlm.vocoder.generator import InputShape
from twistlm.vocoder.synthesizer import Synthesizer, inner_name

LAYOUT = 2  # of a checkpoint's tensors


@dataclass(frozen=True, kw_only=True, slots=True)
class VocoderConfig:
    """Everything that decides what a training run does.

    Attributes:
        model: shape of the generator.
        updates: how many generator updates; the learning rate falls to `lr_floor` there.
        adversarial_from: the update at which the critics join; `updates` or more for never.
        rows, frames: crops in a batch, and frames spoken in each.
        lr, lr_floor, warmup: AdamW's peak rate, the rate at the end of the half cosine, and updates of linear warmup.
        critic_lr: the critics' rate, constant.
        mel_weight, matching_weight: of the spectral and the feature-matching loss, beside 1 for the adversarial loss.
        average: decay of the running average of the weights, which is what is exported; 0 exports the last weights.
        periods, spectra, critic_channels: the critics: periods in samples, (FFT size, hop) pairs, channels.
        duration_updates: of the duration predictor.
        log_every, checkpoint_every: in updates.
        seed: of the weights and of the crops.
    """

    model: InputShape
    updates: int
    adversarial_from: int
    rows: int = 8
    frames: int = 16
    lr: float = 1e-3
    lr_floor: float = 5e-5
    warmup: int = 50
    critic_lr: float = 4e-4
    mel_weight: float = 10.0
    matching_weight: float = 4.0
    average: float = 0.998
    periods: tuple[int, ...] = (3, 5, 11)
    spectra: tuple[tuple[int, int], ...] = ((1024, 256), (256, 64))
    critic_channels: int = 12
    duration_updates: int = 3000
    log_every: int = 20
    checkpoint_every: int = 200
    seed: int = 0

    def learning_rate(self, update: int) -> float:
        """AdamW's rate at an update, counted from 0."""
        if update < self.warmup:
            return self.lr * (update + 1) / self.warmup
        done = (update - self.warmup) / max(1, self.updates - self.warmup)
        return self.lr_floor + (self.lr - self.lr_floor) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


class State:
    """Networks, running average, optimizers and the number of updates done, on one device.

    The first weights are drawn on the CPU, so that every device and every rank begins alike.
    """

    def __init__(self, config: VocoderConfig, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(config.seed))
            self.synthesizer = Synthesizer(config.model)
            self.critics = Critics(config.periods, config.spectra, config.critic_channels)
        self.synthesizer.to(device)
        self.critics.to(device)
        self.device = device
        self.average = {name: p.detach().clone() for name, p in self.synthesizer.named_parameters()}
        spoken = [p for name, p in self.synthesizer.named_parameters() if not name.startswith("dur_predictor")]
        self.optimizer = torch.optim.AdamW(spoken, config.lr, betas=(0.8, 0.99), weight_decay=0.0)
        self.critics_optimizer = torch.optim.AdamW(
            self.critics.parameters(), config.critic_lr, betas=(0.8, 0.99), weight_decay=0.0
        )
        self.update = 0

    def begin_with(self, weights: dict[str, Tensor]) -> None:
        """Take folded weights over; weight normalisation is laid around them again.

        Raises:
            BadInput: weights of another shape, or not all of them (durations aside, which are fitted anew).
        """
        with torch.device("meta"):
            own = Synthesizer(self.synthesizer.shape).fold().weights()
        odd = [
            name
            for name in own.keys() | weights.keys()
            if (name not in weights and not name.startswith("dur_predictor"))
            or (name in weights and (name not in own or own[name].shape != weights[name].shape))
        ]
        if odd:
            raise BadInput(f"the weights to begin with are of another vocoder, or not whole: {offenders(sorted(odd))}.")
        with torch.no_grad():
            for name, value in weights.items():
                owner, _, leaf = inner_name(name).rpartition(".")
                module = self.synthesizer.get_submodule(owner)
                if parametrize.is_parametrized(module, leaf):
                    setattr(module, leaf, value)  # splits into direction and length
                else:
                    module.get_parameter(leaf).copy_(value)
        self.average = {name: p.detach().clone() for name, p in self.synthesizer.named_parameters()}

    def follow(self, decay: float) -> None:
        """Move the average a step towards the weights, faster in the beginning."""
        decay = min(decay, (1 + self.update) / (10 + self.update))
        with torch.no_grad():
            for name, p in self.synthesizer.named_parameters():
                self.average[name].lerp_(p, 1 - decay)

    def averaged(self) -> Synthesizer:
        """A copy of the network with the averaged weights."""
        with torch.random.fork_rng(devices=[]):
            copy = Synthesizer(self.synthesizer.shape)
        copy.load_state_dict(self.average)
        return copy.to(self.device).eval()

    def _optimizers(self) -> dict[str, torch.optim.AdamW]:
        return {"optimizer": self.optimizer, "critics_optimizer": self.critics_optimizer}

    def save(self, folder: Path, identity: dict[str, Any]) -> None:
        tensors: dict[str, Tensor] = {}
        for part, module in (("synthesizer", self.synthesizer), ("critics", self.critics)):
            tensors |= {f"{part}.{name}": p.detach() for name, p in module.named_parameters()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        for part, optimizer in self._optimizers().items():
            for i, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"{part}.{i}.{slot}": value for slot, value in slots.items()}
        with atomic_folder(folder) as temporary:
            save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, temporary / "state.safetensors")
            (temporary / "state.json").write_text(json.dumps({"update": self.update, "identity": identity}, indent=1))

    def load(self, folder: Path, identity: dict[str, Any]) -> Self:
        try:
            require_regular_files(folder, "the state of a vocoder training")
            header = read_json(
                folder / "state.json", "the state of a vocoder training", shape={"update": int, "identity": dict}
            )
            tensors = load_file(folder / "state.safetensors")
        except (OSError, ValueError, BadInput, SafetensorError) as error:
            raise CheckpointError(
                f"the vocoder checkpoint {folder} cannot be read ({error}): delete it to start anew."
            ) from error
        theirs = header["identity"]
        differ = sorted(k for k in identity.keys() | theirs.keys() if identity.get(k) != theirs.get(k))
        if differ:
            raise CheckpointError(
                f"the vocoder checkpoint {folder} belongs to another run; these differ: {', '.join(differ)}. "
                "Use another output folder, or the settings and data it was started with."
            )
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            parts.setdefault(part, {})[name] = value
        _copy(self.synthesizer, parts["synthesizer"])
        _copy(self.critics, parts["critics"])
        self.average = {name: value.to(self.device) for name, value in parts["average"].items()}
        for part, optimizer in self._optimizers().items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in parts.get(part, {}).items():
                i, _, slot = key.partition(".")
                state.setdefault(int(i), {})[slot] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        self.update = header["update"]
        return self


def _copy(module: nn.Module, values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(values[name])
