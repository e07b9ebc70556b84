"""A unit language model: a causal LM of transformers, its unit vocabulary and the spec of its units.

Shapes: B rows, T tokens in a row, V tokens in the vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from twistlm.compute.devices import no_autocast
from twistlm.compute.memory import keep_freed_memory
from twistlm.compute.shared import Shared
from twistlm.compute.threads import require_threads
from twistlm.errors import BadInput, CheckpointError
from twistlm.files.atomic import atomic_folder
from twistlm.files.configs import read_unit_spec
from twistlm.files.jsonl import read_json
from twistlm.files.replacing import require_replaceable
from twistlm.lm import attention
from twistlm.lm.card import card
from twistlm.lm.pretrained import load_causal_lm, positions_of, quiet, require_saved
from twistlm.lm.trainable import merged_state
from twistlm.lm.unit_tokenizer import save_unit_tokenizer
from twistlm.lm.vocab import Vocab
from twistlm.types import UnitSpec

# Architectures that are known, by test, to obey a 4-D mask and explicit positions. Any other may ignore or misread them
# in silence (ImageGPT flattens the mask, BLOOM counts positions from it, recurrent models have none).
MASKED = frozenset({"gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "opt", "qwen2"})


_modes: weakref.WeakKeyDictionary[PreTrainedModel, Shared] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
PROVENANCE = "provenance.json"  # beside the weights of every unit LM, and of nothing else
_VOCAB = {
    "n_units": int, "offset?": int, "pad?": int, "bos?": (int, None), "eos?": (int, None), "n_tokens?": (int, None),
}  # fmt: skip


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
        rows = len(self.model.get_output_embeddings().weight)
        if rows != self.vocab.size:
            raise BadInput(f"the model has {rows} token rows and the vocabulary {self.vocab.size} tokens.")

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def sharded(self) -> bool:
        """Whether several ranks hold the parameters together: then all must call the model, in one order."""
        return any(type(p) is not torch.nn.Parameter for p in self.model.parameters())  # DTensors

    @property
    def max_tokens(self) -> int | None:
        """The longest row the model has positions for; None when its configuration sets no limit.

        Of "longrope" it is the length before it was stretched: beyond, one long row would change all beside it.
        """
        config: Any = self.model.config
        most = positions_of(config)
        rope = getattr(config, "rope_parameters", None) or {}
        if rope.get("rope_type") == "longrope":
            original = rope.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            most = original if most is None else min(most, original or most)
        return most if most is not None and most > 0 else None

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
                nothing looks ahead. May be on the CPU whatever the model is on: then nobody waits for a GPU.
            positions: int64 [B, T], each token's place in its document. None: counted from the start of each document.

        Documents of a row are kept apart by a mask where the architecture obeys one (`MASKED`, and no sliding window
        shorter than the row). Any other model computes each document in a row of its own: as exact, but slower, and
        then the positions are always counted from the start of each document.

        Raises:
            BadInput: the rows are longer than the model has positions for.
        """
        if self.max_tokens is not None and tokens.shape[1] > self.max_tokens:
            raise BadInput(
                f"rows of {tokens.shape[1]} tokens; this model has positions for {self.max_tokens}. Cut them."
            )
        if segments is None:
            arguments = {} if positions is None else {"position_ids": positions}
        elif self.obeys_mask(tokens.shape[1]):
            arguments = {
                "attention_mask": self._mask(segments),
                "position_ids": _moved(_restart_positions(segments), tokens.device) if positions is None else positions,
            }
        else:
            return self._logits_apart(tokens, segments)
        return self.model(input_ids=tokens, use_cache=False, **arguments).logits.float()

    forward = forward_logits

    def require(self, spec: UnitSpec, *, theirs: str) -> None:
        """Raise `UnitSpecMismatch` unless `spec` equals this model's; `theirs` says in words whose `spec` is."""
        self.spec.require(spec, mine="the unit LM", theirs=theirs)

    def save(self, folder: str | Path) -> None:
        """Write a transformers folder (safetensors), `unit_spec.json`, `vocab.json` and `provenance.json`, all or none.

        transformers opens it whole: a tokenizer of words for units and a model card lie beside the weights.

        LoRA adapters are added to the weights they adapt, so the folder needs no peft. What was written is read back,
        the names and shapes of the tensors and the configuration, before the folder gets its name. An earlier model
        there is replaced as a whole.

        Raises:
            BadInput: something else is there.
        """
        require_replaceable(folder, what="a unit LM", mark=PROVENANCE)
        with atomic_folder(folder) as temporary, quiet():
            self.model.save_pretrained(temporary, state_dict=merged_state(self.model))
            write_facts(temporary, self)
            save_unit_tokenizer(self.vocab, temporary)
            (temporary / "README.md").write_text(card(self.spec, self.vocab, self.provenance), encoding="utf-8")
            require_saved(temporary, self.model)

    @classmethod
    def load(cls, folder: str | Path) -> UnitLM:
        """Load what `save` wrote; the model is in float32 and in evaluation mode.

        Raises:
            CheckpointError: the folder is missing, incomplete or damaged, or is no unit LM.
        """
        folder = Path(folder)
        spec, vocab, provenance = read_facts(folder)
        model = load_causal_lm(folder)
        try:
            return cls(model, vocab, spec, provenance)
        except BadInput as error:
            raise CheckpointError(f"{folder}: {error} Its files do not belong together: get them again.") from error

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Evaluation mode, no autograd and no autocast inside the block; the mode is put back after it.

        Threads may share a model: the last who leaves puts its mode back.
        Autocast stays for a model that ranks share out: training says so where its layers travel as bf16.
        """
        require_threads()
        if self.device.type == "cpu" and not self.sharded:
            keep_freed_memory()
        # inference_mode would leave tensors in the model that training may not use.
        with _evaluating(self.model), torch.no_grad(), nullcontext() if self.sharded else no_autocast():
            yield

    @contextmanager
    def packed_attention(self) -> Iterator[None]:
        """Inside the block, documents of a packed row meet no mask where leaving it out is faster: see `attention`.

        The results are the same up to rounding. A backward pass that computes activations again must be inside too.
        """
        config = self.model.config
        way = attention.NAME if self.device.type == "cpu" else attention.ENDS
        there = self.device.type == "cpu" or attention.takes_ends(self.device)
        with attention.sound_kernels():
            if not there or config.model_type not in MASKED or config._attn_implementation != "sdpa":
                yield
                return
            config._attn_implementation = way
            try:
                yield
            finally:
                config._attn_implementation = "sdpa"

    @contextmanager
    def attention_of_one(self) -> Iterator[None]:
        """Inside the block, a GPU's attention of one token a row is plain products: the same up to rounding."""
        config = self.model.config
        if self.device.type == "cpu" or config.model_type not in MASKED or config._attn_implementation != "sdpa":
            yield
            return
        config._attn_implementation = attention.ONE
        try:
            yield
        finally:
            config._attn_implementation = "sdpa"

    def packs(self, length: int) -> bool:
        """Whether training computes a row of so many tokens as it is, not each of its documents in a row of its own."""
        with self.packed_attention():
            return self.obeys_mask(length)

    def obeys_mask(self, length: int) -> bool:
        """Tell whether, in rows of so many tokens, the model obeys a 4-D mask and explicit positions (`MASKED`)."""
        config = self.model.config
        window = getattr(config, "sliding_window", None)
        if config._attn_implementation == attention.ENDS:
            return True  # it has windows of its own
        return (
            config.model_type in MASKED
            and config._attn_implementation in ("sdpa", "eager", attention.NAME)
            and (window is None or length <= window)  # a 4-D mask replaces the window's own
        )

    def _mask(self, segments: torch.Tensor) -> torch.Tensor:
        """Return what a causal LM of transformers takes as it is: who may look at whom."""
        if self.model.config._attn_implementation == attention.ENDS:
            return _moved(attention.document_ends(segments), self.device)
        segments = _moved(segments, self.device)
        if self.model.config._attn_implementation == attention.NAME:
            return segments.int()[:, None, None]
        allowed = attention.document_mask(segments)
        if self.model.config._attn_implementation == "sdpa":
            return allowed
        blocked = torch.finfo(self.model.dtype).min
        return torch.zeros_like(allowed, dtype=self.model.dtype).masked_fill(~allowed, blocked)

    def _logits_apart(self, tokens: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        """Return float32 [B, T, V], each run of equal segments computed as a row of its own, padded on the right."""
        place = _restart_positions(segments)
        row = (place == 0).flatten().cumsum(0).view_as(place) - 1
        shape = (int(row[-1, -1]) + 1, int(place.max()) + 1)
        row, place = (_moved(x, tokens.device) for x in (row, place))
        alone = tokens.new_full(shape, self.vocab.pad)
        alone[row, place] = tokens
        return self.model(input_ids=alone, use_cache=False).logits.float()[row, place]


def _evaluating(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Evaluation mode inside the block; of blocks that overlap, the last to be left puts back what was before all."""
    with _lock:
        if model not in _modes:
            _modes[model] = Shared(functools.partial(_evaluate, weakref.ref(model)))
        return _modes[model]()


def _evaluate(model: Callable[[], PreTrainedModel | None]) -> Callable[[], object]:
    here = model()
    assert here is not None  # whoever is inside has it
    training = here.training
    here.eval()
    return lambda: here.train(training)


def write_facts(folder: Path, lm: UnitLM) -> None:
    """Write what lies beside the weights of a unit LM, see `read_facts`."""
    (folder / "unit_spec.json").write_text(lm.spec.to_json(), encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps(dataclasses.asdict(lm.vocab)), encoding="utf-8")
    (folder / PROVENANCE).write_text(json.dumps(lm.provenance, indent=1), encoding="utf-8")


def read_facts(folder: Path) -> tuple[UnitSpec, Vocab, dict[str, Any]]:
    """Return what lies beside the weights of a unit LM: the spec of its units, its tokens, where it came from.

    Raises:
        CheckpointError: something of it is missing or damaged.
    """
    try:
        spec = read_unit_spec(folder / "unit_spec.json", "what its units are")
        provenance = read_json(folder / PROVENANCE, "where a unit LM comes from")
        layout, vocab = folder / "vocab.json", Vocab(spec.n_units)
        if os.path.lexists(layout):  # a link that leads nowhere is no missing file
            vocab = Vocab(**read_json(layout, "the tokens of a unit LM", shape=_VOCAB))
    except (OSError, ValueError, TypeError, BadInput) as error:
        why = str(error).rstrip(".")
        raise CheckpointError(
            f"{folder} is not a unit LM: {why}. Give a folder that UnitLM.save or lowrank wrote; one of transformers "
            "is read by load_published (twist import)."
        ) from error
    return spec, vocab, provenance


def _moved(tensor: torch.Tensor, where: torch.device) -> torch.Tensor:
    if tensor.device == where or tensor.is_cuda or where.type != "cuda":
        return tensor.to(where)
    return tensor.pin_memory().to(where, non_blocking=True)


def _restart_positions(segments: torch.Tensor) -> torch.Tensor:
    """Return int64 [B, T]: positions counted from the start of each run of equal segments."""
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return index - torch.where(starts, index, 0).cummax(dim=1).values
