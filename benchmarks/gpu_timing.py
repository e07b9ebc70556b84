"""What the parts of gpu.py share: a clock that waits for the card, and what its kernels took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[], Any]) -> float:
    wait()
    begun = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begun


@contextmanager
def profiled(wanted: bool, found: dict[str, Any]) -> Iterator[None]:
    """Inside the block, note the kernels that take the longest, in ms, and how many are launched."""
    if not wanted:
        yield
        return
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        yield
        wait()
    events = seen.key_averages()
    found["graphs"] = sum(event.count for event in events if event.key == "cudaGraphLaunch")
    kernels = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    kernels.sort(key=lambda event: -event.self_device_time_total)
    found["kernels"] = sum(event.count for event in kernels)
    found["kernel_ms"] = sum(event.self_device_time_total for event in kernels) / 1000
    found["longest"] = [
        [event.key[:90], event.count, round(event.self_device_time_total / 1000, 2)] for event in kernels[:14]
    ]
