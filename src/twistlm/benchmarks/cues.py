"""What a clip gives away without a word being understood: length, level, silence, pitch, and how its sides may be told
apart by counting units or words.

Letters: N samples, F frames, T tokens of a clip, V distinct tokens, I items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twistlm.audio.clip import Clip
from twistlm.benchmarks.spoken import speech_edges

PITCH_RANGE = (60.0, 400.0)  # Hz
_FRAME, _HOP = 0.04, 0.02  # seconds
_VOICED = 0.5  # autocorrelation at the period over that at zero; below it a frame has no pitch
FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Cues:
    """Measurements of one clip.

    Attributes:
        seconds: duration.
        level: root mean square, dB of full scale.
        lead, trail: seconds before and after the speech (what is within 50 dB of the loudest sample).
        pitch: median fundamental frequency of voiced frames, Hz; nan where nothing is voiced.
        digest: sha256 of the samples.
    """

    seconds: float
    level: float
    lead: float
    trail: float
    pitch: float
    digest: str


# Differences below these are not heard, and count as ties: rounding and codecs leave such.
RESOLUTION = {"seconds": 0.01, "level": 0.1, "lead": 0.01, "trail": 0.01, "pitch": 1.0}


def measure(clip: Clip) -> Cues:
    """Return the cues of `clip`, which has at least one sample."""
    first, last = speech_edges(clip.samples)
    rms = float(np.sqrt(np.mean(np.square(clip.samples, dtype=np.float64))))
    return Cues(
        seconds=clip.seconds,
        level=20 * float(np.log10(max(rms, 1e-10))),
        lead=first / clip.sample_rate,
        trail=(len(clip.samples) - last) / clip.sample_rate,
        pitch=_pitch(clip),
        digest=hashlib.sha256(clip.samples.tobytes()).hexdigest(),
    )


def _pitch(clip: Clip) -> float:
    size, hop = round(_FRAME * clip.sample_rate), round(_HOP * clip.sample_rate)
    if len(clip.samples) < size:
        return float("nan")
    frames = np.lib.stride_tricks.sliding_window_view(clip.samples, size)[::hop]  # [F, size]
    frames = frames - frames.mean(axis=1, keepdims=True)
    power = np.abs(np.fft.rfft(frames, 2 * size)) ** 2
    lags = np.fft.irfft(power)[:, :size]
    # Fewer samples overlap at longer lags; without the correction a period would lose to half of it.
    lags = lags / (1 - np.arange(size) / size)
    low, high = (round(clip.sample_rate / f) for f in reversed(PITCH_RANGE))
    loud = lags[:, 0] > 0.1 * lags[:, 0].max(initial=0.0)
    near = lags[:, low : high + 1]
    peak = (near >= lags[:, low - 1 : high]) & (near >= lags[:, low + 1 : high + 2])
    height = np.where(peak, near, 0.0)
    # Multiples of the period repeat it nearly as well: the shortest of the high peaks is the period.
    best = (peak & (height >= 0.9 * height.max(axis=1, keepdims=True))).argmax(axis=1)
    strength = height[np.arange(len(lags)), best] / np.maximum(lags[:, 0], 1e-12)
    voiced = (best + low)[loud & (strength > _VOICED)]
    return float(np.median(clip.sample_rate / voiced)) if len(voiced) else float("nan")


def unigram_log_p(tokens: Mapping[str, Sequence[Hashable]]) -> dict[str, float]:
    """Return clip -> mean log-probability (nats a token) under the counts of all clips: knows nothing of the sides."""
    ids, counts = _counts(tokens)
    total = counts.sum(axis=0)
    log_p = np.log(total / total.sum())
    return dict(zip(ids, (counts @ log_p / np.maximum(counts.sum(axis=1), 1)).tolist(), strict=True))


def unigram_learned(
    tokens: Mapping[str, Sequence[Hashable]], pairs: Sequence[tuple[str, str, str]], *, seed: int
) -> NDArray[np.float64]:
    """Return float64 [pairs]: how much more the positive side's tokens are those of positive sides than the negative's.

    Naive Bayes with add-one smoothing, learned from the pairs of other items (FOLDS-fold): what a bag of tokens tells.

    Args:
        tokens: clip -> its tokens.
        pairs: (positive clip, negative clip, item).
        seed: of the division of items into folds.
    """
    ids, counts = _counts(tokens)
    row = {id: n for n, id in enumerate(ids)}
    up = counts[[row[positive] for positive, _, _ in pairs]]
    down = counts[[row[negative] for _, negative, _ in pairs]]
    _, item = np.unique([item for *_, item in pairs], return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(int(item.max()) + 1) % FOLDS)[item]
    margin = np.zeros(len(pairs))
    for one in range(FOLDS):
        test = fold == one
        weights = _log_share(up[~test]) - _log_share(down[~test])
        margin[test] = (up[test] - down[test]) @ weights
    return margin


def _log_share(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    total = counts.sum(axis=0) + 1
    return np.log(total / total.sum())


def _counts(tokens: Mapping[str, Sequence[Hashable]]) -> tuple[list[str], NDArray[np.float64]]:
    """Return the clips and their counts [clips, V]."""
    place: dict[Hashable, int] = {}
    for sequence in tokens.values():
        for token in sequence:
            place.setdefault(token, len(place))
    counts = np.zeros((len(tokens), max(1, len(place))))
    for number, sequence in enumerate(tokens.values()):
        np.add.at(counts, (number, [place[token] for token in sequence]), 1)
    return list(tokens), counts
