"""Common Voice."""

from __future__ import annotations

from pathlib import Path

from twistlm.audio.finding import visible
from twistlm.corpus.manifest import Entry
from twistlm.corpus.readers.tables import below, headed, pair
from twistlm.errors import BadInput, offenders

SPLITS = ("train", "dev", "test")


def common_voice(folder: Path) -> list[Entry]:
    """Common Voice: sentences read by volunteers into their own microphones, over 100 languages.

    Source: commonvoice.mozilla.org (Ardila et al. 2020). Licence: CC0; whoever downloads it promises not to find out
    who speaks.

    Layout: "train.tsv", "dev.tsv" and "test.tsv" with columns client_id, path, sentence (others unread), the sounds in
    `clips/`, and since release 17 their lengths in `clip_durations.tsv`; `folder` is one language ("en"), or holds
    several. Any of the three tables may be absent. Checked against Lhotse's reader. validated.tsv, other.tsv and
    invalidated.tsv are not read, as they repeat sentences and voices of dev and test: make a manifest of one with
    `--corpus csv` if you want it, from a copy whose paths begin with `clips/`.

    Splits: train, dev and test, which keep their names and share no voice.

    Raises:
        BadInput: none of the tables; a sound that is listed and not there, or listed twice; a length that is no number.
    """
    homes = [folder] if _tables(folder) else [path for path in visible(folder, "*") if path.is_dir() and _tables(path)]
    if not homes:
        raise BadInput(
            f"{folder}: has none of train.tsv, dev.tsv and test.tsv, nor folders of languages with these. Give the "
            "folder that unpacking a whole release left (a delta has none)."
        )
    return [entry for home in homes for entry in _language(home)]


def _tables(home: Path) -> dict[str, Path]:
    return {split: path for split in SPLITS if (path := home / f"{split}.tsv").is_file()}


def _language(home: Path) -> list[Entry]:
    clips = home / "clips"
    lengths = _lengths(home / "clip_durations.tsv")
    there = {path.name: path for path in visible(clips, "*")}
    rows = []
    for split, table in _tables(home).items():
        for row in headed(table, sep="\t", names=("client_id", "path", "sentence")):
            name = row["path"] if Path(row["path"]).suffix else f"{row['path']}.mp3"  # as of releases before 4
            below(clips, name, where=str(table))
            rows.append((split, name, row))
    listed = [name for _, name, _ in rows]
    wanted = set(listed)
    pair(listed, {name: path for name, path in there.items() if name in wanted}, where=str(home))
    return [
        Entry(
            id=name.rpartition(".")[0],
            path=there[name],
            speaker=row["client_id"],
            split=split,
            text=row["sentence"],
            seconds=lengths.get(name),
        )
        for split, name, row in rows
    ]


def _lengths(table: Path) -> dict[str, float]:
    """Return each clip's seconds, where a release tells them."""
    if not table.is_file():
        return {}
    rows = list(headed(table, sep="\t", names=("clip", "duration[ms]")))
    if odd := [row["clip"] for row in rows if not row["duration[ms]"].isdigit()]:
        raise BadInput(f"{table}: no milliseconds of {offenders(odd)}. The table is damaged: unpack it again.")
    return {row["clip"]: int(row["duration[ms]"]) / 1000 for row in rows}
