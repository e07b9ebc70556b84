"""The state of an unfinished run: one safetensors file with weights and optimiser moments, replaced in one step.

Nothing random is stored: batches and dropout are functions of (seed, update).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from twistlm.atomic import atomic_write
from twistlm.errors import CheckpointError


def save(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, *, update: int, fingerprint: str
) -> None:
    """Write the state after `update` updates. A kill at any moment leaves the previous file or this one, whole.

    Raises:
        TwistError: the disk is full.
    """
    tensors = {}
    for name, tensor in _state(model).items():
        tensors[f"model/{name}"] = tensor.detach().contiguous()
        for key, value in optimizer.state.get(tensor, {}).items():
            tensors[f"{key}/{name}"] = value.contiguous()
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={"update": str(update), "fingerprint": fingerprint})


def load(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, *, fingerprint: str) -> int | None:
    """Put the saved state into `model` and `optimizer`; return its update, or None when there is no checkpoint.

    Raises:
        CheckpointError: the file is damaged, or of another run.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("fingerprint") != fingerprint:
                raise CheckpointError(f"{path} belongs to another run ({metadata}); train in a new folder.")
            names = set(file.keys())
            state = _state(model)
            wanted = {f"{kind}/{name}" for name in state for kind in ("model", *_moments(state[name]))}
            if names != wanted:
                odd = sorted(names ^ wanted)[:5]
                raise CheckpointError(f"{path} is of another model: {', '.join(odd)} missing or unknown.")
            for name, tensor in state.items():
                with torch.no_grad():
                    tensor.copy_(file.get_tensor(f"model/{name}"))
                if _moments(tensor):
                    moments = {key: file.get_tensor(f"{key}/{name}") for key in _moments(tensor)}
                    # Fused AdamW keeps its step count beside the parameter. Copied: the file may be replaced meanwhile.
                    optimizer.state[tensor] = {k: v.to(tensor.device, copy=True) for k, v in moments.items()}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}. It was changed after it was written; remove it to begin this run anew."
        ) from error
    return int(metadata["update"])


def remove(folder: Path) -> None:
    """Delete the checkpoint folder of a finished run: three times the size of the model that is kept."""
    if folder.exists():
        shutil.rmtree(folder)


def _state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters (tied ones once) and the buffers that belong to the model's state."""
    kept = model.state_dict().keys()
    return dict(model.named_parameters()) | {name: b for name, b in model.named_buffers() if name in kept}


def _moments(tensor: torch.Tensor) -> tuple[str, ...]:
    return ("step", "exp_avg", "exp_avg_sq") if tensor.requires_grad else ()
