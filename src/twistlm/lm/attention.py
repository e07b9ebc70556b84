"""Causal attention inside each document of a packed row: nothing is computed that a mask would hide.

On a GPU that is one kernel of torch's (`torch.nn.attention.varlen`), which is told where documents end; sliding windows
are its own. Where it cannot be (float32, dropout inside attention, an old GPU or torch), a mask is made of the ends.

On a CPU it is ours. torch's CPU kernel computes under a mask whatever the mask hides, and its products of 64 columns
run at a tenth of the rate of a large matrix product. Here a block of queries meets the keys of its own document up to
its own end, in one product for all heads. Probabilities are computed again in the backward pass, so no matrix of T x T
is kept.

Shapes: B rows, T tokens of a row, H heads, K heads of keys and values (H is a multiple of K), D channels of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "twistlm_documents"  # as transformers' `attn_implementation`, on a CPU
ENDS = "twistlm_ends"  # likewise, on a GPU
ONE = "twistlm_one"  # likewise, where many sequences are continued by one token each
BLOCK = 128  # queries; what they make for all heads should fit a core's cache


def document_mask(segments: torch.Tensor, window: int | None = None) -> torch.Tensor:
    """Return bool [B, 1, T, T], true where a token may look: earlier in its own document, or itself.

    With a `window`, at the last so many tokens, itself included.
    """
    causal = torch.ones(2 * segments.shape[1:], dtype=torch.bool, device=segments.device).tril()
    if window is not None:
        causal = causal.triu(1 - window)
    # Padding (0) sees padding: a row of the mask that allows nothing would give NaN.
    return ((segments[:, :, None] == segments[:, None, :]) & causal)[:, None]


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    **rest: Any,
) -> Any:
    """Be an attention function of transformers, which hands a 4-D `attention_mask` through as it is.

    One of int32 [B, 1, 1, T] holds the segments of packed rows. With any other, and with dropout inside attention
    (which hardly any model trains with), this is "sdpa".
    """
    mask = attention_mask
    segments = mask[:, 0, 0] if mask is not None and mask.dtype == torch.int32 else None
    if dropout or segments is None:
        mask = mask if segments is None else document_mask(segments)
        return sdpa_attention_forward(module, query, key, value, mask, dropout=dropout, scaling=scaling, **rest)
    # Under autocast, rotated queries and keys come in float32; the values tell what is multiplied.
    return document_attention(query.to(value.dtype), key.to(value.dtype), value, segments, scaling), None


def document_ends(segments: torch.Tensor) -> torch.Tensor:
    """Return int32 [1, 1, 1, N], where documents end among the B * T tokens of all rows, from 0 on; N is a power of 2.

    The end of the last one fills the rest, as documents without tokens: so N is the same for nearly all batches, and
    nothing is compiled anew. Padding counts as documents. Made on the CPU, where numpy's segments are, nobody waits.
    """
    starts = torch.ones(segments.shape, dtype=torch.bool)
    segments = segments.cpu()
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    places = torch.nonzero(starts.flatten())[:, 0]
    ends = torch.full((1 << len(places).bit_length(),), segments.numel(), dtype=torch.int32)
    ends[: len(places)] = places
    return ends[None, None, None]


def takes_ends(device: torch.device) -> bool:
    """Whether ENDS has a kernel on this device: a GPU of compute capability 8 and a torch that has it."""
    return device.type == "cuda" and _KERNEL is not None and torch.cuda.get_device_capability(device) >= (8, 0)


def _kernel() -> Callable[..., Any] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "window_size" in inspect.signature(varlen_attn).parameters else None  # 2.10 had another


_KERNEL = _kernel()  # not asked for inside compiled layers, which could not follow the question
# 2.11 shares keys among heads without being told.
_TELLS_GROUPS = _KERNEL is not None and "enable_gqa" in inspect.signature(_KERNEL).parameters


def _by_ends(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **rest: Any,
) -> Any:
    """Be an attention function of transformers for a mask that is `document_ends`; with any other, this is "sdpa"."""
    if attention_mask is None or attention_mask.dtype != torch.int32:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
            sliding_window=sliding_window, **rest,
        )  # fmt: skip
    n_rows, _, n_tokens, width = query.shape
    if _KERNEL is None or dropout or value.dtype not in (torch.bfloat16, torch.float16) or width % 8 or width > 256:
        places = torch.arange(n_rows * n_tokens, device=query.device, dtype=torch.int32)
        segments = torch.bucketize(places, attention_mask[0, 0, 0], right=True).view(n_rows, n_tokens)
        mask = document_mask(segments, sliding_window)
        return sdpa_attention_forward(module, query, key, value, mask, dropout=dropout, scaling=scaling, **rest)
    ends = attention_mask[0, 0, 0]
    # Under autocast, rotated queries and keys come in float32; the values tell what is multiplied.
    q, k, v = (x.to(value.dtype).transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    before = -1 if sliding_window is None or sliding_window >= n_tokens else sliding_window - 1
    groups = {"enable_gqa": q.shape[1] != k.shape[1]} if _TELLS_GROUPS else {}
    made = _KERNEL(q, k, v, ends, ends, n_tokens, n_tokens, scale=scaling, window_size=(before, 0), **groups)
    return made.view(n_rows, n_tokens, *made.shape[1:]), None


def _of_one(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    **rest: Any,
) -> Any:
    """Be an attention function of transformers for one query a row: plain products; with more, this is "sdpa".

    Torch's kernels compute 64 queries where one is, and want keys written out for every head that shares them. Here
    heads that share keys are the queries of one product, and keys are read once.
    """
    if query.shape[2] > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **rest)
    grouped = query[:, :, 0].unflatten(1, (key.shape[1], -1)) * scaling  # [B, K, H / K, D]
    logits = grouped @ key.mT
    if attention_mask is not None:
        logits = logits.masked_fill(~attention_mask, -torch.inf)
    return (logits.softmax(-1) @ value).flatten(1, 2)[:, None], None


@contextmanager
def sound_kernels() -> Iterator[None]:
    """Inside the block, torch does not take cuDNN's attention.

    On Hopper its backward pass under a mask gives NaN for rows whose length is 64 above a multiple of 128, as 704
    (pytorch#196678). The other kernels are as exact.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@torch.library.custom_op("twistlm::document_attention", mutates_args=())
def document_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: torch.Tensor, scale: float
) -> torch.Tensor:
    """Return [B, T, H, D]: softmax(scale * query . key) value, each document alone; zeros at padding.

    Logits and probabilities are float32 until they meet the values, as in torch's own kernels: rounded to bf16 before
    the softmax, gradients are further from the exact ones than torch's. An operator of its own, so that compiled code
    around it needs no shapes of documents.

    Args:
        query: [B, H, T, D].
        key, value: [B, K, T, D], of the type of `query`.
        segments: int [B, T], see `UnitLM.forward_logits`.
        scale: of the products.
    """
    made = query.new_zeros(query.transpose(1, 2).shape)
    for row, first, last in _documents(segments):
        out = _grouped(made[row, first:last].transpose(0, 1), key.shape[1])
        q = _grouped(query[row, :, first:last], key.shape[1])
        k, v = key[row, :, first:last], value[row, :, first:last]
        for block, seen, p, _ in _probabilities(q, k, scale):
            out[:, :, block] = (p.to(v.dtype) @ v[:, seen]).view_as(out[:, :, block])
    return made


@torch.library.custom_op("twistlm::document_attention_backward", mutates_args=())
def document_attention_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of query, key and value for that of `document_attention`'s result, [B, T, H, D]."""
    d_query, wide = torch.zeros_like(query), torch.promote_types(key.dtype, torch.float32)
    d_key, d_value = (torch.zeros_like(key, dtype=wide) for _ in range(2))
    for row, first, last in _documents(segments):
        g = _grouped(gradient[row, first:last].transpose(0, 1), key.shape[1])
        q, dq = (_grouped(x[row, :, first:last], key.shape[1]) for x in (query, d_query))
        k, v, dk, dv = (x[row, :, first:last] for x in (key, value, d_key, d_value))
        v_wide = v.to(wide)
        for block, seen, p, scaled in _probabilities(q, k, scale):
            g_block = g[:, :, block].flatten(1, 2)
            dv[:, seen] += p.to(v.dtype).mT @ g_block
            with _exact_products(v.dtype):
                d_p = g_block.to(wide) @ v_wide[:, seen].mT
            d_logits = torch._softmax_backward_data(d_p, p, -1, p.dtype).to(k.dtype)
            dq[:, :, block] = (d_logits @ k[:, seen] * scale).view_as(dq[:, :, block])
            dk[:, seen] += d_logits.mT @ scaled
    return d_query, d_key.to(key.dtype), d_value.to(value.dtype)


@document_attention.register_fake
def _(query: torch.Tensor, *_: Any) -> Any:
    return query.new_empty(query.transpose(1, 2).shape)


@document_attention_backward.register_fake
def _(_gradient: torch.Tensor, *like: Any) -> Any:
    return tuple(map(torch.empty_like, like[:3]))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001  # its name
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return (*document_attention_backward(gradient, *ctx.saved_tensors, ctx.scale), None, None)


document_attention.register_autograd(_backward, setup_context=_keep)
for _name, _function in ((NAME, _attention), (ENDS, _by_ends), (ONE, _of_one)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, sdpa_mask)


def _documents(segments: torch.Tensor) -> Iterator[tuple[int, int, int]]:
    """Yield (row, first token, token after the last) of every document."""
    for row, line in enumerate(segments.cpu()):
        edges = [0, *(torch.nonzero(line[1:] != line[:-1])[:, 0] + 1).tolist(), len(line)]
        for first, last in pairwise(edges):
            if line[first]:
                yield row, first, last


def _grouped(heads: torch.Tensor, n_groups: int) -> torch.Tensor:
    """Return [K, H / K, n, D], a view of [H, n, D]: the heads that share keys together."""
    return heads.unflatten(0, (n_groups, -1))


def _probabilities(
    q: torch.Tensor, k: torch.Tensor, scale: float
) -> Iterator[tuple[slice, slice, torch.Tensor, torch.Tensor]]:
    """Yield, for each block of m queries: which they are, which keys they see, p [K, H/K * m, seen], scaled queries."""
    n_groups, per_group, n, _ = q.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    k_wide = k.to(wide)
    future = torch.full((min(BLOCK, n), min(BLOCK, n)), -torch.inf, dtype=wide).triu_(1)
    for first in range(0, n, BLOCK):
        last = min(first + BLOCK, n)
        m, block, seen = last - first, slice(first, last), slice(0, last)
        scaled = q[:, :, block].flatten(1, 2) * scale
        with _exact_products(q.dtype):
            logits = (scaled.to(wide) @ k_wide[:, seen].mT).view(n_groups, per_group, m, last)
        logits[..., first:] += future[:m, :m]
        yield block, seen, logits.softmax(-1).flatten(1, 2), scaled


@contextmanager
def _exact_products(dtype: torch.dtype) -> Iterator[None]:
    """Inside the block, float32 products of what was `dtype` before take the fastest way that is as exact.

    Of bfloat16, oneDNN may multiply the factors as what they were and sum in float32: the same products, at twice the
    rate that MKL has on AMD.
    """
    if dtype != torch.bfloat16:
        yield
        return
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # made when the module is imported
    before, products.fp32_precision = products.fp32_precision, "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before
