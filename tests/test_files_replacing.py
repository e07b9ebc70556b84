"""What a verb may write over: an earlier one of its own, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from standins import Tiny
from twistlm.errors import BadInput
from twistlm.files.replacing import require_replaceable
from twistlm.jobs.codebook import fit_codebook
from twistlm.jobs.hubert import hubert_config, pretrain_hubert
from twistlm.jobs.importing import import_published
from twistlm.jobs.vocoder import fit_vocoder


def made(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_json", ".json").replace("_txt", ".txt")).write_text(text)
    return folder


def test_only_an_earlier_one_may_be_replaced(tmp_path: Path) -> None:
    def ask(folder: Path, **more: object) -> None:
        require_replaceable(folder, what="a tokenizer", mark="spec.json", **more)  # type: ignore[arg-type]

    ask(tmp_path / "missing")
    ask(made(tmp_path / "empty"))
    own = made(tmp_path / "own", spec_json='{"n_units": 3}', notes_txt="kept by whom?")
    ask(own)
    ask(own, inputs=("mini-25hz", tmp_path / "elsewhere"), holds="n_units")
    for folder in (made(tmp_path / "thesis", notes_txt="x"), tmp_path / "thesis" / "notes.txt"):
        with pytest.raises(BadInput, match=r"is not a tokenizer \(which has a spec\.json\)"):
            ask(folder)
    with pytest.raises(BadInput, match="is not a tokenizer"):
        ask(own, holds="something else")
    for source in (own, made(own / "speech")):
        with pytest.raises(BadInput, match="in it is what is read"):
            ask(own, inputs=(source,))


def test_the_folder_one_is_in_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = made(tmp_path / "own", spec_json="{}")
    monkeypatch.chdir(own)
    for name in (Path(), own, Path("..") / "own"):
        with pytest.raises(BadInput, match="the folder that this runs in"):
            require_replaceable(name, what="a tokenizer", mark="spec.json")


@pytest.mark.thorough
def test_the_run_of_a_language_model_is_no_place_for_other_trainings(tiny: Tiny, tmp_path: Path) -> None:
    run = made(tmp_path / "run", config_json='{"run_fingerprint": "0"}')
    (run / "metrics.jsonl").write_text('{"update": 0}\n')
    config = hubert_config(front_end="filterbank", frame_rate=25, n_targets=8, updates=1, seed=0)
    options = {"speakers": (), "every_speaker": True, "updates": 2, "rows": 2, "seed": 0, "like": tiny.vocoder}
    for training in (
        lambda: pretrain_hubert(tiny.speech, run, config),
        lambda: fit_vocoder(tiny.speech, tiny.tokenizer, run, **options),
    ):
        with pytest.raises(BadInput, match=r"holds the run of a language model \(twist train\)"):
            training()
    assert (run / "metrics.jsonl").read_text() == '{"update": 0}\n'


@pytest.fixture
def thesis(tmp_path: Path) -> Path:
    """A folder with what nobody can make again, under the names that verbs write."""
    for name in ("out", "out/encoder", "out/checkpoint", "out/vocoder"):
        made(tmp_path / name, thesis_txt="three years")
    return tmp_path / "out"


def test_kmeans_hubert_vocoders_and_imports_leave_what_is_not_theirs(tiny: Tiny, thesis: Path) -> None:
    config = hubert_config(front_end="filterbank", frame_rate=25, n_targets=8, updates=1, seed=0)
    vocoder = {"speakers": (), "every_speaker": True, "updates": 2, "rows": 2, "seed": 0, "like": tiny.vocoder}
    for run, said in (
        (lambda: fit_codebook(tiny.speech, "mini-25hz", thesis, layer=1, k=4, seed=0), "a tokenizer"),
        (lambda: pretrain_hubert(tiny.speech, thesis, config), "an encoder"),
        (lambda: fit_vocoder(tiny.speech, tiny.tokenizer, thesis, **vocoder), "a vocoder"),
        (lambda: import_published(tiny.text_lm, tiny.tokenizer, thesis), "a unit LM"),
    ):
        with pytest.raises(BadInput, match=f"is not {said}"):
            run()
    assert sum(path.read_text() == "three years" for path in thesis.rglob("thesis.txt")) == 4


def test_a_codebook_is_not_fitted_over_the_speech_it_hears(tiny: Tiny, tmp_path: Path) -> None:
    speech = made(tmp_path / "speech", spec_json="{}")
    (speech / "0.wav").write_bytes((tiny.speech / "low" / "0.wav").read_bytes())
    with pytest.raises(BadInput, match="in it is what is read"):
        fit_codebook(speech, "mini-25hz", speech, layer=1, k=4, seed=0)
    assert (speech / "0.wav").is_file()


def test_hubert_goes_on_with_no_other_kind_of_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    config = hubert_config(front_end="filterbank", frame_rate=25, n_targets=8, updates=1, seed=0)
    for kind, files in (
        ("lm", {"run_json": "{}"}),
        ("vocoder", {"state_json": json.dumps({"update": 3, "identity": {}})}),
    ):
        made(tmp_path / kind / "checkpoint", **files)
        with pytest.raises(BadInput, match="is not a checkpoint of twist hubert"):
            pretrain_hubert(tiny.speech, tmp_path / kind, config)
        assert not (tmp_path / kind / ".targets").exists()


def test_a_vocoder_goes_on_with_no_other_kind_of_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    made(tmp_path / "run" / "checkpoint", run_json="{}")
    options = {"speakers": (), "every_speaker": True, "updates": 2, "rows": 2, "seed": 0, "like": tiny.vocoder}
    with pytest.raises(BadInput, match="is not a checkpoint of a vocoder"):
        fit_vocoder(tiny.speech, tiny.tokenizer, tmp_path / "run", **options)
