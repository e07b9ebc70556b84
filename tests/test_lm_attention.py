"""Attention of packed documents and oneDNN's products: equal to what torch computes, gradients included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from test_lm_model import KINDS, documents, make_spec, make_text_lm, pack
from twistlm.compute import choices
from twistlm.compute.products import quick_products
from twistlm.lm import attention
from twistlm.lm.model import UnitLM
from twistlm.lm.warmstart import warm_start


@settings(max_examples=12, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(1, 150), min_size=1, max_size=4), min_size=1, max_size=2),
    padding=st.integers(0, 5),
    heads=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    scale=st.sampled_from([1.0, 0.3]),
)
def test_documents_equal_torch_under_a_mask(
    rows: list[list[int]], padding: int, heads: tuple[int, int], scale: float
) -> None:
    width = max(map(sum, rows)) + padding
    segments = torch.zeros(len(rows), width, dtype=torch.int32)
    for line, lengths in zip(segments, rows, strict=True):
        line[: sum(lengths)] = torch.repeat_interleave(torch.arange(1, len(lengths) + 1), torch.tensor(lengths)).int()
    generator = torch.Generator().manual_seed(0)
    n_heads, n_keys = heads
    shapes = [(len(rows), n, width, 8) for n in (n_heads, n_keys, n_keys)]
    q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes)
    made = attention.document_attention(q, k, v, segments, scale)
    wide = (x.repeat_interleave(n_heads // n_keys, dim=1) for x in (k, v))
    mask = attention.document_mask(segments)
    expected = torch.nn.functional.scaled_dot_product_attention(q, *wide, attn_mask=mask, scale=scale).transpose(1, 2)
    real = (segments > 0)[:, :, None, None]
    torch.testing.assert_close(made, expected * real)
    weight = torch.randn(made.shape, generator=generator, dtype=torch.float64) * real
    for a, b in zip(*(torch.autograd.grad(out, (q, k, v), weight) for out in (made, expected)), strict=True):
        # Keys and values gather their gradients in float32 at least: here in float64.
        torch.testing.assert_close(a, b)


@pytest.fixture(params=KINDS)
def lm(request: pytest.FixtureRequest, tmp_path: Path) -> UnitLM:
    return warm_start(make_text_lm(tmp_path / "text", request.param), make_spec(), rows="mean", seed=0)


def test_a_model_is_the_same_with_and_without_a_mask(lm: UnitLM) -> None:
    tokens, segments = pack(documents(), padding=3)
    plain = lm.forward_logits(tokens, segments)
    with lm.packed_attention():
        packed = lm.forward_logits(tokens, segments)
        alone = lm.forward_logits(tokens[:, :7])  # rows without segments are one document, as ever
    real = segments[0] > 0
    torch.testing.assert_close(packed[:, real], plain[:, real], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(alone, packed[:, :7], atol=2e-5, rtol=1e-5)
    assert lm.model.config._attn_implementation == "sdpa"
    grads = [torch.autograd.grad(out[:, real].sin().sum(), list(lm.model.parameters())) for out in (packed, plain)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_bf16_is_as_near_to_float32_as_torchs_own_attention_is() -> None:
    # Large logits, as pretrained models have, which rounding to bf16 before the softmax moves far.
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 4, 200, 64, generator=generator) * size for size in (2.0, 2.0, 1.0))
    weight = torch.randn(1, 4, 200, 64, generator=generator)
    segments = torch.ones(1, 200, dtype=torch.int32)

    def torchs(*args: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(*args, is_causal=True)

    def ours(*args: torch.Tensor) -> torch.Tensor:
        return attention.document_attention(*args, segments, 0.125).transpose(1, 2)

    def gradients(attend, dtype: torch.dtype) -> list[torch.Tensor]:
        args = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        return torch.autograd.grad((attend(*args).float() * weight).sum(), args)

    exact = gradients(torchs, torch.float32)
    for name, want, theirs, own in zip(
        "qkv", exact, gradients(torchs, torch.bfloat16), gradients(ours, torch.bfloat16), strict=True
    ):
        far = [(got.float() - want).norm() / want.norm() for got in (theirs, own)]
        assert far[1] < 1.2 * far[0], (name, far)


def test_dropout_in_attention_still_drops(lm: UnitLM) -> None:
    tokens, segments = pack(documents(), padding=0)
    for module in lm.model.modules():
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.5)
    lm.model.train()
    with lm.packed_attention(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        one, other = (lm.forward_logits(tokens, segments) for _ in range(2))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("way", ["mkl", "onednn"])
@pytest.mark.parametrize("rows", [None, 1, 2])
def test_quick_products_change_rounding_only_and_leave(
    lm: UnitLM, rows: int | None, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(choices, "_made", {})
    monkeypatch.setenv(choices.VARIABLE, f"products={way}")
    tokens = torch.stack([documents()[0], documents()[0].flip(0)])
    with lm.inference():
        plain = lm.forward_logits(tokens)
        with quick_products(lm.model, rows=rows):
            inside = lm.forward_logits(tokens)
        torch.testing.assert_close(inside, plain, atol=2e-5, rtol=1e-5)
        assert torch.equal(lm.forward_logits(tokens), plain)
    assert not any("forward" in vars(module) for module in lm.model.modules())
