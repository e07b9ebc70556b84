"""Compiled layers: torch.compile joins a layer's small operations into few passes over memory."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

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


def kept(layer: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> int:
    """Return the bytes that a compiled layer keeps for its backward pass, and its result; inputs and parameters aside.

    What can be computed again from less is not kept: torch.compile's own choice is asked for, of the layer traced with
    these arguments. With fake ones nothing is computed. Call it as the layer is called: under autocast, in training.
    """
    from torch._functorch.aot_autograd import aot_function, make_boxed_func
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table

    names, parameters = zip(*layer.named_parameters(), strict=True)
    leaves, shape = tree_flatten((arguments, named))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    given = [leaves[i].detach().requires_grad_(leaves[i].is_floating_point()) for i in places]
    found: list[int] = []

    def call(*tensors: torch.Tensor) -> Any:
        values = list(leaves)
        for place, tensor in zip(places, tensors[len(names) :], strict=True):
            values[place] = tensor
        args, kwargs = tree_unflatten(values, shape)
        return torch.func.functional_call(layer, dict(zip(names, tensors, strict=False)), args, kwargs)

    def forward(gm: torch.fx.GraphModule, example_inputs: Any) -> Any:  # noqa: ARG001  # its name
        *_nodes, end = gm.graph.nodes
        kept = {n for n in tree_leaves(end.args) if isinstance(n, torch.fx.Node) and n.op != "placeholder"}
        values = [value for node in kept for value in tree_leaves(node.meta["val"]) if isinstance(value, torch.Tensor)]
        found.append(sum(value.numel() * value.element_size() for value in values))
        return make_boxed_func(gm.forward)

    def backward(gm: torch.fx.GraphModule, example_inputs: Any) -> Any:  # noqa: ARG001
        return make_boxed_func(gm.forward)

    aot_function(
        call,
        fw_compiler=forward,
        bw_compiler=backward,
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )(*parameters, *given)
    return found[0]


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
