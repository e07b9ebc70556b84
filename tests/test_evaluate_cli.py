"""`twist eval RUN SUITE…` on tiny models and benchmarks laid out as the published ones."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from standins import Tiny
from suite_standins import make_multispeaker, make_prosaudit, make_salmon, make_sblimp, make_swuggy
from test_cli import twist  # noqa: F401
from twistlm.lm.warmstart import cold_start
from twistlm.study import evaluating
from twistlm.types import UnitSpec


@pytest.fixture(scope="module")
def bench(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models of tiny's units and five benchmarks."""
    root = tmp_path_factory.mktemp("bench")
    spec = UnitSpec.from_json((tiny.tokenizer / "spec.json").read_text())
    for name, seed in (("a", 0), ("b", 1)):
        cold_start(tiny.text_lm, spec, seed=seed).save(root / name / "lm")
    make_swuggy(root / "slm21")
    make_sblimp(root / "slm21")
    make_prosaudit(root / "prosaudit")
    make_salmon(root / "salmon")
    make_multispeaker(root / "sSC")
    return root


@pytest.fixture(autouse=True)
def cache(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWISTLM_CACHE", str(bench / "cache"))


def test_all_suites_two_models_and_a_rerun(twist, tiny: Tiny, bench: Path, tmp_path, monkeypatch):  # noqa: F811
    suites = [f"swuggy-dev={bench}/slm21", f"sblimp-dev={bench}/slm21", f"prosaudit-dev={bench}/prosaudit"]
    suites += [f"salmon={bench}/salmon", f"storycloze={bench}/sSC"]
    command = ["eval", bench / "a", *suites, "--against", bench / "b", "--normalize", "both"]
    command += ["--tokenizer", tiny.tokenizer, "--out", tmp_path / "out", "--json"]
    found = twist(*command)
    assert found.code == 0, found.err
    numbers = found.json["suites"]
    assert list(numbers) == ["swuggy-dev", "sblimp-dev", "prosaudit-dev", "salmon", "storycloze"]
    for suite, of in numbers.items():
        assert json.loads((tmp_path / "out" / f"{suite}.json").read_text()) == of
        assert len(of["checksum"]) == 64 and of["version"] and of["unit_spec"] == found.json["unit_spec"]
        for rule in ("mean", "sum"):
            first, second = of["scores"][rule]
            for group, gap in of["differences"][rule].items():
                one, other = first["groups"][group], second["groups"][group]
                assert gap["mean"] == pytest.approx(one["accuracy"] - other["accuracy"], abs=1e-12)
                assert 0 < gap["p"] <= 1 and one["n"] == other["n"] >= 1
    groups = numbers["swuggy-dev"]["scores"]["mean"][0]["groups"]
    assert {"all", "vocabulary=in", "vocabulary=oov", "frequency=1-5", "voice=C"} <= set(groups)
    assert (groups["all"]["n"], groups["all"]["n_pairs"]) == (4, 9)
    tables = sorted((tmp_path / "out").glob("*.parquet"))
    assert len(tables) == 10
    table = pq.read_table(next(t for t in tables if t.name.startswith("salmon")))
    assert {"id", "facet.part", "positive_logprob", "n_negative", "outcome_mean", "outcome_sum"} <= set(
        table.column_names
    )

    def never(*args, **options):
        raise AssertionError("a rerun must not load a model")

    monkeypatch.setattr(evaluating, "load_model", never)
    assert twist(*command).json == found.json
    text = twist(*command[:-1]).out
    assert "swuggy-dev: version" in text and "vocabulary=in" in text and "p = " in text and "summed" in text


def test_a_broken_table_or_another_sound_is_scored_again(twist, tiny: Tiny, bench: Path, tmp_path):  # noqa: F811
    make_prosaudit(tmp_path / "pros")
    command = ["eval", bench / "a", f"prosaudit-dev={tmp_path}/pros", "--normalize", "sum", "--json"]
    command += ["--tokenizer", tiny.tokenizer, "--out", tmp_path / "out"]
    before = twist(*command).json["suites"]["prosaudit-dev"]
    folder = tmp_path / "pros" / "english" / "dev"
    (folder / "pl10.wav").write_bytes((bench / "slm21/lexical/dev/A1w.wav").read_bytes())
    after = twist(*command).json["suites"]["prosaudit-dev"]
    assert after["version"] == before["version"] and after["checksum"] != before["checksum"]


def test_a_submission(twist, tiny: Tiny, bench: Path, tmp_path):  # noqa: F811
    suites = [f"swuggy-dev={bench}/slm21", f"sblimp-dev={bench}/slm21", f"prosaudit-dev={bench}/prosaudit"]
    command = ["eval", bench / "a", *suites, "--tokenizer", tiny.tokenizer, "--out", tmp_path / "out"]
    command += ["--submission", tmp_path / "sub"]
    twist(*command, "--normalize", "both").refused("--normalize mean or")
    assert twist(*command, "--normalize", "mean").code == 0
    places = {"sLM21/syntactic/dev.txt": "slm21/syntactic/dev", "prosAudit/english_dev.txt": "prosaudit/english/dev"}
    for place, data in places.items():
        lines = (tmp_path / "sub" / place).read_text().splitlines()
        assert {line.split(" ")[0] for line in lines} == {f.stem for f in (bench / data).glob("*.wav")}
    assert (tmp_path / "sub/sLM21/lexical/dev.txt").is_file()


def test_refusals_come_before_any_work(twist, tiny: Tiny, other_tokenizer: Path, bench: Path, tmp_path):  # noqa: F811
    suite = f"sblimp-dev={bench}/slm21"
    rest = ["--tokenizer", tiny.tokenizer, "--out", tmp_path / "out"]
    twist("eval", bench / "a", suite, *rest).refused("--normalize mean, sum or both")
    rest += ["--normalize", "mean"]
    twist("eval", bench / "a", "sblimp", *rest).refused("no suite 'sblimp'", "sblimp-dev")
    twist("eval", bench / "a", suite, suite, *rest).refused("named twice: sblimp-dev")
    twist("eval", bench / "none", suite, *rest).refused("not a trained model")
    twist("eval", bench / "a", suite, *rest[2:], "--tokenizer", other_tokenizer).refused("do not speak the same units")
    twist("eval", bench / "a", f"salmon={bench}/salmon", *rest, "--submission", tmp_path / "sub").refused("none of the")
    assert not (tmp_path / "out").exists() and not (tmp_path / "sub").exists()
