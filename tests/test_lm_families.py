"""Warm start of every family on its true architecture, small, with random weights: what stays, goes and runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from test_lm_model import documents, make_spec, pack
from twistlm.errors import BadInput
from twistlm.lm.lowrank import lowrank, restore
from twistlm.lm.model import MASKED, UnitLM
from twistlm.lm.pretrained import from_config, load_causal_lm
from twistlm.lm.sample import generate, generate_batch
from twistlm.lm.warmstart import cold_start, warm_start
from twistlm.types import Units

SHAPE = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**SHAPE, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
GPT2 = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
OPT = {**SHAPE, "ffn_dim": 48, "max_position_embeddings": 64}
FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    "opt": lambda: transformers.OPTConfig(**OPT, word_embed_proj_dim=32),
    # Of OPT, the 350M alone has a table narrower than its body, and its norms after the blocks.
    "opt-350m": lambda: transformers.OPTConfig(**OPT, word_embed_proj_dim=16, do_layer_norm_before=False),
    "bloom": lambda: transformers.BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),
    "pythia": lambda: transformers.GPTNeoXConfig(
        **SHAPE, intermediate_size=48, max_position_embeddings=64, tie_word_embeddings=False
    ),
    "llama": lambda: transformers.LlamaConfig(**{**LLAMA, "num_key_value_heads": 4}, tie_word_embeddings=False),
    "smollm2": lambda: transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "gpt2": lambda: transformers.GPT2Config(**GPT2),
    "qwen2.5": lambda: transformers.Qwen2Config(**LLAMA, tie_word_embeddings=True),
    # One layer of each kind of attention; the window is shorter than the packed rows below.
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **LLAMA, head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    ),
    "imagegpt": lambda: transformers.ImageGPTConfig(**GPT2),
    # Not listed: nothing in twistlm knows of these two, one of which is no transformer.
    "mistral": lambda: transformers.MistralConfig(**LLAMA, sliding_window=8),
    "mamba": lambda: transformers.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4),
}


def families(*default: str) -> list[object]:
    """All, of which others than these are slow: for what each of them shows again."""
    return [pytest.param(name, marks=[] if name in default else pytest.mark.slow) for name in FAMILIES]


UNTIED = {"pythia", "llama", "imagegpt", "mistral"}
AUTOREGRESSIVE = {"imagegpt": transformers.ImageGPTForCausalImageModeling}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(name, folder of the text LM), with weights large enough that attention matters and norms near 1."""
    folder = tmp_path_factory.mktemp(request.param.replace(".", "-"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = from_config(FAMILIES[request.param]())
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.data.normal_(std=0.2)
            elif "norm" not in name and "ln_" not in name and "A_log" not in name:
                parameter.data.normal_(std=0.05)
    model.save_pretrained(folder)
    return request.param, folder


def plain(name: str, folder: Path) -> PreTrainedModel:
    kind = AUTOREGRESSIVE.get(name, transformers.AutoModelForCausalLM)
    return kind.from_pretrained(folder).eval()


def test_the_swap_touches_the_tables_and_nothing_else(family: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = family
    text = plain(name, folder)
    lm = warm_start(folder, make_spec(), rows="random", seed=0)
    stored, ours = dict(text.named_parameters()), dict(lm.model.named_parameters())
    assert ours.keys() == stored.keys()
    tables = {n for n, p in stored.items() if p is text.get_input_embeddings().weight}
    tables |= {n for n, p in stored.items() if p is text.get_output_embeddings().weight}
    assert len(tables) == (2 if name in UNTIED else 1) == 1 + (not lm.provenance["tied"])
    assert set(lm.provenance["new"]["names"]) == set(lm.provenance["dropped"]["names"]) == tables
    for n, value in ours.items():
        if n in tables:
            assert torch.cdist(value, stored[n]).min() > 1e-3  # no row of the old vocabulary
        else:
            assert torch.equal(value, stored[n]), n
    tied = lm.model.get_output_embeddings().weight is lm.model.get_input_embeddings().weight
    assert tied == (name not in UNTIED)

    tokens = documents()[1][None]
    with lm.inference():
        logits = lm.forward_logits(tokens)
    assert logits.shape[-1] == 32
    lm.save(tmp_path / "lm")
    with torch.no_grad():
        assert torch.equal(plain(name, tmp_path / "lm")(tokens).logits, logits)
    back = UnitLM.load(tmp_path / "lm")
    with back.inference():
        assert torch.equal(back.forward_logits(tokens), logits)
    back_tied = back.model.get_output_embeddings().weight is back.model.get_input_embeddings().weight
    assert back_tied == tied


def test_documents_of_a_packed_row_are_apart(family: tuple[str, Path]) -> None:
    _, folder = family
    lm = warm_start(folder, make_spec(), rows="mean", seed=0)
    docs = documents()
    tokens, segments = pack(docs, padding=3)
    tokens, segments = tokens.repeat(2, 1), segments.repeat(2, 1)
    tokens[1, :7] = tokens[1, :7].flip(0)
    with lm.inference():
        packed = lm.forward_logits(tokens, segments)
        alone = torch.cat([lm.forward_logits(doc[None]) for doc in docs], dim=1)
    torch.testing.assert_close(packed[:1, : alone.shape[1]], alone, atol=2e-5, rtol=1e-4)
    # The rows differ in the first document only; to rounding, since a batch's rows may be summed in different orders.
    torch.testing.assert_close(packed[0, 9:], packed[1, 9:], atol=1e-5, rtol=1e-5)
    assert (packed[0, 1:9] - packed[1, 1:9]).abs().max() > 1e-2
    assert packed.isfinite().all()


def test_random_rows_begin_near_chance_and_train(family: tuple[str, Path]) -> None:
    _, folder = family
    lm = warm_start(folder, make_spec(90), rows="random", seed=0)
    tokens = torch.randint(2, 92, (4, 50), generator=torch.Generator().manual_seed(0))
    logits = lm.forward_logits(tokens[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() - math.log(92)) < 0.15
    loss.backward()
    unused = [n for n, p in lm.model.named_parameters() if p.grad is None]
    assert not unused


def test_sampling_equals_running_the_whole_prefix(family: tuple[str, Path]) -> None:
    name, folder = family
    lm = warm_start(folder, make_spec(deduplicate=False), rows="mean", seed=0)
    if name == "mamba":
        with pytest.raises(BadInput, match="MambaForCausalLM keeps no key-value cache"):
            generate(lm, None, temperature=0, seed=0, max_units=12)
        return
    made = generate(lm, None, temperature=0, seed=0, max_units=12, stop_at_end=False)
    tokens = [1]
    for _ in range(12):
        with lm.inference():
            logits = lm.forward_logits(torch.tensor([tokens]))[0, -1]
        logits[:2] = -torch.inf
        tokens.append(int(logits.argmax()))
    assert (made.ids + 2).tolist() == tokens[1:]


def test_the_first_layers_are_kept_and_cold_has_the_same_shape(family: tuple[str, Path]) -> None:
    _, folder = family
    stored = dict(load_causal_lm(folder).named_parameters())
    lm = warm_start(folder, make_spec(), rows="random", seed=0, layers=1)
    whole = warm_start(folder, make_spec(), rows="random", seed=0)
    body = {n: p for n, p in lm.model.named_parameters() if n not in lm.provenance["new"]["names"]}
    assert body and all(torch.equal(p, stored[n]) for n, p in body.items())
    assert lm.provenance["layers"] == [1, 2] and whole.provenance["layers"] == [2, 2]
    assert len(list(lm.model.parameters())) < len(list(whole.model.parameters()))
    cold = cold_start(folder, make_spec(), seed=0, layers=1)
    shapes = [{n: p.shape for n, p in made.model.named_parameters()} for made in (lm, cold)]
    assert shapes[0] == shapes[1]
    with pytest.raises(BadInput, match="has 1 to 2 to keep"):
        warm_start(folder, make_spec(), rows="random", seed=0, layers=3)


def test_every_masked_architecture_is_tested() -> None:
    tested = {config().model_type for config in FAMILIES.values()}
    assert tested >= MASKED


def test_first_rows_of_an_image_vocabulary(tmp_path: Path) -> None:
    """ImageGPT has an input row more than outputs: both tables keep their own first rows."""
    model = from_config(FAMILIES["imagegpt"]())
    model.save_pretrained(tmp_path / "image")
    lm = warm_start(tmp_path / "image", make_spec(), rows="first-rows", seed=0)
    table, head = lm.model.get_input_embeddings().weight, lm.model.get_output_embeddings().weight
    assert torch.equal(table, model.transformer.wte.weight[:33]) and torch.equal(head, model.lm_head.weight[:32])


def test_layers_of_two_kinds_are_cut_with_their_kinds(tmp_path: Path) -> None:
    config = transformers.GPTNeoConfig(
        vocab_size=97, hidden_size=16, num_layers=4, num_heads=2, attention_types=[[["global", "local"], 2]],
        window_size=4, max_position_embeddings=64,
    )  # fmt: skip
    from_config(config).save_pretrained(tmp_path / "neo")
    for n in (1, 3):
        for begin in (warm_start, cold_start):
            lm = begin(tmp_path / "neo", make_spec(), rows="random", seed=0, layers=n)
            lm.save(tmp_path / f"{begin.__name__}-{n}")
            again = UnitLM.load(tmp_path / f"{begin.__name__}-{n}")
            assert again.model.config.attention_layers == ["global", "local", "global"][:n]
            tokens = torch.arange(2, 20)[None]
            with lm.inference(), again.inference():
                assert torch.equal(lm.forward_logits(tokens), again.forward_logits(tokens))


def test_a_configuration_that_holds_an_infinite_number(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "state_size": 4, "num_heads": 8, "head_dim": 8}
    config = transformers.Mamba2Config(vocab_size=97, n_groups=1, chunk_size=16, **shape)
    from_config(config).save_pretrained(tmp_path / "text")
    lm = warm_start(tmp_path / "text", make_spec(), rows="random", seed=0)
    lm.save(tmp_path / "lm")
    assert UnitLM.load(tmp_path / "lm").model.config.time_step_limit[1] == float("inf")
    lowrank(tmp_path / "lm", str(tmp_path / "text"), tmp_path / "small", rank=2)
    assert restore(tmp_path / "small").model.config.model_type == "mamba2"


def test_a_configuration_that_cannot_be_written_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_config(FAMILIES["llama"]()).save_pretrained(tmp_path / "text")

    damaged = {"model_type": "llama", "hidden_size": "wide"}
    monkeypatch.setattr(PretrainedConfig, "to_dict", lambda self, *_, **__: dict(damaged))
    for begin in (warm_start, cold_start):
        with pytest.raises(BadInput, match="configuration of this llama cannot be written and read again"):
            begin(tmp_path / "text", make_spec(), rows="random", seed=0)


def test_a_model_that_counts_columns_samples_each_prompt_alone(tmp_path: Path) -> None:
    config = transformers.BartConfig(
        vocab_size=97, d_model=32, decoder_layers=2, encoder_layers=2, decoder_attention_heads=4,
        encoder_attention_heads=4, decoder_ffn_dim=48, max_position_embeddings=64, is_decoder=True,
        is_encoder_decoder=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = from_config(config)
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.data.normal_(std=0.2)
    model.save_pretrained(tmp_path / "bart")
    lm = warm_start(tmp_path / "bart", make_spec(deduplicate=False), rows="mean", seed=0)
    ones = [np.ones(n, np.int32) for n in (3, 9, 5)]
    cut = warm_start(tmp_path / "bart", make_spec(), rows="mean", seed=0, layers=1)
    assert cut.provenance["layers"] == [1, 2] and cut.model.config.decoder_layers == 1
    prompts = [Units(np.arange(len(one), dtype=np.uint16), one, lm.spec, "p") for one in ones]
    options: dict[str, Any] = {"temperature": 0.8, "max_units": 12, "stop_at_end": False}
    together = generate_batch(lm, prompts, seeds=[1, 2, 3], **options)
    for prompt, seed, made in zip(prompts, (1, 2, 3), together, strict=True):
        assert made.ids.tolist() == generate(lm, prompt, seed=seed, **options).ids.tolist()


def test_what_cannot_start_says_why(tmp_path: Path) -> None:
    t5 = transformers.T5Config(vocab_size=97, d_model=16, d_ff=16, num_layers=1, num_heads=2)
    t5.save_pretrained(tmp_path / "t5")
    with pytest.raises(BadInput, match="t5 is no causal LM of transformers"):
        warm_start(tmp_path / "t5", make_spec(), rows="random", seed=0)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_text('{"model_type": "of-next-year"}')
    with pytest.raises(BadInput, match="of-next-year"):
        warm_start(tmp_path / "new", make_spec(), rows="random", seed=0)
