"""Folders that are not quite a model: each is loaded whole, or refused with what is wrong and how to mend it."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from test_lm_model import make_spec, make_text_lm
from twistlm.errors import ArtifactError, BadInput, CheckpointError, TwistError
from twistlm.evaluate.topline import load_text_tokenizer
from twistlm.lm.model import UnitLM
from twistlm.lm.pretrained import load_causal_lm, quiet, require_saved
from twistlm.lm.warmstart import warm_start

State = dict[str, torch.Tensor]
Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_text_lm(tmp_path / "text")


def config(folder: Path, **changed: object) -> None:
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | changed))


def weights(folder: Path, change: Callable[[State], State]) -> None:
    path = folder / "model.safetensors"
    save_file({n: v.clone() for n, v in change(load_file(path)).items()}, path, {"format": "pt"})


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("pickled", [False, True])
def test_what_wraps_a_model_is_taken_off_its_names(folder: Path, prefix: str, pickled: bool) -> None:
    plain = dict(load_causal_lm(folder).named_parameters())
    weights(folder, lambda state: {prefix + name: value for name, value in state.items()})
    if pickled:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    lm = warm_start(folder, make_spec(), rows="random", seed=0)
    assert lm.provenance["kept"]["tensors"] == len(plain) - 1
    body = {n: v for n, v in lm.model.named_parameters() if "embed_tokens" not in n}
    assert body and all(torch.equal(value, plain[name]) for name, value in body.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s | {f"{Q}.bias": torch.zeros(32)}, rf"no place for: {Q}\.bias"),
        (lambda s: s | {n.replace("layers.0", "layers.9"): v for n, v in s.items()}, r"no place for: model\.layers\.9"),
        (lambda s: s | {f"{Q}.lora_A.weight": torch.zeros(2, 32)}, "LoRA adapter was saved unmerged"),
        (lambda s: s | {f"{Q}.weight_scale_inv": torch.ones(1)}, "scales of quantised weights"),
        (lambda s: s | {f"{Q}.weight": s[f"{Q}.weight"].to(torch.float8_e4m3fn)}, r"not plain floats.*F8_E4M3"),
        (lambda s: s | {f"{Q}.weight": s[f"{Q}.weight"].to(torch.int8)}, r"not plain floats.*\(I8\)"),
        (lambda s: s | {f"{Q}.weight": s[f"{Q}.weight"][:4]}, rf"do not fit: {Q}\.weight is \(4, 32\) in the file"),
        (lambda s: {n: torch.cat([v, v]) if "embed" in n else v for n, v in s.items()}, "set vocab_size to 194"),
        (lambda s: {n: v for n, v in s.items() if "q_proj" not in n}, rf"lacks the weights {Q}\.weight"),
        (lambda s: s | {f"{Q}.weight": s[f"{Q}.weight"].fill_(torch.nan)}, rf"NaN or infinite: {Q}\.weight"),
        (lambda s: s | {"model.norm.weight": s["model.norm.weight"] / 0}, r"NaN or infinite: model\.norm\.weight"),
        (lambda s: s | {f"_orig_mod.{Q}.weight": s[f"{Q}.weight"]}, "under two names"),
    ],
)
def test_weights_that_are_not_the_configurations_are_named(folder: Path, change, said: str) -> None:
    weights(folder, change)
    with pytest.raises(CheckpointError, match=said):
        warm_start(folder, make_spec(), rows="random", seed=0)


def test_old_buffers_and_layers_that_were_cut_are_no_loss(folder: Path) -> None:
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "model.masked_bias": torch.tensor(-1e9)}
    buffers["model.layers.0.attention.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    weights(folder, lambda state: state | buffers)
    assert warm_start(folder, make_spec(), rows="random", seed=0, layers=1).provenance["layers"] == [1, 2]
    weights(folder, lambda state: state | {"model.layers.7.mlp.up_proj.weight": torch.ones(2, 2)})
    with pytest.raises(CheckpointError, match=r"no place for: model\.layers\.7"):
        warm_start(folder, make_spec(), rows="random", seed=0, layers=1)


def test_adapters_quantised_and_pointers_are_said_to_be_what_they_are(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base", "r": 2}))
    with pytest.raises(BadInput, match="PEFT adapter alone, made for 'org/base'"):
        warm_start(adapter, make_spec(), rows="random", seed=0)
    for quantised in ({"quant_method": "gptq", "bits": 4}, {"load_in_4bit": True, "quant_method": "bitsandbytes"}):
        config(folder, quantization_config=quantised)
        with pytest.raises(BadInput, match=f"quantised weights .*{quantised['quant_method']}, 4 bits"):
            load_causal_lm(folder)
    config(folder, quantization_config=None)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInput, match="a model and a PEFT adapter"):
        load_causal_lm(folder)
    (folder / "adapter_config.json").unlink()
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load_causal_lm(folder)


def test_nothing_of_a_folder_runs_and_nothing_is_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    ran = tmp_path / "RAN"
    code = f"open({str(ran)!r}, 'w').close()\n"
    own = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", None]}
    for name in ("evil.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    plain = load_causal_lm(folder)
    config(folder, auto_map=own, _attn_implementation="kernels-community/x", attn_implementation="flash_attention_2")
    model = load_causal_lm(folder)  # transformers has Llama itself: the folder's own is not looked at
    assert type(model) is type(plain) and model.config._attn_implementation == "sdpa"
    model.save_pretrained(tmp_path / "saved")
    assert not {"auto_map", "attn_implementation"} & json.loads((tmp_path / "saved" / "config.json").read_text()).keys()
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": own, "tokenizer_class": "EvilTokenizer"}))
    with pytest.raises(ArtifactError, match="text tokenizer"):
        load_text_tokenizer(folder)
    config(folder, model_type="evil")
    with pytest.raises(BadInput, match=r"needs its own Python .* which twistlm never runs"):
        load_causal_lm(folder)
    assert not ran.exists() and "[y/N]" not in "".join(capsys.readouterr())


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return sys.exit, ("ran",)


def test_a_pickle_that_holds_more_than_tensors_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_causal_lm(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(CheckpointError, match="only tensors are read"):
        load_causal_lm(folder)
    torch.save([torch.ones(2)], folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        load_causal_lm(folder)


def test_a_pad_token_without_a_row_is_let_go(folder: Path) -> None:
    config(folder, pad_token_id=97)
    assert load_causal_lm(folder).config.pad_token_id is None
    assert warm_start(folder, make_spec(), rows="random", seed=0).model.config.pad_token_id == 0


def test_loads_that_overlap_leave_the_logging_of_transformers_as_it_was() -> None:
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    first, second = quiet(), quiet()
    first.__enter__()
    with second:
        first.__exit__(None, None, None)
        assert transformers_logging.get_verbosity() == transformers_logging.CRITICAL
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before


def test_what_was_saved_is_read_back_before_it_gets_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = warm_start(folder, make_spec(), rows="random", seed=0)
    lm.save(tmp_path / "lm")
    require_saved(tmp_path / "lm", lm.model)
    whole = type(lm.model).save_pretrained

    def loses_a_tensor(model, place, **options) -> None:
        whole(model, place, **options)
        weights(place, lambda state: {n: v for n, v in state.items() if n != f"{Q}.weight"})

    def leaves_no_weights(model, place, **options) -> None:
        whole(model, place, **options)
        (place / "model.safetensors").rename(place / "adapter_model.safetensors")

    for fault, said in ((loses_a_tensor, rf"not load again: {Q}\.weight"), (leaves_no_weights, "neither")):
        monkeypatch.setattr(type(lm.model), "save_pretrained", fault)
        with pytest.raises(TwistError, match=said):
            lm.save(tmp_path / "again")
        assert not (tmp_path / "again").exists()
    monkeypatch.undo()
    assert UnitLM.load(tmp_path / "lm").model.config.vocab_size == 32
