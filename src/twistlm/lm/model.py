"""A unit language model: a causal LM of transformers, its unit vocabulary and the spec of its units.

Shapes: B rows, T tokens in a row, V tokens in the vocabulary.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from twistlm.atomic import atomic_folder
from twistlm.errors import BadInput, CheckpointError
from twistlm.lm.vocab import Vocab
from twistlm.types import UnitSpec


@dataclass(frozen=True, eq=False)
class UnitLM:
    """A causal language model over units.

    Attributes:
        model: the transformers model; train its parameters as those of any module.
        vocab: tokens and units.
        spec: what its units are.
        provenance: where its weights came from; see `warmstart`.
    """

    model: PreTrainedModel
    vocab: Vocab
    spec: UnitSpec
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.vocab.n_units != self.spec.n_units:
            raise BadInput(f"a vocabulary of {self.vocab.n_units} units does not fit a spec of {self.spec.n_units}.")
        rows = self.model.get_input_embeddings().num_embeddings
        if rows != self.vocab.size:
            raise BadInput(f"the model has {rows} token rows and the vocabulary {self.vocab.size} tokens.")

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def max_tokens(self) -> int | None:
        """The longest row the model has positions for; None when its configuration sets no limit."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def forward_logits(
        self,
        tokens: torch.Tensor,
        segments: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return float32 [B, T, V]: the logits of the token after each position.

        Args:
            tokens: int64 [B, T].
            segments: int [B, T], which document of its row each token belongs to (1, 2, …; 0 is padding). Tokens see
                only earlier tokens of their own document. None: each row is one document; padding may follow it, since
                nothing looks ahead.
            positions: int64 [B, T], each token's place in its document. None: counted from the start of each document.

        Raises:
            BadInput: the rows are longer than the model has positions for, or the architecture cannot take a mask.
        """
        if self.max_tokens is not None and tokens.shape[1] > self.max_tokens:
            raise BadInput(
                f"rows of {tokens.shape[1]} tokens; this model has positions for {self.max_tokens}. Cut them."
            )
        if segments is None:
            arguments = {} if positions is None else {"position_ids": positions}
        else:
            arguments = {
                "attention_mask": self._mask(segments),
                "position_ids": _restart_positions(segments) if positions is None else positions,
            }
        return self.model(input_ids=tokens, use_cache=False, **arguments).logits.float()

    forward = forward_logits

    def require(self, spec: UnitSpec, *, theirs: str) -> None:
        """Raise `UnitSpecMismatch` unless `spec` equals this model's; `theirs` says in words whose `spec` is."""
        self.spec.require(spec, mine="the unit LM", theirs=theirs)

    def save(self, folder: str | Path) -> None:
        """Write a transformers folder (safetensors), `unit_spec.json` and `provenance.json`, whole or not at all."""
        with atomic_folder(folder) as temporary, _quiet():
            self.model.save_pretrained(temporary)
            (temporary / "unit_spec.json").write_text(self.spec.to_json())
            (temporary / "provenance.json").write_text(json.dumps(self.provenance, indent=1))

    @classmethod
    def load(cls, folder: str | Path) -> UnitLM:
        """Load what `save` wrote; the model is in float32 and in evaluation mode.

        Raises:
            CheckpointError: the folder is missing, incomplete or damaged, or is no unit LM.
        """
        folder = Path(folder)
        try:
            spec = UnitSpec.from_json((folder / "unit_spec.json").read_text())
            provenance = json.loads((folder / "provenance.json").read_text())
        except (OSError, ValueError, BadInput) as error:
            raise CheckpointError(
                f"{folder} is not a unit LM: {error}. Give a folder that UnitLM.save wrote."
            ) from error
        return cls(load_causal_lm(folder), Vocab(spec.n_units), spec, provenance)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Evaluation mode and no autograd inside the block; the mode is put back after it."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():  # inference_mode would leave tensors in the model that training may not use
                yield
        finally:
            self.model.train(training)

    def _mask(self, segments: torch.Tensor) -> torch.Tensor:
        """Return [B, 1, T, T], which a causal LM of transformers takes as it is: who may look at whom."""
        kind = self.model.config._attn_implementation
        if kind not in ("sdpa", "eager") or "position_ids" not in inspect.signature(self.model.forward).parameters:
            raise BadInput(
                f"{type(self.model).__name__} with {kind!r} attention cannot keep packed documents apart; "
                'load it with attn_implementation="sdpa", or give it one document a row and no segments.'
            )
        length = segments.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
        # Padding (0) sees padding: a row of the mask that allows nothing would give NaN.
        allowed = ((segments[:, :, None] == segments[:, None, :]) & causal)[:, None]
        if kind == "sdpa":
            return allowed
        blocked = torch.finfo(self.model.dtype).min
        return torch.zeros_like(allowed, dtype=self.model.dtype).masked_fill(~allowed, blocked)


def load_causal_lm(folder: Path) -> PreTrainedModel:
    """Load any causal LM folder in float32, in evaluation mode, from local files only.

    Raises:
        CheckpointError: files are missing or damaged, or some weights of the model are not in them.
    """
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is not a complete causal LM folder: {error}") from error
    model, report = loaded
    if report["missing_keys"]:
        raise CheckpointError(f"{folder} lacks the weights {', '.join(sorted(report['missing_keys'])[:5])}.")
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers inside the block: loading a small model is no long step."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _restart_positions(segments: torch.Tensor) -> torch.Tensor:
    """Return int64 [B, T]: positions counted from the start of each run of equal segments."""
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return index - torch.where(starts, index, 0).cummax(dim=1).values
