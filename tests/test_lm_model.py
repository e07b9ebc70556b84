"""UnitLM: documents stay apart in a packed row; folders that plain transformers reads; damaged folders are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, OPTConfig, PretrainedConfig

from twistlm.errors import BadInput, CheckpointError, UnitSpecMismatch
from twistlm.lm.model import UnitLM
from twistlm.lm.pretrained import from_config
from twistlm.lm.vocab import Vocab
from twistlm.lm.warmstart import cold_start
from twistlm.types import UnitSpec

KINDS = ("llama", "gpt_neox", "opt")


def make_spec(n_units: int = 30, *, deduplicate: bool = True) -> UnitSpec:
    return UnitSpec(
        encoder="tiny",
        encoder_sha256="0" * 64,
        layer=2,
        tap="block_output",
        normalize_input=False,
        sample_rate=16_000,
        hop=640,
        n_units=n_units,
        centroids_sha256="1" * 64,
        deduplicate=deduplicate,
    )


def make_text_lm(folder: Path, kind: str = "llama") -> Path:
    """A real architecture, tiny, with random weights: tied (Llama, OPT) or untied (GPT-NeoX)."""
    common = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {
        "llama": lambda: LlamaConfig(
            **common, intermediate_size=48, num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=64
        ),
        "gpt_neox": lambda: GPTNeoXConfig(
            **common, intermediate_size=48, tie_word_embeddings=False, max_position_embeddings=64
        ),
        "opt": lambda: OPTConfig(**common, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=64, dropout=0.0),
    }[kind]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # larger than an initialisation, so that attention matters
            parameter.data.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


def random_lm(config: PretrainedConfig, *, deduplicate: bool = True) -> UnitLM:
    """A model over 30 units with random weights, larger than an initialisation's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = from_config(config)
        for parameter in model.parameters():
            parameter.data.normal_(std=0.3)
    return UnitLM(model.eval(), Vocab(30), make_spec(deduplicate=deduplicate))


@pytest.fixture(params=KINDS)
def lm(request: pytest.FixtureRequest, tmp_path: Path) -> UnitLM:
    built = cold_start(make_text_lm(tmp_path / "text", request.param), make_spec(), seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in built.model.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    return built


def documents() -> list[torch.Tensor]:
    vocab, rng = Vocab(30), np.random.default_rng(0)
    return [torch.from_numpy(vocab.encode(rng.integers(0, 30, size=n))) for n in (7, 11, 4)]


def pack(docs: list[torch.Tensor], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.cat([*docs, torch.zeros(padding, dtype=torch.int64)])
    segments = torch.cat([torch.full_like(doc, i + 1) for i, doc in enumerate(docs)] + [torch.zeros(padding).long()])
    return tokens[None], segments[None].int()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_documents_in_a_packed_row_do_not_see_each_other(lm: UnitLM, attention: str) -> None:
    lm.model.set_attn_implementation(attention)
    docs = documents()
    tokens, segments = pack(docs, padding=3)
    with lm.inference():
        packed = lm.forward_logits(tokens, segments)
        assert packed.dtype == torch.float32
        assert packed.isfinite().all()
        start = 0
        for doc in docs:
            alone = lm.forward_logits(doc[None])
            torch.testing.assert_close(packed[:, start : start + len(doc)], alone, atol=1e-5, rtol=1e-5)
            start += len(doc)
        changed = tokens.clone()
        changed[0, : len(docs[0])] = torch.randint(2, 32, (len(docs[0]),), generator=torch.Generator().manual_seed(3))
        again = lm.forward_logits(changed, segments)
    first = len(docs[0])
    assert torch.equal(packed[:, first:start], again[:, first:start])  # not a bit of document A reaches B or C
    assert not torch.allclose(packed[:, :first], again[:, :first])
    without = lm.forward_logits(tokens)[:, first:start]
    assert not torch.allclose(packed[:, first:start], without, atol=1e-3)  # the mask is what keeps them apart


def test_gradients_of_a_document_stay_in_it(lm: UnitLM) -> None:
    tokens, segments = pack(documents(), padding=2)
    embedded: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _args: object, output: torch.Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    handle = lm.model.get_input_embeddings().register_forward_hook(keep)
    lm.forward_logits(tokens, segments)[0, 9:20].square().sum().backward()  # document 2 only
    handle.remove()
    moved = embedded[0].grad.abs().sum(-1)[0]
    assert (moved[9:20] > 0).all()
    assert not moved[:9].any()
    assert not moved[20:].any()


def test_saved_folder_is_plain_transformers(lm: UnitLM, tmp_path: Path) -> None:
    tokens = documents()[1][None]
    with lm.inference():
        expected = lm.forward_logits(tokens)
    lm.save(tmp_path / "lm")
    lm.save(tmp_path / "lm")  # over an existing one
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    assert plain.config.bos_token_id == plain.config.eos_token_id == 1
    assert plain.config.pad_token_id == 0
    assert plain.generation_config.eos_token_id == 1
    with torch.no_grad():
        assert torch.equal(plain(tokens).logits, expected)
    before = torch.random.get_rng_state()
    back = UnitLM.load(tmp_path / "lm")
    assert torch.equal(before, torch.random.get_rng_state())
    assert (back.spec, back.vocab, back.provenance) == (lm.spec, lm.vocab, lm.provenance)
    with back.inference():
        assert torch.equal(back.forward_logits(tokens), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lm", "text"]


def test_damaged_and_foreign_folders_are_named(lm: UnitLM, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a unit LM"):
        UnitLM.load(tmp_path / "text")
    with pytest.raises(CheckpointError, match="nowhere"):
        UnitLM.load(tmp_path / "nowhere")
    lm.save(tmp_path / "lm")
    weights = tmp_path / "lm" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a complete causal LM"):
        UnitLM.load(tmp_path / "lm")


def test_specs_and_lengths_are_checked(lm: UnitLM) -> None:
    with pytest.raises(UnitSpecMismatch, match="n_units is 30 in the unit LM and 31 in the corpus"):
        lm.require(make_spec(31), theirs="the corpus")
    with pytest.raises(BadInput, match="31 units does not fit"):
        UnitLM(lm.model, Vocab(31), lm.spec)
    with pytest.raises(BadInput, match="33 tokens"):
        UnitLM(lm.model, Vocab(31), make_spec(31))
    with pytest.raises(BadInput, match="rows of 65 tokens"):
        lm.forward_logits(torch.full((1, 65), 2))


def test_inference_puts_the_mode_back(lm: UnitLM) -> None:
    lm.model.train()
    with pytest.raises(ZeroDivisionError), lm.inference():
        assert not lm.model.training
        assert not torch.is_grad_enabled()
        1 / 0  # noqa: B018
    assert lm.model.training
    assert torch.is_grad_enabled()
