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
import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from twistlm.compute.memory import give_back_freed_memory
from twistlm.config import TrainConfig
from twistlm.errors import ConfigError, TwistError
from twistlm.files.atomic import atomic_folder
from twistlm.lm.model import UnitLM
from twistlm.lm.trainable import find_layers


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: which one this is, from 0.
        world: how many there are.
        mesh: torch's name for them, over which a model is shared out; None alone.
    """

    rank: int = 0
    world: int = 1
    mesh: DeviceMesh | None = None

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
                dist.broadcast_object_list(temporary, src=0)
            yield temporary[0]
            self.wait()
        self.wait()

    def _reduced(self, value: float, how: dist.ReduceOp.RedOpType) -> float:
        if self.world == 1:
            return value
        total = torch.tensor(float(value), dtype=torch.float64)
        dist.all_reduce(total, how)
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
        yield Ranks(rank, world, init_device_mesh(device.type, (world,)))
        # gloo's thread lets go of the numbers compared last a moment later, and wants Python's lock for that: a process
        # that is ending by then aborts (1 in 7 did). A barrier has no numbers, and who waits for it gives up the lock.
        dist.barrier()
    finally:
        dist.destroy_process_group()


_runs = itertools.count()


def shard(lm: UnitLM, ranks: Ranks) -> UnitLM:
    """Share the parameters of `lm` out over the ranks, in place; return what `gather` fills to have it whole again.

    Alone, nothing is done and `lm` returned. A layer's parameters are put together before it computes and let go after,
    forward and backward; so are the tables and what else is not in a layer, for the whole of a pass.
    """
    if ranks.mesh is None:
        return lm
    memo = {
        id(p): torch.nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in lm.model.parameters()
    }
    empty = dataclasses.replace(lm, model=copy.deepcopy(lm.model, memo))
    module: torch.nn.Module
    for module in (*find_layers(lm.model), lm.model):
        # True also for the outermost module, whose parameters would else be whole ones after an evaluation.
        fully_shard(module, mesh=ranks.mesh, reshard_after_forward=True)
        assert isinstance(module, FSDPModule)
        # The ranks' losses are shares of one mean, so gradients are summed; gloo knows no other way to scale a sum.
        module.set_force_sum_reduction_for_comms(True)
        module.set_gradient_divide_factor(1.0)
    return empty


def gather(lm: UnitLM, whole: UnitLM, ranks: Ranks) -> None:
    """Fill `whole`, which `shard(lm, …)` returned, with the parameters of `lm`, on the first rank and in its memory."""
    if whole is lm:
        return
    for empty, shared in zip(whole.model.parameters(), lm.model.parameters(), strict=True):
        full = shared.full_tensor().detach().cpu()  # type: ignore[attr-defined]  # a DTensor
        if ranks.first:
            torch.utils.swap_tensors(empty, torch.nn.Parameter(full, shared.requires_grad))
