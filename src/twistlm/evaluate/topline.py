"""Text toplines: a text LM reads the transcripts of a suite's clips. What a speech LM could reach, had it understood.

Shapes: B texts, T tokens, V vocabulary. The protocol is that of units: log-probability of the text's tokens after the
model's beginning-of-text token (its end token where it has no other), the end not counted; in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twistlm.compute.batching import batches
from twistlm.compute.devices import device, full_float32, send
from twistlm.errors import ArtifactError, BadInput, offenders
from twistlm.files.regular import require_regular_files
from twistlm.lm.pretrained import REFUSALS, load_causal_lm, quiet
from twistlm.lm.weights import first_line, refuse_pointer

PROTOCOL = "transcripts read by a text LM; per text token or summed, after the beginning-of-text token, end not counted"


def score_texts(
    folder: str | Path, texts: Mapping[str, str], *, batch_tokens: int = 4096
) -> dict[str, tuple[float, int]]:
    """Return clip id -> (log-probability in nats, text tokens it was summed over).

    Args:
        folder: of a transformers causal LM with its text tokenizer.
        texts: clip id -> what is said. Equal texts get equal scores.
        batch_tokens: how many tokens, padding included, one forward pass may hold.

    Raises:
        ArtifactError: no text tokenizer in the folder, or one without a token to begin with.
        BadInput: no texts, or a text without tokens.
        CheckpointError: not a complete causal LM.
    """
    if not texts:
        raise BadInput("there are no transcripts to score.")
    tokenizer = load_text_tokenizer(folder)
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise ArtifactError(f"the tokenizer in {folder} has neither a beginning nor an end token to begin a text with.")
    unique = sorted(set(texts.values()))
    tokens = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in unique}
    if empty := sorted(i for i, text in texts.items() if not tokens[text]):
        raise BadInput(f"transcripts without a token: {offenders(empty)}.")
    model = load_causal_lm(Path(folder))
    where = device()
    model.to(where)  # type: ignore[arg-type]  # of a stub
    found: dict[str, tuple[float, int]] = {}
    rows = [[start, *tokens[text]] for text in unique]
    for batch in batches([len(row) for row in rows], batch_tokens):
        width = len(rows[batch[0]])
        padded = send(np.array([rows[i] + [start] * (width - len(rows[i])) for i in batch]), where)  # padding after
        with torch.no_grad(), full_float32():
            logits = model(input_ids=padded[:, :-1]).logits.float()
            chosen = (logits.gather(2, padded[:, 1:, None])[:, :, 0] - logits.logsumexp(dim=2)).cpu()
        for i, line in zip(batch, chosen, strict=True):
            n = len(rows[i]) - 1
            found[unique[i]] = (float(line[:n].double().sum()), n)
    return {i: found[text] for i, text in texts.items()}


def load_text_tokenizer(folder: str | Path) -> Any:
    """Return the transformers tokenizer beside a text LM.

    Raises:
        ArtifactError: there is none, it cannot be loaded, or it needs code of its own.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    require_regular_files(folder, "a folder with a text tokenizer", error=ArtifactError)
    if not (folder / "tokenizer_config.json").is_file() and not (folder / "tokenizer.json").is_file():
        raise ArtifactError(
            f"{folder} has no text tokenizer (tokenizer.json), without which a text topline cannot be had. Save one "
            "beside the model, or give the folder of a text LM that has its own."
        )
    for name in ("tokenizer_config.json", "tokenizer.json"):
        if (folder / name).is_file():
            refuse_pointer(folder / name)
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except REFUSALS as error:
        if "trust_remote_code" in str(error):  # an option that twistlm has not
            raise ArtifactError(
                f"the text tokenizer in {folder} needs its own Python (auto_map in tokenizer_config.json), which "
                "twistlm never runs. Give a text LM whose tokenizer transformers has itself."
            ) from error
        raise ArtifactError(f"the text tokenizer in {folder} cannot be loaded: {first_line(error)}") from error
