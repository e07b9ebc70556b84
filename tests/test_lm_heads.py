"""An output layer of its own: what it begins with, that it stays apart, and that plain transformers reads it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from test_lm_families import FAMILIES, family, plain  # noqa: F401  a fixture
from test_lm_model import make_spec, make_text_lm
from test_train_loop import CONFIG, assert_same_run, corpus, losses, sigterm_at, tiny_lm
from twistlm.errors import BadInput, Stopped
from twistlm.lm.heads import _fit, begin_head, untie
from twistlm.lm.model import UnitLM
from twistlm.lm.trainable import LoRA
from twistlm.lm.warmstart import cold_start, warm_start
from twistlm.train.loop import train
from twistlm.train.optim import adamw, set_rate

SPEC = make_spec()
COLD = ("smollm2", "pythia", "opt-350m")
GOLDEN = Path(__file__).parent / "golden" / "own_head_loss_trace.json"


def documents(n: int, *, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, SPEC.n_units, rng.integers(5, 40)).astype(np.uint16) for _ in range(n)]


def start(side: str, folder: Path, **how: object) -> UnitLM:
    if side == "warm":
        return warm_start(folder, SPEC, rows="covariance", seed=3, **how)
    return cold_start(folder, SPEC, seed=3, **how)


def first_nll(lm: UnitLM) -> float:
    tokens = torch.from_numpy(lm.vocab.encode(documents(1)[0])[None])
    with lm.inference():
        logits = lm.forward_logits(tokens[:, :-1])
    return torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:]).item()


@pytest.mark.parametrize(
    ("family", "side"),
    [
        # A cold start is given its head by the same function: here of a tied, an untied and a narrower table.
        pytest.param(name, side, marks=[] if side == "warm" or name in COLD else pytest.mark.slow)
        for name in FAMILIES
        for side in ("warm", "cold")
    ],
    indirect=["family"],
)
def test_every_family_can_have_its_own_and_begins_at_ln_v(family: tuple[str, Path], side: str, tmp_path: Path) -> None:  # noqa: F811
    name, folder = family
    lm = start(side, folder, head="own", head_start="zero")
    head, table = lm.model.get_output_embeddings(), lm.model.get_input_embeddings()
    assert head.weight is not table.weight and not lm.model.config.tie_word_embeddings and not lm.provenance["tied"]
    assert not head.weight.any() and table.weight.any()
    assert first_nll(lm) == pytest.approx(math.log(lm.vocab.size), abs=1e-5)
    with torch.no_grad():
        head.weight.normal_(generator=torch.Generator().manual_seed(0))
    lm.save(tmp_path / "lm")
    back = UnitLM.load(tmp_path / "lm")
    theirs = plain(name, tmp_path / "lm")
    for other in (back.model, theirs):
        assert torch.equal(other.get_output_embeddings().weight, head.weight)
        assert torch.equal(other.get_input_embeddings().weight, table.weight)
    assert first_nll(back) == first_nll(lm)


def test_rows_of_its_own_are_the_table_s_and_the_body_is_that_of_a_tied_start(tmp_path: Path) -> None:
    folder = make_text_lm(tmp_path, "llama")
    tied, own = (start("warm", folder, head=head) for head in ("as-is", "own"))
    weights = dict(own.model.named_parameters())
    assert weights.keys() - dict(tied.model.named_parameters()).keys() == {"lm_head.weight"}
    assert all(torch.equal(value, weights[name]) for name, value in tied.model.named_parameters())
    assert torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    assert "lm_head.weight" in own.provenance["new"]["names"] and first_nll(own) == first_nll(tied)


def test_a_head_that_is_the_table_cannot_begin_otherwise(tmp_path: Path) -> None:
    folder = make_text_lm(tmp_path / "tied", "llama")
    for side in ("warm", "cold"):
        with pytest.raises(BadInput, match='give head="own"'):
            start(side, folder, head_start="zero")
    untied = make_text_lm(tmp_path / "untied", "gpt_neox")
    assert not start("warm", untied, head_start="zero").model.get_output_embeddings().weight.any()
    with pytest.raises(BadInput, match="needs documents"):
        start("warm", untied, head_start="fitted")


@pytest.mark.parametrize(
    "side", [pytest.param("warm", marks=pytest.mark.thorough), pytest.param("cold", marks=pytest.mark.slow)]
)
def test_a_fitted_head_knows_what_follows_what_and_touches_nothing_else(side: str, tmp_path: Path) -> None:
    folder = make_text_lm(tmp_path, "llama")
    seen = corpus(SPEC, n=200)
    said = [seen.unit_ids(i) for i in range(len(seen))]
    fitted = start(side, folder, head="own", head_start="fitted", fit_on=said)
    zero = start(side, folder, head="own", head_start="zero")
    again = start(side, folder, head="own", head_start="fitted", fit_on=said)
    ours = dict(fitted.model.named_parameters())
    assert all(torch.equal(v, ours[n]) for n, v in again.model.named_parameters())
    assert all(torch.equal(v, ours[n]) for n, v in zero.model.named_parameters() if n != "lm_head.weight")
    fit = fitted.provenance["head_fit"]
    assert fit["heldout_nll"] < math.log(fitted.vocab.size) - 0.3 and fit["tokens"] <= 4096
    new = corpus(SPEC, n=5, seed=9)
    tokens = torch.from_numpy(fitted.vocab.encode(new.unit_ids(0))[None])
    with torch.no_grad():
        loss = [
            torch.nn.functional.cross_entropy(lm.forward_logits(tokens[:, :-1])[0], tokens[0, 1:])
            for lm in (fitted, zero)
        ]
    assert loss[0] < loss[1] - 0.3


def test_a_head_is_fitted_to_what_there_is(tmp_path: Path) -> None:
    few = start("warm", make_text_lm(tmp_path, "llama"), head="own", head_start="fitted", fit_on=[np.arange(3)])
    said = np.random.default_rng(0).integers(0, SPEC.n_units, 100)
    assert set(few.provenance["head_fit"]) == {"tokens", "penalty"}  # nothing is left to choose a penalty by
    few.save(tmp_path / "lm")
    UnitLM.load(tmp_path / "lm")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=40, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "short")
    fitted = start("warm", tmp_path / "short", head="own", head_start="fitted", fit_on=[said])
    assert fitted.provenance["head_fit"]["tokens"] == 64


def test_the_fit_is_scikit_learn_s() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    states = rng.normal(size=(300, 6)).astype(np.float32)
    targets = np.argmax(states @ rng.normal(size=(6, 4)) + rng.gumbel(size=(300, 4)), 1)
    scale = np.sqrt(np.square(states).mean())
    ours = _fit(torch.from_numpy(states), torch.from_numpy(targets), 4, 0.01) * scale
    theirs = LogisticRegression(C=1 / (0.01 * 300), fit_intercept=False, tol=1e-8, max_iter=1000)
    theirs.fit(states / scale, targets)
    np.testing.assert_allclose(ours, theirs.coef_, atol=2e-3)


def test_tables_learn_at_their_own_rate(tmp_path: Path) -> None:
    lm = start("warm", make_text_lm(tmp_path, "llama"), head="own", head_start="zero")
    config = dataclasses.replace(CONFIG, lr=1e-3, lr_floor=0.0, table_rate=7.0, weight_decay=0.0)
    optimizer = adamw(lm.model, config)
    before = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
    for parameter in lm.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_rate(optimizer, 1e-3)
    optimizer.step()
    for name, parameter in lm.model.named_parameters():
        step = (before[name] - parameter).detach()
        expected = 7e-3 if name in ("lm_head.weight", "model.embed_tokens.weight") else 1e-3
        torch.testing.assert_close(step, torch.full_like(step, expected), rtol=1e-3, atol=1e-7)
    tied = start("warm", tmp_path, head="as-is")
    sizes = [sum(p.numel() for p in g["params"]) for g in adamw(tied.model, config).param_groups if g["rate"] == 7]
    assert sum(sizes) == tied.model.get_input_embeddings().weight.numel(), "a tied table is one and counted once"


@pytest.mark.parametrize("how", [{"lora": LoRA(rank=2, alpha=4.0)}, {"freeze": "body"}, {"freeze": range(1)}])
def test_what_is_frozen_stays_and_its_own_head_trains(how: dict, tmp_path: Path) -> None:
    folder = make_text_lm(tmp_path / "text", "llama")
    lm = start("warm", folder, head="own", head_start="zero", **how)
    config = dataclasses.replace(CONFIG, updates=3, table_rate=5.0)
    result = train(lm, corpus(SPEC), config, tmp_path / "run")
    assert result.lm.model.get_output_embeddings().weight.abs().max() > 0
    assert not result.lm.model.config.tie_word_embeddings


def own_head() -> UnitLM:
    lm = tiny_lm()
    untie(lm.model)
    begin_head(lm.model, lm.vocab, "zero", None)
    return lm


OWN = dataclasses.replace(CONFIG, updates=20, lr=2e-3, lr_floor=2e-4, table_rate=10.0)


def test_stopped_and_resumed_is_the_straight_run(tmp_path: Path) -> None:
    config = dataclasses.replace(OWN, updates=8, eval_every=2)
    train(own_head(), corpus(), config, tmp_path / "straight", on_eval=sigterm_at())
    with pytest.raises(Stopped):
        train(own_head(), corpus(), config, tmp_path / "stopped", on_eval=sigterm_at(4))
    train(own_head(), corpus(), config, tmp_path / "stopped", on_eval=sigterm_at())
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_golden_loss_trace_of_a_head_of_its_own(tmp_path: Path) -> None:
    """As `test_train_loop.test_golden_loss_trace`, with the quickstart's settings of head and tables."""
    trace = losses(train(own_head(), corpus(), OWN, tmp_path).history)
    if os.environ.get("TWISTLM_RECORD_GOLDEN") == "1":
        GOLDEN.write_text(json.dumps(trace, indent=1) + "\n")
    assert trace[0] == pytest.approx(math.log(tiny_lm().vocab.size), abs=1e-5)
    assert len(trace) == 20 and trace == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-5)
