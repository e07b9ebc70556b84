"""From prompts to numbers with stand-ins that compute for real: what is kept, what is equal, what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from standins import Tiny, babble
from twistlm.audio.clip import Clip
from twistlm.compute import products
from twistlm.corpus.manifest import Entry
from twistlm.errors import ArtifactError, AudioError, BadInput, TwistError
from twistlm.evaluate.generation import hearing, measuring, prompts, reading, texts
from twistlm.evaluate.generation.continuing import cut_to, derangement, prompt_length, seed_of, speak
from twistlm.evaluate.generation.journal import Journal
from twistlm.evaluate.generation.measuring import Model, read_all, results, speak_all
from twistlm.evaluate.generation.protocols import OURS, PROTOCOLS, Protocol
from twistlm.evaluate.generation.reading import TextLM, win_rates
from twistlm.evaluate.generation.speaking import Ears, Session, digests_of
from twistlm.evaluate.generation.store import slug, write_results, write_rows
from twistlm.evaluate.generation.table import MEASURES, Resamples
from twistlm.evaluate.generation.texts import other_prompts
from twistlm.files.jsonl import without_nan
from twistlm.files.locks import held
from twistlm.jobs import generation as job
from twistlm.pages.generation import write_page
from twistlm.vocoder.voices import Voice

WORDS = ("the", "cat", "sat", "on", "a", "mat")


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    """Of 10,000 and 1,000: what is tested here is the same with fewer."""
    monkeypatch.setitem(Resamples.draw.__func__.__kwdefaults__, "n", 500)
    monkeypatch.setattr(measuring, "_CURVE_RESAMPLES", 100)


class Ear:
    """Hears words that follow from the samples."""

    name = "ear"

    def __init__(self, words: tuple[int, int] = (0, 7)) -> None:
        self.heard, self.words = 0, words

    def transcribe(self, clip: Clip) -> str:
        self.heard += 1
        rng = np.random.default_rng(zlib.crc32(clip.samples.tobytes()))
        return " ".join(rng.choice(WORDS, size=int(rng.integers(*self.words))).tolist())


class Sparse(Ear):
    """Hears nothing every other time."""

    def transcribe(self, clip: Clip) -> str:
        with self.lock:
            self.heard += 1
            return "" if self.heard % 2 else "the cat sat on"

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Letters:
    """Places texts by how often each word stands in them."""

    name = "letters"

    def __call__(self, texts):
        counts = np.array([[text.split().count(word) for word in WORDS] for text in texts], dtype=np.float32)
        lengths = np.linalg.norm(counts, axis=1, keepdims=True)
        return np.divide(counts, lengths, out=np.zeros_like(counts), where=lengths > 0)


@pytest.fixture(scope="module")
def text_lm(tiny: Tiny, tmp_path_factory) -> TextLM:
    import shutil

    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("lm") / "text"
    shutil.copytree(tiny.text_lm, folder)
    vocabulary = {word: i for i, word in enumerate(("<s>", "</s>", "?", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="?")
    made.save_pretrained(folder)
    return TextLM.load(str(folder))


@pytest.fixture(scope="module")
def parts(tiny: Tiny):
    from twistlm.lm.warmstart import cold_start
    from twistlm.units.tokenizer import SpeechTokenizer
    from twistlm.vocoder.vocoder import Vocoder

    tok, voc = SpeechTokenizer.load(tiny.tokenizer), Vocoder.load(tiny.vocoder)
    return tok, voc, [cold_start(tiny.text_lm, tok.spec, seed=seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> prompts.PromptSuite:
    folder = tmp_path_factory.mktemp("prompts")
    for i in range(5):
        soundfile.write(folder / f"{i}.wav", babble(2.0 + 0.3 * i, seed=40 + i), 16_000)
    entries = [Entry(id=f"p{i}", path=folder / f"{i}.wav", text="the cat sat", split="test") for i in range(5)]
    return prompts.from_entries(entries, name="five")


SHORT = OURS.changed(prompt_seconds=1.0, longer_than=1.5, seconds=1.0, truth_seconds=1.0, silence="none", samples=2)


def loudness(clip: Clip) -> dict[str, float]:
    return {"distillmos": float(np.abs(clip.samples).max())}


def session(parts, suite, out: Path, protocol: Protocol = SHORT, ear: Ear | None = None) -> Session:
    tok, voc, _ = parts
    ears = Ears(
        tok=tok, voc=voc, listener=ear or Ear(), judges=(loudness,), voices=None, facts={"asr": "ear", "vocoder": "v"}
    )  # fmt: skip
    digests = digests_of(suite, protocol, sample_rate=16_000)
    return Session(protocol=protocol, suite=suite, digests=digests, ears=ears, out=out, seed=0, progress=False)


def models(parts, loads: list[int]) -> list[Model]:
    def load(i: int):
        loads.append(i)
        return parts[2][i]

    return [
        Model(name=name, folder=name, sha256=str(i), load=lambda i=i: load(i))
        for i, name in enumerate(("warm", "cold"))
    ]


def measured(one: Session, parts, text_lm: TextLM, loads: list[int], temperatures=(1.0,)):
    heard, systems = speak_all(one, models(parts, loads), temperatures)
    systems, corpora = read_all(one, heard, systems, lm=lambda: text_lm, lm_identity="lm", embedder=Letters())
    return results(one, systems, corpora, facts={"read_by": "lm"}), systems


def test_a_run_that_was_stopped_goes_on_and_gives_the_same_numbers(parts, suite, text_lm, tmp_path):
    ear, loads = Ear(), list[int]()
    whole, systems = measured(session(parts, suite, tmp_path / "a", ear=ear), parts, text_lm, loads)
    assert [s.name for s in systems] == ["recordings", "resynthesis", "shuffled", "warm", "cold", "shuffled words"]
    n = 5 + 5 + 5 + 2 * 5 * 2  # prompts, recordings, resynthesis, two models with two samples each
    assert ear.heard == n and loads == [0, 1]

    again, loads = Ear(), list[int]()
    rerun, _ = measured(session(parts, suite, tmp_path / "a", ear=again), parts, text_lm, loads)
    assert json.dumps(rerun) == json.dumps(whole)
    assert again.heard == 0 and loads == []  # a rerun adds nothing

    journals = sorted((tmp_path / "a" / "parts").glob("*.jsonl"))
    for journal in journals:  # as kill -9 leaves them: some lines less, the last one torn
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[: len(lines) // 2]) + lines[-1][:20])
    once_more, _ = measured(session(parts, suite, tmp_path / "a"), parts, text_lm, [])
    assert json.dumps(once_more) == json.dumps(whole)


def test_results_rows_and_page_hold_what_was_measured(parts, suite, text_lm, tmp_path):
    values, systems = measured(session(parts, suite, tmp_path, ear=Sparse()), parts, text_lm, [])
    write_results(values, tmp_path / "ours.json")
    write_rows(systems, tmp_path / "ours.parquet", facts={"protocol": SHORT.facts()})
    rows = pq.read_table(tmp_path / "ours.parquet").to_pylist()
    warm = [row for row in rows if row["system"] == "warm"]
    for name in ("recordings", "shuffled", "shuffled words"):
        assert [row["prompt"] for row in rows if row["system"] == name] == [f"p{i}" for i in range(5)]
    true, dealt = ([row for row in rows if row["system"] == name] for name in ("resynthesis", "shuffled"))
    others = derangement(5, seed=0)
    assert [row["text"] for row in dealt] == [true[j]["text"] for j in others]
    assert not any(row["sound"] for row in dealt) and true[0]["recording"] == "the cat sat"
    assert [(row["prompt"], row["sample"]) for row in warm] == [(f"p{i}", k) for i in range(5) for k in range(2)]
    for row in warm:
        assert soundfile.info(tmp_path / row["sound"]).samplerate == 16_000
    told = json.loads((tmp_path / "ours.json").read_text())
    assert told["protocol"]["name"].startswith("ours but ") and told["protocol"]["samples"] == 2
    assert told["prompts"]["ids"] == [f"p{i}" for i in range(5)] and len(told["prompts"]["checksum"]) == 64
    of = {system["name"]: system for system in told["systems"]}
    losses = [row["loss"] for row in warm if row["loss"] is not None]
    found = of["warm"]["measures"]
    assert found["gen_ppl_not_empty"]["value"] == pytest.approx(math.exp(np.mean(losses)))
    assert found["mean_ppl"]["value"] == pytest.approx(np.mean(np.exp(losses)))
    assert of["warm"]["n_empty"] == sum(not row["text"] for row in warm) == 5
    assert found["gen_ppl"]["value"] is None  # as in SlamKit: undefined with an empty transcript
    assert set(of["recordings"]["measures"]).isdisjoint({"similarity", "cont_bleu"})
    assert of["shuffled words"]["measures"]["gen_ppl_not_empty"]["n"] > 0
    gap = told["differences"]["measures"]["words"]
    cold = of["cold"]["measures"]["words"]
    assert gap["mean"] == pytest.approx(found["words"]["value"] - cold["value"]) and gap["n"] == 5
    measures = [(m.name, m.title, m.about) for m in MEASURES]
    hostile = [
        dataclasses.replace(s, rows=[dict(r, text="<script>alert(1)</script>") for r in s.rows]) for s in systems
    ]
    page = write_page(told, hostile, tmp_path / "ours.html", measures=measures).read_text()
    assert page.count("<audio") == 5 * 2 * 2 + 20 and "<script>alert" not in page and "http" not in page.lower()
    assert all(row["sound"] in page for row in warm)


@pytest.mark.thorough
def test_who_listens_and_judges_changes_nothing_that_a_model_said(parts, suite, tmp_path):
    loads: list[int] = []
    one = session(parts, suite, tmp_path)
    speak_all(one, models(parts, loads), (1.0,))
    other = dataclasses.replace(one, ears=dataclasses.replace(one.ears, facts={"asr": "another ear", "vocoder": "w"}))
    speak_all(other, models(parts, loads), (1.0,))
    assert loads == [0, 1]
    speak_all(dataclasses.replace(one, protocol=SHORT.changed(seconds=1.5)), models(parts, loads), (1.0,))
    assert loads == [0, 1, 0, 1]


def test_prompts_are_heard_only_where_somebody_asks_what_they_say(parts, suite, tmp_path):
    for scored, n in (("continuation", 5), ("prompt and continuation", 0)):
        ear = Ear()
        session(parts, suite, tmp_path / scored, SHORT.changed(scored=scored), ear=ear).hear_prompts()
        assert ear.heard == n


@pytest.mark.thorough
def test_likeness_to_the_truth_is_of_texts_as_they_are_scored(parts, suite, text_lm, tmp_path):
    """An ear that writes capitals and a protocol of lower case: the truth is lower case too."""

    class Loud(Ear):
        def transcribe(self, clip: Clip) -> str:
            return "THE CAT SAT ON A MAT"

    protocol = SHORT.changed(case="lower", tokens="whitespace")
    values, _ = measured(session(parts, suite, tmp_path, protocol, ear=Loud()), parts, text_lm, [])
    found = {s["name"]: s["measures"] for s in values["systems"]}
    for name in ("resynthesis", "warm", "cold"):
        assert found[name]["cont_bleu"]["value"] == pytest.approx(100)
        assert found[name]["similarity"]["value"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("names", "temperatures"),
    [(("recordings", "cold"), (1.0,)), (("warm", "shuffled words"), (1.0,)), (("warm", "cold"), (1.0, 1.0)),
     (("warm", "cold"), (-1.0,)), (("warm", "cold"), (math.nan,))],
)  # fmt: skip
def test_names_and_temperatures_that_cannot_be_are_refused_before_any_work(parts, suite, tmp_path, names, temperatures):
    ear = Ear()
    given = [dataclasses.replace(m, name=n) for m, n in zip(models(parts, []), names, strict=True)]
    with pytest.raises(BadInput, match=r"names of their own|temperatures are numbers"):
        speak_all(session(parts, suite, tmp_path, ear=ear), given, temperatures)
    assert ear.heard == 0


def test_an_empty_text_has_no_loss_though_its_end_is_read(text_lm, tmp_path):
    protocol = OURS.changed(end=True)
    empty, said = texts.read(
        ["", "the cat"], ["a mat", "a mat"], [["the cat"], ["the cat"]], protocol, lm=lambda: text_lm, identity="lm",
        folder=tmp_path, description="", progress=False,
    )  # fmt: skip
    assert set(empty.values()) == {None} and said["loss"] > 0 and said["loss_after"] > 0


@pytest.mark.thorough
def test_temperatures_make_a_curve(parts, suite, text_lm, tmp_path):
    one = session(parts, suite, tmp_path, ear=Ear((20, 40)))  # long enough that words come again
    values, systems = measured(one, parts, text_lm, [], temperatures=(0.5, 1.5))
    names = [system["name"] for system in values["systems"] if system["kind"] == "model"]
    assert names == ["warm at 0.5", "warm at 1.5", "cold at 0.5", "cold at 1.5"]
    curves = values["curves"]["models"]
    assert [point["temperature"] for point in curves["warm 0"]["points"]] == [0.5, 1.5]
    by_name = {system["name"]: system["measures"] for system in values["systems"]}
    oracle = values["curves"]["oracle"]
    assert oracle["vert"] == by_name["recordings"]["vert"]["value"]
    for model in ("warm", "cold"):
        found = curves[f"{model} {0 if model == 'warm' else 1}"]
        points = [(point["vert"], point["ppx"]) for point in found["points"]]
        each = [by_name[f"{model} at {t}"] for t in (0.5, 1.5)]
        assert points == [(of["vert"]["value"], of["mean_ppl"]["value"]) for of in each]
        (low, at_low), (high, at_high) = sorted(points)
        share = (oracle["vert"] - low) / (high - low)
        assert found["ppx_at_oracle_vert"]["value"] == pytest.approx(
            at_low + share * (at_high - at_low) if 0 <= share <= 1 else math.nan, nan_ok=True
        )
    assert values["differences"]["between"] == ["warm at 0.5", "cold at 0.5"]
    shown = job.table({**without_nan(values), "results": "r", "page": "p"})
    for of in curves.values():
        low, high = of["points"]
        assert f"VERT and PPX at temperature 0.5: {low['vert']:.4g}, {low['ppx']:.4g}; VERT and PPX" in shown
        assert f"at temperature 1.5: {high['vert']:.4g}, {high['ppx']:.4g}; PPX at the recordings’ VERT" in shown
    assert "{" not in shown and "null" not in shown and "nan" not in shown
    gaps = values["differences"]["measures"]
    one = {**values["differences"], "measures": {**gaps, "words": {**gaps["words"], "p": math.nan, "n": 1}}}
    of_one = {**without_nan(values), "differences": without_nan(one), "results": "r", "page": "p"}
    assert "p nan" not in job.table(of_one)  # of one prompt there is a difference, and no test
    assert write_page(of_one, systems, tmp_path / "one.html", measures=[("words", "words", "")]).is_file()
    narrow = job.table({**without_nan(values), "results": "r", "page": "p"}, width=100)
    heads = [line.split("  ") for line in narrow.splitlines() if line.startswith("  ")]
    assert len(heads) > 1 and [cell.strip() for head in heads for cell in head if cell.strip()] == [
        cell.strip() for cell in shown.splitlines()[1].split("  ") if cell.strip()
    ]
    numbers = [line for line in narrow.splitlines() if line.startswith(("GenPPL", "auto-BLEU"))]
    assert numbers and all(len(line) <= 100 for line in numbers), "as many systems beside each other as there is room"
    page = write_page(without_nan(values), systems, tmp_path / "page.html", measures=[("vert", "VERT", "")]).read_text()
    assert "<dt>temperature</dt><dd>0.5, 1.5</dd>" in page, "not the protocol's, which nobody sampled at"
    silent = {**without_nan(values), "curves": {**values["curves"], "oracle": {"vert": None, "ppx": None}}}
    assert "VERT, which is none: " in job.table({**silent, "results": "r", "page": "p"})


@pytest.mark.thorough
def test_where_both_are_scored_together_the_floor_is_spoken_and_the_transcripts_are_the_oracle(
    parts, suite, text_lm, tmp_path
):
    protocol = SHORT.changed(scored="prompt and continuation", cut_to_truth=True, samples=1)
    values, systems = measured(session(parts, suite, tmp_path, protocol), parts, text_lm, [])
    by = {system.name: system for system in systems}
    assert by["transcripts"].rows[0]["text"] == "the cat sat"
    sounds = [tmp_path / row["sound"] for row in by["shuffled"].rows]
    assert len({sound.read_bytes() for sound in sounds}) == 5  # spoken, each by itself
    theirs = {(tmp_path / row["sound"]).read_bytes() for row in by["resynthesis"].rows}
    assert not theirs & {sound.read_bytes() for sound in sounds}
    assert all(row["seconds"] <= 2.0 + 1e-9 for row in by["warm"].rows)  # cut to prompt and truth
    assert "wins" not in {name for s in values["systems"] for name in s["measures"]}


def test_speech_out_of_nothing_has_no_numbers_of_prompts(parts, suite, text_lm, tmp_path):
    protocol = PROTOCOLS["tgslm"].changed(max_units=30, words=2, seconds=None)
    values, systems = measured(session(parts, suite, tmp_path, protocol, ear=Sparse()), parts, text_lm, [])
    assert [s.name for s in systems] == ["recordings", "resynthesis", "warm", "cold", "shuffled words"]
    warm = values["systems"][2]
    short = sum(len(row["text"].split()) < 2 for row in systems[2].rows)
    assert warm["n_scored"] == 5 - short > 0 and short
    assert warm["measures"]["words"]["value"] == 2
    assert "words_per_second" not in {name for s in values["systems"] for name in s["measures"]}  # all were not counted


def test_a_prompt_the_model_has_no_room_for_is_refused_by_name(parts, suite, tmp_path):
    protocol = SHORT.changed(seconds=None, max_units=600)
    one = session(parts, suite, tmp_path, dataclasses.replace(protocol, seconds=None))
    heard = one.hear_prompts()
    with pytest.raises(BadInput, match=r"positions for 512 tokens, 5 of 5 prompts need more: p0 .* another suite"):
        one.model("warm", lambda: parts[2][0], heard, folder="", sha256="0", temperature=1.0)


def test_prompts_that_cannot_be_used_are_named_and_nothing_is_measured(suite, tmp_path):
    soundfile.write(tmp_path / "short.wav", babble(0.5, seed=1), 16_000)
    bad = prompts.Prompt(id="short", sound=Entry(id="short", path=tmp_path / "short.wav"))
    gone = prompts.Prompt(id="gone", sound=Entry(id="gone", path=tmp_path / "gone.wav"))
    broken = dataclasses.replace(suite, prompts=(*suite.prompts, bad, gone))
    with pytest.raises(AudioError, match=r"2 of 7 prompts of five cannot be used: .*short lasts 0\.50 s"):
        digests_of(broken, SHORT, sample_rate=16_000)


def test_a_text_lm_is_asked_from_several_threads_one_after_another(text_lm, monkeypatch):
    texts = [[f"the cat sat {n} times", "down"] for n in range(8)]
    alone = [text_lm.losses(each, begin=True, end=False) for each in texts]
    inside: list[int] = []

    @contextmanager
    def slowly(model):
        assert not inside, "two threads set the products of one model"
        inside.append(1)
        time.sleep(0.01)  # long enough for the others to come in
        with products.quick_products(model):
            yield
        inside.pop()

    monkeypatch.setattr(reading, "quick_products", slowly)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda each: text_lm.losses(each, begin=True, end=False), texts)) == alone
    assert not inside


def test_prompts_of_the_same_sound_are_heard_each_by_itself(parts, suite, tmp_path):
    first = suite.prompts[0]
    twice = dataclasses.replace(suite, prompts=(first, dataclasses.replace(first, id="again")))
    one = session(parts, twice, tmp_path, SHORT)
    rows = one.model("warm", lambda: parts[2][0], one.hear_prompts(), folder="", sha256="0", temperature=1.0).rows
    assert len({row["sound"] for row in rows}) == len(rows) > 1


def test_a_folder_that_holds_another_recogniser_is_another_one(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    one = hearing.version(str(tmp_path), None)
    (tmp_path / "model.safetensors").write_bytes(b"other")
    assert one.startswith("sha256 ") and hearing.version(str(tmp_path), None) != one
    assert hearing.version("owner/name", SimpleNamespace(_commit_hash="abc")) == "revision abc"


def test_silence_is_not_given_to_the_recogniser():
    ear = Ear()
    silent = Clip(np.zeros(32_000, np.float32), 16_000)
    assert hearing.hear(silent, ear, silence="vad") == hearing.Heard("", 2.0, 1.0, False)
    assert ear.heard == 0
    hearing.hear(silent, ear, silence="none")
    assert ear.heard == 1
    assert hearing.hear(Clip(np.zeros(0, np.float32), 16_000), ear, silence="none").text == ""


def test_nobody_heard_in_any_recording_is_an_error(parts, suite, tmp_path):
    class Deaf(Ear):
        def transcribe(self, clip: Clip) -> str:
            return ""

    with pytest.raises(AudioError, match="in none of the 5 sounds of the recordings"):
        speak_all(session(parts, suite, tmp_path, ear=Deaf()), [], (1.0,))


def test_prompts_are_cut_at_the_sample_and_their_checksum_hears_every_change(suite):
    found = prompts.cut(suite.prompts[0], sample_rate=16_000, prompt_seconds=1.0, seconds=0.5)
    assert (len(found.start.samples), len(found.whole.samples)) == (16_000, 24_000)
    np.testing.assert_array_equal(found.whole.samples[:16_000], found.start.samples)
    other = prompts.cut(suite.prompts[0], sample_rate=16_000, prompt_seconds=1.1, seconds=0.4)
    assert other.sha256 != found.sha256
    one = prompts.checksum(suite, ["a"] * 5)
    assert one != prompts.checksum(suite, ["a"] * 4 + ["b"])
    assert one != prompts.checksum(dataclasses.replace(suite, prompts=suite.prompts[::-1]), ["a"] * 5)


def test_the_bundled_prompts_are_fixed():
    suite = prompts.mini_prompts()
    assert len(suite.prompts) == 200 and len({p.id for p in suite.prompts}) == 200
    assert suite.version == "395a00dd6a82745f"
    assert {p.group for p in suite.prompts} == {"stories", "read aloud"} and all(p.text for p in suite.prompts)
    assert prompts.select(suite, longer_than=6.0, most=10).prompts == suite.prompts[:10]
    with pytest.raises(BadInput, match="none of the 200 recordings of mini-prompts is longer than 99 s"):
        prompts.select(suite, longer_than=99.0, most=None)


def test_published_suites_are_read_from_their_layouts(tmp_path):
    home = tmp_path / "LibriSpeech/dev-clean/84/121"
    home.mkdir(parents=True)
    for i in range(2):
        soundfile.write(home / f"84-121-000{i}.flac", babble(1.0, seed=i), 16_000)
    (home / "84-121.trans.txt").write_text("84-121-0000 ONE WORD\n84-121-0001 TWO\n")
    found = prompts.open_prompts(f"librispeech-dev-clean={tmp_path}")
    assert [(p.id, p.text) for p in found.prompts] == [("84-121-0000", "ONE WORD"), ("84-121-0001", "TWO")]
    long = prompts.open_prompts(f"librispeech-long={tmp_path / 'LibriSpeech'}")
    assert [p.text for p in long.prompts] == ["ONE WORD", "TWO"]
    stories = tmp_path / "ssc"
    stories.mkdir()
    for n in (10, 9):
        for side in ("correct", "incorrect"):
            soundfile.write(stories / f"{n}_story{n}_{side}.wav", babble(0.5, seed=n), 16_000)
    by_number = prompts.open_prompts(f"storycloze-1000={stories}")
    assert [p.id for p in by_number.prompts] == ["9_story9_correct", "10_story10_correct"]
    with pytest.raises(BadInput, match="did you mean 'librispeech-dev-clean'"):
        prompts.open_prompts("librispeech-dev=x")
    with pytest.raises(BadInput, match="not bundled"):
        prompts.open_prompts("storycloze-1000")


def test_protocols_tell_themselves_apart():
    assert len({p.fingerprint for p in PROTOCOLS.values()}) == len(PROTOCOLS) == 4
    other = OURS.changed(temperature=0.5, asr=None)
    assert other.name == "ours but temperature 0.5" and other.fingerprint != OURS.fingerprint
    assert OURS.changed(temperature=0.8) is OURS
    assert slug(OURS) == "ours" and slug(other) != slug(OURS.changed(temperature=0.6))
    with pytest.raises(BadInput, match="a protocol has no beam"):
        OURS.changed(beam=5)


def test_speech_is_cut_where_the_prompts_units_end(parts):
    tok, voc, _ = parts
    whole = tok(Clip(babble(3.0, seed=5), 16_000, id="x"))
    n = prompt_length(whole, 1.0)
    assert int(whole.runs[:n].sum()) >= 25 > int(whole.runs[: n - 1].sum())
    spoken = speak(voc, whole, n_prompt=n)
    np.testing.assert_array_equal(spoken.clip.samples, voc(whole, durations="predicted").samples)
    assert spoken.start == int(voc.predict_runs(whole)[:n].sum()) * 640
    assert len(cut_to(spoken, seconds=0.5).continuation.samples) == max(0, 8000 - spoken.start)


def test_seeds_and_shuffles_do_not_depend_on_company():
    assert seed_of(0, "a", 0) != seed_of(0, "a", 1) != seed_of(1, "a", 1)
    assert 0 <= seed_of(0, "a", 0) < 2**63
    for n in (2, 3, 50):
        dealt = derangement(n, seed=n)
        assert sorted(dealt) == list(range(n)) and all(i != j for i, j in enumerate(dealt))
    with pytest.raises(BadInput, match="at least two prompts"):
        derangement(1, seed=0)


def test_losses_equal_reading_one_token_at_a_time(text_lm):
    import torch

    def slow(ids: list[int], start: int) -> float:
        total = 0.0
        for i in range(start, len(ids)):
            with torch.no_grad():
                logits = text_lm.model(input_ids=torch.tensor([ids[:i]])).logits[0, -1].double()
            total -= float(logits.log_softmax(0)[ids[i]])
        return total

    texts = ["the cat sat", "", "mat", "a mat on the cat"]
    for begin, end in ((True, False), (True, True), (False, False)):
        found = text_lm.losses(texts, begin=begin, end=end, batch_tokens=9)
        for text, loss in zip(texts, found, strict=True):
            ids = [0] * begin + text_lm.tokens(text) + [1] * end
            assert loss.n == max(0, len(ids) - 1) and loss.total == pytest.approx(slow(ids, 1), abs=1e-4)
    pairs = [("the cat", "sat on"), ("", "sat"), ("the cat", "")]
    for (before, after), loss in zip(pairs, text_lm.losses_after(pairs), strict=True):
        head = [0, *text_lm.tokens(before)]
        assert loss.total == pytest.approx(slow([*head, *text_lm.tokens(after)], len(head)), abs=1e-4)
    assert math.isnan(text_lm.losses([""], begin=True, end=False)[0].mean)


def test_wins_are_counted_against_other_prompts(text_lm):
    pairs, others = [("the cat", "sat on"), ("a mat", "")], [["a mat", "the cat"], ["the cat"]]
    own, wins, gains = win_rates(text_lm, pairs, others)
    theirs = [text_lm.losses_after([(other, "sat on")])[0].total for other in others[0]]
    assert wins[0] == sum((own[0].total < t) + 0.5 * (own[0].total == t) for t in theirs) / 2
    assert gains[0] == pytest.approx((sum(theirs) / 2 - own[0].total) / 2)
    assert math.isnan(wins[1]) and math.isnan(gains[1])  # nothing was said


def test_a_continuation_is_never_read_after_the_prompt_that_it_belongs_to():
    said = [f"text {i}" for i in range(7)] + ["text 0", ""]
    met = 0
    for seed in range(50):
        dealt = derangement(len(said), seed=seed)
        plain, others = other_prompts(said, seed=seed), other_prompts(said, seed=seed, dealt=dealt)
        for i, theirs in enumerate(dealt):
            assert len(others[i]) == 2 and not {said[i], said[theirs], ""} & set(others[i])
            met += said[theirs] in plain[i]
            assert said[theirs] in plain[i] or others[i] == plain[i]  # all else is as it was
    assert met


def test_a_damaged_journal_is_refused(tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_text('{"key": "a", "found": {}}\nnonsense\n{"key": "b", "found": {}}\n')
    with pytest.raises(BadInput, match=r"j\.jsonl is damaged at byte 26"):
        Journal(path)
    for hostile in ("[" * 200_000, '{"key": "a", "found": ' + "[" * 200_000, '{"key": 1, "found": {}}', '{"key": "a"}'):
        path.write_text(hostile + "\n")
        with pytest.raises(BadInput, match=r"j\.jsonl is damaged at byte 0.*Remove it"):
            Journal(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BadInput, match=r"j\.jsonl .*one item a line"):
        Journal(path)


@pytest.fixture
def measure(parts, suite, text_lm, tiny, tmp_path, monkeypatch):
    """`measure_generation` of two models with the stand-ins, its ear, and the folders of models that were loaded."""
    for name, lm in zip(("warm", "cold"), parts[2], strict=True):
        lm.save(tmp_path / name / "lm")
    ear, loads, load = Ear(), list[str](), job.load_model
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "cache"))
    for name, stand_in in {
        "open_prompts": lambda _: suite,
        "text_lm_folder": lambda _: Path(text_lm.name),
        "open_listener": lambda *_, **__: (ear, "ear"),
        "_judges": lambda _: (loudness,),
        "open_voices": lambda _: (None, "none"),
        "open_embedder": lambda _: Letters(),
        "load_model": lambda folder: loads.append(Path(folder).name) or load(folder),
    }.items():
        monkeypatch.setattr(job, name, stand_in)

    def run(**options):
        given = {"suites": [f"mini-swuggy={tiny.suite}"], "protocol": SHORT} | options
        return job.measure_generation(
            tmp_path / "warm", against=tmp_path / "cold", out=tmp_path / "out", tokenizer=tiny.tokenizer,
            vocoder=tiny.vocoder, **given,
        )  # fmt: skip

    return run, ear, loads


@pytest.mark.thorough
def test_the_job_measures_nothing_twice_and_a_curve_has_files_of_its_own(measure, tmp_path):
    run, ear, loads = measure
    first = run()
    results = Path(first["results"])
    kept, heard = results.read_bytes(), ear.heard
    assert sorted(loads) == ["cold", "cold", "warm", "warm"]  # to speak, and for the pairs
    assert set(first["likelihoods"]["mini-swuggy"]) == {"warm", "cold"} and first["temperatures"] == [0.8]
    assert run()["results"] == first["results"] and results.read_bytes() == kept
    assert len(loads) == 4 and ear.heard == heard
    curve = run(temperatures=[0.5, 1.2, 0.5])
    assert curve["temperatures"] == [0.5, 1.2] and Path(curve["results"]).name == f"{results.stem}-at-0.5-1.2.json"
    for ending in ("json", "parquet", "html"):
        assert (results.parent / f"{results.stem}-at-0.5-1.2.{ending}").is_file()
    assert results.read_bytes() == kept
    assert "held results with likelihoods, which these lack, and was replaced" in run(suites=[])["notes"][0]


@pytest.mark.thorough
def test_a_voice_can_be_named(measure, monkeypatch):
    run, ear, _ = measure
    with pytest.raises(BadInput, match="has one speaker only, so 'ann' cannot be asked for"):
        run(voice=Voice(speaker="ann"))
    assert ear.heard == 0
    asked = []
    monkeypatch.setattr(job.Vocoder, "speaking_as", lambda voc, **voice: asked.append(voice) or voc)
    usual = run()["heard_with"]["vocoder"]
    heard = ear.heard
    assert run(voice=Voice(speaker="ann"))["heard_with"]["vocoder"] == f"{usual}, speaker ann"
    assert ear.heard > heard  # heard anew: another voice's words are not the usual one's
    assert [voice["speaker"] for voice in asked if voice["speaker"]] == ["ann"]


@pytest.mark.thorough
def test_texts_without_words_end_no_curve(measure, monkeypatch):
    run, ear, _ = measure
    said = ear.transcribe
    heard = 0

    def seldom(clip):
        nonlocal heard
        heard += 1
        return said(clip) if heard % 3 == 0 else ""

    monkeypatch.setattr(ear, "transcribe", seldom)
    for model in run(temperatures=[0.5, 1.2])["curves"]["models"].values():
        assert math.isfinite(model["points"][0]["ppx"]) and model["ppx_at_oracle_vert"]["missing"] > 0


def test_the_job_refuses_before_anything_is_heard(measure, suite, monkeypatch, tmp_path):
    run, ear, loads = measure

    def voices_wanted() -> None:
        raise BadInput("name one with --speaker")

    with held(tmp_path / "out" / "generation", "measuring"), pytest.raises(TwistError, match="another process"):
        run()
    with pytest.raises(BadInput, match="temperatures are numbers"):
        run(temperatures=[-1.0])
    with pytest.raises(BadInput, match="Judge in the protocol ours"):
        run(protocol=SHORT.changed(scored="prompt and continuation"), judge="smollm2-135m")

    def gone(_: str) -> None:
        raise ArtifactError("no embedder")

    with monkeypatch.context() as patched:
        patched.setattr(job, "select", lambda *_, **__: dataclasses.replace(suite, prompts=suite.prompts[:1]))
        with pytest.raises(BadInput, match="has one prompt long enough"):
            run()
    with monkeypatch.context() as patched:
        patched.setattr(job.Vocoder, "predicts_durations", False)
        with pytest.raises(BadInput, match="does not predict how long units last"):
            run()
    with monkeypatch.context() as patched:
        patched.setattr(job.Vocoder, "require_voice", lambda _: voices_wanted())
        with pytest.raises(BadInput, match="several voices and none by default"):
            run()
    monkeypatch.setattr(job, "open_embedder", gone)
    with pytest.raises(ArtifactError, match="no embedder"):
        run()
    assert ear.heard == 0 and loads == []


def test_the_quickstart_measures_in_short_what_its_models_say(parts, suite, text_lm, tiny, tmp_path):
    from twistlm.pages.report_sections import said
    from twistlm.study import saying

    tok, voc, lms = parts
    runs = [(name, tmp_path / name) for name in ("warm", "cold")]
    for (_, folder), lm in zip(runs, lms, strict=True):
        lm.save(folder / "lm")
    protocol = SHORT.changed(samples=1)

    def say():
        return saying.say(
            suite, tmp_path / "said", tok, voc, runs, Ear(), Path(text_lm.name), protocol, seed=0, progress=False
        )

    values = json.loads(json.dumps(say()))  # plain, as a stage keeps it
    assert [s["name"] for s in values["systems"]][-3:] == ["warm", "cold", "shuffled words"]
    assert json.dumps(json.loads(json.dumps(say()))) == json.dumps(values)  # a rerun adds nothing
    shown = said({"generation": values})
    assert shown is not None and shown["n"] == 5
    assert [cell.text for cell in shown["table"].header][1:5] == ["recordings", "resynthesis", "cold", "warm"]
    assert said({}) is None and said({"generation": None}) is None
    held = [Entry(id=str(i), path=tmp_path, split="test", seconds=s) for i, s in enumerate((9.0, 3.0, 7.0))]
    chosen = saying.choose([*held, Entry(id="t", path=tmp_path, seconds=9.0)])
    assert chosen is not None and {p.id for p in chosen.prompts} == {"0", "2"}
    assert saying.choose(held[:2]) is None
