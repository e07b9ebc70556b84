"""A lean step is the model's own step: with exact products, the model's logits."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, MistralConfig, OPTConfig, Qwen2Config, Qwen3Config

from test_lm_model import random_lm
from twistlm.lm.lean import LeanStep, can_be_lean
from twistlm.lm.table import Table, placed, read

SIZES = {
    "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 64,
}  # fmt: skip
ROPE = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16}  # fmt: skip
LEAN = {
    "llama": LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True),
    "biased": LlamaConfig(**SIZES, num_key_value_heads=4, attention_bias=True, mlp_bias=True, head_dim=16),
    "turned": LlamaConfig(**SIZES, num_key_value_heads=1, rope_parameters=ROPE),
    "mistral": MistralConfig(**SIZES, num_key_value_heads=2, head_dim=8, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=2),
}


def product(weight: torch.Tensor, bias: torch.Tensor | None) -> partial[torch.Tensor]:
    return partial(nn.functional.linear, weight=weight, bias=bias)


@pytest.mark.parametrize("kind", LEAN)
@pytest.mark.parametrize("lengths", [[5], [3, 9, 1]], ids=["one row", "three rows"])
def test_logits_are_the_models(kind: str, lengths: list[int]) -> None:
    """Token after token behind prompts of unlike lengths, in a table that the model has begun, against the model."""
    lm = random_lm(LEAN[kind])
    assert can_be_lean(lm.model)
    rng = torch.Generator().manual_seed(1)
    rows = [torch.randint(2, 32, (n + 4,), generator=rng).tolist() for n in lengths]
    step, table = LeanStep(lm.model, product), Table(len(rows) + 1)
    with lm.inference():
        for i, (row, n) in enumerate(zip(rows, lengths, strict=True)):
            read(lm, table, [row[:n]], first=i, starts=[0])
        for ahead in range(4):
            starts = [n + ahead for n in lengths]
            positions, mask = placed(table, 0, starts, 1, lm.device)
            tokens = torch.tensor([[row[at]] for row, at in zip(rows, starts, strict=True)])
            found = step(tokens, positions, table, mask)[:, 0]
            for row, at, logits in zip(rows, starts, found, strict=True):
                expected = lm.model(torch.tensor([row[: at + 1]])).logits[0, -1]
                torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
                assert expected.std() > 0.1


@pytest.mark.parametrize("kind", LEAN)
@pytest.mark.parametrize("lengths", [[5], [3, 9, 1]], ids=["one row", "three rows"])
def test_a_prompt_and_several_tokens_at_once_are_the_models(kind: str, lengths: list[int]) -> None:
    """Prompts are read by it as well, each in one piece; then every row gets three tokens behind what it has."""
    lm = random_lm(LEAN[kind])
    rng = torch.Generator().manual_seed(2)
    rows = [torch.randint(2, 32, (n + 6,), generator=rng).tolist() for n in lengths]
    step, table = LeanStep(lm.model, product), Table(len(rows) + 1)
    with lm.inference():
        whole = [lm.model(torch.tensor([row])).logits[0] for row in rows]
        for i, (row, n) in enumerate(zip(rows, lengths, strict=True)):
            found = read(lm, table, [row[:n]], first=i, starts=[0], lean=step)
            torch.testing.assert_close(found[0], whole[i][:n], rtol=1e-4, atol=1e-4)
        for ahead in (0, 3):
            starts = [n + ahead for n in lengths]
            tokens = [row[at : at + 3] for row, at in zip(rows, starts, strict=True)]
            found = read(lm, table, tokens, first=0, starts=starts, lean=step)
            for at, logits, expected in zip(starts, found, whole, strict=True):
                torch.testing.assert_close(logits, expected[at : at + 3], rtol=1e-4, atol=1e-4)


def test_what_it_does_not_compute_is_told_apart() -> None:
    assert not can_be_lean(random_lm(OPTConfig(**{**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32})).model)
    assert not can_be_lean(
        random_lm(Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8)).model
    )  # norms of its queries
    assert not can_be_lean(random_lm(LlamaConfig(**SIZES, hidden_act="gelu")).model)
    lm = random_lm(LEAN["llama"])
    lm.model.model.layers[1].mlp.up_proj = nn.Sequential(lm.model.model.layers[1].mlp.up_proj)  # an adapter wraps so
    assert not can_be_lean(lm.model)
    assert not can_be_lean(random_lm(LEAN["qwen2"]).model.double())
