"""Models that look ahead are refused; what a configuration may say without anybody noticing is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from transformers import PretrainedConfig

from test_lm_families import FAMILIES, LLAMA
from test_train_loop import SPEC, assert_same_run, corpus, tiny_lm, with_
from twistlm.errors import BadInput, CheckpointError, Stopped
from twistlm.lm.causal import require_causal
from twistlm.lm.pretrained import from_config
from twistlm.lm.trainable import LoRA
from twistlm.lm.warmstart import cold_start, warm_start
from twistlm.train import loop
from twistlm.train.loop import train

BERT = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def folder_of(config: PretrainedConfig, folder: Path) -> Path:
    kind = transformers.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        kind.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "config",
    [
        transformers.BertConfig(**BERT),
        transformers.RobertaConfig(**BERT),
        transformers.Gemma3TextConfig(**LLAMA, head_dim=8, use_bidirectional_attention=True),
    ],
    ids=["bert", "roberta", "gemma3 in both directions"],
)
def test_a_model_that_looks_ahead_is_refused(config: PretrainedConfig, tmp_path: Path) -> None:
    folder = folder_of(config, tmp_path)
    for start in (warm_start, cold_start):
        with pytest.raises(BadInput, match="looks ahead"):
            start(folder, SPEC, seed=0, **({"rows": "mean"} if start is warm_start else {}))


def test_a_decoder_of_its_kind_is_not(tmp_path: Path) -> None:
    lm = warm_start(folder_of(transformers.BertConfig(**BERT, is_decoder=True), tmp_path), SPEC, rows="mean", seed=0)
    assert lm.provenance["start"] == "warm"


@pytest.mark.parametrize("name", FAMILIES)
def test_those_that_are_taken_on_trust_look_at_nothing_ahead(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twistlm.lm.causal._KNOWN", frozenset())
    model = from_config(FAMILIES[name]())
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    require_causal(model)


def test_positions_that_were_stretched_are_not_used() -> None:
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 32, "rope_theta": 10_000.0}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config = transformers.LlamaConfig(**(LLAMA | {"max_position_embeddings": 256}), rope_parameters=rope)
    lm = tiny_lm()
    lm.model.config = config
    assert lm.max_tokens == 32


def stop_after_4(monkeypatch: pytest.MonkeyPatch) -> None:
    save = loop.checkpoint.save

    def stop(folder, model, optimizer, *, update: int, **rest):
        save(folder, model, optimizer, update=update, **rest)
        if update == 4:
            raise Stopped("stopped", number=2)

    monkeypatch.setattr(loop.checkpoint, "save", stop)


def test_another_alpha_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = folder_of(transformers.LlamaConfig(**LLAMA), tmp_path / "text")

    def lm(alpha: float):
        return warm_start(text, SPEC, rows="mean", seed=0, lora=LoRA(rank=2, alpha=alpha))

    config = with_(updates=8, checkpoint_every=4)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after_4(patch)
        train(lm(4.0), corpus(), config, tmp_path / "run")
    with pytest.raises(CheckpointError, match="lora was"):
        train(lm(64.0), corpus(), config, tmp_path / "run")
    assert train(lm(4.0), corpus(), config, tmp_path / "run").updates == 8


def test_layers_that_are_dropped_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a layer that was dropped in an update no gradient comes; a run that goes on counts updates as one that did."""
    shape = {"vocab_size": 97, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    opt = transformers.OPTConfig(
        **shape, max_position_embeddings=64, word_embed_proj_dim=32, dropout=0.0, layerdrop=0.6
    )
    text = folder_of(opt, tmp_path / "text")
    config = with_(updates=8, checkpoint_every=4)
    train(warm_start(text, SPEC, rows="mean", seed=0), corpus(), config, tmp_path / "straight")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after_4(patch)
        train(warm_start(text, SPEC, rows="mean", seed=0), corpus(), config, tmp_path / "run")
    train(warm_start(text, SPEC, rows="mean", seed=0), corpus(), config, tmp_path / "run")
    assert_same_run(tmp_path / "straight", tmp_path / "run")
