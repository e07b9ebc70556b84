"""Many processes, one run: whose rows are whose, sums over all, the model shared out and put together again.

torchrun starts the processes (ranks) and tells each in its environment which one it is; without torchrun there is one,
which does everything and waits for nobody. All go through the same loop in step and see the same losses, so they
decide alike without asking; only what one alone can know (a signal) is asked for. FSDP2 (`fully_shard`, Zhao et al.
2023, "PyTorch FSDP") keeps of each parameter, gradient and moment one slice a rank, and puts a layer together while it
computes.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from twistlm.compute.memory import give_back_freed_memory
from twistlm.compute.precision import Precision
from twistlm.config import TrainConfig
from twistlm.errors import ConfigError, TwistError
from twistlm.files.atomic import atomic_folder
from twistlm.lm.model import UnitLM
from twistlm.lm.slices import Slices
from twistlm.lm.trainable import find_layers


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: which one this is, from 0.
        world: how many there are.
        mesh: torch's name for them, over which a model is shared out; None alone.
        group: through whom they compare and wait; None: torch's default, in which training sends gradients.
    """

    rank: int = 0
    world: int = 1
    mesh: DeviceMesh | None = None
    group: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files, shows progress and sends metrics."""
        return self.rank == 0

    def parts(self, config: TrainConfig) -> int:
        """Return in how many parts each rank computes its rows: the fewest that make the run's `accumulate`.

        They are of one number of rows where that can be, else some have a row more.

        Raises:
            ConfigError: the rows cannot be shared out evenly.
        """
        rows, left = divmod(config.batch_rows, self.world)
        if left:
            fit = [n for n in range(1, self.world) if config.batch_rows % n == 0]
            raise ConfigError(
                f"{self.world} ranks cannot share the {config.batch_rows} rows of a batch evenly: use a number "
                f"of ranks that divides batch_rows (the next lower one is {fit[-1]}), or other batch_rows."
            )
        return min(rows, -(-config.accumulate // self.world))

    def apart(self) -> Ranks:
        """Return the same ranks, who compare and wait among themselves: for a thread beside training. All must ask."""
        return self if self.world == 1 else dataclasses.replace(self, group=dist.new_group(backend="gloo"))

    def patient(self) -> Ranks:
        """Return the same ranks, who wait a week for each other where torch gives up after half an hour. All must ask.

        For work of hours that the first does alone.
        """
        if self.world == 1:
            return self
        return dataclasses.replace(self, group=dist.new_group(backend="gloo", timeout=datetime.timedelta(days=7)))

    def part(self) -> None:
        """Return when every rank has come here, and nothing of what they compared before is on its way.

        gloo's thread lets go of the numbers compared last a moment later, and wants Python's lock for that: a process
        that is ending by then aborts (1 in 7 did). A barrier has no numbers, and who waits for it gives up the lock.
        """
        if self.world > 1:
            dist.barrier(self.group)

    def sum(self, value: float) -> float:
        """Return the sum of every rank's `value`, in float64; the same on all."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def max(self, value: float) -> float:
        """Return the largest of every rank's `value`; the same on all."""
        return self._reduced(value, dist.ReduceOp.MAX)

    def wait(self) -> None:
        """Return when every rank has come here."""
        self.max(0)

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Run the block on the first rank, then on all others: they find what it wrote, and fail where it failed."""
        if not self.first:
            self.wait()
        try:
            yield
        finally:
            if self.first:
                self.wait()

    @contextmanager
    def shared_folder(self, path: Path) -> Iterator[Path]:
        """`atomic_folder` of the first rank, in which all write; the ranks' machines must see the same `path`."""
        with ExitStack() as stack:
            temporary = [stack.enter_context(atomic_folder(path)) if self.first else path]
            if self.world > 1:
                dist.broadcast_object_list(temporary, src=0, group=self.group)
            yield temporary[0]
            self.wait()
        self.wait()

    def _reduced(self, value: float, how: dist.ReduceOp.RedOpType) -> float:
        if self.world == 1:
            return value
        total = torch.tensor(float(value), dtype=torch.float64)
        dist.all_reduce(total, how, group=self.group)
        return total.item()


ALONE = Ranks()


@contextmanager
def join(device: torch.device) -> Iterator[Ranks]:
    """Be one of the ranks that torchrun started until the block ends; alone without torchrun.

    Args:
        device: what this rank computes on. GPUs talk by NCCL, CPUs by gloo.

    Raises:
        TwistError: the ranks cannot reach each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        give_back_freed_memory()
    store, rank, world = next(dist.rendezvous("env://"))
    # The store outlives a run: in the next one of this process, a rank would find its peers' old addresses.
    store = dist.PrefixStore(f"run {next(_runs)}", store)
    # gloo on GPUs too: the few numbers that ranks compare lie on the CPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    except RuntimeError as error:  # what torch raises here, whatever went wrong
        raise TwistError(
            f"rank {rank} cannot reach the other {world - 1}: {str(error).splitlines()[0]}. Where a machine's own name "
            "stands for 127.0.0.1 or 127.0.1.1 (getent hosts $(hostname)), as Debian sets it, the others are told that "
            "address: name the network's interface (ip addr) in GLOO_SOCKET_IFNAME, and in NCCL_SOCKET_IFNAME for GPUs."
        ) from error
    try:
        ranks = Ranks(rank, world, init_device_mesh(device.type, (world,)))
        yield ranks
        ranks.part()
    finally:
        dist.destroy_process_group()


_runs = itertools.count()


Sharing = Literal["whole", "slices", "slices-bf16"]
# Weights, gradients and two moments in float32; that they take half of a GPU leaves the other half to activations.
_BYTES, _SHARE = 16, 0.5


def share_out(config: TrainConfig, lm: UnitLM, device: torch.device, precision: Precision, ranks: Ranks) -> Sharing:
    """Return what each rank holds, see `TrainConfig.sharing`.

    Raises:
        ConfigError: parameters are to travel as bf16 where products are float32.
    """
    if config.sharing == "slices-bf16" and precision != "bf16":
        raise ConfigError("sharing is 'slices-bf16', but products are in float32: use sharing=slices.")
    if ranks.mesh is None:
        return "whole"
    if config.sharing != "auto":
        return config.sharing
    return auto(_count(lm), gpu_memory(device), precision)


def auto(parameters: int, memory: float | None, precision: Precision) -> Sharing:
    """Return what sharing="auto" comes to on several ranks, each with a GPU of so many bytes; None: on CPUs."""
    if memory is None:
        return "slices"
    if fits(parameters, memory):
        return "whole"
    return "slices-bf16" if precision == "bf16" else "slices"


def gpu_memory(device: torch.device) -> int | None:
    """Return the bytes of a GPU's memory; None for any other device."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def replicas(lm: UnitLM, device: torch.device, ranks: Ranks) -> int:
    """Return how many nodes each hold all of the model, shared out inside: HSDP, whose slices never cross the network.

    One where the model does not fit the GPUs of a node, or there is one node.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world))
    memory = gpu_memory(device)
    if memory is None or ranks.world == local or ranks.world % local:
        return 1
    return ranks.world // local if fits(_count(lm) / local, memory) else 1


def fits(parameters: float, memory: float) -> bool:
    """Tell whether so many parameters, with gradients and moments, leave a GPU of so many bytes enough for the rest."""
    return _BYTES * parameters <= _SHARE * memory


def _count(lm: UnitLM) -> int:
    return sum(p.numel() for p in lm.model.parameters())


def shard(lm: UnitLM, ranks: Ranks, sharing: Sharing = "slices", *, nodes: int = 1) -> UnitLM:
    """Share the parameters of `lm` out over the ranks, in place; return what `gather` fills to have it whole again.

    Alone, and where each holds the whole, nothing is done and `lm` returned. A layer's parameters are put together
    before it computes and let go after, forward and backward; so are the tables and what else is not in a layer, for
    the whole of a pass. `lm` may be without data (on the meta device): then `fill` comes next.

    Args:
        lm: the model.
        ranks: whose parts it becomes.
        sharing: see `TrainConfig.sharing`. As bf16 travel the layers alone; tables and the residual stream, which
            autocast leaves in float32, stay so.
        nodes: each of so many groups of ranks holds all slices.
    """
    if ranks.mesh is None or sharing == "whole":
        return lm
    mesh = ranks.mesh
    if nodes > 1:
        shape = (nodes, ranks.world // nodes)
        mesh = init_device_mesh(mesh.device_type, shape, mesh_dim_names=("replicate", "shard"))
    travels = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if sharing == "slices-bf16" else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    memo = {
        id(p): torch.nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in lm.model.parameters()
    }
    empty = dataclasses.replace(lm, model=copy.deepcopy(lm.model, memo))
    module: torch.nn.Module
    for module in (*find_layers(lm.model), lm.model):
        # True also for the outermost module, whose parameters would else be whole ones after an evaluation.
        policy = MixedPrecisionPolicy() if module is lm.model else travels
        fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
        assert isinstance(module, FSDPModule)
        # The ranks' losses are shares of one mean, so gradients are summed; gloo knows no other way to scale a sum.
        module.set_force_sum_reduction_for_comms(True)
        module.set_gradient_divide_factor(1.0)
    return empty


def fill(lm: UnitLM, slices: Slices, device: torch.device) -> None:
    """Give a model without data its weights: where it was shared out, each rank reads its own rows of them.

    No more than one parameter's rows are on the CPU beside `slices.held`.
    """
    buffers = dict(lm.model.named_buffers())
    places: dict[int, list[tuple[torch.nn.Module, str]]] = {}
    for part in lm.model.modules():
        for key, parameter in part.named_parameters(recurse=False):
            places.setdefault(id(parameter), []).append((part, key))
    lm.model.to_empty(device=device)
    for (part, key), *others in places.values():  # torch makes tied parameters two
        for other, name in others:
            other._parameters[name] = part._parameters[key]
    for name, tensor in buffers.items():
        module, _, key = name.rpartition(".")
        lm.model.get_submodule(module)._buffers[key] = tensor.to(device)
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            mine, first = parameter.detach(), 0
            if isinstance(parameter, DTensor):
                mine = parameter.to_local()
                _, begins = compute_local_shape_and_global_offset(
                    parameter.shape, parameter.device_mesh, parameter.placements
                )
                first = begins[0]
            if mine.numel():
                mine.copy_(slices.rows(name, first, first + len(mine)))


class Adding:
    """Adds up gradients of ranks that each hold the whole model, while the backward pass still goes on.

    Gradients are sent in the order in which they are ready, which is the same on all ranks, some together.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        self._on = False
        self._ready: list[torch.Tensor] = []
        self._sent: deque[tuple[list[torch.Tensor], torch.Tensor, dist.Work | None]] = deque()
        self._hooks = [p.register_post_accumulate_grad_hook(self._note) for p in parameters if p.requires_grad]

    @property
    def begun(self) -> bool:
        """Whether something was sent of the update that is being made."""
        return bool(self._sent or self._ready)

    def begin(self, *, last: bool) -> None:
        """A backward pass comes; gradients are sent in the `last` one of the update."""
        self._on = last

    def finish(self) -> None:
        """Return when every gradient is the sum of all ranks'."""
        self._send()
        while self._sent:
            self._receive()
        self._on = False

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _note(self, parameter: torch.Tensor) -> None:
        if self._on:
            assert parameter.grad is not None
            self._ready.append(parameter.grad)
            if sum(g.numel() for g in self._ready) >= _TOGETHER:
                self._send()

    def _receive(self) -> None:
        gradients, flat, work = self._sent.popleft()
        if work is not None:
            work.wait()  # of a GPU, the stream of its kernels waits, not this process
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _send(self) -> None:
        while len(self._sent) > 2:  # so that copies of few are held
            self._receive()
        if self._ready:
            flat = torch.cat([g.flatten() for g in self._ready])
            self._sent.append((self._ready, flat, dist.all_reduce(flat, async_op=True)))
            self._ready = []


_TOGETHER = 2**23  # values: 32 MB


def gather(lm: UnitLM, whole: UnitLM, ranks: Ranks) -> None:
    """Fill `whole`, which `shard(lm, …)` returned, with the parameters of `lm`, on the first rank and in its memory."""
    if whole is lm:
        return
    for empty, shared in zip(whole.model.parameters(), lm.model.parameters(), strict=True):
        full = shared.full_tensor().detach().cpu()  # type: ignore[attr-defined]  # a DTensor
        if ranks.first:
            torch.utils.swap_tensors(empty, torch.nn.Parameter(full, shared.requires_grad))
