"""Train a unit vocoder from (units, waveform) pairs of one voice, on a CPU if need be.

Two phases. First only spectral distances (see `mel.py`), which reach intelligible speech in minutes. Then, from
`adversarial_from` on, small critics as well (see `discriminator.py`), which remove the buzz. The duration predictor is
fitted at the end; it takes seconds.

Every update is a function of (config, data, update number) alone, so a run that was killed goes on exactly as if it had
not been.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from twistlm.errors import BadInput, CheckpointError, TrainingError
from twistlm.files.atomic import atomic_folder
from twistlm.files.jsonl import read_json
from twistlm.files.locks import held
from twistlm.files.metrics import MetricsLog
from twistlm.progress import track
from twistlm.types import Units, UnitSpec
from twistlm.vocoder.crops import TRIM, Crops, heldout_distance
from twistlm.vocoder.discriminator import Critics, critics_loss, generator_losses
from twistlm.vocoder.duration_fitting import fit_durations
from twistlm.vocoder.generator import InputShape
from twistlm.vocoder.mel import SpectralLoss
from twistlm.vocoder.synthesizer import Synthesizer, inner_name
from twistlm.vocoder.vocoder import Vocoder

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


class _State:
    """Everything that changes in training, so that it can be written and read as one."""

    def __init__(self, config: VocoderConfig) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.synthesizer = Synthesizer(config.model)
            self.critics = Critics(config.periods, config.spectra, config.critic_channels)
        self.average = {name: p.detach().clone() for name, p in self.synthesizer.named_parameters()}
        spoken = [p for name, p in self.synthesizer.named_parameters() if not name.startswith("dur_predictor")]
        self.optimizer = torch.optim.AdamW(spoken, config.lr, betas=(0.8, 0.99), weight_decay=0.0)
        self.critics_optimizer = torch.optim.AdamW(
            self.critics.parameters(), config.critic_lr, betas=(0.8, 0.99), weight_decay=0.0
        )
        self.update = 0

    def begin_with(self, weights: dict[str, Tensor]) -> None:
        """Take folded weights over; weight normalisation is laid around them again."""
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
        return copy.eval()

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
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary / "state.safetensors")
            (temporary / "state.json").write_text(json.dumps({"update": self.update, "identity": identity}, indent=1))

    def load(self, folder: Path, identity: dict[str, Any]) -> Self:
        try:
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
        self.average = parts["average"]
        for part, optimizer in self._optimizers().items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in parts.get(part, {}).items():
                i, _, slot = key.partition(".")
                state.setdefault(int(i), {})[slot] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        self.update = header["update"]
        return self


def _sha256(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _copy(module: nn.Module, values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(values[name])


def train_vocoder(
    pairs: Iterable[tuple[Units, NDArray[np.float32]]],
    spec: UnitSpec,
    config: VocoderConfig,
    out: str | Path,
    *,
    heldout: Iterable[tuple[Units, NDArray[np.float32]]] = (),
    start: dict[str, Tensor] | None = None,
    progress: bool = False,
    stop_after: int | None = None,
) -> Vocoder:
    """Train a vocoder and return it; its `save(folder)` writes it.

    `out` gets `metrics.jsonl` (a line every `log_every` updates) and `checkpoint/`. A rerun goes on from the
    checkpoint, and gives bit for bit what an uninterrupted run gives.

    Args:
        pairs: units with their waveform, float32 [N] in -1 … 1 at the spec's rate, of one voice.
        spec: of the units; the generator's hop and sampling rate must be the spec's.
        config: see `VocoderConfig`.
        out: folder of the run.
        heldout: pairs never trained on; their spectral distance is logged at every checkpoint.
        start: weights (folded, as a `Vocoder` has them) to begin with instead of random ones. Only the embeddings
            depend on the tokenizer, so a generator that learnt a voice from other units goes on quickly with these.
        progress: show a bar.
        stop_after: stop, with a checkpoint, after this update as if interrupted; the vocoder so far is returned.

    Raises:
        BadInput: spec, units, waveforms and config do not fit together.
        CheckpointError: `out` holds a run of another config or other data.
        TrainingError: no data, or a loss that is not finite.
        TwistError: another process is training in `out`.
    """
    model = config.model
    if (model.hop, model.sampling_rate, model.num_embeddings) != (spec.hop, spec.sample_rate, spec.n_units):
        raise BadInput(
            f"the generator makes {model.hop} samples a frame at {model.sampling_rate} Hz from {model.num_embeddings} "
            f"units; the units have {spec.hop} at {spec.sample_rate} Hz and {spec.n_units}. Change the config."
        )
    with held(Path(out), "training"):
        return _train(Crops(pairs, spec), spec, config, Path(out), list(heldout), start, progress, stop_after)


def _train(
    crops: Crops, spec: UnitSpec, config: VocoderConfig, out: Path, held_out: list[tuple[Units, NDArray[np.float32]]],
    start: dict[str, Tensor] | None, progress: bool, stop_after: int | None,
) -> Vocoder:  # fmt: skip
    model = config.model
    held_crops = Crops(held_out, spec) if held_out else None
    identity = {**dataclasses.asdict(config), "layout": LAYOUT, "unit_spec": spec.fingerprint, "data": crops.sha256}
    identity = json.loads(json.dumps(identity))
    state = _State(config)
    if start is not None:
        identity["start"] = _sha256(start)
        state.begin_with(start)
    if (out / "checkpoint").exists():
        state.load(out / "checkpoint", identity)
    log = MetricsLog(out / "metrics.jsonl", keep=state.update or None, every=False)
    spectral = SpectralLoss(model.sampling_rate)
    began = time.monotonic()
    last = config.updates if stop_after is None else min(stop_after, config.updates)
    for update in track(range(state.update, last), description="vocoder", enabled=progress):
        batch = crops.batch(update, rows=config.rows, frames=config.frames, seed=config.seed)
        losses = _step(state, spectral, batch, config)
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"vocoder training: {', '.join(bad)} not finite at update {update}; lower lr ({config.lr})."
            )
        state.update = update + 1
        whole = state.update == last or state.update % config.checkpoint_every == 0
        if whole or state.update % config.log_every == 0:
            line = {"update": state.update, "seconds": round(time.monotonic() - began, 1), **losses}
            if whole and held_crops is not None:
                line["heldout_mel"] = heldout_distance(state.averaged(), held_crops, spectral)
            log.append(line)
        if whole:
            log.sync()
            state.save(out / "checkpoint", identity)
    synthesizer = state.averaged()
    fit_durations(synthesizer, crops.units, updates=config.duration_updates, seed=config.seed)
    return Vocoder(synthesizer.fold().eval(), spec, name=str(out))


def training_step(config: VocoderConfig) -> Callable[[tuple[Tensor, Tensor]], dict[str, float]]:
    """A function that does update after update on fresh weights and keeps nothing: for timing."""
    state, spectral = _State(config), SpectralLoss(config.model.sampling_rate)
    return lambda batch: _step(state, spectral, batch, config)


def _step(
    state: _State, spectral: SpectralLoss, batch: tuple[Tensor, Tensor], config: VocoderConfig
) -> dict[str, float]:
    """One update of the generator and, in the second phase, of the critics. Returns the losses, for the log."""
    units, true = batch
    for group in state.optimizer.param_groups:
        group["lr"] = config.learning_rate(state.update)
    spoken = state.synthesizer(units, trim=TRIM)
    mel, convergence = spectral(spoken, true)
    losses = {"mel": mel, "convergence": convergence}
    loss = mel + convergence
    if state.update >= config.adversarial_from:
        # One pass over true and spoken waveforms together keeps the convolutions large.
        judged = _split(state.critics(torch.cat((true, spoken.detach()))))
        losses["critics"] = critics_loss(*judged)
        state.critics_optimizer.zero_grad(set_to_none=True)
        losses["critics"].backward()
        state.critics_optimizer.step()
        state.critics.requires_grad_(False)
        with torch.no_grad():
            judged_true = state.critics(true)
        adversarial, matching = generator_losses(judged_true, state.critics(spoken))
        state.critics.requires_grad_(True)
        losses |= {"adversarial": adversarial, "matching": matching}
        loss = config.mel_weight * loss + adversarial + config.matching_weight * matching
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    losses["gradient"] = nn.utils.clip_grad_norm_(state.synthesizer.parameters(), 100.0)
    state.optimizer.step()
    state.follow(config.average)
    return {name: round(value.item(), 5) for name, value in losses.items()}


def _split(judged: list[list[Tensor]]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    halves = [[layer.chunk(2) for layer in judgement] for judgement in judged]
    return [[t for t, _ in j] for j in halves], [[s for _, s in j] for j in halves]
