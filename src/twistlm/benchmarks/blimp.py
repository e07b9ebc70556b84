"""sBLIMP from minimal pairs of sentences: speech in the layout of ZeroSpeech 2021, which
`evaluate.suites.zerospeech` reads.

syntactic/<split>/gold.csv    id, filename, voice, type (the phenomenon), subtype (its type), transcription, correct
syntactic/<split>/<name>.wav  names say nothing of the side
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twistlm.benchmarks.engines import Voice, label
from twistlm.benchmarks.release import Casting, Split, stem, write_card, write_gold, write_release
from twistlm.benchmarks.spoken import Spoken
from twistlm.benchmarks.texts import fingerprint_rows, read_jsonl, spoken_words
from twistlm.errors import BadInput, offenders

FIELDS = ("id", "phenomenon", "type", "good", "bad")
SentencePair = dict[str, str]


def read_pairs(path: str | Path) -> list[SentencePair]:
    """Read pairs: JSON lines with id, phenomenon, type, good, bad.

    Raises:
        BadInput: as `texts.read_jsonl`; or a pair whose sentences have the same words.
    """
    pairs = read_jsonl(path, FIELDS)
    if same := [pair["id"] for pair in pairs if spoken_words(pair["good"]) == spoken_words(pair["bad"])]:
        raise BadInput(f"{path}: {len(same)} pairs have one sentence twice: {offenders(same)}.")
    return pairs


def build_blimp(
    pairs: Sequence[SentencePair],
    out: str | Path,
    *,
    casting: Casting,
    split: Split,
    licence: str,
    about: str = "",
    store: Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Make a spoken benchmark of `pairs` in `out`, whole or not at all; what was spoken before is not spoken again.

    Args:
        pairs: from `read_pairs`.
        out: the folder; one of an earlier build is replaced.
        casting: who speaks.
        split: "dev" or "test", as `twist eval` is to call it.
        licence: of the texts, for the card.
        about: what else the card says, first.
        store: where spoken lines are kept; None: twistlm's cache.
        progress: whether to draw bars.

    Returns:
        facts: out, suites, pairs, voices, spoken (lines that were missing), written (False: it was there).
    """
    build = {
        "benchmark": "blimp", "split": split, "pairs": len(pairs), "texts": fingerprint_rows(pairs),
        "licence": licence, "about": about, **casting.facts(),
    }  # fmt: skip
    spoken = Spoken(casting.sample_rate, store)
    said: list[tuple[Voice, str]] = []
    rows: list[dict[str, str]] = []
    for number, pair in enumerate(pairs):
        for voice in casting.of(number):
            for side, correct in (("good", "1"), ("bad", "0")):
                said.append((voice, pair[side]))
                rows.append({
                    "id": pair["id"], "filename": stem(label(voice), pair["id"], side), "voice": label(voice),
                    "type": pair["phenomenon"], "subtype": pair["type"], "transcription": pair[side],
                    "correct": correct,
                })  # fmt: skip
    n_spoken = spoken.say_all(said, progress=progress)

    def fill(folder: Path) -> None:
        write_gold(
            folder,
            place=f"syntactic/{split}",
            said=said,
            rows=rows,
            text="transcription",
            spoken=spoken,
            casting=casting,
        )
        counts = Counter(pair["phenomenon"] for pair in pairs)
        body = f"""
{len(pairs)} pairs of sentences, one grammatical and one not. A speech language model that has learned grammar finds the
grammatical one likelier. The layout is that of sBLIMP in ZeroSpeech 2021; the sentences are others, so no number on it
compares with sBLIMP's.

| phenomenon | pairs |
|---|---|
{"".join(f"| {name} | {count} |{chr(10)}" for name, count in sorted(counts.items()))}
Score it with `twist eval RUN sblimp-{split}=FOLDER --normalize both`.
"""
        write_card(
            folder,
            title="Spoken minimal pairs",
            body=body,
            casting=casting,
            licence=licence,
            command="twist bench blimp",
            about=about,
        )

    written = write_release(out, build, fill)
    return {
        "out": str(out), "suites": [f"sblimp-{split}"], "pairs": len(rows) // 2,
        "voices": [label(voice) for voice in casting.voices], "spoken": n_spoken, "written": written,
    }  # fmt: skip
