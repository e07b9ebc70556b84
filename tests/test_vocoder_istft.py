"""The inverse-STFT generator: its inverse against torch.istft and a slow one, its reach, pieces, files, training."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twistlm.compute import products
from twistlm.errors import BadInput
from twistlm.types import Units, UnitSpec
from twistlm.vocoder import vocoder as vocoder_module
from twistlm.vocoder.configs import read_shape
from twistlm.vocoder.durations import DurationConfig
from twistlm.vocoder.hifigan import HiFiGANConfig
from twistlm.vocoder.istft import ISTFTConfig, inverse_stft, istft_like, overlap_add
from twistlm.vocoder.synthesizer import Synthesizer
from twistlm.vocoder.train import train_vocoder, with_voices
from twistlm.vocoder.training_state import VocoderConfig
from twistlm.vocoder.vocoder import Vocoder
from twistlm.vocoder.voices import Voice

SPEC = UnitSpec(
    encoder="toy", encoder_sha256="0" * 64, layer=1, tap="block_output", normalize_input=False, sample_rate=16_000,
    hop=160, n_units=7, centroids_sha256="1" * 64, deduplicate=True,
)  # fmt: skip
CONFIG = ISTFTConfig(
    num_embeddings=7, embedding_dim=6, model_in_dim=6, sampling_rate=16_000, channels=12, layers=2, upsample=4,
    fine_channels=8, fine_layers=2, kernel=5, lookahead=1, n_fft=160, stft_hop=40,
    dur_predictor_params=DurationConfig(
        encoder_embed_dim=6, var_pred_hidden_dim=6, var_pred_kernel_size=3, var_pred_dropout=0.1
    ),
)  # fmt: skip


def make_vocoder(config: ISTFTConfig = CONFIG, seed: int = 0) -> Vocoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Vocoder(Synthesizer(config).fold().eval(), SPEC, name="toy")


def make_units(n: int, seed: int = 0) -> Units:
    rng = np.random.default_rng(seed)
    return Units(
        ids=np.resize(rng.permutation(7), n).astype(np.uint16), runs=np.full(n, 2, np.int32), spec=SPEC, id="clip"
    )


def spectrum(frames: int, n_fft: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.fft.rfft(torch.randn(2, frames, n_fft, generator=rng, dtype=torch.float64), dim=2)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.sampled_from([2, 3, 4, 5]), st.integers(1, 6))
def test_the_inverse_equals_a_slow_one(frames: int, parts: int, half_hop: int) -> None:
    hop = 2 * half_hop
    n_fft = parts * hop
    window = torch.hann_window(n_fft, dtype=torch.float64)
    # An even number of hops keeps the frames' middles on whole samples.
    given_spectrum = spectrum(frames, n_fft)
    pieces = torch.fft.irfft(given_spectrum, n=n_fft, dim=2)
    total, weight = torch.zeros(2, (frames - 1) * hop + n_fft), torch.zeros((frames - 1) * hop + n_fft)
    total, weight = total.double(), weight.double()
    for u in range(frames):
        for i in range(n_fft):
            total[:, u * hop + i] += pieces[:, u, i] * window[i]
            weight[u * hop + i] += window[i] ** 2
    edge = (n_fft - hop) // 2
    expected = (total / weight)[:, edge : edge + frames * hop]
    found = inverse_stft(given_spectrum, window, hop)
    assert found.shape == (2, frames * hop) and found.isfinite().all()
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_the_inverse_equals_torch_istft_away_from_the_ends() -> None:
    n_fft, hop = 64, 16
    window = torch.hann_window(n_fft, dtype=torch.float64)
    given_spectrum = spectrum(20, n_fft)
    theirs = torch.istft(given_spectrum.transpose(1, 2), n_fft, hop, window=window, center=True)  # middles at u * hop
    ours = inverse_stft(given_spectrum, window, hop)  # middles at u * hop + hop / 2
    torch.testing.assert_close(ours[:, 64 + hop // 2 : 240], theirs[:, 64 : 240 - hop // 2], atol=1e-12, rtol=1e-12)


def test_a_spectrum_of_a_sound_gives_the_sound_back() -> None:
    n_fft, hop = 64, 16
    window = torch.hann_window(n_fft, dtype=torch.float64)
    sound = torch.randn(1, 320, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    padded = torch.nn.functional.pad(sound, ((n_fft - hop) // 2,) * 2)
    analysed = torch.fft.rfft(padded.unfold(1, n_fft, hop) * window, dim=2)
    torch.testing.assert_close(inverse_stft(analysed, window, hop), sound, atol=1e-12, rtol=1e-12)


def test_overlap_add_equals_fold() -> None:
    frames = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(0))
    folded = torch.nn.functional.fold(frames.transpose(1, 2), (1, 6 * 4 + 12), (1, 12), stride=(1, 4)).view(3, -1)
    torch.testing.assert_close(overlap_add(frames, 4), folded)


@settings(max_examples=12, deadline=None)
@given(
    kernel=st.integers(1, 7), ahead=st.integers(0, 6), layers=st.integers(1, 3), fine=st.integers(1, 3),
    upsample=st.sampled_from([1, 2, 4]), parts=st.sampled_from([2, 3, 4]),
)  # fmt: skip
def test_the_reach_is_exact(kernel: int, ahead: int, layers: int, fine: int, upsample: int, parts: int) -> None:
    hop = 160 // upsample
    config = dataclasses.replace(
        CONFIG, kernel=kernel, lookahead=min(ahead, kernel - 1), layers=layers, fine_layers=fine, upsample=upsample,
        stft_hop=hop, n_fft=parts * hop,
    )  # fmt: skip
    torch.manual_seed(0)
    network = config.build().double().eval()
    reach = config.reach
    features = torch.randn(1, 6, reach.left + reach.right + 9, dtype=torch.float64)
    at = reach.right + 4
    changed = features.clone()
    changed[:, :, at] += 100  # what reaches far is faint
    with torch.no_grad():
        moved = (network(features) - network(changed)).abs().view(-1, config.hop).amax(1).nonzero().flatten()
    assert (at - int(moved.min()), int(moved.max()) - at) == (reach.right, reach.left)


def test_pieces_batches_and_streams_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    voc, units = make_vocoder(), make_units(150)
    whole = voc(units, durations="given").samples
    assert len(whole) == 300 * 160 and np.abs(whole).max() <= 1
    monkeypatch.setattr(vocoder_module, "CHUNK", 40)
    pieces = voc(units, durations="given").samples
    np.testing.assert_allclose(pieces, whole, atol=1e-5)
    stream = np.concatenate([*voc.stream(units.frames.tolist(), durations="given")])
    np.testing.assert_allclose(stream, whole, atol=1e-5)
    many = [make_units(n, seed=n) for n in (3, 60, 17)]
    monkeypatch.setattr(vocoder_module, "MOST", {"cpu": 400, "cuda": 400})
    for clip, one in zip(voc.batch(many, durations="given"), many, strict=True):
        np.testing.assert_allclose(clip.samples, voc(one, durations="given").samples, atol=1e-5)


def test_it_looks_less_far_ahead_than_back() -> None:
    shipped = dataclasses.replace(CONFIG, kernel=7, lookahead=1, layers=4, fine_layers=4)
    assert (shipped.reach.left, shipped.reach.right) == (31, 7)


def test_folding_changes_no_sample_but_who_multiplies() -> None:
    torch.manual_seed(0)
    network = Synthesizer(CONFIG).eval()
    frames = torch.from_numpy(make_units(40).frames.astype(np.int64))[None]
    with torch.no_grad():
        before = network(frames)
        after = network.fold()(frames)
    assert any(type(module) is products.Linear for module in network.generator.modules())
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-5)


def test_several_voices_are_told_apart(tmp_path) -> None:
    shape, voices = with_voices(CONFIG, [Voice(speaker="awb"), Voice(speaker="slt")])
    voc = Vocoder(Synthesizer(shape).fold().eval(), SPEC, name="toy", voices=voices)
    voc.save(tmp_path / "voc")
    loaded, units = Vocoder.load(tmp_path / "voc"), make_units(20)
    one, other = (loaded(units, durations="given", voice=Voice(speaker=name)).samples for name in ("awb", "slt"))
    assert not np.allclose(one, other)


def test_saved_and_loaded_is_the_same(tmp_path) -> None:
    voc = make_vocoder()
    voc.save(tmp_path / "voc")
    written = json.loads((tmp_path / "voc" / "config.json").read_text())
    assert written["generator"] == "istft" and read_shape(json.dumps(written)) == CONFIG
    loaded, units = Vocoder.load(tmp_path / "voc"), make_units(20)
    halved = {name: value.half().float() for name, value in voc.synthesizer.weights().items()}
    voc.synthesizer.take(halved)
    assert np.array_equal(loaded(units, durations="given").samples, voc(units, durations="given").samples)


@pytest.mark.thorough
def test_it_learns_tones_and_resumes_exactly(tmp_path) -> None:
    rng, pairs = np.random.default_rng(0), []
    for i in range(3):
        units = make_units(40, seed=i)
        pitch = np.repeat(200.0 + 300.0 * units.frames, 160)
        wave = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000) + 0.001 * rng.standard_normal(len(pitch))
        pairs.append((units, wave.astype(np.float32)))
    config = VocoderConfig(
        model=CONFIG, updates=24, adversarial_from=22, rows=2, frames=16, warmup=2, lr=3e-3, periods=(3,),
        spectra=((256, 64),), critic_channels=2, duration_updates=3, log_every=1, checkpoint_every=12,
    )  # fmt: skip
    straight = train_vocoder(pairs, SPEC, config, tmp_path / "a").synthesizer.weights()
    train_vocoder(pairs, SPEC, config, tmp_path / "b", stop_after=12)
    resumed = train_vocoder(pairs, SPEC, config, tmp_path / "b").synthesizer.weights()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    log = [json.loads(line)["mel"] for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(log[-5:]) < 0.9 * np.mean(log[:5])


@pytest.mark.parametrize(("hop", "upsample"), [(640, 4), (320, 2), (160, 1), (882, 3)])
def test_it_takes_the_inputs_of_another_vocoder(hop: int, upsample: int) -> None:
    hifigan = HiFiGANConfig(
        num_embeddings=9, embedding_dim=6, model_in_dim=6, upsample_rates=(hop,), upsample_kernel_sizes=(hop,),
        upsample_initial_channel=8, resblock_kernel_sizes=(3,), resblock_dilation_sizes=((1,),),
        sampling_rate=16_000 if hop != 882 else 22_050,
    )  # fmt: skip
    made = istft_like(hifigan)
    assert (made.hop, made.upsample, made.n_fft) == (hop, upsample, 4 * hop // upsample)
    assert (made.num_embeddings, made.sampling_rate) == (9, hifigan.sampling_rate)
    with pytest.raises(BadInput, match="even hop"):
        istft_like(dataclasses.replace(hifigan, upsample_rates=(5,), upsample_kernel_sizes=(5,)))


@pytest.mark.parametrize(
    ("change", "says"),
    [({"layers": 0}, "layers is 0"), ({"lookahead": 5}, "lookahead is 5"), ({"n_fft": 150}, "multiple"),
     ({"n_fft": 40}, "at least twice"), ({"stft_hop": 41, "n_fft": 164}, "even")],
)  # fmt: skip
def test_bad_shapes_are_refused(change: dict[str, int], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        dataclasses.replace(CONFIG, **change)


def test_a_config_with_a_key_missing_is_refused_by_its_name() -> None:
    fields = json.loads(CONFIG.to_json())
    del fields["n_fft"]
    with pytest.raises(BadInput, match="n_fft"):
        read_shape(json.dumps(fields))
    with pytest.raises(BadInput, match="vocos"):
        read_shape(json.dumps({**fields, "generator": "vocos"}))
