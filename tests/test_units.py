"""Runs, codebook, encoder and tokenizer: against scikit-learn, transformers, and the promises of their docstrings."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from sklearn.cluster import KMeans
from sklearn.metrics import mutual_info_score
from transformers import HubertModel

from twistlm.audio.clip import Clip
from twistlm.errors import ArtifactError, AudioError, BadInput, UnitSpecMismatch
from twistlm.files.artifacts import bundled
from twistlm.units import encoder as encoder_module
from twistlm.units import folder as folder_module
from twistlm.units import kmeans
from twistlm.units.catalogue import read_spec
from twistlm.units.encoder import SSLEncoder, cut, frames_of
from twistlm.units.folder import save_tokenizer
from twistlm.units.masked_prediction import HubertPretrainConfig
from twistlm.units.quality import unit_quality
from twistlm.units.refine import refine
from twistlm.units.runs import dedup, expand
from twistlm.units.tokenizer import SpeechTokenizer


@given(st.lists(st.integers(0, 3), max_size=60))
def test_expand_undoes_dedup(frames):
    frames = np.array(frames, np.uint16)
    ids, runs = dedup(frames)
    assert np.array_equal(expand(ids, runs), frames)
    assert runs.sum() == len(frames)
    assert (ids[1:] != ids[:-1]).all()
    assert (runs >= 1).all()


def test_expand_refuses_lengths_that_do_not_pair():
    with pytest.raises(BadInput, match="pair up"):
        expand(np.zeros(2, np.uint16), np.ones(3, np.int32))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_assign_equals_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((300, 7)).astype(np.float32)
    model = KMeans(9, n_init=1, random_state=0).fit(features)
    book = kmeans.Codebook(model.cluster_centers_.astype(np.float32))
    assert np.array_equal(book.assign(features), model.predict(features))


def test_fit_is_seeded_and_near_the_inertia_of_full_k_means(tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((8, 5)) * 8
    features = (centres[rng.integers(0, 8, 4000)] + rng.standard_normal((4000, 5))).astype(np.float32)
    book = kmeans.fit(features, 8, seed=1)
    assert np.array_equal(book.centroids, kmeans.fit(features, 8, seed=1).centroids)

    def inertia(b):
        return ((features - b.centroids[b.assign(features)]) ** 2).sum()

    full = kmeans.Codebook(KMeans(8, n_init=4, random_state=0).fit(features).cluster_centers_.astype(np.float32))
    assert inertia(book) < 1.05 * inertia(full)
    book.save(tmp_path / "book.safetensors")
    loaded = kmeans.Codebook.load(tmp_path / "book.safetensors")
    assert np.array_equal(loaded.centroids, book.centroids)
    assert loaded.sha256 == book.sha256


@given(st.lists(st.integers(0, 40), max_size=20), st.integers(1, 50))
def test_a_sample_keeps_what_it_was_shown_each_frame_once(lengths, size):
    sample = kmeans.Sample(size, 2, seed=0)
    frames = np.arange(2 * sum(lengths), dtype=np.float32).reshape(-1, 2)
    for piece in np.split(frames, np.cumsum(lengths)[:-1]):
        sample.add(piece)
    assert sample.seen == len(frames)
    kept = sample.frames[:, 0].tolist()
    assert len(kept) == min(size, len(frames)) == len(set(kept) & set(frames[:, 0].tolist()))
    assert np.array_equal(sample.frames[:, 1], sample.frames[:, 0] + 1)


def test_every_frame_has_the_same_chance_to_be_in_a_sample():
    counts = np.zeros(60)
    for seed in range(2000):
        sample = kmeans.Sample(15, 1, seed=seed)
        for piece in np.split(np.arange(60, dtype=np.float32)[:, None], [3, 20, 21, 44]):
            sample.add(piece)
        counts[sample.frames[:, 0].astype(int)] += 1
    expected = 2000 * 15 / 60
    assert ((counts - expected) ** 2 / expected).sum() < 100  # chi-squared of 59, times 3/4: p < 0.001 at 74


def test_inertia_equals_scikit_learn():
    features = np.random.default_rng(0).standard_normal((500, 4)).astype(np.float32)
    model = KMeans(6, n_init=1, random_state=0).fit(features)
    book = kmeans.Codebook(model.cluster_centers_.astype(np.float32))
    assert np.isclose(book.inertia(features), model.inertia_ / 500, rtol=1e-5)


def test_assign_refuses_features_of_another_width():
    with pytest.raises(BadInput, match="another encoder or layer"):
        kmeans.Codebook(np.zeros((4, 3), np.float32)).assign(np.zeros((10, 5), np.float32))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_a_projected_codebook_finds_the_nearest_centroid_behind_the_projection(seed):
    rng = np.random.default_rng(seed)
    features, projection, centroids = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((200, 7), (7, 3), (9, 3))
    )
    book = kmeans.Codebook(centroids, projection)
    distances = np.linalg.norm((features @ projection)[:, None].astype(np.float64) - centroids, axis=2)
    nearest, second = np.sort(distances, 1)[:, :2].T
    clear = second - nearest > 1e-4
    assert clear.sum() > 150
    assert np.array_equal(book.assign(features)[clear], distances.argmin(1)[clear])
    assert (book.dim, book.n_units) == (7, 9)
    near = book.near_ties(features, relative=0.01)
    moved = rng.standard_normal(features.shape).astype(np.float32)
    moved *= 0.01 * np.linalg.norm(features, axis=1, keepdims=True) / np.linalg.norm(moved, axis=1, keepdims=True)
    assert np.array_equal(book.assign(features + moved)[~near], book.assign(features)[~near])
    assert not near.all()


@pytest.mark.thorough
def test_refined_units_tell_more_about_labels_of_unseen_frames_and_the_first_book_is_left_alone():
    rng = np.random.default_rng(0)
    means, nuisance = rng.standard_normal((6, 10)), rng.standard_normal((4, 10))
    labels, spoken_by = rng.integers(0, 6, 6000), rng.integers(0, 4, 6000)
    features = (means[labels] + nuisance[spoken_by] + 0.8 * rng.standard_normal((6000, 10))).astype(np.float32)
    labels[:100] = -1
    train, rest = slice(0, 4000), slice(4000, 6000)
    start = kmeans.fit(features[train], 12, seed=0, projection=kmeans.discriminant(features[train], labels[train], 4))
    before = start.centroids.copy(), start.projection.copy()
    books = [refine(start, features[train], labels[train], updates=60, noise=0.5, seed=seed) for seed in (0, 0, 1)]
    assert books[0].sha256 == books[1].sha256 != books[2].sha256
    told = [mutual_info_score(labels[rest], book.assign(features[rest])) for book in (start, books[0])]
    assert told[1] > told[0] + 0.02
    assert np.array_equal(before[0], start.centroids) and np.array_equal(before[1], start.projection)
    with pytest.raises(BadInput, match="with a projection"):
        refine(kmeans.Codebook(start.centroids), features, labels, updates=1, noise=0, seed=0)


@pytest.mark.thorough
def test_units_refined_with_twins_are_more_often_those_of_another_voice_and_tell_as_much():
    rng = np.random.default_rng(0)
    means, voices = 2 * rng.standard_normal((6, 10)), rng.standard_normal((2, 10))
    labels = rng.integers(0, 6, 4000)
    spoken = [(means[labels] + v + 0.8 * rng.standard_normal((4000, 10))).astype(np.float32) for v in voices]
    both = np.concatenate(spoken), np.concatenate([labels, labels])
    start = kmeans.fit(both[0], 24, seed=0, projection=kmeans.discriminant(*both, 5))
    how = {"updates": 150, "noise": 0.5, "seed": 0, "balance": 0.3}
    plain = refine(start, *both, **how)
    steady = refine(start, *both, twins=(spoken[0], spoken[1]), alike=0.3, **how)
    same = [np.mean(book.assign(spoken[0]) == book.assign(spoken[1])) for book in (plain, steady)]
    told = [mutual_info_score(both[1], book.assign(both[0])) for book in (plain, steady)]
    assert same[1] > same[0] + 0.1 and told[1] > told[0] - 0.05
    assert len(np.unique(steady.assign(both[0]))) > 6
    few = {**how, "updates": 3}
    assert refine(start, *both, **few, alike=0.7).sha256 == refine(start, *both, **few).sha256  # the weight of no twins


def test_a_projected_codebook_is_kept_whole(tmp_path):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((500, 6)).astype(np.float32)
    book = kmeans.fit(features, 5, seed=0, projection=rng.standard_normal((6, 2)).astype(np.float32))
    book.save(tmp_path / "book.safetensors")
    loaded = kmeans.Codebook.load(tmp_path / "book.safetensors")
    assert loaded.sha256 == book.sha256 != kmeans.Codebook(book.centroids).sha256
    assert np.array_equal(loaded.assign(features), book.assign(features))
    kmeans.Codebook(book.centroids, np.zeros((6, 3), np.float32)).save(tmp_path / "odd.safetensors")
    with pytest.raises(BadInput, match=r"ends in 3 dimensions.*have 2"):
        kmeans.Codebook.load(tmp_path / "odd.safetensors")


def test_discriminants_weigh_what_tells_labels_apart_over_what_varies_most():
    """Two dimensions hold the label, one varies ten times as much and says nothing: k-means alone falls for it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 4, 3000)
    features = rng.standard_normal((3000, 3)).astype(np.float32) * [0.2, 0.2, 10]
    features[:, :2] += np.array([[0, 0], [0, 1], [1, 0], [1, 1]])[labels]
    features = features.astype(np.float32)
    known = labels >= 0
    names = np.array(["a", "b", "c", "d"])[labels]
    plain = kmeans.fit(features, 8, seed=0)
    projected = kmeans.fit(features, 8, seed=0, projection=kmeans.discriminant(features, labels, 2))
    pnmi = [unit_quality(book.assign(features)[known], names[known]).pnmi for book in (plain, projected)]
    assert pnmi[0] < 0.1 < 0.8 < pnmi[1]
    with pytest.raises(BadInput, match="at most 3"):
        kmeans.discriminant(features, labels, 4)


def tiny_config(frame_rate=25, **changes):
    fields = {
        "front_end": "waveform", "frame_rate": frame_rate, "n_targets": (10,),
        "conv_dim": (8,) * (8 if frame_rate == 25 else 7), "width": 16, "layers": 3, "heads": 2, "ffn": 32,
        "crop_seconds": 1.0, "batch": 2, "updates": 6, "lr": 1e-3, "warmup": 2, "checkpoint_every": 2,
    }  # fmt: skip
    return HubertPretrainConfig(**{**fields, **changes})


@pytest.fixture(scope="module")
def hubert():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HubertModel(tiny_config().hubert()).eval()


def noise(n, seed=0):
    return (np.random.default_rng(seed).standard_normal(n) * 0.1).astype(np.float32)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_cut_encoder_equals_the_hidden_state_of_the_whole_model(hubert, layer):
    wave = noise(20_000)
    whole = hubert(torch.from_numpy(wave)[None], output_hidden_states=True).hidden_states[layer][0]
    features = SSLEncoder(cut(hubert.config, hubert.state_dict(), layer), layer)(wave)
    np.testing.assert_allclose(features, whole.detach().numpy(), atol=1e-5)


def test_the_tap_is_before_the_final_norm_of_a_stable_layer_norm_encoder():
    config = tiny_config().hubert()
    config.do_stable_layer_norm = True
    model = HubertModel(config).eval()
    wave = noise(9000)
    # transformers lists the un-normed output of block 2 as hidden_states[2] of the 3-block model
    whole = model(torch.from_numpy(wave)[None], output_hidden_states=True).hidden_states[2][0]
    np.testing.assert_allclose(SSLEncoder(cut(config, model.state_dict(), 2), 2)(wave), whole.detach(), atol=1e-5)


@pytest.mark.parametrize("frame_rate", [25, 50])
def test_n_frames_is_exact_for_every_length(frame_rate):
    config = tiny_config(frame_rate, layers=1).hubert()
    encoder = SSLEncoder(HubertModel(config).eval(), 1)
    assert encoder.hop == 16_000 // frame_rate
    for n in [encoder.min_samples() + d for d in (0, 1, 5, 318, 319, 320, 321, 639, 640, 641, 1279, 1280, 1281)]:
        assert encoder.n_frames(n) == len(encoder(noise(n)))
    assert encoder.n_frames(encoder.min_samples() - 1) == 0
    with pytest.raises(AudioError, match="too short"):
        encoder(noise(encoder.min_samples() - 1))


@pytest.mark.parametrize("phases", [2, 4])
def test_phases_take_turns(hubert, phases):
    plain = SSLEncoder(cut(hubert.config, hubert.state_dict(), 2), 2)
    phased = dataclasses.replace(plain, phases=phases)
    assert (plain.hop, phased.hop, phased.min_samples()) == (640, 640 // phases, plain.min_samples())
    for n in [plain.min_samples() + d for d in (0, 159, 160, 319, 320, 639, 640, 959, 960, 20_000)]:
        wave = noise(n, n)
        features = phased(wave)
        assert len(features) == phased.n_frames(n)
        for phase in range(phases):
            shifted = wave[phase * phased.hop :]
            expected = plain(shifted) if plain.n_frames(len(shifted)) else np.zeros((0, plain.dim), np.float32)
            np.testing.assert_allclose(features[phase::phases], expected, atol=1e-5)
    assert phased.n_frames(plain.min_samples() - 1) == 0


def test_a_normalised_clip_is_scaled_once_for_all_phases(hubert):
    encoder = SSLEncoder(cut(hubert.config, hubert.state_dict(), 2), 2, normalize_input=True, phases=2)
    wave = noise(20_000) + np.float32(0.2)
    scaled = ((wave - wave.mean()) / wave.std()).astype(np.float32)
    plain = dataclasses.replace(encoder, normalize_input=False, phases=1)
    np.testing.assert_allclose(encoder(wave)[1::2], plain(scaled[320:]), atol=1e-4)


def test_published_frame_counts():
    config = tiny_config(25).hubert()
    assert frames_of(80_000, config.conv_kernel, config.conv_stride) == 124  # 5 s of TWIST's 25 Hz tokenizer


def test_long_clips_are_windowed_without_losing_or_moving_frames(hubert, monkeypatch):
    encoder = SSLEncoder(cut(hubert.config, hubert.state_dict(), 1), 1)
    wave = noise(16_000 * 21 + 77)
    whole = encoder(wave)
    monkeypatch.setattr(encoder_module, "WINDOW_SECONDS", 4)
    windowed = encoder(wave)
    assert windowed.shape == whole.shape
    # Attention sees less, so values differ a little; a frame moved by one would not correlate like this.
    same = np.corrcoef(windowed.ravel(), whole.ravel())[0, 1]
    moved = np.corrcoef(windowed[1:].ravel(), whole[:-1].ravel())[0, 1]
    assert same > 0.999
    assert moved < same - 0.005


@pytest.fixture(scope="module")
def tokenizer_folder(hubert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "tiny"
    encoder = SSLEncoder(cut(hubert.config, hubert.state_dict(), 2), 2)
    book = kmeans.fit(encoder(noise(160_000)), 12, seed=0)
    weights = {n: t.half() for n, t in encoder.model.state_dict().items() if "num_batches" not in n}
    save_tokenizer(
        folder, name="tiny", encoder_config={**hubert.config.to_diff_dict(), "num_hidden_layers": 2},
        encoder_weights=save(weights), layer=2, codebook=book, normalize_input=False, sample_rate=16_000, hop=640,
        card="# tiny",
    )  # fmt: skip
    return folder


def test_tokenizer_units(tokenizer_folder):
    tok = SpeechTokenizer.load(tokenizer_folder)
    clips = [Clip(noise(n, n), 16_000, str(n)) for n in (900, 16_000, 23_456)]
    alone = [tok(clip) for clip in clips]
    for clip, units, again in zip(clips, alone, [tok(c) for c in reversed(clips)][::-1], strict=True):
        assert units.runs.sum() == tok.encoder.n_frames(len(clip.samples))
        assert np.array_equal(units.frames, tok.frames(clip))
        assert np.array_equal(units.ids, again.ids)
        assert units.id == clip.id
        assert units.spec.frame_rate == 25


def test_autocast_of_the_caller_moves_no_unit(tokenizer_folder):
    tok, clip = SpeechTokenizer.load(tokenizer_folder), Clip(noise(23_456), 16_000, "a")
    plain = tok.features(clip)
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(tok.features(clip), plain)


def test_a_hop_of_half_a_stride_is_50_hz(tokenizer_folder, tmp_path):
    slow = SpeechTokenizer.load(tokenizer_folder)
    folder, book = tmp_path / "fast", slow.codebook

    def save_with(hop: int):
        return save_tokenizer(
            folder, name="tiny", encoder_config=json.loads((tokenizer_folder / "encoder.json").read_text()),
            encoder_weights=(tokenizer_folder / "encoder.safetensors").read_bytes(), layer=2, codebook=book,
            normalize_input=False, sample_rate=16_000, hop=hop, card="",
        )  # fmt: skip

    spec = save_with(320)
    assert spec.frame_rate == 50 and spec.fingerprint != slow.spec.fingerprint
    assert dataclasses.replace(spec, hop=640) == slow.spec
    fast, clip = SpeechTokenizer.load(folder), Clip(noise(23_456), 16_000, "a")
    assert np.array_equal(fast.frames(clip)[::2], slow.frames(clip))
    assert np.array_equal(fast.frames(clip)[1::2], slow.frames(dataclasses.replace(clip, samples=clip.samples[320:])))
    for hop in (300, 1280):
        save_with(hop)
        with pytest.raises(BadInput, match=f"every 640 samples, which is no multiple of {hop}"):
            SpeechTokenizer.load(folder)


def test_tokenizer_refuses_other_rates_short_clips_and_nan(tokenizer_folder):
    tok = SpeechTokenizer.load(tokenizer_folder)
    with pytest.raises(AudioError, match="8000 Hz"):
        tok(Clip(noise(8000), 8000, "a"))
    with pytest.raises(AudioError, match=r"'b'.*too short"):
        tok(Clip(noise(100), 16_000, "b"))
    with pytest.raises(AudioError, match="NaN"):
        tok(Clip(np.full(16_000, np.nan, np.float32), 16_000, "c"))


def test_a_swapped_codebook_is_refused(tokenizer_folder, tmp_path):
    import shutil

    folder = tmp_path / "swapped"
    shutil.copytree(tokenizer_folder, folder)
    kmeans.Codebook(np.zeros((12, 16), np.float32)).save(folder / "codebook.safetensors")
    with pytest.raises(UnitSpecMismatch, match=r"codebook\.safetensors"):
        SpeechTokenizer.load(folder)
    (folder / "codebook.safetensors").unlink()
    with pytest.raises(ArtifactError, match="missing"):
        SpeechTokenizer.load(folder)


def test_a_tokenizer_may_share_a_bundled_encoder(tokenizer_folder, tmp_path, monkeypatch):
    import shutil

    folder, encoder = tmp_path / "tokenizer", tmp_path / "encoder" / "tiny"
    shutil.copytree(tokenizer_folder, folder)
    encoder.mkdir(parents=True)
    for name in ("encoder.json", "encoder.safetensors"):
        shutil.move(folder / name, encoder / name)
    with pytest.raises(ArtifactError, match=r"encoder\.safetensors is missing"):
        SpeechTokenizer.load(folder)
    monkeypatch.setattr(folder_module, "bundled", lambda name: tmp_path / name)
    clip = Clip(noise(16_000), 16_000, "a")
    assert np.array_equal(SpeechTokenizer.load(folder)(clip).ids, SpeechTokenizer.load(tokenizer_folder)(clip).ids)
    weights = bytearray((encoder / "encoder.safetensors").read_bytes())
    weights[-1] ^= 1
    (encoder / "encoder.safetensors").write_bytes(weights)
    with pytest.raises(UnitSpecMismatch, match=r"encoder\.safetensors"):
        SpeechTokenizer.load(folder)


def test_weights_that_do_not_fit_are_refused(tokenizer_folder, tmp_path):
    import shutil

    folder = tmp_path / "odd"
    shutil.copytree(tokenizer_folder, folder)
    config = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps({**config, "hidden_size": 32}))
    with pytest.raises(ArtifactError, match="do not fit"):
        SpeechTokenizer.load(folder)


def test_an_unknown_name_lists_the_bundled_ones():
    with pytest.raises(BadInput, match=r"neither a folder nor a bundled tokenizer.*mini-25hz-500"):
        SpeechTokenizer.load("no/such/folder")
    assert SpeechTokenizer.load("mini-25hz-500").spec.n_units == 500


@pytest.mark.parametrize("rate", [25, 50])
@pytest.mark.parametrize("units", [100, 200, 500])
def test_the_bundled_family_is_whole(rate, units):
    name = f"mini-{rate}hz-{units}" + ("-fourth" if (rate, units) == (25, 100) else "")
    tok = SpeechTokenizer.load(name)
    assert (tok.spec.frame_rate, tok.spec.n_units) == (rate, units)
    clip = Clip(noise(16_000), 16_000, "a")
    assert tok(clip).runs.sum() == (16_000 - 880) // (16_000 // rate) + 1
    card = (bundled("tokenizer") / name / "CARD.md").read_text()
    assert card.startswith(f"# {name}\n")


def test_units_that_others_were_made_with_stay_what_they_are():
    assert read_spec("mini-25hz-100-fourth").fingerprint == "aefef48a9b05a0e5"  # the next grid's
    assert read_spec("mini-25hz-500").fingerprint == "569515e93de726b2"  # the vocoder's
