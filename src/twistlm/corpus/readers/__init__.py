"""Manifests of known corpora: which clips each holds, who speaks, what is held out.

`READERS` names them. Each reader takes the folder that unpacking or downloading left, reads tables and headers (never
the sound), checks tables and sounds against each other, and returns entries; its docstring gives source, licence, the
layout with what it was checked against, and the rule of the splits. Nothing is left out in silence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from twistlm.corpus.manifest import Entry, build, checked, held_out
from twistlm.corpus.readers import lhotse, librivox, listed, parquet, peoples_speech, voxpopuli, webdataset
from twistlm.errors import BadInput, offenders
from twistlm.files.urls import UrlPath, as_path

HELDOUT = 0.1  # share held out of a corpus that has no held-out sets of its own, as of a plain folder


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How a corpus is read.

    Attributes:
        read: folder, and the longest clip in seconds where long files are cut, to entries.
        own_splits: whether the corpus says itself what is held out.
        together: what is held out as a whole where it does not: "speaker" (so that no held-out voice is trained on) or
            "clip".
    """

    read: Callable[[Path, float], list[Entry]]
    own_splits: bool
    together: str = "clip"


def _whole(read: Callable[[Path], list[Entry]]) -> Callable[[Path, float], list[Entry]]:
    return lambda folder, _max_seconds: read(folder)


READERS: dict[str, Reader] = {
    "librispeech": Reader(read=_whole(librivox.librispeech), own_splits=True),
    "libri-light": Reader(read=librivox.libri_light, own_splits=False, together="speaker"),
    "mls": Reader(read=_whole(librivox.mls), own_splits=True),
    "ljspeech": Reader(read=_whole(librivox.ljspeech), own_splits=False),
    "peoples-speech": Reader(read=_whole(peoples_speech.peoples_speech), own_splits=True),
    "voxpopuli": Reader(read=_whole(voxpopuli.voxpopuli), own_splits=True),
    "stinystories": Reader(read=_whole(parquet.stinystories), own_splits=False),
    "webdataset": Reader(read=_whole(webdataset.webdataset), own_splits=False),
    "huggingface": Reader(read=_whole(parquet.huggingface), own_splits=False),
    "lhotse": Reader(read=_whole(lhotse.lhotse), own_splits=False),
    "fairseq": Reader(read=_whole(listed.fairseq), own_splits=False),
    "nemo": Reader(read=_whole(listed.nemo), own_splits=False),
    "kaldi": Reader(read=_whole(listed.kaldi), own_splits=False),
}


def read_corpus(
    folder: str | Path | UrlPath,
    *,
    corpus: str,
    splits: Sequence[str] = (),
    heldout: float | None = None,
    seed: int = 0,
    max_seconds: float = 30.0,
) -> list[Entry]:
    """Return the clips of a corpus that lies in `folder` as it was published.

    Args:
        folder: see the reader of the corpus; a URL only for "folder".
        corpus: a name of `READERS`, or "folder" for whatever sound files there are (`manifest.build`).
        splits: keep only these; none keeps all.
        heldout: share, 0 … 1, of the training clips (or speakers) to move to the split "heldout". None is 0 for a
            corpus with held-out sets of its own, or where some clips lie in another split than "train"; else `HELDOUT`.
        seed: another seed is another choice of these.
        max_seconds: longest clip, positive, where long files are cut by the corpus's own marks (Libri-Light).

    Raises:
        BadInput: no such corpus or folder; another layout; tables and sounds that do not fit each other; an id that
            occurs twice; a split nobody is in; a share or length out of range.
    """
    if corpus == "folder":
        entries = build(folder, heldout=HELDOUT if heldout is None else heldout, seed=seed)
    else:
        place = as_path(folder)
        if isinstance(place, UrlPath):
            raise BadInput(f"{folder}: only plain folders are read behind URLs: make the manifest where {corpus} lies.")
        entries = _read(place, corpus, heldout, seed, max_seconds)
    there = sorted({entry.split for entry in entries})
    if unknown := sorted(set(splits) - set(there)):
        raise BadInput(f"{folder}: nothing is in the split {offenders(unknown)}; there are: {', '.join(there)}.")
    return [entry for entry in entries if not splits or entry.split in splits]


def _read(folder: Path, corpus: str, heldout: float | None, seed: int, max_seconds: float) -> list[Entry]:
    reader = READERS.get(corpus)
    if reader is None:
        raise BadInput(f"{corpus!r} is not a corpus that can be read. Known: folder, {', '.join(READERS)}.")
    if not folder.exists():
        raise BadInput(f"{folder}: no such folder. Give the one that unpacking the corpus left.")
    if not max_seconds > 0:
        raise BadInput(f"the longest clip must be longer than 0 s, got {max_seconds}.")
    entries = checked(reader.read(folder, max_seconds), where=str(folder))
    if heldout is None:
        has_own = reader.own_splits or any(entry.split != "train" for entry in entries)
        heldout = 0.0 if has_own else HELDOUT

    def group(entry: Entry) -> str:
        return entry.speaker if reader.together == "speaker" and entry.speaker else entry.id

    chosen = held_out((group(e) for e in entries if e.split == "train"), share=heldout, seed=seed)
    return [
        dataclasses.replace(e, split="heldout") if e.split == "train" and group(e) in chosen else e for e in entries
    ]
