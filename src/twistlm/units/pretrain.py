"""HuBERT pretraining: predict the target unit of masked frames (Hsu et al., HuBERT, 2021, section II).

Targets are any unit sequence at the encoder's frame rate: MFCC k-means for a first iteration, a layer of an earlier
encoder for the next ones, or a teacher encoder. Speech is one long waveform with one target a frame; batches are crops
of it, all of one length, so nothing is padded and there is nothing to bucket. There may be several streams of targets,
each with its own head, as in the paper's cluster ensembles. A departure from the paper: unmasked frames count too, with
`unmasked_weight` (0 there), which makes training from a good teacher much shorter.

Under torchrun each rank computes its share of the crops (DDP: gradients are averaged) and the first writes. The batch
norm before the positional convolution takes its statistics from a rank's own crops; what is saved is the first's.

Shapes: B crops, N samples, F frames, S streams of targets, K targets of a stream, D model width.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from transformers import HubertConfig, HubertModel

from twistlm.compute import choices
from twistlm.compute.devices import send
from twistlm.compute.precision import choose_precision, linear_shapes
from twistlm.errors import BadInput, CheckpointError, TrainingError, offenders
from twistlm.files.atomic import atomic_folder
from twistlm.files.jsonl import read_json
from twistlm.files.locks import held
from twistlm.files.metrics import MetricsLog
from twistlm.files.regular import require_regular_files
from twistlm.units.encoder import frames_of

# (kernels, strides) of the convolutions. "waveform" is HuBERT's own front end; at 25 Hz it has one more stride-2
# convolution, as in TWIST. "filterbank" starts from one 25 ms convolution every 10 ms, laid out as mel-spaced filters
# in four phases: a fraction of the arithmetic, and a short training need not discover frequencies first.
FRONT_ENDS = {
    ("waveform", 50): ((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)),
    ("waveform", 25): ((10, 3, 3, 3, 3, 2, 2, 2), (5, 2, 2, 2, 2, 2, 2, 2)),
    ("filterbank", 50): ((400, 2), (160, 2)),
    ("filterbank", 25): ((400, 2, 2), (160, 2, 2)),
}


@dataclass(frozen=True, kw_only=True)
class HubertPretrainConfig:
    """One pretraining run.

    Attributes:
        front_end: see FRONT_ENDS.
        frame_rate: 25 or 50 Hz.
        conv_dim: channels of each convolution of the front end; a filterbank's first is a multiple of 4.
        width, layers, heads, ffn: of the transformer.
        n_targets: K of each stream.
        crop_seconds, batch: crops of this length, this many an update, over all ranks.
        accumulate: the batch is computed in so many parts on one rank (on several, each in its share of them), which
            need so much less memory and give the same update up to rounding; but a batch norm before the positional
            convolution takes its statistics from each part's crops.
        updates, lr, warmup, weight_decay, clip_norm: AdamW, linear warm-up then cosine to a tenth.
        mask_start, mask_frames: share of frames that start a mask, and its length.
        unmasked_weight: weight of the loss on frames that are not masked (HuBERT: 0).
        augment: share of crops that get noise, room or gain (targets stay those of the clean speech).
        warp: an augmented crop is played up to this factor faster or slower, pitch and formants with it.
        position_kernel: frames that the positional convolution spans (HuBERT: 128 at 50 Hz).
        checkpoint_every: updates between checkpoints.
        compile: fuse the model with torch.compile (needs a C++ compiler; about 1.2 times faster on a CPU).
        bf16: matrix products in bfloat16 (autocast); weights, norms and the loss stay float32. "auto": where they are
            faster, which a CPU is asked by timing; what was found stands in choices.json and is kept on going on.
        seed: fixes weights, crops, masks and augmentation.
    """

    front_end: Literal["waveform", "filterbank"]
    frame_rate: int
    conv_dim: tuple[int, ...]
    width: int
    layers: int
    heads: int
    ffn: int
    n_targets: tuple[int, ...]
    crop_seconds: float
    batch: int
    updates: int
    lr: float
    warmup: int
    weight_decay: float = 0.01
    clip_norm: float = 5.0
    mask_start: float = 0.065
    mask_frames: int = 5
    unmasked_weight: float = 1.0
    augment: float = 0.6
    warp: float = 0.0
    position_kernel: int = 64
    checkpoint_every: int = 500
    accumulate: int = 1
    compile: bool = True
    bf16: bool | Literal["auto"] = False
    seed: int = 0

    def hubert(self) -> HubertConfig:
        """The HF configuration of the encoder; layer norm in the convolutions, so no statistic runs over time.

        Deep ones normalise before each block and not behind it, as HuBERT large does."""
        kernels, strides = FRONT_ENDS[self.front_end, self.frame_rate]
        return HubertConfig(
            conv_dim=self.conv_dim, conv_kernel=kernels, conv_stride=strides, conv_bias=True, feat_extract_norm="layer",
            hidden_size=self.width, num_hidden_layers=self.layers, num_attention_heads=self.heads,
            intermediate_size=self.ffn, num_conv_pos_embeddings=self.position_kernel, num_conv_pos_embedding_groups=16,
            hidden_dropout=0.0, activation_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0,
            conv_pos_batch_norm=True, apply_spec_augment=False, do_stable_layer_norm=self.layers > 12,
        )  # fmt: skip


class MaskedUnitPredictor(nn.Module):
    """A HuBERT with the paper's head: cosine similarity of projected frame and target embedding, over 0.1."""

    def __init__(self, config: HubertPretrainConfig) -> None:
        super().__init__()
        self.hubert = HubertModel(config.hubert())
        self.mask = nn.Parameter(torch.empty(config.width).uniform_())
        self.projections = nn.ModuleList(nn.Linear(config.width, config.width) for _ in config.n_targets)
        self.targets = nn.ParameterList(torch.randn(k, config.width) for k in config.n_targets)
        if config.front_end == "filterbank":
            first = cast(nn.Conv1d, self.hubert.get_submodule("feature_extractor.conv_layers.0.conv"))
            wavelets = mel_wavelets(first.out_channels // 4, first.kernel_size[0])
            first.weight.data.copy_(torch.from_numpy(wavelets)[:, None])
            nn.init.zeros_(cast(nn.Parameter, first.bias))
            # GELU rectifies only what is well above 1: without a gain weak bands would pass as waves, not as levels.
            nn.init.constant_(self.hubert.get_parameter("feature_extractor.conv_layers.0.layer_norm.weight"), 5.0)

    def forward(self, waves: Tensor, masked: Tensor) -> list[Tensor]:
        """Logits [B, F, K] of each stream for waves [B, N]; the transformer does not see frames that are `masked`
        (bool [B, F])."""
        features = self.hubert.feature_extractor(waves).transpose(1, 2)
        hidden = self.hubert.feature_projection(features)
        hidden = torch.where(masked[..., None], self.mask.to(hidden.dtype), hidden)
        hidden = self.hubert.encoder(hidden).last_hidden_state
        return [
            F.normalize(projection(hidden), dim=-1) @ F.normalize(targets, dim=-1).T / 0.1
            for projection, targets in zip(self.projections, self.targets, strict=True)
        ]


def mel_wavelets(n_bands: int, length: int) -> NDArray[np.float32]:
    """Windowed waves at `n_bands` mel-spaced frequencies in four phases each: float32 [4 n_bands, length].

    Rectified, the four phases of a band add up to nearly the band's magnitude, wherever in its period the wave stands.
    They grow with frequency, as a pre-emphasis does, so that the layer norm that follows hears the high bands too.
    """
    frequencies = 700 * (np.exp(np.linspace(np.log1p(80 / 700), np.log1p(7600 / 700), n_bands)) - 1)
    time_axis = (np.arange(length) - length / 2) / 16_000
    phases = np.arange(4) * np.pi / 2
    waves = np.cos(2 * np.pi * frequencies[:, None, None] * time_axis + phases[:, None]) * np.hanning(length)
    return (waves * (frequencies / 1000 + 0.3)[:, None, None] / np.sqrt(length)).reshape(-1, length).astype(np.float32)


@dataclass(frozen=True, eq=False)
class LabelledSpeech:
    """All training speech as one waveform and its targets.

    Attributes:
        samples: int16 [N], clips back to back, each zero-padded to a whole number of hops (may be a memory map).
        targets: int16 [S, N / hop]; -1 where a frame has no target (it would straddle two clips, or none is known).
        hop: samples a frame.
    """

    samples: NDArray[np.int16]
    targets: NDArray[np.int16]
    hop: int

    def __post_init__(self) -> None:
        if self.targets.ndim != 2 or len(self.samples) != self.targets.shape[1] * self.hop:
            raise BadInput(
                f"{len(self.samples)} samples need targets of shape [streams, {len(self.samples) / self.hop}], "
                f"got {list(self.targets.shape)}."
            )


def augment(wave: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.float32]:
    """Colour (a smooth filter, 5 dB standard deviation), a synthetic room, noise (5 to 30 dB SNR, any colour) and gain:
    what changes a sound but not what is said."""
    if rng.random() < 0.6:
        spectrum = np.fft.rfft(wave)
        bands = np.linspace(0, 1, 7)  # even on a scale close to mel's
        scale = np.log1p(np.linspace(0, 8000 / 700, len(spectrum))) / np.log1p(8000 / 700)
        wave = np.fft.irfft(spectrum * 10 ** (np.interp(scale, bands, rng.normal(0, 5, 7)) / 20), len(wave))
    if rng.random() < 0.5:  # exponentially decaying noise as the room's response, direct path first
        decay = rng.uniform(0.02, 0.25)
        length = int(decay * 16_000)
        room = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length) * rng.uniform(0.02, 0.12)
        room[0] = 1.0
        size = 1 << (len(wave) + length - 1).bit_length()
        wave = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(room, size), size)[: len(wave)]
    if rng.random() < 0.7:
        spectrum = np.fft.rfft(rng.standard_normal(len(wave)))
        spectrum *= (1 + np.arange(len(spectrum))) ** rng.uniform(-1.0, 0.0)
        noise = np.fft.irfft(spectrum, len(wave))
        power = np.sqrt(np.mean(wave**2) / (np.mean(noise**2) + 1e-12))
        wave = wave + noise * power * 10 ** (-rng.uniform(5, 30) / 20)
    return (wave * 10 ** (rng.uniform(-10, 6) / 20)).astype(np.float32)


def draw_batch(
    speech: LabelledSpeech, config: HubertPretrainConfig, update: int, *, rank: int = 0, ranks: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """A rank's crops of one update: waves float32 [B, N], targets int64 [S, B, F] (-100: none), masks bool [B, F].

    A pure function of (seed, update, rank): that is what makes resuming exact. B is the rank's share of `config.batch`.
    """
    rng = np.random.default_rng((config.seed, update, rank))
    n_crops = config.batch // ranks
    hubert = config.hubert()
    n = round(config.crop_seconds * 16_000)
    frames = frames_of(n, hubert.conv_kernel, hubert.conv_stride)
    longest = round(n * (1 + config.warp)) + speech.hop
    waves = np.empty((n_crops, n), np.float32)
    targets = np.empty((len(speech.targets), n_crops, frames), np.int64)
    masks = np.zeros((n_crops, frames + config.mask_frames), bool)
    for row in range(n_crops):
        first = int(rng.integers(0, speech.targets.shape[1] - longest // speech.hop - 1))
        begin = first * speech.hop
        source = np.arange(frames)
        if rng.random() < config.augment:
            speed = rng.uniform(1 - config.warp, 1 + config.warp)
            wave = speech.samples[begin : begin + round(n * speed) + speech.hop].astype(np.float32) / 32768
            if config.warp:
                wave = soxr.resample(wave, 16_000 * speed, 16_000, quality="MQ")
                source = np.round(source * speed + (speed - 1) / 2).astype(int)  # whose centre is nearest in time
            waves[row] = augment(wave[:n], rng)
        else:
            waves[row] = speech.samples[begin : begin + n].astype(np.float32) / 32768
        targets[:, row] = speech.targets[:, first + source]
        for start in np.flatnonzero(rng.random(frames) < config.mask_start):
            masks[row, start : start + config.mask_frames] = True
    targets[targets < 0] = -100
    return torch.from_numpy(waves), torch.from_numpy(targets), torch.from_numpy(masks[:, :frames])


def loss_of(
    model: nn.Module,
    batch: tuple[Tensor, Tensor, Tensor],
    config: HubertPretrainConfig,
    whole: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """Sum over streams of the cross entropy on masked frames plus `unmasked_weight` times that on the others, each a
    mean over its frames; and those parts and accuracies, one scalar a stream.

    `whole`: targets and masks of the batch of which this is a part: means are over its frames, so that parts add up.
    """
    waves, targets, masked = batch
    total = torch.zeros(())
    parts: dict[str, list[Tensor]] = defaultdict(list)
    all_targets, all_masked = (targets, masked) if whole is None else whole
    for logits, wanted, every in zip(model(waves, masked), targets, all_targets, strict=True):
        each = F.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=-100, reduction="none")
        known = wanted != -100
        right = (logits.argmax(-1) == wanted) & known
        for name, where, there, weight in (
            ("masked", masked, all_masked, 1.0),
            ("unmasked", ~masked, ~all_masked, config.unmasked_weight),
        ):
            count = (there & (every != -100)).sum().clamp(min=1)
            counted = where & known
            # Picking waits for a GPU to say how many there are; on a CPU it is the sum that it has always been.
            picked = torch.where(counted, each, 0.0) if each.is_cuda else each[counted]
            loss = picked.sum() / count
            total = total + weight * loss
            parts[f"{name}_loss"].append(loss.detach())
            parts[f"{name}_accuracy"].append((right & where).sum() / count)
    return total, parts


def pretrain(
    speech: LabelledSpeech, config: HubertPretrainConfig, out: str | Path, *,
    device: str = "cpu", initial: Mapping[str, Tensor] | None = None,
    on_log: Callable[[dict[str, Any]], None] | None = None,
) -> MaskedUnitPredictor:  # fmt: skip
    """Train, or go on from the checkpoint in `out`, and return the model; one rank of several in a process group.

    Going on is exact on one device and on two ranks; more add up their gradients in an order that may change.

    Args:
        speech: waveform and targets at the encoder's frame rate.
        config: the run; a checkpoint of another configuration is refused. It can go on with another number of ranks.
        device: what this rank computes on.
        out: folder of `checkpoint/` and `metrics.jsonl`.
        initial: weights of an encoder of this very shape to begin from (names as in transformers' `HubertModel`); the
            heads are new all the same. None: random weights.
        on_log: called with the metrics of every 20th update.

    Raises:
        BadInput: the ranks cannot share the batch evenly.
        CheckpointError: the checkpoint in `out` belongs to another configuration.
        TrainingError: the loss is not finite.
        TwistError: another process is training in `out`.
    """
    first = _rank()[0] == 0
    with held(Path(out), "training") if first else nullcontext():
        return _pretrain(speech, config, Path(out), device, initial, on_log)


def _pretrain(
    speech: LabelledSpeech, config: HubertPretrainConfig, out: Path, device: str, initial: Mapping[str, Tensor] | None,
    on_log: Callable[[dict[str, Any]], None] | None,
) -> MaskedUnitPredictor:  # fmt: skip
    rank, ranks = _rank()
    where = torch.device(device)
    if config.accumulate < 1:
        raise BadInput(f"accumulate is {config.accumulate}; a batch is computed in 1 part or more.")
    if config.batch % ranks:
        raise BadInput(f"{ranks} ranks cannot share {config.batch} crops evenly: use a number that divides the batch.")
    crops = config.batch // ranks
    n_parts = min(crops, -(-config.accumulate // ranks))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = MaskedUnitPredictor(config)
    if initial is not None:
        _begin_from(initial, model.hubert)
    model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=config.weight_decay, fused=True
    )
    update = _restore(out / "checkpoint", config, model, optimizer)
    log = MetricsLog(out / "metrics.jsonl", keep=update or None, every=False, write=rank == 0)
    model.train()
    step_model: nn.Module = model
    alone: Callable[[], AbstractContextManager[None]] = nullcontext
    if ranks > 1:  # HF's own embedding of masked frames is not used and gets no gradient
        step_model = DistributedDataParallel(model, find_unused_parameters=True)
        alone = step_model.no_sync  # the last part adds up what all parts left
    if config.compile:
        step_model = torch.compile(step_model)  # type: ignore[assignment]
    bf16 = _takes_bf16(config, model, out, crops=-(-crops // n_parts))
    began = time.perf_counter()
    while update < config.updates:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, update)
        waves, targets, masks = draw_batch(speech, config, update, rank=rank, ranks=ranks)
        optimizer.zero_grad(set_to_none=True)
        whole = _sent(targets, where), _sent(masks, where)
        loss = torch.zeros((), device=where)
        parts: dict[str, list[Tensor]] = {}
        for at in range(n_parts):
            first, last = at * crops // n_parts, (at + 1) * crops // n_parts
            part = _sent(waves[first:last], where), whole[0][:, first:last], whole[1][first:last]
            with alone() if at + 1 < n_parts else nullcontext():
                with torch.autocast(where.type, torch.bfloat16, enabled=bf16):
                    mine, said = loss_of(step_model, part, config, whole)
                mine.backward()
            loss = loss + mine.detach()
            for name, values in said.items():
                parts[name] = [a + b for a, b in zip(parts[name], values, strict=True)] if at else values
        if not math.isfinite(value := loss.item()):  # the one moment that waits for a GPU
            raise TrainingError(f"the loss is {value} at update {update}: lower the learning rate ({config.lr}).")
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        update += 1
        if rank == 0 and (update % 20 == 0 or update == config.updates):
            said_of = {name: [each.item() for each in values] for name, values in parts.items()}
            line = {"update": update, "loss": value, **said_of, "seconds": time.perf_counter() - began}
            log.append(line)
            if on_log:
                on_log(line)
        if rank == 0 and (update % config.checkpoint_every == 0 or update == config.updates):
            log.sync()
            _checkpoint(out / "checkpoint", config, model, optimizer, update)
    return model.eval()


def _sent(tensor: Tensor, where: torch.device) -> Tensor:
    return send(tensor.numpy(), where)


def _begin_from(initial: Mapping[str, Tensor], hubert: HubertModel) -> None:
    here = hubert.state_dict()
    # Neither moves what an encoder computes, and a tokenizer's folder leaves both out.
    wanted = {name for name in here if name != "masked_spec_embed" and "num_batches_tracked" not in name}
    wrong = sorted((wanted ^ set(initial)) | {n for n in wanted & set(initial) if here[n].shape != initial[n].shape})
    if wrong:
        raise BadInput(
            f"the weights to begin from are of another shape than the configuration asks for: {offenders(wrong)}"
        )
    hubert.load_state_dict({name: tensor.float() for name, tensor in initial.items()}, strict=False)


def _rank() -> tuple[int, int]:
    """Which rank this is, and of how many."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _takes_bf16(config: HubertPretrainConfig, model: nn.Module, out: Path, *, crops: int) -> bool:
    """Return whether products are bf16; the first rank finds out, if that is to be found out, and tells the others."""
    if config.bf16 != "auto":
        return config.bf16
    rank, ranks = _rank()
    device = next(model.parameters()).device
    took = [False]
    if rank == 0:
        rows = crops * round(config.crop_seconds * config.frame_rate)
        with choices.kept(out / choices.FILE):
            took = [choose_precision("auto", device, linear_shapes(model), rows=rows)[0] == "bf16"]
    if ranks > 1:
        dist.broadcast_object_list(took, src=0)
    return took[0]


def learning_rate(config: HubertPretrainConfig, update: int) -> float:
    """Linear warm-up, then a cosine that ends at a tenth of the peak."""
    if update < config.warmup:
        return config.lr * (update + 1) / config.warmup
    progress = (update - config.warmup) / max(1, config.updates - config.warmup)
    return config.lr * (0.1 + 0.45 * (1 + float(np.cos(np.pi * progress))))


def _checkpoint(
    folder: Path, config: HubertPretrainConfig, model: nn.Module, optimizer: torch.optim.Optimizer, update: int
) -> None:
    moments = {
        f"{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    with atomic_folder(folder) as temporary:
        save_file(
            {name: value.contiguous() for name, value in model.state_dict().items()}, temporary / "model.safetensors"
        )
        save_file(moments, temporary / "optimizer.safetensors")
        (temporary / "state.json").write_text(json.dumps({"update": update, "config": dataclasses.asdict(config)}))


def _restore(folder: Path, config: HubertPretrainConfig, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    if not (folder / "state.json").is_file():
        return 0
    state = read_json(
        folder / "state.json",
        "the state of a HuBERT pretraining",
        shape={"update": int, "config": dict},
        fix="Remove the folder to begin anew.",
        error=CheckpointError,
    )
    wanted = json.loads(json.dumps(dataclasses.asdict(config)))
    made_with = {field.name: field.default for field in dataclasses.fields(config)} | state["config"]
    changed = [key for key in wanted if wanted[key] != made_with[key]]
    if changed:
        raise CheckpointError(
            f"{folder} was made with another configuration ({', '.join(changed)} differ): "
            "go on with that configuration, or give another output folder."
        )
    require_regular_files(folder, "the state of a HuBERT pretraining", error=CheckpointError)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
        stored = load_file(folder / "optimizer.safetensors")
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{folder} is damaged ({error}): remove the folder to begin anew.") from error
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in stored.items():
        index, key = name.split(".", 1)
        moments.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(state["update"])
