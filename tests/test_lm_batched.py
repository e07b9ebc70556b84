"""Sampling on the device, on a CPU: the units of `generate`, of every kind of cache, and no more waiting than told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import BloomConfig, MistralConfig

from test_lm_model import KINDS, make_spec, make_text_lm
from test_lm_sample import make_prompt
from twistlm.lm import batched
from twistlm.lm.continuation import begin
from twistlm.lm.model import UnitLM
from twistlm.lm.pretrained import from_config
from twistlm.lm.sample import generate
from twistlm.lm.warmstart import warm_start

OTHERS: dict[str, Any] = {
    "bloom": BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),
    "a sliding window": MistralConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=64, sliding_window=8,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=[*KINDS, *OTHERS])
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> UnitLM:
    folder = tmp_path_factory.mktemp("text") / "lm"
    if request.param in KINDS:
        make_text_lm(folder, request.param)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = from_config(OTHERS[request.param])
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.data.normal_(std=0.3)
        model.save_pretrained(folder)
    return warm_start(folder, make_spec(deduplicate=True), rows="mean", seed=0)


@pytest.mark.parametrize(
    ("temperature", "top_k", "stop_at_end"), [(1.0, None, True), (0.7, 3, False), (0, None, False)]
)
def test_units_are_those_of_generate(lm: UnitLM, temperature: float, top_k: int | None, stop_at_end: bool) -> None:
    how: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "stop_at_end": stop_at_end}
    prompts = [make_prompt(ids, lm.spec) for ids in ([1, 2, 3], [7, 4, 9, 11, 5, 2, 8], [6])]
    limits = [19, 12, 7]
    alone = [
        generate(lm, prompt, seed=seed, max_units=n, **how)
        for seed, (prompt, n) in enumerate(zip(prompts, limits, strict=True))
    ]
    asked = [
        begin(lm, prompt, seed=seed, max_units=n, **how)
        for seed, (prompt, n) in enumerate(zip(prompts, limits, strict=True))
    ]
    with lm.inference():
        rule = batched.Rule(temperature=temperature, top_k=top_k, stop_at_end=stop_at_end)
        together = batched.decode(lm, [one.tokens for one in asked], [one.draws for one in asked], rule)
    for one, new, expected in zip(asked, together, alone, strict=True):
        assert np.array_equal(one.units(lm, new).ids, expected.ids)
