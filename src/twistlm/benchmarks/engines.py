"""Speech engines behind one small protocol. All are programs of their own, found on the path; none is imported.

A phone is an ARPAbet phone of CMUdict in lower case, vowels with stress ("ah0", "ay1"); "ax0" is the weak vowel that
CMUdict writes AH0. Whatever rate an engine speaks at, its clip has.
"""

from __future__ import annotations

import re
import shlex
import shutil
import string
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

from twistlm.audio.clip import Clip, check, read
from twistlm.errors import ArtifactError, BadInput, offenders
from twistlm.files.regular import file_sha256

PACKAGES = {
    "flite": "apt install flite", "espeak-ng": "apt install espeak-ng", "piper": "pip install piper-tts",
    "kokoro": "pip install kokoro",
}  # fmt: skip
MAX_SECONDS = 600  # of one call; a program that takes longer for a sentence hangs
_ESPEAK = {
    "aa": "A:", "ae": "a", "ah": "V", "ao": "O:", "aw": "aU", "ax": "@", "ay": "aI", "b": "b", "ch": "tS", "d": "d",
    "dh": "D", "eh": "E", "er": "3:", "ey": "eI", "f": "f", "g": "g", "hh": "h", "ih": "I", "iy": "i:", "jh": "dZ",
    "k": "k", "l": "l", "m": "m", "n": "n", "ng": "N", "ow": "oU", "oy": "OI", "p": "p", "r": "r", "s": "s", "sh": "S",
    "t": "t", "th": "T", "uh": "U", "uw": "u:", "v": "v", "w": "w", "y": "j", "z": "z", "zh": "Z",
}  # fmt: skip


class Voice(Protocol):
    """Something that speaks.

    Attributes:
        name: the speaker's label in manifests and tables.
        identity: everything that moves the sound (program, version, voice, settings).
    """

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str: ...

    def speak(self, text: str) -> Clip:
        """Return a clip of `text` at the engine's own rate.

        Raises:
            ArtifactError: the engine failed, or said nothing.
        """
        ...


@runtime_checkable
class PhoneVoice(Voice, Protocol):
    """A voice that also speaks phones."""

    def speak_phones(self, phones: Sequence[str]) -> Clip:
        """Return a clip of one word given as `phones`; no spelling is involved. Raises as `speak`."""
        ...


@dataclass(frozen=True)
class Flite:
    """A voice of flite: "slt", "rms", "awb", "kal16"."""

    voice: str

    @property
    def name(self) -> str:
        return f"flite-{self.voice}"

    @cached_property
    def identity(self) -> str:
        known = run_program([program("flite"), "-lv"]).partition(":")[2].split()
        if self.voice not in known:  # flite itself would speak with another voice and say nothing about it
            raise BadInput(f"flite has no voice {self.voice!r}; it has {', '.join(known)}.")
        version = run_program([program("flite"), "--version"], accept=(0, 1)).partition("version:")[2]
        return f"flite {' '.join(version.split())} {self.voice}"

    def speak(self, text: str) -> Clip:
        return _to_file(lambda wave: [program("flite"), "-voice", self.voice, "-t", text, "-o", str(wave)])[0]

    def speak_phones(self, phones: Sequence[str]) -> Clip:
        # One invented spelling for all words, put into flite's dictionary, so that words and pseudo-words are treated
        # alike: syllables and melody come from the phones and their stress.
        with tempfile.TemporaryDirectory() as folder:
            lexicon = Path(folder) / "lexicon"
            lexicon.write_text(f"blimona : {' '.join(phones)}\n")
            head = [program("flite"), "-voice", self.voice, "-psdur", "-add_lex", str(lexicon)]
            clip, printed = _to_file(lambda wave: [*head, "-t", "Blimona.", "-o", str(wave)])
        said = [phone for phone in re.findall(r"(\S+):[\d.]+", printed) if phone != "pau"]
        if said != [phone.rstrip("012") for phone in phones]:
            raise ArtifactError(
                f"flite's {self.voice} did not say {' '.join(phones)} but {' '.join(said)}. Use another voice, or "
                "leave the word out."
            )
        return clip


@dataclass(frozen=True)
class Espeak:
    """A voice of espeak-ng: an accent, or one with a variant: "en-us", "en-gb-scotland+f3"."""

    voice: str

    @property
    def name(self) -> str:
        return f"espeak-{self.voice}"

    @cached_property
    def identity(self) -> str:
        accent, _, variant = self.voice.partition("+")
        # espeak-ng itself would speak with another voice and say nothing about it
        if accent.lower() not in _espeak_accents(_espeak_lists("--voices") + _espeak_lists("--voices=mb")):
            raise BadInput(f"espeak-ng has no accent {accent!r}; espeak-ng --voices lists what it has.")
        files = {file.rpartition("/")[2] for _, _, file, _ in _espeak_lists("--voices=variant")}
        if variant and variant not in files and not re.fullmatch("1?[1-9]", variant):
            raise BadInput(f"espeak-ng has no variant {variant!r}; espeak-ng --voices=variant lists their files.")
        version = run_program([program("espeak-ng"), "--version"]).partition("Data at")[0].strip()
        return f"espeak-ng {version} {self.voice}"

    def speak(self, text: str) -> Clip:
        return self._say(text)

    def speak_phones(self, phones: Sequence[str]) -> Clip:
        return self._say(f"[[{espeak_mnemonics(phones)}]]")

    def _say(self, text: str) -> Clip:
        # By standard input: a text that starts with a dash would be taken for an option.
        head = [program("espeak-ng"), "-v", self.voice, "--stdin"]
        return _to_file(lambda wave: [*head, "-w", str(wave)], said=text)[0]


# priority, language, age and gender, name, file (which may hold blanks), other languages as "(en 3)"
_ESPEAK_LINE = re.compile(r"\s*\d+\s+(\S+)\s+\S+\s+(\S+)\s+(\S+(?: [^\s(]+)*)\s*((?:\(\S+ \d+\)\s*)*)$")


def _espeak_lists(what: str) -> list[tuple[str, str, str, str]]:
    """What espeak-ng lists: language, name, file and other languages of each."""
    lines = run_program([program("espeak-ng"), what]).splitlines()
    return [(found[1], found[2], found[3], found[4]) for line in lines if (found := _ESPEAK_LINE.match(line))]


def _espeak_accents(listed: Sequence[tuple[str, str, str, str]]) -> set[str]:
    """The names by which it takes a voice, in lower case: languages, the name (listed with _ for blanks), the file."""
    names: set[str] = set()
    for language, name, file, others in listed:
        also = re.findall(r"\((\S+) \d+\)", others)
        names |= {w.lower() for w in (language, name.replace("_", " "), file, file.rpartition("/")[2], *also)}
    return names


@dataclass(frozen=True)
class Piper:
    """A Piper voice: its model file (.onnx, with the .json beside it)."""

    model: Path

    @property
    def name(self) -> str:
        return f"piper-{self.model.stem}"

    @cached_property
    def identity(self) -> str:
        if not self.model.is_file():
            raise BadInput(f"{self.model}: no such file. Give a Piper voice as piper:PATH.onnx.")
        return f"piper {file_sha256(self.model)}"

    def speak(self, text: str) -> Clip:
        head = [program("piper"), "--model", str(self.model)]
        return _to_file(lambda wave: [*head, "--output_file", str(wave)], said=text)[0]


@dataclass(frozen=True)
class Kokoro:
    """A voice of Kokoro: "af_heart"; its first letter is the language ("a" American, "b" British English).

    The program fetches its weights itself; they are not in `identity`.
    """

    voice: str

    @property
    def name(self) -> str:
        return f"kokoro-{self.voice}"

    @property
    def identity(self) -> str:
        return f"kokoro {self.voice}"

    def speak(self, text: str) -> Clip:
        head = [program("kokoro"), "--voice", self.voice]
        line = " ".join(text.split())  # it reads one line and no more
        return _to_file(lambda wave: [*head, "--output-file", str(wave)], said=line)[0]


@dataclass(frozen=True)
class Command:
    """Any program, as a template: `mytts --voice {voice} --text {text} --out {wav}`.

    The template is split as a shell would, without one: nothing in a text is ever run. `{voice}` may be absent. With
    `{phones}` in place of `{text}` the voice speaks phones only. Its `identity` is the template: a program that changes
    under the same name is not noticed.
    """

    template: str
    voice: str

    def __post_init__(self) -> None:
        try:
            parts = [part for part in string.Formatter().parse(self.template) if part[1] is not None]
        except ValueError as error:
            raise BadInput(f"the TTS command {self.template!r} is no template: {error}.") from error
        try:
            shlex.split(self.template)
        except ValueError as error:
            raise BadInput(f"the TTS command {self.template!r} cannot be split into words: {error}.") from error
        fields = {str(field) for _, field, _, _ in parts}
        if odd := [f"{field}: {spec or conversion}" for _, field, spec, conversion in parts if spec or conversion]:
            raise BadInput(f"the TTS command's fields are put in as they are, without a format: {offenders(odd)}.")
        if odd := sorted(fields - {"voice", "text", "phones", "wav"}):
            raise BadInput(f"the TTS command has unknown fields {offenders(odd)}; known: voice, text, phones, wav.")
        if "wav" not in fields or ("text" in fields) == ("phones" in fields):
            raise BadInput(f"the TTS command {self.template!r} needs {{wav}}, and one of {{text}} and {{phones}}.")

    @property
    def name(self) -> str:
        return self.voice

    @property
    def identity(self) -> str:
        return f"command {self.template} {self.voice}"

    def speak(self, text: str) -> Clip:
        if "{text}" not in self.template:
            raise BadInput(f"the TTS command {self.template!r} speaks phones only: it has no {{text}}.")
        return self._say(text=text)

    def speak_phones(self, phones: Sequence[str]) -> Clip:
        if "{phones}" not in self.template:
            raise BadInput(f"the TTS command {self.template!r} does not take phones: it has no {{phones}}.")
        return self._say(phones=" ".join(phones))

    def _say(self, **fields: str) -> Clip:
        words = shlex.split(self.template)
        program(words[0])

        def filled(wave: Path) -> list[str]:
            return [word.format(voice=self.voice, wav=wave, **fields) for word in words]

        return _to_file(filled)[0]


ENGINES: dict[str, Callable[[str], Voice]] = {
    "flite": Flite,
    "espeak-ng": Espeak,
    "piper": lambda model: Piper(Path(model)),
    "kokoro": Kokoro,
}


def open_voices(names: Sequence[str], *, command: str | None = None) -> list[Voice]:
    """Return the voices called `names`: "flite:slt", "espeak-ng:en-us+f3", "piper:PATH.onnx",
    "kokoro:af_heart", or any of a command.

    Args:
        names: at least one.
        command: a `Command` template, whose voices the names then are.

    Raises:
        BadInput: an unknown engine or voice, a name given twice, or two voices with one name.
        ArtifactError: an engine is not installed; its package is named.
    """
    voices = [Command(command, name) if command is not None else _open(name) for name in names]
    labels = [label(voice) for voice in voices]
    if doubled := sorted({one for one in labels if labels.count(one) > 1}):
        raise BadInput(f"voices must have different names, these are doubled: {offenders(doubled)}.")
    if not voices:
        raise BadInput("name at least one voice, for example flite:slt.")
    for voice in voices:
        _ = voice.identity  # asks the engine whether it has the voice, before an hour of speaking
    return voices


def label(voice: Voice) -> str:
    """Return the voice's name with nothing in it that a file name cannot hold."""
    return re.sub(r"[^\w+.-]", "-", voice.name).lstrip(".") or "voice"


def espeak_mnemonics(phones: Sequence[str]) -> str:
    """Return `phones` in espeak-ng's own notation, stress marks before vowels.

    Raises:
        BadInput: a phone that CMUdict does not have.
    """
    if odd := [phone for phone in phones if phone.rstrip("012") not in _ESPEAK]:
        raise BadInput(f"not phones of CMUdict: {offenders(odd)}.")
    weak = {"er0": "3", "iy0": "i"}
    # The bar keeps two phones from being read as one: t|S is not tS.
    return "|".join(weak.get(p, ("'" if p.endswith("1") else "") + _ESPEAK[p.rstrip("012")]) for p in phones)


def program(name: str) -> str:
    """Return the path of the program `name`.

    Raises:
        ArtifactError: it is not installed.
    """
    found = shutil.which(name)
    if found is None:
        how = PACKAGES.get(name, "install it, or give its whole path")
        raise ArtifactError(f"the speech engine {name!r} is not on this machine's path: {how}.")
    return found


def run_program(command: Sequence[str], *, said: str | None = None, accept: Sequence[int] = (0,)) -> str:
    """Return what a program prints; `said` goes to its standard input.

    Raises:
        ArtifactError: it ended with an exit code outside `accept`, or took longer than MAX_SECONDS.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, input=said or "", timeout=MAX_SECONDS)
    except (subprocess.TimeoutExpired, OSError, ValueError) as error:
        raise ArtifactError(f"{shlex.join(command)} could not be run: {error}.") from error
    if done.returncode not in accept:
        raise ArtifactError(
            f"{shlex.join(command)} failed with code {done.returncode}: {done.stderr.strip()[-300:] or 'no message'}."
        )
    return done.stdout


def _open(name: str) -> Voice:
    engine, colon, voice = name.partition(":")
    if engine not in ENGINES or not colon or not voice:
        raise BadInput(
            f"{name!r} is no voice: write ENGINE:VOICE with one of {', '.join(ENGINES)}, for example flite:slt; or "
            "give --tts-command."
        )
    program(engine)
    return ENGINES[engine](voice)


def _to_file(command: Callable[[Path], list[str]], *, said: str | None = None) -> tuple[Clip, str]:
    """Run a program that writes a sound file; return the sound and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        wave = Path(folder) / "said.wav"
        words = command(wave)
        printed = run_program(words, said=said)
        if not wave.is_file():
            raise ArtifactError(f"{shlex.join(words)} wrote no sound file. Run it by hand to see why.")
        clip = read(wave, sample_rate=None)
    check(Clip(clip.samples, clip.sample_rate, id=shlex.join(words)), min_seconds=0.05)
    return clip, printed
