"""What trains: the tables alone, all but some layers, LoRA adapters; through the training loop, stopped and resumed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from test_lm_model import documents, make_spec, make_text_lm
from test_train_loop import CONFIG, assert_same_run, corpus, sigterm_at
from twistlm.errors import BadInput, CheckpointError, TrainingError
from twistlm.lm.model import UnitLM
from twistlm.lm.trainable import LoRA, parse_freeze
from twistlm.lm.warmstart import cold_start, warm_start
from twistlm.train.loop import train

SPEC = make_spec()
TABLES = {"llama": {"model.embed_tokens.weight"}, "gpt_neox": {"gpt_neox.embed_in.weight", "lm_head.weight"}}
SHORT = dataclasses.replace(CONFIG, updates=4, eval_every=1)


def trainable(lm: UnitLM) -> set[str]:
    return {name for name, p in lm.model.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module", params=TABLES)
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, make_text_lm(tmp_path_factory.mktemp("text"), request.param)


@pytest.mark.parametrize("start", [warm_start, cold_start])
def test_a_frozen_body_leaves_the_tables(text: tuple[str, Path], start: object) -> None:
    kind, folder = text
    lm = start(folder, SPEC, seed=0, freeze="body", **({"rows": "random"} if start is warm_start else {}))
    assert trainable(lm) == TABLES[kind]
    assert lm.provenance["freeze"] == "body"
    assert lm.provenance["trainable"] == {"tensors": len(TABLES[kind]), "parameters": 32 * 32 * len(TABLES[kind])}


def test_a_frozen_range_is_these_layers_and_no_other(text: tuple[str, Path]) -> None:
    _, folder = text
    lm = warm_start(folder, SPEC, rows="random", seed=0, freeze=range(1, 2))
    frozen = {name for name, _ in lm.model.named_parameters()} - trainable(lm)
    assert frozen == {name for name, _ in lm.model.named_parameters() if ".layers.1." in name} and frozen
    for bad in (range(1, 3), range(-1, 1), range(0), range(0, 2, 2)):
        with pytest.raises(BadInput, match=r"layers 0 … 1"):
            warm_start(folder, SPEC, rows="random", seed=0, freeze=bad)


@pytest.mark.parametrize("kind", ["Mamba", "Mixtral"])
def test_adapters_that_would_leave_parts_out_or_cannot_be_are_refused(kind: str, tmp_path: Path) -> None:
    shape = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2} if kind == "Mixtral" else {}
    config = getattr(transformers, f"{kind}Config")(**shape, **heads)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"LoRA (adapts matrices|cannot adapt this mamba)"):
        warm_start(tmp_path, SPEC, rows="random", seed=0, lora=LoRA(rank=2, alpha=4.0))


def test_vectors_stored_with_ones_before_them_are_no_experts(tmp_path: Path) -> None:
    config = transformers.RwkvConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, intermediate_size=48
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    lm = warm_start(tmp_path, SPEC, rows="random", seed=0, lora=LoRA(rank=2, alpha=4.0))
    assert any(".lora_" in name for name in trainable(lm))


def test_freeze_in_words() -> None:
    assert (parse_freeze("body"), parse_freeze("0-11"), parse_freeze("3-3")) == ("body", range(12), range(3, 4))
    for bad in ("all", "3", "a-b", "-1-2"):
        with pytest.raises(BadInput, match="freeze is"):
            parse_freeze(bad)


def test_training_moves_what_trains_and_resumes_exactly(text: tuple[str, Path], tmp_path: Path) -> None:
    kind, folder = text

    def start(freeze: object = "body") -> UnitLM:
        return warm_start(folder, SPEC, rows="random", seed=0, freeze=freeze)

    docs, before = corpus(SPEC), dict(start().model.named_parameters())
    straight = train(start(), docs, SHORT, tmp_path / "straight", on_eval=sigterm_at())
    for name, after in straight.lm.model.named_parameters():
        assert torch.equal(after, before[name]) == (name not in TABLES[kind]), name
    with pytest.raises(TrainingError, match="SIGTERM after update 2"):
        train(start(), docs, SHORT, tmp_path / "stopped", on_eval=sigterm_at(2))
    with pytest.raises(CheckpointError, match="frozen was"):  # the same weights, but another run
        train(start(None), docs, SHORT, tmp_path / "stopped", on_eval=sigterm_at())
    train(start(), docs, SHORT, tmp_path / "stopped", on_eval=sigterm_at())
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_the_gradient_norm_is_of_what_trains(text: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = text
    norms = []
    for freeze in ("body", None):
        lm = warm_start(folder, SPEC, rows="random", seed=0, freeze=freeze)
        config = dataclasses.replace(CONFIG, updates=1)
        norms.append(train(lm, corpus(SPEC), config, tmp_path / str(freeze)).history[-1]["grad_norm"])
    assert 0 < norms[0] < norms[1]


class TestLoRA:
    """With peft only."""

    @pytest.fixture(autouse=True)
    def peft(self) -> None:
        pytest.importorskip("peft", reason="LoRA needs the extra: pip install 'twistlm[lora]'")

    @pytest.mark.parametrize("kind", ["llama", "gpt_neox", "opt"])
    def test_begins_as_the_plain_warm_start(self, kind: str, tmp_path: Path) -> None:
        folder = make_text_lm(tmp_path / "text", kind)
        tokens = documents()[1][None]
        before = torch.random.get_rng_state()
        adapted = warm_start(folder, SPEC, rows="random", seed=0, lora=LoRA(rank=2, alpha=4))
        assert torch.equal(before, torch.random.get_rng_state())
        plain = warm_start(folder, SPEC, rows="random", seed=0)
        with adapted.inference(), plain.inference():
            assert torch.equal(adapted.forward_logits(tokens), plain.forward_logits(tokens))
        names = trainable(adapted)
        assert sum(".lora_" in name for name in names) == 2 * sum(
            isinstance(m, torch.nn.Linear) for n, m in plain.model.named_modules() if ".layers." in n
        )
        assert {name for name in names if ".lora_" not in name} == set(plain.provenance["new"]["names"])
        assert adapted.provenance["lora"] == {"rank": 2, "alpha": 4, "dropout": 0.0}
        again = warm_start(folder, SPEC, rows="random", seed=0, lora=LoRA(rank=2, alpha=4))
        ours, theirs = dict(adapted.model.named_parameters()), dict(again.model.named_parameters())
        assert all(torch.equal(p, theirs[name]) for name, p in ours.items())

    @pytest.mark.parametrize("kind", ["llama", "gpt2"])
    def test_saves_a_plain_folder_with_the_adapters_added(self, kind: str, tmp_path: Path) -> None:
        folder = tmp_path / "text"
        if kind == "gpt2":  # its linear maps are stored transposed
            from test_lm_families import FAMILIES

            AutoModelForCausalLM.from_config(FAMILIES["gpt2"]()).save_pretrained(folder)
        else:
            make_text_lm(folder, kind)
        lm = warm_start(folder, SPEC, rows="random", seed=0, lora=LoRA(rank=2, alpha=4))
        generator = torch.Generator().manual_seed(1)
        for name, parameter in lm.model.named_parameters():
            if ".lora_" in name:
                parameter.data.normal_(std=0.3, generator=generator)
        tokens = documents()[1][None]
        with lm.inference():
            adapted = lm.forward_logits(tokens)
        names = list(lm.model.state_dict())
        lm.save(tmp_path / "lm")
        assert list(lm.model.state_dict()) == names
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "lm").eval()
        assert not [name for name, _ in merged.named_parameters() if "lora" in name or "base_layer" in name]
        with torch.no_grad():
            torch.testing.assert_close(merged(tokens).logits, adapted, atol=2e-5, rtol=1e-4)
        plain = warm_start(folder, SPEC, rows="random", seed=0)
        with plain.inference():
            assert (plain.forward_logits(tokens) - adapted).abs().max() > 1e-2

    def test_trains_and_resumes_exactly(self, tmp_path: Path) -> None:
        folder = make_text_lm(tmp_path / "text")

        def start() -> UnitLM:
            return warm_start(folder, SPEC, rows="random", seed=0, lora=LoRA(rank=2, alpha=4, dropout=0.1))

        docs = corpus(SPEC)
        train(start(), docs, SHORT, tmp_path / "straight", on_eval=sigterm_at())
        with pytest.raises(TrainingError, match="SIGTERM after update 2"):
            train(start(), docs, SHORT, tmp_path / "stopped", on_eval=sigterm_at(2))
        train(start(), docs, SHORT, tmp_path / "stopped", on_eval=sigterm_at())
        assert_same_run(tmp_path / "straight", tmp_path / "stopped")
        again, tokens = start(), documents()[1][None]
        result = train(again, docs, SHORT, tmp_path / "stopped")  # finished: the given model becomes the trained one
        with again.inference():
            torch.testing.assert_close(again.forward_logits(tokens), result.lm.forward_logits(tokens))

    def test_bad_requests_are_named(self, tmp_path: Path) -> None:
        folder = make_text_lm(tmp_path / "text")
        with pytest.raises(BadInput, match="not both"):
            warm_start(folder, SPEC, rows="random", seed=0, freeze="body", lora=LoRA(rank=2, alpha=4))
        with pytest.raises(BadInput, match="rank of at least 1"):
            LoRA(rank=0, alpha=4)
