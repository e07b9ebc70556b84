"""The README.md of a unit LM's folder: what it is, what it was made from, what was measured, how it is opened."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from twistlm.lm.vocab import Vocab
from twistlm.types import UnitSpec

BEGIN, END = "<!-- scores by twistlm -->", "<!-- end of scores -->"  # what is between is written anew
_BAR = re.compile(r"(?<!\\)\|")  # between cells: those in texts are escaped
_MARKUP = str.maketrans({c: f"\\{c}" for c in "\\`*_{}[]<>()#!|&~$"} | dict.fromkeys("\r\n\t", " "))


def card(spec: UnitSpec, vocab: Vocab, provenance: Mapping[str, Any]) -> str:
    """Return a model card in Markdown, with the front matter of the Hugging Face hub.

    Names come from files of others: as text they are escaped, in the front matter they are JSON strings.
    """
    trained = provenance.get("trained") or {}
    rows = {
        "start": provenance.get("start"),
        "text LM": provenance.get("text_lm"),
        "it came from": provenance.get("source"),
        "revision": provenance.get("revision"),
        "rows of the units": provenance.get("rows"),
        "seed": provenance.get("seed"),
    }
    rows |= {f"trained: {name}": value for name, value in trained.items()}
    units = spec.to_dict() | {"fingerprint": spec.fingerprint, "frames a second": str(spec.frame_rate)}
    matter = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["speech", "units", "twistlm"]}
    source = str(provenance.get("source", ""))
    if source.startswith("hub "):
        matter["base_model"] = source.removeprefix("hub ").partition("@")[0]
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in matter.items())
    first = "" if vocab.bos is None else "<s>"
    return f"""---
{front}
---

# A language model of speech units

Made by twistlm. It continues sequences of {spec.n_units} discrete units of speech; a document begins
{vocab.opening.translate(_MARKUP)}. The units are those of the tokenizer below and of no other.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
tokens = tokenizer("<u0> <u1>", return_tensors="pt")["input_ids"]  # {first or "no <s>"} first
longer = model.generate(tokens, max_new_tokens=50, do_sample=True)
```

## Where it came from

{_table(rows)}

## What a unit is

{_table(units)}
"""


def with_scores(text: str, scores: Sequence[Sequence[Any]], *, model: str) -> str:
    """Return a card with these scores; the rest of it, which may be somebody's own, stays.

    So do scores of the same weights that stand there and are of other benchmarks or by another protocol.

    Args:
        text: the card.
        scores: for each: benchmark, how its sides are compared, value, its 95 % interval, how many, protocol; as text.
        model: sha256 of the model.
    """
    head = ("benchmark", "compared", "value", "95 % interval", "n", "protocol")
    of_model = f"<!-- of weights {model[:16]} -->"
    rows = {tuple(map(_text, (*row[:2], row[-1]))): f"| {' | '.join(map(_text, row))} |" for row in scores}
    there = text.partition(BEGIN)[2].partition(END)[0]
    if of_model in there:
        for line in there.splitlines():
            cells = [cell.strip() for cell in _BAR.split(line)[1:-1]]
            if len(cells) == len(head) and cells[0] not in (head[0], "---"):
                rows.setdefault((cells[0], cells[1], cells[-1]), line)
    lines = [BEGIN, of_model, "## What was measured", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [line for _, line in sorted(rows.items())]
    lines += [
        "",
        "By `twist eval`; protocols of other numbers differ, and only equal ones can be set side by side.",
        END,
    ]
    section = "\n".join(lines)
    before, found, rest = text.partition(BEGIN)
    if found and END in rest:
        return before + section + rest.partition(END)[2]
    return f"{text.rstrip()}\n\n{section}\n".lstrip()


def _table(rows: Mapping[str, Any]) -> str:
    lines = ["| | |", "|---|---|"]
    lines += [f"| {_text(name)} | {_text(value)} |" for name, value in rows.items() if value is not None]
    return "\n".join(lines)


def _text(value: Any) -> str:
    return "".join(c if c.isprintable() else "�" for c in str(value).translate(_MARKUP))
