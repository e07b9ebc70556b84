"""What counts as a word of a text, for word error rates and for comparing transcripts.

The two rules move published numbers. They agree but for apostrophes, which a recogniser
writes or leaves out as it likes, and for punctuation inside a word. `assets/make/texts.py` has a third rule, which
decided once which sentences are held out, and must never change.
"""

from __future__ import annotations

import re
import unicodedata


def normalize(text: str) -> str:
    """Return `text` as words: lower case, no punctuation, hyphens and dashes as spaces, apostrophes dropped.

    Numbers stay as they are written: "forty" and "40" differ.
    """
    text = re.sub(r"[-‐-―/]", " ", unicodedata.normalize("NFKC", text).lower())
    return " ".join(re.sub(r"[^\w\s]|_", "", text).split())


def words_of(text: str) -> list[str]:
    """Return the words of `text` in lower case, without punctuation."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())
