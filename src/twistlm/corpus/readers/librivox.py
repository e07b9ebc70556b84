"""Corpora of LibriVox audiobooks: LibriSpeech, Libri-Light, Multilingual LibriSpeech, LibriTTS, LJ Speech."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from twistlm.audio.finding import visible
from twistlm.corpus.manifest import Entry
from twistlm.corpus.readers.options import Options
from twistlm.corpus.readers.tables import by_stem, columns, lines, pair
from twistlm.errors import BadInput, offenders
from twistlm.files.jsonl import read_json
from twistlm.files.text import read_text

LIBRISPEECH = (
    "train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other",
)  # fmt: skip
LIBRI_LIGHT = ("small", "medium", "large", "duplicate")
MLS = ("train", "dev", "test")

# Marked stretches of speech nearer than this belong to one clip: shorter pauses are part of fluent reading. Ours.
MAX_PAUSE = 1.0


def librispeech(folder: Path) -> list[Entry]:
    """LibriSpeech: 960 h of read English for training, dev and test sets of other speakers.

    Source: openslr.org/12 (Panayotov et al. 2015). Licence: CC BY 4.0.

    Layout: `train-clean-100/103/1240/103-1240-0000.flac` (subset, speaker, chapter) with `103-1240.trans.txt` beside,
    lines "103-1240-0000 TEXT IN CAPITALS"; `folder` is what holds the subsets, or what holds `LibriSpeech/`. Any of the
    seven subsets may be absent. Checked against the corpus's README.

    Splits: the train subsets are "train"; dev-clean, dev-other, test-clean and test-other keep their names. Subsets
    share no speaker.

    Raises:
        BadInput: none of the subsets; a folder named like a subset that is none; a sound without transcript or the
            other way round.
    """
    folder = folder / "LibriSpeech" if (folder / "LibriSpeech").is_dir() else folder
    subsets = _subsets(folder, LIBRISPEECH, prefixes=("train-", "dev-", "test-"))
    entries = []
    for subset in subsets:
        found = by_stem(folder / subset, (".flac",), pattern="*/*/*")
        texts: list[tuple[str, str]] = []
        for table in visible(folder / subset, "*/*/*.trans.txt"):
            texts += [(id, text) for id, _, text in (line.partition(" ") for _, line in lines(table))]
        pair([id for id, _ in texts], found, where=str(folder / subset))
        split = "train" if subset.startswith("train-") else subset
        for id, text in texts:
            entries.append(Entry(id=id, path=found[id], speaker=id.split("-")[0], split=split, text=text))
    return entries


def libri_light(folder: Path, options: Options) -> list[Entry]:
    """Libri-Light: 60,000 h of read English without transcripts, each file with the speech in it marked.

    Source: github.com/facebookresearch/libri-light (Kahn et al. 2020). Licence: the readings are LibriVox's, which are
    in the public domain; the repository's own code is MIT.

    Layout: `small/960/book_name/file.flac` (subset, speaker, book) with `file.json` beside, whose `voice_activity`
    lists [onset, offset] in seconds and whose `speaker` is the LibriVox number. `folder` holds one or more of small,
    medium, large, duplicate, or is one of them. Checked against that repository's description of its data.

    Clips: stretches of marked speech, in order; neighbours are one clip while the pause between them is at most
    `MAX_PAUSE` and the clip at most `options.longest` s long. A longer stretch is cut into equal clips. A clip is one
    part of its file, pauses included; the repository's script instead joins stretches up to a length with the pauses
    cut out. A file in which no speech is marked gives no clip.

    Splits: none of its own (its papers use LibriSpeech's); all is "train" here, and speakers are held out whole.

    Raises:
        BadInput: none of the subsets; a sound without its JSON or the other way round; a JSON that lacks those keys, or
            whose stretches overlap or run backwards.
    """
    if folder.name in LIBRI_LIGHT and not any((folder / name).is_dir() for name in LIBRI_LIGHT):
        folder, subsets = folder.parent, [folder.name]
    else:
        subsets = _subsets(folder, LIBRI_LIGHT, prefixes=())
    entries = []
    for subset in subsets:
        marked = {path.with_suffix(""): path for path in visible(folder / subset, "*/*/*", (".json",))}
        sounds = {path.with_suffix(""): path for path in visible(folder / subset, "*/*/*", (".flac",))}
        if lonely := sorted(str(stem.relative_to(folder)) for stem in marked.keys() ^ sounds.keys()):
            raise BadInput(
                f"{folder}: these have a .flac or a .json, not both: {offenders(lonely)}. The marks of speech are in "
                "the .json: unpack the corpus again."
            )
        for stem in sorted(sounds):
            speaker, speech = _marks(marked[stem])
            name = stem.relative_to(folder).as_posix()
            for i, (start, end) in enumerate(_join(speech, options.longest)):
                length = round(end - start, 6)
                entries.append(
                    Entry(
                        id=f"{name}_{i:04d}", path=sounds[stem], speaker=speaker, start=round(start, 6), seconds=length
                    )
                )
    return entries


def mls(folder: Path) -> list[Entry]:
    """Multilingual LibriSpeech: read speech of eight languages, 44,500 h of it English, 6,000 h in the others.

    Source: openslr.org/94 (Pratap et al. 2020). Licence: CC BY 4.0.

    Layout: `mls_polish/train/transcripts.txt`, lines "6892_10049_000000<tab>text", and
    `mls_polish/train/audio/6892/10049/6892_10049_000000.flac` (speaker, book), the same in dev and test; .opus in the
    `_opus` download. `folder` is one language, or holds several `mls_*`. Checked against Lhotse's recipe and paths in
    public code; `segments.txt` and `limited_supervision/` are not needed and not read.

    Splits: train, dev and test, which keep their names.

    Raises:
        BadInput: no such layout; a sound without transcript or the other way round.
    """
    roots = [folder]
    if not any((folder / split).is_dir() for split in MLS):
        roots = sorted(path for path in folder.glob("mls_*") if path.is_dir() and "_lm_" not in path.name)
        if not roots:
            raise _no_layout(folder, "train, dev or test, and no mls_… folder")
    entries = []
    for root in roots:
        for split in _subsets(root, MLS, prefixes=()):
            found = by_stem(root / split / "audio", (".flac", ".opus"), pattern="*/*/*")
            texts = {}
            listed = []
            for id, text in ((row[0], row[1]) for row in columns(root / split / "transcripts.txt", sep="\t", n=2)):
                listed.append(id)
                texts[id] = text
            pair(listed, found, where=str(root / split))
            for id, text in texts.items():
                entries.append(Entry(id=id, path=found[id], speaker=id.split("_")[0], split=split, text=text))
    return entries


def libritts(folder: Path) -> list[Entry]:
    """LibriTTS and LibriTTS-R: 585 h of LibriSpeech's readings at 24 kHz, cut at sentences; R is restored by a model.

    Source: openslr.org/60 and openslr.org/141 (Zen et al. 2019, Koizumi et al. 2023). Licence: CC BY 4.0.

    Layout: `train-clean-100/103/1241/103_1241_000000_000001.wav` (subset, speaker, chapter) with the text in
    `103_1241_000000_000001.normalized.txt` beside it; `folder` is what holds the subsets, or what holds `LibriTTS/` or
    `LibriTTS_R/`. Any of the seven subsets may be absent. Checked against torchaudio's and Lhotse's readers; the
    original texts and the tables of chapters are not read.

    Splits: as of LibriSpeech: the train subsets are "train", the others keep their names.

    Raises:
        BadInput: as `librispeech`.
    """
    folder = next((folder / name for name in ("LibriTTS", "LibriTTS_R") if (folder / name).is_dir()), folder)
    entries = []
    for subset in _subsets(folder, LIBRISPEECH, prefixes=("train-", "dev-", "test-")):
        found = by_stem(folder / subset, (".wav", ".flac"), pattern="*/*/*")
        told = {
            path.name.removesuffix(".normalized.txt"): path for path in visible(folder / subset, "*/*/*.normalized.txt")
        }
        pair(told, found, where=str(folder / subset))
        split = "train" if subset.startswith("train-") else subset
        for id, path in told.items():
            text = read_text(path, "a transcript of LibriTTS").strip()
            entries.append(Entry(id=id, path=found[id], speaker=id.split("_")[0], split=split, text=text))
    return entries


def ljspeech(folder: Path) -> list[Entry]:
    """LJ Speech: 24 h of one woman reading English, 13,100 clips.

    Source: keithito.com/LJ-Speech-Dataset (Ito and Johnson 2017). Licence: public domain.

    Layout: `metadata.csv`, lines "LJ001-0001|Transcription|Normalized transcription", and `wavs/LJ001-0001.wav`;
    `folder` holds them, or holds `LJSpeech-1.1/`. Checked against the corpus's README. The text is the normalised one.

    Splits: none of its own; all is "train" here, and clips are held out.

    Raises:
        BadInput: no such layout; a sound without transcript or the other way round; a | inside a text.
    """
    folder = folder / "LJSpeech-1.1" if (folder / "LJSpeech-1.1").is_dir() else folder
    rows = list(columns(folder / "metadata.csv", sep="|", n=3))
    found = by_stem(folder / "wavs", (".wav",), pattern="*")
    if odd := [row[0] for row in rows if len(row) > 3]:
        raise BadInput(
            f"{folder / 'metadata.csv'}: more than three columns in the lines of {offenders(odd)}: a | inside a text "
            "cannot be told from one between columns. Write another character there."
        )
    pair([row[0] for row in rows], found, where=str(folder))
    return [Entry(id=row[0], path=found[row[0]], speaker="LJ", text=row[2] or row[1]) for row in rows]


def _subsets(folder: Path, known: Sequence[str], *, prefixes: tuple[str, ...]) -> list[str]:
    """Return which known subsets `folder` has; other folders with one of `prefixes` are an error."""
    there = [name for name in known if (folder / name).is_dir()]
    odd = sorted(path.name for path in folder.glob("*") if path.is_dir() and path.name.startswith(prefixes or ("\0",)))
    if unknown := [name for name in odd if name not in known]:
        raise BadInput(f"{folder}: unknown subsets {offenders(unknown)}; known are {', '.join(known)}. Move them away.")
    if not there:
        raise _no_layout(folder, ", ".join(known))
    return there


def _no_layout(folder: Path, wanted: str) -> BadInput:
    return BadInput(f"{folder}: has none of {wanted}. Give the folder that unpacking the corpus left, as it was.")


def _marks(path: Path) -> tuple[str, list[tuple[float, float]]]:
    """Return the speaker and the stretches of speech in a Libri-Light JSON."""
    try:
        fields = read_json(path, "what Libri-Light says of a recording")
        speaker = fields["speaker"]
        speech = [(float(start), float(end)) for start, end in fields["voice_activity"]]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise BadInput(
            f"{path}: no speaker or no voice_activity of [onset, offset] pairs in it ({error!r}). Unpack it again."
        ) from error
    last = 0.0
    for start, end in speech:
        if not (last <= start < end < math.inf):
            raise BadInput(f"{path}: the stretch [{start}, {end}] of voice_activity overlaps or runs backwards.")
        last = end
    return str(speaker), speech


def _join(speech: Sequence[tuple[float, float]], max_seconds: float) -> Iterator[tuple[float, float]]:
    """Yield clips (start, end) in seconds, each at most `max_seconds` long; see `libri_light`."""
    held: tuple[float, float] | None = None
    for start, end in speech:
        if held and start - held[1] <= MAX_PAUSE and end - held[0] <= max_seconds:
            held = held[0], end
            continue
        if held:
            yield held
        n = math.ceil((end - start) / max_seconds)
        *whole, held = itertools.pairwise([*(start + i * (end - start) / n for i in range(n)), end])
        yield from whole
    if held:
        yield held
