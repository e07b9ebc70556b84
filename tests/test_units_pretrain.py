"""HuBERT pretraining: exact resume, learning, targets; MFCC and unit quality."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from transformers import HubertModel

from standins import Tiny
from test_units import noise, tiny_config
from twistlm.errors import BadInput, CheckpointError, Stopped, TrainingError
from twistlm.files.arrays import open_arrays
from twistlm.jobs import hubert
from twistlm.jobs.hubert import hubert_config
from twistlm.units.crops import LabelledSpeech, augment, draw_batch
from twistlm.units.features import mfcc, position_means, without_position
from twistlm.units.masked_prediction import MaskedUnitPredictor, loss_of, mel_wavelets
from twistlm.units.pretrain import learning_rate, pretrain
from twistlm.units.quality import phones_at, unit_quality


@pytest.fixture(scope="module")
def speech():
    """Ten tones in random order, each 0.2 s; the target is the tone."""
    rng = np.random.default_rng(0)
    tones = rng.integers(0, 10, 120)
    t = np.arange(3200) / 16_000
    wave = np.concatenate([np.sin(2 * np.pi * (200 + 150 * tone) * t) for tone in tones])
    return LabelledSpeech((wave * 9000).astype(np.int16), np.repeat(tones, 5).astype(np.int16)[None], 640)


def test_stop_and_resume_equals_the_straight_run(speech, tmp_path):
    config = tiny_config(compile=False)
    straight = pretrain(speech, config, tmp_path / "straight")

    class Stopped(Exception):
        pass

    def stop(line):
        raise Stopped

    first = dataclasses.replace(config)
    import twistlm.units.pretrain as module

    real = module._checkpoint

    def die_after_first(*args):
        real(*args)
        raise Stopped

    module._checkpoint = die_after_first
    try:
        with pytest.raises(Stopped):
            pretrain(speech, first, tmp_path / "resumed")
    finally:
        module._checkpoint = real
    assert json.loads((tmp_path / "resumed/checkpoint/state.json").read_text())["update"] == 2
    resumed = pretrain(speech, config, tmp_path / "resumed")
    for (name, a), b in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_signal_ends_it_between_two_updates_and_it_goes_on_from_there(speech, tmp_path, monkeypatch):
    import twistlm.units.pretrain as module

    config = tiny_config(updates=4, compile=False)  # checkpoints after 2 and 4
    straight = pretrain(speech, config, tmp_path / "straight")
    rate = module.learning_rate
    monkeypatch.setattr(module, "learning_rate", lambda c, n: (n == 2 and signal.raise_signal(15)) or rate(c, n))
    with pytest.raises(Stopped, match="SIGTERM after update 3 of 4") as stopped:
        pretrain(speech, config, tmp_path / "stopped")
    assert stopped.value.exit_code == 143
    monkeypatch.undo()
    resumed = pretrain(speech, config, tmp_path / "stopped").state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in straight.state_dict().items())


def test_a_gradient_that_is_no_number_reaches_no_weight(speech, tmp_path, monkeypatch):
    import twistlm.units.pretrain as module

    def steep(*args):
        loss, said = loss_of(*args)
        loss.register_hook(lambda gradient: gradient * torch.inf)  # the loss itself is finite
        return loss, said

    monkeypatch.setattr(module, "loss_of", steep)
    with pytest.raises(TrainingError, match=r"the gradient's norm (nan|inf) at update 0"):
        pretrain(speech, tiny_config(updates=1, compile=False), tmp_path)
    assert not (tmp_path / "checkpoint").exists()


def test_another_configuration_is_refused_and_the_field_named(speech, tmp_path):
    pretrain(speech, tiny_config(updates=2, compile=False), tmp_path)
    with pytest.raises(CheckpointError, match="lr"):
        pretrain(speech, tiny_config(updates=2, lr=5e-4, compile=False), tmp_path)


def test_other_speech_is_not_gone_on_with(speech, tmp_path):
    pretrain(speech, tiny_config(updates=1, compile=False), tmp_path, made_of={"speech": "a", "teacher": "mfcc"})
    with pytest.raises(CheckpointError, match="was made with another speech"):
        pretrain(speech, tiny_config(updates=1, compile=False), tmp_path, made_of={"speech": "b", "teacher": "mfcc"})


def test_less_speech_than_a_crop_is_refused(speech, tmp_path):
    config = tiny_config(updates=1, compile=False)
    few = round(config.crop_seconds * 25)
    short = LabelledSpeech(speech.samples[: few * 640], speech.targets[:, :few], 640)
    with pytest.raises(BadInput, match="of speech are less than one crop"):
        pretrain(short, config, tmp_path)


@pytest.mark.thorough
def test_it_learns(speech, tmp_path):
    config = tiny_config(updates=60, lr=5e-3, warmup=5, batch=4, augment=0.0, compile=False)
    pretrain(speech, config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["unmasked_accuracy"][0] > 0.4 > 0.1  # chance is 0.1


def test_it_begins_from_the_weights_of_another_and_from_no_other_shape(speech, tmp_path):
    config = tiny_config(compile=False, updates=1, lr=0.0)
    given = MaskedUnitPredictor(dataclasses.replace(config, seed=7)).hubert.state_dict()
    given = {n: t.half() for n, t in given.items() if n != "masked_spec_embed" and "num_batches" not in n}
    model = pretrain(speech, config, tmp_path / "on", initial=given).hubert.state_dict()
    learnt = [name for name in given if "running_" not in name]
    assert learnt and all(torch.equal(model[name], given[name].float()) for name in learnt)
    first = next(iter(given))
    for wrong in ({**given, first: given[first][:1]}, {n: t for n, t in given.items() if n != first}):
        with pytest.raises(BadInput, match=f"another shape.*{first}"):
            pretrain(speech, config, tmp_path / "wrong", initial=wrong)


def test_the_global_generator_is_left_alone(speech, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pretrain(speech, tiny_config(updates=1, compile=False), tmp_path)
    assert torch.equal(torch.rand(3), expected)


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_batches_depend_on_seed_and_update_only(update):
    speech = LabelledSpeech(np.zeros(640 * 100, np.int16), np.arange(100, dtype=np.int16)[None] % 10, 640)
    config = tiny_config()
    first, second = draw_batch(speech, config, update), draw_batch(speech, config, update)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[1][0].shape == first[2].shape == (2, 24)  # 1 s at 25 Hz without padding


def test_a_warped_crop_keeps_its_targets_at_their_sounds():
    """Clicks, one a frame that has target 1: after speeding up or slowing down they still sit in frames of target 1."""
    rng = np.random.default_rng(0)
    targets = (rng.random(400) < 0.2).astype(np.int16)
    samples = np.zeros(400 * 640, np.int16)
    samples[np.flatnonzero(targets) * 640 + 320] = 20_000
    speech = LabelledSpeech(samples, targets[None], 640)
    config = tiny_config(augment=1.0, warp=0.2, crop_seconds=4.0)
    with mock.patch("twistlm.units.crops.augment", lambda wave, rng: wave):
        waves, labels, _ = draw_batch(speech, config, 0)
    frames = waves[:, : labels.shape[2] * 640].reshape(len(waves), -1, 640)
    heard = frames.abs().amax(2) > 0.05
    agreement = (heard == (labels[0] == 1)).float().mean(1)
    assert (agreement > 0.9).all()  # a click near a border may fall into the next frame
    assert labels.shape == (1, config.batch, 99)


def test_every_stream_of_targets_has_its_own_head_and_missing_targets_cost_nothing(speech):
    config = tiny_config(n_targets=(10, 3))
    model = MaskedUnitPredictor(config)
    other = np.full_like(speech.targets, -1)
    batch = draw_batch(LabelledSpeech(speech.samples, np.concatenate([speech.targets, other]), 640), config, 0)
    assert [logits.shape[-1] for logits in model(batch[0], batch[2])] == [10, 3]
    both, parts = loss_of(model, batch, config)
    assert parts["masked_loss"][1] == parts["unmasked_loss"][1] == 0
    assert both.item() == pytest.approx(parts["masked_loss"][0] + config.unmasked_weight * parts["unmasked_loss"][0])


def test_hidden_frames_do_not_leak_into_the_prediction():
    """A frame's own sound must not reach the transformer when it is masked."""
    config = tiny_config(layers=1)
    model = MaskedUnitPredictor(config).eval()
    wave = torch.from_numpy(noise(16_000))[None]
    other = torch.from_numpy(noise(16_000, 1))[None]
    masked = torch.ones(1, 24, dtype=torch.bool)
    assert torch.allclose(model(wave, masked)[0], model(other, masked)[0])
    assert not torch.allclose(model(wave, ~masked)[0], model(other, ~masked)[0])


def test_speech_and_targets_must_pair():
    with pytest.raises(BadInput, match="targets"):
        LabelledSpeech(np.zeros(1000, np.int16), np.zeros((1, 3), np.int16), 640)


def test_augmentation_keeps_length_and_is_seeded():
    wave = noise(16_000)
    for seed in range(10):
        a, b = (augment(wave, np.random.default_rng(seed)) for _ in range(2))
        assert a.shape == wave.shape
        assert a.dtype == np.float32
        assert np.array_equal(a, b)
        assert np.isfinite(a).all()


def test_learning_rate_warms_up_and_ends_at_a_tenth():
    config = tiny_config(updates=100, warmup=10, lr=1.0)
    rates = [learning_rate(config, u) for u in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_mfcc_has_one_row_a_frame_and_sees_the_sound():
    wave = noise(16_000)
    features = mfcc(wave, 24, hop=640)
    assert features.shape == (24, 39)
    assert np.isfinite(features).all()
    tone = np.sin(np.arange(16_000) * 0.3).astype(np.float32)
    assert np.abs(mfcc(tone, 24, hop=640) - features).mean() > 1


def test_phones_at_the_centre_of_each_frame():
    alignment = [("a", 0.0, 0.1), ("b", 0.1, 0.2)]
    phones = phones_at(alignment, 6, hop=640, sample_rate=16_000, receptive=720)
    assert phones.tolist() == ["a", "a", "b", "b", "b", ""]  # centres 22.5, 62.5, 102.5, 142.5, 182.5, 222.5 ms


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["a", "b", "c", ""])), min_size=2, max_size=200))
def test_pnmi_equals_scikit_learn(pairs):
    units = np.array([u for u, _ in pairs], np.uint16)
    phones = np.array([p for _, p in pairs])
    known = phones != ""
    if not known.any():
        with pytest.raises(BadInput, match="no frame has a phone"):
            unit_quality(units, phones)
        return
    report = unit_quality(units, phones)
    _, counts = np.unique(phones[known], return_counts=True)
    expected = mutual_info_score(phones[known], units[known]) / entropy(counts) if len(counts) > 1 else math.nan
    assert report.pnmi == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert report.frames == known.sum()


def test_the_four_phases_of_a_wavelet_add_up_to_a_magnitude_wherever_the_wave_stands():
    filters = mel_wavelets(16, 400)
    assert filters.shape == (64, 400)
    t = np.arange(16_000) / 16_000
    responses = []
    for start in range(0, 400, 13):
        out = filters @ np.sin(2 * np.pi * 1000 * t)[start : start + 400]
        responses.append(np.maximum(out, 0).reshape(16, 4).sum(1))
    responses = np.array(responses)
    band = responses.mean(0).argmax()
    centres = 700 * (np.exp(np.linspace(np.log1p(80 / 700), np.log1p(7600 / 700), 16)) - 1)
    assert abs(centres[band] - 1000) < 250
    assert responses[:, band].max() / responses[:, band].min() < 1.5  # |cos| + |sin| lies within 1 and 1.41


@pytest.mark.parametrize("frame_rate", [25, 50])
def test_a_filterbank_front_end_has_the_frame_rate_and_trains(speech, tmp_path, frame_rate):
    dims = (16, 8, 8) if frame_rate == 25 else (16, 8)
    config = tiny_config(frame_rate, front_end="filterbank", conv_dim=dims, updates=1, compile=False)
    hop = 16_000 // frame_rate
    targets = np.repeat(speech.targets, 640 // hop)
    model = pretrain(LabelledSpeech(speech.samples, targets[None], hop), config, tmp_path)
    assert np.prod(model.hubert.config.conv_stride) == hop


def test_without_position_takes_out_what_only_depends_on_the_place():
    rng = np.random.default_rng(0)
    positions = np.tile(np.arange(50, dtype=np.int16), 200)
    signal = rng.standard_normal((10_000, 4))
    place = rng.standard_normal((50, 4)) * 10
    features = (signal + place[positions]).astype(np.float32)
    cleaned = without_position(features, positions, position_means(features, positions))
    assert features.var() > 50
    np.testing.assert_allclose(cleaned.var(), 1.0, atol=0.05)
    assert np.corrcoef(cleaned.ravel(), signal.ravel())[0, 1] > 0.99


def test_ranks_draw_crops_of_their_own_and_the_only_rank_those_it_always_drew():
    speech = LabelledSpeech(np.arange(640 * 100, dtype=np.int16), np.arange(100, dtype=np.int16)[None] % 10, 640)
    config = tiny_config(batch=4)
    with mock.patch.object(np.random, "default_rng", lambda key, real=np.random.default_rng: real(key[:2])):
        before = draw_batch(speech, config, 3)  # as without ranks
    assert all(torch.equal(a, b) for a, b in zip(draw_batch(speech, config, 3), before, strict=True))
    first, second = (draw_batch(speech, config, 3, rank=rank, ranks=2) for rank in range(2))
    assert first[0].shape[0] == second[0].shape[0] == 2 and not torch.equal(first[0], second[0])


@pytest.mark.parametrize("size, published", [("base", 94_371_712), ("large", 315_438_720)])
@pytest.mark.parametrize("frame_rate", [50, 25])
def test_base_and_large_have_the_sizes_of_the_published_ones(size, published, frame_rate):
    config = hubert_config(
        front_end="waveform", frame_rate=frame_rate, n_targets=500, updates=250_000, seed=0, size=size
    )
    with torch.device("meta"):
        model = HubertModel(config.hubert())
    n = sum(p.numel() for p in model.parameters())
    if frame_rate == 25:  # one more convolution, and a positional one over half as many frames for the same time
        groups = config.width // 16
        n += config.width * groups * 64 - (512 * 512 * 2 + 3 * 512)
    assert n == pytest.approx(published, rel=2e-4)  # layer norm and biases in the convolutions, batch norm behind
    assert model.config.do_stable_layer_norm == (size == "large")
    assert np.prod(config.hubert().conv_stride) == 16_000 // frame_rate
    assert (config.warmup, config.mask_frames) == (20_000, frame_rate // 5)


def test_base_has_no_filterbank():
    with pytest.raises(BadInput, match="--front-end waveform"):
        hubert_config(front_end="filterbank", frame_rate=25, n_targets=9, updates=1, seed=0, size="base")


def test_a_checkpoint_from_before_a_setting_existed_goes_on(speech, tmp_path):
    pretrain(speech, tiny_config(updates=1, compile=False), tmp_path)
    state = json.loads((tmp_path / "checkpoint/state.json").read_text())
    del state["config"]["position_kernel"]
    (tmp_path / "checkpoint/state.json").write_text(json.dumps(state))
    pretrain(speech, tiny_config(updates=1, compile=False), tmp_path)
    with pytest.raises(CheckpointError, match="position_kernel"):
        pretrain(speech, tiny_config(updates=1, compile=False, position_kernel=32), tmp_path)


RANK = """
import json, os, sys, torch
from datetime import timedelta
import numpy as np
from torch import distributed as dist
import twistlm.units.pretrain as module
from test_units import tiny_config
rank, folder, stop = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "stop"
torch.set_num_threads(1)
store = f"file://{folder}/{sys.argv[3]}.store"
dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
rng = np.random.default_rng(0)
tones = rng.integers(0, 10, 120)
wave = np.concatenate([np.sin(2 * np.pi * (200 + 150 * tone) * np.arange(3200) / 16_000) for tone in tones])
speech = module.LabelledSpeech((wave * 9000).astype(np.int16), np.repeat(tones, 5).astype(np.int16)[None], 640)
config = tiny_config(batch=4, compile=False)
def die(*args, real=module._checkpoint):
    real(*args)
    os._exit(0)
if stop:
    module._checkpoint = die
model = module.pretrain(speech, config, f"{folder}/run-{sys.argv[4]}")
torch.save(model.state_dict(), f"{folder}/{sys.argv[4]}-{rank}.pt")
"""


@pytest.mark.slow
def test_two_ranks_agree_and_a_stopped_pair_goes_on_to_the_same_weights(tmp_path):
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}

    def run(how, name):
        ranks = [
            subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path), how, name], env=here)
            for rank in range(2)
        ]
        for rank in ranks:
            if how == "stop" and rank is ranks[1]:  # its peer is gone
                rank.kill()
            rank.wait(timeout=120)
        return [rank.returncode for rank in ranks]

    assert run("straight", "straight") == [0, 0]
    assert run("stop", "stopped")[0] == 0
    assert json.loads((tmp_path / "run-stopped/checkpoint/state.json").read_text())["update"] == 2
    assert run("on", "stopped") == [0, 0]
    straight, other, resumed = (torch.load(tmp_path / f"{n}.pt") for n in ("straight-0", "straight-1", "stopped-0"))
    for name, weight in straight.items():
        assert torch.equal(weight, resumed[name]), name
        assert torch.equal(weight, other[name]) or "batch_norm.running" in name, name
    assert (tmp_path / "run-straight/metrics.jsonl").read_text().count("\n") == 1  # the first rank alone writes


def test_parts_of_a_batch_add_up_to_it(speech, tmp_path):
    """No batch norm (it takes its statistics from each part) and no clipping that would hide a factor."""
    config = tiny_config(updates=2, batch=4, augment=0.0, compile=False, clip_norm=1e9)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MaskedUnitPredictor(config).eval()
    waves, targets, masks = draw_batch(speech, config, 0)
    whole, said = loss_of(model, (waves, targets, masks), config)
    total, wrong = 0.0, 0.0
    for rows in (slice(0, 1), slice(1, 4)):
        part = waves[rows], targets[:, rows], masks[rows]
        total += loss_of(model, part, config, (targets, masks))[0].item()
        wrong += loss_of(model, part, config)[0].item()
    assert total == pytest.approx(whole.item(), rel=1e-5) and wrong != pytest.approx(whole.item(), rel=1e-2)
    assert all(value.item() >= 0 for values in said.values() for value in values)
    losses = {}
    for parts in (1, 3):  # here the batch norm is in training, so the numbers are near and not the same
        pretrain(speech, dataclasses.replace(config, accumulate=parts), tmp_path / str(parts))
        lines = (tmp_path / f"{parts}/metrics.jsonl").read_text().splitlines()
        losses[parts] = [json.loads(line)["loss"] for line in lines]
    assert losses[3] == pytest.approx(losses[1], rel=0.2)
    with pytest.raises(BadInput, match="accumulate is 0"):
        pretrain(speech, dataclasses.replace(config, accumulate=0), tmp_path / "none")


def test_frames_of_much_speech_are_drawn_and_those_of_little_are_all(monkeypatch):
    from twistlm.jobs import hubert

    clips = [np.full((n, 2), n, np.float32) for n in (30, 50, 20)]
    assert np.array_equal(hubert._some(iter(clips), 0), np.concatenate(clips))
    monkeypatch.setattr(hubert, "FIT_FRAMES", 60)
    some = hubert._some(iter(clips * 20), 0)
    assert len(some) == 60 and set(np.unique(some)) == {20, 30, 50}
    assert np.array_equal(some, hubert._some(iter(clips * 20), 0))


def test_other_targets_of_the_same_speech_are_another_run(tiny: Tiny, tmp_path: Path, monkeypatch) -> None:
    small = {"width": 16, "layers": 1, "heads": 2, "ffn": 16, "crop_seconds": 1.0, "batch": 8, "lr": 1e-3}
    monkeypatch.setitem(hubert.SIZES, "mini", small)
    config = hubert.hubert_config(front_end="filterbank", frame_rate=25, n_targets=8, updates=1, seed=0)
    hubert.pretrain_hubert(tiny.speech / "low", tmp_path, config)
    arrays = open_arrays(tmp_path / hubert.TARGETS, ("samples", "targets"))
    assert arrays["targets"].dtype == np.int32, "units go to 65,535"
    hubert.pretrain_hubert(tiny.speech / "low", tmp_path, config)  # the same: nothing to do
    fit = hubert.kmeans.fit
    monkeypatch.setattr(hubert.kmeans, "fit", lambda features, k, *, seed: fit(features, k, seed=seed + 1))
    with pytest.raises(CheckpointError, match="was made with another targets"):
        hubert.pretrain_hubert(tiny.speech / "low", tmp_path, config)
