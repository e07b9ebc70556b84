"""Activations that are computed again instead of kept: memory for time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twistlm.errors import BadInput
from twistlm.lm.model import UnitLM


def require_activations(lm: UnitLM, *, enabled: bool) -> None:
    """Raise `BadInput` where activations are to be computed again and the model's architecture cannot."""
    if enabled and not lm.model.supports_gradient_checkpointing:
        raise BadInput(f"{type(lm.model).__name__} cannot compute activations again: set checkpoint_activations=false.")


@contextmanager
def checkpointed_activations(lm: UnitLM, *, enabled: bool) -> Iterator[None]:
    """Inside the block, a model in training mode computes its layers' activations again in the backward pass.

    Raises:
        BadInput: its architecture cannot.
    """
    require_activations(lm, enabled=enabled)
    if not enabled:
        yield
        return
    # The newer transformers of version 5 warn of the older name.
    verb = "activation" if hasattr(lm.model, "activation_checkpointing_enable") else "gradient"
    getattr(lm.model, f"{verb}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(lm.model, f"{verb}_checkpointing_disable")()
