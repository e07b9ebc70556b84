"""The benchmarks: which pairs, which sounds, and a version that changes when either does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twistlm.artifacts import bundled
from twistlm.errors import BadInput, offenders
from twistlm.types import Clip, Pair, Units

if TYPE_CHECKING:
    from twistlm.units.tokenizer import SpeechTokenizer

SEEN, UNSEEN = "seen_voice", "unseen_voice"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A benchmark of minimal pairs.

    Attributes:
        name: e.g. `"mini_swuggy"`.
        version: 16 hex digits over the pair table and the manifest.
        pairs: each with its group.
        clips: clip id -> sound file.
        clusters: pair id -> what the bootstrap resamples as one (the word, whoever says it).
    """

    name: str
    version: str
    pairs: tuple[Pair, ...]
    clips: Mapping[str, Path]
    clusters: Mapping[str, str]

    def tokenize(self, tok: SpeechTokenizer, *, progress: bool = False) -> dict[str, Units]:
        """Return clip id -> Units for every clip the pairs name.

        Raises:
            AudioError: a clip cannot be read.
        """
        from twistlm.progress import track
        from twistlm.threads import in_order

        wanted = sorted({side for p in self.pairs for side in (p.positive, p.negative)})
        rate = tok.spec.sample_rate
        made = in_order(lambda i: tok(replace(Clip.read(self.clips[i], sample_rate=rate), id=i)), wanted)
        shown = track(made, description=f"units of {self.name}", total=len(wanted), enabled=progress)
        return dict(zip(wanted, shown, strict=True))


def mini_swuggy(folder: str | Path | None = None) -> Suite:
    """Return the bundled mini sWUGGY: words against pseudo-words, in voices seen and not seen in training.

    A pair's group is `"seen_voice"` or `"unseen_voice"`; its cluster is its word, so that a word said by two voices is
    one independent item.

    Args:
        folder: another folder of the same layout: `manifest.jsonl` (id, path), `pairs.jsonl` (id, positive, negative,
            voice, word, nonword, seen_voice).

    Raises:
        BadInput: a file, a field or a clip is missing, or an id is doubled.
    """
    folder = bundled("mini-swuggy") if folder is None else Path(folder)
    manifest, table = folder / "manifest.jsonl", folder / "pairs.jsonl"
    entries = _rows(manifest, {"id", "path"})
    rows = _rows(table, {"id", "positive", "negative", "word", "seen_voice"})
    clips = {entry["id"]: folder / entry["path"] for entry in entries}
    if unknown := sorted({r[side] for r in rows for side in ("positive", "negative")} - clips.keys()):
        raise BadInput(f"{table} names clips that {manifest.name} does not have: {offenders(unknown)}.")
    if gone := sorted(str(path.name) for path in clips.values() if not path.is_file()):
        raise BadInput(f"{folder} lacks sound files its manifest names: {offenders(gone)}. Get a whole copy.")
    return Suite(
        name="mini_swuggy",
        version=hashlib.sha256(table.read_bytes() + manifest.read_bytes()).hexdigest()[:16],
        pairs=tuple(
            Pair(
                id=r["id"],
                positive=r["positive"],
                negative=r["negative"],
                group=SEEN if r["seen_voice"] else UNSEEN,
            )
            for r in rows
        ),
        clips=clips,
        clusters={r["id"]: r["word"] for r in rows},
    )


def _rows(path: Path, fields: set[str]) -> list[dict[str, Any]]:
    """Read a JSON-lines table with unique ids."""
    if not path.is_file():
        raise BadInput(
            f"{path} does not exist: the suite is incomplete. Get a whole copy, or make it with `make assets`."
        )
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{path} line {number} is not JSON: {error.msg}.") from error
        if not isinstance(row, dict) or not fields <= row.keys():
            raise BadInput(f"{path} line {number} needs the fields {', '.join(sorted(fields))}.")
        if row["id"] in seen:
            raise BadInput(f"{path} line {number} repeats the id {row['id']!r}.")
        seen.add(row["id"])
        rows.append(row)
    if not rows:
        raise BadInput(f"{path} is empty.")
    return rows
