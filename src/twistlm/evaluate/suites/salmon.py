"""SALMon: is a recording whose voice, feeling, room or background stays the same likelier than one where it changes?

Eight parts of pairs. Two layouts, each with one folder a part: `sample_<index>_<k>.wav`, where k = 0 is the positive
(the first release), or Parquet tables of ind, positive_audio, negative_audio (the Hugging Face hub). Official is one
accuracy a part; the mean over all pairs is ours. The readers were tested on stand-ins laid out like the releases, not
on the releases.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from twistlm.audio.finding import visible
from twistlm.errors import BadInput, offenders
from twistlm.evaluate.suites.sounds import Sound, table_rows
from twistlm.evaluate.suites.suite import Suite, fingerprint, sounds_in
from twistlm.types import Pair

PARTS = (
    "bg_alignment", "bg_all_consistency", "bg_domain_consistency", "gender_consistency", "rir_consistency",
    "sentiment_alignment", "sentiment_consistency", "speaker_consistency",
)  # fmt: skip
_INDEX = re.compile(r"\d{1,18}")
_NAME = re.compile(r"sample_(?P<index>\d{1,18})_(?P<k>\d{1,18})")


def salmon(folder: str | Path) -> Suite:
    """Return all eight parts as one suite; facet part.

    Args:
        folder: the one that holds `bg_alignment`, …, `speaker_consistency`.

    Raises:
        BadInput: a part or one side of a pair is missing, doubled or misnamed; the first five are named.
    """
    folder = Path(folder)
    if lost := [part for part in PARTS if not (folder / part).is_dir()]:
        raise BadInput(f"{folder} lacks the parts {offenders(lost, limit=8)} of SALMon. Get a whole copy.")
    clips: dict[str, Sound] = {}
    pairs: list[Pair] = []
    for part in PARTS:
        tables = visible(folder / part, "*", (".parquet",))
        sides = _from_tables(tables) if tables else _from_files(folder / part)
        for index, (good, bad) in sorted(sides.items()):
            id = f"{part}/{index}"
            clips |= {f"{id}/positive": good, f"{id}/negative": bad}
            pairs.append(Pair(id=id, positive=f"{id}/positive", negative=f"{id}/negative", group=part))
    return Suite(
        name="salmon",
        version=fingerprint("\n".join(sorted(clips)).encode()),
        pairs=tuple(pairs),
        clips=clips,
        clusters={pair.id: pair.id for pair in pairs},
        facets={"part": {pair.id: pair.group for pair in pairs}},
    )


def _from_files(folder: Path) -> dict[int, tuple[Path, Path]]:
    found = sounds_in(folder, suffixes=(".wav",))
    matches = {stem: _NAME.fullmatch(stem) for stem in found}
    if odd := [found[stem].name for stem, match in matches.items() if match is None]:
        raise BadInput(f"{folder}: {len(odd)} names are not sample_<index>_<k>.wav: {offenders(odd)}.")
    if not found:
        raise BadInput(f"{folder} holds neither wav files nor Parquet tables. Get a whole copy of SALMon.")
    sides: dict[int, dict[int, Path]] = defaultdict(dict)
    for stem, match in matches.items():
        assert match is not None
        index, k = int(match["index"]), int(match["k"])
        if k in sides[index]:  # sample_1_0.wav and sample_01_0.wav
            raise BadInput(f"{folder}: {sides[index][k].name} and {found[stem].name} are the same sample.")
        sides[index][k] = found[stem]
    broken = [f"sample {i} has k = {', '.join(map(str, ks))}" for i, ks in sorted(sides.items()) if not _is_pair(ks)]
    if broken:
        raise BadInput(
            f"{folder}: {len(broken)} of {len(sides)} samples are not one positive (k = 0) and one negative: "
            f"{offenders(broken)}. Get a whole copy."
        )
    return {i: (ks[0], ks[max(ks)]) for i, ks in sides.items()}


def _is_pair(ks: dict[int, Path]) -> bool:
    return len(ks) == 2 and 0 in ks


def _from_tables(tables: list[Path]) -> dict[int, tuple[Sound, Sound]]:
    sides: dict[int, tuple[Sound, Sound]] = {}
    doubled: list[int] = []
    for path in tables:
        for row, cells in table_rows(path, ids=("ind",), audio=("positive_audio", "negative_audio")):
            if not _INDEX.fullmatch(row["ind"]):
                raise BadInput(f"{path}: {row['ind']!r} in the column ind is no number of a sample. Get it again.")
            index = int(row["ind"])
            if index in sides:
                doubled.append(index)
            sides[index] = (cells["positive_audio"], cells["negative_audio"])
    if doubled:
        raise BadInput(f"{tables[0].parent}: {len(doubled)} samples occur more than once: {offenders(doubled)}.")
    if not sides:
        raise BadInput(f"{tables[0].parent}: its tables have no rows. Get a whole copy of SALMon.")
    return sides
