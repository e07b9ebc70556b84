"""Float32 matrix products of inference, and int8 ones of drafts: by the library that is faster on this CPU.

torch gives float32 products to MKL, which on AMD leaves AVX-512 unused: 100 GFLOP/s a core of an EPYC (Zen 5) against
oneDNN's 225. On an Intel Xeon MKL is as fast, and up to three times as fast for one row. So both are tried at first use
(`choices`), for each shape of weight, number of threads and class of rows (_CLASSES). Both sum in float32; they differ
in the order, so in the last digits, as two machines do. On other devices and for other types torch decides as ever.
Gradients cannot pass oneDNN's products.

bfloat16 was tried for the encoders (products only; norms, softmax and sums in float32): 1.75 times as fast again, but
0.7 to 0.9 % of frames get another unit, with the bundled encoder as with random ones. So there is one precision.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import nn

from twistlm.compute import choices
from twistlm.compute.choices import choose, race

Product = Callable[[torch.Tensor], torch.Tensor]
INT8_FROM = 2**24  # weights; with fewer, a step of a model is not bound by reading them

# The operator torch.compile uses for the same purpose.
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
# Without these instructions two products of bytes are added up in 16 bits, which hold 2 x 127 x 127, hardly more: then
# what a weight is multiplied with gets 7 bits. With 8, products were up to 11 % off on an AMD EPYC (Zen 3), not 2 %.
_VNNI = torch.cpu._is_vnni_supported()
# Up to so many rows it is tried with so many. One row is bound by reading the weight, many by multiplying.
_CLASSES = ((1, 1), (16, 8), (127, 64), (2**62, 256))
_BEHIND = 48 * 2**20  # bytes of weights that few rows go through: more than stays in a cache, as a model's do not,
_MOST = 128  # but no more weights than this: thousands of small ones take minutes to lay out, and stay in a cache
SECONDS = 0.05  # of trying one shape, about
# Encoders' products decide units, so noise must not decide them. With 256 rows oneDNN's were 0.74 to 1.14 times as fast
# as MKL's in some eighty trials on an Intel Xeon, one shape now at 0.94 and now at 1.06; on an EPYC 2.2 times.
MARGIN = 1.25

_products: ContextVar[Mapping[nn.Linear, Product]] = ContextVar("products", default={})  # noqa: B039  (never changed)
_lock = threading.Lock()


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`torch.nn.functional.linear`: [..., K], [M, K] and [M] -> [..., M], all of one type."""
    if _ONEDNN and x.is_cpu and x.dtype == torch.float32 and x.numel() and by_onednn(x.numel() // x.shape[-1], weight):
        return _product(x, weight=weight, bias=bias)
    return F.linear(x, weight, bias)


def by_onednn(rows: int, weight: torch.Tensor, *, laid_out: bool = False) -> bool:
    """Tell whether oneDNN multiplies so many rows by a weight [M, K] of this shape faster than torch does.

    Args:
        rows: how many.
        weight: only its shape counts.
        laid_out: whether the weight would be laid out for oneDNN before.
    """
    outputs, inputs = weight.shape
    tried = next(tried for most, tried in _CLASSES if rows <= most)
    how = " laid out" if laid_out else ""
    what = f"{tried} x {inputs} x {outputs}{how}, {torch.get_num_threads()} threads"
    measure = functools.partial(_measure, tried, inputs, outputs, laid_out)
    margin = choices.MARGIN if laid_out else MARGIN
    return choose("products", what, measure, possible=_ONEDNN, margin=margin).took == "onednn"


@torch.no_grad()
def _measure(rows: int, inputs: int, outputs: int, laid_out: bool) -> dict[str, float]:
    """Return the seconds of products of so many rows, one after the other with weights that lie in memory."""
    n = 1 if rows > 16 else min(_MOST, max(1, _BEHIND // (4 * inputs * outputs)))
    weights = list(torch.full((n, outputs, inputs), 0.01))
    x = torch.full((rows, inputs), 0.1)
    packed = [torch.ops.mkldnn._reorder_linear_weight(w, rows) for w in weights] if laid_out else weights
    return race(
        {
            "mkl": lambda: [F.linear(x, weight) for weight in weights],
            "onednn": lambda: [_product(x, weight=weight, bias=None) for weight in packed],
        },
        seconds=SECONDS,
    )


class Linear(nn.Linear):
    """nn.Linear by `linear`, for inference."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return linear(input, self.weight, self.bias)


def quicken(model: nn.Module) -> None:
    """Make every nn.Linear of the model a `Linear` over the same weights, in place."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear:
            quick = Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
            quick.weight, quick.bias = module.weight, module.bias
            model.set_submodule(name, quick)


@contextmanager
def quick_products(model: nn.Module, *, rows: int | None = None, instead: bool = False) -> Iterator[None]:
    """Inside the block, the linear maps of a model that is also trained are multiplied by `linear`.

    Threads may be in blocks of one model at once: each has its own products.

    Args:
        model: its modules of class `nn.Linear` exactly; those that wrap one (adapters) stay as they are.
        rows: of the products to come, when they are few and many products come. Where that is faster, weights are then
            laid out for them once, a second copy in memory, made in the time of about ten products.
        instead: whether that copy takes the place of the first until the block is left, when that is made again, bit
            for bit: for a server, whose block is long. Inside it those modules' weights are empty, and
            other threads multiply by that copy too.
    """
    found = linears(model)
    uses = Counter(id(p) for m in model.modules() for p in m._parameters.values())
    emptied: dict[nn.Linear, torch.Tensor] = {}
    plain = all(m.weight.dtype == torch.float32 and m.weight.device.type == "cpu" for m in found)
    products: dict[nn.Linear, Product] = {}
    try:
        for module in found if plain and _ONEDNN else []:
            made = product(module.weight.detach(), bias_of(module), rows=rows)
            products[module] = made
            if instead and made.keywords["weight"].is_mkldnn and uses[id(module.weight)] == 1:
                emptied[module] = made.keywords["weight"]
                _enter(module).without = made
                module.weight.data = torch.empty(0)
        for parameter in model.parameters() if emptied else ():
            parameter.data = parameter.clone()  # what is left holds no file of weights mapped
        with multiplied_by(products):
            yield
    finally:
        for module, packed in emptied.items():
            module.weight.data = packed.to_dense()
            vars(module)["forward"].without = None
            _leave(module)


def product(weight: torch.Tensor, bias: torch.Tensor | None, *, rows: int | None) -> functools.partial[torch.Tensor]:
    """Return the product by a float32 weight [M, K] and a bias [M] or None, as `linear` gives it.

    Args:
        weight, bias: on a CPU.
        rows: as of `quick_products`.
    """
    if rows is None or not _ONEDNN or not by_onednn(rows, weight, laid_out=True):
        return functools.partial(linear, weight=weight, bias=bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return functools.partial(_product, weight=packed, bias=bias)


def int8_may_help(model: nn.Module) -> bool:
    """Tell whether int8 weights could make a step of the model faster. Whether they do is for the caller to try.

    Not on other devices than CPUs, nor for other types than float32, nor for a model whose weights are few or mostly
    not in linear maps.
    """
    n_weights = sum(m.weight.numel() for m in linears(model))
    plain = all(p.dtype == torch.float32 and p.is_cpu for p in model.parameters())
    return _ONEDNN and plain and n_weights >= max(INT8_FROM, sum(p.numel() for p in model.parameters()) / 2)


def int8_product(weight: torch.Tensor, bias: torch.Tensor | None, *, laid_out: bool) -> Product:
    """Return nearly the product with a weight [M, K] and a bias [M], from an int8 copy: a quarter of the bytes.

    Each row of the weight has its own scale. What it is multiplied with is rounded to bfloat16, or to int8 as well.

    Args:
        weight, bias: float32; the bias may be None.
        laid_out: whether the copy is laid out for integer products: two to three times as fast, somewhat less exact,
            and made in the time of some forty products.
    """
    scales = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    small = (weight / scales[:, None]).round_().to(torch.int8)  # torch.quantize_per_channel takes ten times as long
    if not laid_out or torch.backends.quantized.engine == "none":
        return functools.partial(_int8_product, weight=small, scales=scales.bfloat16(), bias=bias)
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.quantize_per_")  # to go in some later torch; there is no other way yet
        quantized = torch._make_per_channel_quantized_tensor(small, scales.double(), zeros, 0)
        packed = torch.ops.quantized.linear_prepack(quantized, bias)
    return functools.partial(_packed_product, packed=packed)


@contextmanager
def multiplied_by(products: Mapping[nn.Linear, Product]) -> Iterator[None]:
    """Inside the block, these modules compute their products in this way; blocks may stand in blocks.

    On this thread, and on those of `threads.in_order` that it starts: others compute as ever.
    """
    before = _products.get()
    for module in products:
        _enter(module)
    _products.set({**before, **products})
    try:
        yield
    finally:
        _products.set(before)
        for module in products:
            _leave(module)


class _Forward:
    """Stands for a module's `forward` while any thread is `inside` a block in which it is multiplied otherwise."""

    def __init__(self, module: nn.Linear) -> None:
        self.module, self.inside = module, 0
        self.without: Product | None = None  # the product where its weight is empty

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        product = _products.get().get(self.module, self.without)
        return nn.Linear.forward(self.module, rows) if product is None else product(rows)


def _enter(module: nn.Linear) -> _Forward:
    with _lock:
        forward: _Forward = vars(module).setdefault("forward", _Forward(module))
        forward.inside += 1
        return forward


def _leave(module: nn.Linear) -> None:
    with _lock:
        vars(module)["forward"].inside -= 1
        if not vars(module)["forward"].inside:
            del vars(module)["forward"]  # the method of its class is seen again


def linears(model: nn.Module) -> list[nn.Linear]:
    """Return what may be multiplied otherwise; weights shared out over ranks (DTensors) are put together by hooks."""
    return [
        m
        for m in model.modules()
        if type(m) is nn.Linear
        and type(m.weight) is nn.Parameter
        and m.weight.ndim == 2  # else it is empty, and multiplied otherwise
        and m not in _products.get()
        and type(vars(m).get("forward")) in (type(None), _Forward)
    ]


def bias_of(module: nn.Linear) -> torch.Tensor | None:
    return None if module.bias is None else module.bias.detach()


def _product(rows: torch.Tensor, *, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


def _int8_product(
    rows: torch.Tensor, *, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    small = torch._weight_int8pack_mm(rows.bfloat16().flatten(0, -2), weight, scales).float()
    found = small.view(*rows.shape[:-1], len(weight))
    return found if bias is None else found + bias


def _packed_product(rows: torch.Tensor, *, packed: torch.ScriptObject) -> torch.Tensor:
    return torch.ops.quantized.linear_dynamic(rows, packed, reduce_range=not _VNNI)
