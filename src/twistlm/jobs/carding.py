"""What was measured of a model, from the results of `twist eval` into the model's card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from twistlm.errors import BadInput, TwistError
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import read_json
from twistlm.files.text import read_text
from twistlm.lm.card import with_scores

CARD = "README.md"
_GROUP = {"accuracy": float, "ci": [(float, None)], "n": int}
_SCORE = {"model_sha256": str, "groups": {"all": _GROUP}}
_SUITE = {"suite": str, "version": str, "protocols": {str: str}, "scores": {str: [_SCORE]}}
_HELD = {
    "bits_per_second": float,
    "bits_per_second_ci": [(float, None)],
    "val_ppl": float,
    "val_ppl_ci": [(float, None)],
}
_PERPLEXITY = {"model_sha256": str, "split": str, "perplexity": _HELD | {"n_documents": int, "protocol": str}}


def note_scores(home: Path, sha256: str, results: Sequence[Path]) -> str:
    """Write the scores of a model into its card, beside those that are there; return why that could not be, or "".

    Args:
        home: the model's folder.
        sha256: of the model, as `evaluating.digest` gives it; results of other weights are left out.
        results: folders of results; a suite that is in several is taken from the first.
    """
    rows: dict[str, list[list[str]]] = {}
    for folder in results:
        for path in sorted(folder.glob("*.json")):
            if path.name not in rows and (found := list(_rows(path, sha256))):
                rows[path.name] = found
    if not rows:
        return ""
    card = home / CARD
    try:
        before = read_text(card, "the card of a model") if card.is_file() else ""
        text = with_scores(before, [row for name in sorted(rows) for row in rows[name]], model=sha256)
        if text != before:
            with atomic_write(card) as temporary:
                temporary.write_text(text, encoding="utf-8")
    except TwistError as error:
        return f"the scores are not in the model's card: {error}"
    return ""


def _rows(path: Path, sha256: str) -> Iterator[list[str]]:
    """Yield what a file of results says of the model; nothing for other models and other files."""
    try:
        if path.name == "perplexity.json":
            yield from _held_out(read_json(path, "the perplexity of a model", shape=_PERPLEXITY), sha256)
        else:
            yield from _pairs(read_json(path, "the scores of a suite", shape=_SUITE), sha256)
    except BadInput:  # another file that lies there
        return


def _pairs(of: Mapping[str, Any], sha256: str) -> Iterator[list[str]]:
    for rule, models in of["scores"].items():
        for score in (model["groups"]["all"] for model in models if model["model_sha256"] == sha256):
            value, said = f"{score['accuracy']:.1%}", of["protocols"].get(rule, "")
            yield [
                f"{of['suite']}, version {of['version']}", rule, value, _interval(score["ci"], ".1%"),
                str(score["n"]), said,
            ]  # fmt: skip


def _held_out(of: Mapping[str, Any], sha256: str) -> Iterator[list[str]]:
    if of["model_sha256"] != sha256:
        return
    held = of["perplexity"]
    about = [str(held["n_documents"]), held["protocol"]]
    name = f"perplexity, {of['split']}"
    yield [name, "a unit", f"{held['val_ppl']:.2f}", _interval(held["val_ppl_ci"], ".2f"), *about]
    yield [
        name,
        "bits a second",
        f"{held['bits_per_second']:.2f}",
        _interval(held["bits_per_second_ci"], ".2f"),
        *about,
    ]


def _interval(ends: Sequence[float | None], form: str) -> str:
    low, high = ends
    return "none" if low is None or high is None else f"{low:{form}} to {high:{form}}"
