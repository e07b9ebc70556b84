"""Prompts as a suite: which recordings, in which order, cut how, known by a checksum.

A prompt is the beginning of a recording, so that the truth is known: what follows in it. Suites name recordings and
copy none. `cut` makes the two parts; the rule (which recordings are long enough, where the prompt ends) is the
protocol's.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from twistlm.audio.clip import Clip
from twistlm.audio.decoding import seconds_to_samples
from twistlm.audio.finding import find_audio
from twistlm.corpus.manifest import Entry, build
from twistlm.corpus.readers import read_corpus
from twistlm.corpus.readers.tables import lines
from twistlm.corpus.sounds import check_header, read_clip
from twistlm.errors import AudioError, BadInput
from twistlm.evaluate.suites import sounds
from twistlm.evaluate.suites.sounds import Cell, Joined, Sound
from twistlm.evaluate.suites.storycloze import storycloze
from twistlm.evaluate.suites.suite import fingerprint
from twistlm.files.artifacts import bundled

BUNDLED = "mini-prompts"
STORIES = (
    113  # of mini-storycloze, the first; with the 87 held-out clips of the speech sample that are long enough, 200
)
LONGER_THAN = 6.0  # seconds, of what is bundled: GSLM's rule
SSC = 1000  # how many of Spoken StoryCloze the Slam papers take


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A recording that begins as the prompt does.

    Attributes:
        id: unique in its suite.
        sound: where it lies.
        text: what is said in the whole recording; "" when unknown.
        group: what kind it is ("stories", "read aloud"), for tables by kind.
        speaker: who speaks; "" when unknown.
    """

    id: str
    sound: Entry | Sound
    text: str = ""
    group: str = ""
    speaker: str = ""


@dataclass(frozen=True, kw_only=True)
class PromptSuite:
    """Recordings in a fixed order.

    Attributes:
        name: e.g. "mini-prompts".
        prompts: in the order in which the first N are taken.
    """

    name: str
    prompts: tuple[Prompt, ...]

    @property
    def version(self) -> str:
        """16 hex digits over ids, texts and order. The sounds are covered by the checksum of what was cut (`cut`)."""
        return fingerprint("\n".join(f"{p.id}\t{p.text}" for p in self.prompts).encode())


@dataclass(frozen=True, eq=False, kw_only=True)
class CutPrompt:
    """A prompt as it is heard.

    Attributes:
        prompt: which one.
        start: the prompt itself, `prompt_seconds` of sound.
        whole: prompt and true continuation; the continuation ends after `seconds`, where a length is given.
        sha256: of both, 64 hex digits: samples, rate and where the cut is.
    """

    prompt: Prompt
    start: Clip
    whole: Clip
    sha256: str


def select(suite: PromptSuite, *, longer_than: float, most: int | None) -> PromptSuite:
    """Return the first `most` recordings of a suite that are longer than `longer_than` seconds.

    Raises:
        BadInput: there are none. AudioError: a recording is missing or damaged.
    """
    kept: list[Prompt] = []
    for prompt in suite.prompts:
        if len(kept) == most:
            break
        if longer_than <= 0 or seconds_of(prompt) > longer_than:
            kept.append(prompt)
    if not kept:
        raise BadInput(
            f"none of the {len(suite.prompts)} recordings of {suite.name} is longer than {longer_than:g} s: there is "
            "nothing to be continued. Give longer recordings."
        )
    return replace(suite, prompts=tuple(kept))


def cut(prompt: Prompt, *, sample_rate: int, prompt_seconds: float, seconds: float | None) -> CutPrompt:
    """Return a prompt cut at exactly `prompt_seconds` (not at a word), its truth at most `seconds` longer (None: all).

    Raises:
        AudioError: the recording cannot be read, or ends before the prompt does.
    """
    clip = load(prompt, sample_rate=sample_rate)
    first = seconds_to_samples(prompt_seconds, sample_rate)
    if len(clip.samples) <= first:
        raise AudioError(
            f"the recording of the prompt {prompt.id} lasts {clip.seconds:.2f} s, of which {prompt_seconds:g} s are "
            "the prompt: nothing is left that a continuation could be held against. Leave it out."
        )
    last = None if seconds is None else first + seconds_to_samples(seconds, sample_rate)
    whole = replace(clip, samples=clip.samples[:last], id=prompt.id)
    digest = hashlib.sha256(f"{sample_rate} {first} ".encode() + whole.samples.tobytes()).hexdigest()
    return CutPrompt(
        prompt=prompt, start=replace(whole, samples=whole.samples[:first]), whole=whole, sha256=digest
    )  # fmt: skip


def checksum(suite: PromptSuite, digests: Sequence[str]) -> str:
    """Return the sha256 (64 hex digits) over ids, texts and sounds as they were cut (`CutPrompt.sha256`), in order."""
    parts = [f"{p.id}\t{p.text}\t{digest}\n" for p, digest in zip(suite.prompts, digests, strict=True)]
    return hashlib.sha256("".join([f"{suite.name}\n", *parts]).encode()).hexdigest()


def load(prompt: Prompt, *, sample_rate: int) -> Clip:
    """Return the whole recording at `sample_rate` Hz.

    Raises:
        AudioError: it is missing or damaged.
    """
    if isinstance(prompt.sound, Entry):
        return read_clip(prompt.sound, sample_rate=sample_rate)
    if isinstance(prompt.sound, Joined):  # a tenth of the time that a file in between takes
        parts = [Clip.read(part, sample_rate=sample_rate) for part in prompt.sound.parts]
        return sounds.join(parts, pause=prompt.sound.pause)
    return sounds.load(prompt.sound, sample_rate=sample_rate, id=prompt.id)


def seconds_of(prompt: Prompt) -> float:
    """Return how long the recording is, by its header where that says it.

    Raises:
        AudioError: it is missing or damaged.
    """
    if isinstance(prompt.sound, Joined):
        lengths = [seconds_of(replace(prompt, sound=Entry(id=prompt.id, path=part))) for part in prompt.sound.parts]
        return sum(lengths) + prompt.sound.pause * (len(lengths) - 1)
    sound = Entry(id=prompt.id, path=prompt.sound) if isinstance(prompt.sound, Path) else prompt.sound
    known = None if isinstance(sound, Cell) else check_header(sound)
    return load(prompt, sample_rate=16_000).seconds if known is None else known


def from_entries(entries: Sequence[Entry], *, name: str, group: str = "") -> PromptSuite:
    """Return clips of a corpus as prompts, in their order.

    Raises:
        BadInput: no clips.
    """
    if not entries:
        raise BadInput(f"{name} has no clips: there is nothing to be continued.")
    made = tuple(Prompt(id=e.id, sound=e, text=e.text, group=group or e.split, speaker=e.speaker) for e in entries)
    return PromptSuite(name=name, prompts=made)


def mini_prompts() -> PromptSuite:
    """Return the bundled suite: 113 right stories of mini-storycloze, and all held-out clips of the bundled speech
    sample longer than 6 s, 200 in all, ordered by the sha256 of their ids: its first N are a fair sample of it.
    """
    suite = storycloze(bundled("mini-storycloze"), name="storycloze")
    stories = [
        Prompt(
            id=f"story/{pair.id}",
            sound=suite.clips[pair.positive],
            text=suite.texts[pair.positive],
            group="stories",
            speaker=suite.facets["speaker"][pair.id],
        )
        for pair in sorted(suite.pairs, key=lambda pair: suite.clusters[pair.id])[:STORIES]
    ]
    held = [e for e in build(bundled("speech")) if e.split != "train" and (e.seconds or 0.0) > LONGER_THAN]
    read = [Prompt(id=f"speech/{e.id}", sound=e, text=e.text, group="read aloud", speaker=e.speaker) for e in held]
    made = sorted([*stories, *read], key=lambda p: hashlib.sha256(p.id.encode()).digest())
    return PromptSuite(name=BUNDLED, prompts=tuple(made))


def librispeech(folder: str | Path, *, subset: str) -> PromptSuite:
    """Return all utterances of a LibriSpeech subset ("dev-clean"), by id; GSLM takes those longer than 6 s.

    Raises:
        BadInput: as the reader of the corpus.
    """
    entries = read_corpus(folder, corpus="librispeech", splits=(subset,))
    return from_entries(sorted(entries, key=lambda e: e.id), name=f"librispeech-{subset}")


def spoken_storycloze(folder: str | Path) -> PromptSuite:
    """Return the first 1,000 right stories of Spoken StoryCloze, by the number that their files begin with.

    SlamKit takes the first 1,000 as the file system lists them, which differ from machine to machine: these are sorted.
    In the layouts without numbers, by story id.

    Raises:
        BadInput: as the reader of the suite.
    """
    suite = storycloze(folder, name="storycloze")

    def place(clip: str) -> tuple[int, str]:
        head = clip.partition("_")[0]
        return (int(head) if head.isdecimal() else 0, clip)

    chosen = sorted((pair.positive for pair in suite.pairs), key=place)[:SSC]
    made = tuple(
        Prompt(id=clip, sound=suite.clips[clip], text=suite.texts.get(clip, ""), group="stories") for clip in chosen
    )
    return PromptSuite(name="storycloze-1000", prompts=made)


def librispeech_long(folder: str | Path) -> PromptSuite:
    """Return the pieces of a LibriSpeech-Long set (up to 4 minutes each), by path, with transcripts where there are.

    Source: github.com/google-deepmind/librispeech-long (Park et al., 2024), CC BY 4.0. `folder` is of one set. Every
    sound below it is a piece; a text is looked for in `*.trans.txt` ("ID TEXT", as of LibriSpeech) below it. The
    release's own layout was not seen, and this tested on a stand-in.

    Raises:
        BadInput: no folder. AudioError: no sounds in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder. Give that of one set of LibriSpeech-Long, unpacked.")
    texts: dict[str, str] = {}
    for table in sorted(folder.rglob("*.trans.txt")):
        texts |= {id: text for id, _, text in (line.partition(" ") for _, line in lines(table))}
    paths = sorted(Path(str(path)) for path in find_audio(folder))
    made = tuple(
        Prompt(id=str(p.relative_to(folder)), sound=p, text=texts.get(p.stem, ""), group=folder.name) for p in paths
    )
    return PromptSuite(name=f"librispeech-long-{folder.name}", prompts=made)


READERS: dict[str, Callable[[str | Path], PromptSuite]] = {
    "librispeech-dev-clean": lambda folder: librispeech(folder, subset="dev-clean"),
    "librispeech-test-clean": lambda folder: librispeech(folder, subset="test-clean"),
    "storycloze-1000": spoken_storycloze,
    "librispeech-long": librispeech_long,
    "folder": lambda folder: from_entries(
        [e for e in build(folder) if e.split != "train"], name=f"folder {Path(folder).name}"
    ),
}


def open_prompts(name: str) -> PromptSuite:
    """Return the suite called `name`: "mini-prompts", or with the folder of its recordings "librispeech-dev-clean=DIR".

    "folder=DIR" takes the held-out clips of any folder or manifest.

    Raises:
        BadInput: no such name, a suite that needs a folder and has none, or as its reader.
    """
    key, has_folder, folder = name.partition("=")
    if key == BUNDLED and not has_folder:
        return mini_prompts()
    if key not in READERS:
        near = difflib.get_close_matches(key, [BUNDLED, *READERS], n=1)
        raise BadInput(
            f"there are no prompts {key!r}{f'; did you mean {near[0]!r}' if near else ''}. There are: {BUNDLED}, "
            f"{', '.join(f'{reader}=FOLDER' for reader in READERS)}."
        )
    if not has_folder:
        raise BadInput(f"the prompts {key} are not bundled: say where the recordings are, {key}=FOLDER.")
    return READERS[key](folder)
