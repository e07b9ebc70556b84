"""HuBERT pretraining: from speech with target units to an encoder (Hsu et al., HuBERT, 2021).

Targets are any unit sequence at the encoder's frame rate: MFCC k-means for a first iteration, a layer of an earlier
encoder for the next ones, or a teacher encoder. `masked_prediction` has the model and its loss, `crops` the batches.

Under torchrun each rank computes its share of the crops (DDP: gradients are averaged) and the first writes. The batch
norm before the positional convolution takes its statistics from a rank's own crops; what is saved is the first's.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import HubertModel

from twistlm.compute import choices
from twistlm.compute.devices import send
from twistlm.compute.interrupts import Interrupts, stopped
from twistlm.compute.precision import choose_precision, linear_shapes
from twistlm.compute.seeds import torch_seed
from twistlm.errors import BadInput, CheckpointError, TrainingError, offenders
from twistlm.files.atomic import atomic_folder
from twistlm.files.jsonl import read_json
from twistlm.files.locks import held
from twistlm.files.metrics import MetricsLog
from twistlm.files.regular import require_regular_files
from twistlm.units.crops import LabelledSpeech, draw_batch, require_a_crop
from twistlm.units.masked_prediction import HubertPretrainConfig, MaskedUnitPredictor, loss_of


def pretrain(
    speech: LabelledSpeech, config: HubertPretrainConfig, out: str | Path, *,
    device: str = "cpu", initial: Mapping[str, Tensor] | None = None,
    on_log: Callable[[dict[str, Any]], None] | None = None,
    made_of: Mapping[str, str] | None = None, hold: bool = True,
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
        made_of: what speech and targets are; a checkpoint that was made of something else is refused.
        hold: lock `out`; False where the caller has.

    Raises:
        BadInput: the ranks cannot share the batch evenly, or the speech is shorter than a crop.
        CheckpointError: the checkpoint in `out` belongs to another configuration, or to other speech.
        Stopped: a signal ended the run; its state is saved.
        TrainingError: the loss or a gradient is not finite.
        TwistError: another process is training in `out`.
    """
    rank, ranks = _rank()
    holding = held(Path(out), "training") if rank == 0 and hold else nullcontext()
    with holding, Interrupts(again=ranks > 1) as interrupts:
        return _pretrain(speech, config, Path(out), device, initial, on_log, dict(made_of or {}), interrupts)


def _pretrain(
    speech: LabelledSpeech, config: HubertPretrainConfig, out: Path, device: str, initial: Mapping[str, Tensor] | None,
    on_log: Callable[[dict[str, Any]], None] | None, made_of: dict[str, str], interrupts: Interrupts,
) -> MaskedUnitPredictor:  # fmt: skip
    require_a_crop(speech, config)
    rank, ranks = _rank()
    where = torch.device(device)
    if config.accumulate < 1:
        raise BadInput(f"accumulate is {config.accumulate}; a batch is computed in 1 part or more.")
    if config.batch % ranks:
        raise BadInput(f"{ranks} ranks cannot share {config.batch} crops evenly: use a number that divides the batch.")
    crops = config.batch // ranks
    n_parts = min(crops, -(-config.accumulate // ranks))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(config.seed))
        model = MaskedUnitPredictor(config)
    if initial is not None:
        _begin_from(initial, model.hubert)
    model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=config.weight_decay, fused=True
    )
    update = _restore(out / "checkpoint", config, model, optimizer, made_of)
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
        # The gradients are all ranks', so all stop at once; and it is they that would reach the weights.
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        value, length = torch.stack([loss, norm.to(loss)]).tolist()  # the one moment that waits for a GPU
        if not (math.isfinite(value) and math.isfinite(length)):
            raise TrainingError(
                f"the loss is {value} and the gradient's norm {length} at update {update}: lower the learning rate "
                f"({config.lr})."
            )
        optimizer.step()
        update += 1
        if rank == 0 and (update % 20 == 0 or update == config.updates):
            said_of = {name: [each.item() for each in values] for name, values in parts.items()}
            line = {"update": update, "loss": value, **said_of, "seconds": time.perf_counter() - began}
            log.append(line)
            if on_log:
                on_log(line)
        signalled = interrupts.agreed()
        if rank == 0 and (update % config.checkpoint_every == 0 or update == config.updates or signalled):
            log.sync()
            _checkpoint(out / "checkpoint", config, model, optimizer, update, made_of)
        if signalled and update < config.updates:
            raise stopped(signalled, update, config.updates, out / "checkpoint")
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
    folder: Path,
    config: HubertPretrainConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    update: int,
    made_of: dict[str, str],
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
        state = {"update": update, "config": dataclasses.asdict(config), "made_of": made_of}
        (temporary / "state.json").write_text(json.dumps(state))


def _restore(
    folder: Path,
    config: HubertPretrainConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    made_of: dict[str, str],
) -> int:
    if not (folder / "state.json").is_file():
        return 0
    state = read_json(
        folder / "state.json",
        "the state of a HuBERT pretraining",
        shape={"update": int, "config": dict, "made_of?": {str: str}},
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
    before = made_of | state.get("made_of", {})
    if others := [name for name in made_of if before[name] != made_of[name]]:
        raise CheckpointError(
            f"{folder} was made with another {' and another '.join(others)}: go on with that, or give another "
            "output folder."
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
