"""ABX: is a phone nearer to another instance of itself than to another phone? (Schatz et al., Interspeech 2013)

X and A are instances of one phone, B of another; the error is the share of triplets in which X is nearer to B than to A
(a tie is one half). Chance is 0.5, and lower is better. "Within": all three of one speaker. "Across": A and B of one
speaker, X of another. Phones are compared in any context, each cut out by itself ("phoneme ABX, any context" of Hallap
et al., 2023, and of ZeroSpeech): distances are DTW over frames, scores are averaged over speakers first, over ordered
pairs of phones then.

fastabx computes the same and needs Python 3.12, which twistlm does not. On the same instances, not thinned out, this
gives the numbers of fastabx 0.9.0 (tests/test_units_abx.py; there `on="phone"`, and `by=["speaker"]` or
`across=["speaker"]`). It departs from fastabx's `zerospeech_abx` in three ways. A frame belongs to the phone at the
centre of its receptive field, where fastabx takes frames to be 1 / frame rate wide, from 0 on. `draw` draws once for
each phone of each speaker, not again for every pair of phones. Angular distances are in float64, there in float32.

Shapes: T tokens (phones cut out), F frames of one, D dimensions, P phones, G groups of the jackknife.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from twistlm.errors import BadInput
from twistlm.units.quality.alignment import Alignment, frame_centres
from twistlm.units.quality.dtw import Distance, warped

GROUPS = 10
_CELLS = 2_000_000  # triplets compared at once: 16 MB


@dataclass(frozen=True, kw_only=True)
class Token:
    """One phone of one clip: frames `first` … `last` - 1.

    Attributes:
        clip, speaker, phone: whose and what.
        first, last: frames, `first` < `last`.
    """

    clip: str
    speaker: str
    phone: str
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class ABX:
    """An ABX error.

    Attributes:
        error: 0 … 1, chance 0.5.
        ci: 95 % interval: delete-a-group jackknife over clips (Student's t); (nan, nan) with fewer clips than groups.
        pairs: ordered pairs of phones that could be compared.
        tokens: T.
    """

    error: float
    ci: tuple[float, float]
    pairs: int
    tokens: int


def tokens_of(
    clip: str,
    speaker: str,
    alignment: Alignment,
    n_frames: int,
    *,
    hop: int,
    sample_rate: int,
    receptive: int,
    leave_out: Collection[str],
) -> tuple[list[Token], int]:
    """Cut a clip into phones: its tokens, and how many phones are so short that no frame is centred in them.

    Args:
        clip, speaker: names.
        alignment: of the clip.
        n_frames: of the clip.
        hop, sample_rate, receptive: of the encoder, in samples and Hz.
        leave_out: phones not to compare: silences (`alignment.SILENCE`).
    """
    centres = frame_centres(n_frames, hop=hop, sample_rate=sample_rate, receptive=receptive)
    found, without = [], 0
    for phone, start, end in alignment:
        if phone in leave_out:
            continue
        first, last = (int(i) for i in np.searchsorted(centres, [start, end]))
        if first == last:
            without += 1
        else:
            found.append(Token(clip=clip, speaker=speaker, phone=phone, first=first, last=last))
    return found, without


def draw(tokens: Sequence[Token], *, max_items: int | None, seed: int) -> list[Token]:
    """Return at most `max_items` tokens of each phone of each speaker, in their order; None keeps all."""
    if max_items is None:
        return list(tokens)
    rng = np.random.default_rng(seed)
    groups: dict[tuple[str, str], list[int]] = {}
    for i, token in enumerate(tokens):
        groups.setdefault((token.speaker, token.phone), []).append(i)
    kept: list[int] = []
    for name in sorted(groups):
        members = groups[name]
        kept += members if len(members) <= max_items else rng.choice(members, max_items, replace=False).tolist()
    return [tokens[i] for i in sorted(kept)]


def abx(
    features: Sequence[NDArray[np.generic]],
    tokens: Sequence[Token],
    *,
    speakers: Literal["within", "across"],
    distance: Distance,
    max_x_speakers: int | None,
    seed: int,
    groups: int = GROUPS,
) -> ABX:
    """Measure the ABX error of T tokens.

    Args:
        features: of each token: [F, D], or units [F].
        tokens: whose they are.
        speakers: X of the speaker of A and B, or of another.
        distance: between frames: "angular" for features, "identical" for units.
        max_x_speakers: "across": how many other speakers X is taken from for each speaker of A and B, a seeded choice
            (5 in ZeroSpeech); None takes all.
        seed: of that choice and of the jackknife's groups.
        groups: G.

    Raises:
        BadInput: nothing to compare: one phone only, or one speaker only for "across".
    """
    if len(features) != len(tokens):
        raise BadInput(f"{len(features)} features of {len(tokens)} tokens; both need one entry a token.")
    names = sorted({token.phone for token in tokens})
    voices = sorted({token.speaker for token in tokens})
    rng = np.random.default_rng(seed)
    weights = _jackknife([token.clip for token in tokens], groups, rng)
    phone = np.array([names.index(token.phone) for token in tokens], dtype=int)
    mine = {
        voice: np.array(sorted((i for i, t in enumerate(tokens) if t.speaker == voice), key=lambda i: (phone[i], i)))
        for voice in voices
    }
    sums = np.zeros((len(weights), len(names), len(names)))
    counts = np.zeros_like(sums)
    for voice in voices:
        others = [voice] if speakers == "within" else [v for v in voices if v != voice]
        if speakers == "across" and max_x_speakers is not None and len(others) > max_x_speakers:
            others = sorted(rng.choice(others, max_x_speakers, replace=False).tolist())
        for other in others:
            x, ab = mine[other], mine[voice]
            distances = warped([features[i] for i in x], [features[i] for i in ab], distance=distance)
            _add_cells(sums, counts, distances, phone[x], phone[ab], weights[:, x], weights[:, ab], other == voice)
    found = counts > 0
    pairs = int(found[0].sum())
    if not pairs:
        many = "speakers" if speakers == "across" and len(voices) < 2 else "instances of different phones"
        raise BadInput(
            f"ABX {speakers} speakers compares nothing: there are too few {many} among {len(tokens)} tokens."
        )
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=found).sum((1, 2))
    errors = means / np.maximum(found.sum((1, 2)), 1)
    return ABX(error=float(errors[0]), ci=_interval(errors), pairs=pairs, tokens=len(tokens))


def _add_cells(
    sums: NDArray[np.float64],
    counts: NDArray[np.float64],
    distances: NDArray[np.float64],
    x_phone: NDArray[np.integer],
    ab_phone: NDArray[np.integer],
    x_weights: NDArray[np.float64],
    ab_weights: NDArray[np.float64],
    same: bool,
) -> None:
    """Add the error of every pair of phones (A, B) of one speaker with X of one (`same`: that) speaker to
    `sums` [G + 1, P, P] and count it in `counts`. Tokens stand in order of phone."""
    edges = np.flatnonzero(np.diff(ab_phone, prepend=-1))  # where each phone begins
    there = ab_phone[edges]
    n_b = np.add.reduceat(ab_weights, edges, axis=1)  # [G + 1, phones there]
    for a in there:
        xs, members = np.flatnonzero(x_phone == a), np.flatnonzero(ab_phone == a)
        if not len(xs):
            continue
        to_a, to_b = distances[np.ix_(xs, members)], distances[xs]
        wrong = np.zeros((len(x_weights), distances.shape[1]))
        n_xa = np.zeros(len(x_weights))
        step = max(1, _CELLS // (len(members) * distances.shape[1]))
        for start in range(0, len(xs), step):
            part = slice(start, start + step)
            worse = 0.5 + 0.5 * np.sign(to_a[part, :, None] - to_b[part, None, :])  # [x, a, b]
            weight = x_weights[:, xs[part], None] * ab_weights[:, None, members]  # [G + 1, x, a]
            if same:  # no token is compared with itself
                weight = weight * (xs[part, None] != members[None, :])
            wrong += np.tensordot(weight, worse, axes=([1, 2], [0, 1]))
            n_xa += weight.sum((1, 2))
        errors = np.add.reduceat(wrong * ab_weights, edges, axis=1)
        triplets = n_xa[:, None] * n_b
        full = (triplets > 0) & (there != a)
        sums[:, a, there] += np.divide(errors, triplets, out=np.zeros_like(errors), where=full)
        counts[:, a, there] += full


def _jackknife(clips: Sequence[str], groups: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Weights of the tokens, [G + 1, T]: all, then all but each group of clips. [1, T] with fewer clips than groups."""
    names = sorted(set(clips))
    everything = np.ones((1, len(clips)))
    if len(names) < groups:
        return everything
    place = dict(zip(names, rng.permutation(len(names)) % groups, strict=True))
    group = np.array([place[clip] for clip in clips])
    return np.concatenate([everything, (group[None, :] != np.arange(groups)[:, None]).astype(float)])


def _interval(errors: NDArray[np.float64]) -> tuple[float, float]:
    """From the error over all [0] and without each group [1:]."""
    groups = len(errors) - 1
    if groups < 2:
        return (math.nan, math.nan)
    spread = math.sqrt((groups - 1) / groups * float(((errors[1:] - errors[1:].mean()) ** 2).sum()))
    reach = float(student_t.ppf(0.975, groups - 1)) * spread
    return (max(0.0, float(errors[0]) - reach), min(1.0, float(errors[0]) + reach))
