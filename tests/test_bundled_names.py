"""What is bundled is enough by its name: shown, continued, judged and spoken without naming other parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from standins import Tiny
from test_cli import twist  # noqa: F401
from twistlm.evaluate.suites import catalogue
from twistlm.files.artifacts import bundled
from twistlm.jobs import evaluating, judging
from twistlm.lm.folders import BUNDLED


def test_what_is_bundled_is_shown_by_its_name(twist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    shown = twist("show", "mini-lm", "--json").json
    assert shown["kind"] == "unit LM" and shown["folder"] == str(bundled("lm/mini-lm"))
    assert (shown["tokenizer"], shown["vocoder"]) == ("mini-25hz-500 (bundled)",) * 2
    shown = twist("show", "mini-25hz-500", "--json").json  # the tokenizer's; its vocoder is said
    assert (shown["kind"], shown["n_units"], shown["vocoder"]) == ("tokenizer", 500, "mini-25hz-500 (bundled)")
    shown = twist("show", bundled("vocoder/mini-25hz-500"), "--json").json
    assert (shown["kind"], shown["speakers"], shown["voice"]) == ("vocoder", "awb, slt", {"speaker": "slt"})
    assert twist("show", "mini-25hz", "--json").json["kind"] == "encoder"
    twist("show", "mini-26hz").refused("no such file or folder", "mini-25hz-500", "mini-sblimp", "speech")
    (tmp_path / "mini-lm").mkdir()  # a folder of that name comes first
    twist("show", "mini-lm").refused("is nothing twistlm knows")


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_model_needs_no_other_name(twist, tiny: Tiny, tmp_path: Path, monkeypatch, name: str):  # noqa: F811
    """The model and its tokenizer and vocoder are the real ones, the pairs are few."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(judging, "BUNDLED", {"mini-swuggy": ""})
    monkeypatch.setattr(evaluating, "open_suite", lambda suite: catalogue.open_suite(f"{suite}={tiny.suite}"))
    prompt = tiny.speech / "low" / "0.wav"
    said = twist("generate", name, prompt, "--seconds", 1, "--out", "longer.wav")
    assert said.code == 0 and "tokenizer mini-25hz-500 (bundled), vocoder mini-25hz-500 (bundled)" in said.out
    assert soundfile.info("longer.wav").frames
    assert twist("resynth", prompt, "--units-of", name, "--out", "again.wav").code == 0

    found = twist("eval", name, "--json").json
    assert set(found["suites"]["mini-swuggy"]["scores"]) == {"mean", "sum"}
    assert Path(found["results"]) == Path("runs") / name / "eval" and (tmp_path / found["results"]).is_dir()
    [note] = found["notes"]
    assert note.startswith("no perplexity") and "--units" in note
