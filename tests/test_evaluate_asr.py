"""Word error rate and its normalisation; the real recogniser is opt-in (it is fetched from the package registry)."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twistlm.audio.clip import Clip
from twistlm.errors import ArtifactError, BadInput
from twistlm.evaluate.asr import Whisper, wer
from twistlm.evaluate.words import normalize

words = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "it's"]), min_size=1, max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (" And, it CAME to pass—when men... ", "and it came to pass when men"),
        ("Don’t! 'tis the ship's", "dont tis the ships"),
        ("twenty-one / 21", "twenty one 21"),
        ("naïve_café", "naïvecafé"),
        ("हिन्दी में, ´ x\u0303!\u0303 İzmir", "हिन्दी में x\u0303 izmir"),  # marks of letters stay, others go
        ("1\ufe0f\u20e3 \u0dc1\u0dca\u200d\u0dbb\u0dd3", "1 \u0dc1\u0dca\u0dbb\u0dd3"),  # a keycap; a joiner
        ("?!", ""),
    ],
)
def test_normalisation(text, normal):
    assert normalize(text) == normal
    assert normalize(normal) == normal


def test_errors_are_pooled_over_words_not_averaged_over_clips():
    found = wer(["one two three four", "five"], ["One, two tree four!", "six five"])
    assert found.value == pytest.approx(2 / 5)  # a substitution and an insertion
    assert found.n == 2 and found.ci[0] <= found.value <= found.ci[1]


def edits(a, b):
    """Edit distance by the textbook table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(words, st.one_of(words, st.just(""))), min_size=1, max_size=4))
def test_equals_the_textbook_edit_distance(clips):
    refs, hyps = zip(*clips, strict=True)
    errors = sum(edits(normalize(r).split(), normalize(h).split()) for r, h in clips)
    assert wer(refs, hyps).value == pytest.approx(errors / sum(len(r.split()) for r in refs))


def test_an_empty_transcript_is_all_deletions():
    assert wer(["one two", "three"], ["", " ... "]).value == 1.0


def test_unusable_input_is_named():
    with pytest.raises(BadInput, match="2 references and 1 hyp"):
        wer(["a", "b"], ["a"])
    with pytest.raises(BadInput, match="at least 1"):
        wer([], [])
    with pytest.raises(BadInput, match="number 1"):
        wer(["a", "?"], ["a", "b"])


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match="cannot be read as a CTranslate2"):
        Whisper.load(str(tmp_path))


def test_loading_leaves_torch_its_threads(tmp_path, monkeypatch):
    faster_whisper = pytest.importorskip("faster_whisper")
    monkeypatch.setattr(
        faster_whisper, "WhisperModel", lambda *_, **__: torch.set_num_threads(1)
    )  # as CTranslate2 does
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        Whisper.load(str(tmp_path))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


class Recorder:
    """Stands in for the network: notes what it was asked and says what it was given."""

    @dataclasses.dataclass
    class Segment:
        text: str

    def transcribe(self, samples, **settings):
        self.samples, self.settings = samples, settings
        return iter([self.Segment(" And it"), self.Segment(" came. ")]), None


def test_settings_leave_nothing_to_chance_and_drop_nothing():
    model = Recorder()
    clip = Clip(np.zeros(24_000, np.float32), 48_000, "c")
    assert Whisper(model, "fake").transcribe(clip) == "And it came."
    assert len(model.samples) == 8000 and model.samples.dtype == np.float32  # heard at 16 kHz
    asked = model.settings
    assert asked["temperature"] == 0.0 and not asked["condition_on_previous_text"] and not asked["vad_filter"]
    assert asked["no_speech_threshold"] is asked["log_prob_threshold"] is asked["compression_ratio_threshold"] is None
    assert Whisper(model, "fake").transcribe(Clip(np.zeros(0, np.float32), 16_000)) == ""


@pytest.mark.slow
@pytest.mark.network
def test_real_whisper_is_deterministic_and_hears_nothing_much_in_noise():
    whisper = Whisper.load()
    noise = Clip(np.random.default_rng(0).normal(0, 0.01, 32_000).astype(np.float32), 16_000, "noise")
    first = whisper.transcribe(noise)
    assert first == whisper.transcribe(noise) and len(first.split()) < 10
