"""Fisher, and telephone calls laid out like it: two channels, a transcript with both sides."""

from __future__ import annotations

import re
from pathlib import Path

from twistlm.audio.finding import SUFFIXES, visible
from twistlm.corpus.manifest import Entry
from twistlm.corpus.readers.tables import by_stem, columns, lines, pair
from twistlm.errors import BadInput, offenders

_SAID = re.compile(r"\s*(\d+(?:\.\d*)?)\s+(\d+(?:\.\d*)?)\s+([AB]):\s*(.*)")
_CALL = re.compile(r"fe_\d\d_(\d+)")  # how Fisher names its calls
_SIDES = {"A": 1, "B": 2}


def fisher(folder: Path) -> list[Entry]:
    """Fisher English: 1,960 h of telephone conversations; or any calls with one speaker a channel and such transcripts.

    Source: Linguistic Data Consortium, LDC2004S13 and LDC2005S13 with transcripts LDC2004T19 and LDC2005T19 (Cieri et
    al. 2004). Licence: LDC's user agreement.

    Layout: sounds of two channels (`fe_03_p1_sph1/audio/000/fe_03_00001.sph`; .wav and others too) and transcripts of
    the same names (`data/trans/000/fe_03_00001.txt`), both at any depth below `folder`; lines "3.76 5.54 A: words",
    "#" begins a comment. Where there are tables `*_calldata.tbl`, speakers are the PINs in their columns 6 and 11;
    without, each side of a call is one. Checked against Lhotse's reader. Each line is a clip: a part of the recording,
    on the channel of its side (A is the first). Texts keep their marks, "((unsure))" and "[laughter]". SPHERE files
    whose µ-law samples shorten compressed are not read: LDC's `sph2pipe` unpacks them.

    Splits: none of its own; all is "train" here, and calls are held out whole.

    Raises:
        BadInput: no calls; a sound without transcript or the other way round; a line of another form; one that ends
            before it begins.
    """
    found = by_stem(folder, SUFFIXES, pattern="**/*")
    if not found:
        raise BadInput(f"{folder}: no sound files below it. Give what holds both the sounds and the transcripts.")
    texts = visible(folder, "**/data/trans/**/*", (".txt",)) or visible(folder, "**/*", (".txt",))
    told: dict[str, Path] = {}
    for path in texts:
        if path.stem in told:
            raise BadInput(f"{folder}: two transcripts are of {path.stem}: {told[path.stem]}, {path}.")
        if path.stem in found or _CALL.fullmatch(path.stem):
            told[path.stem] = path
    pair(told, found, where=str(folder))
    pins = _pins(folder)
    return [entry for id, path in told.items() for entry in _sides(id, found[id], path, pins)]


def _sides(call: str, sound: Path, transcript: Path, pins: dict[str, tuple[str, str]]) -> list[Entry]:
    number = match[1] if (match := _CALL.fullmatch(call)) else call
    entries, odd = [], []
    for line, text in lines(transcript):
        if text.lstrip().startswith("#"):
            continue
        said = _SAID.fullmatch(text)
        if said is None or float(said[2]) <= float(said[1]):
            odd.append(f"line {line}")
            continue
        start, end, side = float(said[1]), float(said[2]), said[3]
        entries.append(
            Entry(
                id=f"{call}-{side}-{round(start * 1000):07d}-{round(end * 1000):07d}",
                path=sound,
                speaker=pins[number][_SIDES[side] - 1] if number in pins else f"{call}-{side}",
                text=" ".join(said[4].split()),
                start=start,
                seconds=round(end - start, 6),
                channel=_SIDES[side],
            )
        )
    if odd:
        raise BadInput(f"{transcript}: not 'start end A: words' with a start before the end: {offenders(odd)}.")
    return entries


def _pins(folder: Path) -> dict[str, tuple[str, str]]:
    """Return the two speakers of each call, by its number."""
    found: dict[str, tuple[str, str]] = {}
    for table in visible(folder, "**/*_calldata.tbl"):
        rows = columns(table, sep=",", n=11)
        next(rows, None)
        found |= {row[0].strip(): (row[5].strip(), row[10].strip()) for row in rows}
    return found
