"""The minimal pairs of the ZeroSpeech challenge: sWUGGY and sBLIMP (sLM21), and ProsAudit; and a submission folder.

Layout: `<task>/<split>/gold.csv` beside one wav file for each of its rows (or one flac or ogg file each). The averaging
rules are the official ones (the `zrc` tool): a tie is 0.5; the voices of an item are averaged first, then the items. We
differ where the official tool is silent: words and pseudo-words without a partner are refused, not dropped, and
sentences are paired by id, not by their order in the table.

- sWUGGY: an item is one `id`. "In vocabulary" is every item whose word occurs in LibriSpeech (`frequency` >= 1). The
  frequency bands have the official names, and the official edges: 5 counts as "6-20", 20 as "21-100", 100 as ">100".
- sBLIMP: an item is one (type, subtype, id); the headline is the mean over all items (micro), types stand beside it.
- ProsAudit: an item is one (type, id). Official are the two types; the mean over both is ours.

The readers were tested on stand-ins laid out like the releases, not on the releases.
"""

from __future__ import annotations

import datetime
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from twistlm.audio.finding import has_suffix
from twistlm.errors import BadInput, offenders
from twistlm.evaluate.suites.suite import FORMS, Suite, fingerprint, gold_table, require_sounds
from twistlm.files.atomic import atomic_write
from twistlm.files.text import read_bytes
from twistlm.types import Pair

Split = Literal["dev", "test"]
BANDS = (("oov", 0), ("1-5", 1), ("6-20", 5), ("21-100", 20), (">100", 100))  # official name, first frequency in it

_LEXICAL = ("id", "filename", "voice", "frequency", "word", "length", "correct")
_SYNTACTIC = ("id", "filename", "voice", "type", "subtype", "transcription", "correct")
_PROSODIC = ("id", "filename", "voice", "type", "correct")
_FREQUENCY = re.compile(r"\s*(\d+(\.0*)?\s*)?")
_Row = dict[str, str]


def swuggy(folder: str | Path, split: Split) -> Suite:
    """Return sWUGGY: spoken words against pseudo-words; facets vocabulary ("in", "oov"), frequency, length, voice.

    Args:
        folder: `sLM21-dataset`, which holds `lexical/dev/gold.csv`.
        split: "dev" or "test".

    Raises:
        BadInput: a table, column or sound is missing, or a file or a pair is doubled; the first five are named.
    """
    gold = Path(folder) / "lexical" / split / "gold.csv"
    rows = _read_gold(gold, _LEXICAL)
    pairs = _join(gold, rows, ("voice", "id"))
    if odd := [f"{p}: {w[0]['frequency']!r}" for p, w in pairs.items() if not _FREQUENCY.fullmatch(w[0]["frequency"])]:
        raise BadInput(f"{gold}: the column frequency holds {len(odd)} values that are no counts: {offenders(odd)}.")
    counts = {pair: _frequency(words[0]["frequency"]) for pair, words in pairs.items()}
    known = {pair: n for pair, n in counts.items() if n is not None}
    facets = {
        "vocabulary": {pair: "in" if n >= 1 else "oov" for pair, n in known.items()},
        "frequency": {pair: _band(n) for pair, n in known.items()},
        "length": {pair: words[0]["length"] for pair, words in pairs.items()},
        "voice": {pair: words[0]["voice"] for pair, words in pairs.items()},
    }
    return _suite(f"swuggy-{split}", gold, pairs, ("id",), facets, "word", f"lexical/{split}.txt")


def sblimp(folder: str | Path, split: Split) -> Suite:
    """Return sBLIMP: grammatical against ungrammatical sentences; facets type, subtype, voice.

    Args, Raises: as `swuggy`; the table is `syntactic/dev/gold.csv`.
    """
    gold = Path(folder) / "syntactic" / split / "gold.csv"
    pairs = _join(gold, _read_gold(gold, _SYNTACTIC), ("type", "subtype", "id", "voice"))
    facets = {
        column: {pair: rows[0][column] for pair, rows in pairs.items()} for column in ("type", "subtype", "voice")
    }
    item = ("type", "subtype", "id")
    return _suite(f"sblimp-{split}", gold, pairs, item, facets, "transcription", f"syntactic/{split}.txt")


def prosaudit(folder: str | Path, split: Split) -> Suite:
    """Return ProsAudit: natural against unnatural pauses; facets type ("protosyntax", "lexical"), voice.

    Args:
        folder: `prosaudit`, which holds `english/dev/gold.csv`.
        split: "dev" or "test".

    Raises: as `swuggy`.
    """
    gold = Path(folder) / "english" / split / "gold.csv"
    pairs = _join(gold, _read_gold(gold, _PROSODIC), ("type", "id", "voice"))
    facets = {column: {pair: rows[0][column] for pair, rows in pairs.items()} for column in ("type", "voice")}
    return _suite(f"prosaudit-{split}", gold, pairs, ("type", "id"), facets, "", f"english_{split}.txt")


def write_submission(folder: str | Path, scores: Mapping[str, Mapping[str, float]], *, benchmark: str) -> None:
    """Write score files in the official layout, and a `meta.yaml` to be filled in.

    Lines are `<file stem> <score>`. `meta.yaml` is written when there is none; fields in <> are yours to fill, and the
    official validator says so until they are. Version 0.9.4 of it (`zrc benchmarks:run`) found folders of ours for
    stand-ins of both datasets valid, and scored them as `averages` does.

    Args:
        folder: of the submission; files of other splits in it stay.
        scores: place in the folder ("lexical/dev.txt") -> file stem -> score, higher is likelier.
        benchmark: the validator's name for it: "sLM21" or "prosAudit".

    Raises:
        BadInput: a stem with white space, which the format cannot hold.
    """
    folder = Path(folder)
    if bad := sorted(stem for by_stem in scores.values() for stem in by_stem if re.search(r"\s", stem)):
        raise BadInput(f"file names with spaces cannot stand in a ZeroSpeech submission: {offenders(bad)}.")
    for place, by_stem in scores.items():
        with atomic_write(folder / place) as temporary:
            lines = [f"{stem} {by_stem[stem]!r}\n" for stem in sorted(by_stem)]
            temporary.write_text("".join(lines), encoding="utf-8")
    if not (folder / "meta.yaml").exists():
        with atomic_write(folder / "meta.yaml") as temporary:  # JSON is YAML
            temporary.write_text(json.dumps(_meta(benchmark), indent=1) + "\n", encoding="utf-8")


def _meta(benchmark: str) -> dict[str, object]:
    return {
        "username": "<your name on zerospeech.com>",
        "benchmark_name": benchmark,
        "model_info": {"system_description": "<required>", "train_set": "<required>", "gpu_budget": "<optional>"},
        "publication": {
            "author_label": "<required: a short label>",
            "authors": "<required>",
            "paper_title": "<optional>",
            "paper_url": "<optional>",
            "publication_year": datetime.date.today().year,
            "institution": "<required>",
            "team": "<optional>",
        },
        "open_source": True,
        "code_url": "<optional>",
    }


def _suite(
    name: str,
    gold: Path,
    pairs: Mapping[str, tuple[_Row, _Row]],
    item: Sequence[str],
    facets: Mapping[str, Mapping[str, str]],
    text: str,
    submission: str,
) -> Suite:
    stems = [row["filename"] for pair in pairs.values() for row in pair]
    found = require_sounds(gold.parent, stems, listed_in=gold.name)
    texts = {row["filename"]: row[text] for pair in pairs.values() for row in pair if text and row[text].strip()}
    return Suite(
        name=name,
        version=fingerprint(read_bytes(gold, "a table of pairs")),
        pairs=tuple(
            Pair(id=pair, positive=good["filename"], negative=bad["filename"], group=good.get("type", ""))
            for pair, (good, bad) in pairs.items()
        ),
        clips={stem: found[stem] for stem in stems},
        clusters={pair: _id(good[column] for column in item) for pair, (good, _) in pairs.items()},
        facets=facets,
        texts=texts if len(texts) == len(stems) else {},
        submission=submission,
    )


def _join(gold: Path, rows: Sequence[_Row], columns: Sequence[str]) -> dict[str, tuple[_Row, _Row]]:
    """Return pair id -> (correct row, incorrect row), joined on `columns`, sorted."""
    sides: dict[tuple[str, ...], tuple[list[_Row], list[_Row]]] = defaultdict(lambda: ([], []))
    for row in rows:
        sides[tuple(row[c] for c in columns)][row["correct"] == "0"].append(row)
    broken = [
        f"{', '.join(f'{c} {v}' for c, v in zip(columns, key, strict=True))}: {len(good)} correct, {len(bad)} incorrect"
        for key, (good, bad) in sorted(sides.items())
        if len(good) != 1 or len(bad) != 1
    ]
    if broken:
        raise BadInput(
            f"{gold}: {len(broken)} of {len(sides)} pairs do not have one correct and one incorrect row: "
            f"{offenders(broken)}. Get a whole copy of the table."
        )
    return {_id(key): (good[0], bad[0]) for key, (good, bad) in sorted(sides.items())}


def _id(parts: Iterable[str]) -> str:
    """Return `parts` joined by slashes, those inside them escaped: two keys never give one id."""
    return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)


def _read_gold(path: Path, columns: Sequence[str]) -> list[_Row]:
    """Read a gold table; `filename` is given without its suffix."""
    holder = "/".join(path.parts[-3:])
    rows: list[_Row] = []
    bad: list[str] = []
    missing = f". Give the dataset's own folder, the one that holds {holder}."
    for line, row in gold_table(path, columns, missing=missing, fix="Get a whole copy of the table."):
        if row["correct"] not in ("0", "1"):
            bad.append(f"line {line}: correct is {row['correct']!r}, not 0 or 1")
        elif blank := [c for c in ("id", "filename", "voice") if not row[c].strip()]:
            bad.append(f"line {line}: {' and '.join(blank)} is empty")
        else:
            rows.append(row | {"filename": _stem(row["filename"])})
    if bad:
        raise BadInput(f"{path}: {len(bad)} bad lines: {offenders(bad)}. Get a whole copy of the table.")
    listed = Counter(row["filename"] for row in rows)
    if doubled := sorted(name for name, count in listed.items() if count > 1):
        raise BadInput(f"{path}: {len(doubled)} files are listed more than once: {offenders(doubled)}.")
    return rows


def _stem(name: str) -> str:
    suffix = next((suffix for suffix in FORMS if has_suffix(name, (suffix,))), "")
    return name[: len(name) - len(suffix)]


def _frequency(text: str) -> int | None:
    """Return a word's count in LibriSpeech; None when the table leaves it open (it is in no band then)."""
    return int(float(text)) if text.strip() else None


def _band(count: int) -> str:
    return [name for name, first in BANDS if count >= first][-1]
