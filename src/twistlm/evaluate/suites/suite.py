"""What a benchmark of minimal pairs is: which pairs, which sounds, what they are averaged by.

Their readers stand in `zerospeech`, `storycloze` and `salmon`; `catalogue` knows them all by name.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from twistlm.errors import BadInput, offenders
from twistlm.evaluate.suites.sounds import Sound, load
from twistlm.types import Pair, Units

if TYPE_CHECKING:
    from twistlm.units.tokenizer import SpeechTokenizer

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
    """

    name: str
    version: str
    pairs: tuple[Pair, ...]
    clips: Mapping[str, Sound]
    clusters: Mapping[str, str]
    facets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    submission: str = ""

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


def sound_suffix(folder: Path) -> str:
    """Return how the sounds in `folder` end: ".wav" as in the published releases, else ".flac" or ".ogg"."""
    there = {path.suffix for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()
    return next((suffix for suffix in (".wav", ".flac", ".ogg") if suffix in there), ".wav")


def require_sounds(folder: Path, names: Iterable[str], *, listed_in: str, suffix: str = ".wav") -> None:
    """Raise unless the files in `folder` that end on `suffix` are exactly `names`.

    Raises:
        BadInput: the folder is not there, lacks a file, or holds one that nothing lists; the first five are named.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder. Give the folder into which the benchmark was unpacked.")
    wanted = set(names)
    # "._x.wav" is what macOS adds to a zip for each x.wav.
    there = {path.name for path in folder.iterdir() if path.suffix == suffix and not path.name.startswith(".")}
    if missing := sorted(wanted - there):
        forms = {unicodedata.normalize("NFC", name) for name in there}
        respelled = [name for name in missing if unicodedata.normalize("NFC", name) in forms]
        cause = (
            f"{len(respelled)} of them are there under the same name in another Unicode form, which some programs that "
            "unpack or copy files change: unpack again with another one"
            if respelled
            else "get a whole copy: a score over part of a benchmark is another benchmark"
        )
        raise BadInput(f"{folder} lacks {len(missing)} sounds that {listed_in} names: {offenders(missing)}; {cause}.")
    if extra := sorted(there - wanted):
        raise BadInput(
            f"{folder} holds {len(extra)} sounds that {listed_in} does not name: {offenders(extra)}. Two releases may "
            "have been unpacked into one folder: unpack into an empty one."
        )


def require_table(path: Path, *, missing: str) -> None:
    """Raise unless `path` is a file that a table of pairs may be; nothing is read.

    Raises:
        BadInput: no such file (`missing` says what to do), or far larger than any such table.
    """
    if not path.is_file():
        raise BadInput(f"{path} does not exist{missing}")
    if path.stat().st_size > MAX_TABLE_BYTES:
        raise BadInput(
            f"{path} is {path.stat().st_size / 1e6:.0f} MB large: no table of pairs comes near "
            f"{MAX_TABLE_BYTES / 1e6:.0f} MB. Another file may have been put in its place."
        )
