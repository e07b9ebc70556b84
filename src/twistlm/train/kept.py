"""What compiled layers keep for the backward pass, by torch.compile's own choice and without compiling."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten


class Kept:
    """What a model's layers keep for the backward pass, as they are counted and as they are when compiled."""

    def __init__(self, layers: Iterable[torch.nn.Module], alive: Callable[[], int]) -> None:
        """Look at the first call of each layer.

        Args:
            layers: of one model.
            alive: returns the bytes of all tensors that are alive.
        """
        self._alive = alive
        self._kept: list[tuple[Any, int]] = []  # of each layer: its kind, bytes
        self._called: dict[Any, tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]] = {}
        self._hooks = []
        for layer in layers:
            self._hooks.append(layer.register_forward_pre_hook(self._before, with_kwargs=True))
            self._hooks.append(layer.register_forward_hook(self._after))
        self._n = len(self._hooks) // 2

    def less(self) -> int:
        """Return by how many bytes all of them keep less when they are compiled."""
        compiled: dict[Any, int] = {}
        for kind, called in self._called.items():
            try:
                compiled[kind] = _kept(*called)
            except Exception as error:  # noqa: BLE001  # whatever a tracer of any architecture's code may raise
                warnings.warn(
                    f"{kind[0].__name__} cannot be traced ({type(error).__name__}), so its memory is planned as if it "
                    "were not compiled, which is more.",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return sum(max(0, n - compiled.get(kind, n)) for kind, n in self._kept)

    def _before(self, layer: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        kind = type(layer), *((p.shape, p.requires_grad) for p in layer.parameters())
        self._called.setdefault(kind, (layer, arguments, named))  # of the first alone: those of all would stay alive
        self._kept.append((kind, -self._alive()))

    def _after(self, *_: Any) -> None:
        kind, before = self._kept[-1]
        self._kept[-1] = kind, before + self._alive()
        if len(self._kept) == self._n:  # the first part is as good as the others
            for hook in self._hooks:
                hook.remove()


def _kept(layer: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> int:
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
        *_, end = gm.graph.nodes
        nodes = {n for n in tree_leaves(end.args) if isinstance(n, torch.fx.Node) and n.op != "placeholder"}
        values = [value for node in nodes for value in tree_leaves(node.meta["val"]) if isinstance(value, torch.Tensor)]
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
