"""What is served: models, with what they hear and speak with. Each knows its units, and so do its parts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from twistlm.audio.clip import Clip, check
from twistlm.audio.decoding import Bytes, resampled, sound_in
from twistlm.errors import AudioError, BadInput
from twistlm.evaluate.asr import Whisper
from twistlm.lm.model import UnitLM
from twistlm.serve.limits import Limits
from twistlm.types import Units
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.streaming import Stream
from twistlm.vocoder.vocoder import Durations, Vocoder

# Frames of the future that a voice waits for, which is as good as exact; and that its first sound waits for, so that it
# comes two to four units sooner: some 0.2 s that are 44 dB (median) away from the exact ones (docs/results/serving.md).
LOOK_AHEAD, FIRST_LOOK_AHEAD = 8, 4


@dataclass(frozen=True, kw_only=True)
class Example:
    """A recording that may be tried.

    Attributes:
        name: shown, and used in addresses.
        path: where it lies; nothing of a request ever becomes a path.
        text: what is said.
    """

    name: str
    path: Path
    text: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """Models of the same units, their tokenizer and voices.

    Attributes:
        models: unit LMs by name; the first is the default.
        tokenizer: makes their units.
        voices: vocoders by name, each of one voice or speaking as one; the first is the default.
        examples: recordings that may be tried.
        asr: writes down what was said, where one is here.
        exact: whether a voice waits for its whole reach, so that its sound is that of the whole; it comes later.
        origin: what each model is, in words.
    """

    models: Mapping[str, UnitLM]
    tokenizer: SpeechTokenizer
    voices: Mapping[str, Vocoder]
    examples: tuple[Example, ...] = ()
    asr: Whisper | None = None
    exact: bool = False
    origin: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.models or not self.voices:
            raise BadInput("a server needs at least one model and one voice.")
        for name, lm in self.models.items():
            lm.require(self.tokenizer.spec, theirs=f"the tokenizer served beside the model {name}")
        for name, voice in self.voices.items():
            self.tokenizer.spec.require(voice.spec, mine="the tokenizer", theirs=f"the voice {name}")
            voice.require_voice()

    @property
    def rate(self) -> int:
        """Hz, of what is heard and of what is spoken."""
        return self.tokenizer.spec.sample_rate

    def model(self, name: str | None) -> tuple[str, UnitLM]:
        """Return a model by name; None is the default. Raises BadInput where there is none."""
        found = name if name is not None else next(iter(self.models))
        if found not in self.models:
            raise BadInput(f"no model is called {found!r} here; there are {', '.join(self.models)}.")
        return found, self.models[found]

    def voice(self, name: str | None) -> Vocoder:
        """Return a voice by name; None is the default. Raises BadInput where there is none."""
        found = name if name is not None else next(iter(self.voices))
        if found not in self.voices:
            raise BadInput(f"no voice is called {found!r} here; there are {', '.join(self.voices)}.")
        return self.voices[found]

    def stream(self, voice: str | None, prompt: Units) -> Stream:
        """Return a stream that speaks what follows the prompt."""
        vocoder = self.voice(voice)
        network = vocoder.synthesizer
        whole = max(network.reach.right, network.duration_reach)
        ahead = whole if self.exact else min(whole, max(LOOK_AHEAD, network.duration_reach))
        durations: Durations = "predicted" if vocoder.predicts_durations else "given"
        # The engine decides how much is spoken at once: the stream keeps nothing back for a larger piece.
        return vocoder.open_stream(
            durations=durations,
            look_ahead=ahead,
            first_look_ahead=None if self.exact else min(ahead, FIRST_LOOK_AHEAD),
            chunk=1,
            before=prompt,
        )

    def resynthesise(self, units: Units, *, voice: str | None, durations: Durations) -> Clip:
        """Speak the units of a recording again, with their own lengths ("given") or "predicted" ones."""
        return self.voice(voice)(units, durations=durations)


def decoded(data: bytes, *, name: str, rate: int, limits: Limits) -> Clip:
    """Read a sound file that was sent, in bounded memory and time: only what is decoded is kept, and it is counted.

    Raises:
        AudioError: no usable sound; more than `limits` allow of it, or of the time it takes.
    """
    most, until = round(limits.prompt_seconds * rate), time.monotonic() + limits.decode_seconds
    pieces: list[NDArray[np.float32]] = []
    n = 0
    with sound_in(Bytes(data), name) as sound:
        for piece in resampled(sound, name, 0, None if not sound.exact else sound.frames, rate):
            pieces.append(piece)
            n += len(piece)
            if n > most:
                raise _too_long(name, limits)
            if time.monotonic() > until:
                raise AudioError(f"{name}: not decoded in {limits.decode_seconds:g} s. Send a plain wav or flac.")
        note = sound.note
    clip = Clip(np.concatenate(pieces), rate, id=name, note=note)
    check(clip)
    return clip


def pcm(data: bytes, *, name: str, sent_rate: int, rate: int, limits: Limits) -> Clip:
    """Read mono 16-bit little-endian samples at `sent_rate` Hz.

    Raises:
        AudioError: half a sample, too much sound, or nothing that can be heard.
    """
    if len(data) % 2:
        raise AudioError(f"{name}: {len(data)} bytes are no whole number of 16-bit samples.")
    if len(data) // 2 > limits.prompt_seconds * sent_rate:
        raise _too_long(name, limits)
    samples: NDArray[np.float32] = np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32_768)
    if sent_rate != rate and len(samples):
        samples = soxr.resample(samples, sent_rate, rate)
    clip = Clip(samples, rate, id=name)
    check(clip)
    return clip


def heard(served: Served, clip: Clip) -> Units:
    """Return the units of a clip."""
    return dataclasses.replace(served.tokenizer(clip), id=clip.id)


def _too_long(name: str, limits: Limits) -> AudioError:
    return AudioError(f"{name}: longer than {limits.prompt_seconds:g} s, the most that is heard here. Cut it.")
