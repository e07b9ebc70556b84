"""Intervals and differences of measures, against resampling row by row; likelihoods of pairs; judges of sound."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twistlm.errors import AudioError, BadInput
from twistlm.evaluate.generation import table
from twistlm.evaluate.generation.likelihood import accuracies, pair_scores, shared, window
from twistlm.evaluate.generation.mels import mel_power
from twistlm.evaluate.generation.speakers import louder
from twistlm.evaluate.generation.table import BY_NAME, Resamples
from twistlm.types import Pair, Units, UnitSpec

NAN = math.nan
SPEC = UnitSpec(
    encoder="e", encoder_sha256="0", layer=1, tap="block_output", normalize_input=False, sample_rate=16_000, hop=640,
    n_units=12, centroids_sha256="0", deduplicate=True,
)  # fmt: skip


def slow_mean(values, counts):
    """The mean of values, each as often as it was drawn; NaN ones are not there."""
    drawn = [v for v, n in zip(values, counts.astype(int), strict=True) for _ in range(n) if not math.isnan(v)]
    return sum(drawn) / len(drawn) if drawn else NAN


@settings(max_examples=20)
@given(st.integers(2, 6), st.integers(1, 3), st.integers(0, 99))
def test_intervals_equal_resampling_row_by_row(n_prompts, n_samples, seed):
    rng = np.random.default_rng(seed)
    draws = Resamples.draw(n_prompts, n_samples, seed=seed, n=40)
    assert (draws.counts.sum(axis=1) == n_prompts * n_samples).all()
    shape = (n_prompts, n_samples)
    columns = {"self_bleu": rng.random(shape), "auto_bleu_gslm": rng.random(shape), "loss": rng.random(shape) + 1}
    columns["loss"][0, 0] = NAN
    for name, of in (("vert", lambda s, a: 100 * math.sqrt(s * a)), ("gen_ppl_not_empty", math.exp)):
        measure = BY_NAME[name]
        slow = [of(*(slow_mean(columns[c].reshape(-1), counts) for c in measure.columns)) for counts in draws.counts]
        np.testing.assert_allclose(table.drawn_values(measure, columns, draws), slow, rtol=1e-9)
        found = table.with_interval(measure, columns, draws)
        finite = [x for x in slow if not math.isnan(x)] if found["n"] > 1 else [NAN]  # one says nothing of its spread
        np.testing.assert_allclose(found["ci"], np.percentile(finite, [2.5, 97.5]), rtol=1e-9)
        whole = of(*(float(np.nanmean(columns[c])) for c in measure.columns))
        assert found["value"] == pytest.approx(whole, rel=1e-9)
    assert math.isnan(table.with_interval(BY_NAME["gen_ppl"], columns, draws)["value"])
    if n_samples > 1:  # samples of a prompt are drawn with it, and again within it
        by_prompt = draws.counts.reshape(-1, n_prompts, n_samples).sum(axis=2)
        np.testing.assert_array_equal(by_prompt % n_samples, 0)


@settings(max_examples=20)
@given(st.integers(2, 7), st.integers(0, 99))
def test_differences_swap_whole_prompts(n, seed):
    rng = np.random.default_rng(seed)
    draws = Resamples.draw(n, 1, seed=seed, n=50)
    a, b = ({"loss": rng.random((n, 1)), "cont_bleu": rng.random((n, 1))} for _ in range(2))
    found = table.difference(BY_NAME["gen_ppl_not_empty"], a, b, draws)
    gap = math.exp(a["loss"].mean()) - math.exp(b["loss"].mean())
    assert found["mean"] == pytest.approx(gap, rel=1e-9)
    extreme = 0
    for flips in draws.flips:
        one, other = np.where(flips[:, None], b["loss"], a["loss"]), np.where(flips[:, None], a["loss"], b["loss"])
        extreme += abs(math.exp(one.mean()) - math.exp(other.mean())) >= abs(gap) * (1 - 1e-12)
    assert found["p"] == (extreme + 1) / 51
    medians = table.difference(BY_NAME["cont_bleu"], a, b, draws)
    assert medians["mean"] == pytest.approx(100 * (np.median(a["cont_bleu"]) - np.median(b["cont_bleu"])))
    same = table.difference(BY_NAME["gen_ppl_not_empty"], a, a, draws)
    assert (same["mean"], same["p"]) == (0.0, 1.0)


def test_prompts_of_which_one_system_lacks_a_value_count_for_neither():
    draws = Resamples.draw(3, 1, seed=0, n=30)
    a, b = {"words": np.array([[1.0], [NAN], [3.0]])}, {"words": np.array([[2.0], [50.0], [5.0]])}
    found = table.difference(BY_NAME["words"], a, b, draws)
    assert (found["mean"], found["n"]) == (-1.5, 2)
    with pytest.raises(BadInput, match="cannot be compared in pairs"):
        table.difference(BY_NAME["words"], a, {"words": np.ones((4, 1))}, draws)
    with pytest.raises(BadInput, match="no prompts of 2 samples"):
        table.columns_of([{"words": 1}] * 3, n_samples=2)


def units(ids: list[int], runs: list[int] | None = None) -> Units:
    return Units(np.array(ids, np.uint16), np.array(runs or [1] * len(ids), np.int32), SPEC)


def test_what_both_sides_share_and_the_next_half_second():
    one, other = units([1, 2, 3, 4], [3, 1, 10, 9]), units([1, 2, 5])
    assert shared(one, other) == 2 and shared(one, one) == 4
    assert window(one, 2, seconds=0.5) == 4  # the fourth unit begins 10 frames on, and 12.5 frames are 0.5 s
    assert window(one, 2, seconds=0.3) == 3 and window(one, 3, seconds=0.01) == 4


def test_local_and_normalised_likelihoods_equal_an_oracle(tiny):
    from twistlm.lm.score import score
    from twistlm.lm.warmstart import cold_start

    lm = cold_start(tiny.text_lm, SPEC, seed=0)
    clips = {"a": units([1, 2, 3, 4, 5], [1, 1, 9, 9, 1]), "b": units([1, 2, 6]), "c": units([7, 8])}
    pairs = [Pair(id="x", positive="a", negative="b"), Pair(id="y", positive="a", negative="c")]
    found = pair_scores(lm, clips, pairs)
    for k, (clip, end) in enumerate((("a", 4), ("b", 3))):
        ids = clips[clip].ids
        whole, rest = score(lm, [ids, ids[2:]], include_end=False)
        assert found["local"][0, k] == pytest.approx(whole.token_logprobs[2:end].mean(), abs=1e-5)
        assert found["after"][0, k] == pytest.approx(whole.token_logprobs[2:].mean(), abs=1e-5)
        slow = (whole.token_logprobs[2:].sum() - rest.sum_logprob) / len(rest.token_logprobs)
        assert found["normalised"][0, k] == pytest.approx(slow, abs=1e-5)
    assert np.isnan(found["local"][1]).all()  # nothing is shared
    told = accuracies(found, pairs, {"x": "x", "y": "y"}, seed=0)
    assert told["local"]["n"] == 1 and told["local"]["n_without"] == 1
    assert told["local"]["accuracy"] == float(found["local"][0, 0] > found["local"][0, 1])


def test_mel_bands_of_a_tone_are_where_it_is():
    t = np.arange(16_000) / 16_000
    mels = mel_power(np.sin(2 * np.pi * 1000 * t).astype(np.float32), n_fft=400, hop=160, n_mels=40, rate=16_000)
    assert mels.shape == (101, 40)
    # Slaney's scale: 15 mels at 1 kHz of 45.25 at 8 kHz, in 41 steps
    assert abs(int(mels[50].argmax()) - (15 / 45.2455 * 41 - 1)) <= 1


def test_quiet_clips_are_raised_and_silence_stays():
    quiet = np.full(100, 1e-3, np.float32)
    assert 10 * np.log10(np.mean(louder(quiet) ** 2)) == pytest.approx(-30, abs=1e-4)
    loud = np.full(100, 0.5, np.float32)
    assert louder(loud) is loud
    assert not louder(np.zeros(100, np.float32)).any()


@pytest.mark.network
def test_judges_of_sound_give_what_their_own_packages_gave():
    """Golden: speechmos 0.0.1.1, distillmos 0.9.1 and Resemblyzer 0.1.4 themselves, on this clip."""
    from twistlm.audio.clip import Clip
    from twistlm.evaluate.generation.prompts import load, mini_prompts
    from twistlm.evaluate.generation.quality import DistillMos, DnsMos
    from twistlm.evaluate.generation.speakers import VoiceEncoder

    [prompt] = [p for p in mini_prompts().prompts if p.id == "speech/heldout_voice-rms-0056"]
    clip = load(prompt, sample_rate=16_000)
    found = DnsMos.load(p835=True)(clip)
    golden = {"ovrl": 3.231476825509564, "sig": 3.4594213935155675, "bak": 4.113414940375736, "p808": 3.582752466}
    assert found == pytest.approx({f"dnsmos_{name}": value for name, value in golden.items()}, abs=1e-4)
    judge = DistillMos.load()
    assert judge.judge(clip)["distillmos"] == pytest.approx(3.6841676235, abs=1e-4)
    short = Clip(clip.samples[:40_000], 16_000)
    assert judge.judge(short)["distillmos"] == pytest.approx(2.4536819458, abs=1e-4)
    with pytest.raises(AudioError, match="no samples"):
        judge.judge(Clip(np.zeros(0, np.float32), 16_000))
    voices = VoiceEncoder.load()
    one, other = voices.embed(clip), voices.embed(short)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5) and float(one @ other) > 0.8


@pytest.mark.network
def test_the_text_embedder_finds_likeness():
    from twistlm.evaluate.generation.embedding import open_embedder, similarities

    found = open_embedder("wordllama-256")(
        ["the dog sat on the mat", "a cat lay on a rug", "the senate passed a bill", ""]
    )
    near, far, none = (similarities(found[:1], found[i : i + 1])[0] for i in (1, 2, 3))
    assert near > 0.2 > far and math.isnan(none)


def test_voices_are_told_apart_by_any_x_vectors_of_transformers(tmp_path):
    import torch
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    from twistlm.audio.clip import Clip
    from twistlm.errors import ArtifactError
    from twistlm.evaluate.generation.speakers import open_voices

    config = WavLMConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8, 8],
        conv_kernel=[40, 32], conv_stride=[20, 16], num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, tdnn_dim=[8, 8], tdnn_kernel=[3, 1], tdnn_dilation=[1, 1],
        xvector_output_dim=8, do_stable_layer_norm=False, use_weighted_layer_sum=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        WavLMForXVector(config).save_pretrained(tmp_path / "sv")
    Wav2Vec2FeatureExtractor(sampling_rate=16_000).save_pretrained(tmp_path / "sv")
    voices, identity = open_voices(str(tmp_path / "sv"))
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    found = voices.embed(Clip(noise, 16_000))
    assert found.shape == (8,) and np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(found, voices.embed(Clip(noise, 16_000)))
    assert identity.startswith(str(tmp_path / "sv"))
    with pytest.raises(AudioError, match="no samples"):
        voices.embed(Clip(np.zeros(0, np.float32), 16_000))
    with pytest.raises(ArtifactError, match=r"the voice encoder .*none cannot be had"):
        open_voices(str(tmp_path / "none"))


def test_a_ctc_recogniser_of_transformers_listens(tmp_path):
    import json

    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    from twistlm.audio.clip import Clip
    from twistlm.errors import ArtifactError
    from twistlm.evaluate.generation.hearing import open_listener

    folder = tmp_path / "ctc"
    config = Wav2Vec2Config(
        vocab_size=6, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8, 8],
        conv_kernel=[40, 32], conv_stride=[20, 16], num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, feat_extract_norm="group",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Wav2Vec2ForCTC(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "A": 3, "B": 4, "C": 5}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), bos_token=None, eos_token=None).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=16_000).save_pretrained(folder)
    listener, identity = open_listener(str(folder), language="en", workers=1)
    noise = np.random.default_rng(0).standard_normal(24_000).astype(np.float32) * 0.1
    heard = listener.transcribe(Clip(noise, 24_000))  # another rate than its own
    assert set(heard) <= set("ABC <unk>") and heard == listener.transcribe(Clip(noise, 24_000))
    assert "greedy CTC" in identity
    with pytest.raises(ArtifactError, match=r"the recogniser .*none cannot be had.*whisper-tiny\.en works"):
        open_listener(str(tmp_path / "none"), language="en", workers=1)
