"""The whole loop on tiny stand-ins: its results, its resuming, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from standins import Tiny, babble
from tokenizer_standins import FakeTokenizer, sound
from twistlm import recipes
from twistlm.config import QuickstartConfig, override, to_dict
from twistlm.corpus import manifest
from twistlm.corpus.opened import open_corpus
from twistlm.corpus.tokenize import tokenize
from twistlm.errors import AudioError, BadInput, TwistError, UnitSpecMismatch
from twistlm.evaluate import asr
from twistlm.evaluate.suites import catalogue
from twistlm.files import atomic
from twistlm.jobs.inspecting import describe
from twistlm.study import prompts
from twistlm.study import quickstart as module
from twistlm.study.quickstart import _Job, quickstart
from twistlm.types import Units
from twistlm.vocoder.vocoder import Vocoder


@dataclasses.dataclass
class Of:
    units: Path


# What may differ between two runs that did the same.
CLOCK = {"seconds", "peak_rss_gb"}


@pytest.fixture(autouse=True)
def tiny_suite(monkeypatch: pytest.MonkeyPatch, tiny: Tiny) -> None:
    monkeypatch.setattr(module, "open_suite", lambda name: catalogue.open_suite(f"{name}={tiny.suite}"))
    monkeypatch.setattr(prompts, "CONTINUATION_SECONDS", 1.5)


def tiny_config(tiny: Tiny, out: Path) -> QuickstartConfig:
    base = recipes.quickstart()
    short = {
        "updates": 6,
        "batch_rows": 2,
        "context": 32,
        "eval_every": 2,
        "checkpoint_every": 2,
        "precision": "float32",
    }
    return dataclasses.replace(
        base,
        speech=str(tiny.speech),
        tokenizer=str(tiny.tokenizer),
        vocoder=str(tiny.vocoder),
        text_lm=str(tiny.text_lm),
        warm=dataclasses.replace(base.warm, **short),
        cold=dataclasses.replace(base.cold, **short),
        n_resynth=2,
        out=str(out),
    )


def without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_clock(v) for k, v in value.items() if k not in CLOCK}
    return [without_clock(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def finished(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[QuickstartConfig, dict[str, Any]]:
    """One whole run, shared by the tests that only look."""
    config = tiny_config(tiny, tmp_path_factory.mktemp("finished") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "open_suite", lambda name: catalogue.open_suite(f"{name}={tiny.suite}"))
        patch.setattr(prompts, "CONTINUATION_SECONDS", 1.5)
        return config, quickstart(config)


@pytest.mark.thorough
def test_one_that_is_not_finished_is_shown_as_what_it_is(finished, tmp_path):
    shutil.copytree(Path(finished[0].out) / "stages", tmp_path / "stages")
    (tmp_path / "stages" / "judge.json").unlink()
    told = describe(tmp_path)
    assert told["kind"] == "quickstart run" and told["state"].startswith("unfinished")
    assert "tokenize" in told["stages done"] and "judge" not in told["stages done"]


def test_results_hold_every_number_and_the_report_is_there(finished):
    config, results = finished
    out = Path(config.out)
    assert json.loads((out / "results.json").read_text()) == results
    for side in ("warm", "cold"):
        low, high = results[side]["val_nll_ci"]
        assert low <= results[side]["val_nll"] <= high
        assert [row["update"] for row in results[side]["history"] if row["val_nll"] is not None] == [0, 2, 4, 6]
        assert not (out / side / "checkpoint").exists(), "training state must go when training is done"
        assert results["mini_swuggy"][side]["n"] == 6
    assert results["resynthesis"]["n"] == 0 and results["resynthesis"]["wer_resynth"] is None
    assert results["seconds"]["total"] == pytest.approx(sum(v for k, v in results["seconds"].items() if k != "total"))
    assert results["peak_rss_gb"] > 0.05
    assert len(results["samples"]) == results["speech"]["splits"]["heldout"]["documents"] == 2
    voc = Vocoder.load(config.vocoder)
    for sample in results["samples"]:
        assert soundfile.info(out / sample["prompt"]).duration == pytest.approx(3.0)
        ids, runs = (np.array(sample["units"][name], kind) for name, kind in (("ids", np.uint16), ("runs", np.int32)))
        alone = voc(Units(ids, runs, voc.spec, "prompt"), durations="predicted")
        for side in ("warm", "cold"):
            assert soundfile.info(out / sample[side]).duration > len(alone.samples) / 16_000 + 0.3
    told = dict(results["commands"])["Train both sides for longer"]
    sets = [word for before, word in pairwise(shlex.split(told)) if before == "--set"]
    longer = override(recipes.quickstart(), sets)
    sides = {side: dataclasses.replace(getattr(config, side), updates=30) for side in ("warm", "cold")}
    assert dataclasses.replace(longer, out=config.out) == dataclasses.replace(config, **sides)
    assert "quickstart run" in describe(out)["kind"]
    page = (out / "report.html").read_text()
    assert "data:audio/mpeg" in page and results["unit_spec"]["encoder_sha256"] in page


def test_warm_and_cold_see_the_same_batches_and_start_apart(finished):
    _, results = finished
    assert results["warm"]["tokens"] == results["cold"]["tokens"] > 0
    assert results["warm"]["start"]["start"] == "warm" and results["cold"]["start"]["start"] == "cold"
    begun, trained = ([results[side]["history"][i]["val_nll"] for side in ("warm", "cold")] for i in (0, -1))
    assert begun[0] == begun[1] and trained[0] != trained[1], "heads of zeros begin at ln V, whatever is behind them"


def test_a_rerun_computes_nothing_and_gives_the_same(finished, monkeypatch):
    config, results = finished

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a finished stage was computed again")

    for name in ("tokenize", "train_units", "perplexity", "continuations"):
        monkeypatch.setattr(module, name, refuse)
    assert quickstart(config) == results


def same_numbers(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether two runs in different folders, with different clocks, gave the same."""
    both = [json.loads(json.dumps(without_clock(results))) for results in (found, expected)]
    for results in both:
        results["config"].pop("out"), results.pop("config_fingerprint"), results.pop("commands")
    return both[0] == both[1]


class Stopped(BaseException):
    """Nothing in the code may catch it."""


# Which of a run's writes it dies before: 2 a shard, 9 within warm, 17 within cold, 28 a sample.
@pytest.mark.parametrize("nth", [17, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 9, 28))])
def test_stopped_anywhere_and_rerun_gives_the_same_numbers(nth, finished, tmp_path, monkeypatch):
    config = dataclasses.replace(finished[0], out=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(atomic.Atomic, "__enter__", dying(nth, stop))
        with pytest.raises(Stopped):
            quickstart(config)
    assert same_numbers(quickstart(config), finished[1])


@pytest.mark.slow
@pytest.mark.parametrize("nth", [2, 5, 9, 12, 17, 22, 28, 36])
def test_killed_with_signal_9_and_rerun_gives_the_same_numbers(nth, tiny, finished, tmp_path):
    config = dataclasses.replace(finished[0], out=str(tmp_path / "run"))
    script = (
        "import sys, os, signal\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_quickstart as t\n"
        "from twistlm.config import override\n"
        "t.prompts.CONTINUATION_SECONDS = 1.5\n"
        f"t.module.open_suite = lambda name: t.catalogue.open_suite(name + {f'={tiny.suite}'!r})\n"
        f"t.atomic.Atomic.__enter__ = t.dying({nth}, lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
        "t.quickstart(override(t.recipes.quickstart(), sys.argv[1:]))\n"
    )
    values = [f"{key}={value}" for key, value in to_dict(config).items() if not isinstance(value, dict)]
    for side in ("warm", "cold"):
        values += [f"{side}.{key}={json.dumps(value)}" for key, value in to_dict(config)[side].items()]
    done = subprocess.run([sys.executable, "-c", script, *values], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert same_numbers(quickstart(config), finished[1])


def stop() -> None:
    raise Stopped


def dying(nth: int, die: Callable[[], None]) -> Callable[[Any], Path]:
    """An `Atomic.__enter__` that calls `die` before the nth write (notes of the time not counted)."""
    real, count = atomic.Atomic.__enter__, 0

    def enter(self: Any) -> Path:
        nonlocal count
        if self.path.name != "timings.json":
            count += 1
            if count == nth:
                die()
        return real(self)

    return enter


@pytest.mark.thorough
def test_another_budget_trains_again_and_keeps_the_units(finished, tmp_path, monkeypatch):
    config, before = finished
    shutil.copytree(config.out, tmp_path / "run")
    changed = dataclasses.replace(
        config, out=str(tmp_path / "run"), cold=dataclasses.replace(config.cold, lr=3e-3, updates=4)
    )
    monkeypatch.setattr(module, "tokenize", lambda *a, **k: pytest.fail("the units had not changed"))
    after = quickstart(changed)
    assert after["warm"]["history"] == before["warm"]["history"]
    assert after["cold"]["updates"] == 4 and after["cold"]["history"] != before["cold"]["history"]


@pytest.mark.thorough
def test_transcripts_bring_word_error_rates(tiny, tmp_path, monkeypatch):
    speech = tmp_path / "speech"
    speech.mkdir()
    rows = []
    for i, split in enumerate(["train"] * 4 + ["heldout_text", "heldout_voice", "heldout_voice"]):
        soundfile.write(speech / f"{i}.wav", babble(4.0, seed=i), 16_000)
        rows.append({"id": str(i), "path": f"{i}.wav", "speaker": split, "split": split, "text": "two words"})
    (speech / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    class Listener:
        protocol = asr.PROTOCOL

        def transcribe(self, clip: Any) -> str:
            return "two" if clip.id == "5" else "two words"

    asked = []
    monkeypatch.setattr(module.artifacts, "resolve", lambda name: asked.append(name))
    monkeypatch.setattr(asr.Whisper, "load", lambda *a, **k: Listener())
    results = quickstart(dataclasses.replace(tiny_config(tiny, tmp_path / "run"), speech=str(speech), n_resynth=50))
    assert asked == ["whisper-tiny.en"]
    assert results["resynthesis"]["n"] == 2, "only the held-out voice is taken where there is one"
    assert results["resynthesis"]["wer_original"] == pytest.approx(1 / 4)
    assert len(results["samples"]) == 3
    assert results["samples"][0]["warm_text"] in ("two", "two words")
    for row in rows:
        row["text"] = "two"  # transcripts were corrected
    (speech / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = quickstart(dataclasses.replace(tiny_config(tiny, tmp_path / "run"), speech=str(speech), n_resynth=50))
    assert again["resynthesis"]["wer_original"] == pytest.approx(1 / 2)
    assert {sample["text"] for sample in again["samples"]} == {"two"}
    assert [s["units"] for s in again["samples"]] == [s["units"] for s in results["samples"]], "nothing else moved"


@pytest.mark.thorough
def test_unusable_held_out_clips_within_tolerance_end_nothing(tiny, tmp_path, monkeypatch):
    speech = tmp_path / "speech"
    speech.mkdir()
    rows = []
    for i, split in enumerate(["train"] * 2 + ["heldout_text"] * 3 + ["heldout_voice"]):
        soundfile.write(speech / f"{i}.wav", babble(4.0, seed=i), 16_000)
        text = "..." if i == 3 else "two words"
        rows.append({"id": str(i), "path": f"{i}.wav", "speaker": split, "split": split, "text": text})
    (speech / "5.wav").write_bytes(b"RIFF, and then nothing")  # the only one of its split
    (speech / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    class Listener:
        protocol = asr.PROTOCOL

        def transcribe(self, clip: Any) -> str:
            return "two words"

    monkeypatch.setattr(module, "MAX_FAILURES", 0.5)
    monkeypatch.setattr(module.artifacts, "resolve", lambda name: name)
    monkeypatch.setattr(asr.Whisper, "load", lambda *a, **k: Listener())
    results = quickstart(dataclasses.replace(tiny_config(tiny, tmp_path / "run"), speech=str(speech), n_resynth=50))
    assert results["resynthesis"]["n"] == 2 and set(results["speech"]["splits"]) == {"train", "heldout_text"}
    assert "1 of 6 clips were unusable" in results["speech"]["source"]


def test_other_clips_held_out_are_another_corpus_to_train_and_judge_on(tmp_path):
    for i in range(4):
        sound(tmp_path / "speech" / f"{i}.wav", i)
    found = []
    for held in ("0.wav", "1.wav"):
        entries = manifest.build(tmp_path / "speech")
        told = [dataclasses.replace(e, split="heldout" if e.id == held else "train") for e in entries]
        tokenize(told, units := tmp_path / held, FakeTokenizer())
        found.append((open_corpus(units, split=None).fingerprint, _Job._corpus(Of(units))))
    assert found[0][0] == found[1][0] and found[0][1] != found[1][1]


def test_refuses_a_folder_with_other_things(tiny, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    (tmp_path / "units").mkdir()
    with pytest.raises(BadInput, match="neither empty nor"):
        quickstart(tiny_config(tiny, tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thesis.txt", "units"]


def test_refuses_two_at_once(tiny, tmp_path):
    from twistlm.study.stages import Stages

    with Stages(tmp_path / "run").locked(), pytest.raises(BadInput, match="another run is working"):
        quickstart(tiny_config(tiny, tmp_path / "run"))


def test_refuses_a_vocoder_of_other_units(tiny, other_tokenizer, tmp_path):
    with pytest.raises(UnitSpecMismatch, match="encoder_sha256"):
        quickstart(dataclasses.replace(tiny_config(tiny, tmp_path / "run"), tokenizer=str(other_tokenizer)))


def test_refuses_speech_that_is_no_sound(tiny, tmp_path):
    speech = tmp_path / "speech"
    speech.mkdir()
    for i in range(4):
        (speech / f"{i}.wav").write_text("this is a letter")
    with pytest.raises(AudioError, match="4 of 4 sound files"):
        quickstart(dataclasses.replace(tiny_config(tiny, tmp_path / "run"), speech=str(speech)))


def test_refuses_a_single_file(tiny, tmp_path):
    (tmp_path / "speech").mkdir()
    soundfile.write(tmp_path / "speech" / "one.wav", babble(4.0, seed=0), 16_000)
    with pytest.raises(TwistError, match="at least one must be for"):
        quickstart(dataclasses.replace(tiny_config(tiny, tmp_path / "run"), speech=str(tmp_path / "speech")))
