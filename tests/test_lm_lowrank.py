"""A model as its difference from a text LM: at full rank the model again, below it the best approximation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from standins import Tiny
from test_lm_families import FAMILIES, UNTIED, families, family  # noqa: F401  a fixture
from test_lm_model import make_spec
from twistlm.errors import BadInput, CheckpointError
from twistlm.files.regular import file_sha256
from twistlm.lm.folders import lm_folder, load_model, model_spec, run_folder
from twistlm.lm.lowrank import NAME, lowrank, restore
from twistlm.lm.model import UnitLM
from twistlm.lm.warmstart import warm_start
from twistlm.units.catalogue import read_spec

SPEC = make_spec()


def trained(folder: Path, out: Path, *, head: str = "own", by: float = 0.05) -> UnitLM:
    """A model of which every value has moved."""
    lm = warm_start(folder, SPEC, rows="covariance", head=head, seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in lm.model.parameters():
            value += by * torch.randn(value.shape, generator=generator)
    lm.save(out)
    return lm


def logits(lm: UnitLM) -> torch.Tensor:
    tokens = torch.from_numpy(lm.vocab.encode(np.arange(12) % SPEC.n_units)[None])
    with lm.inference():
        return lm.forward_logits(tokens)


# Tables that are narrower, tied and not, in each layout of the matrices, with either head.
USUAL = {
    ("opt-350m", "own"), ("bloom", "as-is"), ("bloom", "own"), ("pythia", "own"), ("smollm2", "as-is"),
    ("mamba", "own"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "head"),
    [
        pytest.param(name, head, marks=[] if (name, head) in USUAL else pytest.mark.slow)
        for name in FAMILIES
        for head in ("as-is", "own")  # one and the same where the head is no table
    ],
    indirect=["family"],
)
def test_at_full_rank_it_is_the_model_up_to_float16(family: tuple[str, Path], head: str, tmp_path: Path) -> None:  # noqa: F811
    lm = trained(family[1], tmp_path / "lm", head=head)
    lowrank(tmp_path / "lm", str(family[1]), tmp_path / "small", rank=10_000)
    back = load_model(tmp_path / "small")  # as every verb loads one
    assert back.spec == lm.spec == model_spec(tmp_path / "small") and back.vocab == lm.vocab
    mine, theirs = dict(lm.model.named_parameters()), dict(back.model.named_parameters())
    assert mine.keys() == theirs.keys()
    assert all(torch.allclose(mine[name], theirs[name], atol=2e-3) for name in mine)
    torch.testing.assert_close(logits(back), logits(lm), atol=0.05, rtol=0.05)
    back.save(tmp_path / "whole")  # and it is a model like any other
    assert torch.equal(logits(UnitLM.load(tmp_path / "whole")), logits(back))


@pytest.mark.parametrize("family", families("opt-350m", "bloom", "smollm2", "gemma3", "mamba"), indirect=True)
def test_each_matrix_is_the_nearest_of_its_rank(family: tuple[str, Path], tmp_path: Path) -> None:  # noqa: F811
    lm = trained(family[1], tmp_path / "lm")
    told = lowrank(tmp_path / "lm", str(family[1]), tmp_path / "small", rank=2)
    base = dict(warm_start(family[1], SPEC, rows="covariance", head="own", seed=3).model.named_parameters())
    back = dict(restore(tmp_path / "small").model.named_parameters())
    tables = {id(of().weight) for of in (lm.model.get_input_embeddings, lm.model.get_output_embeddings)}
    body = {n for n, p in lm.model.named_parameters() if p.ndim == 2 and id(p) not in tables}
    whole = missed = 0.0
    for name in body:
        difference = (dict(lm.model.named_parameters())[name] - base[name]).detach()
        if min(difference.shape) <= 2:
            continue
        s = torch.linalg.svdvals(difference)
        error = (back[name] - base[name] - difference).detach()
        assert float((error**2).sum()) == pytest.approx(float((s[2:] ** 2).sum()), rel=1e-3)
        whole, missed = whole + float((s**2).sum()), missed + float((s[2:] ** 2).sum())
    assert told["kept"] == pytest.approx(1 - missed / whole, rel=1e-3)
    assert told["bytes"] == (tmp_path / "small" / NAME).stat().st_size


@pytest.mark.parametrize("family", families("smollm2"), indirect=True)  # files are files
def test_a_damaged_file_another_text_lm_and_other_shapes_are_refused(family: tuple[str, Path], tmp_path: Path) -> None:  # noqa: F811
    trained(family[1], tmp_path / "lm")
    with pytest.raises(BadInput, match="at least 1"):
        lowrank(tmp_path / "lm", str(family[1]), tmp_path / "small", rank=0)
    base = tmp_path / "base"
    base.mkdir()
    for file in family[1].iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    lowrank(tmp_path / "lm", str(base), tmp_path / "small", rank=2)
    weights = next(base.glob("*.safetensors"))
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-4] + b"\1\2\3\4")
    with pytest.raises(CheckpointError, match="another sha256"):
        restore(tmp_path / "small")
    weights.write_bytes(kept)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    with pytest.raises(CheckpointError, match=r"rms_norm_eps was .*, is 0\.1"):
        restore(tmp_path / "small")
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="training begins from whole ones"):
        warm_start(tmp_path / "small", SPEC, rows="random", seed=0)
    restore(tmp_path / "small").save(tmp_path / "whole")
    assert warm_start(tmp_path / "whole", SPEC, rows="random", seed=0).provenance["start"] == "continued"
    data = (tmp_path / "small" / NAME).read_bytes()
    (tmp_path / "small" / NAME).write_bytes(data[:-1] + b"\1")
    with pytest.raises(CheckpointError, match="not the file that was written"):
        restore(tmp_path / "small")


def written(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a folder, and its record with them: whoever means harm would."""
    tensors = load_file(folder / NAME)
    change(tensors)
    save_file(tensors, folder / NAME)
    record = json.loads((folder / "lowrank.json").read_text())
    (folder / "lowrank.json").write_text(json.dumps(record | {"sha256": file_sha256(folder / NAME)}))


BODY = "model.layers.0.self_attn.q_proj.weight"
WRONG: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "no table": (lambda t: t.pop("model.embed_tokens.weight"), "model.embed_tokens.weight is missing"),
    "half a product": (lambda t: t.pop(f"{BODY}/in"), f"{BODY} is missing, or a part of it"),
    "another width": (lambda t: t.update({f"{BODY}/in": torch.zeros(2, 3)}), f"{BODY} is .*, 3. and must be "),
    "a vector of one": (lambda t: t.update({"model.norm.weight": torch.zeros(1)}), "model.norm.weight is .1. and"),
    "other ranks": (lambda t: t.update({f"{BODY}/out": t[f"{BODY}/out"][:, :1].contiguous()}), "cannot be multiplied"),
    "none of its": (lambda t: t.update({"else": torch.zeros(2)}), "tensors that the text LM has not: else"),
    "NaN": (lambda t: t["lm_head.weight"].fill_(torch.nan), "lm_head.weight has values that are NaN"),
    "a NaN in a product": (lambda t: t[f"{BODY}/out"].fill_(torch.inf), f"{BODY} has values that are NaN"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, tiny: Tiny, wrong: str) -> None:
    trained(tiny.text_lm, tmp_path / "lm")
    lowrank(tmp_path / "lm", str(tiny.text_lm), tmp_path / "small", rank=2)
    change, said = WRONG[wrong]
    written(tmp_path / "small", change)
    with pytest.raises(CheckpointError, match=f"small/{NAME} cannot be added to .*{said}"):
        restore(tmp_path / "small")


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path, tiny: Tiny) -> None:
    trained(tiny.text_lm, tmp_path / "lm")
    lowrank(tmp_path / "lm", str(tiny.text_lm), tmp_path / "small", rank=2)
    for folder, of in (("lm", UnitLM.load), ("small", restore)):
        path = tmp_path / folder / "vocab.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"n_tokens": 1000}))
        with pytest.raises(CheckpointError, match=f"{folder}.*1000"):
            of(path.parent)
        path.write_text('{"n_units": "many"}')
        with pytest.raises(CheckpointError, match=f"{folder} is not a unit LM: .*n_units"):
            of(path.parent)


def test_results_of_a_bundled_model_lie_below_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_folder("mini-lm") == Path("runs/mini-lm")
    (tmp_path / "mini-lm").mkdir()  # a folder of that name comes first
    assert run_folder("mini-lm") == Path("mini-lm")
    (tmp_path / "run" / "lm").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    assert run_folder("run/lm") == Path("run")
    monkeypatch.chdir(tmp_path / "run" / "lm")
    assert run_folder(".").absolute() == (tmp_path / "run").absolute()


def test_the_bundled_model_is_whole_small_and_of_bundled_units() -> None:
    home = lm_folder("mini-lm")
    record = json.loads((home / "lowrank.json").read_text())
    assert file_sha256(home / NAME) == record["sha256"] and (home / NAME).stat().st_size <= 14e6
    assert record["text_lm"] == "smollm2-135m" and model_spec("mini-lm") == read_spec("mini-25hz-500")
    assert "| held-out loss, nats a unit |" in (home / "CARD.md").read_text()
