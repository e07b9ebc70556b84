"""Targets and baselines for units: MFCC, and the features of a Whisper encoder used as a teacher.

Shapes: N samples at 16 kHz, F frames of `hop` samples, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from twistlm.errors import AudioError, BadInput

if TYPE_CHECKING:
    from twistlm.units.encoder import Encoder

SAMPLE_RATE = 16_000
_STEP = 160  # 10 ms, the usual analysis step
_WINDOW = 400  # 25 ms


def mel_filters(n_mels: int, n_fft: int, *, sample_rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """Triangular filters on the HTK mel scale, float32 [n_mels, n_fft // 2 + 1], each with peak 1."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, n_mels + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def mfcc(samples: NDArray[np.float32], n_frames: int, *, hop: int) -> NDArray[np.float32]:
    """13 MFCC with first and second differences at 100 Hz, averaged over each frame of `hop` samples.

    Args:
        samples: float32 [N].
        n_frames: F, frames wanted (an encoder's `n_frames(N)`, so that both describe the same frames).
        hop: samples a frame.

    Returns:
        float32 [F, 39].
    """
    steps = np.arange(0, n_frames * hop, _STEP)
    padded = np.pad(samples, (0, max(0, int(steps[-1]) + _WINDOW - len(samples))))
    emphasised = np.append(padded[0], padded[1:] - 0.97 * padded[:-1])
    windows = np.lib.stride_tricks.sliding_window_view(emphasised, _WINDOW)[steps] * np.hamming(_WINDOW)
    power = np.abs(np.fft.rfft(windows, 512)) ** 2
    static = dct(np.log(power @ mel_filters(23, 512).T + 1e-8), norm="ortho")[:, :13]
    first = np.gradient(static, axis=0)
    features = np.concatenate([static, first, np.gradient(first, axis=0)], 1)
    return features.reshape(n_frames, hop // _STEP, 39).mean(1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class MFCCEncoder:
    """MFCC in an encoder's clothes: with a codebook, the baseline of any tokenizer.

    Attributes:
        like: the encoder whose frames (hop and count) it describes.
        shift: samples by which its frames begin later (or, negative, earlier) than `mfcc`'s, whose first one spans
            hop + 240: what brings their middles onto those of an encoder that spans more (or less).
    """

    like: Encoder
    shift: int = 0
    dim: int = 39

    @classmethod
    def centred(cls, like: Encoder, *, receptive: int) -> MFCCEncoder:
        """Frames whose middles are those of `like`, which spans `receptive` samples a frame."""
        return cls(like, shift=(receptive - like.hop - (_WINDOW - _STEP)) // 2)

    def __post_init__(self) -> None:
        if self.like.sample_rate != SAMPLE_RATE or self.like.hop % _STEP:
            raise BadInput(
                f"MFCC come every {_STEP} samples at {SAMPLE_RATE} Hz; an encoder with a hop of {self.like.hop} "
                f"samples at {self.like.sample_rate} Hz has no such frames."
            )

    @property
    def sample_rate(self) -> int:
        return SAMPLE_RATE

    @property
    def hop(self) -> int:
        return self.like.hop

    def n_frames(self, n_samples: int) -> int:
        return self.like.n_frames(n_samples)

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [N] -> float32 [F, 39].

        Raises:
            AudioError: the clip is shorter than one frame.
        """
        n_frames = self.n_frames(len(samples))
        if not n_frames:
            raise AudioError(f"{len(samples)} samples are too short for one frame.")
        moved = np.pad(samples, (-self.shift, 0)) if self.shift < 0 else samples[self.shift :]
        return mfcc(moved, n_frames, hop=self.hop)

    def batch(self, clips: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        return [self(samples) for samples in clips]


class WhisperTeacher:
    """Final-layer features of a Whisper encoder (CTranslate2 folder) at 25 Hz.

    Whisper works on 30 s windows; a long waveform is cut into windows that overlap by `overlap` s on each side, and
    the overlaps are dropped. Hand clips over concatenated: a padded window per short clip wastes most of the work.

    About half of these features' variance says where in its window a frame stands, and k-means would spend its
    centroids on that (PNMI 0.25 instead of 0.68 on flite's phones): take `without_position` of them first.
    """

    sample_rate = SAMPLE_RATE
    hop = 640

    def __init__(
        self, folder: str | Path, *, threads: int = 1, compute_type: str = "int8", overlap: float = 1.0
    ) -> None:
        from faster_whisper import WhisperModel

        self._model: Any = WhisperModel(str(folder), device="cpu", compute_type=compute_type, cpu_threads=threads)
        self._overlap = round(overlap * 25)

    def windows(self, samples: NDArray[np.float32]) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """Yield (first frame, its place in its window, features float32 [f, D]) over a waveform, without gaps."""
        total, edge = len(samples) // self.hop, self._overlap
        for start in range(0, total, 750 - 2 * edge):
            first = max(0, start - edge)
            chunk = samples[first * self.hop : (first + 750) * self.hop]
            features = self._encode(chunk)
            stop = min(start + 750 - 2 * edge, total)
            yield start, start - first, features[start - first : stop - first]

    def _encode(self, chunk: NDArray[np.float32]) -> NDArray[np.float32]:
        mel = self._model.feature_extractor(np.asarray(chunk, np.float32), padding=True)[:, :3000]
        mel = np.pad(mel, ((0, 0), (0, 3000 - mel.shape[1])), constant_values=mel.min())
        encoded = np.array(self._model.encode(mel).to_device(_cpu())).astype(np.float32)[0]  # [1500, D] at 50 Hz
        # A 25 Hz frame f spans 40 f … 40 f + 45 ms, centred on Whisper's frame 2 f + 1: a triangle around it.
        following = np.concatenate([encoded[2::2], encoded[-1:]])
        return 0.25 * encoded[0::2] + 0.5 * encoded[1::2] + 0.25 * following


def position_means(features: NDArray[np.floating], positions: NDArray[np.int16]) -> NDArray[np.float32]:
    """Mean feature at each place in a window: [F, D] and int16 [F] -> float32 [highest place + 1, D]."""
    means = np.zeros((int(positions.max()) + 1, features.shape[1]), np.float32)
    for place in range(len(means)):
        here = np.flatnonzero(positions == place)
        if len(here):
            means[place] = features[here].astype(np.float32).mean(0)
    return means


def without_position(
    features: NDArray[np.floating], positions: NDArray[np.int16], means: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Features [F, D] less the mean of their place in the window, float32 [F, D]."""
    return features.astype(np.float32) - means[positions]


def _cpu() -> Any:
    from ctranslate2 import Device

    return Device.cpu
