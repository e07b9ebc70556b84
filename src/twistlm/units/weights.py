"""Weights put into an encoder that was made without data: all of them, and finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from twistlm.compute.products import quicken
from twistlm.errors import ArtifactError, BadInput, offenders

# What transformers raises of a configuration that it cannot take.
_REFUSALS = (
    ValueError, KeyError, TypeError, AttributeError, RuntimeError, AssertionError, ZeroDivisionError,
    StrictDataclassError,
)  # fmt: skip


@contextmanager
def as_configured(where: str) -> Iterator[None]:
    """In the block an encoder is made as somebody's configuration says; where that cannot be, raise `BadInput`."""
    try:
        yield
    except _REFUSALS as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise BadInput(
            f"{where}: no encoder can be made as its configuration says ({why}). Get it again from where the weights "
            "came."
        ) from error


def loaded(model: Any, state: dict[str, torch.Tensor], *, where: str = "the encoder") -> Any:
    """Put a state dict into a model without data, which is then ready to compute features, and return it.

    Raises:
        ArtifactError: tensors are missing, too many, have other shapes, or hold NaN or infinity.
    """
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ArtifactError(f"{where}: the weights do not fit the configuration: {_misfits(model, state)}") from error
    # One such number is enough for every frame of every clip to be NaN, and the centroid nearest to NaN is unit 0.
    # A sum that is finite says so in one pass; one that is not may be of finite numbers, so then each is looked at.
    odd = [name for name, tensor in state.items() if not torch.isfinite(tensor.sum())]
    if bad := [name for name in odd if not torch.isfinite(state[name]).all()]:
        raise ArtifactError(
            f"{where} has weights that are NaN or infinite: {offenders(bad)}. It diverged, or overflowed where it "
            "was saved in half precision: fetch or train it again."
        )
    quicken(model)
    return model.float().eval().requires_grad_(False)


def _misfits(model: Any, state: dict[str, torch.Tensor]) -> str:
    """Return which tensors a state dict lacks, has too many, or has in other shapes."""
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    odd = {
        "missing": sorted(wanted.keys() - found.keys()),
        "without a place": sorted(found.keys() - wanted.keys()),
        "of another shape": [
            f"{name} {found[name]} where {wanted[name]} is asked for"
            for name in sorted(wanted.keys() & found.keys())
            if wanted[name] != found[name]
        ],
    }
    said = [f"{what}: {offenders(names)}" for what, names in odd.items() if names]
    return f"{'; '.join(said)}. Get both from one place."
