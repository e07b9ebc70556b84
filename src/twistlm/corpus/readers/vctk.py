"""VCTK."""

from __future__ import annotations

from pathlib import Path

from twistlm.audio.finding import visible
from twistlm.corpus.manifest import Entry
from twistlm.corpus.readers.tables import by_stem, pair
from twistlm.errors import BadInput
from twistlm.files.text import read_text

_WITHOUT_TEXT = "p315"  # its texts were lost before the first release
_WITHOUT_SOUND = "p362"  # some of its sounds are in no copy of 0.92


def vctk(folder: Path) -> list[Entry]:
    """VCTK: 44 h of 110 English speakers, each reading some 400 sentences.

    Source: datashare.ed.ac.uk/handle/10283/3443 (Yamagishi et al. 2019). Licence: CC BY 4.0.

    Layout, either of two, with the texts in `txt/p225/p225_001.txt`; `folder` holds these, or `VCTK-Corpus-0.92/` or
    `VCTK-Corpus/`:
        `wav48_silence_trimmed/p225/p225_001_mic1.flac` and `_mic2.flac` (0.92). The first microphone is read, which all
            speakers have.
        `wav48/p225/p225_001.wav` (0.80).
    Checked against torchaudio's and Lhotse's readers. Of p315 no release has the texts: its clips have none. Texts of
    p362 without a sound are passed over, as 0.92 lacks these sounds.

    Splits: none of its own; all is "train" here, and speakers are held out whole.

    Raises:
        BadInput: no such layout; a sound without text or the other way round, but for these two speakers.
    """
    names = ("VCTK-Corpus-0.92", "VCTK-Corpus")
    folder = next((folder / name for name in names if (folder / name).is_dir()), folder)
    trimmed, plain = folder / "wav48_silence_trimmed", folder / "wav48"
    if not (trimmed.is_dir() or plain.is_dir()) or not (folder / "txt").is_dir():
        raise BadInput(
            f"{folder}: has no wav48_silence_trimmed (or wav48) and txt in it. Give the folder that unpacking left."
        )
    if trimmed.is_dir():
        both = by_stem(trimmed, (".flac", ".wav"), pattern="*/*")
        found = {stem.removesuffix("_mic1"): path for stem, path in both.items() if stem.endswith("_mic1")}
    else:
        found = by_stem(plain, (".wav", ".flac"), pattern="*/*")
    told = {path.stem: path for path in visible(folder / "txt", "*/*", (".txt",))}
    told = {id: path for id, path in told.items() if id in found or not id.startswith(f"{_WITHOUT_SOUND}_")}
    mute = {id for id in found if id.startswith(f"{_WITHOUT_TEXT}_") and id not in told}
    pair([*told, *mute], found, where=str(folder))
    texts = {id: read_text(path, "a transcript of VCTK").strip() for id, path in told.items()}
    return [Entry(id=id, path=found[id], speaker=id.split("_")[0], text=texts.get(id, "")) for id in sorted(found)]
