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
from twistlm.lm.continuation import begin
from twistlm.lm.folders import load_model
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


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_a_head_s_bias_of_two_names_is_one_afterwards(kind: str, tmp_path: Path) -> None:
    config = getattr(transformers, f"{kind}Config")(**BERT, is_decoder=True)
    lm = warm_start(folder_of(config, tmp_path / "text"), SPEC, rows="mean", seed=0)
    with torch.no_grad():
        lm.model.get_output_embeddings().bias += 0.5
    lm.save(tmp_path / "lm")
    again = load_model(tmp_path / "lm")
    assert torch.equal(again.model.get_output_embeddings().bias, lm.model.get_output_embeddings().bias)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "precious.txt").touch()
    with pytest.raises(BadInput, match="is not a unit LM"):
        lm.save(tmp_path / "results")


def test_types_whose_rows_end_at_a_unit_or_that_keep_sequences_in_themselves_are_refused(tmp_path: Path) -> None:
    xlm = transformers.XLMConfig(vocab_size=97, emb_dim=32, n_layers=2, n_heads=4, causal=True, asm=False)
    with pytest.raises(BadInput, match="would end rows"):
        warm_start(folder_of(xlm, tmp_path / "xlm"), SPEC, rows="mean", seed=0)
    lm = tiny_lm()
    lm.model.config.model_type = "recurrent_gemma"
    with pytest.raises(BadInput, match="keeps what it has seen in a way of its own"):
        begin(lm, None, temperature=1.0, seed=0, max_units=3)


def test_a_limit_of_rows_by_another_name_is_found_and_seeds_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    mpt = transformers.MptConfig(vocab_size=97, d_model=32, n_layers=2, n_heads=4, max_seq_len=48)
    lm = warm_start(folder_of(mpt, tmp_path), SPEC, rows="mean", seed=0)
    assert lm.max_tokens == 48
    with pytest.raises(BadInput, match="the model has positions for 48"):
        begin(lm, None, temperature=1.0, seed=0, max_units=60)
    for seed, fix in ((-1, "use 0 or more"), (2**63, "use 0 or more"), (1.5, "use a whole number")):
        with pytest.raises(BadInput, match=fix):
            begin(lm, None, temperature=1.0, seed=seed, max_units=3)
        with pytest.raises(BadInput, match=fix):
            warm_start(tmp_path, SPEC, rows="mean", seed=seed)
    assert begin(lm, None, temperature=1.0, seed=2**63 - 1, max_units=3).draws  # as of prompts, see `seed_of`


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
