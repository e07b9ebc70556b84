"""The state of an unfinished run: weights and optimiser moments, in safetensors that any number of ranks can read.

    checkpoint/update-120/run.json        which run, how many files
    checkpoint/update-120/*.safetensors   one, or one a rank

One process writes its tensors as they are. Several write through torch.distributed.checkpoint (DCP), each its own
slices, with their offsets in the files' headers; all read through it, whatever slices they need. DCP's usual format
keeps a pickle, which would run code when it is read; its `HuggingFaceStorageWriter`, used here, writes and reads
safetensors and JSON only.

Nothing random is stored: batches and dropout are functions of (seed, update, rank). Nor are AdamW's step counts: each
is the number of updates.
"""

from __future__ import annotations

import json
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from twistlm.errors import CheckpointError, TwistError
from twistlm.files.jsonl import read_json
from twistlm.train.parallel import ALONE, Ranks

MOMENTS = ("exp_avg", "exp_avg_sq")


def save(
    folder: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    update: int,
    fingerprint: str,
    ranks: Ranks = ALONE,
) -> None:
    """Write the state after `update` updates. A kill at any moment leaves the previous checkpoint or this one, whole.

    Raises:
        TwistError: the disk is full, or a rank could not write.
    """
    _write(folder, _tensors(model, optimizer), update=update, fingerprint=fingerprint, ranks=ranks)


def _write(
    folder: Path, tensors: dict[str, torch.Tensor], *, update: int, fingerprint: str, ranks: Ranks = ALONE
) -> None:
    new = folder / f"update-{update}"
    try:
        with ranks.shared_folder(new) as temporary:
            if not any(isinstance(tensor, DTensor) for tensor in tensors.values()):  # the first rank has all there is
                if ranks.first:  # DCP would copy all of it in memory, twice
                    save_file(tensors, temporary / "state.safetensors")
            else:
                writer = dcp.HuggingFaceStorageWriter(str(temporary), save_distributed=True)
                dcp.save(tensors, storage_writer=writer, process_group=ranks.group)
            if ranks.first:
                run = {"fingerprint": fingerprint, "files": len(list(temporary.glob("*.safetensors")))}
                (temporary / "run.json").write_text(json.dumps(run))
    except CheckpointException as error:
        raise TwistError(f"the checkpoint {new} could not be written: {_causes(error)}.") from error
    if ranks.first:
        _remove_others(folder, new)


BEHIND = ("cuda",)  # what goes on while its state is written; a CPU would share its cores with the writing


class Behind:
    """Writes checkpoints while GPUs go on; use as a context manager.

    What is to be written is copied to the host's memory first: 12 bytes for each parameter that a rank holds (where
    each holds the whole model, the first writes for all). One is written at a time, by a thread on every rank; these
    wait for each other through a group of their own, so that training's messages and theirs do not meet.

    Args:
        ranks: who write together. All must make one.
    """

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self._ranks = ranks.apart()
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None
        self._on_host: dict[DeviceMesh, DeviceMesh] = {}

    def save(
        self, folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, *, update: int, fingerprint: str
    ) -> None:
        """Begin to do what `save` does.

        Raises:
            TwistError: the one before it could not be written.
        """
        self.finish()
        tensors = _tensors(model, optimizer)
        shared = any(isinstance(tensor, DTensor) for tensor in tensors.values())
        copies = {name: self._copied(t) for name, t in tensors.items()} if shared or self._ranks.first else {}
        write = partial(_write, update=update, fingerprint=fingerprint, ranks=self._ranks)
        self._last = self._thread.submit(write, folder, copies)

    def _copied(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return what the host keeps of a tensor: of one that is shared out, this rank's slice."""
        if not isinstance(tensor, DTensor):
            return torch.empty_like(tensor, device="cpu").copy_(tensor)
        mesh = tensor.device_mesh
        if mesh not in self._on_host:
            self._on_host[mesh] = init_device_mesh("cpu", tuple(mesh.shape))
        mine = tensor.to_local()
        return DTensor.from_local(
            torch.empty_like(mine, device="cpu").copy_(mine),
            self._on_host[mesh],
            tensor.placements,
            run_check=False,
            shape=tensor.shape,
            stride=tensor.stride(),
        )

    def finish(self) -> None:
        """Return when the last one is written.

        Raises:
            TwistError: it could not be.
        """
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self.finish()
                self._ranks.part()
        finally:
            self._thread.shutdown()  # what was begun is written, whatever ended the run


def load(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, *, fingerprint: str) -> int | None:
    """Put the newest state into `model` and `optimizer`; return its update, or None when there is none.

    Raises:
        CheckpointError: it is damaged, or of another run.
    """
    saved = _saved(folder)
    if not saved:
        return None
    update = max(saved)
    path = saved[update]
    reader = dcp.HuggingFaceStorageReader(str(path))
    try:
        run = read_json(
            path / "run.json",
            "the record of a checkpoint",
            shape={"fingerprint": str, "files": int},
            fix=_GONE,
            error=CheckpointError,
        )
        if run["fingerprint"] != fingerprint:
            raise CheckpointError(f"{path} belongs to another run ({run}); train in a new folder.")
        if (found := len(list(path.glob("*.safetensors")))) != run["files"]:
            raise CheckpointError(f"{path} has {found} of its {run['files']} safetensors files. {_GONE}")
        there = reader.read_metadata().state_dict_metadata
        sizes = {name: about.size for name, about in there.items() if isinstance(about, TensorStorageMetadata)}
        wanted, moments = {}, {}
        for name, tensor in _state(model).items():
            wanted[f"model/{name}"] = tensor.detach()
            if tensor.requires_grad:
                moments[tensor] = {key: torch.zeros_like(tensor.detach()) for key in MOMENTS}
                wanted |= {f"{key}/{name}": moment for key, moment in moments[tensor].items()}
        if odd := sorted(n for n in sizes.keys() | wanted.keys() if n not in wanted or sizes.get(n) != wanted[n].shape):
            raise CheckpointError(
                f"{path} is of another model: {', '.join(odd[:5])} missing, unknown or of other size."
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is")  # one process: meant, but warned of
            dcp.load(wanted, storage_reader=reader)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error!r}. {_GONE}") from error
    except CheckpointException as error:
        raise CheckpointError(f"{path} cannot be read: {_causes(error)}. {_GONE}") from error
    for tensor, state in moments.items():
        # Fused AdamW keeps its step count beside the parameter.
        optimizer.state[tensor] = {"step": torch.tensor(float(update), device=tensor.device), **state}
    return update


_GONE = "It was changed after it was written; remove it to go on from an older one, or to begin this run anew."


def remove(folder: Path) -> None:
    """Delete the checkpoint folder of a finished run: three times the size of the model that is kept."""
    if folder.exists():
        shutil.rmtree(folder)


def newest(folder: Path) -> Path | None:
    """Return the folder of the last state, or None when there is none."""
    saved = _saved(folder)
    return saved[max(saved)] if saved else None


def _tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, tensor in _state(model).items():
        tensors[f"model/{name}"] = tensor.detach().contiguous()
        kept = optimizer.state.get(tensor, {})
        tensors |= {f"{key}/{name}": kept[key].contiguous() for key in MOMENTS if key in kept}
    return tensors


def _remove_others(folder: Path, new: Path) -> None:
    for older in _saved(folder).values():
        if older != new:
            shutil.rmtree(older)


def _saved(folder: Path) -> dict[int, Path]:
    """Return the checkpoints by update: the last one, and the one before it where a kill left that too."""
    found = {path.name.removeprefix("update-"): path for path in folder.glob("update-*")}
    return {int(update): path for update, path in found.items() if update.isdecimal() and len(update) < 19}


def _state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters (tied ones once) and the buffers that belong to the model's state."""
    kept = model.state_dict().keys()
    return dict(model.named_parameters()) | {name: b for name, b in model.named_buffers() if name in kept}


def _causes(error: CheckpointException) -> str:
    return "; ".join(f"rank {rank}: {cause!r}" for rank, (cause, _) in error.failures.items())
