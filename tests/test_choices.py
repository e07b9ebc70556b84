"""Choices between ways of computing the same thing: found by timing, named by the environment, kept in a file."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from standins import Tiny
from twistlm.compute import choices, precision, products, remembered
from twistlm.compute.choices import VARIABLE, choose, kept, race
from twistlm.compute.precision import SMOLLM2_135M, choose_precision, linear_shapes
from twistlm.compute.threads import in_order
from twistlm.corpus import manifest
from twistlm.corpus.tokenize import tokenize
from twistlm.errors import CheckpointError, ConfigError
from twistlm.jobs.judging import judge
from twistlm.lm.warmstart import cold_start
from twistlm.units.catalogue import read_spec
from twistlm.units.tokenizer import SpeechTokenizer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(choices, "_made", {})
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choices, "beside", lambda: lambda: 0.0)


def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "_made", {})


def never() -> dict[str, float]:
    raise AssertionError("timed again")


def test_a_machine_remembers_what_it_has_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("products", "a", lambda: {"mkl": 2.0, "onednn": 1.0}).because == "timed"
    another_process(monkeypatch)
    found = choose("products", "a", never)
    assert (found.took, found.because, found.seconds) == (
        "onednn",
        "timed before on this machine",
        {"mkl": 2.0, "onednn": 1.0},
    )
    for other in ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, {VARIABLE: "drafts=none"}):  # another machine; choices by name
        another_process(monkeypatch)
        with pytest.MonkeyPatch.context() as patched:
            for name, value in other.items():
                patched.setenv(name, value)
            assert choose("products", "a", lambda: {"mkl": 1.0, "onednn": 2.0}).took == "mkl"
    another_process(monkeypatch)
    assert choose("products", "a", never).took == "onednn"


def test_what_was_timed_beside_other_work_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "beside", lambda: lambda: 0.6)
    choose("products", "a", lambda: {"mkl": 2.0, "onednn": 1.0})
    assert not remembered.file().exists()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[1]",
        '{"products: a": 3}',
        '{"products: a": {"took": "x", "seconds": {}}}',
        '{"products: a": {"took": []}}',
    ],
)
def test_a_damaged_memory_is_none(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered.file().parent.mkdir(parents=True)
    remembered.file().write_text(content)
    assert choose("products", "a", lambda: {"mkl": 2.0, "onednn": 1.0}).took == "onednn"
    another_process(monkeypatch)
    assert choose("products", "a", never).because == "timed before on this machine"


def test_a_cache_that_cannot_be_written_costs_a_trial_and_no_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("no folder")
    for _ in range(2):
        another_process(monkeypatch)
        assert choose("products", "a", lambda: {"mkl": 2.0, "onednn": 1.0}).because == "timed"


def test_the_faster_way_is_taken_once_and_the_plain_one_within_the_margin() -> None:
    asked = []

    def times(**seconds: float):
        return lambda: asked.append(1) or seconds

    assert choose("products", "a", times(mkl=1.0, onednn=0.5)).took == "onednn"
    assert choose("products", "a", times(mkl=0.1, onednn=0.5)).took == "onednn"
    assert choose("products", "b", times(mkl=1.0, onednn=0.97)).took == "mkl"
    assert choose("products", "c", times(mkl=1.0, onednn=0.1), possible=False).took == "mkl"
    assert len(asked) == 2
    assert choices.made()["products: a"]["seconds"] == {"mkl": 1.0, "onednn": 0.5}


def test_an_encoders_products_want_a_clear_margin_and_those_laid_out_the_usual_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = torch.empty(48, 32)
    times = {"mkl": 1.2, "onednn": 1.0}
    monkeypatch.setattr(products, "_measure", lambda *what: times)
    assert not products.by_onednn(256, weight)  # two trials of one shape may differ by so much
    assert products.by_onednn(256, weight, laid_out=True) == products._ONEDNN
    times["mkl"] = 2.2
    assert products.by_onednn(64, weight) == products._ONEDNN


def test_the_environment_decides_without_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> dict[str, float]:
        raise AssertionError

    monkeypatch.setenv(VARIABLE, "products=onednn, drafts=none")
    found = choose("products", "a", never)
    assert (found.took, found.because) == ("onednn", "asked for")
    assert choose("drafts", "a", never).took == "none"
    assert choose("precision", "a", lambda: {"float32": 1.0, "bf16": 0.5}).because == "timed"
    for wrong in ("products=blas", "product=mkl", "mkl"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(ConfigError, match="products=mkl"):
            choose("products", wrong, never)


def test_what_a_file_keeps_decides_and_what_is_new_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "choices.json"
    assert choose("products", "a", lambda: {"mkl": 2.0, "onednn": 1.0}).took == "onednn"
    with kept(path):
        choose("products", "a", dict)  # known already: taken over
        choose("products", "b", lambda: {"mkl": 1.0, "onednn": 2.0})
    assert {key: value["took"] for key, value in json.loads(path.read_text()).items()} == {
        "products: a": "onednn",
        "products: b": "mkl",
    }
    another_process(monkeypatch)
    remembered.file().unlink()
    choose("products", "a", lambda: {"mkl": 1.0, "onednn": 2.0})
    monkeypatch.setenv(VARIABLE, "products=mkl")
    with kept(path, write=False):
        assert choose("products", "a", dict).took == "onednn"
        assert choose("products", "c", dict).took == "mkl"
    assert "products: c" not in path.read_text()
    assert choose("products", "a", dict).took == "mkl"
    for broken in ("{", '{"products: a": 3}', '{"products: a": {"took": "x", "because": "", "seconds": {}}}'):
        path.write_text(broken)
        with pytest.raises(CheckpointError, match="Remove it"), kept(path):
            pass


def test_a_stage_has_what_its_job_has_and_both_note_what_is_new(tmp_path: Path, monkeypatch) -> None:
    job, stage = tmp_path / "choices.json", tmp_path / "stage/choices.json"
    with kept(job):
        choose("products", "a", lambda: {"mkl": 2.0, "onednn": 1.0})
    monkeypatch.setattr(choices, "_made", {})  # as in another process
    with kept(job), kept(stage):
        assert choose("products", "a", dict).took == "onednn"
        assert choose("products", "b", lambda: {"mkl": 2.0, "onednn": 1.0}).took == "onednn"
    assert json.loads(job.read_text()) == json.loads(stage.read_text())
    job.unlink()
    monkeypatch.setattr(choices, "_made", {})
    with kept(job), kept(stage):
        assert choose("products", "a", dict).took == "onednn"
    assert not job.exists(), "what the stage had is not new"


def test_jobs_in_two_threads_have_choices_of_their_own(tmp_path: Path) -> None:
    for name, took in (("one", "mkl"), ("other", "onednn")):
        kind = {"took": took, "because": "timed", "seconds": {}}
        (tmp_path / name).write_text(json.dumps({"products: a": kind}))

    def asked() -> str:
        return choose("products", "a", dict).took

    with ThreadPoolExecutor(1) as thread:
        job = kept(tmp_path / "other")
        with kept(tmp_path / "one"):
            thread.submit(job.__enter__).result()
            assert (asked(), thread.submit(asked).result()) == ("mkl", "onednn")
            assert list(in_order(lambda _: asked(), range(2))) == ["mkl"] * 2  # its own threads
            choose("products", "b", lambda: {"mkl": 1.0, "onednn": 2.0})
            with ThreadPoolExecutor(1) as plain:
                assert plain.submit(asked).result() == "onednn"  # of no job that is known: the later one's
        thread.submit(job.__exit__, None, None, None).result()
    assert "products: b" in (tmp_path / "one").read_text()
    assert "products: b" not in (tmp_path / "other").read_text()


@pytest.mark.thorough
def test_tokenizing_and_judging_keep_their_choices_and_a_rerun_takes_them(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, taken = choices.choose, dict[str, str]()

    def timed(kind: str, what: str, measure: object, **more: bool) -> choices.Choice:
        found = real(kind, what, lambda: {"mkl": 2.0, "onednn": 1.0}, **more)
        taken[f"{kind}: {what}"] = found.took
        return found

    def work(n_clips: int) -> dict[str, dict[str, str]]:
        monkeypatch.setattr(choices, "_made", {})  # as in another process
        told = {}
        tokenize(entries[:n_clips], tmp_path / "units", SpeechTokenizer.load(tiny.tokenizer))
        told["units"] = dict(taken)
        taken.clear()
        judge(model, units=tmp_path / "units", split="train", out=tmp_path / "eval")
        told["eval"] = dict(taken)
        taken.clear()
        return told

    monkeypatch.setattr(products, "choose", timed)
    entries, model = manifest.build(tiny.speech, heldout=0.25), tmp_path / "model"
    cold_start(tiny.text_lm, read_spec(tiny.tokenizer), seed=0).save(model)
    first = work(4)
    for folder, of in first.items():
        path = tmp_path / folder / "choices.json"
        noted = json.loads(path.read_text())
        assert {key: one["took"] for key, one in noted.items()} == of and set(of.values()) == {"onednn"}
        path.write_text(json.dumps({key: {**one, "took": "mkl"} for key, one in noted.items()}))
    again = work(8)
    for folder, of in again.items():
        assert of.keys() & first[folder].keys()
        assert all(way == ("mkl" if key in first[folder] else "onednn") for key, way in of.items()), folder


def test_a_race_counts_the_least_and_leaves_the_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    took = {"quick": [5.0, 9.0, 1.0, 2.0, *[2.0] * 40], "slow": [5.0, 3.5, 3.2, 3.1, *[0.0] * 40]}
    calls = dict.fromkeys(took, 0)

    def way(name: str) -> None:
        nonlocal now
        now += took[name][calls[name]]
        calls[name] += 1

    monkeypatch.setattr(choices, "time", SimpleNamespace(perf_counter=lambda: now, thread_time=lambda: now))
    found = race({name: partial(way, name) for name in took}, seconds=40.0)
    assert found == {"quick": 1.0, "slow": 3.5}  # the first of each is not counted; 3.5 is more than three times 1
    assert calls["slow"] == 2 and calls["quick"] > 5


@pytest.mark.parametrize(
    ("times", "expected"),
    [({"float32": 2.0, "bf16": 1.0}, "bf16"), ({"float32": 1.0, "bf16": 1.9}, "float32")],
)
def test_auto_takes_the_faster_format(times: dict[str, float], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_has_bf16", lambda: True)
    monkeypatch.setattr(precision, "race", lambda ways, seconds: times)
    took, why = choose_precision("auto", CPU, SMOLLM2_135M, rows=512)
    assert took == expected == why.took
    assert why.seconds == {way: 210 * s for way, s in times.items()}
    assert "ms" in why.in_words()
    assert choose_precision("auto", CPU, SMOLLM2_135M, rows=512)[1] is why
    assert choose_precision("float32", CPU, {}, rows=1)[0] == "float32"
    assert choose_precision("bf16", CPU, {}, rows=1)[0] == "bf16"


def test_auto_asks_nobody_where_nothing_multiplies_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_has_bf16", lambda: False)
    monkeypatch.setattr(precision, "race", None)
    assert choose_precision("auto", CPU, SMOLLM2_135M, rows=512)[0] == "float32"
    monkeypatch.setattr(precision, "_has_bf16", lambda: True)
    monkeypatch.setenv(VARIABLE, "precision=bf16")
    assert choose_precision("auto", CPU, SMOLLM2_135M, rows=512)[0] == "bf16"


def test_both_formats_are_timed_on_the_models_products() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.Linear(24, 16), torch.nn.Linear(16, 24))
    shapes = linear_shapes(model)
    assert shapes == {(16, 24): 2, (24, 16): 1}
    before = torch.get_rng_state()
    found = precision._measure(shapes, 8)
    assert found.keys() == {"float32", "bf16"} and min(found.values()) > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(p.grad is not None for p in model.parameters())
    wide = {(4096, 11008): 3, (8192, 4096): 1, (10, 10): 1, (20, 10): 1, (30, 10): 1, (40, 10): 1}
    assert precision._tried(wide) == {(2048, 2048): 4, (40, 10): 1, (30, 10): 1, (20, 10): 1}


def test_bf16_is_refused_where_autocast_is_not() -> None:
    with pytest.raises(ConfigError, match="meta"):
        choose_precision("bf16", torch.device("meta"), {}, rows=1)
