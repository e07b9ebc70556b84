"""Attention of packed documents and oneDNN's products: equal to what torch computes, gradients included."""

from __future__ import annotations

import itertools
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


def test_weights_laid_out_may_stand_in_the_place_of_plain_ones(lm: UnitLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server has it: the same numbers inside, one copy in memory, and afterwards every bit as it was."""
    monkeypatch.setattr(choices, "_made", {})
    monkeypatch.setenv(choices.VARIABLE, "products=onednn")
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    with lm.inference():
        with quick_products(lm.model, rows=2):
            beside = lm.forward_logits(documents()[0][None])
        with quick_products(lm.model, rows=2, instead=True):
            assert torch.equal(lm.forward_logits(documents()[0][None]), beside)
            empty = {name for name, value in lm.model.state_dict().items() if not value.numel()}
            assert empty and not any("embed" in name for name in empty)
    after = lm.model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], value) for name, value in before.items())


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: list[int], scale: float, left: int):
    """What `varlen_attn` promises, one document at a time: [N, H, D], [N, K, D] twice -> [N, H, D]."""
    made = torch.zeros_like(q)
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    for first, last in itertools.pairwise(ends):
        for at in range(first, last):
            begin = first if left < 0 else max(first, at - left)
            weights = (torch.einsum("hd,nhd->hn", q[at], k[begin : at + 1]) * scale).softmax(-1)
            made[at] = torch.einsum("hn,nhd->hd", weights, v[begin : at + 1])
    return made


@pytest.mark.parametrize("window", [None, 1, 3, 400])
def test_attention_by_ends_hands_torchs_kernel_what_the_mask_would_say(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel runs on GPUs alone: its contract, kept slowly here, must equal attention under a mask."""
    segments = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 0, 0], [1, 2, 2, 2, 2, 2, 3, 3, 3]])
    asked: list[tuple[int, int]] = []

    def kernel(q, k, v, ends, ends_k, max_q, max_k, *, scale, window_size, enable_gqa=not attention._TELLS_GROUPS):
        assert ends.dtype == torch.int32 and ends is ends_k and max_q == max_k == 9 and enable_gqa
        assert window_size[1] == 0 and q.is_contiguous() and q.dtype == k.dtype == v.dtype == torch.bfloat16
        asked.append(window_size)
        made = reference(*(x.double() for x in (q, k, v)), ends.tolist(), scale, window_size[0])
        return made.to(q.dtype)

    monkeypatch.setattr(attention, "_KERNEL", kernel)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 9, n, 8, generator=generator).bfloat16().transpose(1, 2) for n in (4, 2, 2))
    ends = attention.document_ends(segments)
    arguments = {"scaling": 0.3, "sliding_window": window}
    made, _ = attention._by_ends(torch.nn.Module(), q.float(), k.float(), v, ends, **arguments)
    wide = (x.repeat_interleave(2, dim=1).double() for x in (k, v))
    mask = attention.document_mask(segments, window)
    expected = torch.nn.functional.scaled_dot_product_attention(q.double(), *wide, attn_mask=mask, scale=0.3)
    torch.testing.assert_close(made.double(), expected.transpose(1, 2), atol=1e-2, rtol=1e-2)
    assert asked == [(-1 if window in (None, 400) else window - 1, 0)]
    # In float32, which the kernel does not know, a mask is made of the ends.
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    masked, _ = attention._by_ends(module, q.float(), k.float(), v.float(), ends, **arguments)
    torch.testing.assert_close(masked.double(), expected.transpose(1, 2), atol=1e-6, rtol=1e-6)
    assert len(asked) == 1


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=6), min_size=1, max_size=3))
def test_ends_are_those_of_the_documents_and_of_few_lengths(rows: list[list[int]]) -> None:
    width = max(map(sum, rows)) + 1
    segments = torch.zeros(len(rows), width, dtype=torch.int32)
    for line, lengths in zip(segments, rows, strict=True):
        line[: sum(lengths)] = torch.repeat_interleave(torch.arange(1, len(lengths) + 1), torch.tensor(lengths)).int()
    ends = attention.document_ends(segments)
    assert ends.dtype == torch.int32 and ends.ndim == 4 and ends.numel().bit_count() == 1
    line = ends.flatten().tolist()
    assert line[0] == 0 and line[-1] == segments.numel() and line == sorted(line)
    documents = [length for lengths in rows for length in [*lengths, width - sum(lengths)]]
    assert [b - a for a, b in itertools.pairwise(line) if b > a] == documents


def test_cudnns_attention_is_left_out_while_training_and_put_back() -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with attention.sound_kernels():
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


@pytest.mark.parametrize(("heads", "keys"), [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_of_one_token_is_torchs(heads: int, keys: int, masked: bool) -> None:
    generator, module = torch.Generator().manual_seed(0), torch.nn.Module()
    module.num_key_value_groups = heads // keys  # type: ignore[assignment]
    module.is_causal = True  # type: ignore[assignment]
    q, k, v = (torch.randn(3, n, t, 8, generator=generator) for n, t in ((heads, 1), (keys, 11), (keys, 11)))
    mask = torch.rand(3, 1, 1, 11, generator=generator) < 0.5 if masked else None
    if mask is not None:
        mask[..., -1] = True
    made, _ = attention._of_one(module, q, k, v, mask, scaling=0.3)
    expected, _ = attention.sdpa_attention_forward(module, q, k, v, mask, scaling=0.3)
    assert made.shape == expected.shape
    torch.testing.assert_close(made, expected)
    many = torch.randn(3, heads, 2, 8, generator=generator)
    mask = torch.ones(3, 1, 2, 11, dtype=torch.bool)
    a, b = (f(module, many, k, v, mask, scaling=0.3)[0] for f in (attention._of_one, attention.sdpa_attention_forward))
    assert torch.equal(a, b)
