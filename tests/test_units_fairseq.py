"""Encoders in fairseq's form: stand-ins with its exact names, against transformers; nothing in the file runs."""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import types

import joblib
import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

from encoders import LAYERS, stand_in
from standins import babble
from test_units_kmeans_pickle import Touch
from test_units_published import CLIP, hidden_states
from twistlm.errors import ArtifactError, BadInput
from twistlm.units import published
from twistlm.units.fairseq import parse_convolutions, read_fairseq
from twistlm.units.pretrained import pretrained
from twistlm.units.tokenizer import SpeechTokenizer

NAMES = ["hubert-base", "hubert-large", "mhubert-25hz", "wav2vec2-base", "wav2vec2-large"]


def fairseq_name(name: str, group: bool, normed: bool) -> str:
    """transformers' name of a tensor as fairseq's modules give it, written the other way round than the reader's."""
    parts = name.split(".")
    if parts[0] == "feature_extractor":
        inner = "0" if parts[3] == "conv" else "2" if group else "2.1"
        return f"feature_extractor.conv_layers.{parts[2]}.{inner}.{parts[4]}"
    if parts[0] == "feature_projection":
        return f"{'post_extract_proj' if parts[1] == 'projection' else 'layer_norm'}.{parts[2]}"
    if parts[1] == "pos_conv_embed":
        if normed:
            return f"encoder.pos_conv.{0 if parts[2] == 'batch_norm' else 1}.{parts[-1]}"
        return f"encoder.pos_conv.0.{ {'original0': 'weight_g', 'original1': 'weight_v', 'bias': 'bias'}[parts[-1]] }"
    if parts[1] == "layers":
        inside = ".".join(parts[3:-1])
        inside = {
            "layer_norm": "self_attn_layer_norm", "final_layer_norm": "final_layer_norm",
            "feed_forward.intermediate_dense": "fc1", "feed_forward.output_dense": "fc2",
        }.get(inside) or inside.replace("attention", "self_attn")  # fmt: skip
        return f"encoder.layers.{parts[2]}.{inside}.{parts[-1]}"
    return name


def checkpoint(name: str, *, layers: int = LAYERS) -> tuple[object, dict]:
    """(the model of transformers, what fairseq would have saved of it)."""
    model, fields = stand_in(name, layers=layers)
    group, normed = fields["feat_extract_norm"] == "group", bool(fields.get("conv_pos_batch_norm"))
    state = {
        fairseq_name(n, group, normed): t for n, t in model.state_dict().items() if n != "masked_spec_embed"
    } | {"mask_emb": torch.zeros(32), "final_proj.weight": torch.zeros(4, 32), "final_proj.bias": torch.zeros(4),
         "label_embs_concat": torch.zeros(504, 4)}  # fmt: skip
    convolutions = zip(fields["conv_dim"], fields["conv_kernel"], fields["conv_stride"], strict=True)
    said = {
        "_name": name.split("-")[0].removeprefix("m"), "extractor_mode": "default" if group else "layer_norm",
        "encoder_layers": layers, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 2,
        "activation_fn": "gelu", "layer_norm_first": bool(fields["do_stable_layer_norm"]), "conv_pos": 128,
        "conv_feature_layers": " + ".join(f"[({d},{k},{s})] * 1" for d, k, s in convolutions),
    }  # fmt: skip
    return model, {"args": None, "cfg": {"model": said, "task": {"normalize": False}}, "model": state,
                   "last_optimizer_state": {"state": {0: {"step": 3, "exp_avg": torch.zeros(5)}}}}  # fmt: skip


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_features_are_those_of_transformers(name, older, tmp_path):
    model, saved = checkpoint(name)
    torch.save(saved, tmp_path / "e.pt", _use_new_zipfile_serialization=not older)
    fields, state = read_fairseq(tmp_path / "e.pt")
    assert set(state) == set(model.state_dict()) - {"masked_spec_embed"}
    assert all(torch.equal(state[n], model.state_dict()[n]) for n in state)
    wanted = model.config.to_dict()
    assert {n: v for n, v in fields.items() if (list(wanted[n]) if isinstance(v, list) else wanted[n]) != v} == {}
    for layer in (1, LAYERS):
        features = pretrained(tmp_path / "e.pt", layer=layer, normalize_input=False)(CLIP.samples)
        np.testing.assert_allclose(features, hidden_states(model, CLIP.samples)[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"encoder_attention_heads": 0}, "num_attention_heads is 0"), ({"encoder_attention_heads": -2}, "is -2"),
     ({"encoder_attention_heads": 5}, "divisible by num_heads"), ({"activation_fn": "swish!"}, "KeyError: 'swish!'")],
)  # fmt: skip
def test_a_configuration_that_no_encoder_has(change, said, tmp_path):
    _, saved = checkpoint("hubert-base")
    saved["cfg"]["model"] |= change
    torch.save(saved, tmp_path / "e.pt")
    with pytest.raises(BadInput, match=rf"e\.pt: no encoder can be made as its configuration says \(.*{said}"):
        pretrained(tmp_path / "e.pt", layer=1, normalize_input=False)


@pytest.fixture
def omegaconf(monkeypatch):
    """Classes that pickle as omegaconf's and fairseq's own do; they are gone when the file is read."""
    for name in ("omegaconf", "omegaconf.dictconfig", "omegaconf.nodes", "fairseq", "fairseq.tasks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    def kind(module: str, name: str):
        made = type(name, (), {"__module__": module, "__qualname__": name})
        setattr(sys.modules[module], name, made)
        return made

    return kind


def test_configurations_of_other_versions(tmp_path, omegaconf, monkeypatch):
    """A namespace, nodes of omegaconf, and a fine-tuned model around the encoder."""
    model, saved = checkpoint("hubert-base")
    expected = hidden_states(model, CLIP.samples)[2]
    said = saved["cfg"]["model"]
    node, any_node = omegaconf("omegaconf.dictconfig", "DictConfig"), omegaconf("omegaconf.nodes", "AnyNode")
    task = omegaconf("fairseq.tasks", "Task")

    def wrap(value):
        made = node() if isinstance(value, dict) else any_node()
        made.__dict__ = {"_metadata": task(), "_parent": made} | (
            {"_content": {k: wrap(v) for k, v in value.items()}} if isinstance(value, dict) else {"_val": value}
        )
        return made

    args = argparse.Namespace(**{**said, "arch": said["_name"]})
    inside = {f"w2v_encoder.w2v_model.{n}": t for n, t in saved["model"].items()} | {
        "w2v_encoder.proj.weight": torch.ones(3)
    }
    tuned = {"_name": "hubert_ctc", "w2v_args": {"model": said, "task": {}}, "layer": 3}
    forms = [
        saved | {"cfg": wrap(saved["cfg"])}, saved | {"args": args, "cfg": None}, saved | {"task_state": task()},
        saved | {"cfg": {"model": tuned}, "model": inside},
    ]  # fmt: skip
    for form in forms:
        torch.save(form, tmp_path / "e.pt")
        features = pretrained(tmp_path / "e.pt", layer=2, normalize_input=False)(CLIP.samples)
        np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_nothing_in_a_checkpoint_runs(tmp_path):
    _, saved = checkpoint("hubert-base")
    layers = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch() or [(8,10,5)]"
    for changed in (saved | {"extra_state": Touch(tmp_path / "ran", "open")},
                    saved | {"cfg": {"model": saved["cfg"]["model"] | {"conv_feature_layers": layers}}}):  # fmt: skip
        torch.save(changed, tmp_path / "e.pt")
        if "extra_state" in changed:
            read_fairseq(tmp_path / "e.pt")
        else:
            with pytest.raises(BadInput, match="no list of"):
                read_fairseq(tmp_path / "e.pt")
        assert not (tmp_path / "ran").exists()


def test_convolutions_are_text_that_is_not_run():
    assert parse_convolutions("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2") == [
        (512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2]  # fmt: skip
    for text in ("[]", "open('x')", "[(1,2)]", "[(1,2,3)] * 10**9", "[(1,2,3)] * 1000000000", "[(1,2,True)]",
                 "(" * 3000,
                 "[(1,2,-3)]", "[(1,2,3)]" + "+[(1,2,3)]" * 400):  # fmt: skip
        with pytest.raises(BadInput):
            parse_convolutions(text)


def test_what_is_no_encoder_of_fairseq_is_named(tmp_path):
    _, saved = checkpoint("hubert-base")
    said = saved["cfg"]["model"]
    for changed, match in (
        ({"model": saved["model"] | {"decoder.weight": torch.ones(2)}}, r"neither a HuBERT.*decoder\.weight"),
        ({"cfg": {"model": said | {"_name": "cpc"}}}, "of the kind 'cpc'"),
        ({"cfg": None}, "does not say how its model is built"),
        ({"cfg": {"model": said | {"encoder_attention_heads": "2"}}}, "encoder_attention_heads str, not int"),
        ({"model": {}}, "lacks the weights"),
    ):
        torch.save(saved | changed, tmp_path / "e.pt")
        with pytest.raises((BadInput, ArtifactError), match=match):
            pretrained(tmp_path / "e.pt", layer=1, normalize_input=False)
    whole = (tmp_path / "e.pt").read_bytes()
    (tmp_path / "e.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=re.escape("no whole file of torch.save")):
        pretrained(tmp_path / "e.pt", layer=1, normalize_input=False)


def test_a_published_codebook_whose_encoder_is_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "cache"))
    model, saved = checkpoint("hubert-base")
    (tmp_path / "web").mkdir()
    torch.save(saved, tmp_path / "web" / "e.pt", _use_new_zipfile_serialization=False)
    frames = hidden_states(model, babble(3.0, seed=1))[2]
    joblib.dump(MiniBatchKMeans(20, n_init=1, random_state=0).fit(frames), tmp_path / "web" / "km.bin")
    sha = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in (tmp_path / "web").iterdir()}
    entry = published.Published(
        path="km.bin", n_units=20, layer=2, checkpoint="e.pt", checkpoint_sha256=sha["e.pt"], sha256=sha["km.bin"]
    )
    monkeypatch.setitem(published.PUBLISHED, "mhubert-base-vp_mls_cv_8lang-kmeans-2000", entry)
    monkeypatch.setattr(published, "_FILES", (tmp_path / "web").as_uri())
    tok = SpeechTokenizer.load("mhubert-base-vp_mls_cv_8lang-kmeans-2000")
    expected = joblib.load(tmp_path / "web" / "km.bin").predict(hidden_states(model, CLIP.samples)[2])
    assert np.array_equal(tok(CLIP).frames, expected)
