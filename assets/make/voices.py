"""Every synthetic voice of the bundled assets, by name, and the one way to make it speak.

Letters: N samples at SAMPLE_RATE. Engines: flite and festival, called as programs, and espeak-ng's library; whatever
rate they speak at is resampled to 16 kHz by soxr and brought to the same level. All of them tell when they say which
phone: flite and festival in the names of the Radio News set, espeak-ng in its own.

The voice `rms`, and the voices shifted from it (UNSEEN_VOICES), are heard by nothing that is trained: not by the
tokenizer, the language models or the vocoder. They measure what all of them do on a new speaker.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import espeak
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from twistlm.benchmarks.engines import run_program
from twistlm.benchmarks.spoken import LEVEL_DBFS, PEAK, normalize  # noqa: F401 (the level of every clip)
from twistlm.errors import ArtifactError

SAMPLE_RATE = 16_000  # Hz
UNSEEN = "rms"
Samples = NDArray[np.float32]
Phones = list[tuple[str, float, float]]  # phone, start s, end s

PROGRAMS = {"flite": "flite", "festival": "festival", "espeak": "espeak-ng"}
PHONE_SETS = {"flite": "radio", "festival": "radio", "espeak": "espeak"}
PACKAGES = {"flite": "flite", "festival": "festival festvox-kdlpc16k festlex-cmu festlex-poslex", "espeak": "espeak-ng"}


@dataclass(frozen=True, kw_only=True)
class Voice:
    """How to speak.

    Attributes:
        name: the speaker label in manifests.
        engine: which program.
        base: the engine's own voice name.
        stretch: durations are multiplied by it (1.2 is slower).
        pitch: flite: mean F0 in Hz (None keeps the voice's own); espeak: 0 … 99, 50 is the voice's own.
        shift: pitch and formants are multiplied by it, by resampling; durations stay those of `stretch`.
    """

    name: str
    engine: Literal["flite", "festival", "espeak"]
    base: str
    stretch: float = 1.0
    pitch: float | None = None
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.base == UNSEEN and not self.name.startswith(UNSEEN):
            raise ValueError(f"voice {self.name!r} derives from {UNSEEN!r}, which nothing may be trained on")


# Mean F0 in Hz, measured; what a varied pitch is relative to. `rms` ignores a given pitch.
FLITE_F0 = {"awb": 127.0, "rms": 102.0, "slt": 171.0, "kal16": 110.0}
_SHIFTS = {"slt": (0.84, 0.92, 1.12, 1.22), "awb": (0.88, 1.12, 1.25), "kal16": (0.88, 1.15, 1.3)}
SHIFT_RANGE = {"slt": (0.78, 1.25), "awb": (0.85, 1.3), "kal16": (0.85, 1.35), "ked": (0.85, 1.3)}  # human still
_ACCENTS = ("en-us", "en", "en-gb-scotland", "en-029", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-gb-x-gbclan", "en-us-nyc")
_VARIANTS = (
    *(
        "m1",
        "m2",
        "m3",
        "m4",
        "m5",
        "m6",
        "m7",
        "m8",
        "f1",
        "f2",
        "f3",
        "f4",
        "f5",
        "klatt",
        "klatt2",
        "klatt3",
        "klatt4",
    ),
    *(
        "Annie",
        "Alicia",
        "Andrea",
        "Andy",
        "Denis",
        "Gene",
        "Hugo",
        "Lee",
        "Marco",
        "Michael",
        "adam",
        "anika",
        "belinda",
    ),
    *("caleb", "ed", "grandma", "grandpa", "linda", "max", "paul", "quincy", "steph", "travis", "victor", "zac"),
)


def shifted(base: str, shift: float) -> Voice:
    """Return the recorded voice `base` with pitch and formants multiplied by `shift`, as `slt-x112`."""
    return replace(FLITE.get(base) or FESTIVAL[base], name=f"{base}-x{round(100 * shift)}", shift=shift)


FLITE = {name: Voice(name=name, engine="flite", base=name) for name in FLITE_F0}
FESTIVAL = {"ked": Voice(name="ked", engine="festival", base="voice_ked_diphone")}
SHIFTED = {voice.name: voice for base, shifts in _SHIFTS.items() for voice in (shifted(base, s) for s in shifts)}
UNSEEN_VOICES = {voice.name: voice for voice in (FLITE[UNSEEN], shifted(UNSEEN, 0.88), shifted(UNSEEN, 1.18))}
ESPEAK = {
    f"espeak-{accent}+{variant}": Voice(name=f"espeak-{accent}+{variant}", engine="espeak", base=f"{accent}+{variant}")
    for accent in _ACCENTS
    for variant in _VARIANTS
}
VOICES = FLITE | SHIFTED | UNSEEN_VOICES | FESTIVAL | ESPEAK


def check_programs() -> None:
    """Raise `ArtifactError`, naming the Debian packages, when an engine is not installed."""
    missing = [PACKAGES[engine] for engine, program in PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        raise ArtifactError(f"speech engines are missing: apt install {' '.join(missing)}")


def speak(voice: Voice, text: str) -> Samples:
    """Return float32 [N] at 16 kHz, -26 dBFS, of `voice` saying `text`.

    Raises:
        ArtifactError: the engine failed or said nothing.
    """
    return align(voice, text)[0]


def align(voice: Voice, text: str) -> tuple[Samples, Phones]:
    """Return what `voice` says for `text`, and each phone of it with its start and end in seconds; the names are those
    of the engine's set (PHONE_SETS)."""
    if voice.engine == "flite":
        return _flite(voice, ["-t", text])
    if voice.engine == "festival":
        return _festival(voice, text)
    samples, rate, phones = espeak.say(
        voice.base, text, words_per_minute=round(165 / (voice.stretch * voice.shift)),
        pitch=50 if voice.pitch is None else round(voice.pitch),
    )  # fmt: skip
    return _finish(samples, rate, voice), [(p, start / voice.shift, end / voice.shift) for p, start, end in phones]


def speak_phones(voice: Voice, phones: Sequence[str]) -> tuple[Samples, Phones]:
    """Return a flite `voice` saying one word given as `phones` ("b r ay1 t"), and when each phone is said.

    The word is put into flite's dictionary under one invented spelling for all, so that words and pseudo-words get the
    very same treatment: syllables and melody from the phones and their stress, never from a spelling.
    """
    with tempfile.TemporaryDirectory() as folder:
        lexicon = Path(folder) / "lexicon"
        lexicon.write_text(f"blimona : {' '.join(phones)}\n")
        return _flite(voice, ["-add_lex", str(lexicon), "-t", "Blimona."])


def vary(voice: Voice, rng: np.random.Generator, *, rate: float, pitch: float) -> Voice:
    """Return `voice` at a random rate (a factor of up to `1 ± rate`) and pitch (`1 ± pitch`), under the same name."""
    stretch = voice.stretch * float(rng.uniform(1 - rate, 1 + rate))
    factor = float(rng.uniform(1 - pitch, 1 + pitch))
    if voice.engine == "flite":
        return replace(voice, stretch=stretch, pitch=FLITE_F0[voice.base] * factor)
    return replace(voice, stretch=stretch, pitch=50 * factor if voice.engine == "espeak" else None)


def _flite(voice: Voice, what: list[str]) -> tuple[Samples, Phones]:
    with tempfile.TemporaryDirectory() as folder:
        wave = Path(folder) / "said.wav"
        settings = ["--setf", f"duration_stretch={voice.stretch * voice.shift:.4f}"]
        if voice.pitch is not None:
            settings += ["--setf", f"int_f0_target_mean={voice.pitch:.2f}"]
        printed = run_program(["flite", "-voice", voice.base, *settings, "-psdur", *what, "-o", str(wave)])
        samples = _read(wave, voice)
    return samples, _phones(re.findall(r"(\S+):([\d.]+)", printed), voice)


def _festival(voice: Voice, text: str) -> tuple[Samples, Phones]:
    with tempfile.TemporaryDirectory() as folder:
        wave, segments, script = (Path(folder) / name for name in ("said.wav", "said.segs", "say.scm"))
        said = text.replace("\\", " ").replace('"', " ")
        script.write_text(
            f"({voice.base})\n(Parameter.set 'Duration_Stretch {voice.stretch * voice.shift:.4f})\n"
            f'(set! said (utt.synth (Utterance Text "{said}")))\n'
            f'(utt.save.wave said "{wave}")\n(utt.save.segs said "{segments}")\n'
        )
        run_program(["festival", "-b", str(script)])
        samples = _read(wave, voice)
        rows = [line.split() for line in segments.read_text().splitlines()[1:]]  # "#", then: end 100 phone
    return samples, _phones([(phone, end) for end, _, phone in rows], voice)


def _phones(ends: Sequence[tuple[str, str]], voice: Voice) -> Phones:
    """Phones one after the other from when each ends, in seconds of the engine's own sound."""
    times = [float(end) / voice.shift for _, end in ends]
    return [(phone, start, end) for (phone, _), start, end in zip(ends, [0.0, *times], times, strict=False)]


def _read(wave: Path, voice: Voice) -> Samples:
    if not wave.exists():
        raise ArtifactError(
            f"the voice {voice.name} wrote no sound; is it installed? apt install {PACKAGES[voice.engine]}"
        )
    samples, rate = soundfile.read(wave, dtype="float32")
    return _finish(samples, rate, voice)


def _finish(samples: Samples, rate: int, voice: Voice) -> Samples:
    # Claiming a rate `shift` times higher raises pitch and formants; the engine was asked to speak that much slower.
    samples = soxr.resample(samples, rate * voice.shift, SAMPLE_RATE, quality="HQ")
    if len(samples) < SAMPLE_RATE // 20 or not np.abs(samples).max() > 1e-4:
        raise ArtifactError(f"the voice {voice.name} said nothing")
    return normalize(samples)
