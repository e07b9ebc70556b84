"""GigaSpeech."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twistlm.corpus.manifest import Entry
from twistlm.corpus.readers.options import Options
from twistlm.corpus.readers.tables import below
from twistlm.errors import BadInput, offenders
from twistlm.files.json_items import read_items

NAME = "GigaSpeech.json"
SUBSETS = ("XL", "L", "M", "S", "XS")  # of training; each holds those behind it
SPLITS = {"{DEV}": "dev", "{TEST}": "test"}
_SIGNS = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
_NO_SPEECH = {"<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"}
_SEGMENT = {"sid": str, "begin_time": float, "end_time": float, "text_tn": str, "subsets": [str], "speaker?": str}
_AUDIO = {"path": str, "aid": str, "segments": [_SEGMENT]}


def gigaspeech(folder: Path, options: Options) -> list[Entry]:
    """GigaSpeech: 10,000 h of transcribed English from audiobooks, podcasts and YouTube.

    Source: github.com/SpeechColab/GigaSpeech (Chen et al. 2021). Licence: its terms of access, for research; the
    recordings keep their owners' licences.

    Layout: `GigaSpeech.json`, whose `audios` have a `path` below the folder ("audio/podcast/P0000/POD0000000001.opus")
    and `segments` with sid, begin_time, end_time, text_tn, subsets; checked against the repository's description of its
    data. It is read recording by recording, of whatever size it is; memory holds the clips that are listed, some 450
    bytes each. Clips are parts of the long recordings, which are never cut. A segment that is marked as no speech
    (<SIL>, <MUSIC>, <NOISE>, <OTHER>) gives no clip, as the authors advise; words for signs ("<COMMA>") become these.
    Of dev, test and the training set, those may be absent of which no recording is there; `options.subset` (XL, L, M,
    S, XS) takes that much of the training set.

    Splits: train, dev and test.

    Raises:
        BadInput: no GigaSpeech.json, or of another shape; another subset; recordings of a set that are there in part;
            segments without a length.
    """
    subset = options.subset.upper() or SUBSETS[0]
    if subset not in SUBSETS:
        raise BadInput(f"{options.subset!r} is no subset of GigaSpeech. There are: {', '.join(SUBSETS)}.")
    entries = [
        entry
        for audio in read_items(folder / NAME, "the metadata of GigaSpeech", "audios", shape=_AUDIO)
        for entry in _of_recording(folder, audio, f"{{{subset}}}")
    ]
    files = {entry.path: entry.split for entry in entries}
    there = {path for path in files if path.is_file()}
    kept = {split for path, split in files.items() if path in there}
    if lost := sorted(str(path) for path, split in files.items() if split in kept and path not in there):
        raise BadInput(
            f"{folder}: recordings are not there: {offenders(lost)}. The copy is not whole; if less of the "
            "training set was fetched, say so: --subset M."
        )
    if not kept:
        raise BadInput(f"{folder}: none of the recordings that {NAME} lists is there. Give the folder of audio/.")
    return [entry for entry in entries if entry.split in kept]


def _of_recording(folder: Path, audio: dict[str, Any], subset: str) -> Iterator[Entry]:
    """Yield the clips of a recording that are speech, and of dev, test or the subset."""
    path = below(folder, audio["path"], where=f"{folder / NAME}, {audio['aid']!r}")
    for segment in audio["segments"]:
        told = [SPLITS[name] for name in segment["subsets"] if name in SPLITS]
        words = segment["text_tn"].split()
        if not (told or subset in segment["subsets"]) or set(words) <= _NO_SPEECH:
            continue
        start, end = float(segment["begin_time"]), float(segment["end_time"])
        text = " ".join(_SIGNS.get(word, word) for word in words if word not in _NO_SPEECH)
        for sign in _SIGNS.values():
            text = text.replace(f" {sign}", sign)
        yield Entry(
            id=segment["sid"],
            path=path,
            speaker=speaker if (speaker := segment.get("speaker", "")) != "N/A" else "",
            split=told[0] if told else "train",
            text=text,
            start=start,
            seconds=round(end - start, 6),
        )
