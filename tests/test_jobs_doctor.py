"""`twist doctor`: a line for all that is bundled, what is missing of it, and what is slow and why."""

from __future__ import annotations

from pathlib import Path

import torch

from twistlm.compute.choices import Choice
from twistlm.errors import ArtifactError
from twistlm.evaluate.suites.catalogue import BUNDLED
from twistlm.files import artifacts
from twistlm.jobs import doctor

FAST = Choice(took="bf16", because="timed", seconds={"float32": 2.0, "bf16": 1.0})


def test_everything_that_ships_has_a_line(monkeypatch, tmp_path):
    things, problems = doctor.bundled()
    assert not problems
    for kind in ("encoder", "tokenizer", "vocoder", "lm", "listening"):
        assert set(things[kind]) == {path.name for path in artifacts.bundled(kind).iterdir() if path.is_dir()}
    ships = {path.name for path in artifacts.bundled("speech").parent.iterdir() if path.is_dir()} - {"make"}
    assert ships == set(things) - {"suite"} | set(BUNDLED.values())
    assert things["lm"]["mini-lm"].startswith(
        "smollm2-135m and a difference, of units 569515e93de726b2, tokenizer mini"
    )
    assert set(things["suite"]) == set(BUNDLED) and things["suite"]["mini-swuggy"] == "560 pairs"
    assert "vocoder mini-25hz-500 (bundled)" in things["tokenizer"]["mini-25hz-500"]
    assert things["vocoder"]["mini-25hz-500"].endswith("speakers awb, slt")
    assert things["tokenizer"]["mini-50hz-100"].endswith("no vocoder")
    assert "14 voices" in things["speech"]["speech"]


def test_what_should_ship_and_does_not_is_a_problem(monkeypatch, tmp_path):
    def only_some(name: str) -> Path:
        if name.startswith(("vocoder", "speech", "mini-sblimp")):
            raise ArtifactError(f"{name} is missing")
        return real(name)

    real = artifacts.bundled
    monkeypatch.setattr(artifacts, "bundled", only_some)
    for module in ("twistlm.files.known", "twistlm.evaluate.suites.catalogue"):
        monkeypatch.setattr(f"{module}.bundled", only_some)
    things, problems = doctor.bundled()
    assert things["vocoder"]["mini-25hz-500"] == things["speech"]["speech"] == "missing or broken"
    assert any("bundled suite mini-sblimp: mini-sblimp is missing" in problem for problem in problems)


def test_what_is_slow_is_said_with_its_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "cores", lambda: torch.get_num_threads())
    monkeypatch.setattr(doctor, "_NVIDIA", tmp_path / "version")
    monkeypatch.setattr(doctor, "_AMD", tmp_path / "nodes")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert doctor.slow(FAST) == []

    slower = Choice(took="float32", because="timed", seconds={"float32": 1.0, "bf16": 1.8})
    assert "bf16 take 1.8 times as long" in doctor.slow(slower)[0]
    monkeypatch.setattr(doctor, "cores", lambda: torch.get_num_threads() + 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert "cores: its default here" in doctor.slow(FAST)[0]
    monkeypatch.setattr(doctor, "cores", lambda: 1)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert "no AVX2" in doctor.slow(FAST)[0]

    node = tmp_path / "nodes" / "1"
    node.mkdir(parents=True)
    (node / "properties").write_text("cpu_cores_count 8\nsimd_count 0\n")
    monkeypatch.setattr(torch.version, "hip", None)
    assert len(doctor.slow(FAST)) == 1
    (node / "properties").write_text("simd_count 304\n")
    assert "AMD GPU is idle" in doctor.slow(FAST)[0]
    (tmp_path / "version").write_text("NVRM version: …")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "build for CPUs" in doctor.slow(FAST)[0]
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "CUDA 12.8 and finds none" in doctor.slow(FAST)[0]
