"""A planned study: balanced, at one loudness, without names, whole."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from listen_standins import RATE, SYSTEMS, make_samples, request
from test_cli import twist  # noqa: F401  a fixture
from twistlm.audio.clip import Clip, read
from twistlm.errors import AudioError, BadInput
from twistlm.files.jsonl import read_objects
from twistlm.listen import controls
from twistlm.listen.loudness import Level, common_level, measure
from twistlm.listen.plan import plan
from twistlm.listen.samples import find_samples
from twistlm.listen.study import key, open_study
from twistlm.listen.texts import SECTIONS, copy_texts, known_languages, read_texts
from twistlm.listen.wave import size_of, wav


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    root = tmp_path_factory.mktemp("samples")
    return find_samples(make_samples(root, SYSTEMS, items=16))


@pytest.fixture(scope="module")
def planned(samples, tmp_path_factory):
    out = tmp_path_factory.mktemp("studies") / "mos"
    return out, plan(samples, out, request())


def test_every_rater_hears_every_system_equally_often_and_no_text_twice(planned):
    folder, facts = planned
    study = open_study(folder, whole=True)
    assert facts["systems"] == ["warm", "cold", "truth", "floor"] and len(study.places) == facts["raters"] == 9
    rated = Counter()
    for trials in study.places:
        assert [t.kind for t in trials[:3]] == ["training"] * 3
        assert Counter(t.kind for t in trials) == {"training": 3, "rating": 8, "gold": 2, "trap": 2}
        assert Counter(t.systems[0] for t in trials if t.kind == "rating") == dict.fromkeys(facts["systems"], 2)
        assert len({t.item for t in trials}) == len(trials)  # checks and practice have texts of their own
        rated.update((t.systems[0], t.item) for t in trials if t.kind == "rating")
        assert trials[0].systems == ("truth",) and trials[2].systems == ("floor",)
    assert set(rated.values()) == {2} and len(rated) == 4 * len(facts["items"])


def test_gold_and_traps_have_answers_and_traps_a_voice_in_each_language(planned):
    study = open_study(planned[0])
    checks = [t for t in study.places[0] if t.kind in ("gold", "trap")]
    assert sorted(t.expected for t in checks) == [(1, 2), (1, 2), (2,), (4,)]
    for trial in (t for t in checks if t.kind == "trap"):
        assert set(trial.spoken) == {"en", "de"} and trial.clips_in("de") != trial.clips_in("en")
    assert {t.systems for t in checks if t.kind == "gold"} == {("floor",)}


def test_nothing_about_a_file_tells_its_system(planned):
    folder, _ = planned
    files = sorted((folder / "clips").iterdir())
    assert len({f.stat().st_size for f in files}) == 1
    assert all(re.fullmatch(r"[0-9a-f]{16}\.wav", f.name) for f in files)
    infos = {(i.samplerate, i.channels, i.subtype, i.format) for i in map(soundfile.info, files)}
    assert infos == {(RATE, 1, "PCM_16", "WAV")}
    for f in files[:3]:
        assert not any(name.encode() in f.read_bytes() for name in (*SYSTEMS, "floor", "text-"))


def test_all_clips_have_one_loudness_and_none_is_clipped(planned):
    folder, facts = planned
    for row in key(folder):
        clip = read(folder / "clips" / f"{row['clip']}.wav", sample_rate=None)
        assert clip.seconds == pytest.approx(row["seconds"], abs=1e-3)
        level = measure(clip)
        assert level.lufs == pytest.approx(facts["lufs"], abs=0.1) and level.peak < 0.9


def test_a_study_is_the_same_again_and_another_one_is_refused(samples, planned, tmp_path):
    folder, _ = planned
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert plan(samples, folder, request())["written"] is False
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    with pytest.raises(BadInput, match=r"another study; what differs: .*seed"):
        plan(samples, folder, request(seed=4))
    plan(samples, tmp_path / "again", request())
    files = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    differ = {str(n) for n in files if (folder / n).read_bytes() != (tmp_path / "again" / n).read_bytes()}
    assert differ == {"owner-token", "invitations.csv"}
    assert (folder / "owner-token").stat().st_mode & 0o077 == 0 == folder.stat().st_mode & 0o077


def test_a_changed_clip_is_noticed(samples, tmp_path):
    plan(samples, tmp_path / "s", request(languages=("en",)))
    clip = next((tmp_path / "s" / "clips").iterdir())
    clip.write_bytes(clip.read_bytes()[:-2] + b"xx")
    (tmp_path / "s" / "texts" / "en.md").open("a").write("more")  # texts may be edited
    with pytest.raises(BadInput, match=f"changed since it was planned: clips/{clip.name}"):
        open_study(tmp_path / "s", whole=True)


def test_comparisons_play_each_system_first_equally_often(samples, tmp_path):
    facts = plan(samples, tmp_path / "ab", request(design="ab", ratings_per_clip=2, headphones=False, hearing=False))
    study = open_study(tmp_path / "ab")
    sides = Counter((t.systems, t.item) for trials in study.places for t in trials if t.kind == "rating")
    assert set(sides.values()) == {1} and len(sides) == 2 * 3 * len(facts["items"])
    golds = [t for t in study.places[0] if t.kind == "gold"]
    assert {(t.systems, t.expected) for t in golds} == {(("truth", "floor"), (1,)), (("floor", "truth"), (2,))}
    traps = [t for t in study.places[0] if t.kind == "trap"]
    assert sorted(t.expected for t in traps) == [(1,), (2,)] and study.checks == () and study.answers == (1, 2, 0)


def test_prompts_come_before_what_continues_them(samples, tmp_path):
    make_samples(tmp_path, {"prompts": 120.0}, items=16, seconds=0.5)
    wanted = request(
        languages=("en",), pause=0.25, training=0, traps=0, gold=0, clips_per_system=12, ratings_per_clip=1
    )
    plan(samples, tmp_path / "s", wanted, prompts=tmp_path / "prompts")
    rows = {(row["system"], row["item"]): row for row in key(tmp_path / "s")}
    row = rows["warm", "text-03"]
    prompt, own = read(tmp_path / "prompts" / "text-03.wav"), read(samples.paths["warm", "text-03"])
    assert row["seconds"] == pytest.approx(prompt.seconds + 0.25 + own.seconds, abs=1e-3)
    clip = read(tmp_path / "s" / "clips" / f"{row['clip']}.wav")
    assert not clip.samples[len(prompt.samples) : len(prompt.samples) + RATE // 4].any()


def test_natural_recordings_make_gold_clips_that_are_best(samples, tmp_path):
    make_samples(tmp_path, {"natural": 200.0}, items=16)
    plan(samples, tmp_path / "s", request(), natural=tmp_path / "natural")
    golds = {(t.systems, t.expected) for t in open_study(tmp_path / "s").places[0] if t.kind == "gold"}
    assert golds == {(("natural",), (4, 5)), (("floor",), (1, 2))}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"truth": "nobody"}, "no system 'nobody'"),
        ({"truth": ""}, "made of the truth"),
        ({"floor": "cellar"}, "no floor 'cellar'"),
        ({"clips_per_system": 10}, "16 items are too few: 7 are kept"),
        ({"clips_per_system": 40}, "more than anybody rates"),
        ({"question": "beauty"}, "no question 'beauty'"),
        ({"languages": ("en", "xx")}, "no texts in xx"),
        ({"floor": "none", "gold": 1}, "gold clips have an answer"),
        ({"sample_rate": 100}, "sample rate must be"),
        ({"lufs": -40.0}, "loudness must be"),
        ({"design": "ab", "pairs": (("warm", "cold"), ("cold", "warm"))}, "named once"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(samples, tmp_path, changed, said):
    with pytest.raises(BadInput, match=said):
        plan(samples, tmp_path / "s", request(**changed))
    assert not (tmp_path / "s").exists()


def test_samples_must_be_complete(tmp_path):
    given = make_samples(tmp_path, {"a": 100.0, "b": 120.0}, items=3)
    (tmp_path / "b" / "text-01.wav").unlink()
    with pytest.raises(BadInput, match="no text-01 of b"):
        find_samples(given)
    with pytest.raises(BadInput, match="two systems are called 'a'"):
        find_samples([given[0], given[0]])


def test_silent_and_short_clips_are_refused(tmp_path):
    with pytest.raises(AudioError, match="silent"):
        measure(Clip(np.zeros(RATE, np.float32), RATE, id="x"))
    with pytest.raises(AudioError, match="too short"):
        measure(Clip(np.ones(1000, np.float32), RATE, id="x"))


def test_loudness_is_that_of_a_sine_and_peaks_lower_all():
    rate = 48_000
    sine = (10 ** (-20 / 20) * np.sin(2 * np.pi * 997 * np.arange(5 * rate) / rate)).astype(np.float32)
    assert measure(Clip(sine, rate, id="x")).lufs == pytest.approx(-23.0, abs=0.1)  # EBU Tech 3341
    levels = {"a": Level(-20.0, 0.5), "b": Level(-30.0, 1.0)}
    assert common_level({"a": levels["a"]}, target=-24.0) == -24.0
    assert common_level(levels, target=-24.0) == pytest.approx(-31.0)
    with pytest.raises(BadInput, match="c: clicks"):
        common_level(levels | {"c": Level(-40.0, 1.0)}, target=-24.0)


def test_a_padded_wav_plays_what_was_put_in(tmp_path):
    rng = np.random.default_rng(0)
    for shape in ((801,), (800, 2)):
        samples = rng.uniform(-1.2, 1.2, shape)
        data = wav(samples, 24_000, size=9_000)
        (tmp_path / "a.wav").write_bytes(data)
        found, rate = soundfile.read(tmp_path / "a.wav", dtype="float64")
        assert len(data) == 9_000 and rate == 24_000
        assert np.abs(found - np.clip(samples, -1, 1)).max() < 1e-4
    assert len(wav(np.zeros(10), 8000, size=size_of(10, 1))) == size_of(10, 1)
    with pytest.raises(ValueError, match="do not fit"):
        wav(np.zeros(100), 8000, size=100)


def test_the_floors_keep_the_voice_and_lose_what_is_asked_for(samples):
    clip, rng = read(samples.paths["truth", "text-09"]), np.random.default_rng(0)
    noisy = controls.modulated_noise(clip, q=5.0, rng=rng)
    ratio = np.sum(clip.samples**2) / np.sum((noisy.samples - clip.samples) ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(5.0, abs=0.3)
    mixed = controls.shuffled(clip, rng=rng)
    assert len(mixed.samples) == len(clip.samples) and np.corrcoef(mixed.samples, clip.samples)[0, 1] < 0.9


def test_the_tone_of_the_headphone_check_is_only_between_the_ears():
    rate, n = 24_000, 24_000 + 9_600
    for where in range(3):
        sound = controls.huggins(where, sample_rate=rate, rng=np.random.default_rng(where))
        for interval in range(3):
            left, right = sound[interval * n : interval * n + rate].T
            assert np.array_equal(left, right) == (interval != where)
            band = np.abs(np.fft.rfft(left))[564:636].mean() / np.abs(np.fft.rfft(right))[564:636].mean()
            assert band == pytest.approx(1.0, abs=0.15)  # neither ear alone has it


def test_texts_are_there_in_every_language_and_html_in_them_is_only_shown(tmp_path):
    assert known_languages() == ["en", "de"]
    copy_texts(tmp_path / "t", languages=["en", "de"], question="naturalness", design="mos")
    for code in ("en", "de"):
        with (tmp_path / "t" / f"{code}.md").open("a") as file:
            file.write("\n<script>alert(1)</script> {clips} {what}\n")
        texts = read_texts(tmp_path / "t", code, clips=42, minutes=9.6, design="mos")
        assert set(texts.sections) == set(SECTIONS) and len(texts.labels) == 5
        assert "42" in texts.sections["consent"] and texts.ask in texts.sections["instructions"]
        assert "<script" not in texts.sections["full"] and "42 {what}" in texts.sections["full"]
    (tmp_path / "t" / "en.md").write_text("nothing")
    with pytest.raises(BadInput, match="no section consent"):
        read_texts(tmp_path / "t", "en", clips=1, minutes=1, design="mos")


def test_the_verb_plans_and_says_what(tmp_path, twist):  # noqa: F811
    given = make_samples(tmp_path, {"warm": 100.0, "truth": 180.0}, items=12)
    command = ["listen", "plan", *given, "--out", tmp_path / "s", "--design", "mos", "--question", "naturalness"]
    command += ["--clips", 2, "--ratings", 4, "--truth", "truth", "--floor", "noise", "--json"]
    facts = twist(*command).json
    assert facts["raters"] == 10 and facts["written"] and facts["systems"] == ["warm", "truth", "floor"]
    rows = [row for _, row in read_objects(Path(tmp_path / "s" / "trials.jsonl"), "trials")]
    assert len(rows) == 10
    twist(*command[:-1], "--seed", 9).refused("another study")
