"""The plan against closed formulas, published counts, and what a run really takes."""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig

from test_lm_families import FAMILIES, LLAMA
from test_train_loop import SPEC, with_
from twistlm.errors import BadInput, ConfigError
from twistlm.lm import pretrained
from twistlm.lm.pretrained import from_config
from twistlm.lm.shapes import named_shape
from twistlm.lm.warmstart import cold_start
from twistlm.train.network import H100, Gpu, parse_rate, traffic
from twistlm.train.parallel import auto
from twistlm.train.plan import Plan, count_update, matmul_rate, plan

UNITS_500 = dataclasses.replace(SPEC, n_units=500)
LAYERS, WIDTH, INNER, ROWS, CONTEXT = 2, 32, 48, 4, 16
CONFIG = with_(batch_rows=ROWS, context=CONTEXT)
counted = functools.cache(count_update)  # several tests compare with the same


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = LlamaConfig(
        vocab_size=40, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=4, tie_word_embeddings=True,
    )  # fmt: skip
    made = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(made)
    return made


@pytest.mark.parametrize(("name", "published"), [("opt-125m", 87_015_936), ("opt-350m", 305_714_176)])
@pytest.mark.thorough
def test_named_shapes_have_the_published_parameters(name: str, published: int) -> None:
    """Slam (arXiv 2502.15814), appendix B, counts them with 500 units."""
    with FakeTensorMode():
        lm = cold_start(name, UNITS_500, seed=0)
        assert sum(p.numel() for p in lm.model.parameters()) == published


def test_operations_and_memory_by_the_formula(folder: Path) -> None:
    once = counted(folder, SPEC, CONFIG, precision="float32")
    matrices = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER) + 22 * WIDTH
    norms = (2 * LAYERS + 1) * WIDTH
    assert once.parameters == once.trainable == matrices + norms
    # Forward 2, backward 4 for each weight and place; attention 2 products forward, 5 backward.
    attention = 7 * LAYERS * 2 * ROWS * CONTEXT * CONTEXT * WIDTH
    assert once.flops == 6 * matrices * ROWS * CONTEXT + attention
    assert (once.weights, once.gradients, once.optimizer) == tuple(n * (matrices + norms) for n in (4, 4, 8))
    assert once.peak <= once.weights + once.gradients + once.optimizer + once.activations
    # At the very least each layer keeps what its six kinds of products read, and the loss its logits.
    kept = 4 * ROWS * CONTEXT * (LAYERS * (5 * WIDTH + 2 * INNER) + 22)
    assert kept < once.activations < 6 * kept


@pytest.mark.thorough
def test_what_saves_memory_is_planned_to(folder: Path) -> None:
    whole = counted(folder, SPEC, CONFIG, precision="float32")
    parts = counted(folder, SPEC, dataclasses.replace(CONFIG, accumulate=4), precision="float32")
    assert parts.flops == whole.flops and parts.activations < 0.4 * whole.activations
    again = counted(folder, SPEC, dataclasses.replace(CONFIG, checkpoint_activations=True), precision="float32")
    assert again.activations < 0.7 * whole.activations and whole.flops < again.flops < 1.4 * whole.flops
    body = counted(folder, SPEC, CONFIG, precision="float32", freeze="body")
    assert body.trainable == 22 * WIDTH and body.optimizer < whole.optimizer / 10 and body.flops < whole.flops
    half = counted(folder, SPEC, CONFIG, precision="bf16")
    assert half.flops == whole.flops and half.weights == whole.weights and half.activations != whole.activations


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.thorough if n == "mistral" else pytest.mark.slow) for n in FAMILIES],
)
def test_compiled_layers_keep_no_more_of_every_architecture(name: str, tmp_path: Path) -> None:
    from_config(FAMILIES[name]()).save_pretrained(tmp_path)
    plain = count_update(tmp_path, SPEC, CONFIG, precision="bf16")
    untraced = pytest.warns(RuntimeWarning, match="ImageGPTBlock cannot be traced")
    with untraced if name == "imagegpt" else nullcontext():
        compiled = count_update(tmp_path, SPEC, dataclasses.replace(CONFIG, compile=True), precision="bf16")
    assert compiled.activations <= plain.activations and compiled.flops == plain.flops


@pytest.mark.slow
def test_what_compiled_layers_keep_was_measured() -> None:
    """OPT-125M's shape without dropout, 40 x 705: 8.50e9 bytes at most on an H100 (docs/results/gpu.md)."""
    config = named_shape("opt-125m")
    config.dropout = 0.0
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        run = with_(batch_rows=40, accumulate=1, context=705, compile=True)
        peak = count_update(folder, UNITS_500, run, precision="bf16", on_gpu=True).peak
    assert peak == pytest.approx(8.50e9, rel=0.05)


@pytest.mark.thorough
def test_ranks_share_all_but_activations(folder: Path) -> None:
    alone = counted(folder, SPEC, CONFIG, precision="float32")
    shared = counted(folder, SPEC, CONFIG, precision="float32", ranks=2)
    assert (shared.parameters, shared.trainable) == (alone.parameters, alone.trainable)
    for name in ("weights", "gradients", "optimizer", "flops"):
        assert getattr(shared, name) * 2 == getattr(alone, name)
    # Half the rows, but a layer and the tables put together from both ranks, and their gradients.
    half = counted(folder, SPEC, dataclasses.replace(CONFIG, batch_rows=ROWS // 2), precision="float32")
    together = shared.activations - half.activations
    assert 0 < together < 2 * alone.weights and shared.peak < half.peak + together
    # Many ranks with little to do never have as much again as at the start, when each has the whole model.
    one_row = dataclasses.replace(CONFIG, batch_rows=8, accumulate=1, context=2)
    many = counted("opt-125m", SPEC, one_row, precision="float32", ranks=8)
    assert many.peak == 4 * many.parameters + many.weights
    with pytest.raises(ConfigError, match="3 ranks"):
        counted(folder, SPEC, CONFIG, precision="float32", ranks=3)
    lengths, cpu = np.full(30, 15), torch.device("cpu")
    both = [
        plan(folder, SPEC, lengths, CONFIG, device=cpu, share=0.5, flops_per_second=1e9, ranks=ranks)
        for ranks in (1, 2)
    ]
    one, two = both
    assert two.flops == one.flops and two.disk == one.disk and two.hours == one.hours / 2 and two.tokens == one.tokens


def test_a_plan_adds_up_and_takes_nothing(folder: Path) -> None:
    state = torch.get_rng_state()
    lengths = np.full(30, 15)
    made = plan(folder, SPEC, lengths, CONFIG, device=torch.device("cpu"), share=0.5, flops_per_second=1e9)
    assert torch.equal(state, torch.get_rng_state())
    assert made.padding == 0 and made.epochs == pytest.approx(CONFIG.updates * ROWS / 30)
    assert made.tokens == CONFIG.updates * ROWS * CONTEXT and made.flops == CONFIG.updates * made.update.flops
    assert made.hours * 3600 == pytest.approx(made.flops / 0.5e9)
    for wrong in ({"share": 0.0}, {"share": 1.5}, {"share": 0.5, "flops_per_second": 0.0}):
        with pytest.raises(BadInput, match="share"):
            plan(folder, SPEC, lengths, CONFIG, device=torch.device("cpu"), **wrong)
    with pytest.raises(BadInput, match="no documents"):
        plan(folder, SPEC, lengths[:0], CONFIG, device=torch.device("cpu"), share=0.5)


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_a_mixture_of_experts_is_refused_in_words(precision: Any, tmp_path: Path) -> None:
    from_config(MixtralConfig(**LLAMA, num_local_experts=4, num_experts_per_tok=2)).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="a mixture of 4 experts: it can be trained, and not planned"):
        count_update(tmp_path, SPEC, CONFIG, precision=precision)


def test_a_model_larger_than_this_machine_is_planned_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained.os, "sysconf", lambda name: 1)
    with pytest.raises(BadInput, match="and this machine has 0 GB"):
        cold_start(folder, SPEC, seed=0)
    assert counted(folder, SPEC, CONFIG, precision="float32").parameters > 0


def test_the_rate_is_one_a_machine_can_have() -> None:
    assert 1e7 < matmul_rate(torch.device("cpu"), "float32", size=64, seconds=0.01) < 1e14


# The most memory of a process while it trains, above what it had before; in one process, smaller first.
MEASURE = """
import ctypes, dataclasses, gc, json, re, sys, tempfile
from pathlib import Path
from typing import Any
sys.path.insert(0, sys.argv[1])
import torch
from test_train_loop import SPEC, corpus, with_
from twistlm.lm import pretrained
from twistlm.lm.pretrained import from_config
from twistlm.lm.shapes import named_shape
from twistlm.lm.warmstart import cold_start
from twistlm.train.loop import train
from twistlm.train.plan import count_update

def status(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

found = []
for case in json.loads(sys.argv[2]):
    spec = dataclasses.replace(SPEC, n_units=500)
    config = with_(updates=2, eval_every=0, **case["config"])
    documents = corpus(spec, n=400)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the case before freed is given back, not used again uncounted
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = status("VmRSS")
    with tempfile.TemporaryDirectory() as out:
        train(cold_start(case["shape"], spec, seed=0, layers=case["layers"]), documents, config, out)
    measured = status("VmHWM") - before
    planned = count_update(case["shape"], spec, config, precision=config.precision, layers=case["layers"])
    found.append({"measured": measured, "planned": planned.peak})
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the memory of a process from Linux")
def test_memory_is_as_planned(tmp_path: Path) -> None:
    """A small OPT in parts, and SmolLM2-135M's shape; both in float32 and within 15 %."""
    smol = LlamaConfig(
        vocab_size=502, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    smol.architectures = ["LlamaForCausalLM"]
    smol.save_pretrained(tmp_path)
    small = {"shape": "opt-125m", "layers": 2, "config": {"batch_rows": 4, "context": 128, "accumulate": 2}}
    large = {"shape": str(tmp_path), "layers": None, "config": {"batch_rows": 1, "context": 128}}
    cases = [small | {"layers": 1}, small, large]  # the first loads what Python loads when first used; not judged
    command = [sys.executable, "-c", MEASURE, str(Path(__file__).parent), json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)[1:]
    for case in found:
        assert case["planned"] == pytest.approx(case["measured"], rel=0.15), found


@pytest.mark.thorough
def test_disk_is_what_lies_there_when_most_does(folder: Path) -> None:
    """A real run of 6 updates had 23.74 MB with a checkpoint every 2 (planned: 23.71), 35.60 (35.56) with "wsd"."""
    lengths, cpu = np.full(30, 15), torch.device("cpu")

    def most(**changes: Any) -> float:
        config = dataclasses.replace(CONFIG, updates=6, **changes)
        made = plan(folder, SPEC, lengths, config, device=cpu, share=0.5, flops_per_second=1e9)
        return made.disk / made.update.weights

    assert most(checkpoint_every=2, schedule="cosine") == 6  # two of weights and two moments
    assert most(checkpoint_every=2, schedule="wsd") == 9
    assert most(checkpoint_every=4, schedule="cosine") == most(checkpoint_every=0, schedule="cosine") == 4


@pytest.mark.thorough
def test_a_plan_for_gpus_that_are_not_here(folder: Path) -> None:
    lengths, cpu = np.full(30, 15), torch.device("cpu")
    small = dataclasses.replace(H100, memory=1e4)  # nothing fits it
    config = dataclasses.replace(CONFIG, precision="auto")

    def planned(gpu: Gpu, ranks: int, network: float | None = 50e9) -> Plan:
        return plan(folder, SPEC, lengths, config, device=cpu, share=0.5, ranks=ranks, gpu=gpu, network=network)

    one, whole, sliced = planned(H100, 1), planned(H100, 2), planned(small, 2)
    assert one.precision == "bf16" and one.flops_per_second == H100.flops and one.traffic is None
    assert (one.sharing, whole.sharing, sliced.sharing) == ("whole", "whole", "slices-bf16")
    assert whole.update.weights == one.update.weights == 2 * sliced.update.weights and whole.disk == one.disk
    n = one.update.parameters
    assert whole.traffic is not None and whole.traffic.inside == 8 * n / 2 and whole.traffic.between == 0
    assert sliced.traffic is not None and sliced.traffic.inside == (2 * 2 + 4) * n / 2
    assert sliced.hours == pytest.approx(max(sliced.traffic.seconds, sliced.seconds) * CONFIG.updates / 3600)
    assert planned(H100, 2, None).traffic is None
    config = CONFIG
    assert config.precision == "float32"
    with pytest.raises(BadInput, match="its rate of bf16 products, and this run's precision is float32"):
        planned(H100, 2)
    given = plan(folder, SPEC, lengths, config, device=cpu, share=0.5, ranks=2, gpu=small, flops_per_second=1e12)
    assert (given.precision, given.sharing, given.flops_per_second) == ("float32", "slices", 1e12)


@pytest.mark.parametrize(
    ("memory", "precision", "sharing"),
    [(None, "bf16", "slices"), (3.2e10, "bf16", "whole"), (3.1e10, "bf16", "slices-bf16"), (3e10, "float32", "slices")],
)  # fmt: skip
def test_how_ranks_share_a_model_of_1e9_parameters(memory: float | None, precision: Any, sharing: str) -> None:
    """16 GB of weights, gradients and moments are whole on a card of twice as many."""
    assert auto(10**9, memory, precision) == sharing


def test_traffic_between_machines() -> None:
    facts: dict[str, Any] = {"ranks": 32, "parts": 3, "gpu": H100, "network": 50e9}
    slices = traffic(10**9, sharing="slices-bf16", nodes_hold_all=False, **facts)
    # Twice put together as bf16 and added up in float32, three times; three quarters of it come from other machines,
    # through eight cards.
    assert slices.between == pytest.approx(3 * (2 * 2 + 4) * 1e9 * 3 / 4 / 8)
    hybrid = traffic(10**9, sharing="slices-bf16", nodes_hold_all=True, **facts)
    assert hybrid.between == pytest.approx(3 * 2 * 4e9 * 3 / 4 / 8) and hybrid.inside == slices.inside
    assert slices.seconds == max(slices.inside / 4.5e11, slices.between / 50e9)


@pytest.mark.parametrize(("text", "expected"), [("400Gb", 50e9), ("3.2 Tb/s", 4e11), ("50GB", 50e9), ("1Gbps", 1.25e8)])
def test_rates_of_networks(text: str, expected: float) -> None:
    assert parse_rate(text) == pytest.approx(expected)
    for wrong in ("400", "fast", "0Gb", "-1Gb", "4 Mb"):
        with pytest.raises(BadInput, match="as 400Gb or 50GB"):
            parse_rate(wrong)
