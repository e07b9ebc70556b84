"""What is said in a sound: where there is speech, and what a recogniser writes down of it.

Recognisers make words up where nobody speaks ("Thanks for watching"), so silence is found first, by the voice-activity
model of `audio.vad`: a sound without speech has an empty transcript and is not given to the recogniser.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from twistlm.audio.clip import Clip, resample
from twistlm.audio.vad import RATE, THRESHOLD, segments, speech_probabilities
from twistlm.compute.devices import device, no_autocast
from twistlm.errors import ArtifactError, BadInput
from twistlm.evaluate.asr import Whisper
from twistlm.files.artifacts import resolve
from twistlm.files.named import ARTIFACTS
from twistlm.files.regular import file_sha256
from twistlm.lm.pretrained import REFUSALS, quiet
from twistlm.lm.weights import first_line

_WINDOW = 30.0  # seconds that a Whisper hears at once
_LONGEST = 10_000.0  # seconds: segments are not cut


class Listener(Protocol):
    """Writes down what it hears. Called from several threads."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def transcribe(self, clip: Clip) -> str:
        """Return what is said in a clip; "" when nothing is."""
        ...


@dataclass(frozen=True)
class Heard:
    """What a clip holds.

    Attributes:
        text: the transcript; "" where nothing is said.
        seconds: of the clip.
        silence: share of it, 0 … 1, in which speech is less likely than not.
        spoken: whether voice activity was found at all.
    """

    text: str
    seconds: float
    silence: float
    spoken: bool


def hear(clip: Clip, listener: Listener, *, silence: Literal["vad", "none"]) -> Heard:
    """Find speech in a clip and transcribe it.

    Args:
        clip: at any rate.
        listener: the recogniser.
        silence: "vad" gives it the part from the first to the last speech, and nothing where there is none; "none"
            the clip as it is.
    """
    if not len(clip.samples):
        return Heard("", 0.0, 1.0, False)
    heard = resample(clip, sample_rate=RATE)
    likely, n = speech_probabilities([heard.samples])
    found = segments(likely, n_samples=n, max_seconds=_LONGEST)
    share = float(np.mean(likely < THRESHOLD))
    if silence == "none":
        return Heard(listener.transcribe(clip), clip.seconds, share, bool(found))
    if not found:
        return Heard("", clip.seconds, share, False)
    part = dataclasses.replace(heard, samples=heard.samples[found[0][0] : found[-1][1]])
    return Heard(listener.transcribe(part), clip.seconds, share, True)


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A recogniser of transformers (Whisper, or a CTC model read greedily). `of` is its pipeline."""

    of: Any
    name: str
    language: str | None

    @no_autocast()
    def transcribe(self, clip: Clip) -> str:
        """Return what it writes, as it writes it."""
        rate = self.of.feature_extractor.sampling_rate
        samples = resample(clip, sample_rate=rate).samples
        whisper = self.of.type == "seq2seq_whisper"
        many = getattr(getattr(self.of.model, "generation_config", None), "is_multilingual", True)
        told = {"language": self.language} if self.language and whisper and many else {}
        more: dict[str, Any] = {"generate_kwargs": told} if told else {}
        if whisper and len(samples) > _WINDOW * rate:  # it hears that much at once; of more it wants to tell the times
            more["return_timestamps"] = True
        return str(self.of({"raw": samples.copy(), "sampling_rate": rate}, **more)["text"]).strip()


def open_listener(name: str, *, language: str | None, workers: int) -> tuple[Listener, str]:
    """Return a recogniser and what identifies it.

    Args:
        name: an artifact ("whisper-tiny.en"), a folder of CTranslate2 (`model.bin`) or of transformers, a size of
            faster-whisper ("faster-whisper/large-v3-turbo"), or a model of the hub (OWNER/NAME).
        language: as of `Protocol`; faster-whisper is told English.
        workers: clips that are transcribed at once.

    Raises:
        ArtifactError: it cannot be had. BadInput: a language that faster-whisper's protocol here has not.
    """
    folder = Path(name)
    if name in ARTIFACTS or (folder / "model.bin").is_file() or name.startswith("faster-whisper/"):
        if language not in ("en", None):
            raise BadInput(f"{name} is read with faster-whisper, in English alone; give a folder of transformers.")
        if name.startswith("faster-whisper/"):
            folder = _download(name.removeprefix("faster-whisper/"))
        where = device().type
        listener = Whisper.load(name if name in ARTIFACTS else str(folder), workers=workers, device=where)
        told = (
            "CTranslate2, beam 5, told English"
            if where == "cpu"
            else "CTranslate2 in float16 on a GPU, beam 5, English"
        )
        return listener, f"{name} sha256 {file_sha256(_weights(name, folder))[:16]}, {told}"
    from transformers import pipeline

    try:
        with quiet():
            of = pipeline(
                "automatic-speech-recognition", model=name, device=device(), trust_remote_code=False, token=False
            )
    except REFUSALS as error:
        raise ArtifactError(
            f"the recogniser {name} cannot be had: {first_line(error)}. It is neither an artifact nor a folder here; "
            "models of the hub need the hub. Offline, --asr whisper-tiny.en works, as another protocol."
        ) from error
    said = f"transformers, {'greedy CTC' if of.type == 'ctc' else 'its own generation settings'}"
    return Pipeline(of, name, language), f"{name} {version(name, of.model.config)}, {said}"


def version(name: str, config: Any) -> str:
    """Return which weights a model of transformers has: the hub's commit, or of a folder, in which others may lie
    tomorrow, the hash of its files."""
    if not Path(name).is_dir():
        return f"revision {getattr(config, '_commit_hash', None)}"
    files = sorted(p for p in Path(name).iterdir() if p.suffix in (".json", ".safetensors", ".bin"))
    told = "".join(f"{p.name} {file_sha256(p)} " for p in files)
    return f"sha256 {hashlib.sha256(told.encode()).hexdigest()[:16]}"


def _download(size: str) -> Path:
    from faster_whisper import download_model

    try:
        return Path(download_model(size))
    except REFUSALS as error:
        raise ArtifactError(f"faster-whisper has no model {size!r} that could be had: {first_line(error)}") from error


def _weights(name: str, folder: Path) -> Path:
    return (resolve(name) if name in ARTIFACTS else folder) / "model.bin"
