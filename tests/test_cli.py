"""The command line: every verb on tiny stand-ins, and every error as one paragraph with its exit code."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from standins import Tiny, babble
from twistlm.cli.command import explain
from twistlm.cli.main import main
from twistlm.errors import BadInput, TrainingError, visible
from twistlm.jobs import inspecting
from twistlm.types import UnitSpec
from twistlm.units.encoder import FAMILIES


class Outcome:
    """Exit code, standard output and standard error of one `twist` call."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict:
        return json.loads(self.out)

    def refused(self, *words: str, code: int = 2) -> None:
        """Assert that this was one readable paragraph."""
        assert self.code == code, self.out + self.err
        progress, _, said = " ".join(self.err.split()).partition("error: ")
        assert said and "error: " not in said and "Traceback" not in self.err, self.err
        assert not progress or "━" in progress, progress
        for word in words:
            assert word in said, said


@pytest.fixture
def twist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*args: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["twist", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return Outcome(int(end.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


def test_from_speech_to_speech_verb_by_verb(twist, tiny: Tiny, tmp_path):
    units, run = tmp_path / "units", tmp_path / "run"
    made = twist("manifest", tiny.speech, "--out", tmp_path / "m.jsonl", "--json")
    assert made.json["clips"] == 24 and set(made.json["splits"]) == {"train", "heldout"}

    (tmp_path / "listed").mkdir()
    (tmp_path / "listed" / "manifest.jsonl").write_bytes((tmp_path / "m.jsonl").read_bytes())
    again = twist("manifest", tmp_path / "listed", "--out", tmp_path / "n.jsonl", "--heldout", 0)
    assert f"as {tmp_path / 'listed' / 'manifest.jsonl'} lists them" in again.out

    cut = twist("tokenize", tmp_path / "m.jsonl", "--out", units, "--tokenizer", tiny.tokenizer, "--json")
    assert (cut.json["done"], cut.json["failed"]) == (24, 0)
    again = twist("tokenize", tmp_path / "m.jsonl", "--out", units, "--search", tiny.root, "--json")
    assert (again.json["done"], again.json["skipped"]) == (0, 24)

    short = [f"--set={s}" for s in ("updates=2", "context=32", "batch_rows=2", "eval_every=1", "precision=float32")]
    trained = twist("train", units, "--text-lm", tiny.text_lm, "--out", run, *short, "--json")
    assert trained.json["updates"] == 2 and trained.json["last"]["val_nll"] > 0

    judged = twist("eval", run, "--units", units)
    assert judged.code == 0 and judged.out.startswith("perplexity ") and " bits a second; on " in judged.out
    kept = json.loads((run / "eval" / "perplexity.json").read_text())
    assert kept["context"] == 32 and kept["perplexity"]["n_documents"] == 2
    both = twist("eval", run, "--units", units, "--context", 32, "--against", run, "--against-units", units)
    assert "difference +0.00 [+0.00, +0.00] bits a second, p = 1" in both.out, both.err
    assert "perplexity.json held a perplexity of other against, and was replaced: --out keeps both" in both.out
    again = twist("eval", run, "--units", units, "--against", run).out
    assert again.splitlines() == both.out.splitlines()[1:], "the same question is asked again"
    twist("eval", run, "--units", units, "--against-units", units).refused("give --against")
    twist("eval", run, "--units", units, "--topline", tiny.text_lm).refused("about suites")

    voice = ["--search", tiny.root]
    prompt = tiny.speech / "low" / "0.wav"
    said = twist(
        "generate", run, prompt, "--out", tmp_path / "c.wav", "--prompt-seconds", 1, "--seconds", 2, *voice, "--json"
    )
    assert (
        soundfile.info(tmp_path / "c.wav").duration == pytest.approx(said.json["seconds"]) and said.json["seconds"] > 1
    )

    parts = {kind: Path(said.json[kind]["folder"]) for kind in ("tokenizer", "vocoder")}
    assert parts == {"tokenizer": tiny.tokenizer, "vocoder": tiny.vocoder}
    twist("generate", run, prompt, "--out", tmp_path / "d.wav").refused("no vocoder here", "--search", "twist vocoder")

    told = twist("resynth", prompt, "--out", tmp_path / "r.wav", "--tokenizer", tiny.tokenizer, *voice)
    assert f"vocoder {tiny.vocoder} (searched)" in told.out
    taken = [twist("resynth", prompt, "--out", tmp_path / "r.wav", *of, *voice, "--json").json["unit_spec"]
             for of in (["--units-of", run], ["--units-of", units], ["--vocoder", tiny.vocoder])]  # fmt: skip
    assert set(taken) == {cut.json["unit_spec"]}
    assert soundfile.info(tmp_path / "r.wav").duration == pytest.approx(soundfile.info(prompt).duration, abs=0.1)

    kinds = {"m": prompt, "units": units, "training run": run, "unit LM": run / "lm", "tokenizer": tiny.tokenizer}
    kinds |= {"vocoder": tiny.vocoder, "text LM": tiny.text_lm, "manifest": tmp_path / "m.jsonl"}
    kinds |= {"suite": "mini-topic-storycloze", "encoder": "mini-25hz"}
    kinds["sound file"] = kinds.pop("m")
    for kind, path in kinds.items():
        facts = twist("show", path, *voice, "--json").json
        assert facts["kind"] == kind
        if kind in ("units", "training run", "unit LM", "vocoder"):
            assert facts["tokenizer"] == f"{tiny.tokenizer} (searched)"
    assert twist("show", run, "--json").json["vocoder"].startswith("none here")
    assert set(inspecting._SPEECH) == {*FAMILIES, "whisper"}  # written again there, as torch is slow to import
    (tmp_path / "hubert").mkdir()
    (tmp_path / "hubert" / "config.json").write_text('{"model_type": "hubert", "hidden_size": 768}')
    assert twist("show", tmp_path / "hubert", "--json").json["kind"] == "speech encoder of transformers"
    assert twist("show", "speech", "--json").json["clips"] == 630
    (tmp_path / "no suffix").write_bytes(prompt.read_bytes())
    assert twist("show", tmp_path / "no suffix", "--json").json["kind"] == "sound file"
    twist("show", next(units.glob("*.parquet"))).refused("nothing twistlm knows", "A shard is shown with its folder")
    assert stat.S_IMODE((run / "lm" / "model.safetensors").stat().st_mode) == stat.S_IMODE(
        (run / "lm" / "config.json").stat().st_mode
    ), "weights may be read by whom the rest may be read by"

    mine = tmp_path / "mine.wav"
    mine.write_bytes(prompt.read_bytes())
    (tmp_path / "again.wav").symlink_to(mine)
    for verb in (["generate", run], ["resynth"]):
        twist(*verb, mine, "--out", tmp_path / "again.wav", *voice).refused("the recording itself")
    assert mine.read_bytes() == prompt.read_bytes()
    for seconds in ("nan", "0", "inf"):
        twist("generate", run, prompt, "--out", tmp_path / "n.wav", "--seconds", seconds, *voice).refused("--seconds")


def test_going_on_with_a_finished_run(twist, tiny: Tiny, tmp_path, monkeypatch):
    import shutil

    from twistlm.corpus.stream import PackedStream
    from twistlm.errors import Stopped
    from twistlm.lm.folders import lm_folder
    from twistlm.train import loop

    units, run, seen = tmp_path / "units", tmp_path / "run", []
    twist("manifest", tiny.speech, "--out", tmp_path / "m.jsonl")
    twist("tokenize", tmp_path / "m.jsonl", "--out", units, "--tokenizer", tiny.tokenizer)
    batch = PackedStream.batch
    monkeypatch.setattr(PackedStream, "batch", lambda self, n, **o: seen.append(n) or batch(self, n, **o))
    short = [f"--set={s}" for s in ("updates=2", "context=32", "batch_rows=1", "precision=float32", "warmup=1")]
    more = ["train", units, "--out", run, "--more", 3, "--set", "lr=1e-3", "--set", "checkpoint_every=1", "--json"]
    twist(*more).refused("no finished run", "--text-lm")
    first = twist("train", units, "--text-lm", tiny.text_lm, "--out", run, *short, "--json").json
    assert twist(*more, "--text-lm", tiny.text_lm).refused("change them with --set") is None
    twist(*more, "--set", "updates=5").refused("leave --set updates")
    whole = twist(*more)
    assert whole.code == 0, whole.err
    assert whole.json["model"] == str(run / "more-1" / "lm") == str(lm_folder(run)) and whole.json["updates"] == 3
    assert seen == [0, 1, 2, 3, 4]  # the batches that follow
    record = json.loads((run / "more-1" / "config.json").read_text())
    assert (record["start"]["start"], record["inputs"]["first_batch"]) == ("continued", 2)
    assert (record["config"]["updates"], record["config"]["lr"], record["config"]["context"]) == (3, 1e-3, 32)
    assert record["start"]["before"]["trained"]["updates"] == 2 == first["updates"]
    (run / "more-2").mkdir()
    shutil.copy(run / "more-1" / "config.json", run / "more-2")
    assert "more-2 is unfinished" in twist("show", run, "--json").json["state"]
    shutil.rmtree(run / "more-2")
    weights = (run / "more-1" / "lm" / "model.safetensors").read_bytes()

    shutil.rmtree(run / "more-1")  # once more, stopped on the way
    keep = loop.checkpoint.save

    def stop(*args, **options):
        keep(*args, **options)
        raise Stopped("stopped", number=2)

    monkeypatch.setattr(loop.checkpoint, "save", stop)
    assert twist(*more).code == 130 and lm_folder(run) == run / "lm"
    monkeypatch.undo()
    twist(*more[:5], 4, *more[6:]).refused("updates was 3 and is 4")
    assert twist(*more).code == 0
    assert (run / "more-1" / "lm" / "model.safetensors").read_bytes() == weights
    again = twist(*more).json
    assert again["model"] == str(run / "more-2" / "lm")
    twist("tokenize", tiny.speech / "low", "--out", tmp_path / "other", "--tokenizer", tiny.tokenizer)
    twist("train", tmp_path / "other", "--out", run, "--more", 1).refused("other documents", "--text-lm")
    # 8 rows are done; what --set changes is held against the run's settings, not a recipe's.
    last = twist("train", units, "--out", run, "--more", 1, "--set", "batch_rows=4", "--set", "accumulate=4", "--json")
    assert last.code == 0, last.err
    assert json.loads((run / "more-3" / "config.json").read_text())["inputs"]["first_batch"] == 2
    assert "gone on with" in twist("show", run, "--json").json["state"]
    assert twist("show", run, "--json").json["state"].endswith("more-3: 2 + 3 + 3 + 1 updates")
    twist("train", units, "--out", run, "--more", 1, "--set", "batch_rows=5", "--set", "accumulate=1").refused(
        "12 rows, which batches of 5 do"
    )
    twist("train", units, "--out", run, "--more", 1, "--seed", 3).refused("leave other options out")
    twist("train", units, "--out", run, "--gpus", 8, "--mfu", 0.3).refused("--mfu, --gpus: for --plan")
    twist("train", units, "--out", run / "more-1", "--more", 1).refused(f"is a part of the run {run}")
    with monkeypatch.context() as inside:
        inside.chdir(run / "more-1")
        twist("train", units, "--out", ".", "--more", 1).refused(f"is a part of the run {run}")
    noted = twist("train", units, "--out", run, "--more", 1, "--set", "context=48", "--set", "warmup=10").out
    assert "note: warm-up is 10 of 1 updates: the rate never got to lr" in noted
    seeded = tmp_path / "seeded"
    twist("train", units, "--text-lm", tiny.text_lm, "--out", seeded, *short, "--seed", 5)
    both = ("--seed", 1, "--set", "seed=2")
    twist("train", units, "--text-lm", tiny.text_lm, "--out", tmp_path / "both", *short, *both).refused(
        "the same thing"
    )
    record = json.loads((seeded / "config.json").read_text())
    assert (record["config"]["seed"], record["start"]["seed"]) == (5, 5)
    (tmp_path / "mine.toml").write_text('base = "quickstart"\nseed = 7\n[warm]\nseed = 8\n')
    by_recipe = tmp_path / "by-recipe"
    twist("train", units, "--text-lm", tiny.text_lm, "--out", by_recipe, *short, "--recipe", tmp_path / "mine.toml")
    record = json.loads((by_recipe / "config.json").read_text())
    assert (record["config"]["seed"], record["start"]["seed"]) == (8, 7), "of the rows; of the new weights"
    assert twist("eval", run, "--units", units, "--json").json["context"] == 48, "as the last of it was trained"


@pytest.mark.thorough
def test_the_switches_of_a_warm_start_and_a_published_model(twist, tiny: Tiny, tmp_path):
    from test_lm_published import slamkit

    units = tmp_path / "units"
    twist("manifest", tiny.speech / "low", "--out", tmp_path / "m.jsonl")
    twist("tokenize", tmp_path / "m.jsonl", "--out", units, "--tokenizer", tiny.tokenizer)
    short = [f"--set={s}" for s in ("updates=1", "context=32", "batch_rows=1", "eval_every=0", "precision=float32")]
    train = ["train", units, "--text-lm", tiny.text_lm, *short, "--rows", "covariance", "--layers", 1]
    planned = twist(*train, "--freeze", "body", "--out", tmp_path / "run", "--plan", "--flops", 1e12, "--json").json
    assert planned["hours"] * 3600 * 0.4e12 == pytest.approx(planned["flops"]) and not (tmp_path / "run").exists()
    assert 0 < planned["update"]["trainable"] < planned["update"]["parameters"] and planned["tokens"] > 0
    assert "parameters" in twist(*train, "--out", tmp_path / "run", "--plan").out
    twist(*train, "--out", tmp_path / "run", "--plan", "--lora-rank", 2).refused("cannot count adapters")
    twist(*train, "--out", tmp_path / "r2", "--track", "paper").refused("no tracker paper", "tensorboard")
    assert twist(*train, "--freeze", "body", "--out", tmp_path / "run", "--json").json["updates"] == 1
    start = json.loads((tmp_path / "run" / "config.json").read_text())["start"]
    assert (start["rows"], start["layers"], start["freeze"]) == ("covariance", [1, 2], "body")
    for name, more in (("more-1", []), ("more-2", ["--freeze", "none"]), ("more-3", [])):  # what was frozen stays so
        gone_on = twist("train", units, "--out", tmp_path / "run", "--more", 1, *more)
        assert gone_on.code == 0, gone_on.err
        start = json.loads((tmp_path / "run" / name / "config.json").read_text())["start"]
        assert start["freeze"] == ("body" if name == "more-1" else None)
    onward = ["train", units, "--text-lm", tmp_path / "run", "--out", tmp_path / "r2", *short]
    twist(*onward, "--rows", "random", "--head", "own").refused("is a unit LM", "leave out --rows, --head.")
    planned_with = [*train, "--out", tmp_path / "r2", "--plan", "--flops", 1e12]
    twist(*planned_with, "--gpus", 8, "--ranks", 4).refused("leave --ranks out")
    twist(*planned_with, "--fork", tmp_path / "none").refused("leave --fork out")
    twist(*train, "--lora-rank", 2, "--lora-alpha", "inf", "--out", tmp_path / "r2").refused("an alpha above 0")
    twist(*train, "--freeze", "0-1", "--out", tmp_path / "r2").refused("layers 0 … 0")
    twist(*train, "--freeze", "half", "--out", tmp_path / "r2").refused("freeze is 'half'", "0-11")
    twist(*train, "--lora-alpha", 4, "--out", tmp_path / "r2").refused("--lora-rank")

    slamkit(tmp_path / "slam", tied=True, units=12)
    unpadded = ["--padding", 0, "--json"]
    made = twist("import", tmp_path / "slam", "--tokenizer", tiny.tokenizer, "--out", tmp_path / "lm", *unpadded)
    assert made.json["layout"] == "SlamKit"
    assert twist("eval", tmp_path / "lm", "--units", units, "--context", 32).out.startswith("perplexity ")
    voice = ["--tokenizer", tiny.tokenizer, "--vocoder", tiny.vocoder, "--seconds", 1, "--prompt-seconds", 1]
    said = twist("generate", tmp_path / "lm", tiny.speech / "low" / "0.wav", "--out", tmp_path / "c.wav", *voice)
    assert said.code == 0 and soundfile.info(tmp_path / "c.wav").frames > 0, said.err


@pytest.mark.thorough
def test_own_encoder_codebook_and_vocoder(twist, tiny: Tiny, tmp_path, monkeypatch):
    from twistlm.vocoder.train import VocoderConfig

    monkeypatch.setitem(VocoderConfig.__init__.__kwdefaults__, "duration_updates", 3)  # of 3000
    both = tmp_path / "speech"
    speech = both / "low"
    for voice in ("low", "high"):
        (both / voice).mkdir(parents=True)
        for i in range(4):
            (both / voice / f"{i}.wav").symlink_to(tiny.speech / voice / f"{i}.wav")
    (short := tmp_path / "short").mkdir()
    made = twist("hubert", speech, "--out", tmp_path / "hubert", "--updates", 1, "--k", 8, "--json")
    assert made.code == 0, made.err
    fit = ["kmeans", speech, "--encoder", made.json["encoder"], "--layer", 1, "--k", 6, "--json"]
    fitted = twist(*fit, "--out", tmp_path / "tok")
    assert fitted.json["n_units"] == 6 and fitted.json["hop"] == 640 and fitted.json["units_heard"] == 6
    soundfile.write(short / "0.wav", np.ones(500), 16_000)
    twist(*fit[:1], short, *fit[2:], "--out", tmp_path / "no").refused("clip '0.wav': 500 samples are too short")
    for k in (0, 1, 65_536):
        assert "Invalid value for '--k'" in twist(*fit[:-2], k, "--out", tmp_path / "no").err
    assert "Invalid value for '--updates'" in twist("hubert", speech, "--out", tmp_path / "no", "--updates", 0).err
    fit[3] = tmp_path / "hubert"  # the run that made it
    phased = twist(*fit, "--hop", 320, "--out", tmp_path / "fast").json
    assert phased["hop"] == 320 and phased["frames"] > 1.9 * fitted.json["frames"]
    twist(*fit, "--hop", 300, "--out", tmp_path / "odd").refused("no multiple of 300")
    assert fitted.json["frames"] > fitted.json["frames_used"] and fitted.json["heldout_inertia"] > 0
    parts = ["--tokenizer", tmp_path / "tok", "--like", tiny.vocoder]
    parts += ["--generator", "istft"]
    voiced = twist("vocoder", "train", speech, "--out", tmp_path / "voc", "--updates", 1, *parts, "--json")
    assert json.loads((tmp_path / "voc" / "vocoder" / "config.json").read_text())["generator"] == "istft"
    assert voiced.json["unit_spec"] == fitted.json["unit_spec"]
    voices = twist("vocoder", "train", both, "--out", tmp_path / "v2", "--updates", 1, "--tokenizer", tiny.tokenizer)
    voices.refused("2 speakers", "high, low")
    made = twist("vocoder", "train", both, "--out", tmp_path / "v2", "--updates", 1, "--every-speaker",
                 "--tokenizer", tiny.tokenizer, "--like", tiny.vocoder, "--json")  # fmt: skip
    assert made.json["speakers"] == ["high", "low"]
    shown = twist("show", tmp_path / "v2", "--json").json  # the folder of a training stands for its vocoder
    assert shown["kind"].startswith("vocoder") and "low" in str(shown)
    spoken = ["resynth", tiny.speech / "low" / "0.wav", "--vocoder", tmp_path / "v2", "--speaker", "low"]
    assert twist(*spoken, "--tokenizer", tiny.tokenizer, "--out", tmp_path / "said.wav").code == 0


def test_doctor_and_fetch_list_without_a_network(twist, tmp_path, monkeypatch):
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "none"))
    facts = twist("doctor", "--json").json
    assert facts["cores"] >= 1 and facts["memory_gb"] > 0.5 and "not fetched yet" in facts["fetched"]["smollm2-135m"]
    assert (
        "mini-25hz-500" in facts["bundled"]["tokenizer"] and isinstance(facts["slow"], list) and not facts["problems"]
    )
    listed = twist("fetch").out
    assert all(name in listed for name in ("smollm2-135m", "whisper-tiny.en", "cmudict", "utmos", "wordllama-256"))
    assert "mini-25hz" not in listed  # ships, so there is nothing to fetch
    assert not (tmp_path / "none").exists()


# Bad input: one paragraph, the exit code, nothing half-written.


def test_a_folder_without_audio(twist, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("hello")
    twist("quickstart", "--speech", tmp_path / "notes", "--out", tmp_path / "run").refused(str(tmp_path / "notes"))


@pytest.mark.parametrize(("name", "content"), [("letter.wav", b"Dear Sir or Madam,"), ("nothing.wav", b"")])
def test_a_file_that_is_no_sound(twist, tiny: Tiny, tmp_path, name, content):
    bad = tmp_path / "speech" / name
    bad.parent.mkdir()
    bad.write_bytes(content)
    voice = ["--tokenizer", tiny.tokenizer, "--vocoder", tiny.vocoder]
    twist("show", bad).refused(name)
    twist("resynth", bad, "--out", tmp_path / "r.wav", *voice).refused(name)
    twist("tokenize", bad.parent, "--out", tmp_path / "u", "--tokenizer", tiny.tokenizer).refused(name, code=1)
    assert not list(tmp_path.rglob("shard*")) and not (tmp_path / "r.wav").exists()
    assert json.loads((tmp_path / "u" / "failures.jsonl").read_text())["id"] == name


def test_an_8_khz_stereo_file_works(twist, tiny: Tiny, tmp_path):
    mono = babble(2.0, seed=3, rate=8000)
    soundfile.write(tmp_path / "phone.wav", np.stack([mono, 0.5 * mono], axis=1), 8000)
    voice = ["--tokenizer", tiny.tokenizer, "--vocoder", tiny.vocoder]
    made = twist("resynth", tmp_path / "phone.wav", "--out", tmp_path / "r.wav", *voice)
    assert made.code == 0
    assert soundfile.info(tmp_path / "r.wav").samplerate == 16_000
    assert soundfile.info(tmp_path / "r.wav").duration == pytest.approx(2.0, abs=0.1)


def test_an_unknown_setting_names_the_nearest(twist, tmp_path):
    twist("quickstart", "--set", "warm.lrr=1", "--out", tmp_path / "run").refused("'lrr'", "did you mean 'lr'?")
    assert not (tmp_path / "run").exists()


def test_a_model_of_other_units(twist, tiny: Tiny, other_tokenizer: Path, tmp_path):
    from twistlm.lm.warmstart import cold_start

    spec = UnitSpec.from_json((other_tokenizer / "spec.json").read_text())
    cold_start(tiny.text_lm, spec, seed=0).save(tmp_path / "lm")
    voice = ["--tokenizer", tiny.tokenizer, "--vocoder", tiny.vocoder]
    prompt = tiny.speech / "low" / "0.wav"
    made = twist("generate", tmp_path / "lm", prompt, "--out", tmp_path / "c.wav", *voice)
    made.refused("do not speak the same units", "encoder_sha256", "tokenize again")
    assert not (tmp_path / "c.wav").exists()


def test_a_text_lm_is_no_model_to_judge(twist, tiny: Tiny):
    twist("eval", tiny.text_lm).refused("not a trained model", "twist train")
    twist("eval", "nobody").refused("nobody: no such folder", "mini-lm")


def test_a_run_that_was_stopped_is_called_one(twist, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("metrics.jsonl", "config.json"):
        (tmp_path / "run" / name).write_text("{}")
    twist("eval", tmp_path / "run").refused("has not come to its end", "twist train command again")


def test_shells_complete(twist, monkeypatch):
    assert "--install-completion" in twist("--help").out
    monkeypatch.setenv("_TWIST_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "twist study long --bud")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert twist().out.split() == ["--budgets"]


def test_the_version_is_told(twist):
    assert twist("--version").out == f"twistlm {metadata.version('twistlm')}\n"


def test_one_clip_has_no_interval(twist):
    from twistlm.cli.evaluation import _perplexity

    ends = (None, None)
    of = {"val_ppl": 2.0, "val_ppl_ci": ends, "nll_per_second": 3.0, "nll_per_second_ci": ends}
    said = _perplexity({**of, "bits_per_second": 4.0, "bits_per_second_ci": ends, "n_documents": 1})
    assert "nan" not in said and said.endswith("4.00 bits a second; on 1 clip, so there is no interval")


def test_a_run_without_results(twist, tmp_path):
    twist("report", tmp_path).refused("results.json", "twist eval")
    (tmp_path / "results.json").write_text('{"warm":')
    twist("report", tmp_path).refused("not JSON")
    (tmp_path / "results.json").write_text("{}")
    twist("report", tmp_path).refused("warm is missing")
    assert not (tmp_path / "report.html").exists()


def test_no_network_and_nothing_cached(twist, tmp_path, monkeypatch):
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "cache"))
    for name in ("PIP_INDEX_URL", "HF_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port: refuses at once
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_RETRIES", "0")
    twist("fetch", "smollm2-135m").refused("smollm2-135m", "TWISTLM_CACHE", code=1)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_a_place_that_cannot_be_written(twist, tiny: Tiny, tmp_path):
    (tmp_path / "file").write_text("")
    made = twist("tokenize", tiny.speech, "--out", tmp_path / "file" / "units", "--tokenizer", tiny.tokenizer)
    made.refused(str(tmp_path / "file"), code=1)


def test_usage_errors_exit_with_2(twist):
    assert twist("tokenize").code == 2
    assert twist("sing").code == 2
    assert twist("quickstart", "--help").code == 0


def test_explain_gives_each_kind_its_exit_code():
    assert explain(BadInput("no"))[1] == 2
    assert explain(TrainingError("no"))[1] == 1
    assert explain(OSError(28, "No space left on device", "units/a"))[1] == 1
    assert "units/a" in explain(OSError(28, "No space left on device", "units/a"))[0]
    assert explain(KeyboardInterrupt())[1] == 130
    long = explain(BadInput("word " * 60))[0]
    assert max(map(len, long.splitlines())) <= 100


@pytest.mark.parametrize(("flags", "traceback"), [([], False), (["--debug"], True)])
def test_a_fault_of_ours_is_a_paragraph_unless_debug(tmp_path, flags, traceback):
    script = (
        "import sys\nfrom twistlm.jobs import inspecting\nfrom twistlm.cli.main import main\n"
        "def broken(path, **options):\n    raise ZeroDivisionError('of our own')\n"
        f"inspecting.describe = broken\nsys.argv = ['twist', 'show', {str(tmp_path)!r}, *{flags}]\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert ("Traceback" in done.stderr) is traceback
    assert "ZeroDivisionError" in done.stderr and "of our own" in done.stderr


def test_a_corpus_in_archives_and_units_of_others(twist, tiny: Tiny, tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for path in sorted((tiny.speech / "low").iterdir())[:3]:
            tar.add(path, path.name)
    m, units = tmp_path / "m.jsonl", tmp_path / "units"
    made = twist("manifest", tmp_path, "--corpus", "webdataset", "--heldout", 0.4, "--out", m, "--json")
    assert made.json["clips"] == 3 and set(made.json["splits"]) == {"train", "heldout"}
    cut = twist("tokenize", m, "--out", units, "--tokenizer", tiny.tokenizer, "--json")
    assert (cut.json["done"], cut.json["failed"]) == (3, 0)
    twist("manifest", tmp_path, "--corpus", "timit", "--out", m).refused("'timit'", "librispeech")
    twist("manifest", tmp_path, "--corpus", "webdataset", "--split", "dev", "--out", m).refused("split dev")

    lines = [{"file_name": f"a{i}", "units": [1, 2, i], "duration": [1, 2, 3]} for i in range(4)]
    published = tmp_path / "features.jsonl"
    published.write_text("".join(json.dumps(line) + "\n" for line in lines))
    take = ["import-units", published, "--tokenizer", tiny.tokenizer]
    twist(*take, "--out", units).refused("moves one unit in five", "--padding 40")
    assert twist(*take, "--out", tmp_path / "slam", "--padding", 40).code == 0
    assert twist("show", tmp_path / "slam", "--json").json["padding"] == 40
    taken = twist(*take, "--out", units, "--padding", 0, "--json")
    assert (taken.json["done"], taken.json["unit_spec"]) == (4, cut.json["unit_spec"])
    spec = tiny.tokenizer / "spec.json"
    again = twist("import-units", published, "--tokenizer", spec, "--out", units, "--padding", 0)
    assert "0 clips taken over, 4 were there" in again.out
    published.write_text(json.dumps(lines[0] | {"units": [1, 2, 500]}))
    twist("import-units", published, "--tokenizer", spec, "--out", units, "--padding", 0).refused(
        "line 1", "do not fit"
    )


def test_what_files_say_reaches_no_terminal_as_a_control(twist, tmp_path: Path) -> None:
    evil = "a\x1b[2J\x1b]0;owned\x07\x9b1m\u202e[bold]"
    (tmp_path / f"{evil}.wav").write_bytes(b"no sound")
    for words in (("show", tmp_path / f"{evil}.wav"), ("manifest", tmp_path, "--out", tmp_path / "m.jsonl", "--json")):
        said = twist(*words)
        assert not set(said.out + said.err) & {"\x1b", "\x07", "\x9b", "\u202e"}, said.err
    assert r"a\x1b[2J\x1b]0;owned\x07\x9b1m\u202e[bold]" in twist("show", tmp_path / f"{evil}.wav").err
    assert visible("tab\tline\nö 漢 😀") == "tab\tline\nö 漢 😀"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.thorough
def test_a_result_that_cannot_be_printed_is_one_line(tiny: Tiny) -> None:
    words = [sys.executable, "-m", "twistlm", "show", str(tiny.tokenizer)]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 1 and "could not be printed: No space left" in ran.stderr
    assert "Traceback" not in ran.stderr and "Exception ignored" not in ran.stderr


@pytest.mark.thorough
def test_tokenizers_of_others(twist, tiny: Tiny, tmp_path, monkeypatch):
    """An encoder of transformers and one of fairseq, k-means on them, and centroids in a file."""
    import torch

    from encoders import stand_in
    from test_units_fairseq import checkpoint
    from twistlm.units.kmeans import Codebook

    stand_in("hubert-large")[0].save_pretrained(tmp_path / "large")
    torch.save(checkpoint("hubert-base")[1], tmp_path / "base.pt")
    speech, out = tiny.speech / "low", tmp_path / "fitted"
    options = ["--layer", 2, "--k", 8, "--normalize", "--padding", 40, "--json"]
    fitted = twist("kmeans", speech, "--encoder", tmp_path / "large", "--out", out, *options)
    assert (fitted.json["padding"], fitted.json["normalize_input"], fitted.json["hop"]) == (40, True, 320), fitted.err
    cut = twist("tokenize", speech, "--tokenizer", out, "--out", tmp_path / "units", "--json")
    assert cut.json["failed"] == 0 and cut.json["unit_spec"] == fitted.json["unit_spec"]

    np.save(tmp_path / "c.npy", Codebook.load(out / "codebook.safetensors").centroids)
    take = ["tokenizer", "import", tmp_path / "c.npy", "--encoder"]
    again = [*take, tmp_path / "large", "--layer", 2, "--padding", 40]
    made = twist(*again, "--normalize", "--name", "fitted", "--out", tmp_path / "again", "--json")
    assert made.json["unit_spec"] == fitted.json["unit_spec"], made.err  # the same weights, however they came
    other = twist(*again, "--raw", "--out", tmp_path / "raw", "--json")
    assert other.json["normalize_input"] is False and other.json["unit_spec"] != fitted.json["unit_spec"]
    fairseq = [*take, tmp_path / "base.pt", "--raw", "--out", tmp_path / "f"]
    twist(*fairseq).refused("give --layer")
    assert "of layer 2" in twist(*fairseq, "--layer", 2).out
    twist(*fairseq, "--layer", 2).refused("there already")
    assert twist("tokenize", speech, "--tokenizer", tmp_path / "f", "--out", tmp_path / "u2").code == 0

    assert twist(*again, "--out", tmp_path / "no").code == 2  # raw or normalised has no default
    new = ["--raw", "--layer", 2, "--out", tmp_path / "no"]
    twist(*take[:3], *new).refused("give --encoder")
    twist("tokenizer", "import", "km.bin", *new).refused("neither a file nor a published codebook", "slamkit-mhubert")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "cache"))
    hub = "facebook/hubert-base-ls960"
    twist(*take, hub, *new).refused(f"hub {hub}", "HF_HUB_OFFLINE is set", code=1)
    fit = twist("kmeans", speech, "--encoder", hub, "--layer", 6, "--out", tmp_path / "no")
    fit.refused("HF_HUB_OFFLINE is set", code=1)
    assert not (tmp_path / "no").exists()


@pytest.mark.thorough
def test_odd_requests_to_judges_and_speakers_are_refused_and_json_is_json(twist, tiny: Tiny, tmp_path):
    units, run, prompt = tmp_path / "units", tmp_path / "run", tiny.speech / "low" / "0.wav"
    twist("manifest", tiny.speech, "--heldout", 0.25, "--out", tmp_path / "m.jsonl")
    twist("tokenize", tmp_path / "m.jsonl", "--out", units, "--tokenizer", tiny.tokenizer)
    short = [f"--set={s}" for s in ("updates=1", "context=32", "batch_rows=1", "precision=float32", "warmup=1")]
    twist("train", units, "--text-lm", tiny.text_lm, "--out", run, *short)
    parts = ["--tokenizer", tiny.tokenizer, "--vocoder", tiny.vocoder]
    for seconds in (-1, 0, "nan", "inf"):
        said = twist("generate", run, prompt, "--out", tmp_path / "x.wav", *parts, "--prompt-seconds", seconds)
        said.refused("--prompt-seconds) is how much of the prompt is heard")
    mini = f"swuggy-dev={tiny.suite}"
    twist("eval", run, mini, "--split", "nonsense").refused("--split and --context are of a perplexity")
    twist("eval", run, "--units", units, "--normalize", "sum").refused("--normalize are of suites")
    twist("eval", run, "--generation", "--temperature", 0.5, "--temperature", 0.5).refused("name each once")
    twist("eval", run, "--generation", "--judge-model", "x").refused("name it with --judge")
    assert "Invalid value for '--seed'" in twist("eval", run, mini, "--seed", -1).err
    one = twist("eval", run, "--units", units, "--out", tmp_path / "e", "--json").json
    assert not one["notes"] and twist("show", tmp_path / "e" / "perplexity.json", "--json").json["split"] == "heldout"
    twist("train", units, "--text-lm", tiny.text_lm, "--out", tmp_path / "b", *short, "--seed", 1)
    note = twist("eval", tmp_path / "b", "--units", units, "--out", tmp_path / "e", "--json").json["notes"]
    assert "a perplexity of other model, and was replaced" in note[0]
    (tmp_path / "e" / "perplexity.json").write_text("[1")  # damaged: no loss
    assert not twist("eval", tmp_path / "b", "--units", units, "--out", tmp_path / "e", "--json").json["notes"]
    told = [twist("eval", one, mini, "--tokenizer", tiny.tokenizer, "--out", tmp_path / "s", "--json").json["notes"]
            for one in (run, run, tmp_path / "b")]  # fmt: skip
    assert told[:2] == [[], []] and "held scores of another model, and was replaced" in told[2][0]
    twist("report", run / "lm").refused("holds no results.json of a quickstart and nothing judged")
    twist("report", tmp_path / "nowhere").refused("no such folder")
    shown = twist("show", run / "lm" / "tokenizer_config.json", "--json").json
    assert shown["kind"] == "JSON" and str(run / "lm") in shown["hint"]


def test_what_is_undefined_is_null_in_json():
    from twistlm.cli.command import _as_json

    values = {"a": float("nan"), "b": [float("inf"), {"c": 1.5}]}
    assert json.loads(_as_json(values)) == {"a": None, "b": [None, {"c": 1.5}]}
