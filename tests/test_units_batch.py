"""Units of a clip are the same alone and in any batch: every encoder family, random lengths, mates and order.

"The same" is meant literally for units. Features agree to float32 rounding and not bit for bit, because matrix products
of another shape may be summed in another order; frames near a border between two units are settled alone.
"""

from __future__ import annotations

import dataclasses
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders import ARCHITECTURES, LAYERS, NAMES, encoder_state, stand_in
from standins import babble
from twistlm.audio.clip import Clip
from twistlm.errors import AudioError
from twistlm.types import UnitSpec
from twistlm.units import on_gpu
from twistlm.units.kmeans import Codebook
from twistlm.units.on_gpu import DeviceCodebook
from twistlm.units.pretrained import build
from twistlm.units.tokenizer import BATCH_ROUNDING, SpeechTokenizer

PHASED = "mhubert-25hz in 2 phases"
_made: dict[tuple, SpeechTokenizer] = {}


def tokenizer(name: str, *, narrow: bool = True, layers: int = LAYERS, n_units: int = 20) -> SpeechTokenizer:
    """A stand-in tokenizer whose centroids are frames of some sound, so that its units change often."""
    key = (name, narrow, layers)
    if key not in _made:
        model, fields = stand_in(name.removesuffix(" in 2 phases"), narrow=narrow, layers=layers)
        encoder = build(fields, encoder_state(model), layer=layers, normalize_input="large" in name, where=name)
        encoder = dataclasses.replace(encoder, phases=2) if name == PHASED else encoder
        frames = encoder(sound(3.0 if narrow else 1.0, 99))
        picked = np.random.default_rng(0).choice(len(frames), n_units, replace=False)
        spec = UnitSpec(
            encoder=name, encoder_sha256="0" * 64, layer=layers, tap="block_output", normalize_input=False,
            sample_rate=16_000, hop=encoder.hop, n_units=n_units, centroids_sha256="0" * 64, deduplicate=True,
        )  # fmt: skip
        _made[key] = SpeechTokenizer(encoder, Codebook(frames[picked]), spec)
    return _made[key]


def sound(seconds: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    loudness, offset = 10 ** rng.uniform(-2, 0), rng.uniform(-0.1, 0.1)  # a level and an offset, as microphones have
    return (loudness * babble(seconds, seed=seed, pitch=rng.uniform(80, 250)) + offset).astype(np.float32)


def draw(seed: int, *, longest: float = 2.0) -> list[Clip]:
    """2 to 5 clips of random lengths, from one frame to `longest` seconds, in random order."""
    rng = np.random.default_rng(seed)
    seconds = np.exp(rng.uniform(np.log(0.05), np.log(longest), rng.integers(2, 6)))
    return [Clip(sound(float(s), seed * 10 + i), 16_000, f"{seed}-{i}") for i, s in enumerate(seconds)]


def check(tok: SpeechTokenizer, clips: list[Clip]) -> tuple[float, int, int]:
    """Hold the promise for one batch; returns (largest relative distance of features, frames, frames near a tie)."""
    together = tok.batch(clips)
    worst, n_frames, n_near = 0.0, 0, 0
    for clip, units, features in zip(clips, together, tok.encoder.batch([c.samples for c in clips]), strict=True):
        exact = tok.encoder(clip.samples)
        alone = tok.codebook.assign(exact)
        assert units.id == clip.id
        assert np.array_equal(units.frames, alone), f"units of {clip.id} changed beside others"
        assert len(units.frames) == tok.encoder.n_frames(len(clip.samples)) == len(features)
        distance = np.linalg.norm(features - exact, axis=1) / np.linalg.norm(exact, axis=1)
        worst, n_frames = max(worst, float(distance.max())), n_frames + len(features)
        n_near += int(tok.codebook.near_ties(features, relative=BATCH_ROUNDING).sum())
    assert worst < BATCH_ROUNDING / 2
    return worst, n_frames, n_near


@pytest.mark.parametrize("name", [*NAMES, PHASED])
@given(seed=st.integers(0, 2**20))
@settings(max_examples=2, deadline=None, derandomize=True)
def test_units_are_the_same_alone_and_in_a_batch(name, seed):
    check(tokenizer(name), draw(seed))


@pytest.mark.parametrize("name", [name for name in (*NAMES, PHASED) if name != "whisper"])
def test_what_a_gpu_does_for_many_clips_is_what_it_does_for_one(name):
    """Its way from samples to the first block, on a CPU; the distance is half of what near ties are looked for in."""
    encoder = tokenizer(name).encoder
    for seed in range(3):
        clips = [encoder._prepared(clip.samples) for clip in draw(seed)]
        with torch.inference_mode():
            together = encoder._first_block_inputs(clips)
            for clip, features in zip(clips, together, strict=True):
                [alone], plain = encoder._first_block_inputs([clip]), encoder._first_block_input(clip)[0]
                apart = [(features[: len(x)] - x).norm(dim=1) / x.norm(dim=1) for x in (alone, plain)]
                assert len(alone) == len(plain)
                assert apart[0].max() < BATCH_ROUNDING / 2
                assert apart[1].max() < 5 * BATCH_ROUNDING  # another way to the same


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, PHASED])
def test_units_are_the_same_in_500_draws(name, record_property):
    worst, frames, near = np.array([check(tokenizer(name), draw(seed)) for seed in range(500)]).T
    record_property("worst", worst.max())  # shown by --junit-xml
    record_property("near ties", near.sum() / frames.sum())


@pytest.mark.parametrize("name", ["hubert-base", pytest.param("mhubert-25hz", marks=pytest.mark.slow)])
@pytest.mark.thorough
def test_units_are_the_same_at_true_width(name):
    check(tokenizer(name, narrow=False, layers=2), draw(1, longest=0.5))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_units_are_the_same_at_true_size(name):
    layers = {"hubert-base": 9, "mhubert-25hz": 11}.get(name, 24 if "large" in name else 6 if name == "whisper" else 12)
    for seed in range(3):
        check(tokenizer(name, narrow=False, layers=layers), draw(seed, longest=4.0))
    _made.clear()


@pytest.mark.parametrize("name", ["hubert-base", "mhubert-25hz", "wavlm-base", "wav2vec2-base", "data2vec-audio"])
def test_padding_waves_the_usual_way_does_change_units(name):
    """What the property would catch: transformers' own padded batch, attention mask and all, fails it."""
    model, _ = stand_in(name)
    tok = tokenizer(name)
    clips = [Clip(sound(s, i), 16_000) for i, s in enumerate((2.0, 0.7))]
    waves = torch.zeros(2, 32_000)
    mask = torch.zeros(2, 32_000, dtype=torch.long)
    for i, clip in enumerate(clips):
        waves[i, : len(clip.samples)] = torch.from_numpy(clip.samples)
        mask[i, : len(clip.samples)] = 1
    with torch.inference_mode():
        padded = model(waves, attention_mask=mask, output_hidden_states=True).hidden_states[LAYERS][1]
    alone = tok.frames(clips[1])
    assert (tok.codebook.assign(padded[: len(alone)].numpy()) != alone).any()


def test_order_and_company_do_not_matter():
    tok = tokenizer("hubert-base")
    clips = [clip for seed in range(3) for clip in draw(seed)]
    once = {units.id: units.frames for units in tok.batch(clips)}
    for units in tok.batch(clips[::-1]) + tok.batch(clips[::2]) + tok.batch(clips[:1]):
        assert np.array_equal(units.frames, once[units.id])
    assert tok.batch([]) == []
    assert [units.id for units in tok.batch(iter(clips))] == [clip.id for clip in clips]


@pytest.mark.thorough
def test_a_batch_with_a_long_clip(monkeypatch):
    from twistlm.units import encoder as encoder_module

    monkeypatch.setattr(encoder_module, "WINDOW_SECONDS", 1)
    monkeypatch.setattr(encoder_module, "CONTEXT_SECONDS", 1)
    for name in ("hubert-base", "whisper", PHASED):
        tok = tokenizer(name)
        check(tok, [Clip(sound(s, i), 16_000, str(i)) for i, s in enumerate((0.5, 4.3, 1.1))])


def test_autocast_of_the_caller_moves_nothing_that_whisper_hears():
    tok, clip = tokenizer("whisper"), Clip(sound(0.5, 0), 16_000)
    plain = tok.features(clip)
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(tok.features(clip), plain)


def test_a_bad_clip_in_a_batch_is_named():
    tok = tokenizer("hubert-base")
    good = Clip(sound(0.5, 0), 16_000, "good")
    with pytest.raises(AudioError, match=r"'short'.*too short"):
        tok.batch([good, Clip(np.zeros(300, np.float32), 16_000, "short")])
    with pytest.raises(AudioError, match=r"'slow'.*8000 Hz"):
        tok.batch([good, Clip(np.zeros(8000, np.float32), 8000, "slow")])


@given(st.integers(0, 2**20))
@settings(max_examples=10, deadline=None)
def test_frames_that_are_not_near_a_tie_keep_their_unit(seed):
    rng = np.random.default_rng(seed)
    book = Codebook(rng.standard_normal((9, 6)).astype(np.float32))
    frames = rng.standard_normal((400, 6)).astype(np.float32)
    near = book.near_ties(frames, relative=0.02)
    assert 0 < near.sum() < len(frames)
    for _ in range(20):
        move = rng.standard_normal(frames.shape)
        move *= 0.02 * np.linalg.norm(frames, axis=1, keepdims=True) / np.linalg.norm(move, axis=1, keepdims=True)
        changed = book.assign((frames + move).astype(np.float32)) != book.assign(frames)
        assert not (changed & ~near).any()
    # And no more are marked than must be: the worst move, straight to the nearest border, does change those.
    to = book.centroids - book.centroids[book.assign(frames)][:, None]
    away = np.linalg.norm(to, axis=2)
    lead = ((frames[:, None] - book.centroids) ** 2).sum(2)
    lead = (lead - lead.min(1, keepdims=True)) / 2 / np.where(away > 0, away, np.inf)
    lead[np.arange(len(frames)), book.assign(frames)] = np.inf
    border = lead.min(1) / np.linalg.norm(frames, axis=1)
    assert np.array_equal(near[abs(border - 0.02) > 1e-4], (border < 0.02)[abs(border - 0.02) > 1e-4])


class Shaken:
    """An encoder of 2-D frames whose batches are off by half of BATCH_ROUNDING, towards the other unit."""

    sample_rate, hop, dim = 16_000, 1, 2

    def __init__(self) -> None:
        self.alone = 0

    def n_frames(self, n):
        return n

    def __call__(self, samples):
        self.alone += 1
        return np.stack([samples, np.ones_like(samples)], 1)

    def batch(self, clips):
        return [np.stack([s - BATCH_ROUNDING / 2, np.ones_like(s)], 1).astype(np.float32) for s in clips]


def test_a_near_tie_is_settled_alone():
    book = Codebook(np.array([[-1, 1], [1, 1]], np.float32))  # the border is where the first number is zero
    spec = UnitSpec(
        encoder="shaken", encoder_sha256="0", layer=1, tap="block_output", normalize_input=False, sample_rate=16_000,
        hop=1, n_units=2, centroids_sha256="0", deduplicate=False,
    )  # fmt: skip
    clips = [Clip(np.array(x, np.float32), 16_000) for x in ([0.5, -0.5], [0.5, BATCH_ROUNDING / 4], [-0.1, 0.1])]
    tok = SpeechTokenizer(Shaken(), book, spec)
    assert book.assign(tok.encoder.batch([clips[1].samples])[0]).tolist() == [1, 0]  # what the batch alone would say
    assert [u.ids.tolist() for u in tok.batch(clips)] == [[1, 0], [1, 1], [0, 1]]
    assert tok.encoder.alone == 1


@pytest.mark.parametrize("name", [*NAMES, PHASED])
@given(n=st.integers(1, 4000))
@settings(max_examples=12, deadline=None)
def test_n_frames_is_exact(name, n):
    encoder = tokenizer(name).encoder
    if encoder.n_frames(n):
        assert len(encoder(sound(n / 16_000, 0)[:n])) == encoder.n_frames(n)
    else:
        assert name in ARCHITECTURES or name == PHASED
        assert n < encoder.min_samples()


@given(seed=st.integers(0, 10_000), projected=st.booleans(), near=st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_codebook_on_a_device_settles_what_numpy_does(seed: int, projected: bool, near: bool) -> None:
    rng = np.random.default_rng(seed)
    book = Codebook(
        rng.standard_normal((12, 5 if projected else 8)).astype(np.float32),
        rng.standard_normal((8, 5)).astype(np.float32) if projected else None,
    )
    clips = [rng.standard_normal((n, 8)).astype(np.float32) for n in (7, 1, 30)]
    relative = 0.05 if near else 1e-5
    there = DeviceCodebook.of(book, torch.device("cpu"))
    found = there.settle([torch.from_numpy(clip) for clip in clips], relative=relative)
    for clip, settled in zip(clips, found, strict=True):
        ties = book.near_ties(clip, relative=relative)
        assert settled.tied == ties.any() and settled.bad == 0
        sure = ~book.near_ties(clip, relative=1e-6)
        assert settled.ids.dtype == np.uint16 and np.array_equal(settled.ids[sure], book.assign(clip)[sure])
    clips[2][3, 0] = np.nan
    assert [each.bad for each in there.settle([torch.from_numpy(c) for c in clips], relative=0.0)] == [0, 0, 1]


def test_units_found_on_a_device_are_those_found_in_numpy() -> None:
    """The way of a GPU, on a CPU: features stay tensors, and a clip with a near tie is encoded again, alone."""
    plain = tokenizer("hubert-base")
    there = dataclasses.replace(plain)
    vars(there)["_book"] = DeviceCodebook.of(plain.codebook, torch.device("cpu"))
    clips = draw(3)
    with mock.patch.object(on_gpu.DeviceCodebook, "settle", autospec=True, side_effect=_first_tied) as settle:
        found = there.batch(clips)
    assert settle.call_count == 2  # the batch, and the clip that was said to be tied
    for a, b, clip in zip(found, plain.batch(clips), clips, strict=True):
        assert np.array_equal(a.ids, b.ids) and np.array_equal(a.ids, there(clip).ids)


_settle = DeviceCodebook.settle


def _first_tied(self, clips, *, relative):
    first, *others = _settle(self, clips, relative=relative)
    return [dataclasses.replace(first, tied=True), *others]
