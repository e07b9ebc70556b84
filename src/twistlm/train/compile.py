"""Compiled layers: torch.compile joins a layer's small operations into few passes over memory."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from twistlm.errors import TwistError
from twistlm.lm.model import UnitLM
from twistlm.lm.trainable import find_layers


@contextmanager
def compiled_layers(lm: UnitLM, *, enabled: bool, context: int) -> Iterator[None]:
    """Inside the block, layers in training mode run compiled; in evaluation mode, where rows vary in length, as before.

    A model that computes each document of a packed row of `context` tokens by itself sees another shape at every
    update; its layers are compiled for any shape, since torch gives up on code that it has compiled a few times.

    Layers of one kind share their code, so the first update takes longer by the time of one or two compilations (about
    half a minute on two cores), whatever the number of layers.

    Raises:
        TwistError: a CPU needs a C++ compiler for this, a GPU a C compiler, and there is none.
        BadInput: the model's layers cannot be found.
    """
    if not enabled:
        yield
        return
    if lm.device.type == "cpu":
        _require_cpp()
    elif lm.device.type == "cuda" and not c_compiler():
        raise TwistError(
            "compile = true needs a C compiler on a GPU too: Triton builds a launcher for its kernels, and finds none. "
            "Install gcc (on Debian and Ubuntu, apt-get install gcc libc6-dev), name one in the variable CC, or train "
            "with compile = false."
        )
    layers, dynamic = list(find_layers(lm.model)), not lm.packs(context)
    for layer in layers:
        layer.forward = _when_training(layer, layer.forward, dynamic)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the method of its class is seen again


def _when_training(layer: torch.nn.Module, eager: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
    compiled = torch.compile(eager, dynamic=dynamic)

    @functools.wraps(eager)
    def forward(*arguments: Any, **named: Any) -> Any:
        return (compiled if layer.training else eager)(*arguments, **named)

    return forward


def c_compiler() -> str | None:
    """Return the C compiler that Triton would take; None where there is none."""
    named = os.environ.get("CC")
    found = (shutil.which(name) for name in ([named] if named else ["gcc", "clang"]))
    return next(filter(None, found), None)


def _require_cpp() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise TwistError(
            "compile = true needs a C++ compiler on a CPU, and torch finds none: install g++ (on Debian and Ubuntu, "
            "apt-get install g++), name one in the variable CXX, or train with compile = false."
        ) from error
