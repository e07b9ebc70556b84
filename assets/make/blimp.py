"""Minimal pairs for `mini-sblimp`: `python assets/make/blimp.py --out PAIRS.jsonl --seed 0`.

Each frame gives a type of PER_TYPE pairs, half of them flipped, so that a rule that looks at single words or at the
length cannot find the grammatical side. The same seed gives the same file, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import blimp_frames as words
import blimp_syntax as syntax
from blimp_frames import Draw, Frame, Sides

from twistlm.errors import ArtifactError, TwistError
from twistlm.files.atomic import atomic_write

PER_TYPE = 18  # even: both values of `flip` are drawn equally often
TRIES = 200  # draws of one pair before its lists are called too short
PHENOMENA: dict[str, list[Frame]] = {
    "subject-verb agreement": [
        words.simple_verb,
        words.across_preposition,
        words.across_relative,
        words.in_questions,
        words.coordinated,
    ],
    "determiner-noun agreement": [words.determiner, words.noun, words.irregular_noun],
    "reflexive agreement": [words.across_clause, words.across_owner, words.reflexive_number],
    "argument structure": [syntax.transitivity, syntax.told_or_explained, syntax.preposition],
    "control and raising": [syntax.expletive, syntax.gerund_or_infinitive, syntax.hard_or_willing],
    "negative polarity": [syntax.nobody_ever, syntax.no_ever, syntax.either_or_too],
    "filler and gap": [syntax.gap, syntax.distant_gap, syntax.subject_gap],
    "islands": [syntax.adjunct_island, syntax.relative_island, syntax.left_branch, syntax.coordinate_island],
    "irregular forms": [words.participle, words.passive],
    "auxiliaries": [words.will_or_is, words.did_or_has],
    "quantifiers": [words.much_or_many, words.every_or_all, words.each_or_all],
    "ellipsis": [syntax.left_out_noun, syntax.left_out_verb],
    "word order": [syntax.indirect_question, syntax.particle, syntax.adverb, syntax.enough, syntax.how_much],
    "pronouns": [words.case_of_both, words.case, words.who_or_which],
    "comparison": [words.comparison],
}


def pairs_of(frame: Frame, *, seed: int, taken: set[str]) -> list[Sides]:
    """PER_TYPE pairs of one type, alternately plain and flipped; adds their sentences to `taken`.

    Raises:
        ArtifactError: the lists are too short for so many pairs without a sentence in `taken`.
    """
    draw, pairs = Draw(f"{seed} {frame.__name__}"), []
    while len(pairs) < PER_TYPE:
        for _ in range(TRIES):
            good, bad = (side[0].upper() + side[1:] for side in frame(draw, len(pairs) % 2 == 1))
            if not taken & {good, bad}:
                break
        else:
            raise ArtifactError(
                f"{frame.__name__}: no new pair after {len(pairs)} in {TRIES} draws. Its lists in blimp_words.py are "
                f"too short for {PER_TYPE} pairs: lengthen them or lower PER_TYPE."
            )
        taken |= {good, bad}
        pairs.append((good, bad))
    return pairs


def build(*, seed: int) -> list[dict[str, str]]:
    """Rows id, phenomenon, type, good, bad; ids, and all sentences, are unique."""
    taken: set[str] = set()
    return [
        {
            "id": f"{frame.__name__.replace('_', '-')}-{number:02d}",
            "phenomenon": phenomenon,
            "type": frame.__name__.replace("_", " "),
            "good": good,
            "bad": bad,
        }
        for phenomenon, frames in PHENOMENA.items()
        for frame in frames
        for number, (good, bad) in enumerate(pairs_of(frame, seed=seed, taken=taken))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    try:
        rows = build(seed=options.seed)
        with atomic_write(options.out) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    except TwistError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    counts = Counter(row["phenomenon"] for row in rows)
    print(f"{options.out}: {len(rows)} pairs; " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
