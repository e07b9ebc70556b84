"""Published encoders and tokenizers, on stand-ins of their layout: against transformers, every layer."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re

import joblib
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load, load_file, save
from sklearn.cluster import MiniBatchKMeans

from encoders import LAYERS, NAMES, encoder_state, stand_in
from standins import babble
from test_units_batch import tokenizer
from twistlm.audio.clip import Clip
from twistlm.errors import ArtifactError, BadInput
from twistlm.units import encoder as encoder_module
from twistlm.units import importing, published
from twistlm.units.folder import save_tokenizer
from twistlm.units.importing import import_tokenizer
from twistlm.units.kmeans import Codebook
from twistlm.units.pretrained import build, pretrained
from twistlm.units.published import PUBLISHED, published_codebook
from twistlm.units.tokenizer import SpeechTokenizer

CLIP = Clip(babble(0.7, seed=3), 16_000, "clip")


def hidden_states(model, samples):
    """What transformers says `hidden_states` of one clip are, each [F, D], none of them after a final norm."""
    with torch.inference_mode():
        if not hasattr(model, "decoder"):
            wave = torch.from_numpy(samples)[None]
            return [h[0].numpy() for h in model(wave, output_hidden_states=True).hidden_states]
        config = model.config
        extract = transformers.WhisperFeatureExtractor(
            config.num_mel_bins, chunk_length=config.max_source_positions // 50
        )
        mel = extract(samples, sampling_rate=16_000, return_tensors="pt").input_features
        # transformers puts the normed last state in place of the last block's output: look before that norm.
        last = []
        hook = model.encoder.layer_norm.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0]))
        states = model.encoder(mel, output_hidden_states=True).hidden_states
        hook.remove()
        return [h[0, : -(-len(samples) // 320)].numpy() for h in [*states[:-1], last[0]]]


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_equals_transformers(name):
    model, fields = stand_in(name)
    expected = hidden_states(model, CLIP.samples)
    assert len(expected) == LAYERS + 1
    for layer in range(1, LAYERS + 1):
        encoder = build(fields, encoder_state(model), layer=layer, normalize_input=False, where=name)
        features = encoder(CLIP.samples)
        np.testing.assert_allclose(features, expected[layer], rtol=1e-4, atol=1e-5)
        assert abs(features - expected[layer - 1]).max() > 0.01  # so it is this layer and not its neighbour
        blocks = encoder.model.layers if name == "whisper" else encoder.model.encoder.layers
        assert len(blocks) == layer  # nothing above the tap is there to be computed


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_layer_equals_transformers_at_true_size(name):
    layers = 24 if "large" in name else 12
    model, fields = stand_in(name, narrow=False, layers=layers)
    expected = hidden_states(model, CLIP.samples)
    for layer in range(1, layers + 1):
        encoder = build(fields, encoder_state(model), layer=layer, normalize_input=False, where=name)
        np.testing.assert_allclose(encoder(CLIP.samples), expected[layer], rtol=1e-3, atol=1e-4)


def test_normalised_input_is_zero_mean_and_unit_variance():
    model, fields = stand_in("hubert-large")
    encoder = build(fields, encoder_state(model), layer=2, normalize_input=True, where="")
    extract = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    scaled = extract(CLIP.samples, sampling_rate=16_000).input_values[0]
    np.testing.assert_allclose(encoder(CLIP.samples), hidden_states(model, scaled)[2], rtol=1e-3, atol=1e-4)
    assert abs(encoder(CLIP.samples) - hidden_states(model, CLIP.samples)[2]).max() > 0.01


def save_inside(name, folder):
    """Save a stand-in as the hub has it: inside a larger model where that is usual. Returns the bare model."""
    model, _ = stand_in(name)
    if name == "whisper":
        outer = transformers.WhisperForConditionalGeneration(model.config)
        outer.model = model
    elif name == "wav2vec2-base":
        outer = transformers.Wav2Vec2ForPreTraining(model.config)
        outer.wav2vec2 = model
    elif name == "hubert-large":
        outer = transformers.HubertForCTC(model.config)
        outer.hubert = model
    else:
        outer = model
    outer.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", ["mhubert-25hz", "hubert-large", "wav2vec2-base", "data2vec-audio", "whisper"])
def test_a_transformers_folder(name, tmp_path):
    model = save_inside(name, tmp_path)
    features = pretrained(tmp_path, layer=2, normalize_input=False)(CLIP.samples)
    np.testing.assert_allclose(features, hidden_states(model, CLIP.samples)[2], rtol=1e-4, atol=1e-5)


def as_bin(folder):
    """Turn a folder's weights into the older kind: a torch file, weight norm under its old names."""
    state = load_file(folder / "model.safetensors")
    old = {n.replace("parametrizations.weight.original0", "weight_g"): t for n, t in state.items()}
    old = {n.replace("parametrizations.weight.original1", "weight_v"): t for n, t in old.items()}
    assert set(old) != set(state)
    torch.save(old, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_older_weight_files(tmp_path):
    model = save_inside("hubert-base", tmp_path)
    as_bin(tmp_path)
    features = pretrained(tmp_path, layer=LAYERS, normalize_input=False)(CLIP.samples)
    np.testing.assert_allclose(features, hidden_states(model, CLIP.samples)[LAYERS], rtol=1e-4, atol=1e-5)


class Touch:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_hostile_weights_are_refused(tmp_path):
    save_inside("hubert-base", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"weight": Touch(tmp_path / "it-ran")}, tmp_path / "pytorch_model.bin")
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    (tmp_path / "it-ran").unlink()  # so it does run where it may
    with pytest.raises(ArtifactError, match="cannot be read as weights"):
        pretrained(tmp_path, layer=1, normalize_input=False)
    assert not (tmp_path / "it-ran").exists()


def test_what_cannot_be_loaded_is_named(tmp_path):
    save_inside("hubert-base", tmp_path / "good")
    with pytest.raises(BadInput, match="blocks 1 to 3"):
        pretrained(tmp_path / "good", layer=4, normalize_input=False)
    with pytest.raises(BadInput, match="neither a folder nor a hub id"):
        pretrained("hubert", layer=1, normalize_input=False)
    with pytest.raises(ArtifactError, match=r"no config\.json"):
        pretrained(tmp_path, layer=1, normalize_input=False)
    config = json.loads((tmp_path / "good" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(BadInput, match=r"type 'bert', not a speech encoder"):
        pretrained(tmp_path, layer=1, normalize_input=False)
    (tmp_path / "good" / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(ArtifactError, match="do not fit"):
        pretrained(tmp_path / "good", layer=1, normalize_input=False)
    for wrong in ({"num_attention_heads": 0}, {"hidden_act": "none"}, {"conv_stride": [0]}, {"conv_dim": "wide"}):
        (tmp_path / "good" / "config.json").write_text(json.dumps({**config, **wrong}))
        with pytest.raises(BadInput, match="good: no encoder can be made as its configuration says"):
            pretrained(tmp_path / "good", layer=1, normalize_input=False)
    model, fields = stand_in("whisper")
    with pytest.raises(BadInput, match=r"w: no encoder can be made as its configuration says .*Zero"):
        build({**fields, "encoder_attention_heads": 0}, {}, layer=1, normalize_input=False, where="w")
    with pytest.raises(BadInput, match="normalize_input=False"):
        build(fields, encoder_state(model), layer=1, normalize_input=True, where="w")


def test_a_hub_id_asks_the_hub(monkeypatch, tmp_path):
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ArtifactError, match=r"hub facebook/hubert-base-ls960@main: HF_HUB_OFFLINE is set"):
        pretrained("facebook/hubert-base-ls960", layer=6, normalize_input=False)


def test_the_table_of_published_codebooks():
    # SlamKit's is another's with padding.
    assert len({(entry.sha256, entry.padding) for entry in PUBLISHED.values()}) == len(PUBLISHED) == 15
    assert PUBLISHED["slamkit-mhubert-base-25hz-kmeans-500"].padding == 40
    for name, entry in PUBLISHED.items():
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert name.endswith(f"-{entry.n_units}")
        assert bool(entry.encoder) != bool(entry.checkpoint)
    loadable = {name: (entry.layer, entry.encoder) for name, entry in PUBLISHED.items() if entry.encoder}
    assert loadable["mhubert-base-25hz-kmeans-500"] == (11, "slprl/mhubert-base-25hz")
    assert all(loadable[f"hubert-base-ls960-kmeans-{k}"][0] == 6 for k in (50, 100, 200, 500))
    assert loadable["hubert-base-ls960-layer-9-kmeans-500"][0] == 9


@pytest.fixture
def publisher(monkeypatch, tmp_path):
    """The published HuBERT with 50 units, as a stand-in: its encoder a folder, its k-means behind an address."""
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "cache"))
    model = save_inside("hubert-base", tmp_path / "encoder")
    as_bin(tmp_path / "encoder")
    frames = hidden_states(model, babble(3.0, seed=1))[2]
    kmeans = MiniBatchKMeans(50, n_init=1, random_state=0).fit(frames)
    (tmp_path / "web").mkdir()
    joblib.dump(kmeans, tmp_path / "web" / "km.bin")
    entry = published.Published(
        path="km.bin", n_units=50, layer=2, encoder=str(tmp_path / "encoder"),
        sha256=hashlib.sha256((tmp_path / "web" / "km.bin").read_bytes()).hexdigest(),
    )  # fmt: skip
    monkeypatch.setitem(PUBLISHED, "hubert-base-ls960-kmeans-50", entry)
    monkeypatch.setattr(published, "_FILES", (tmp_path / "web").as_uri())
    return model, kmeans, tmp_path


def test_a_published_tokenizer_by_name(publisher):
    model, kmeans, root = publisher
    tok = SpeechTokenizer.load("hubert-base-ls960-kmeans-50")
    expected = kmeans.predict(hidden_states(model, CLIP.samples)[2])
    assert np.array_equal(tok(CLIP).frames, expected)
    assert len(set(expected)) > 5
    spec = tok.spec
    assert (spec.encoder, spec.layer, spec.tap, spec.n_units) == ("hubert-base-ls960-kmeans-50", 2, "block_output", 50)
    assert (spec.normalize_input, spec.sample_rate, spec.hop, spec.deduplicate) == (False, 16_000, 320, True)
    assert spec.centroids_sha256 == tok.codebook.sha256
    # It is whole in the cache: neither address is needed again. A damaged file is made again from them, never read.
    sources = {path: path.read_bytes() for path in (root / "web" / "km.bin", root / "encoder" / "pytorch_model.bin")}
    for path in sources:
        path.unlink()
    again = SpeechTokenizer.load("hubert-base-ls960-kmeans-50")
    assert again.spec == spec
    assert np.array_equal(again(CLIP).frames, expected)
    (weights,) = (root / "cache" / "tokenizers").glob("*/encoder.safetensors")
    assert not any(name.startswith("encoder.layers.2.") for name in load_file(weights))  # cut at layer 2
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\0")
    with pytest.raises(ArtifactError):
        SpeechTokenizer.load("hubert-base-ls960-kmeans-50")
    for path, data in sources.items():
        path.write_bytes(data)
    assert np.array_equal(SpeechTokenizer.load("hubert-base-ls960-kmeans-50")(CLIP).frames, expected)
    assert weights.read_bytes() == whole


def test_a_codebook_of_another_hash_is_refused(publisher):
    _, _, root = publisher
    (root / "web" / "km.bin").write_bytes(b"something else")
    with pytest.raises(ArtifactError, match=r"has sha256 .* not the file we know"):
        SpeechTokenizer.load("hubert-base-ls960-kmeans-50")


def test_the_same_weights_have_the_same_identity_whatever_file_they_came_in(publisher):
    _, _, root = publisher
    save_inside("hubert-base", root / "safetensors")
    specs = [
        import_tokenizer(
            root / f"out-{i}",
            name="x",
            encoder=folder,
            codebook=root / "web" / "km.bin",
            layer=2,
            normalize_input=False,
        )
        for i, folder in enumerate((root / "encoder", root / "safetensors"))
    ]
    assert specs[0] == specs[1]


def test_a_whisper_tokenizer(tmp_path):
    model = save_inside("whisper", tmp_path / "encoder")
    frames = hidden_states(model, babble(1.9, seed=1))[LAYERS]
    joblib.dump(MiniBatchKMeans(20, n_init=1, random_state=0).fit(frames), tmp_path / "km.bin")
    spec = import_tokenizer(
        tmp_path / "tok", name="whisper", encoder=tmp_path / "encoder", codebook=tmp_path / "km.bin", layer=LAYERS,
        normalize_input=False,
    )  # fmt: skip
    tok = SpeechTokenizer.load(tmp_path / "tok")
    assert tok.spec == spec
    assert tok.spec.frame_rate == 50
    expected = joblib.load(tmp_path / "km.bin").predict(hidden_states(model, CLIP.samples)[LAYERS])
    assert np.array_equal(tok(CLIP).frames, expected)
    with pytest.raises(BadInput, match="fitted on another encoder"):
        other = tmp_path / "other.bin"
        joblib.dump(MiniBatchKMeans(20, n_init=1).fit(frames[:, :5]), other)
        import_tokenizer(
            tmp_path / "no", name="x", encoder=tmp_path / "encoder", codebook=other, layer=1, normalize_input=False
        )


@pytest.mark.parametrize("name", NAMES)
def test_what_is_imported_is_loaded_again(name, tmp_path):
    """Base and large of every family. Large ones norm behind the last block, which is above every tap."""
    model = save_inside(name, tmp_path / "encoder")
    expected = hidden_states(model, CLIP.samples)[2]
    book = Codebook(expected[:: len(expected) // 9][:9].copy())
    target = tmp_path / "tok"
    spec = import_tokenizer(
        target, name=name, encoder=tmp_path / "encoder", codebook=book, layer=2, normalize_input=False,
        padding=0 if name == "whisper" else 20,
    )  # fmt: skip
    tok = SpeechTokenizer.load(target)
    assert tok.spec == spec
    inner = Clip(CLIP.samples[20:-20], 16_000)
    padded = hidden_states(model, np.pad(inner.samples, 20))[2] if name != "whisper" else None
    if padded is None:
        assert np.array_equal(tok(CLIP).frames, book.assign(expected))
    else:
        assert np.array_equal(tok(inner).frames, book.assign(padded))
        weights = load_file(target / "encoder.safetensors")
        assert any(n.startswith("encoder.layer_norm.") for n in weights) == ("large" not in name)
        # A folder whose encoder still has that norm, as `twist hubert` leaves it, is the same encoder.
        again = tmp_path / "again"
        save_tokenizer(
            again, name=name, encoder_config=model.config.to_dict(),
            encoder_weights=save({n: t.contiguous() for n, t in encoder_state(model).items()}), layer=2, codebook=book,
            normalize_input=False, sample_rate=16_000, hop=spec.hop, card="", padding=20,
        )  # fmt: skip
        assert np.array_equal(SpeechTokenizer.load(again)(inner).frames, tok(inner).frames)


def test_what_is_not_read_again_as_it_was_is_not_left_there(tmp_path, monkeypatch):
    save_inside("hubert-base", tmp_path / "encoder")
    made = importing.encoder_files

    def shifted(encoder):
        fields, weights = made(encoder)
        state = load(weights)
        state["encoder.layers.0.feed_forward.output_dense.bias"] += 1
        return fields, save(state)

    monkeypatch.setattr(importing, "encoder_files", shifted)
    book = Codebook(np.eye(4, 32, dtype=np.float32))
    with pytest.raises(ArtifactError, match="gives other units"):
        import_tokenizer(
            tmp_path / "tok", name="x", encoder=tmp_path / "encoder", codebook=book, layer=1, normalize_input=False
        )
    assert not (tmp_path / "tok").exists()


@pytest.mark.parametrize("name", ["hubert-base", "wavlm-large", "whisper"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(name, value):
    model, fields = stand_in(name)
    state = encoder_state(model)
    bad = next(n for n in state if n.endswith("layers.1.fc1.weight") or n.endswith("layers.1.attention.k_proj.bias"))
    state[bad] = state[bad].clone()
    state[bad].view(-1)[3] = value
    build(fields, state, layer=1, normalize_input=False, where="")  # it is above this tap
    with pytest.raises(ArtifactError, match=rf"NaN or infinite: {bad}"):
        build(fields, state, layer=2, normalize_input=False, where="")


def test_features_that_are_not_finite_are_never_unit_0(tmp_path, monkeypatch):
    """Weights are finite, and a loud clip overflows what is between them."""
    tok = tokenizer("hubert-base")
    model = copy.deepcopy(tok.encoder.model)
    with torch.no_grad():
        model.encoder.layers[2].final_layer_norm.bias[3] = 3e38
        model.encoder.layers[2].final_layer_norm.weight[3] = 3e38
    broken = dataclasses.replace(tok, encoder=dataclasses.replace(tok.encoder, model=model))
    match = r"clip 'clip': \d+ of \d+ frames are NaN or infinite behind layer 3 of hubert-base"
    for cut in (broken, broken.frames, broken.features, lambda clip: broken.batch([clip, clip])):
        with pytest.raises(BadInput, match=match):
            cut(CLIP)
    monkeypatch.setattr(encoder_module.SSLEncoder, "windows", in_pieces)
    with pytest.raises(BadInput, match="frames are NaN or infinite behind layer 3"):
        broken(CLIP)


def in_pieces(encoder, n_samples):
    half = encoder.n_frames(n_samples) // 2
    stop = (half - 1) * encoder.hop + encoder.min_samples()
    rest = encoder.n_frames(n_samples - half * encoder.hop)
    return [
        encoder_module.Window(0, stop, slice(0, half)),
        encoder_module.Window(half * encoder.hop, n_samples, slice(0, rest)),
    ]


def test_a_codebook_without_a_readable_encoder_says_so(monkeypatch):
    with pytest.raises(BadInput, match=r"checkpoint of another toolkit .*cpc_big_ll6kh_top_ctc\.pt"):
        SpeechTokenizer.load("cpc-big-ll6k-kmeans-50")
    with pytest.raises(BadInput, match="not a published codebook"):
        published_codebook("hubert")
    with pytest.raises(BadInput, match=r"neither a folder nor a bundled tokenizer.*Published: hubert-base"):
        SpeechTokenizer.load("no-such-name")


def test_whisper_windows_cover_a_long_clip():
    model, fields = stand_in("whisper")
    encoder = build(fields, encoder_state(model), layer=LAYERS, normalize_input=False, where="")
    samples = babble(7.3, seed=2)
    pieces = [(samples[w.start : w.stop], w.kept) for w in encoder.windows(len(samples))]
    assert len(pieces) == 5
    starts = np.cumsum([0] + [keep.stop - keep.start for _, keep in pieces])
    assert starts[-1] == encoder.n_frames(len(samples)) == len(encoder(samples))
    for (piece, keep), start in zip(pieces, starts, strict=False):
        where = (start - keep.start) * encoder.hop
        assert len(piece) <= encoder.window * encoder.hop
        assert np.array_equal(piece, samples[where : where + len(piece)])
        # Sound on both sides of what is kept, but for the ends of the clip.
        assert keep.start >= 6 or start == 0
        assert encoder.window - keep.stop >= 6 or where + len(piece) == len(samples)
