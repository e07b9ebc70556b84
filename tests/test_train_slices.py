"""A start in which no rank holds the whole model: the same weights as a warm start, in the memory of its share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from test_lm_families import FAMILIES
from test_lm_model import make_spec
from test_train_parallel import free_port
from twistlm.errors import BadInput
from twistlm.lm.pretrained import from_config
from twistlm.lm.slices import warm_slices
from twistlm.lm.warmstart import warm_start
from twistlm.train.parallel import fill

MASKED = ("opt", "opt-350m", "pythia", "llama", "smollm2", "gpt2", "qwen2.5", "mistral", "bloom")


def text_lm(folder: Path, config: transformers.PretrainedConfig) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", MASKED)
def test_slices_are_the_weights_of_a_warm_start(name: str, tmp_path: Path) -> None:
    folder = text_lm(tmp_path / "text", FAMILIES[name]())
    own: dict[str, Any] = {"head": "own", "head_start": "zero"} if name == "smollm2" else {}
    how: dict[str, Any] = {"rows": "covariance", "seed": 3, "head": "as-is", "head_start": "rows"} | own
    expected = warm_start(folder, make_spec(), **how)
    found = warm_slices(folder, make_spec(), **how)
    assert found is not None
    lm, slices = found
    assert all(p.is_meta for p in lm.model.parameters())
    fill(lm, slices, torch.device("cpu"))
    theirs = dict(expected.model.named_parameters())
    assert dict(lm.model.named_parameters()).keys() == theirs.keys()
    for part, twin in (("parameters", theirs), ("buffers", dict(expected.model.named_buffers()))):
        for key, tensor in getattr(lm.model, f"named_{part}")():
            assert torch.equal(tensor, twin[key]), key
    assert lm.provenance == expected.provenance
    tokens = torch.arange(2, 20)[None]
    with lm.inference(), expected.inference():
        assert torch.equal(lm.forward_logits(tokens), expected.forward_logits(tokens))


def test_what_cannot_be_read_in_slices_is_begun_whole(tmp_path: Path) -> None:
    how: dict[str, Any] = {"rows": "random", "seed": 0, "head": "as-is", "head_start": "rows"}
    assert warm_slices(text_lm(tmp_path / "kinds", FAMILIES["gemma3"]()), make_spec(), **how) is None
    # Every other layer looks at a window: masks are buffers of each layer's own.
    neo = transformers.GPTNeoConfig(
        vocab_size=97, hidden_size=16, num_layers=4, num_heads=2, attention_types=[[["global", "local"], 2]],
        window_size=4, max_position_embeddings=64,
    )  # fmt: skip
    assert warm_slices(text_lm(tmp_path / "neo", neo), make_spec(), **how) is None
    warm_start(text_lm(tmp_path / "text", FAMILIES["llama"]()), make_spec(), **how).save(tmp_path / "unit-lm")
    with pytest.raises(BadInput, match="layers is 99; text has 1 to 2 to keep"):
        warm_slices(tmp_path / "text", make_spec(), **how, layers=99)
    assert warm_slices(tmp_path / "unit-lm", make_spec(), **how) is None


RANK = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from test_lm_model import make_spec
from twistlm.lm.model import UnitLM
from twistlm.lm.slices import warm_slices
from twistlm.lm.warmstart import warm_start
from twistlm.train.parallel import fill, gather, join, shard
from twistlm.train.record import weights_sha256
torch.set_num_threads(1)
folder, how = sys.argv[2], {"rows": "random", "seed": 0, "head": "as-is", "head_start": "rows"}

def memory(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what + ":"))

def start(nodes):
    lm, slices = warm_slices(folder, make_spec(), **how)
    whole = shard(lm, ranks, "slices", nodes=nodes)
    fill(lm, slices, torch.device("cpu"))
    return lm, whole

with join(torch.device("cpu")) as ranks:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    lm, whole = start(1)
    took = memory("VmHWM") - before
    hashes = {weights_sha256(lm.model)}
    if ranks.world == 4:
        lm, whole = start(2)  # two groups of two, each with all slices
        hashes.add(weights_sha256(lm.model))
    loss = lm.forward_logits(torch.arange(2, 12)[None]).square().mean() / ranks.world
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in lm.model.parameters()])
    norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    plain = warm_start(folder, make_spec(), **how)
    assert hashes == {weights_sha256(plain.model)}, hashes
    plain.forward_logits(torch.arange(2, 12)[None]).square().mean().backward()
    expected = float(torch.nn.utils.get_total_norm([p.grad for p in plain.model.parameters()]))
    os.write(1, (json.dumps({"took": took, "norm": norm, "expected": expected}) + "\\n").encode())
"""


@pytest.mark.slow  # imports torch in four processes
@pytest.mark.parametrize("world", [2, 4])
def test_a_start_on_ranks_takes_a_share_and_a_layer(world: int, tmp_path: Path) -> None:
    n_layers, width = (24, 512) if world == 2 else (3, 64)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=width, intermediate_size=11 * width // 4, num_hidden_layers=n_layers,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    folder = text_lm(tmp_path / "text", config)
    whole = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    port = str(free_port())
    command = [sys.executable, "-c", RANK, str(Path(__file__).parent), str(folder)]
    said = []
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": port, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    for process in processes:
        out, err = process.communicate(timeout=400)
        assert process.returncode == 0, err[-3000:]
        said.append(json.loads(out.splitlines()[-1]))
    layer = whole / n_layers
    for one in said:
        # Python's own growth in between (imports at first use) is within the two layers' worth of slack.
        assert world == 4 or one["took"] < whole / world + 3 * layer < 0.65 * whole, (one["took"], whole)
        assert one["norm"] == pytest.approx(one["expected"], rel=1e-4)
