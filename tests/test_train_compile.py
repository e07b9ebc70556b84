"""Compiled layers: the eager run up to rounding, and stopped and resumed bit for bit."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch
import transformers

from test_train_loop import assert_same_run, corpus, losses, sigterm_at, tiny_lm, with_
from twistlm.errors import TrainingError, TwistError
from twistlm.lm.warmstart import cold_start
from twistlm.train import compile as compiling
from twistlm.train.compile import compiled_layers
from twistlm.train.loop import train


@pytest.mark.slow  # the compiler takes a quarter of a minute
def test_compiled_is_eager_up_to_rounding_and_resumes_exactly(tmp_path: Path) -> None:
    eager = train(tiny_lm(), corpus(), with_(eval_every=1), tmp_path / "eager", on_eval=sigterm_at())
    config = with_(eval_every=1, compile=True)
    straight = train(tiny_lm(), corpus(), config, tmp_path / "straight", on_eval=sigterm_at())
    assert losses(straight.history) == pytest.approx(losses(eager.history), rel=1e-4)
    with pytest.raises(TrainingError, match="SIGTERM"):
        train(tiny_lm(), corpus(), config, tmp_path / "stopped", on_eval=sigterm_at(5))
    torch.compiler.reset()  # a new process would compile again
    train(tiny_lm(), corpus(), config, tmp_path / "stopped", on_eval=sigterm_at())
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.thorough
def test_layers_are_as_before_afterwards_and_run_as_written_when_not_training() -> None:
    lm = tiny_lm()
    with compiled_layers(lm, enabled=True, context=24), torch.no_grad():
        assert all("forward" in vars(layer) for layer in lm.model.model.layers)
        lm.model.eval()
        inside = lm.forward_logits(torch.tensor([[1, 5, 7]]))  # would compile if it were training
    assert not any("forward" in vars(module) for module in lm.model.modules())
    with torch.no_grad():
        assert torch.equal(inside, lm.forward_logits(torch.tensor([[1, 5, 7]])))


def test_no_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def missing() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(TwistError, match=r"C\+\+ compiler"), compiled_layers(tiny_lm(), enabled=True, context=24):
        raise AssertionError("unreachable")


@pytest.mark.slow  # the compiler
def test_a_model_that_computes_documents_alone_is_compiled_once_for_all_shapes(tmp_path: Path) -> None:
    """BLOOM sees another number of rows and another width at every update: ten of them, torch compiles eight times."""
    folder = tmp_path / "bloom"
    transformers.BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4).save_pretrained(folder)
    lm = cold_start(folder, tiny_lm().spec, seed=0)
    assert not lm.packs(24)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    with compiled_layers(lm, enabled=True, context=24):
        lm.model.train()
        for n in range(2, 12):
            segments = torch.arange(1, n + 1).repeat_interleave(2 + n)[None]
            with lm.packed_attention():
                lm.forward_logits(torch.full_like(segments, 5), segments).sum().backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3


def test_tritons_c_compiler_is_looked_for_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"clang": "/usr/bin/clang", "mycc": "/opt/mycc"}
    monkeypatch.setattr(compiling.shutil, "which", there.get)
    monkeypatch.delenv("CC", raising=False)
    assert compiling.c_compiler() == "/usr/bin/clang"
    monkeypatch.setenv("CC", "mycc")
    assert compiling.c_compiler() == "/opt/mycc"
    monkeypatch.setenv("CC", "gcc")  # named, and not there: Triton would take no other
    assert compiling.c_compiler() is None
    lm = mock.Mock(device=torch.device("cuda"))
    with pytest.raises(TwistError, match="compile = true needs a C compiler on a GPU too"):
        compiling.compiled_layers(lm, enabled=True, context=24).__enter__()
