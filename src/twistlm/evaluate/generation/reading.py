"""How likely a text LM finds what was said: of a text alone, or of a text after another one.

Shapes: B texts, T tokens, V vocabulary. Losses are in nats, summed over tokens, in float32 with float64 sums.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from twistlm.compute.batching import batches
from twistlm.compute.devices import device, no_autocast
from twistlm.compute.products import quick_products
from twistlm.errors import ArtifactError, BadInput, offenders
from twistlm.evaluate.topline import load_text_tokenizer
from twistlm.lm.phases import text_lm_weights
from twistlm.lm.pretrained import load_causal_lm
from twistlm.lm.text_lms import text_lm_folder


class Loss(NamedTuple):
    """Of one text: `total` nats over `n` tokens. n = 0 for a text without a token that is scored."""

    total: float
    n: int

    @property
    def mean(self) -> float:
        """Nats a token; NaN where there is none."""
        return self.total / self.n if self.n else math.nan


@dataclass(frozen=True, eq=False)
class TextLM:
    """A causal text LM and its tokenizer.

    Attributes:
        model, tokenizer: of transformers.
        name: what it was asked for by.
        identity: name, and what its weights are.
    """

    model: Any
    tokenizer: Any
    name: str
    identity: str
    # Judges are asked from several threads, and one pass takes all cores.
    _one: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def load(cls, name: str) -> TextLM:
        """Load a text LM on the device that computes, in float32.

        Args:
            name: as `text_lm_folder` takes it.

        Raises:
            BadInput, ArtifactError: as of `text_lm_folder`, or no text tokenizer beside it.
            CheckpointError: not a complete causal LM.
        """
        folder: Path = text_lm_folder(name)
        tokenizer = load_text_tokenizer(folder)
        model: Any = load_causal_lm(folder)
        of = [*text_lm_weights(folder).values()]
        sha256 = of[0] if len(of) == 1 else hashlib.sha256("".join(of).encode()).hexdigest()
        return cls(model.to(device()), tokenizer, name, f"{name} weights sha256 {sha256[:16]}, float32")

    @property
    def first(self) -> int:
        """The token that a text begins with: beginning-of-text, or the end token where there is no other.

        Raises:
            ArtifactError: the tokenizer has neither.
        """
        ids = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        found = next((i for i in ids if i is not None), None)
        if found is None:
            raise ArtifactError(f"the tokenizer of {self.name} has neither a beginning nor an end token.")
        return int(found)

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, without any that mark its ends."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def losses(self, texts: Sequence[str], *, begin: bool, end: bool, batch_tokens: int | None = None) -> list[Loss]:
        """Return the loss of each text.

        Args:
            texts: not changed; equal ones are read once.
            begin: whether it follows a beginning-of-text token; else its first token is not scored.
            end: whether the end-of-text token behind it is scored too.
            batch_tokens: as of `_scored`.

        Raises:
            ArtifactError: the tokenizer lacks the token that is asked for.
            BadInput: a text longer than the model has positions for.
        """
        first = [self.first] if begin else []
        last = [self.tokenizer.eos_token_id] if end else []
        if last == [None]:
            raise ArtifactError(f"the tokenizer of {self.name} has no end token to be scored.")
        unique = sorted(set(texts))
        rows = [[*first, *self.tokens(text), *last] for text in unique]
        found = dict(zip(unique, self._scored(rows, [1] * len(rows), batch_tokens), strict=True))
        return [found[text] for text in texts]

    def losses_after(self, pairs: Sequence[tuple[str, str]], *, batch_tokens: int | None = None) -> list[Loss]:
        """Return the loss of the second text of each pair, read after the first; the first one's is not counted.

        A text follows after one space, where there is a text before it.
        """
        unique = sorted(set(pairs))
        rows, froms = [], []
        for before, text in unique:
            head = [self.first, *self.tokens(before)]
            rows.append([*head, *self.tokens(f" {text}" if before and text else text)])
            froms.append(len(head))
        found = dict(zip(unique, self._scored(rows, froms, batch_tokens), strict=True))
        return [found[pair] for pair in pairs]

    def _scored(self, rows: Sequence[list[int]], froms: Sequence[int], batch_tokens: int | None) -> list[Loss]:
        """Return the loss of each row of tokens from its place `froms` on, each place predicted from those before.

        `batch_tokens` is how many tokens, padding included, one forward pass may hold; None: 1024 on a CPU, 16384
        elsewhere.
        """
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most is not None and (long := [f"{len(row)} tokens" for row in rows if len(row) - 1 > most]):
            raise BadInput(
                f"texts longer than the {most} tokens that {self.name} has positions for: {offenders(long)}."
            )
        if batch_tokens is None:
            batch_tokens = 1024 if self.model.device.type == "cpu" else 16_384
        scored = [i for i, (row, start) in enumerate(zip(rows, froms, strict=True)) if len(row) > start]
        found = [Loss(0.0, 0)] * len(rows)
        with self._one, torch.no_grad(), no_autocast(), quick_products(self.model):
            for batch in batches([len(rows[i]) for i in scored], batch_tokens):
                chosen = [scored[i] for i in batch]
                width = max(len(rows[i]) for i in chosen)
                padded = torch.tensor([rows[i] + [0] * (width - len(rows[i])) for i in chosen])  # behind: never seen
                padded = padded.to(self.model.device)
                logits = self.model(input_ids=padded[:, :-1], use_cache=False).logits.float()
                losses = logits.logsumexp(dim=2) - logits.gather(2, padded[:, 1:, None])[:, :, 0]
                for i, line in zip(chosen, losses.double().cpu(), strict=True):
                    part = line[froms[i] - 1 : len(rows[i]) - 1]
                    found[i] = Loss(float(part.sum()), len(part))
        return found


def win_rates(
    lm: TextLM, pairs: Sequence[tuple[str, str]], others: Sequence[Sequence[str]]
) -> tuple[list[Loss], list[float], list[float]]:
    """Judge each continuation by the text LM itself: does its own prompt make it likelier than others' prompts do?

    The continuation stays the same, so its length, its fluency and how common its words are cancel out; only what it
    has to do with its prompt is left. What has to do with no prompt wins half of the time, shuffled continuations as
    well: the prompt that they belong to is none of their others (`texts.other_prompts`).

    Args:
        lm: the judge.
        pairs: prompt and continuation, texts.
        others: for each pair, texts of other prompts.

    Returns:
        For each pair the loss after its own prompt, the share of others it wins against (a tie is one half), and by how
        many nats a token its own prompt helps more than theirs do on average; NaN where nothing was said.
    """
    asked = list(pairs)
    for (_, text), rest in zip(pairs, others, strict=True):
        asked += [(other, text) for other in rest]
    losses = lm.losses_after(asked)
    own, at = losses[: len(pairs)], len(pairs)
    wins, gains = [], []
    for mine, rest in zip(own, others, strict=True):
        theirs = losses[at : at + len(rest)]
        at += len(rest)
        if not mine.n or not rest:
            wins.append(math.nan)
            gains.append(math.nan)
            continue
        wins.append(sum((mine.total < other.total) + 0.5 * (mine.total == other.total) for other in theirs) / len(rest))
        gains.append((sum(other.total for other in theirs) / len(rest) - mine.total) / mine.n)
    return own, wins, gains
