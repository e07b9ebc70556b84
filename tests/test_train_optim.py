from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup, get_wsd_schedule

from twistlm import recipes
from twistlm.config import TrainConfig
from twistlm.train.optim import adamw, decay_begins, learning_rate

BASE = dataclasses.replace(recipes.quickstart().warm, table_rate=1.0)
CPU = torch.device("cpu")


@st.composite
def configs(draw: st.DrawFn) -> TrainConfig:
    lr = draw(st.floats(1e-6, 1.0))
    return dataclasses.replace(
        BASE,
        updates=draw(st.integers(1, 60)),
        warmup=draw(st.integers(0, 20)),
        lr=lr,
        lr_floor=lr * draw(st.floats(0.0, 1.0)),
        schedule=draw(st.sampled_from(["inverse_sqrt", "cosine", "wsd"])),
    )


@given(configs())
def test_rate_rises_in_a_line_then_falls_to_the_floor(config: TrainConfig) -> None:
    rates = [learning_rate(update, config) for update in range(config.updates)]
    rise, fall = rates[: config.warmup], rates[config.warmup :]
    assert rise == pytest.approx([config.lr * (i + 1) / config.warmup for i in range(len(rise))])
    assert all(later <= earlier for earlier, later in itertools.pairwise(fall))
    assert all(config.lr_floor * (1 - 1e-12) <= rate <= config.lr * (1 + 1e-12) for rate in fall)


def test_inverse_sqrt_by_hand() -> None:
    config = dataclasses.replace(BASE, lr=1.0, lr_floor=0.3, warmup=4, schedule="inverse_sqrt")
    expected = [0.25, 0.5, 0.75, 1.0, math.sqrt(4 / 5), math.sqrt(4 / 6)]
    assert [learning_rate(u, config) for u in range(6)] == pytest.approx(expected)
    assert learning_rate(15, config) == pytest.approx(0.5)
    assert learning_rate(1000, config) == 0.3


def test_cosine_equals_transformers() -> None:
    """After the rise. Theirs reaches the floor one update after the last, so it is told of one update less."""
    config = dataclasses.replace(BASE, lr=1.0, lr_floor=0.0, warmup=5, updates=40, schedule="cosine")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=5, num_training_steps=39).lr_lambdas[0]
    ours = [learning_rate(update, config) for update in range(5, 40)]
    assert ours == pytest.approx([theirs(update) for update in range(5, 40)])
    assert ours[0] == 1.0 and ours[-1] == pytest.approx(0.0)


def test_wsd_equals_transformers() -> None:
    """Theirs reaches the floor one update after the last, so it is asked one update later in the decay."""
    config = dataclasses.replace(BASE, lr=1.0, lr_floor=0.1, warmup=5, updates=40, schedule="wsd")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_wsd_schedule(
        optimizer, num_warmup_steps=5, num_stable_steps=27, num_decay_steps=8, decay_type="1-sqrt", min_lr_ratio=0.1
    ).lr_lambdas[0]
    ours = [learning_rate(update, config) for update in range(5, 40)]
    assert decay_begins(config) == 32
    assert ours == pytest.approx([*(theirs(u) for u in range(5, 32)), *(theirs(u + 1) for u in range(32, 40))])
    assert ours[-1] == pytest.approx(0.1)


def tiny() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=12, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            tie_word_embeddings=True, mlp_bias=True,
        )
    )  # fmt: skip


def test_only_matrices_are_decayed_and_tied_weights_counted_once() -> None:
    model = tiny()
    decayed, kept = adamw(model, BASE).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (BASE.weight_decay, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all("norm" in names[id(p)] or "bias" in names[id(p)] for p in kept["params"]) and kept["params"]
    assert not any("norm" in names[id(p)] or "bias" in names[id(p)] for p in decayed["params"])
    both = [id(p) for p in [*decayed["params"], *kept["params"]]]
    assert sorted(both) == sorted(names) and len(set(both)) == len(both)


def test_frozen_parameters_are_left_out() -> None:
    model = tiny()
    model.model.embed_tokens.weight.requires_grad_(False)
    updated = {id(p) for group in adamw(model, BASE).param_groups for p in group["params"]}
    assert id(model.model.embed_tokens.weight) not in updated and updated


def test_one_step_equals_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(3, 4, bias=False)
    linear.weight.data = torch.randn(4, 3, generator=generator)
    linear.weight.grad = torch.randn(4, 3, generator=generator)
    before, grad = linear.weight.detach().clone(), linear.weight.grad.clone()
    adamw(linear, dataclasses.replace(BASE, lr=0.1, weight_decay=0.5)).step()
    expected = before * (1 - 0.1 * 0.5) - 0.1 * grad / (grad.abs() + 1e-8)
    torch.testing.assert_close(linear.weight.detach(), expected)
