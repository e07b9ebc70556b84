"""Published speech LMs, on stand-ins with the exact keys and shapes: they load, score, continue and speak."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig, PretrainedConfig, PreTrainedModel, Qwen2Config

from test_lm_model import make_spec, make_text_lm
from twistlm.errors import BadInput, CheckpointError
from twistlm.evaluate.perplexity import heldout
from twistlm.jobs.judging import context_of_run
from twistlm.lm.model import UnitLM
from twistlm.lm.published import load_published
from twistlm.lm.sample import generate, generate_batch
from twistlm.lm.score import score
from twistlm.lm.warmstart import warm_start
from twistlm.types import Units

SPEC = make_spec()  # 30 units
UNITS = [np.array([3, 1, 4, 1, 5, 9, 2, 6], np.uint16), np.array([29, 0, 7], np.uint16)]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}


def random_model(config: PretrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.data.normal_(std=0.2)
    return model


def twist_release(folder: Path, kind: str, *, pickled: bool) -> PreTrainedModel:
    """40 tokens, of which units are 4 … 33. The releases are of the time when weights were `pytorch_model.bin`."""
    if kind == "opt":
        config = OPTConfig(vocab_size=40, ffn_dim=48, word_embed_proj_dim=16, **SHAPE)
    else:
        config = LlamaConfig(vocab_size=40, intermediate_size=48, pad_token_id=None, tie_word_embeddings=False, **SHAPE)
    model = random_model(config)
    folder.mkdir()
    said = config.to_dict() | {"offset": 4, "architectures": [type(model).__name__], "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(said))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return model


def slamkit(folder: Path, *, tied: bool, units: int = 30) -> PreTrainedModel:
    config = Qwen2Config(
        vocab_size=units + 2, intermediate_size=48, num_key_value_heads=2, tie_word_embeddings=tied, **SHAPE
    )
    model = random_model(config)
    folder.mkdir()
    base = config.to_dict() | {"vocab_size": 151_936, "_attn_implementation": "flash_attention_2", "dtype": "bfloat16"}
    said = {
        "architectures": ["UnitLM"],
        "model_type": "speech_language_model",
        "base_model_name": "Qwen/Qwen2.5-0.5B",
        "base_config": base,
        "vocab_size": units + 2,
    }
    (folder / "config.json").write_text(json.dumps(said))
    state = {f"lm.{k}": v.clone() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    half = len(state) // 2
    for i, names in enumerate((list(state)[:half], list(state)[half:]), start=1):  # in shards, as large models are
        save_file({n: state[n] for n in names}, folder / f"model-0000{i}-of-00002.safetensors", {"format": "pt"})
    return model


def oracle(model: PreTrainedModel, tokens: list[int]) -> float:
    """Sum of log p(token | those before it) over all tokens but the first, one at a time."""
    total = 0.0
    for i in range(1, len(tokens)):
        with torch.no_grad():
            total += model(torch.tensor([tokens[:i]])).logits[0, -1].double().log_softmax(0)[tokens[i]].item()
    return total


@pytest.mark.parametrize(("kind", "pickled"), [("opt", True), ("llama", False)])
def test_twist_release(kind: str, pickled: bool, tmp_path: Path) -> None:
    theirs = twist_release(tmp_path / "TWIST", kind, pickled=pickled)
    lm = load_published(tmp_path / "TWIST", SPEC)
    assert lm.provenance["layout"] == "TWIST release"
    for units, result in zip(UNITS, score(lm, UNITS, include_end=False), strict=True):
        tokens = [int(u) + 4 for u in units]  # no <s>: the first unit is given
        assert result.n == len(units) - 1
        assert result.sum_logprob == pytest.approx(oracle(theirs, tokens), abs=1e-4)
    with pytest.raises(BadInput, match="no <s>"):
        score(lm, UNITS, include_end=True)
    with pytest.raises(BadInput, match="sequence of one unit"):
        score(lm, [np.array([3], np.uint16)], include_end=False)

    made = generate_batch(lm, [prompt(u) for u in UNITS], seeds=[0, 1], temperature=5.0, max_units=30)
    assert [len(m) for m in made] == [38, 33]  # nothing ends it, and what is no unit is never sampled
    greedy = generate(lm, prompt(UNITS[0]), seed=0, temperature=0, max_units=1)
    with torch.no_grad():
        logits = theirs(torch.tensor([[int(u) + 4 for u in UNITS[0]]])).logits[0, -1, 4:34]
    logits[6] = -torch.inf  # deduplicated units do not repeat
    assert greedy.ids[-1] == logits.argmax()
    with pytest.raises(BadInput, match="give it a prompt"):
        generate(lm, None, seed=0, temperature=1.0, max_units=3)

    said = lm.model.generation_config.to_dict() | lm.model.config.to_dict()  # the text LM's ends are units here
    assert said["eos_token_id"] is None is said["bos_token_id"]
    lm.save(tmp_path / "ours")
    back = UnitLM.load(tmp_path / "ours")
    assert back.vocab == lm.vocab
    tokens = torch.tensor([[5, 9, 7]])
    with torch.no_grad():
        assert torch.equal(back.forward_logits(tokens), theirs(tokens).logits)
    positions = back.max_tokens  # fewer than the usual window: twist eval takes as many as there are
    assert context_of_run(tmp_path / "ours", tmp_path / "ours") == min(256, positions) < 256
    again = load_published(tmp_path / "ours", SPEC)  # the plain part of it is the published layout still
    assert again.vocab == lm.vocab


def prompt(ids: np.ndarray) -> Units:
    return Units(ids, np.ones(len(ids), np.int32), SPEC, "a prompt")


@pytest.mark.parametrize("tied", [True, False])
def test_slamkit(tied: bool, tmp_path: Path) -> None:
    theirs = slamkit(tmp_path / "slam", tied=tied)
    before = torch.random.get_rng_state()
    lm = load_published(tmp_path / "slam", SPEC)
    assert torch.equal(before, torch.random.get_rng_state())
    assert (lm.vocab.pad, lm.vocab.bos, lm.vocab.eos, lm.vocab.offset, lm.vocab.size) == (0, 1, 1, 2, 32)
    assert (lm.model.get_output_embeddings().weight is lm.model.get_input_embeddings().weight) == tied
    for units, result in zip(UNITS, score(lm, UNITS, include_end=True), strict=True):
        tokens = [1, *(int(u) + 2 for u in units), 1]
        assert result.sum_logprob == pytest.approx(oracle(theirs, tokens), abs=1e-4)
    assert len(generate(lm, None, seed=0, temperature=1.0, max_units=9, stop_at_end=False)) == 9
    lm.save(tmp_path / "ours")
    tokens = torch.tensor([[1, 5, 9, 7]])
    with torch.no_grad():
        expected = theirs(tokens).logits
        assert torch.equal(UnitLM.load(tmp_path / "ours").forward_logits(tokens), expected)
        assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "ours")(tokens).logits, expected)


def test_two_tables_of_slamkit_that_are_called_one_stay_two(tmp_path: Path) -> None:
    slamkit(tmp_path / "slam", tied=True)
    tables = {k: v for file in (tmp_path / "slam").glob("*.safetensors") for k, v in load_file(file).items()}
    name = next(n for n in tables if n.endswith("embed_tokens.weight"))
    for file in (tmp_path / "slam").glob("*.safetensors"):
        file.unlink()
    whole = tables | {"lm.lm_head.weight": tables[name] + 1}
    save_file(whole, tmp_path / "slam" / "model.safetensors", metadata={"format": "pt"})
    lm = load_published(tmp_path / "slam", SPEC)
    assert torch.equal(lm.model.get_input_embeddings().weight, tables[name])
    assert torch.equal(lm.model.get_output_embeddings().weight, tables[name] + 1)
    assert not lm.model.config.tie_word_embeddings


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "opt"])
def test_ours_as_a_plain_folder_and_back(kind: str, tmp_path: Path) -> None:
    lm = warm_start(make_text_lm(tmp_path / "text", kind), SPEC, rows="mean", seed=0)
    lm.save(tmp_path / "lm")
    for name in ("unit_spec.json", "vocab.json", "provenance.json"):
        (tmp_path / "lm" / name).unlink()
    back = load_published(tmp_path / "lm", SPEC)
    assert back.vocab == lm.vocab and back.provenance["layout"] == "twistlm"
    tokens = torch.tensor([[1, 5, 9, 7]])
    with lm.inference(), back.inference():
        assert torch.equal(lm.forward_logits(tokens), back.forward_logits(tokens))


def test_what_is_no_speech_lm_or_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no speech LM of a known layout over 30 units"):
        load_published(make_text_lm(tmp_path / "text"), SPEC)
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        load_published(tmp_path / "nowhere", SPEC)
    twist_release(tmp_path / "TWIST", "opt", pickled=False)
    with pytest.raises(BadInput, match="37 units from token 4 on do not fit a vocabulary of 40"):
        load_published(tmp_path / "TWIST", make_spec(37))
    slamkit(tmp_path / "slam", tied=False)
    first, second = (tmp_path / "slam" / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    whole = second.read_bytes()
    second.write_bytes(whole[:-50])
    with pytest.raises(CheckpointError, match="damaged"):
        load_published(tmp_path / "slam", SPEC)
    second.unlink()
    with pytest.raises(CheckpointError, match="lacks the weights in model-00002-of-00002"):
        load_published(tmp_path / "slam", SPEC)
    save_file(load_file(first) | {"lm.model.layers.0.self_attn.q_norm.weight": torch.ones(8)}, first, {"format": "pt"})
    second.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"no place for: model\.layers\.0\.self_attn\.q_norm\.weight\."):
        load_published(tmp_path / "slam", SPEC)


def test_perplexity_without_an_opening_says_so(tmp_path: Path) -> None:
    from twistlm.corpus.opened import UnitCorpus

    theirs = twist_release(tmp_path / "TWIST", "llama", pickled=False)
    lm = load_published(tmp_path / "TWIST", SPEC)
    ids = np.array([3, 1, 4, 1, 5, 9, 2], np.uint16)
    docs = UnitCorpus.from_units([Units(ids, np.ones(7, np.int32), SPEC, "a")])
    found = heldout(lm, docs, max_units=3, include_end=False)  # windows of 3, 3 and 1: the last predicts nothing
    expected = oracle(theirs, [7, 5, 8]) + oracle(theirs, [5, 9, 13])
    assert found.n_units == 4 and found.nll == pytest.approx(-expected / 4, abs=1e-4)
    assert "without <s>, its first unit not predicted" in found.rule
