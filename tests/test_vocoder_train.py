"""Vocoder training: exact resume, refusals, losses and critics."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twistlm.errors import BadInput, CheckpointError, Stopped, TrainingError, UnitSpecMismatch
from twistlm.types import Units, UnitSpec
from twistlm.vocoder.crops import TRIM, Crops
from twistlm.vocoder.discriminator import Critics, critics_loss, generator_losses
from twistlm.vocoder.durations import DurationConfig
from twistlm.vocoder.hifigan import HiFiGANConfig
from twistlm.vocoder.mel import RESOLUTIONS, Resolution, SpectralLoss, mel_filters
from twistlm.vocoder.synthesizer import Synthesizer
from twistlm.vocoder.train import train_vocoder
from twistlm.vocoder.training_state import VocoderConfig

HOP = 160
SPEC = UnitSpec(
    encoder="toy", encoder_sha256="0" * 64, layer=1, tap="block_output", normalize_input=False, sample_rate=16_000,
    hop=HOP, n_units=5, centroids_sha256="1" * 64, deduplicate=True,
)  # fmt: skip
MODEL = HiFiGANConfig(
    num_embeddings=5,
    embedding_dim=8,
    model_in_dim=8,
    upsample_rates=(5, 4, 8),
    upsample_kernel_sizes=(11, 8, 16),
    upsample_initial_channel=32,
    resblock_kernel_sizes=(3,),
    resblock_dilation_sizes=((1, 3),),
    sampling_rate=16_000,
    dur_predictor_params=DurationConfig(
        encoder_embed_dim=8, var_pred_hidden_dim=8, var_pred_kernel_size=3, var_pred_dropout=0.1
    ),
)
CONFIG = VocoderConfig(
    model=MODEL, updates=6, adversarial_from=3, rows=2, frames=8, warmup=2, periods=(3,), spectra=((256, 64),),
    critic_channels=2, duration_updates=3, log_every=1, checkpoint_every=2,
)  # fmt: skip


def tones(n_clips: int = 4, frames: int = 40) -> list[tuple[Units, np.ndarray]]:
    """Each unit is a tone; runs of 4 to 9 frames."""
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(n_clips):
        ids, runs = [], []
        while sum(runs) < frames:
            ids.append(int(rng.choice([u for u in range(5) if not ids or u != ids[-1]])))
            runs.append(int(rng.integers(4, 10)))
        units = Units(ids=np.array(ids, np.uint16), runs=np.array(runs, np.int32), spec=SPEC, id=f"clip{i}")
        pitch = np.repeat(200.0 + 300.0 * units.frames, HOP)
        wave = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000)
        pairs.append((units, wave.astype(np.float32)))
    return pairs


def weights(vocoder) -> dict[str, torch.Tensor]:
    return vocoder.synthesizer.weights()


def test_stopped_and_resumed_equals_straight_bit_for_bit(tmp_path) -> None:
    pairs = tones()
    before = torch.random.get_rng_state()
    straight = weights(train_vocoder(pairs, SPEC, CONFIG, tmp_path / "a"))
    assert torch.equal(torch.random.get_rng_state(), before)
    for stop in (1, 3, 5):  # before, at and after the critics join
        train_vocoder(pairs, SPEC, CONFIG, tmp_path / "b", stop_after=stop)
    resumed = weights(train_vocoder(pairs, SPEC, CONFIG, tmp_path / "b"))
    assert straight.keys() == resumed.keys() and all(torch.equal(straight[k], resumed[k]) for k in straight)
    logs = [[json.loads(line) for line in (tmp_path / x / "metrics.jsonl").read_text().splitlines()] for x in "ab"]
    for log in logs:
        assert [line.pop("update") for line in log] == [1, 2, 3, 4, 5, 6]
        assert [("critics" in line) for line in log] == [False] * 3 + [True] * 3
        [line.pop("seconds") for line in log]
    assert logs[0] == logs[1]
    again = weights(train_vocoder(pairs, SPEC, CONFIG, tmp_path / "b"))
    assert all(torch.equal(again[k], straight[k]) for k in straight)


@pytest.mark.parametrize("during", [4, 5])  # behind the second checkpoint; in the last update
def test_a_signal_ends_it_between_two_updates_and_it_goes_on_from_there(tmp_path, monkeypatch, during) -> None:
    straight = weights(train_vocoder(tones(), SPEC, CONFIG, tmp_path / "a"))
    batch = Crops.batch
    signalled = [during]

    def noted(self, update, **how):
        if update in signalled:
            signalled.clear()
            signal.raise_signal(signal.SIGTERM)  # SIGINT may be ignored, as under nohup
        return batch(self, update, **how)

    monkeypatch.setattr(Crops, "batch", noted)
    with pytest.raises(Stopped, match=f"SIGTERM after update {during + 1} of 6") as stopped:
        train_vocoder(tones(), SPEC, CONFIG, tmp_path / "b")
    assert stopped.value.exit_code == 143
    resumed = weights(train_vocoder(tones(), SPEC, CONFIG, tmp_path / "b"))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_a_signal_while_durations_are_fitted_acts_at_once(tmp_path, monkeypatch) -> None:
    import twistlm.vocoder.train as module

    before = signal.getsignal(signal.SIGTERM)
    seen = []
    monkeypatch.setattr(module, "fit_durations", lambda *_, **__: seen.append(signal.getsignal(signal.SIGTERM)))
    train_vocoder(tones(), SPEC, CONFIG, tmp_path)
    assert seen == [before]


def test_resuming_another_run_names_what_differs(tmp_path) -> None:
    train_vocoder(tones(), SPEC, CONFIG, tmp_path, stop_after=1)
    with pytest.raises(CheckpointError, match="differ: lr, seed"):
        train_vocoder(tones(), SPEC, dataclasses.replace(CONFIG, lr=3e-4, seed=1), tmp_path)
    with pytest.raises(CheckpointError, match="differ: data"):
        train_vocoder(tones(3), SPEC, CONFIG, tmp_path)
    (tmp_path / "checkpoint" / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        train_vocoder(tones(), SPEC, CONFIG, tmp_path)


@pytest.mark.thorough
def test_training_learns_tones(tmp_path) -> None:
    config = dataclasses.replace(
        CONFIG, updates=60, adversarial_from=60, rows=4, lr=3e-3, log_every=10, checkpoint_every=30, average=0.9
    )
    pairs = tones(6)
    vocoder = train_vocoder(pairs[:5], SPEC, config, tmp_path, heldout=pairs[5:])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["mel"] < 0.9 * lines[0]["mel"]
    assert [line["update"] for line in lines if "heldout_mel" in line] == [30, 60]
    clip = vocoder(pairs[5][0], durations="given")
    assert len(clip.samples) == len(pairs[5][1]) and np.abs(clip.samples).max() <= 1


def test_starting_from_weights_begins_where_they_are(tmp_path) -> None:
    pairs = tones()
    first = train_vocoder(pairs, SPEC, CONFIG, tmp_path / "a", stop_after=2)
    config = dataclasses.replace(CONFIG, lr=0.0, lr_floor=0.0, seed=7)
    second = train_vocoder(pairs, SPEC, config, tmp_path / "b", start=weights(first), stop_after=2)
    units = pairs[0][0]
    expected = first(units, durations="given").samples
    np.testing.assert_allclose(second(units, durations="given").samples, expected, atol=1e-5)
    with pytest.raises(CheckpointError, match="differ: start"):
        train_vocoder(pairs, SPEC, config, tmp_path / "b")


def test_weights_of_another_vocoder_are_no_start(tmp_path) -> None:
    pairs = tones()
    first = train_vocoder(pairs, SPEC, CONFIG, tmp_path / "a", stop_after=1)
    part = {name: w for name, w in weights(first).items() if not name.startswith("conv_pre")}
    more = {**weights(first), "spkr.weight": torch.ones(2, 4)}
    for wrong, named in ((part, "conv_pre"), (more, "spkr.weight")):
        with pytest.raises(BadInput, match=f"another vocoder, or not whole: .*{named}"):
            train_vocoder(pairs, SPEC, CONFIG, tmp_path / "b", start=wrong, stop_after=1)


def test_learning_rate_rises_then_falls_to_the_floor() -> None:
    config = dataclasses.replace(CONFIG, updates=100, warmup=10, lr=1e-3, lr_floor=1e-4)
    rates = [config.learning_rate(u) for u in range(101)]
    assert rates[0] == pytest.approx(1e-4) and max(rates) == rates[10] == pytest.approx(1e-3)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:])) and rates[100] == pytest.approx(1e-4)


def test_what_does_not_fit_together_is_refused(tmp_path) -> None:
    units, wave = tones(1)[0]
    with pytest.raises(BadInput, match="clip0"):
        train_vocoder([(units, wave[: len(wave) // 2])], SPEC, CONFIG, tmp_path)
    with pytest.raises(TrainingError, match="no pairs"):
        train_vocoder([], SPEC, CONFIG, tmp_path)
    with pytest.raises(UnitSpecMismatch, match="layer"):
        train_vocoder([(units, wave)], dataclasses.replace(SPEC, layer=2), CONFIG, tmp_path)
    with pytest.raises(BadInput, match="640"):
        train_vocoder([(units, wave)], dataclasses.replace(SPEC, hop=640), CONFIG, tmp_path)
    with pytest.raises(TrainingError, match="fewer than one crop"):
        train_vocoder([(units, wave)], SPEC, dataclasses.replace(CONFIG, frames=10_000), tmp_path)
    with pytest.raises(TrainingError, match="not finite at update 0"):
        start = Synthesizer(CONFIG.model).fold().weights() | {"conv_post.bias": torch.tensor([math.nan])}
        train_vocoder([(units, wave)], SPEC, CONFIG, tmp_path, start=start)
    assert not (tmp_path / "checkpoint").exists()


@settings(max_examples=30, deadline=None)
@given(update=st.integers(0, 10**6), seed=st.integers(0, 9), rows=st.integers(1, 5), frames=st.integers(1, 12))
def test_crops_pair_units_with_their_own_samples(update: int, seed: int, rows: int, frames: int) -> None:
    ids = np.random.default_rng(0).integers(0, 5, 60).astype(np.uint16)
    spec = dataclasses.replace(SPEC, deduplicate=False)
    units = Units(ids=ids, runs=np.ones(60, np.int32), spec=spec, id="x")
    # A sample tells its frame, so that a crop can be checked by itself.
    crops = Crops([(units, np.repeat(np.arange(60) / 100, HOP).astype(np.float32))], spec)
    cut_units, voice, samples = crops.batch(update, rows=rows, frames=frames, seed=seed)
    assert cut_units.shape == (rows, frames + 2 * TRIM) and samples.shape == (rows, frames * HOP)
    at = np.round(samples.numpy().reshape(rows, frames, HOP) * 100).astype(int)
    assert (at == at[:, :, :1]).all() and (np.diff(at[:, :, 0]) == 1).all()
    np.testing.assert_array_equal(cut_units.numpy()[:, TRIM:-TRIM], ids[at[:, :, 0]])
    assert voice is None
    # Ranks share a batch out.
    shares = [crops.batch(update, rows=rows, frames=frames, seed=seed, rank=i, ranks=2) for i in range(2)]
    assert torch.equal(torch.cat([share.units for share in shares]), cut_units)
    assert torch.equal(torch.cat([share.samples for share in shares]), samples)


@pytest.mark.parametrize("r", RESOLUTIONS)
def test_mel_filters_are_normalised_and_never_empty(r: Resolution) -> None:
    filters = mel_filters(r.n_fft, r.n_mels, 16_000)
    assert filters.shape == (r.n_fft // 2 + 1, r.n_mels) and (filters >= 0).all()
    torch.testing.assert_close(filters.sum(0), torch.ones(r.n_mels))
    centres = filters.argmax(0)
    assert (centres.diff() >= 0).all() and (filters.sum(1)[1:-1] > 0).float().mean() > 0.5


def test_spectral_loss_is_zero_for_equal_and_measures_loudness_in_nepers() -> None:
    loss = SpectralLoss(16_000)
    wave = torch.randn(2, 8_000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert float(loss(wave, wave)[0]) == 0 and float(loss(wave, wave)[1]) == 0
    mel, convergence = loss(wave * math.e, wave)
    assert float(mel) == pytest.approx(1, abs=0.01) and float(convergence) == pytest.approx(math.e - 1, abs=0.01)


def test_spectral_loss_has_a_gradient_in_silence() -> None:
    silence = torch.zeros(1, 4_000, requires_grad=True)
    sum(SpectralLoss(16_000)(silence, torch.zeros(1, 4_000))).backward()
    assert silence.grad is not None and torch.isfinite(silence.grad).all()


def test_critics_losses_at_their_optima() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        critics = Critics((2, 3), ((256, 64),), 2)
    a, b = torch.randn(2, 1, 1_001, generator=torch.Generator().manual_seed(0)).unbind(0)
    true, spoken = critics(a), critics(b)
    assert len(true) == 3 and generator_losses(true, true)[1].item() == 0 < generator_losses(true, spoken)[1].item()
    ones = [[*j[:-1], torch.ones_like(j[-1])] for j in true]
    zeros = [[*j[:-1], torch.zeros_like(j[-1])] for j in true]
    assert float(critics_loss(ones, zeros)) == 0 and float(critics_loss(zeros, ones)) == 2
    assert float(generator_losses(ones, ones)[0]) == 0 and float(generator_losses(ones, zeros)[0]) == 1
