"""What a benchmark of minimal pairs is: which pairs, which sounds, what they are averaged by.

Their readers stand in `zerospeech`, `storycloze` and `salmon`; `catalogue` knows them all by name.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from twistlm.audio.finding import visible
from twistlm.errors import BadInput, offenders
from twistlm.evaluate.suites.sounds import Sound, load
from twistlm.files.regular import is_odd
from twistlm.files.tables import formulas, read_table
from twistlm.files.text import is_text
from twistlm.types import Pair, Units

if TYPE_CHECKING:
    from twistlm.units.tokenizer import SpeechTokenizer

BUILD = "build.json"  # lies beside suites that `twist bench` made
FORMS = (".wav", ".flac", ".ogg")  # of sounds beside a table: published releases have the first
SEEN, UNSEEN = "seen_voice", "unseen_voice"
MAX_TABLE_BYTES = 100_000_000  # tables are read whole; sWUGGY's test has some 300,000 rows of less than 100 bytes


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A benchmark of minimal pairs.

    Attributes:
        name: e.g. `"mini-swuggy"`.
        version: 16 hex digits over what lists the pairs (a table, or file names). The sounds are not in it: see
            `evaluate.unit_cache`, whose checksum covers them too.
        pairs: each with its group.
        clips: clip id -> its sound.
        clusters: pair id -> the item it measures (the word, whoever says it): pairs of an item are averaged first, and
            the bootstrap resamples whole items.
        facets: name of a breakdown ("frequency") -> pair id -> its group there ("1-5"). A pair may be in none.
        texts: clip id -> what is said, where the release tells; for text toplines.
        submission: where the official submission folder wants one score a clip ("lexical/dev.txt"); "" for none.
        made_by: "twist bench" where it is laid out like a published benchmark and is none; else "".
    """

    name: str
    version: str
    pairs: tuple[Pair, ...]
    clips: Mapping[str, Sound]
    clusters: Mapping[str, str]
    facets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    submission: str = ""
    made_by: str = ""

    def wanted(self) -> list[str]:
        """Return the ids of the clips the pairs name, sorted."""
        return sorted({side for p in self.pairs for side in (p.positive, p.negative)})

    def tokenize(self, tok: SpeechTokenizer, *, progress: bool = False) -> dict[str, Units]:
        """Return clip id -> Units for every clip the pairs name.

        Raises:
            AudioError: a clip cannot be read.
        """
        from twistlm.compute.threads import in_order
        from twistlm.progress import track

        rate = tok.spec.sample_rate
        wanted = self.wanted()
        made = in_order(lambda i: tok(load(self.clips[i], sample_rate=rate, id=i)), wanted)
        shown = track(made, description=f"units of {self.name}", total=len(wanted), enabled=progress)
        return dict(zip(wanted, shown, strict=True))


def fingerprint(*parts: bytes) -> str:
    """Return 16 hex digits over `parts` joined."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def sounds_in(folder: Path, *, suffixes: Iterable[str] = FORMS) -> dict[str, Path]:
    """Return the sounds in a folder by their names without suffix, of the first suffix that one of them has.

    Hidden names are none, and suffixes count in any case (`audio.finding`).

    Raises:
        BadInput: two files that differ in the case of their suffix; a name that is not UTF-8.
    """
    for suffix in suffixes:
        paths = visible(folder, "*", (suffix,)) if folder.is_dir() else []
        found = {path.name[: -len(suffix)]: path for path in paths}
        if double := sorted(path.name for path in paths if found[path.name[: -len(suffix)]] is not path):
            raise BadInput(f"{folder} holds sounds whose names differ in the case of the suffix: {offenders(double)}.")
        if odd := sorted(path.name for path in paths if not is_text(path.name)):
            raise BadInput(f"{folder} holds sounds whose names are not UTF-8: {offenders(odd)}. Unpack it again.")
        if found:
            return found
    return {}


def require_sounds(folder: Path, stems: Iterable[str], *, listed_in: str) -> dict[str, Path]:
    """Return the sounds in `folder` by their names without suffix, which must be exactly `stems`.

    Raises:
        BadInput: the folder is not there, lacks a file, or holds one that nothing lists; the first five are named.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder. Give the folder into which the benchmark was unpacked.")
    wanted, found = set(stems), sounds_in(folder)
    suffix = next(iter(found.values())).suffix if found else FORMS[0]
    if missing := sorted(wanted - found.keys()):
        forms = {unicodedata.normalize("NFC", name) for name in found}
        respelled = [name for name in missing if unicodedata.normalize("NFC", name) in forms]
        cause = (
            f"{len(respelled)} of them are there under the same name in another Unicode form, which some programs that "
            "unpack or copy files change: unpack again with another one"
            if respelled
            else "get a whole copy: a score over part of a benchmark is another benchmark"
        )
        names = offenders([name + suffix for name in missing])
        raise BadInput(f"{folder} lacks {len(missing)} sounds that {listed_in} names: {names}; {cause}.")
    if extra := sorted(found[stem].name for stem in found.keys() - wanted):
        raise BadInput(
            f"{folder} holds {len(extra)} sounds that {listed_in} does not name: {offenders(extra)}. Two releases may "
            "have been unpacked into one folder: unpack into an empty one."
        )
    return found


def gold_table(path: Path, columns: Sequence[str], *, missing: str, fix: str) -> list[tuple[int, dict[str, str]]]:
    """Return (line number, row) of a benchmark's table of pairs, which is left as it is.

    Args:
        path: the table.
        columns: that it must have.
        missing: what to do where there is none.
        fix: what helps where it is damaged.

    Raises:
        BadInput: no such file, or far larger than any such table; not UTF-8, no such table, another number of cells in
            a row; no rows; a cell that a spreadsheet would run.
    """
    if not path.is_file() and not is_odd(path):
        raise BadInput(f"{path} does not exist{missing}")
    kind = f"a benchmark's table of pairs. {fix.rstrip('.')}"
    rows = list(read_table(path, kind, columns=columns, most=MAX_TABLE_BYTES))
    if not rows:
        raise BadInput(f"{path} has no rows. {fix}")
    if run := formulas([row for _, row in rows], columns):
        raise BadInput(f"{path}: {len(run)} cells are formulas, which spreadsheets run: {offenders(run)}. {fix}")
    return rows
