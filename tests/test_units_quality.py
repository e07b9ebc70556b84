"""How good units are: intervals, bits, the speaker probe, disturbances, and the verb that measures them all."""

from __future__ import annotations

import dataclasses
import json
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from standins import N_UNITS, Tiny, babble
from twistlm.audio import perturb
from twistlm.audio.clip import Clip
from twistlm.cli.main import main
from twistlm.corpus import manifest
from twistlm.corpus.manifest import Entry
from twistlm.errors import BadInput
from twistlm.jobs.unit_quality import unit_quality_of
from twistlm.units.features import MFCCEncoder
from twistlm.units.quality import agreement, unit_quality
from twistlm.units.quality.agreement import _measures, phone_unit_counts, pnmi_ratio
from twistlm.units.quality.leakage import speaker_leakage
from twistlm.units.quality.robustness import unchanged
from twistlm.units.quality.usage import usage


def speech(seed: int, clips: int = 30, *, noise: float = 0.3):
    """Units [F] and phones [F] of clips; a unit follows its frame's phone but for a share `noise`."""
    rng = np.random.default_rng(seed)
    units, phones = [], []
    for _ in range(clips):
        phone = rng.integers(0, 6, rng.integers(20, 60))
        unit = np.where(rng.random(len(phone)) < noise, rng.integers(0, 12, len(phone)), 2 * phone)
        units.append(unit.astype(np.uint16))
        phones.append(np.where(rng.random(len(phone)) < 0.1, "", np.char.add("p", phone.astype(str))))
    return units, phones


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_measures_of_resamples_equal_those_of_the_clips_strung_together(seed):
    units, phones = speech(seed, clips=5)
    picks = np.random.default_rng(seed).integers(0, 5, 5)
    strung = unit_quality(np.concatenate([units[i] for i in picks]), np.concatenate([phones[i] for i in picks]))
    names, counts = phone_unit_counts([units[i] for i in picks], [phones[i] for i in picks], n_units=14)
    phone, unit = (index.ravel() for index in np.indices(counts.shape))  # cells nobody met are there too
    (found,) = _measures(counts.reshape(1, -1).astype(float), phone, unit)
    assert found == pytest.approx([strung.pnmi, strung.phone_purity, strung.cluster_purity], abs=1e-9)
    assert counts.sum() == strung.frames and len(names) == len(set(np.concatenate([phones[i] for i in picks])) - {""})


def test_intervals_hold_the_estimate_and_cover_other_clips():
    units, phones = speech(0)
    found = agreement(units, phones, seed=0)
    assert found == agreement(units, phones, seed=0) and found.clips == tuple(range(30))
    assert found.quality == unit_quality(np.concatenate(units), np.concatenate(phones))
    assert 0 < found.pnmi_shuffled < 0.1 < found.quality.pnmi
    for value, (low, high) in (
        (found.quality.pnmi, found.pnmi_ci),
        (found.quality.phone_purity, found.phone_purity_ci),
        (found.quality.cluster_purity, found.cluster_purity_ci),
    ):
        assert low < value < high and high - low < 0.12
    others = [agreement(*speech(seed), seed=0, n=200) for seed in range(1, 41)]
    truth = float(np.mean([other.quality.pnmi for other in others]))
    covered = sum(other.pnmi_ci[0] <= truth <= other.pnmi_ci[1] for other in others)
    assert covered >= 34  # of 40; 38 are expected, and fewer than 34 come once in 50 times from a sound interval


def test_the_ratio_of_two_pnmis_is_paired_over_clips():
    units, phones = speech(0)
    phones[3] = np.full(len(phones[3]), "")  # a clip nobody aligned
    mine = agreement(units, phones, seed=0)
    assert mine.clips == (0, 1, 2, *range(4, 30))
    # Each frame twice is the same PNMI on every resample, whatever the number of frames.
    twice = agreement([np.repeat(u, 2) for u in units], [np.repeat(p, 2) for p in phones], seed=0)
    ratio, ci = pnmi_ratio(mine, twice)
    assert (ratio, *ci) == pytest.approx((1, 1, 1), abs=1e-12)
    # Coarser units of the same frames: resamples that are easy for one are for the other.
    coarse = agreement([np.minimum(u, 6).astype(np.uint16) for u in units], phones, seed=0)
    ratio, (low, high) = pnmi_ratio(mine, coarse)
    assert ratio == mine.quality.pnmi / coarse.quality.pnmi and 1 < low < ratio < high
    apart = mine.pnmi_resampled / np.random.default_rng(0).permutation(coarse.pnmi_resampled)
    assert high - low < 0.8 * np.subtract(*np.percentile(apart, [97.5, 2.5]))


def test_a_ratio_covers_that_of_other_clips():
    def ratio(seed):
        units, phones = speech(seed)
        rng = np.random.default_rng(seed + 1000)
        noisy = [np.where(rng.random(len(u)) < 0.2, 0, u).astype(np.uint16) for u in units]
        return pnmi_ratio(agreement(units, phones, seed=0, n=200), agreement(noisy, phones, seed=0, n=200))

    found = [ratio(seed) for seed in range(1, 41)]
    truth = float(np.mean([value for value, _ in found]))
    assert sum(low <= truth <= high for _, (low, high) in found) >= 34  # as above


def test_a_ratio_needs_the_same_clips_and_something_to_divide_by():
    units, phones = speech(0, clips=6)
    mine = agreement(units, phones, seed=0)
    with pytest.raises(BadInput, match="6 and 5 clips"):
        pnmi_ratio(mine, agreement(units[:5], phones[:5], seed=0))
    with pytest.raises(BadInput, match="tell nothing"):
        pnmi_ratio(mine, agreement([np.zeros_like(u) for u in units], phones, seed=0))
    one = agreement(units[:1], phones[:1], seed=0)
    assert np.isnan(pnmi_ratio(one, one)[1]).all()


def test_a_single_clip_has_no_interval_and_odd_lengths_are_refused():
    units, phones = speech(0, clips=1)
    assert np.isnan(agreement(units, phones, seed=0).pnmi_ci).all()
    with pytest.raises(BadInput, match="clip 0"):
        agreement([units[0][:-1]], phones, seed=0)
    with pytest.raises(BadInput, match="same clips"):
        agreement(units, [], seed=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=30), min_size=1, max_size=6))
def test_usage_equals_a_count_by_hand(clips):
    units = [np.array(clip, np.uint16) for clip in clips]
    found = usage(units, n_units=10, seconds=2.0)
    single = [u for clip in clips for i, u in enumerate(clip) if i == 0 or clip[i - 1] != u]
    every = [u for clip in clips for u in clip]
    bits = [float(entropy(np.bincount(symbols), base=2)) for symbols in (single, every)]
    assert found.units_per_second == len(single) / 2 and found.frames_per_second == len(every) / 2
    assert found.bits_per_second == pytest.approx(bits[0] * len(single) / 2)
    assert found.bits_per_second_frames == pytest.approx(bits[1] * len(every) / 2)
    assert found.used == len(set(every)) / 10 and found.perplexity == pytest.approx(2 ** bits[1])


def test_usage_refuses_what_cannot_be_counted():
    with pytest.raises(BadInput, match="nothing to count"):
        usage([], n_units=4, seconds=1.0)
    with pytest.raises(BadInput, match="another tokenizer"):
        usage([np.array([4], np.uint16)], n_units=4, seconds=1.0)


def test_the_probe_finds_speakers_that_differ_and_only_those():
    rng = np.random.default_rng(0)
    speakers = [f"s{i % 3}" for i in range(60)]
    told = [rng.choice(12, 80, p=np.roll([0.3] + [0.7 / 11] * 11, 3 * (i % 3))).astype(np.uint16) for i in range(60)]
    same = [rng.integers(0, 12, 80).astype(np.uint16) for _ in range(60)]
    found = speaker_leakage(told, speakers, n_units=12, seed=0)
    assert found.accuracy > 0.9 and found.chance == pytest.approx(1 / 3) and len(found.guesses) == 60
    assert np.mean([g == s for g, s in zip(found.guesses, speakers, strict=True)]) == found.accuracy
    assert speaker_leakage(same, speakers, n_units=12, seed=0).accuracy < 0.55
    with pytest.raises(BadInput, match=r"s2 \(4\)"):
        speaker_leakage(told[:14], speakers[:14], n_units=12, seed=0)
    with pytest.raises(BadInput, match="1 speaker"):
        speaker_leakage(told, ["s"] * 60, n_units=12, seed=0)


def decibels(ratio: float) -> float:
    return 10 * float(np.log10(ratio))


def test_disturbances_are_as_strong_as_they_say():
    clip = Clip(babble(2.0, seed=0), 16_000, "a")
    before = clip.samples.copy()
    power = np.mean(clip.samples**2)
    noisy = perturb.noise(clip, snr_db=10, seed=1)
    assert decibels(power / np.mean((noisy.samples - clip.samples) ** 2)) == pytest.approx(10, abs=0.2)
    assert decibels(np.mean(perturb.gain(clip, db=-12).samples ** 2) / power) == pytest.approx(-12, abs=1e-3)
    wet = perturb.room(clip, t60=0.3, drr_db=0, seed=1)
    assert decibels(np.mean(wet.samples**2) / power) == pytest.approx(0, abs=0.01)
    click = Clip(np.eye(1, 16_000, 100, dtype=np.float32)[0], 16_000)
    response = perturb.room(click, t60=0.3, drr_db=3, seed=1).samples.astype(float)
    assert np.abs(response).argmax() == 100 and np.abs(response[:100]).max() < 1e-12  # but for the FFT’s rounding
    assert decibels(response[100] ** 2 / np.sum(response[101:] ** 2)) == pytest.approx(3, abs=0.01)
    early, late = (np.sum(response[a : a + 800] ** 2) for a in (200, 200 + 2400))  # 0.15 s apart: half of T60
    assert decibels(early / late) == pytest.approx(30, abs=3)
    for made in (noisy, wet, perturb.codec(clip, form="opus")):
        assert made.samples.shape == clip.samples.shape and made.samples.dtype == np.float32
        assert (made.id, made.sample_rate) == ("a", 16_000)
    assert np.array_equal(clip.samples, before)
    assert np.array_equal(noisy.samples, perturb.noise(clip, snr_db=10, seed=1).samples)


@pytest.mark.parametrize("form", ["mp3", "vorbis", "opus"])
def test_a_codec_neither_moves_nor_ruins_the_sound(form):
    clip = Clip(babble(1.5, seed=3), 16_000, "a")
    decoded = perturb.codec(clip, form=form).samples
    shifts = [float(np.dot(np.roll(decoded, -k), clip.samples)) for k in range(-40, 41)]
    assert int(np.argmax(shifts)) == 40
    assert 0.8 < np.corrcoef(decoded, clip.samples)[0, 1] < 1


def test_what_a_disturbance_keeps_is_counted():
    clip = Clip(np.arange(8, dtype=np.float32), 16_000, "a")

    class Rounding:
        def frames(self, clip: Clip) -> np.ndarray:
            return np.floor(clip.samples).astype(np.uint16)

    seeds = []
    disturbances = {
        "nothing": lambda clip, seed: clip,
        "half": lambda clip, seed: seeds.append(seed) or dataclasses.replace(clip, samples=clip.samples * 1.2),
    }
    units = Rounding().frames(clip)
    assert unchanged(Rounding(), clip, units, disturbances=disturbances, seed=0) == {"nothing": 8, "half": 5}
    unchanged(Rounding(), dataclasses.replace(clip, id="b"), units, disturbances=disturbances, seed=0)
    unchanged(Rounding(), clip, units, disturbances=disturbances, seed=0)
    assert seeds[0] == seeds[2] != seeds[1]
    with pytest.raises(BadInput, match="'a'"):
        unchanged(Rounding(), clip, units[:-1], disturbances=disturbances, seed=0)


@pytest.fixture(scope="module")
def aligned(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phones of the first ten clips of both voices, a tenth of a second each, as a table."""
    rng = np.random.default_rng(0)
    rows = ["id,phone,start,end"]
    for voice in ("low", "high"):
        for i in range(10):
            rows += [f"{voice}/{i},p{rng.integers(0, 4)},{t / 10},{(t + 1) / 10}" for t in range(35)]
    path = tmp_path_factory.mktemp("aligned") / "phones.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def twist(capsys, monkeypatch, *args: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["twist", *map(str, args)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def test_twist_units_quality_measures_two_tokenizers(tiny: Tiny, aligned, tmp_path, capsys, monkeypatch):
    out = tmp_path / "q"
    verb = ["units", "quality", tiny.speech, "--alignment", aligned, "--tokenizer", tiny.tokenizer, "--seed", 0]
    code, said, err = twist(capsys, monkeypatch, *verb, "--against", "mfcc", "--robustness-clips", 2, "--out", out,
                            "--json")  # fmt: skip
    assert code == 0, err
    values = json.loads(said)
    assert values == json.loads((out / "quality.json").read_text())
    assert (values["speech"]["clips"], values["speech"]["clips_without_alignment"]) == (20, 4)
    mine, mfcc = values["tokenizers"]
    assert values["mfcc_fitted_on"] == str(tiny.speech)
    assert values["pnmi_ratio"]["value"] == pytest.approx(mine["pnmi"]["value"] / mfcc["pnmi"]["value"])
    assert values["pnmi_ratio"]["ci"][0] < values["pnmi_ratio"]["value"] < values["pnmi_ratio"]["ci"][1]
    assert "PNMI, times that of mfcc" in (out / "report.html").read_text()
    assert mfcc["tokenizer"] == "mfcc" and mfcc["spec"]["n_units"] == mine["spec"]["n_units"] == N_UNITS
    for tok in (mine, mfcc):
        assert 0 <= tok["pnmi"]["ci"][0] <= tok["pnmi"]["value"] <= tok["pnmi"]["ci"][1] <= 1
        assert tok["not_measured"] == {} and tok["usage"]["frames_per_second"] == pytest.approx(25, abs=0.5)
        assert tok["frames_with_phone"] == mine["frames_with_phone"] == np.sum(tok["phones"]["counts"])
        assert all(0 <= tok["robustness"][what]["value"] <= 1 for what in ("noise 0 dB", "room", "MP3"))
        assert 0.3 < tok["abx"]["units_across"]["value"] < 0.7  # phones that mean nothing
    assert mine["robustness"]["noise 20 dB"]["value"] >= mine["robustness"]["noise 0 dB"]["value"]

    rows = pq.read_table(out / "clips.parquet").to_pylist()
    assert len(rows) == 40 and sum(row["unchanged: MP3"] is not None for row in rows) == 4
    of_mine = [row for row in rows if row["tokenizer"] == str(tiny.tokenizer)]
    share = sum(row["frames_of_commonest_phone"] for row in of_mine) / sum(r["frames_with_phone"] for r in of_mine)
    assert share == pytest.approx(mine["phone_purity"]["value"])
    right = np.mean([row["speaker_guessed"] == row["speaker"] for row in of_mine])
    assert right == pytest.approx(mine["speaker_probe"]["value"])

    tags = Tags((out / "report.html").read_text())
    assert sum(tag == "svg" for tag, _ in tags.seen) == 8
    assert not [at for _, at in tags.seen for key in ("src", "href") if at.get(key, "data:").split(":")[0] != "data"]


@pytest.mark.thorough
def test_mfcc_may_be_fitted_on_other_speech(tiny: Tiny, aligned):
    def fitted_on(speech):
        return unit_quality_of(
            tiny.speech, aligned, tokenizer=tiny.tokenizer, against="mfcc", mfcc_speech=speech, seed=0,
            robustness_clips=0,
        )  # fmt: skip

    same, other = fitted_on(None), fitted_on(tiny.speech / "low")
    books = [values["tokenizers"][1]["spec"]["centroids_sha256"] for values in (same, other)]
    assert books[0] != books[1] and same["tokenizers"][0] == other["tokenizers"][0]
    assert other["mfcc_fitted_on"] == str(tiny.speech / "low")
    alone = unit_quality_of(tiny.speech, aligned, tokenizer=tiny.tokenizer, against=None, seed=0, robustness_clips=0)
    assert alone["pnmi_ratio"] is None and alone["mfcc_fitted_on"] is None


def test_one_phone_leaves_nothing_to_tell(tiny: Tiny, tmp_path, capsys, monkeypatch):
    path = tmp_path / "phones.csv"
    rows = ["id,phone,start,end", *(f"{voice}/{i},a,0,3" for voice in ("low", "high") for i in range(4))]
    path.write_text("\n".join(rows) + "\n")
    verb = ["units", "quality", tiny.speech, "--alignment", path, "--tokenizer", tiny.tokenizer, "--seed", 0]
    code, said, err = twist(capsys, monkeypatch, *verb, "--robustness-clips", 0, "--out", tmp_path / "q", "--json")
    assert code == 0, err
    (mine,) = json.loads(said)["tokenizers"]
    assert mine["pnmi"] is None is mine["pnmi_shuffled"] and "all frames have one phone" in mine["not_measured"]["pnmi"]
    assert mine["cluster_purity"]["value"] < 1 == mine["phone_purity"]["value"]
    assert "PNMI" in (tmp_path / "q" / "report.html").read_text()
    assert np.isnan(unit_quality(np.arange(3, dtype=np.uint16), np.array(["a"] * 3)).pnmi)


@pytest.mark.thorough
def test_the_order_of_a_manifest_changes_nothing(tiny: Tiny, aligned):
    def measured(entries):
        options = {"max_clips": 5, "robustness_clips": 2, "seed": 0, "against": None}
        return unit_quality_of(entries, aligned, tokenizer=tiny.tokenizer, **options)

    entries = manifest.load(tiny.speech)
    assert (
        measured(entries) == measured(entries[::-1]) == measured(tiny.speech) | {"speech": measured(entries)["speech"]}
    )


def test_twist_units_quality_says_what_one_speaker_cannot_tell(tiny: Tiny, aligned, capsys, monkeypatch):
    own = aligned.with_name("low.csv")
    own.write_text(aligned.read_text().replace("low/", "").replace("high/", "high-"))
    verb = ["units", "quality", tiny.speech / "low", "--alignment", own, "--tokenizer", tiny.tokenizer, "--seed", 0]
    code, said, err = twist(capsys, monkeypatch, *verb, "--robustness-clips", 0, "--max-clips", 6)
    assert code == 0, err
    words = " ".join(said.split())
    assert "PNMI" in words and "6 clips" in words
    assert "Not measured: abx across: ABX across speakers compares nothing" in words
    assert "Not measured: speaker probe" in words


@pytest.mark.thorough
def test_clips_of_nobody_are_not_clips_of_one_person(tiny: Tiny, aligned):
    entries = [e for e in manifest.load(tiny.speech) if e.id.split("/")[0] in ("low", "high")]
    nobody = [dataclasses.replace(e, speaker="") for e in entries]
    half = [*entries, *(dataclasses.replace(e, id=f"other/{e.id}") for e in nobody)]
    table = aligned.with_name("twice.csv")
    rows = aligned.read_text().splitlines()
    table.write_text("\n".join([*rows, *(f"other/{row}" for row in rows[1:])]) + "\n")

    def of(clips):
        found = unit_quality_of(clips, table, tokenizer=tiny.tokenizer, against=None, seed=0, robustness_clips=0)
        return found["speech"], found["tokenizers"][0]

    speech, none = of(nobody)
    assert speech["speakers"] == 0 and none["speaker_probe"] is None and none["abx"]["units_within"] is None
    assert "20 of 20 clips do not say who speaks" in none["not_measured"]["clips without speaker"]
    (_, named), (speech, mixed) = of(entries), of(half)
    assert speech["speakers"] == 2 and mixed["abx"] == named["abx"]
    assert mixed["speaker_probe"]["value"] == named["speaker_probe"]["value"]
    assert "clips without speaker" not in named["not_measured"]


@pytest.mark.parametrize(("hop", "receptive"), [(640, 880), (320, 880), (320, 400), (160, 400)])
def test_mfcc_frames_have_the_middles_of_the_encoder_s(hop: int, receptive: int):
    class Frames:
        sample_rate = 16_000

        def n_frames(self, n_samples):
            return max(0, (n_samples - receptive) // self.hop + 1)

    like = Frames()
    like.hop = hop
    sound = np.zeros(16_000, np.float32)
    middle = 10 * hop + receptive // 2
    sound[middle] = 1.0  # in the middle of frame 10: as much before it as behind
    energy = MFCCEncoder.centred(like, receptive=receptive)(sound)[:, 0]
    heard = np.flatnonzero(energy > energy.min() + 1e-3)
    assert heard.mean() == pytest.approx(10, abs=0.26) and 10 in heard


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tier": "phones"}, "only TextGrids have tiers"),
        ({"phone_set": "radio"}, "only JSON lines name the set"),
        ({"mfcc_speech": "somewhere"}, "needs mfcc to be set against"),
    ],
)
def test_choices_that_would_do_nothing_are_refused(tiny: Tiny, aligned, changed, said):
    with pytest.raises(BadInput, match=said):
        unit_quality_of(tiny.speech, aligned, tokenizer=tiny.tokenizer, against=None, seed=0, **changed)


def test_parts_of_a_file_are_measured_as_files_of_their_own(tiny: Tiny, aligned, tmp_path):
    paths = [tiny.speech / "low" / f"{i}.wav" for i in range(6)]
    sounds = [Clip.read(path, sample_rate=None) for path in paths]
    rate = sounds[0].sample_rate
    sf.write(tmp_path / "long.wav", np.concatenate([sound.samples for sound in sounds]), rate, subtype="FLOAT")
    ends = np.cumsum([len(sound.samples) for sound in sounds])
    whole = [Entry(id=f"low/{i}", path=path) for i, path in enumerate(paths)]
    parts = [
        Entry(
            id=f"low/{i}",
            path=tmp_path / "long.wav",
            start=float(end - len(sound.samples)) / rate,
            seconds=len(sound.samples) / rate,
        )
        for i, (end, sound) in enumerate(zip(ends, sounds, strict=True))
    ]
    apart, together = (
        unit_quality_of(entries, aligned, tokenizer=tiny.tokenizer, against=None, seed=0, robustness_clips=0)
        for entries in (whole, parts)
    )
    assert together["speech"]["seconds"] == pytest.approx(apart["speech"]["seconds"])
    assert together["tokenizers"][0]["pnmi"] == apart["tokenizers"][0]["pnmi"]
    assert together["tokenizers"][0]["usage"] == apart["tokenizers"][0]["usage"]


def test_twist_units_quality_refuses_phones_of_other_clips(tiny: Tiny, tmp_path, capsys, monkeypatch):
    table = tmp_path / "t.csv"
    table.write_text("id,phone,start,end\nnobody,a,0,1\n")
    verb = ["units", "quality", tiny.speech, "--tokenizer", tiny.tokenizer, "--seed", 0, "--alignment"]
    code, _, err = twist(capsys, monkeypatch, *verb, table)
    assert code == 2 and "must use the same ids" in " ".join(err.split())
    table.write_text("id,phone,start,end\nlow/0,a,0,60\n")
    code, _, err = twist(capsys, monkeypatch, *verb, table)
    assert code == 2 and "longer than their clips" in " ".join(err.split())
