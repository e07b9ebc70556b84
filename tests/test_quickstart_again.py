"""A quickstart that is run again in its folder, after others have been there, and speech that it cannot begin with."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile

from standins import Tiny, babble
from test_cli import twist  # noqa: F401
from test_quickstart import finished, module, prompts, same_numbers, tiny_config  # noqa: F401
from twistlm.errors import AudioError, BadInput
from twistlm.evaluate.suites import catalogue
from twistlm.study import run as training
from twistlm.study.quickstart import quickstart


@pytest.fixture
def again(finished, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    """A copy of a finished run, and its settings there."""
    monkeypatch.setattr(module, "open_suite", lambda name: catalogue.open_suite(f"{name}={tiny.suite}"))
    monkeypatch.setattr(prompts, "CONTINUATION_SECONDS", 1.5)
    out = tmp_path / "run"
    shutil.copytree(finished[0].out, out)
    return dataclasses.replace(finished[0], out=str(out)), out


@pytest.mark.thorough
def test_its_own_models_are_judged_whatever_was_made_of_them_since(finished, again, twist):  # noqa: F811
    config, out = again
    gone_on = twist("train", out / "units", "--out", out / "warm", "--more", 2, "--set", "lr=0.05")
    assert gone_on.code == 0, gone_on.err
    for stage in ("judge", "speak"):
        (out / "stages" / f"{stage}.json").unlink()
    assert same_numbers(quickstart(config), finished[1])
    changed = dataclasses.replace(config, warm=dataclasses.replace(config.warm, lr=1e-3))
    with pytest.raises(BadInput, match="more-1"):
        quickstart(changed)
    assert (out / "warm" / "more-1" / "lm").is_dir() and same_numbers(quickstart(config), finished[1])


@pytest.mark.thorough
@pytest.mark.parametrize("lost", ["units", "warm", "samples"])
def test_what_was_removed_is_made_again(finished, again, lost: str):  # noqa: F811
    config, out = again
    shutil.rmtree(out / lost)
    assert same_numbers(quickstart(config), finished[1]) and (out / lost).is_dir()


@pytest.mark.thorough
def test_ctrl_c_while_a_model_is_saved_ends_it(finished, again, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    config, out = again
    for side in ("warm", "cold"):
        (out / "stages" / f"{side}.json").unlink()
    begun, real = [], training.train

    def train(*given, **more):
        begun.append(given)
        return real(*given, **more)

    save = training.UnitLM.save

    def pressed(self, *given, **more):
        signal.raise_signal(signal.SIGINT)
        return save(self, *given, **more)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs begun in the background ignore it
    try:
        with monkeypatch.context() as patch:
            patch.setattr(training, "train", train)
            patch.setattr(training.UnitLM, "save", pressed)
            with pytest.raises(KeyboardInterrupt):
                quickstart(config)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(begun) == 1 and (out / "warm" / "result.json").is_file(), "cold was begun, or warm was not kept"
    assert same_numbers(quickstart(config), finished[1])


def test_clips_that_are_too_short_are_found_before_anything_is_cut(tiny: Tiny, tmp_path: Path, monkeypatch):
    speech = tmp_path / "speech"
    speech.mkdir()
    for i in range(6):
        soundfile.write(speech / f"{i}.wav", babble(4.0, seed=i), 16_000)
    soundfile.write(speech / "slip.wav", np.full(800, 0.1, np.float32), 16_000)
    monkeypatch.setattr(module, "tokenize", lambda *a, **k: pytest.fail("nothing should be cut"))
    with pytest.raises(AudioError, match=r"1 of 7 sound files .*slip.wav: too short: 0.050 s"):
        quickstart(dataclasses.replace(tiny_config(tiny, tmp_path / "run"), speech=str(speech)))
    (speech / "slip.wav").unlink()
    rows = [json.dumps({"id": str(i), "path": f"{i}.wav"}) for i in range(6)]
    (speech / "manifest.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(BadInput, match=r'manifest.jsonl has 6 clips, 6 of them .*"split": "heldout"'):
        quickstart(dataclasses.replace(tiny_config(tiny, tmp_path / "run"), speech=str(speech)))


def test_a_folder_is_named_once(twist, tmp_path: Path):  # noqa: F811
    refused = twist("quickstart", "--out", tmp_path / "a", "--set", f"out={tmp_path / 'b'}")
    assert refused.code == 2 and "given twice" in refused.err and not list(tmp_path.iterdir())
