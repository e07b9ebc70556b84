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
from twistlm.corpus.readers import (
    common_voice,
    fisher,
    gigaspeech,
    lhotse,
    librivox,
    listed,
    named,
    parquet,
    peoples_speech,
    vctk,
    voxpopuli,
    webdataset,
)
from twistlm.corpus.readers.options import Options
from twistlm.errors import BadInput, offenders
from twistlm.files.urls import UrlPath, as_path

HELDOUT = 0.1  # share held out of a corpus that has no held-out sets of its own, as of a plain folder


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How a corpus is read.

    Attributes:
        read: folder and options to entries.
        own_splits: whether the corpus says itself what is held out.
        together: what is held out as a whole where it does not: "speaker" (so that no held-out voice is trained on),
            "file" (a conversation) or "clip".
        takes: of the options, "columns", "subset" and "max_seconds", those that it looks at.
    """

    read: Callable[[Path, Options], list[Entry]]
    own_splits: bool
    together: str = "clip"
    takes: tuple[str, ...] = ()


def _plain(read: Callable[[Path], list[Entry]]) -> Callable[[Path, Options], list[Entry]]:
    return lambda folder, _options: read(folder)


READERS: dict[str, Reader] = {
    "librispeech": Reader(read=_plain(librivox.librispeech), own_splits=True),
    "libri-light": Reader(read=librivox.libri_light, own_splits=False, together="speaker", takes=("max_seconds",)),
    "libritts": Reader(read=_plain(librivox.libritts), own_splits=True),
    "mls": Reader(read=_plain(librivox.mls), own_splits=True),
    "ljspeech": Reader(read=_plain(librivox.ljspeech), own_splits=False),
    "common-voice": Reader(read=_plain(common_voice.common_voice), own_splits=True),
    "peoples-speech": Reader(read=peoples_speech.peoples_speech, own_splits=True),
    "gigaspeech": Reader(read=gigaspeech.gigaspeech, own_splits=True, takes=("subset",)),
    "voxpopuli": Reader(read=_plain(voxpopuli.voxpopuli), own_splits=True),
    "vctk": Reader(read=_plain(vctk.vctk), own_splits=False, together="speaker"),
    "fisher": Reader(read=_plain(fisher.fisher), own_splits=False, together="file"),
    "stinystories": Reader(read=parquet.stinystories, own_splits=False),
    "huggingface": Reader(read=parquet.huggingface, own_splits=False, takes=("columns",)),
    "audiofolder": Reader(read=named.audiofolder, own_splits=False, takes=("columns",)),
    "webdataset": Reader(read=_plain(webdataset.webdataset), own_splits=False),
    "csv": Reader(read=named.csv, own_splits=False, takes=("columns",)),
    "lhotse": Reader(read=_plain(lhotse.lhotse), own_splits=False),
    "fairseq": Reader(read=_plain(listed.fairseq), own_splits=False),
    "nemo": Reader(read=_plain(listed.nemo), own_splits=False),
    "kaldi": Reader(read=_plain(listed.kaldi), own_splits=False),
}


def read_corpus(
    folder: str | Path | UrlPath,
    *,
    corpus: str,
    splits: Sequence[str] = (),
    heldout: float | None = None,
    seed: int = 0,
    options: Options | None = None,
) -> list[Entry]:
    """Return the clips of a corpus that lies in `folder` as it was published.

    Args:
        folder: see the reader of the corpus; a URL only for "folder".
        corpus: a name of `READERS`, or "folder" for whatever sound files there are (`manifest.build`).
        splits: keep only these; none keeps all.
        heldout: share, 0 … 1, of the training clips (or speakers) to move to the split "heldout". None is 0 for a
            corpus with held-out sets of its own, or where some clips lie in another split than "train"; else `HELDOUT`.
        seed: another seed is another choice of these.
        options: columns, subset, and the longest clip where long files are cut by the corpus's own marks (Libri-Light).

    Raises:
        BadInput: no such corpus or folder; another layout; tables and sounds that do not fit each other; an id that
            occurs twice; a split nobody is in; a share or length out of range; an option that the corpus has no use
            for.
    """
    options = options or Options()
    _require_use(corpus, options)
    if corpus == "folder":
        entries = build(folder, heldout=HELDOUT if heldout is None else heldout, seed=seed)
    else:
        place = as_path(folder)
        if isinstance(place, UrlPath):
            raise BadInput(f"{folder}: only plain folders are read behind URLs: make the manifest where {corpus} lies.")
        entries = _read(place, corpus, heldout, seed, options)
    there = sorted({entry.split for entry in entries})
    if unknown := sorted(set(splits) - set(there)):
        raise BadInput(f"{folder}: nothing is in the split {offenders(unknown)}; there are: {', '.join(there)}.")
    return [entry for entry in entries if not splits or entry.split in splits]


def _read(folder: Path, corpus: str, heldout: float | None, seed: int, options: Options) -> list[Entry]:
    reader = READERS.get(corpus)
    if reader is None:
        raise BadInput(f"{corpus!r} is not a corpus that can be read. Known: folder, {', '.join(READERS)}.")
    if not folder.exists():
        raise BadInput(f"{folder}: no such folder. Give the one that unpacking the corpus left.")
    if not options.longest > 0:
        raise BadInput(f"the longest clip must be longer than 0 s, got {options.longest}.")
    entries = checked(reader.read(folder, options), where=str(folder))
    if heldout is None:
        has_own = reader.own_splits or any(entry.split != "train" for entry in entries)
        heldout = 0.0 if has_own else HELDOUT

    def group(entry: Entry) -> str:
        if reader.together == "file":
            return entry.path.stem
        return entry.speaker if reader.together == "speaker" and entry.speaker else entry.id

    chosen = held_out((group(e) for e in entries if e.split == "train"), share=heldout, seed=seed)
    return [
        dataclasses.replace(e, split="heldout") if e.split == "train" and group(e) in chosen else e for e in entries
    ]


def _require_use(corpus: str, options: Options) -> None:
    """Raise BadInput for an option that was given and that nothing would look at."""
    if corpus != "folder" and corpus not in READERS:
        return
    takes = READERS[corpus].takes if corpus in READERS else ()
    given = {
        "columns": bool(options.columns),
        "subset": bool(options.subset),
        "max_seconds": options.max_seconds is not None,
    }
    for what, wanted in given.items():
        if wanted and what not in takes:
            those = ", ".join(name for name, reader in READERS.items() if what in reader.takes)
            those += ", and for --vad" if what == "max_seconds" else ""
            flag = f"--{next(iter(options.columns))}-column" if what == "columns" else f"--{what.replace('_', '-')}"
            raise BadInput(f"{flag} says nothing of the corpus {corpus!r}; it is for {those}.")
