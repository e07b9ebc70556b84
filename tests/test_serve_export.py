"""Exports: what another server loads computes what ours does, and its rule is `generate`'s."""

from __future__ import annotations

import dataclasses
import enum
import importlib.util
import json
import shutil
import sys
import types
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from standins import Tiny
from test_lm_model import make_spec, make_text_lm
from twistlm.errors import BadInput
from twistlm.files.gguf import convert
from twistlm.files.known import known
from twistlm.jobs.inspecting import describe
from twistlm.lm.continuation import begin
from twistlm.lm.model import UnitLM
from twistlm.lm.noise import seeds_of_places
from twistlm.lm.vocab import Vocab
from twistlm.lm.warmstart import warm_start
from twistlm.serve.exporting import export
from twistlm.vocoder.vocoder import Vocoder

TOKENS = [1, 5, 9, 2, 31, 7, 8, 9]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> UnitLM:
    return warm_start(make_text_lm(tmp_path_factory.mktemp("text")), make_spec(), rows="mean", seed=0)


def module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location("no_repeat", file)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def ruled(lm: UnitLM, logits: torch.Tensor, last: int) -> list[int]:
    """Return which tokens `generate` may take, asked of its own chooser one draw at a time."""
    choose = begin(lm, None, temperature=1.0, seed=0, max_units=1, stop_at_end=False).choose
    flat = torch.zeros_like(logits)
    return sorted({choose(flat, last, draw) for draw in seeds_of_places(0, 2_000)})


def test_a_folder_for_vllm_is_plain_transformers(lm: UnitLM, tmp_path: Path) -> None:
    export(lm, tmp_path / "out", server="vllm")
    assert not list((tmp_path / "out").glob("token*"))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        tokens = torch.tensor([TOKENS])
        assert torch.equal(theirs(tokens).logits, lm.model(tokens).logits)


def test_a_model_whose_documents_have_no_ends_has_none_that_is_a_unit(lm: UnitLM, tmp_path: Path) -> None:
    """TWIST's published layout; llama.cpp takes tokens 1 and 2 where a file says nothing."""
    from gguf import GGUFReader

    ended = Vocab(lm.vocab.n_units, offset=1, pad=0, bos=None, eos=None, n_tokens=lm.vocab.size)
    export(dataclasses.replace(lm, vocab=ended), tmp_path / "out", server="llama.cpp")
    fields = GGUFReader(tmp_path / "out" / "model.gguf").fields
    for name in ("bos", "eos"):
        assert fields[f"tokenizer.ggml.{name}_token_id"].contents() not in range(1, 1 + ended.n_units)


def test_a_gguf_holds_the_same_weights(lm: UnitLM, tmp_path: Path) -> None:
    export(lm, tmp_path / "out", server="llama.cpp")
    shutil.copy(tmp_path / "out" / "model.gguf", tmp_path / "model.gguf")
    convert(tmp_path / "model.gguf", {})
    read = load_file(tmp_path / "model.safetensors")
    ours = {k: v for k, v in lm.model.state_dict().items() if k != "lm_head.weight" or "lm_head.weight" in read}
    assert read.keys() == ours.keys()
    for name, values in ours.items():
        assert torch.equal(read[name], values), name
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["vocab_size"] == lm.vocab.size and config["bos_token_id"] == lm.vocab.bos


def test_no_model_and_no_vocoder_is_taken_for_an_earlier_export(lm: UnitLM, tiny: Tiny, tmp_path: Path) -> None:
    lm.save(tmp_path / "lm")
    shutil.copytree(tiny.vocoder, tmp_path / "voice")
    export(lm, tmp_path / "out", server="vllm")
    export(lm, tmp_path / "out", server="llama.cpp")  # its own may be replaced
    export(lm, tmp_path / "other", server="vllm")
    shown = {name: describe(tmp_path / name) for name in ("out", "other", "voice")}
    assert [facts["kind"] for facts in shown.values()] == ["exported unit LM", "exported unit LM", "vocoder"]
    assert [shown[name]["for"] for name in ("out", "other")] == ["llama.cpp", "vLLM"]
    assert all(found.folder != tmp_path / "other" for found in known("vocoder", search=[tmp_path]))
    for name, refused in (
        ("lm", lambda folder: export(lm, folder, server="llama.cpp")),
        ("voice", lambda folder: export(lm, folder, server="vllm")),
        ("voice", lm.save),
        ("out", lm.save),
        ("lm", Vocoder.load(tiny.vocoder).save),
        ("out", Vocoder.load(tiny.vocoder).save),
    ):
        before = sorted(path.name for path in (tmp_path / name).iterdir())
        with pytest.raises(BadInput, match="would be replaced as a whole"):
            refused(tmp_path / name)
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == before


def test_two_tables_that_are_called_one_stay_two(lm: UnitLM, tmp_path: Path) -> None:
    lm.save(tmp_path / "lm")
    path = tmp_path / "lm" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))
    tables = load_file(tmp_path / "lm" / "model.safetensors")
    tables["lm_head.weight"] = tables["model.embed_tokens.weight"] + 1
    save_file(tables, tmp_path / "lm" / "model.safetensors", metadata={"format": "pt"})
    read = UnitLM.load(tmp_path / "lm")
    assert not read.model.config.tie_word_embeddings
    assert torch.equal(read.model.lm_head.weight, tables["lm_head.weight"])
    export(read, tmp_path / "out", server="llama.cpp")
    shutil.copy(tmp_path / "out" / "model.gguf", tmp_path / "model.gguf")
    convert(tmp_path / "model.gguf", {})
    assert torch.equal(load_file(tmp_path / "model.safetensors")["lm_head.weight"], tables["lm_head.weight"])


def test_what_gguf_has_no_place_for_is_refused(tmp_path: Path) -> None:
    other = warm_start(make_text_lm(tmp_path / "text", "opt"), make_spec(), rows="mean", seed=0)
    with pytest.raises(BadInput, match="Export it for vllm"):
        export(other, tmp_path / "out", server="llama.cpp")
    assert not (tmp_path / "out").exists()


def test_another_activation_is_not_taken_for_silu(lm: UnitLM, tmp_path: Path) -> None:
    was = lm.model.config.hidden_act
    lm.model.config.hidden_act = "gelu"
    try:
        with pytest.raises(BadInput, match="only Llama models with plain rotary positions, SiLU"):
            export(lm, tmp_path / "out", server="llama.cpp")
    finally:
        lm.model.config.hidden_act = was
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_the_rule_for_llama_cpp_is_ours(lm: UnitLM, tmp_path: Path) -> None:
    export(lm, tmp_path / "out", server="llama.cpp")
    rule = module(tmp_path / "out" / "no_repeat.py").no_repeat
    scores = np.zeros(lm.vocab.size, np.float32)
    for last in (1, 2, 17, 31):
        allowed = np.flatnonzero(np.isfinite(rule(np.array([1, last]), scores))).tolist()
        assert allowed == ruled(lm, torch.zeros(lm.vocab.size), last)
    assert not scores.any()


@pytest.mark.parametrize("deduplicate", [True, False])
def test_a_request_to_llama_cpps_server_says_the_rules(tmp_path: Path, *, deduplicate: bool) -> None:
    """That they then hold there is seen by runs/exported_models.py."""
    lm = warm_start(make_text_lm(tmp_path / "text"), make_spec(deduplicate=deduplicate), rows="mean", seed=0)
    export(lm, tmp_path / "out", server="llama.cpp")
    rules = json.loads((tmp_path / "out" / "request.json").read_text())
    units = set(range(lm.vocab.offset, lm.vocab.offset + lm.vocab.n_units))
    assert rules["logit_bias"] == [[token, False] for token in range(lm.vocab.size) if token not in units]
    assert (rules.get("repeat_last_n"), rules.get("presence_penalty")) == ((1, 1e9) if deduplicate else (None, None))


def test_the_rule_for_vllm_is_ours(lm: UnitLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in of vLLM's v1 interface: vLLM itself is asked by runs/exported_models.py."""

    class Direction(enum.Enum):
        UNIDIRECTIONAL = 0
        SWAP = 1

    @dataclass
    class Update:
        removed: list[int]
        added: list[tuple[int, Any, list[int] | None, list[int]]]
        moved: list[tuple[int, int, Direction]]

    names = "vllm", "vllm.v1", "vllm.v1.sample", "vllm.v1.sample.logits_processor"
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    last_module: Any = sys.modules[names[-1]]
    last_module.LogitsProcessor, last_module.BatchUpdate, last_module.MoveDirectionality = object, Update, Direction
    export(lm, tmp_path / "out", server="vllm")
    rule = module(tmp_path / "out" / "no_repeat.py").NoRepeat(None, torch.device("cpu"), False)
    ends, plain = types.SimpleNamespace(extra_args={"end": True}), types.SimpleNamespace(extra_args=None)
    first, second = [], [9]
    rule.update_state(Update([], [(0, plain, [1, 5], first), (1, ends, [1], second)], []))

    def allowed(rows: int = 2) -> list[list[int]]:
        logits = rule.apply(torch.zeros(rows, lm.vocab.size))
        return [row.isfinite().nonzero()[:, 0].tolist() for row in logits]

    found = allowed()
    assert found[0] == ruled(lm, torch.zeros(lm.vocab.size), 5)
    assert found[1] == sorted([*ruled(lm, torch.zeros(lm.vocab.size), 9), 1])
    first.append(30)
    rule.update_state(None)
    assert 30 not in allowed()[0] and 5 in allowed()[0]
    rule.update_state(Update([], [], [(0, 1, Direction.SWAP)]))
    assert 30 not in allowed()[1] and 9 not in allowed()[0] and 1 in allowed()[0]
    rule.update_state(Update([0], [], [(1, 0, Direction.UNIDIRECTIONAL)]))
    assert 30 not in allowed(1)[0] and list(rule.rows) == [0]


@pytest.mark.slow
def test_llama_cpps_server_computes_the_same(tmp_path: Path) -> None:
    """llama.cpp's own server, from the package xllamacpp: log-probabilities of every token after a prompt of ids."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp's server comes with the package xllamacpp")
    lm = warm_start(make_text_lm(tmp_path / "text"), make_spec(), rows="mean", seed=0)
    export(lm, tmp_path / "out", server="llama.cpp")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(tmp_path / "out" / "model.gguf")
    settings.n_ctx, settings.warmup, settings.n_parallel = 64, False, 1
    settings.cpuparams.n_threads = 1
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(settings)
    asked = {
        "prompt": TOKENS, "n_predict": 1, "n_probs": lm.vocab.size, "samplers": [], "return_tokens": True,
        "cache_prompt": False,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{server.listening_address}/completion", json.dumps(asked).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        told = json.load(answer)
    theirs = {one["id"]: one["logprob"] for one in told["completion_probabilities"][0]["top_logprobs"]}
    with torch.no_grad():
        ours = lm.model(torch.tensor([TOKENS])).logits[0, -1].log_softmax(0)
    assert len(theirs) == lm.vocab.size
    for token, value in theirs.items():
        assert value == pytest.approx(float(ours[token]), abs=1e-3)
