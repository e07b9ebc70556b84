"""Sampling: equal to transformers when greedy, seeded, the same in any batch, and never a special token."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BloomConfig, Gemma3TextConfig, ImageGPTConfig, MistralConfig, PretrainedConfig

from test_lm_model import KINDS, make_spec, make_text_lm, random_lm
from twistlm.compute import choices, products
from twistlm.errors import BadInput, UnitSpecMismatch
from twistlm.lm import drafting
from twistlm.lm.continuation import begin, pick
from twistlm.lm.continuous import Batch
from twistlm.lm.lean import LeanStep
from twistlm.lm.model import UnitLM
from twistlm.lm.noise import seeds_of_places
from twistlm.lm.sample import generate, generate_batch
from twistlm.lm.warmstart import warm_start
from twistlm.types import Units, UnitSpec


def build(folder: Path, kind: str, *, deduplicate: bool) -> UnitLM:
    return warm_start(make_text_lm(folder, kind), make_spec(deduplicate=deduplicate), rows="mean", seed=0)


@pytest.fixture(scope="module", params=KINDS)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> UnitLM:
    return build(tmp_path_factory.mktemp("text"), request.param, deduplicate=True)


def make_prompt(ids: list[int], spec: UnitSpec, runs: int = 2) -> Units:
    return Units(np.array(ids, dtype=np.uint16), np.full(len(ids), runs, dtype=np.int32), spec, "a prompt")


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_transformers(kind: str, tmp_path: Path) -> None:
    lm = build(tmp_path / "text", kind, deduplicate=False)
    for ids in ([3, 3, 8], [20]):
        ours = generate(lm, make_prompt(ids, lm.spec, 1), temperature=0, seed=0, max_units=20, stop_at_end=False)
        theirs = lm.model.generate(
            torch.tensor([[1, *(u + 2 for u in ids)]]), do_sample=False, max_new_tokens=20, suppress_tokens=[0, 1]
        )
        assert (ours.ids + 2).tolist() == theirs[0, 1:].tolist()


def test_same_seed_same_sample_whatever_the_batch(lm: UnitLM) -> None:
    prompts = [
        make_prompt([1, 2, 3], lm.spec),
        None,
        make_prompt([7, 4, 9, 11, 5, 2, 8], lm.spec),
        make_prompt([6], lm.spec),
    ]
    options = {"temperature": 1.0, "max_units": 15, "stop_at_end": True}
    before = torch.random.get_rng_state()
    together = generate_batch(lm, prompts, seeds=[5, 6, 7, 8], **options)
    assert torch.equal(before, torch.random.get_rng_state())
    reverse = generate_batch(lm, prompts[::-1], seeds=[8, 7, 6, 5], **options)[::-1]
    for prompt, seed, a, b in zip(prompts, (5, 6, 7, 8), together, reverse, strict=True):
        alone = generate(lm, prompt, seed=seed, **options)
        assert alone.ids.tolist() == a.ids.tolist() == b.ids.tolist()
    others = generate_batch(lm, prompts, seeds=[9, 10, 11, 12], **options)
    assert [u.ids.tolist() for u in others] != [u.ids.tolist() for u in together]


def test_cache_gives_the_distribution_of_the_whole_prefix(lm: UnitLM) -> None:
    """Greedy, with self-repetition forbidden, against a loop that runs the whole prefix again for every unit."""
    prompts = [make_prompt([4, 1], lm.spec), make_prompt([9, 3, 9, 3, 12], lm.spec)]
    made = generate_batch(lm, prompts, seeds=[0, 0], temperature=0, max_units=12, stop_at_end=False)
    for prompt, found in zip(prompts, made, strict=True):
        tokens = [1, *(int(u) + 2 for u in prompt.ids)]
        for _ in range(12):
            with torch.no_grad():
                logits = lm.model(torch.tensor([tokens])).logits[0, -1]
            logits[[0, 1, tokens[-1]]] = -torch.inf
            tokens.append(int(logits.argmax()))
        assert (found.ids + 2).tolist() == tokens[1:]


def test_continuation_keeps_the_prompt_and_the_invariants(lm: UnitLM) -> None:
    prompt = make_prompt([1, 2, 3], lm.spec, runs=4)
    lm.model.train()
    out = generate(lm, prompt, seconds=2, temperature=5.0, seed=1, stop_at_end=False)
    assert lm.model.training
    lm.model.eval()
    assert len(out) - 3 == round(2 * 25 / 4)  # the prompt's mean run
    assert out.ids[:3].tolist() == [1, 2, 3]
    assert out.runs.tolist() == [4] * 3 + [1] * (len(out) - 3)
    assert out.id == "a prompt"
    assert (out.ids[1:] != out.ids[:-1]).all()
    assert prompt.ids.tolist() == [1, 2, 3]
    assert len(generate(lm, None, seconds=2, mean_run=2.5, temperature=1.0, seed=1, stop_at_end=False)) == 20
    shorter = generate(lm, prompt, seconds=2, max_units=5, temperature=1.0, seed=1, stop_at_end=False)
    assert len(shorter) == 8


def test_learned_positions_end_for_those_that_are_done() -> None:
    sizes = {"vocab_size": 33, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 4}
    lm = random_lm(ImageGPTConfig(**sizes))  # computes by its own cache, not by a table
    full, short = make_prompt([i % 20 for i in range(30)], lm.spec, runs=5), make_prompt([1, 2, 3], lm.spec, runs=1)
    how = {"seconds": 0.6, "temperature": 1.0, "stop_at_end": False}
    together = generate_batch(lm, [full, short], seeds=[1, 2], **how)
    for prompt, seed, made in zip((full, short), (1, 2), together, strict=True):
        assert np.array_equal(made.ids, generate(lm, prompt, seed=seed, **how).ids)


def test_the_end_token_stops_and_reaches_nobody(lm: UnitLM) -> None:
    ends = generate_batch(lm, [None] * 40, seeds=range(40), temperature=3.0, max_units=30)
    lengths = {len(u) for u in ends}
    assert min(lengths) < 30  # at this temperature <s> comes up often
    never = generate_batch(lm, [None] * 40, seeds=range(40), temperature=3.0, max_units=30, stop_at_end=False)
    assert {len(u) for u in never} == {30}


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([-torch.inf, 0.0, 2.0, 1.0, -1.0], dtype=torch.float64)
    draws = seeds_of_places(0, 3000)

    def frequencies(temperature: float, top_k: int | None, some: int = len(draws)) -> np.ndarray:
        return np.bincount([pick(logits, temperature, top_k, d) for d in draws[:some]], minlength=5) / some

    found, expected = frequencies(0.7, None), (logits / 0.7).softmax(0).numpy()
    assert found[0] == 0  # never the impossible token
    assert (np.abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / len(draws))).all()
    top2 = np.array([0, 0, np.e**2, np.e, 0]) / (np.e**2 + np.e)
    assert (np.abs(frequencies(1.0, 2) - top2) <= 4 * np.sqrt(top2 * (1 - top2) / len(draws))).all()
    assert frequencies(1.0, 1, 100)[2] == frequencies(0, None, 100)[2] == frequencies(1e-300, None, 100)[2] == 1


def test_threads_may_share_a_model(lm: UnitLM) -> None:
    lm.model.train()  # which the first to leave would put back, beside another that computes
    alone = [generate(lm, None, temperature=1.0, seed=seed, max_units=6).ids.tolist() for seed in range(8)]
    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as threads:
            made = threads.map(lambda seed: generate(lm, None, temperature=1.0, seed=seed, max_units=6), range(8))
            assert [units.ids.tolist() for units in made] == alone
    finally:
        sys.setswitchinterval(often)
    assert lm.model.training and not [m for m in lm.model.modules() if "forward" in vars(m)]
    lm.model.eval()


def test_products_of_one_thread_are_not_those_of_another(lm: UnitLM) -> None:
    """Whichever thread leaves first."""
    found = products.linears(lm.model)
    rows = torch.ones(2, found[0].in_features)
    plain = found[0](rows)
    with ThreadPoolExecutor(1) as other:
        mine = products.multiplied_by({module: lambda x: x.new_zeros(1) for module in found})
        theirs = products.multiplied_by({module: lambda x: x.new_ones(1) for module in found})
        with mine:
            assert torch.equal(other.submit(found[0], rows).result(20), plain) and products.linears(lm.model) == []
            assert other.submit(products.linears, lm.model).result(20) == found
            other.submit(theirs.__enter__).result(20)
            assert (found[0](rows), other.submit(found[0], rows).result(20)) == (0, 1)
        assert torch.equal(found[0](rows), plain) and other.submit(found[0], rows).result(20) == 1
        other.submit(theirs.__exit__, None, None, None).result(20)
    assert not [m for m in lm.model.modules() if "forward" in vars(m)]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="weights are laid out for oneDNN alone")
def test_a_model_is_used_beside_a_server_that_has_laid_out_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    lm = random_lm(MistralConfig(vocab_size=32, head_dim=16, intermediate_size=48, sliding_window=None, **sizes))
    monkeypatch.setattr(products, "by_onednn", lambda *_args, **_more: True)
    asked = {"temperature": 1.0, "seed": 0, "max_units": 40}
    alone, weight = generate(lm, None, **asked), lm.model.model.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()
    with Batch(lm, rows=2).computing(), ThreadPoolExecutor(1) as other:
        assert not weight.numel()
        assert np.array_equal(other.submit(generate, lm, None, **asked).result(20).ids, alone.ids)
    assert torch.equal(weight, before) and not [m for m in lm.model.modules() if "forward" in vars(m)]


def test_bad_requests_are_named(lm: UnitLM) -> None:
    prompt = make_prompt([1, 2], lm.spec)
    for options, message in [
        ({"temperature": -1.0, "max_units": 3}, "temperature is -1.0"),
        ({"temperature": float("nan"), "max_units": 3}, "temperature is nan"),
        ({"temperature": 1.0, "max_units": 3, "top_k": 0}, "top_k is 0"),
        ({"temperature": 1.0}, "max_units, long enough"),
        ({"temperature": 1.0, "seconds": 0.0}, "a number above 0: got 0"),
        ({"temperature": 1.0, "seconds": 1e-6}, "at least one unit"),
        ({"temperature": 1.0, "seconds": 1.0, "mean_run": 0}, "mean_run is .* above 0: got 0"),
        ({"temperature": 1.0, "seconds": 1.0, "mean_run": float("nan")}, "mean_run is .* above 0: got nan"),
        ({"temperature": 1.0, "max_units": 62}, "65 tokens; the model has positions for 64"),
    ]:
        with pytest.raises(BadInput, match=message):
            generate(lm, prompt, seed=0, **options)
    with pytest.raises(BadInput, match="mean_run"):
        generate(lm, None, seconds=1, temperature=1.0, seed=0)
    with pytest.raises(BadInput, match="as many seeds"):
        generate_batch(lm, [prompt], seeds=[], temperature=1.0, max_units=3)
    with pytest.raises(UnitSpecMismatch, match="the prompt 'a prompt'"):
        generate(lm, make_prompt([1], make_spec(31)), temperature=1.0, seed=0, max_units=3)
    assert generate_batch(lm, [], seeds=[], temperature=1.0, max_units=3) == []


def test_all_bits_of_a_seed_count_and_integers_of_numpy_are_seeds(lm: UnitLM) -> None:
    def made(seeds: Any) -> list[list[int]]:
        return [u.ids.tolist() for u in generate_batch(lm, [None] * 3, seeds=seeds, temperature=1.0, max_units=20)]

    first, second, third = made([7, 7 + 2**32, 7 + 5 * 2**40])
    assert first != second != third != first
    assert made(np.array([7, 7 + 2**32, 7 + 5 * 2**40])) == [first, second, third]


def draft_with(patch: pytest.MonkeyPatch, strength: float) -> None:
    """Let drafts multiply by other weights, in float32: by how much decides how many are right."""
    generator = torch.Generator().manual_seed(0)

    def product(weight: torch.Tensor, bias: torch.Tensor | None, *, laid_out: bool) -> products.Product:
        noise = strength * weight.std() * torch.randn(weight.shape, generator=generator)
        return partial(nn.functional.linear, weight=weight + noise, bias=bias)

    patch.setattr(drafting, "int8_product", product)
    patch.setattr(drafting, "int8_may_help", lambda _model: True)


def steps(lm: UnitLM, run: Callable[[], Units]) -> tuple[Units, int]:
    """Return what `run` made and how many steps of the model, lean ones too, saw more than one token."""
    seen: list[int] = []
    hook = lm.model.register_forward_hook(
        lambda _m, _a, given, _o: seen.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    step = LeanStep.__call__

    def noted(self: LeanStep, tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(tokens.shape[1])
        return step(self, tokens, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LeanStep, "__call__", noted)
        made = run()
    hook.remove()
    return made, sum(n > 1 for n in seen)


@pytest.mark.parametrize(
    ("lm", "temperature", "strength"),
    [
        # Of the other kinds by default where some drafts are right and some are not: all else is the same code.
        pytest.param(
            kind, temperature, strength,
            marks=[] if kind == KINDS[0] or (temperature, strength) == (1.0, 0.05) else pytest.mark.slow,
        )
        for kind in KINDS
        for temperature in (0.0, 1.0)
        for strength in (0.0, 0.05, 3.0)
    ],
    indirect=["lm"],
)  # fmt: skip
def test_drafts_change_speed_only(
    lm: UnitLM, strength: float, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a batch of two, which is not drafted."""
    prompt = make_prompt([1, 2, 3], lm.spec)
    verified = []
    for seed in range(2):
        options = {"temperature": temperature, "max_units": 25, "stop_at_end": False, "top_k": 20}
        plain = generate_batch(lm, [prompt, prompt], seeds=[seed, seed], **options)[0]
        with monkeypatch.context() as patched:
            draft_with(patched, strength)
            drafted, n_steps = steps(lm, partial(generate, lm, prompt, seed=seed, **options))
        assert drafted.ids.tolist() == plain.ids.tolist()
        verified.append(n_steps)
    if strength == 0:  # the prompt, and 24 units by 9, 7, 7; the last by itself
        assert verified == [4, 4]
    if strength == 3:
        assert min(verified) > 9  # hardly any draft was right
    assert not any("forward" in vars(module) for module in lm.model.modules())


@pytest.mark.parametrize("strength", [0.5, pytest.param(0.0, marks=pytest.mark.slow)])
def test_drafts_end_where_the_continuation_ends(lm: UnitLM, strength: float, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = range(8)
    plain = generate_batch(lm, [None] * 8, seeds=seeds, temperature=8.0, max_units=25)
    draft_with(monkeypatch, strength)
    for seed, expected in zip(seeds, plain, strict=True):
        assert generate(lm, None, seed=seed, temperature=8.0, max_units=25).ids.tolist() == expected.ids.tolist()
    assert len({len(units) for units in plain}) > 1


SIZES = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ATTENTION = {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48}


@pytest.mark.parametrize(
    ("config", "goes_back"),
    [
        (BloomConfig(vocab_size=32, hidden_size=32, n_layer=2, n_head=4), False),
        (MistralConfig(**SIZES, **ATTENTION, sliding_window=None), True),
        (MistralConfig(**SIZES, **ATTENTION, sliding_window=6), False),
        (Gemma3TextConfig(**SIZES, **ATTENTION, sliding_window=6, sliding_window_pattern=2), False),
    ],
    ids=["bloom", "mistral", "mistral-window", "gemma3"],
)
def test_drafts_of_other_families(config: PretrainedConfig, goes_back: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that has dropped what lay before its window cannot take drafts back, and BLOOM counts positions from its
    mask: such models are sampled plainly."""
    lm = random_lm(config, deduplicate=False)
    prompt = make_prompt([4, 9, 1], lm.spec, 1)
    options = {"temperature": 1.0, "max_units": 20, "stop_at_end": False}
    plain = generate_batch(lm, [prompt, prompt], seeds=[5, 5], **options)[0]
    draft_with(monkeypatch, 0.05)
    drafted, n_steps = steps(lm, partial(generate, lm, prompt, seed=5, **options))
    assert drafted.ids.tolist() == plain.ids.tolist()
    assert (n_steps > 1) == goes_back


@pytest.mark.skipif(not products._ONEDNN, reason="without oneDNN nothing is drafted")
@pytest.mark.parametrize("laid_out", [False, True])
def test_int8_products_are_close_and_only_for_what_they_help(
    laid_out: bool, lm: UnitLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not products.int8_may_help(lm.model)  # few weights
    monkeypatch.setattr(products, "INT8_FROM", 1)
    assert products.int8_may_help(lm.model)
    rows = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    for module in products.linears(lm.model):
        x = rows if module.in_features == 32 else rows.repeat(1, 1, 2)[..., : module.in_features]
        product = products.int8_product(module.weight.detach(), products.bias_of(module), laid_out=laid_out)
        with torch.no_grad():
            expected = module(x)
            assert 0 < (product(x) - expected).norm() < 0.03 * expected.norm()
    prompt = make_prompt([1, 2, 3], lm.spec)
    options = {"temperature": 0.0, "max_units": 20, "stop_at_end": False}
    plain = generate_batch(lm, [prompt, prompt], seeds=[0, 0], **options)[0]

    def drafted_units() -> Units:
        asked, batch = begin(lm, prompt, seed=0, **options), Batch(lm, rows=1, units=None if laid_out else 20)
        with batch.computing():
            row = batch.join(asked)
            while not row.done:
                batch.step()
        return asked.units(lm, row.new)

    drafted, n_steps = steps(lm, drafted_units)
    assert drafted.ids.tolist() == plain.ids.tolist()
    assert 1 < n_steps < 15
    assert not products.int8_may_help(lm.model.double())
    lm.model.float()


@pytest.mark.parametrize(("seconds", "drafts"), [((2.0, 0.5, 2.2), True), ((1.0, 0.9, 1.5), False)])
def test_drafts_are_made_only_where_they_were_faster(
    lm: UnitLM, seconds: tuple[float, float, float], drafts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "_made", {})
    monkeypatch.setenv(choices.VARIABLE, "products=mkl")
    draft_with(monkeypatch, 0.0)
    options = {"temperature": 1.0, "stop_at_end": False, "seed": 0}
    _, n_steps = steps(lm, partial(generate, lm, None, max_units=drafting.TRIED_FROM - 1, **options))
    assert n_steps == 0 and not any("drafts" in key for key in choices.made())  # not worth a trial
    monkeypatch.setattr(drafting, "TRIED_FROM", 20)
    plain, draft, judging = seconds
    times = {"none": plain, "a draft": draft, "judging": judging}
    raced = []

    def race(ways, seconds):
        for way in ways.values():
            way()
        raced.append(list(ways))
        return {way: times[way] for way in ways}

    monkeypatch.setattr(choices, "race", race)
    made = [steps(lm, partial(generate, lm, None, max_units=25, **options)) for _ in range(2)]
    assert raced == [["none", "a draft"], ["judging"]]  # once
    assert (made[1][1] > 0) == drafts
    monkeypatch.setenv(choices.VARIABLE, "products=mkl,drafts=none")
    monkeypatch.setattr(choices, "_made", {})
    again, n_steps = steps(lm, partial(generate, lm, None, max_units=25, **options))
    assert n_steps == 0 and again.ids.tolist() == made[0][0].ids.tolist() == made[1][0].ids.tolist()
