"""A benchmark's folder: written whole, with a card, a manifest, checksums and what it was made from; and its validator.

CARD.md         what it is, how it was made, whose voices, which licence
build.json      what it was made from; the same build is not made twice
manifest.jsonl  every sound by id, with speaker and text (as `corpus.manifest`)
SHA256SUMS      of all other files; `sha256sum -c SHA256SUMS` checks them too
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from twistlm.audio.clip import OPUS_RATES, Clip, encoded
from twistlm.audio.clip import read as read_sound
from twistlm.benchmarks.engines import Voice, label
from twistlm.benchmarks.spoken import Line, Spoken
from twistlm.compute.threads import in_order
from twistlm.corpus import manifest
from twistlm.errors import BadInput, offenders
from twistlm.evaluate.suites.storycloze import storycloze
from twistlm.evaluate.suites.suite import BUILD, Suite
from twistlm.evaluate.suites.zerospeech import prosaudit, sblimp, swuggy
from twistlm.files.atomic import atomic_folder, atomic_write
from twistlm.files.jsonl import read_json
from twistlm.files.regular import file_sha256, read_regular
from twistlm.files.replacing import require_replaceable
from twistlm.files.sealed import is_sealed, seal
from twistlm.files.tables import read_table
from twistlm.files.text import read_text

SUMS, CARD = "SHA256SUMS", "CARD.md"
_SUMS = "the checksums of a benchmark"
Format = Literal["wav", "flac", "ogg"]
Split = Literal["dev", "test"]
RATES = (8_000, 192_000)  # Hz; no engine speaks at more than 48,000
OPUS_KBPS = (6.0, 256.0)  # a channel, as libsndfile has them
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Casting:
    """Who speaks what, and how it is stored.

    Attributes:
        voices: at least one.
        rotate: each item by one voice, the voices in turn; else each item by every voice.
        sample_rate: Hz of all clips.
        format: of the sound files; "ogg" is Opus, a tenth of wav's size or less.
        kbps: of Opus, 6 … 256; what the encoder aims at on average. The other formats keep every sample.
    """

    voices: Sequence[Voice]
    rotate: bool
    sample_rate: int
    format: Format
    kbps: float = 24.0

    def __post_init__(self) -> None:
        if not self.voices:
            raise BadInput("a benchmark needs at least one voice.")
        if self.format not in get_args(Format):
            raise BadInput(f"clips are stored as {', '.join(get_args(Format))}, not {self.format!r}.")
        if not RATES[0] <= self.sample_rate <= RATES[1]:
            raise BadInput(f"clips are stored at {RATES[0]} to {RATES[1]} Hz, not at {self.sample_rate}.")
        if self.format == "ogg" and self.sample_rate not in OPUS_RATES:
            raise BadInput(f"{self.sample_rate} Hz is no rate of Opus ({', '.join(map(str, OPUS_RATES))}).")
        if not OPUS_KBPS[0] <= self.kbps <= OPUS_KBPS[1]:
            raise BadInput(f"Opus has {OPUS_KBPS[0]:g} … {OPUS_KBPS[1]:g} kbit/s a channel, not {self.kbps:g}.")

    def of(self, item: int) -> Sequence[Voice]:
        """Return who speaks item number `item`."""
        return [self.voices[item % len(self.voices)]] if self.rotate else self.voices

    def facts(self) -> dict[str, Any]:
        voices = {label(voice): voice.identity for voice in self.voices}
        rate = {"kbps": self.kbps} if self.format == "ogg" else {}
        facts = {"voices": voices, "rotate": self.rotate, "sample_rate": self.sample_rate, "format": self.format}
        turns = {"order": [*voices]} if self.rotate else {}  # who speaks the first item
        return facts | rate | turns

    def encoded(self, clip: Clip) -> bytes:
        """Return `clip` as the bytes of a sound file: 16-bit PCM, or Opus."""
        low, high = OPUS_KBPS  # libsndfile's compression level goes from the highest rate, 0, to the lowest, 1
        if self.format == "ogg":
            level = (high - self.kbps) / (high - low)
            return encoded(clip, form="OGG", subtype="OPUS", name=clip.id or "a spoken line", compression=level)
        return encoded(clip, form=self.format.upper(), subtype="PCM_16", name=clip.id or "a spoken line")


def write_release(out: str | Path, build: Mapping[str, Any], fill: Callable[[Path], None]) -> bool:
    """Write a benchmark's folder atomically: what `fill` puts into it, the build and the checksums.

    Args:
        out: the folder. One that an earlier build left is replaced, and left alone where it is this build, unharmed.
        build: everything that moves the contents; JSON.
        fill: writes into the empty folder it is given.

    Returns:
        whether it was written.

    Raises:
        BadInput: `out` is something else than a benchmark's folder.
    """
    out = Path(out)
    said = json.dumps(build, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    require_replaceable(out, what="a benchmark that twist bench made", mark=BUILD)
    if (out / BUILD).is_file():
        _require_same_benchmark(out, build)
    if (
        (out / BUILD).is_file()
        and read_text(out / BUILD, "what a benchmark was made from") == said
        and not problems(out)
    ):
        return False
    with atomic_folder(out) as folder:
        fill(folder)
        (folder / BUILD).write_text(said, encoding="utf-8")
        sums = [f"{file_sha256(folder / name)}  {name}\n" for name in _files(folder)]
        (folder / SUMS).write_text("".join(sums), encoding="utf-8")
    return True


def _require_same_benchmark(out: Path, build: Mapping[str, Any]) -> None:
    """Raise `BadInput` where `out` holds another benchmark than `build`'s, or what none of it is."""
    before = read_json(out / BUILD, "what a benchmark was made from", fix="Give a new folder.")
    names = ("benchmark", "split")
    if not isinstance(before, dict) or any(before.get(name) != build.get(name) for name in names):
        held, new = (
            " ".join(str(one[name]) for name in names if one.get(name)) if isinstance(one, Mapping) else "nothing known"
            for one in (before, build)
        )
        raise BadInput(f"{out} holds another benchmark ({held}), which {new} would replace: give a new folder.")
    if strange := [one.removesuffix(" not listed") for one in problems(out) if one.endswith(" not listed")]:
        raise BadInput(
            f"{out} would be made anew as a whole, and {len(strange)} files in it are no part of it: "
            f"{offenders(strange)}. Put them elsewhere, or give a new folder."
        )


def problems(folder: str | Path) -> list[str]:
    """Return what is wrong with the files of a benchmark's folder: missing, changed, or not listed in SHA256SUMS."""
    folder = Path(folder)
    if not (folder / SUMS).is_file():
        return [f"{SUMS} missing"]
    rows = [line.split("  ", 1) for line in read_text(folder / SUMS, _SUMS).splitlines()]
    listed = {row[1]: row[0] for row in rows if len(row) == 2}
    there = set(_files(folder))
    return [
        *(f"{SUMS} line {number} is damaged" for number, row in enumerate(rows, start=1) if len(row) != 2),
        *(f"{name} missing" for name in sorted(listed.keys() - there)),
        *(f"{name} not listed" for name in sorted(there - listed.keys())),
        *(f"{name} changed" for name in sorted(listed.keys() & there) if file_sha256(folder / name) != listed[name]),
    ]


def validate(folder: str | Path) -> list[Suite]:
    """Check that a folder of `twist bench` is whole and unchanged; return the suites in it.

    Checked: checksums; that every sound of the manifest is there; that every suite can be opened by its reader, which
    checks that each pair has both its sides.

    Raises:
        BadInput: something is wrong; the first five are named.
    """
    folder = Path(folder)
    if wrong := problems(folder):
        raise BadInput(f"{folder}: {len(wrong)} files are not as they were made: {offenders(wrong)}. Build it again.")
    lost = [entry.id for entry in manifest.read(folder / manifest.NAME) if not entry.path.is_file()]
    if lost:
        raise BadInput(f"{folder}: {len(lost)} sounds of the manifest are missing: {offenders(lost)}. Build it again.")
    return find_suites(folder)


def find_suites(folder: str | Path) -> list[Suite]:
    """Return every suite in a folder, told by its layout: ZeroSpeech's or Spoken StoryCloze's.

    Raises:
        BadInput: none is there, or one is broken.
    """
    folder = Path(folder)
    found: list[Suite] = []
    for task, reader in (("lexical", swuggy), ("syntactic", sblimp), ("english", prosaudit)):
        splits = [split for split in get_args(Split) if (folder / task / split / "gold.csv").is_file()]
        found += [reader(folder, split) for split in splits]
    if (folder / "gold.csv").is_file():
        kind = "a benchmark's table of stories"
        tasks = dict.fromkeys(row.get("task") or "storycloze" for _, row in read_table(folder / "gold.csv", kind))
        found += [storycloze(folder, name=task) for task in tasks]
    elif not found and (
        any(folder.glob("*.parquet")) or any(folder.glob("*_correct.wav")) or any(folder.glob("*/*.parquet"))
    ):
        found.append(storycloze(folder, name="storycloze"))
    if not found:
        raise BadInput(
            f"{folder} holds no suite that is known by its layout. Name it as for twist eval, for example "
            f"salmon={folder}."
        )
    return found


def stem(*what: str) -> str:
    """Return a file name for a clip that is always the same and says nothing of `what` it is."""
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write `rows`, at least one, as comma-separated values; the first one's keys are the columns."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def stored(voice: Voice, line: Line, *, spoken: Spoken, casting: Casting) -> bytes:
    """Return a spoken line as the bytes of a sound file. Opus is slow to make, and kept beside what was spoken."""
    kept = spoken.path(voice, line).with_suffix(f".{casting.kbps:g}.ogg")
    if casting.format == "ogg" and is_sealed(kept):
        return read_regular(kept, "a spoken line")
    data = casting.encoded(spoken.say(voice, line))
    if casting.format == "ogg":
        with atomic_write(kept) as temporary:
            temporary.write_bytes(data)
        seal(kept)
    return data


def put(path: Path, data: bytes) -> Path:
    """Write a file of a release, whose folder is made whole as one, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_entries(entries: Sequence[manifest.Entry], folder: Path) -> None:
    """Write `folder`'s manifest, each sound with its duration; no clip is for training."""
    timed = [
        manifest.Entry(
            id=entry.id,
            path=entry.path,
            speaker=entry.speaker,
            split="test",
            text=entry.text,
            seconds=round(read_sound(entry.path, sample_rate=None).seconds, 4),
        )
        for entry in entries
    ]
    manifest.write(timed, folder / manifest.NAME)


def write_gold(
    folder: Path,
    *,
    place: str,
    said: Sequence[tuple[Voice, Line]],
    rows: Sequence[Row],
    text: str,
    spoken: Spoken,
    casting: Casting,
) -> None:
    """Write a suite in ZeroSpeech's layout: gold.csv, the sounds it names beside it, and the folder's manifest.

    Args:
        folder: of the release.
        place: where in it the suite lies.
        said: who says what, one for each row.
        rows: of gold.csv, at least one; `filename` and `voice` are needed.
        text: the column that holds what is said, for the manifest.
        spoken: the store, from which clips come.
        casting: how they are stored.
    """
    entries = []
    sounds = in_order(lambda what: stored(*what, spoken=spoken, casting=casting), said)
    for data, row in zip(sounds, rows, strict=True):
        path = put(folder / place / f"{row['filename']}.{casting.format}", data)
        entries.append(manifest.Entry(id=row["filename"], path=path, speaker=row["voice"], text=row[text]))
    write_table(folder / place / "gold.csv", rows)
    write_entries(entries, folder)


def write_card(
    folder: Path, *, title: str, body: str, casting: Casting, licence: str, command: str, about: str
) -> None:
    """Write the data card: `about` this set, `body`, then voices, format, licence of the texts, and the command."""
    how = "each item by one voice, the voices in turn" if casting.rotate else "each item by every voice"
    voices = "".join(f"- `{name}`: {identity}\n" for name, identity in casting.facts()["voices"].items())
    text = f"""# {title}

{f"{about.strip()}{chr(10) * 2}" if about else ""}{body.strip()}

## Voices
{voices}
{how.capitalize()}. {casting.sample_rate} Hz, {casting.format}; every clip was cut 40 ms before and after its speech and
brought to -26 dBFS. Speech of another engine or voice moves scores by points: always say which rendering was used.

## Licence
Texts: {licence}. Speech: see each engine's and voice's own licence.

## Files
`manifest.jsonl` lists every sound; `SHA256SUMS` holds the checksums of all files; `build.json` what it was made from.
Made by `{command}`; `twist bench check` looks for leaks and shortcuts.
"""
    (folder / CARD).write_text(text, encoding="utf-8")


def require_whole(folder: str | Path) -> None:
    """Raise `BadInput` where `folder` is no release of `twist bench`, or its files are not as they were made."""
    if wrong := problems(folder):
        raise BadInput(f"{folder} is no whole benchmark of twist bench: {offenders(wrong)}.")


def add_to_card(folder: str | Path, heading: str, body: str) -> None:
    """Put a section at the end of a release's card, in place of the one it had, and its new checksum into SHA256SUMS.

    Raises:
        BadInput: `folder` is no release.
    """
    folder = Path(folder)
    require_whole(folder)
    text = read_text(folder / CARD, "the card of a benchmark").partition(f"\n## {heading}\n")[0]
    sums = read_text(folder / SUMS, _SUMS)
    before = file_sha256(folder / CARD)
    with atomic_write(folder / CARD) as temporary:
        temporary.write_text(f"{text}\n## {heading}\n{body.rstrip()}\n", encoding="utf-8")
    with atomic_write(folder / SUMS) as temporary:
        temporary.write_text(sums.replace(f"{before}  {CARD}\n", f"{file_sha256(folder / CARD)}  {CARD}\n"), "utf-8")


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != SUMS
    )
