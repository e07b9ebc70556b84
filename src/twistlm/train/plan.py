"""What a run will cost, before it is spent: parameters, tokens, operations, memory, hours.

Nothing is estimated that can be counted: the update itself is made, of tensors that have a shape and no data (torch's
FakeTensorMode), while the bytes alive and the operations are counted. Of several ranks one's rows are computed like
that, and what FSDP2 does with the parameters is worked out: sharing out tensors without data (`fully_shard` under
FakeTensorMode, torch 2.13) writes where it must not, and the process dies later.

Shapes: B rows, T tokens of a row.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from twistlm.compute.precision import Precision, Shapes, choose_precision, linear_shapes
from twistlm.config import Head, TrainConfig
from twistlm.corpus.packing import pack
from twistlm.errors import BadInput
from twistlm.lm.model import UnitLM
from twistlm.lm.trainable import Freeze, find_layers
from twistlm.lm.warmstart import cold_start
from twistlm.train.activations import checkpointed_activations
from twistlm.train.kept import Kept
from twistlm.train.network import Gpu, Traffic, traffic
from twistlm.train.optim import adamw
from twistlm.train.parallel import Ranks, Sharing, auto, fits, gpu_memory
from twistlm.types import UnitSpec

# What glibc keeps free between the tensors of a CPU, of their size: 10 to 24 % (`benchmarks/plan_memory.py`).
HOLES = 0.1


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one update takes of one rank.

    Attributes:
        parameters, trainable: how many there are on all ranks, tied ones once, and how many of them train.
        flops: floating-point operations of matrix products and attention, two for a multiplication and addition.
            Activations computed again count again.
        weights, gradients, optimizer: bytes.
        activations: bytes of everything else when the most is alive: what the backward pass needs, bf16 copies of the
            weights, layers put together from all ranks, what is being computed.
        peak: bytes alive at that moment. Less than the sum when gradients and activations do not meet. Of several ranks
            at least the whole model, which each has at the start and the first at the end, and a slice beside it.
    """

    parameters: int
    trainable: int
    flops: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int

    def resident(self, device: torch.device) -> int:
        """Bytes that a rank's process takes on `device`, beside Python and its libraries."""
        return round(self.peak * (1 + HOLES)) if device.type == "cpu" else self.peak


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run takes.

    Attributes:
        update: one of its updates, on one rank.
        ranks: how many there are.
        tokens: targets of all updates.
        epochs: how often each document is seen.
        padding: share of the places in the rows that hold none.
        flops: of all updates on all ranks; evaluations are not counted.
        precision: of the matrix products.
        flops_per_second: what the hardware of one rank does.
        share: of it that training reaches, waiting for other ranks included.
        hours: of all updates.
        memory: bytes that a rank's process takes, see `Update.resident`.
        disk: bytes, when the run has most there: of checkpoints, the old one beside the new, and of the model.
        sharing: what each rank holds, see `TrainConfig.sharing`.
        gpu: the kind of GPU that was planned for, where it is not here.
        seconds: of an update: its operations / flops_per_second / share, or sending where that takes longer.
        traffic: what an update sends between GPUs; None where that was not asked about.
    """

    update: Update
    ranks: int
    tokens: int
    epochs: float
    padding: float
    flops: float
    precision: Precision
    flops_per_second: float
    share: float
    hours: float
    memory: int
    disk: int
    sharing: Sharing
    gpu: str | None
    seconds: float
    traffic: Traffic | None


def plan(
    text_lm: str | Path,
    spec: UnitSpec,
    lengths: NDArray[np.int64],
    config: TrainConfig,
    *,
    device: torch.device,
    share: float,
    flops_per_second: float | None = None,
    head: Head = "as-is",
    layers: int | None = None,
    freeze: Freeze | None = None,
    ranks: int = 1,
    gpu: Gpu | None = None,
    network: float | None = None,
) -> Plan:
    """Return what training a model of this shape takes; no weights are read and nothing is written.

    Args:
        text_lm: as of `cold_start`; a warm start takes the same.
        spec: of the units.
        lengths: int64 [D], units of each document.
        config: the run.
        device: what it will run on.
        share: of the hardware's rate that training reaches, above 0 to 1 ("model FLOP utilisation").
        flops_per_second: the hardware's rate; None measures a matrix product on `device`, in about a second.
        head, layers, freeze: as of `cold_start`.
        ranks: processes the run is to be shared out over, each with hardware like `device`.
        gpu: plan for so many GPUs of this kind instead of `device`; their rate is the maker's where none is given.
        network: bytes a second that each of these can receive from other machines.

    Raises:
        As `cold_start`. BadInput: no documents, a share or rate out of range, or float32 on a kind of GPU whose rate is
        known of bf16 alone. ConfigError: the ranks cannot share a batch's rows evenly.
    """
    if not len(lengths):
        raise BadInput("the corpus has no documents to plan for.")
    if not 0 < share <= 1 or (flops_per_second is not None and not flops_per_second > 0):
        raise BadInput(f"share is {share} and flops_per_second {flops_per_second}: above 0, and a share at most 1.")
    shapes: Shapes = {}
    if gpu is not None and config.precision == "float32" and flops_per_second is None:
        raise BadInput(
            f"what is known of an {gpu.name} is its rate of bf16 products, and this run's precision is float32: give "
            "the rate it reaches there (flops_per_second, --flops), or plan with precision=bf16."
        )
    if gpu is not None:
        config = replace(config, precision="bf16") if config.precision == "auto" else config
        device, flops_per_second = torch.device("cuda"), flops_per_second or gpu.flops
    if config.precision == "auto":
        with torch.random.fork_rng(devices=[]), FakeTensorMode():
            shapes = linear_shapes(cold_start(text_lm, spec, seed=0, head=head, layers=layers).model)
    at_once = config.batch_rows // ranks // Ranks(0, ranks).parts(config) * config.context
    precision: Precision = "bf16"
    if gpu is None or config.precision != "bf16":
        precision, _ = choose_precision(config.precision, device, shapes, rows=at_once)
    counted = partial(
        count_update, text_lm, spec, config, precision=precision, head=head, layers=layers, freeze=freeze, ranks=ranks
    )
    sharing: Sharing = "whole"
    if ranks > 1 and config.sharing != "auto":
        sharing = config.sharing
    elif ranks > 1:
        memory = gpu_memory(device) if gpu is None else gpu.memory
        parameters = 0 if memory is None else counted(sharing="whole").parameters  # CPUs share out any model
        sharing = auto(parameters, memory, precision)
    update = counted(sharing=sharing, on_gpu=gpu is not None)
    layout = pack(lengths + 1, context=config.context, seed=config.seed)
    full = float(layout.length.sum()) / (len(layout) * config.context)
    rate = matmul_rate(device, precision) if flops_per_second is None else flops_per_second
    flops = float(update.flops) * ranks * config.updates
    seconds, sent = float(update.flops) / rate / share, None
    if gpu is not None and network is not None and ranks > 1:
        sent = traffic(
            update.parameters,
            ranks=ranks,
            parts=Ranks(0, ranks).parts(config),
            sharing=sharing,
            nodes_hold_all=sharing != "whole" and ranks > gpu.node and fits(update.parameters / gpu.node, gpu.memory),
            gpu=gpu,
            network=network,
        )
        seconds = max(seconds, sent.seconds)
    return Plan(
        update=update,
        ranks=ranks,
        tokens=round(config.updates * config.batch_rows * config.context * full),
        epochs=config.updates * config.batch_rows / len(layout),
        padding=1 - full,
        flops=flops,
        precision=precision,
        flops_per_second=rate,
        share=share,
        hours=seconds * config.updates / 3600,
        memory=update.resident(device),
        disk=_disk(update, config, copies=1 if sharing == "whole" else ranks),
        sharing=sharing,
        gpu=None if gpu is None else gpu.name,
        seconds=seconds,
        traffic=sent,
    )


def _disk(update: Update, config: TrainConfig, *, copies: int) -> int:
    """Return the most bytes that a run has on disk at once."""
    state, model = copies * (update.weights + update.optimizer), copies * update.weights
    # A new checkpoint is whole before the last one goes, and the last one until the model is there.
    saved = (config.updates - 1) // config.checkpoint_every if config.checkpoint_every else 0
    forked = state if config.schedule == "wsd" else 0  # where the rate begins to fall; it is kept, for `fork`
    return max(min(saved, 2) * state, state + model) + forked


def count_update(
    text_lm: str | Path,
    spec: UnitSpec,
    config: TrainConfig,
    *,
    precision: Precision,
    head: Head = "as-is",
    layers: int | None = None,
    freeze: Freeze | None = None,
    ranks: int = 1,
    sharing: Sharing = "slices",
    on_gpu: bool = False,
) -> Update:
    """Make one update on the CPU without data, the optimiser's moments being there, and count what it takes.

    Architectures that no mask of documents is given to are counted as if each row were one document.

    Args:
        sharing: what each of several ranks holds, see `TrainConfig.sharing`.
        on_gpu: count the memory of a GPU, in which the whole model never is when it is shared out.
        As of `plan`.

    Raises:
        BadInput: a mixture of experts.
    """
    parts = Ranks(0, ranks).parts(config)
    with torch.random.fork_rng(devices=[]), FakeTensorMode():
        rows = config.batch_rows // ranks
        shape = (-(-rows // parts), config.context)  # the largest part
        ranks = 1 if sharing == "whole" else ranks
        lm = cold_start(text_lm, spec, seed=0, head=head, layers=layers, freeze=freeze)
        shape_of: Any = lm.model.config
        experts = getattr(shape_of, "num_local_experts", None) or getattr(shape_of, "num_experts", None)
        if experts:  # torch's product of groups cannot be counted without data, in float32 or under autocast
            raise BadInput(f"{text_lm} is a mixture of {experts} experts: it can be trained, and not planned.")
        parameters = list(lm.model.parameters())
        trainable = [p for p in parameters if p.requires_grad]
        optimizer = adamw(lm.model, config)
        for parameter in trainable:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        counter = _Counter([*parameters, *lm.model.buffers(), *tree_leaves(list(optimizer.state.values()))])
        weights, gradients = _bytes(parameters), _bytes(trainable)
        for parameter in trainable:  # as soon as FSDP2 has a gradient, each rank keeps its slice
            parameter.register_post_accumulate_grad_hook(lambda p: counter.share(p.grad, ranks))
        lm.model.train()
        compiled = (
            Kept(find_layers(lm.model), lambda: counter.now)
            if config.compile and not config.checkpoint_activations
            else None
        )
        for module in lm.model.modules():  # older transformers draw whether a layer is dropped, which nothing can tell
            if getattr(module, "layerdrop", None) == 0:
                module.training = False
        with counter, lm.packed_attention(), checkpointed_activations(lm, enabled=config.checkpoint_activations):
            # The first part meets no gradients, every later one meets those of the first.
            for _ in range(min(parts, 2)):
                _backward(lm, shape, precision)
        with lm.packed_attention(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            peak = counter.peak - (0 if compiled is None else compiled.less())
    held = _bytes(trainable, ranks) if parts > 1 else 0
    activations, at_ends = peak - weights - 2 * gradients - held, 0
    if ranks > 1:
        # A layer is whole while it computes, the tables for the whole of a pass, their gradients until they are summed.
        in_layers = [_bytes(layer.parameters()) for layer in find_layers(lm.model)]
        travel = 2 if sharing == "slices-bf16" else 1
        activations += 2 * (max(in_layers) // travel + weights - sum(in_layers))
        whole, weights, gradients = weights, _bytes(parameters, ranks), _bytes(trainable, ranks)
        at_ends = 0 if on_gpu else whole + weights
    moments = 2 * gradients
    return Update(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in trainable),
        flops=counter.flops * rows // (min(parts, 2) * shape[0]),
        weights=weights,
        gradients=gradients,
        optimizer=moments,
        activations=activations,
        peak=max(at_ends, weights + moments + max(gradients, activations + held)),
    )


def matmul_rate(
    device: torch.device,
    precision: Precision,
    *,
    size: int | None = None,
    seconds: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the FLOP/s of a product of two `size` x `size` matrices, the median over about `seconds` of `clock`.

    None: 2048, on a GPU 8192 and several products at a time: one of 2048 is over in 25 microseconds on an H100, before
    the next is launched, so that its time says half of the card's rate. Values are random there, since a GPU draws less
    power, and so runs faster, for ones.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    gpu = device.type == "cuda"
    size, at_once = size or (8192 if gpu else 2048), 8 if gpu else 1
    make = torch.randn if gpu else torch.ones
    a, b = (make(size, size, dtype=dtype, device=device) for _ in range(2))
    taken: list[float] = []
    begun = clock()
    while len(taken) < 3 or clock() - begun < seconds:
        started = clock()
        for _ in range(at_once):
            product = a @ b
        if gpu:
            torch.cuda.synchronize(device)
        taken.append((clock() - started) / at_once)
        del product
    return 2 * size**3 / float(np.median(taken))


def _backward(lm: UnitLM, shape: tuple[int, int], precision: Precision) -> None:
    tokens, segments = torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.int32)
    masked = lm.packs(shape[1])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        logits = lm.forward_logits(tokens, segments if masked else None, tokens if masked else None)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    loss.backward()


class _Counter(TorchDispatchMode):
    """Counts operations, and the bytes of tensors that are alive, shared storage once; `peak` is the most at once.

    torch's FlopCounterMode follows modules with hooks that keep tensors alive, so its table is used without it.
    """

    def __init__(self, there: Sequence[Any]) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = self.flops = 0
        for item in there:
            self._note(item)

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for item in tree_leaves(made):
            self._note(item)
        packet = function._overloadpacket
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **(kwargs or {}), out_val=made)
        elif packet in _CPU_ATTENTION:
            count, shapes = _CPU_ATTENTION[packet]
            self.flops += count(*(item.shape for item in args[:shapes]))
        return made

    def share(self, item: torch.Tensor, ranks: int) -> None:
        """Count of a tensor from now on one part in so many."""
        key = item.untyped_storage()._cdata
        self.now -= self.sizes[key]
        self.sizes[key] = item.untyped_storage().nbytes() // ranks
        self.now += self.sizes[key]

    def _note(self, item: Any) -> None:
        if not isinstance(item, torch.Tensor):
            return
        storage = item.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += self.sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def _bytes(parameters: Iterable[torch.Tensor], ranks: int = 1) -> int:
    """Of the largest slice of so many, cut along the first dimension; tied parameters once."""
    return sum(-(-len(p) // ranks) * (p.numel() // len(p)) * p.element_size() for p in set(parameters))


# torch counts attention on GPUs; the CPU's kernels have names of their own. With it, how many arguments have shapes.
_CPU_ATTENTION: dict[Any, tuple[Callable[..., int], int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (sdpa_flop_count, 3),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (sdpa_backward_flop_count, 4),
    torch.ops.twistlm.document_attention: (sdpa_flop_count, 3),
    # The first argument is the gradient, its heads behind its tokens; it has the shape of the queries otherwise.
    torch.ops.twistlm.document_attention_backward: (lambda _, q, k, v: sdpa_backward_flop_count(q, q, k, v), 4),
}
