"""Where this process computes, in how many digits, and how numbers get there."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from twistlm.compute.shared import Shared
from twistlm.compute.threads import require_threads


def device() -> torch.device:
    """The GPU where there is one, of several that of this rank; else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if "LOCAL_RANK" in os.environ else torch.device("cuda")


@contextmanager
def own_card(folder: Path) -> Iterator[int | None]:
    """Compute on a GPU that no other process in `folder` has, of several; where all are taken, on one of them.

    Yields which it is; None where there is no choice: no GPU or one, or torchrun has chosen.
    """
    n_cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if n_cards < 2 or "LOCAL_RANK" in os.environ:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        card = os.getpid() % n_cards
        for n in range(n_cards):
            lock = FileLock(folder / f".card-{n}.lock")
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except Timeout:
                continue
            card = n
            break
        torch.cuda.set_device(card)
        yield card


def alone_with(card: int | None) -> dict[str, str]:
    """Return the variables with which a new process sees only that one of this process's GPUs; none for None."""
    if card is None:
        return {}
    mine = os.environ.get("CUDA_VISIBLE_DEVICES")  # numbers or names, of all that the machine has
    return {"CUDA_VISIBLE_DEVICES": mine.split(",")[card].strip() if mine else str(card)}


def send(array: NDArray[Any], where: torch.device) -> torch.Tensor:
    """Return `array` as a tensor on `where`; to a GPU it goes through pinned memory, so that nobody waits for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(where, non_blocking=True) if where.type == "cuda" else tensor.to(where)


def _formats() -> tuple[Any, ...]:
    """Return torch's settings of how float32 products may be rounded, of GPUs and CPUs."""
    mkldnn: Any = torch.backends.mkldnn  # its parts are made when the module is imported
    cudnn: Any = torch.backends.cudnn
    return torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv


def _set_formats(values: Sequence[str]) -> None:
    # torch's older flag must agree with the newer ones, or whoever reads it gets an error.
    torch.backends.cudnn.allow_tf32 = values[1] == "tf32"
    for each, value in zip(_formats(), values, strict=True):
        each.fp32_precision = value


@contextmanager
def same_bits(*, enabled: bool) -> Iterator[None]:
    """Inside the block, kernels of a GPU that may add up in any order give way to those that give the same bits always.

    Of torch's, cuDNN's and the attention's; cuBLAS is told by a variable that it reads when it is first used, so enter
    this before anything was multiplied on the GPU. Inductor looks at the same switch as torch. Where an operation has
    no such kernel, torch raises.
    """
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn: Any = torch.backends.cudnn
    filling: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, filling.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    cudnn.benchmark, filling.fill_uninitialized_memory = False, False  # the second costs a pass, and moves no number
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.benchmark, filling.fill_uninitialized_memory = before[1:]


def _keep_digits() -> Callable[[], None]:
    before = [each.fp32_precision for each in _formats()]
    _set_formats(["ieee"] * len(before))
    return functools.partial(_set_formats, before)


_kept_digits = Shared(_keep_digits)


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside the block, float32 products and convolutions keep float32's digits, whatever was set outside.

    cuDNN rounds convolutions to TF32's 10 bits if not told so, and `torch.set_float32_matmul_precision("high")`
    anywhere in a process lets products follow, on a CPU ("medium") with bfloat16's 7 bits. Units must not depend on it.
    Several threads may be inside; what was set comes back when the last one leaves. Nor does autocast hold.

    Raises:
        TwistError: as of `threads.require_threads`.
    """
    require_threads()
    with _kept_digits(), no_autocast():
        yield


@contextmanager
def no_autocast() -> Iterator[None]:
    """Inside the block, autocast of whoever calls does not hold: scores and units would be other ones in it."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
