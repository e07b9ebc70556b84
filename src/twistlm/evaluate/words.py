"""What counts as a word of a text, for word error rates and for comparing transcripts.

The two rules move published numbers. They agree but for apostrophes, which a recogniser
writes or leaves out as it likes, and for punctuation inside a word. `assets/make/texts.py` has a third rule, which
decided once which sentences are held out, and must never change.
"""

from __future__ import annotations

import re
import unicodedata

_SHAPES = {"\u200c", "\u200d", *map(chr, range(0xFE00, 0xFE10))}  # say how letters join or look, and nothing else


def normalize(text: str) -> str:
    """Return `text` as words: lower case, no punctuation, hyphens and dashes as spaces, apostrophes dropped.

    Numbers stay as they are written: "forty" and "40" differ. So do marks that belong to a letter: vowels of Hindi or
    points of Hebrew are letters to a reader.
    """
    text = re.sub(r"[-‐-―/]", " ", _lower(unicodedata.normalize("NFKC", text)))
    return " ".join(_with_marks(text, apart="").split())


def words_of(text: str) -> list[str]:
    """Return the words of `text` in lower case, without punctuation; an apostrophe between letters stays."""
    kept = _with_marks(unicodedata.normalize("NFC", _lower(text)), apart=" ", also="'")
    return [word for token in kept.split() for part in re.split("''+", token) if (word := part.strip("'"))]


def _with_marks(text: str, *, apart: str, also: str = "") -> str:
    """Return letters, digits, spaces and what is in `also`, each with the marks that follow it; `apart` for others."""
    kept: list[str] = []
    bears = False  # whether what stands before is a letter or digit with its marks
    for character in text:
        if character in _SHAPES:
            continue
        bears = character.isalnum() or (bears and unicodedata.category(character) in ("Mn", "Mc"))
        kept.append(character if bears or character.isspace() or character in also else apart)
    return "".join(kept)


def _lower(text: str) -> str:
    return text.lower().replace("i\u0307", "i")  # a capital with a dot; of it Python makes two characters
