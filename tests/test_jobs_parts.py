"""A model knows its units: tokenizer and vocoder are found by its UnitSpec; `twist eval MODEL` judges the whole."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from standins import Tiny
from test_cli import twist  # noqa: F401
from twistlm import recipes
from twistlm.corpus.tokenize import tokenize
from twistlm.errors import BadInput
from twistlm.evaluate.suites import catalogue
from twistlm.files.artifacts import bundled
from twistlm.jobs import evaluating, judging, parts
from twistlm.lm.folders import load_model
from twistlm.lm.warmstart import cold_start
from twistlm.study.judging import pair_values
from twistlm.study.run import train_units
from twistlm.types import UnitSpec
from twistlm.units.catalogue import read_spec, tokenizer_of, tokenizers
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder import catalogue as vocoders


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def two_runs(tiny: Tiny, tmp_path: Path) -> Path:
    """The folder of a quickstart with units and two models of one update, and no word on which parts were used."""
    tokenize(tiny.speech, tmp_path / "q" / "units", SpeechTokenizer.load(tiny.tokenizer), max_failures=0.0)
    config = dataclasses.replace(
        recipes.quickstart().warm, updates=1, context=32, batch_rows=1, eval_every=0, precision="float32"
    )
    for side, rows in (("warm", "covariance"), ("cold", "random")):
        train_units(
            tmp_path / "q" / "units",
            tiny.text_lm,
            config,
            tmp_path / "q" / side,
            init=side,
            rows=rows,
            head="as-is",
            head_start="rows",
            seed=0,
        )
    return tmp_path / "q"


def test_every_bundled_tokenizer_and_vocoder_is_found_by_its_spec(monkeypatch):
    for name in sorted(path.name for path in bundled("tokenizer").iterdir()):
        found = tokenizer_of(read_spec(name))
        assert found is not None and (found.name, found.place) == (name, "bundled")
    for name in sorted(path.name for path in bundled("vocoder").iterdir()):
        spec = vocoders.read_spec(name)
        assert vocoders.vocoder_of(spec).name == name and tokenizer_of(spec).name == name
        assert vocoders.vocoder_like(spec).name == name
    assert vocoders.vocoder_like(read_spec("mini-25hz-200")).place == "bundled"
    config = recipes.quickstart()
    chosen = parts.parts_without_model(tokenizer=config.tokenizer, vocoder=None)
    assert chosen.vocoder.name == config.vocoder
    with pytest.raises(BadInput, match=r"mini-50hz-200.*--tokenizer mini-50hz-200"):
        parts.parts_without_model(tokenizer="mini-50hz-200", vocoder=None)


def test_what_is_searched_goes_first_and_what_is_broken_is_no_match(tiny: Tiny, tmp_path):
    spec = read_spec("mini-25hz-500")
    copy = tmp_path / "there" / "deep" / "mine"
    shutil.copytree(bundled("tokenizer/mini-25hz-500"), copy)
    assert tokenizer_of(spec, search=[tmp_path / "there"]).folder == copy
    (copy / "spec.json").write_text("{")
    assert tokenizer_of(spec, search=[tmp_path / "there"]).place == "bundled"
    assert len(list(tokenizers(search=[tmp_path / "there"]))) == len(list(tokenizers()))
    with pytest.raises(BadInput, match="--search takes folders"):
        tokenizer_of(spec, search=[tmp_path / "nowhere"])


def test_a_model_of_a_published_tokenizer_that_cannot_be_had(tiny: Tiny, tmp_path, monkeypatch):
    asked = []

    def offline(name):
        asked.append(name)
        raise BadInput(f"{name}: no network")

    monkeypatch.setattr("twistlm.units.catalogue.published_folder", offline)
    name = "hubert-base-ls960-kmeans-100"
    spec = dataclasses.replace(read_spec(tiny.tokenizer), encoder=name)
    cold_start(tiny.text_lm, spec, seed=0).save(tmp_path / "lm")
    with pytest.raises(BadInput, match="no network"):
        parts.parts_of_model(tmp_path / "lm", speaks=False)
    with pytest.raises(BadInput, match="no vocoder here"):  # said before anything is fetched
        parts.parts_of_model(tmp_path / "lm", speaks=True)
    assert asked == [name]


@pytest.mark.thorough
def test_eval_alone_judges_the_whole(twist, tiny: Tiny, two_runs: Path, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(judging, "BUNDLED", {"mini-swuggy": ""})
    monkeypatch.setattr(evaluating, "open_suite", lambda name: catalogue.open_suite(f"{name}={tiny.suite}"))
    warm = two_runs / "warm"
    twist("eval", warm).refused("no tokenizer here", "--search")
    twist("eval", two_runs).refused("whole quickstart", str(warm))
    named = {"config": {"tokenizer": str(tiny.tokenizer), "vocoder": str(tiny.vocoder)}}
    (two_runs / "results.json").write_text(json.dumps(named))

    found = twist("eval", warm / "lm", "--against", two_runs / "cold", "--json").json
    assert found["tokenizer"] == {
        "name": str(tiny.tokenizer),
        "folder": str(tiny.tokenizer),
        "found": "named by the run",
    }
    assert found["results"] == str(warm / "eval") and not found["notes"]
    assert {path.suffix for path in (warm / "eval").iterdir()} == {".json", ".parquet"}
    assert found["units"] == str(two_runs / "units") and found["context"] == 32
    assert found["perplexity"]["val_nll"] > 0 and "bits_per_second_difference" in found

    # The same suite, as the quickstart's own report scores it.
    scores = found["suites"]["mini-swuggy"]["scores"]
    assert set(scores) == {"mean", "sum"}
    suite = catalogue.open_suite(f"mini-swuggy={tiny.suite}")
    spoken = suite.tokenize(SpeechTokenizer.load(tiny.tokenizer))
    report = pair_values(load_model(warm), suite, spoken, seed=0)
    groups = scores["mean"][0]["groups"]
    assert groups["all"]["accuracy"] == report["accuracy"]
    for heard in ("seen_voice", "unseen_voice"):
        assert groups[f"heard={heard}"]["accuracy"] == report[heard]["accuracy"]

    text = twist("eval", warm).out
    assert "of other against, and was replaced" in text and "\nperplexity " in text
    assert "mini-swuggy: version" in text and f"results: {warm / 'eval'}" in text
    shown = twist("generate", warm, tiny.speech / "low" / "0.wav", "--out", tmp_path / "x.wav", "--seconds", 1)
    assert "(named by the run)" in shown.out


def test_units_that_moved_with_their_run_and_units_that_changed(tiny: Tiny, two_runs: Path):
    record = json.loads((two_runs / "warm" / "config.json").read_text())
    assert record["units"] == str(two_runs / "units")
    moved = two_runs.rename(two_runs.with_name("moved"))
    assert judging.units_of_run(moved / "warm", split="heldout") == (moved / "units", "")
    assert "no clips of the split test" in judging.units_of_run(moved / "warm", split="test")[1]
    shard = moved / "units" / "shard-00000.parquet"
    shard.rename(moved / "shard")
    assert "no more in" in judging.units_of_run(moved / "warm", split="heldout")[1]
    other = SpeechTokenizer.load(tiny.tokenizer)
    tokenize(tiny.speech / "low", moved / "units", other, max_failures=0.0)
    assert "are others than" in judging.units_of_run(moved / "warm", split="heldout")[1]
    assert judging.units_of_run(moved / "warm" / "lm", split="heldout")[1].endswith("has no record of a training")


def test_spec_of_names_what_has_none(tmp_path):
    with pytest.raises(BadInput, match="does not say what its units are"):
        parts.spec_of(tmp_path)
    assert isinstance(parts.spec_of(bundled("vocoder/mini-25hz-500")), UnitSpec)
