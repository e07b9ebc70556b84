"""Speech recognition for measuring intelligibility: Whisper through faster-whisper, and word error rate through jiwer.

Protocol: a beam of 5, temperature 0 with no fallback to sampling, no voice-activity filter, no text carried over
between windows, int8 on the CPU. All of these move the number, so they are fixed here and written in `PROTOCOL`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from twistlm.audio.clip import Clip, resample
from twistlm.errors import ArtifactError, BadInput, offenders
from twistlm.evaluate.stats import ratio_ci
from twistlm.evaluate.words import normalize
from twistlm.files.artifacts import resolve

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 16_000
BEAM = 5
PROTOCOL = (
    f"Whisper tiny.en (CTranslate2, int8, CPU), beam {BEAM}, temperature 0, no fallback, no VAD, no carried-over text; "
    "lower case, punctuation removed, hyphens as spaces, numbers left as written; "
    "errors over words, 95% bootstrap over clips"
)


class WordErrors(NamedTuple):
    """Word error rate: `value` = errors / reference words (can exceed 1), 95% `ci` over clips, `n` clips."""

    value: float
    ci: tuple[float, float]
    n: int


@dataclass(frozen=True, eq=False)
class Whisper:
    """A loaded recogniser. `model` is a faster_whisper.WhisperModel."""

    model: Any
    name: str
    device: str = "cpu"

    @property
    def protocol(self) -> str:
        """What its word error rates are: on a GPU others than on a CPU, which must not share a table."""
        return PROTOCOL if self.device == "cpu" else PROTOCOL.replace("int8, CPU", "float16, GPU")

    def on(self, device: torch.device) -> Whisper:
        """The same recogniser on `device`, in float16 on a GPU; its numbers are those of another protocol.

        Raises:
            ArtifactError: CTranslate2 sees no such device, or lacks cuBLAS and cuDNN.
        """
        return self if device.type == self.device else Whisper.load(self.name, device=device.type)

    @classmethod
    def load(cls, name: str = "whisper-tiny.en", *, workers: int = 1, device: str = "cpu") -> Whisper:
        """Load a recogniser in CTranslate2 format.

        Args:
            name: an artifact's name, or a folder that holds `model.bin`.
            workers: how many clips may be transcribed at once, from as many threads; each has one core.
            device: "cpu", or "cuda"; see `protocol`.

        Raises:
            ArtifactError: faster-whisper is not installed, or the model cannot be had or read.
        """
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise ArtifactError(
                "measuring word error rate needs the package faster-whisper: pip install faster-whisper."
            ) from error
        import torch

        folder = Path(name) if Path(name).is_dir() else resolve(name)
        threads = torch.get_num_threads()
        try:
            model = WhisperModel(
                str(folder),
                device=device,
                compute_type="int8" if device == "cpu" else "float16",
                cpu_threads=1,
                num_workers=workers,
                local_files_only=True,
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise ArtifactError(f"{folder} cannot be read as a CTranslate2 Whisper model: {error}.") from error
        finally:
            torch.set_num_threads(threads)  # CTranslate2 sets OpenMP's number of threads for the whole process
        return cls(model, name, device)

    def transcribe(self, clip: Clip) -> str:
        """Return what is heard, as Whisper writes it; "" when nothing is. The same clip gives the same text.

        A clip at another rate is resampled to the 16 kHz Whisper hears.
        """
        if len(clip.samples) == 0:
            return ""
        if clip.sample_rate != SAMPLE_RATE:
            clip = resample(clip, sample_rate=SAMPLE_RATE)
        segments, _ = self.model.transcribe(
            np.ascontiguousarray(clip.samples, dtype=np.float32),
            language="en",
            task="transcribe",
            beam_size=BEAM,
            temperature=0.0,
            condition_on_previous_text=False,
            vad_filter=False,
            # Thresholds of the fallback and of dropping windows as silence: nothing may vanish from a score.
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments).strip()


def wer(references: Sequence[str], hypotheses: Sequence[str], *, seed: int = 0) -> WordErrors:
    """Return the word error rate of `hypotheses`, both sides normalised by `normalize`.

    An empty hypothesis is legal: all its words are deletions.

    Raises:
        BadInput: lists of unequal length, empty lists, or a reference without words.
    """
    if len(references) != len(hypotheses) or not references:
        raise BadInput(
            f"{len(references)} references and {len(hypotheses)} hypotheses: need the same number, at least 1."
        )
    if empty := [f"number {i}" for i, text in enumerate(references) if not normalize(text)]:
        raise BadInput(f"references without words cannot be scored: {offenders(empty)}.")
    counts = [word_errors(r, h) for r, h in zip(references, hypotheses, strict=True)]
    errors, words = zip(*counts, strict=True)
    return WordErrors(sum(errors) / sum(words), ratio_ci(errors, words, seed=seed), len(counts))


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Return the wrong words of one hypothesis (replaced, left out, put in) and the words of its reference.

    Raises:
        BadInput: a reference without words.
    """
    import jiwer

    ref = normalize(reference)
    if not ref:
        raise BadInput("a reference without words cannot be scored.")
    out = jiwer.process_words(ref, normalize(hypothesis))
    return out.substitutions + out.deletions + out.insertions, len(ref.split())
