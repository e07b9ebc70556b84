"""The unit vocoder: the generator against transformers' HiFi-GAN, chunking, durations, files, refusals."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import SeamlessM4TConfig
from transformers.models.seamless_m4t.modeling_seamless_m4t import SeamlessM4THifiGan, SeamlessM4TVariancePredictor

from twistlm.errors import ArtifactError, BadInput, UnitSpecMismatch
from twistlm.types import Units, UnitSpec
from twistlm.vocoder import vocoder as vocoder_module
from twistlm.vocoder.configs import read_shape
from twistlm.vocoder.duration_fitting import fit_durations
from twistlm.vocoder.durations import DurationConfig, durations
from twistlm.vocoder.hifigan import HiFiGANConfig
from twistlm.vocoder.published import read_published
from twistlm.vocoder.synthesizer import Synthesizer
from twistlm.vocoder.vocoder import Vocoder

SPEC = UnitSpec(
    encoder="toy", encoder_sha256="0" * 64, layer=1, tap="block_output", normalize_input=False, sample_rate=16_000,
    hop=20, n_units=11, centroids_sha256="1" * 64, deduplicate=True,
)  # fmt: skip
CONFIG = HiFiGANConfig(
    num_embeddings=11,
    embedding_dim=6,
    model_in_dim=6,
    upsample_rates=(5, 2, 2),
    upsample_kernel_sizes=(11, 4, 4),
    upsample_initial_channel=16,
    resblock_kernel_sizes=(3, 5),
    resblock_dilation_sizes=((1, 3), (1, 2)),
    sampling_rate=16_000,
    dur_predictor_params=DurationConfig(
        encoder_embed_dim=6, var_pred_hidden_dim=6, var_pred_kernel_size=3, var_pred_dropout=0.1
    ),
)


def generator(seed: int = 0) -> Synthesizer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Synthesizer(CONFIG).eval()


def make_vocoder(seed: int = 0) -> Vocoder:
    return Vocoder(generator(seed).fold(), SPEC, name="toy")


def make_units(frames: np.ndarray, spec: UnitSpec = SPEC) -> Units:
    starts = np.flatnonzero(np.diff(frames.astype(int), prepend=-1))
    runs = np.diff(np.append(starts, len(frames))).astype(np.int32)
    return Units(ids=frames[starts].astype(np.uint16), runs=runs, spec=spec, id="clip")


def random_frames(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SPEC.n_units, n).astype(np.uint16)


def test_generator_equals_transformers_hifigan() -> None:
    ours = generator().fold()
    theirs = SeamlessM4THifiGan(
        SeamlessM4TConfig(
            unit_embed_dim=6, lang_embed_dim=0, spkr_embed_dim=0, leaky_relu_slope=0.1, upsample_initial_channel=16,
            resblock_kernel_sizes=[3, 5], resblock_dilation_sizes=[[1, 3], [1, 2]], upsample_rates=[5, 2, 2],
            upsample_kernel_sizes=[11, 4, 4],
        )
    ).eval()  # fmt: skip
    state = {k.replace("ups.", "upsampler."): v for k, v in ours.weights().items()}
    theirs.load_state_dict({k: v for k, v in state.items() if not k.startswith(("dict", "dur_predictor"))})
    frames = torch.from_numpy(random_frames(40).astype(np.int64))[None]
    with torch.no_grad():
        expected = theirs(ours.dict(frames).transpose(1, 2))
        torch.testing.assert_close(ours(frames), expected, atol=1e-6, rtol=1e-5)


def test_duration_predictor_equals_transformers() -> None:
    ours = generator()
    theirs = SeamlessM4TVariancePredictor(SeamlessM4TConfig(unit_embed_dim=6, variance_predictor_kernel_size=3)).eval()
    assert ours.dur_predictor is not None
    theirs.load_state_dict({k.replace(".0.", "."): v for k, v in ours.dur_predictor.state_dict().items()})
    ids = torch.from_numpy(random_frames(40).astype(np.int64))[None]
    with torch.no_grad():
        torch.testing.assert_close(ours.log_durations(ids), theirs(ours.dict(ids)), atol=1e-6, rtol=1e-5)


def test_parameters_have_the_published_names() -> None:
    names = set(generator().fold().weights())
    published = """dict.weight conv_pre.weight ups.2.bias resblocks.5.convs1.1.weight resblocks.0.convs2.0.bias
        conv_post.weight dur_predictor.conv1.0.weight dur_predictor.conv2.0.bias dur_predictor.ln1.weight
        dur_predictor.ln2.bias dur_predictor.proj.weight"""
    assert set(published.split()) <= names


def test_published_checkpoint_that_wants_to_run_code_is_not_run(tmp_path) -> None:
    class Nasty:
        def __reduce__(self):
            return (exit, ("ran",))

    torch.save({"generator": Nasty()}, tmp_path / "g.pt")
    (tmp_path / "config.json").write_text(CONFIG.to_json())
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_published(tmp_path / "g.pt")


def test_folding_weight_norm_changes_nothing() -> None:
    frames = torch.from_numpy(random_frames(9).astype(np.int64))[None]
    with torch.no_grad():
        torch.testing.assert_close(generator().fold()(frames), generator()(frames), atol=1e-6, rtol=1e-5)


def test_trim_speaks_the_middle_with_the_first_convolution_hearing_the_ends() -> None:
    model = generator().fold()
    frames = torch.from_numpy(random_frames(60).astype(np.int64))[None]
    margin = max(CONFIG.reach.left, CONFIG.reach.right) * CONFIG.hop
    with torch.no_grad():
        whole, trimmed = model(frames), model(frames, trim=3)
    assert trimmed.shape[1] == 54 * CONFIG.hop
    torch.testing.assert_close(trimmed[:, margin:-margin], whole[:, 60 + margin : -60 - margin], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("rates", "kernels", "residual"),
    [
        ((5, 2, 2), (11, 4, 4), ((3, (1, 3)), (5, (1, 2)))),
        ((5, 4, 4, 2, 2), (11, 8, 8, 4, 4), ((3, (1, 3, 5)), (7, (1, 3, 5)), (11, (1, 3, 5)))),
        ((2, 3), (2, 3), ((3, (1,)),)),
    ],
)
def test_reach_is_what_a_frame_depends_on(rates, kernels, residual) -> None:
    config = dataclasses.replace(
        CONFIG, upsample_rates=rates, upsample_kernel_sizes=kernels, upsample_initial_channel=64,
        resblock_kernel_sizes=tuple(k for k, _ in residual), resblock_dilation_sizes=tuple(d for _, d in residual),
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Synthesizer(config).fold().double()
    frames = torch.from_numpy(random_frames(61).astype(np.int64))[None]
    features = model.features(frames).detach().requires_grad_()
    for at in (30, 31):
        (gradient,) = torch.autograd.grad(model.generator(features)[0].unflatten(0, (61, -1))[at].sum(), features)
        heard = gradient[0].abs().sum(0).nonzero().squeeze(1)
        assert (at - heard.min(), heard.max() - at) == (config.reach.left, config.reach.right)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 200), chunk=st.integers(1, 60), seed=st.integers(0, 99))
@pytest.mark.thorough
def test_speaking_in_chunks_equals_speaking_at_once(n: int, chunk: int, seed: int) -> None:
    voc, units = make_vocoder(), make_units(random_frames(n, seed))
    whole = voc(units, durations="given").samples
    predicted = voc.predict_runs(units)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocoder_module, "CHUNK", chunk)
        patch.setattr(vocoder_module, "CHUNK_UNITS", chunk)
        np.testing.assert_allclose(voc(units, durations="given").samples, whole, atol=1e-6)
        np.testing.assert_array_equal(voc.predict_runs(units), predicted)
    assert whole.shape == (n * SPEC.hop,) and whole.dtype == np.float32


def test_memory_of_a_long_clip_is_bounded_by_the_chunk() -> None:
    voc, longest = make_vocoder(), []
    voc.synthesizer.generator.conv_pre.register_forward_pre_hook(lambda _, args: longest.append(args[0].shape[-1]))
    voc(make_units(random_frames(5_000)), durations="given")
    assert max(longest) <= vocoder_module.CHUNK + CONFIG.reach.left + CONFIG.reach.right


def test_predicted_durations_decide_the_length_and_ignore_the_runs() -> None:
    voc, frames = make_vocoder(), random_frames(50)
    units = make_units(frames)
    stretched = dataclasses.replace(units, runs=units.runs * 3)
    clip = voc(units, durations="predicted")
    assert len(clip.samples) == voc.predict_runs(units).sum() * SPEC.hop
    np.testing.assert_array_equal(voc(stretched, durations="predicted").samples, clip.samples)
    assert (clip.id, clip.sample_rate) == ("clip", 16_000)


def test_autocast_of_the_caller_moves_no_sample() -> None:
    voc, units = make_vocoder(), make_units(random_frames(50))
    plain = voc(units, durations="predicted").samples
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(voc(units, durations="predicted").samples, plain)
        pieces = list(voc.stream(units.ids, durations="predicted"))
    np.testing.assert_allclose(np.concatenate(pieces), plain, atol=1e-5)


def test_published_rule_of_durations() -> None:
    log = torch.tensor([-5.0, 0.0, np.log(2.4), np.log(3.6), np.log(11.0)])
    assert durations(log).tolist() == [1, 1, 1, 3, 10]


@pytest.mark.thorough
def test_fitted_durations_know_each_unit_and_keep_the_total() -> None:
    rng = np.random.default_rng(0)
    corpus = []
    for i in range(20):
        ids = rng.permutation(SPEC.n_units).astype(np.uint16)
        runs = (1 + ids % 5 + rng.integers(0, 3, len(ids))).astype(np.int32)
        corpus.append(Units(ids=ids, runs=runs, spec=SPEC, id=str(i)))
    model = generator()
    embeddings, before = model.dict.weight.clone(), torch.random.get_rng_state()
    fit_durations(model, corpus, updates=300, seed=0, lr=1e-2)
    assert torch.equal(torch.random.get_rng_state(), before) and torch.equal(model.dict.weight, embeddings)
    voc = Vocoder(model.fold(), SPEC, name="toy")
    predicted = np.concatenate([voc.predict_runs(u) for u in corpus])
    true = np.concatenate([u.runs for u in corpus])
    assert abs(predicted.sum() / true.sum() - 1) < 0.03
    assert np.corrcoef(predicted, true)[0, 1] > 0.6


def test_saved_vocoder_speaks_alike_and_is_half_precision(tmp_path) -> None:
    voc, units = make_vocoder(), make_units(random_frames(20))
    voc.save(tmp_path / "v", card="# Card\n")
    again = Vocoder.load(tmp_path / "v")
    assert again.spec == SPEC and again.synthesizer.shape == CONFIG
    files = sorted(p.name for p in (tmp_path / "v").iterdir())
    assert files == ["CARD.md", "config.json", "model.safetensors", "unit_spec.json"]
    difference = again(units, durations="given").samples - voc(units, durations="given").samples
    assert 0 < np.abs(difference).max() < 5e-3


def test_loading_does_not_touch_the_global_generator(tmp_path) -> None:
    make_vocoder().save(tmp_path / "v")
    before = torch.random.get_rng_state()
    Vocoder.load(tmp_path / "v")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("damage", ["missing", "truncated", "other shape", "config"])
def test_damaged_vocoder_is_named(tmp_path, damage: str) -> None:
    make_vocoder().save(tmp_path / "v")
    weights = tmp_path / "v" / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "config":
        (tmp_path / "v" / "config.json").write_text("{")
    else:
        config = dataclasses.replace(CONFIG, upsample_initial_channel=32)
        (tmp_path / "v" / "config.json").write_text(config.to_json())
    with pytest.raises(ArtifactError, match="v"):
        Vocoder.load(tmp_path / "v")


def test_an_unknown_name_is_bad_input() -> None:
    with pytest.raises(BadInput, match="no-such-vocoder"):
        Vocoder.load("no-such-vocoder")


def test_units_of_another_tokenizer_are_refused() -> None:
    other = dataclasses.replace(SPEC, centroids_sha256="2" * 64)
    with pytest.raises(UnitSpecMismatch, match="centroids_sha256"):
        make_vocoder()(make_units(random_frames(5), other), durations="given")
    whole = dataclasses.replace(SPEC, deduplicate=False)
    with pytest.raises(UnitSpecMismatch, match="deduplicate"):
        make_vocoder()(make_units(random_frames(5), whole), durations="given")


def test_what_cannot_be_spoken_is_refused() -> None:
    with pytest.raises(BadInput, match="empty"):
        make_vocoder()(make_units(np.zeros(0, np.uint16)), durations="given")
    spec = dataclasses.replace(SPEC, deduplicate=False)
    plain = Vocoder(generator().fold(), spec, name="toy")
    units = Units(ids=random_frames(5), runs=np.ones(5, np.int32), spec=spec)
    with pytest.raises(BadInput, match="not deduplicated"):
        plain(units, durations="predicted")
    silent = Vocoder(Synthesizer(dataclasses.replace(CONFIG, dur_predictor_params=None)).fold(), SPEC, name="toy")
    with pytest.raises(BadInput, match="no duration predictor"):
        silent(make_units(random_frames(5)), durations="predicted")
    voc, units = make_vocoder(), make_units(random_frames(5))
    for ask in (voc.__call__, lambda units, **how: voc.batch([units], **how), lambda _, **how: voc.open_stream(**how)):
        with pytest.raises(BadInput, match="durations is 'predict'; use one of 'given', 'predicted'"):
            ask(units, durations="predict")


def test_generator_that_does_not_fit_the_spec_is_refused() -> None:
    with pytest.raises(BadInput, match="640"):
        Vocoder(generator().fold(), dataclasses.replace(SPEC, hop=640), name="toy")


@pytest.mark.parametrize(
    "change",
    [
        {"upsample_kernel_sizes": (10, 4, 4)},
        {"upsample_kernel_sizes": (11, 4)},
        {"resblock_dilation_sizes": ((1, 3),)},
        {"resblock_kernel_sizes": (3, 4)},
        {"model_in_dim": 12},
        {"upsample_initial_channel": 12},
    ],
)
def test_impossible_configs_are_refused(change: dict) -> None:
    with pytest.raises(BadInput, match="vocoder config"):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.parametrize("change", [{"f0": True}, {"embedder_params": {}, "resblock": "2"}, {"num_f0_tokens": 5}])
def test_unsupported_published_configs_are_refused(change: dict) -> None:
    with pytest.raises(BadInput, match=r"not supported|only"):
        read_shape(json.dumps({**json.loads(CONFIG.to_json()), **change}))
    with pytest.raises(BadInput, match="upsample_rates"):
        read_shape("{}")
