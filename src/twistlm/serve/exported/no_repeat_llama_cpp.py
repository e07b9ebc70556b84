"""The rules of a twistlm model for llama-cpp-python: only units are made, and no unit follows itself.

    llama.generate(tokens, logits_processor=LogitsProcessorList([no_repeat]))

llama.cpp's own server takes no processors; a request to it says the same with the fields of `request.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_VOCAB = json.loads((_HERE / "vocab.json").read_text())
_DEDUPLICATED = json.loads((_HERE / "unit_spec.json").read_text())["deduplicate"]


def no_repeat(tokens: Any, scores: Any) -> Any:
    """Return float32 [V] scores of the token after `tokens`, with what may not follow at minus infinity."""
    first, n = _VOCAB["offset"], _VOCAB["n_units"]
    allowed = scores.copy()
    allowed[:first] = allowed[first + n :] = -float("inf")
    if _DEDUPLICATED and len(tokens) and first <= tokens[-1] < first + n:
        allowed[int(tokens[-1])] = -float("inf")
    return allowed
