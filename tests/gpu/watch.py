"""Counts what is launched on the GPU of `fake`, and where the host waits for it; answers what has no data."""

from __future__ import annotations

import contextlib
import copy
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from fake import CUDA
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
# inference_mode hands these over whole, so that what they are made of is not seen.
_COMPOSITE = {
    aten.is_nonzero.default, aten.item.default, aten.to.device, aten.to.dtype, aten.to.dtype_layout, aten.to.other,
    aten.scaled_dot_product_attention.default,
}  # fmt: skip
# No kernels: another view of the same memory.
_VIEWS = (
    "view", "transpose", "t.default", "expand", "permute", "squeeze", "detach", "slice", "select", "split", "alias",
    "as_strided", "unbind", "unfold", "chunk",
)  # fmt: skip


class Watch(TorchDispatchMode):
    """Counts inside its block. `.item()` is 5, or False: nothing in the product may depend on what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.unpinned: Counter[str] = Counter()

    def clear(self) -> None:
        """Forget what making the model took."""
        for counter in (self.kernels, self.waits, self.unpinned):
            counter.clear()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _COMPOSITE:
            with self:
                return function.decompose(*args, **kwargs)
        if function is aten._local_scalar_dense.default:
            [tensor] = args
            if tensor.is_cuda:
                self.waits[f"item at {_where()}"] += 1
            if not isinstance(tensor, FakeTensor):
                return function(*args, **kwargs)
            return False if tensor.dtype == torch.bool else 5.0 if tensor.is_floating_point() else 5
        if function is aten.nonzero.default:
            if args[0].is_cuda:
                self.waits[f"nonzero at {_where()}"] += 1
            return torch.zeros(1, args[0].ndim, dtype=torch.int64, device=args[0].device)
        if function in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default) and any(
            x is not None and x.dtype == torch.bool and x.is_cuda for x in args[1]
        ):
            self.waits[f"index by bool at {_where()}"] += 1
            return args[0] if "put" in str(function) else args[0].new_empty((7, *args[0].shape[args[1][0].ndim :]))
        if function is aten._to_copy.default and kwargs.get("device") is not None:
            there, here = args[0].device.type, torch.device(kwargs["device"]).type
            if (there, here) == ("cuda", "cpu"):
                self.waits[f"copy {tuple(args[0].shape)} to the host at {_where()}"] += 1
            if (there, here) == ("cpu", "cuda") and not kwargs.get("non_blocking"):
                self.unpinned[f"copy {tuple(args[0].shape)} to the GPU at {_where()}"] += 1
        name = str(function)
        if name != "prim.device.default" and not any(view in name for view in _VIEWS) and _on_gpu(args, kwargs):
            self.kernels[name] += 1
        return function(*args, **kwargs)


def _on_gpu(*given: Any) -> bool:
    return any(isinstance(x, torch.Tensor) and x.is_cuda for x in tree_leaves(given))


def _where() -> str:
    frames = traceback.extract_stack()
    for package in ("/twistlm/", "/transformers/"):
        for frame in reversed(frames):
            if package in frame.filename and "/tests/" not in frame.filename:
                return f"{frame.filename.rpartition(package)[2]}:{frame.lineno}"
    return "?"


def move(module: torch.nn.Module) -> torch.nn.Module:
    """Do what `.to(CUDA)` does; fake tensors cannot be swapped in place."""
    moved: dict[int, Any] = {}
    for part in module.modules():
        for kind in (part._parameters, part._buffers):
            for name, value in kind.items():
                if value is None:
                    continue
                if id(value) not in moved:
                    there = value.detach().to(CUDA)
                    is_parameter = isinstance(value, torch.nn.Parameter)
                    new = torch.nn.Parameter(there, value.requires_grad) if is_parameter else there
                    moved[id(value)] = new, value  # the old one stays, so that its id does
                kind[name] = moved[id(value)][0]
    return module


def copied(module: torch.nn.Module) -> torch.nn.Module:
    """A deep copy, of a module with data."""
    with unset_fake_temporarily():
        return copy.deepcopy(module)


def pretend() -> None:
    """Have torch answer as on an H100 where it would look for the GPU itself; for the whole process."""
    capabilities: dict[str, Callable[..., Any]] = {
        "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda state, device=None: None,
        "is_bf16_supported": lambda including_emulation=True: True,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: "simulated",
        "is_current_stream_capturing": lambda: False,
    }
    for name, answer in capabilities.items():
        setattr(torch.cuda, name, answer)
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.Tensor.pin_memory = lambda self, device=None: self  # type: ignore[method-assign]
    numpy, tolist = torch.Tensor.numpy, torch.Tensor.tolist
    kinds = {torch.bool: np.bool_, torch.uint8: np.uint8, torch.int32: np.int32, torch.int64: np.int64,
             torch.float32: np.float32, torch.float64: np.float64, torch.uint16: np.uint16}  # fmt: skip

    def no_numbers(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self, FakeTensor):
            return numpy(self, *args, **kwargs)
        if self.is_cuda:
            raise TypeError(f".numpy() of a tensor on the GPU at {_where()}")
        return np.zeros(tuple(self.shape), kinds[self.dtype])

    def no_list(self: torch.Tensor) -> Any:
        if not isinstance(self, FakeTensor):
            return tolist(self)
        return no_numbers(self.cpu() if self.is_cuda else self).tolist()  # one copy, whatever its size

    torch.Tensor.numpy = no_numbers  # type: ignore[method-assign]
    torch.Tensor.tolist = FakeTensor.tolist = no_list  # type: ignore[method-assign]
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def fused(q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
              scale: Any = None, enable_gqa: bool = False) -> Any:  # fmt: skip
        """One fused kernel, as on a GPU; the CPU's torch would take the path of plain products."""
        if not q.is_cuda:
            return sdpa(q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        if torch.is_autocast_enabled("cuda"):
            q, k, v = (x.to(torch.bfloat16) for x in (q, k, v))
        if enable_gqa:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                attn_mask = torch.where(attn_mask, 0.0, -torch.inf).to(q.dtype)
            attn_mask = attn_mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        return aten._scaled_dot_product_efficient_attention(
            q, k, v, attn_mask, q.requires_grad, dropout_p, is_causal, scale=scale
        )[0]

    torch.nn.functional.scaled_dot_product_attention = fused


@contextlib.contextmanager
def simulated() -> Iterator[Watch]:
    """Inside the block, tensors have no data, and what is done with them is counted."""
    with FakeTensorMode(allow_non_fake_inputs=True), Watch() as watch:
        yield watch
