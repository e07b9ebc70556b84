"""How much phonetic content units carry, against time-aligned phones (Hsu et al., HuBERT, 2021, section IV-D).

Shapes: F frames, C clips, P phones, K units, B resamples, J cells (pairs of a phone and a unit that meet somewhere).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from twistlm.errors import BadInput

RESAMPLES = 1000
_CHUNK = 4_000_000  # numbers held at once: 32 MB


@dataclass(frozen=True, kw_only=True)
class UnitQuality:
    """Agreement of units with phones, over frames.

    Attributes:
        pnmi: mutual information of phone and unit over the entropy of phones, 0 … 1; nan where all have one phone.
        phone_purity: share of frames whose phone is their unit's commonest.
        cluster_purity: share of frames whose unit is their phone's commonest.
        used: units seen at least once.
        frames: frames measured.
    """

    pnmi: float
    phone_purity: float
    cluster_purity: float
    used: int
    frames: int


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """`UnitQuality` with 95 % intervals over clips.

    Attributes:
        quality: the estimates.
        pnmi_ci, phone_purity_ci, cluster_purity_ci: (low, high); (nan, nan) for one clip.
        pnmi_shuffled: PNMI after the units were shuffled over all frames. It would be 0 with endless speech; what it is
            here says how much of `pnmi` so few frames and so many units could give by chance alone.
        clips: which clips, by number, have at least one labelled frame.
        pnmi_resampled: PNMI of each resample, [B]: the same resamples for whatever is measured on the same clips with
            the same seed. Empty for one clip.
    """

    quality: UnitQuality
    pnmi_ci: tuple[float, float]
    phone_purity_ci: tuple[float, float]
    cluster_purity_ci: tuple[float, float]
    pnmi_shuffled: float
    clips: tuple[int, ...]
    pnmi_resampled: NDArray[np.float64] = field(repr=False, compare=False)


def unit_quality(units: NDArray[np.uint16], phones: NDArray[np.str_]) -> UnitQuality:
    """Compare units [F] with phones [F]; frames whose phone is `""` are left out.

    Raises:
        BadInput: lengths differ, or no frame has a phone.
    """
    if len(units) != len(phones):
        raise BadInput(f"{len(units)} units against {len(phones)} phones; both need one entry a frame.")
    labelled = phones != ""
    if not labelled.any():
        raise BadInput("no frame has a phone: the alignment is empty or belongs to other clips.")
    _, unit_index = np.unique(units[labelled], return_inverse=True)
    _, phone_index = np.unique(phones[labelled], return_inverse=True)
    counts = np.zeros((phone_index.max() + 1, unit_index.max() + 1))
    np.add.at(counts, (phone_index, unit_index), 1)
    joint = counts / counts.sum()
    phone, unit = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    seen = joint > 0
    information = float((joint[seen] * np.log(joint[seen] / (phone @ unit)[seen])).sum())
    entropy = float(-(phone * np.log(phone)).sum())
    return UnitQuality(
        pnmi=information / entropy if len(phone) > 1 else np.nan,  # one phone leaves nothing to know
        phone_purity=float(counts.max(0).sum() / counts.sum()),
        cluster_purity=float(counts.max(1).sum() / counts.sum()),
        used=joint.shape[1],
        frames=int(labelled.sum()),
    )


def phone_unit_counts(
    units: Sequence[NDArray[np.uint16]], phones: Sequence[NDArray[np.str_]], *, n_units: int
) -> tuple[list[str], NDArray[np.int64]]:
    """How often each phone and each unit meet: the phones' names, sorted, and int64 [P, K].

    Args:
        units, phones: as for `agreement`.
        n_units: K.
    """
    all_units, all_phones = np.concatenate(units), np.concatenate(phones)
    labelled = all_phones != ""
    names, index = np.unique(all_phones[labelled], return_inverse=True)
    counts = np.zeros((len(names), n_units), np.int64)
    np.add.at(counts, (index, all_units[labelled]), 1)
    return [str(name) for name in names], counts


def agreement(
    units: Sequence[NDArray[np.uint16]], phones: Sequence[NDArray[np.str_]], *, seed: int, n: int = RESAMPLES
) -> Agreement:
    """Compare the units of C clips with their phones, with bootstrap intervals over clips.

    All three measures are biased upwards when frames are few, and resamples, which hold fewer different frames, are so
    once more: a plain percentile interval can lie wholly above its own estimate. Here the percentiles are shifted by
    that bias (mean of the resamples less the estimate). So an interval says how far the estimate would move with other
    clips *of this amount*; compare units over the same clips only, and see `pnmi_shuffled` for the bias itself.

    Args:
        units: one uint16 [F] a clip.
        phones: one [F] a clip; `""` where there is none.
        seed: of the resampling and the shuffling.
        n: B.

    Raises:
        BadInput: as `unit_quality`, or another number of clips.
    """
    if len(units) != len(phones):
        raise BadInput(f"units of {len(units)} clips against phones of {len(phones)}; both need the same clips.")
    for i, (u, p) in enumerate(zip(units, phones, strict=True)):
        if len(u) != len(p):
            raise BadInput(f"clip {i}: {len(u)} units against {len(p)} phones; both need one entry a frame.")
    if not len(units):
        raise BadInput("no clips to compare.")
    all_units, all_phones = np.concatenate(units), np.concatenate(phones)
    quality = unit_quality(all_units, all_phones)
    labelled = all_phones != ""
    clips = np.repeat(np.arange(len(units)), [len(u) for u in units])[labelled]
    known_units, known_phones = all_units[labelled], all_phones[labelled]
    shuffled = unit_quality(np.random.default_rng([seed, 1]).permutation(known_units), known_phones).pnmi
    numbers, clips = np.unique(clips, return_inverse=True)
    drawn = _resampled(known_units, known_phones, clips, np.random.default_rng(seed), n)
    estimates = (quality.pnmi, quality.phone_purity, quality.cluster_purity)
    ci = [_interval(*each) for each in zip(drawn.T, estimates, strict=True)]
    return Agreement(
        quality=quality,
        pnmi_ci=ci[0],
        phone_purity_ci=ci[1],
        cluster_purity_ci=ci[2],
        pnmi_shuffled=shuffled,
        clips=tuple(numbers.tolist()),
        pnmi_resampled=drawn[:, 0],
    )


def pnmi_ratio(mine: Agreement, other: Agreement) -> tuple[float, tuple[float, float]]:
    """The PNMI of one tokenizer over that of another, and its paired 95 % interval over clips.

    Each resample of the clips is measured with both, so what one clip does to both falls out. The frames may differ (25
    and 50 Hz), the clips and the seed may not. The interval is shifted by its bias as those of `agreement`, and is
    (nan, nan) for one clip.

    Raises:
        BadInput: measured over other clips or by another number of resamples, or the other PNMI is zero.
    """
    if mine.clips != other.clips or len(mine.pnmi_resampled) != len(other.pnmi_resampled):
        raise BadInput(
            f"a ratio of PNMI needs both over the same clips and resamples: {len(mine.clips)} and {len(other.clips)} "
            f"clips, {len(mine.pnmi_resampled)} and {len(other.pnmi_resampled)} resamples."
        )
    if not other.quality.pnmi > 0 or not (other.pnmi_resampled > 0).all():
        raise BadInput("there is no ratio of PNMI to units that tell nothing of phones.")
    ratio = mine.quality.pnmi / other.quality.pnmi
    return ratio, _interval(mine.pnmi_resampled / other.pnmi_resampled, ratio)


def _interval(drawn: NDArray[np.float64], estimate: float) -> tuple[float, float]:
    """Percentiles of resamples [B], shifted by their bias; (nan, nan) of none."""
    if not len(drawn):
        return (np.nan, np.nan)
    low, high = np.percentile(drawn, [2.5, 97.5]) - (drawn.mean() - estimate)
    return float(low), float(high)


def _resampled(
    units: NDArray[np.uint16], phones: NDArray[np.str_], clips: NDArray[np.integer], rng: np.random.Generator, n: int
) -> NDArray[np.float64]:
    """PNMI, phone purity and cluster purity of resampled clips, [B, 3], [0, 3] for one clip; `clips` [F] counts from 0.
    Which clips a resample holds depends on the generator and the number of clips only."""
    n_clips = int(clips.max()) + 1
    if n_clips == 1:
        return np.empty((0, 3))
    _, unit = np.unique(units, return_inverse=True)
    _, phone = np.unique(phones, return_inverse=True)
    n_units = int(unit.max()) + 1
    cells, cell = np.unique(phone * n_units + unit, return_inverse=True)  # sorted by phone, then by unit
    counts = csr_array((np.ones(len(cell)), (clips, cell)), shape=(n_clips, len(cells)))
    draws = []
    rows = max(1, _CHUNK // max(len(cells), n_clips))
    for start in range(0, n, rows):
        weights = rng.multinomial(n_clips, np.full(n_clips, 1 / n_clips), size=min(rows, n - start))
        draws.append(_measures(weights @ counts, cells // n_units, cells % n_units))
    return np.concatenate(draws)


def _measures(
    counts: NDArray[np.float64], phone: NDArray[np.integer], unit: NDArray[np.integer]
) -> NDArray[np.float64]:
    """[B, 3] from counts [B, J]; `phone` [J] is sorted. What no clip of a resample has counts nothing."""
    by_phone = np.flatnonzero(np.diff(phone, prepend=-1))
    order = np.argsort(unit, kind="stable")
    by_unit = np.flatnonzero(np.diff(unit[order], prepend=-1))
    turned = counts[:, order]
    total = counts.sum(1)
    phones = _entropy(np.add.reduceat(counts, by_phone, axis=1), total)
    units = _entropy(np.add.reduceat(turned, by_unit, axis=1), total)
    both = _entropy(counts, total)
    information = phones + units - both
    return np.stack(
        [
            np.divide(information, phones, out=np.zeros_like(phones), where=phones > 1e-12),
            np.maximum.reduceat(turned, by_unit, axis=1).sum(1) / total,
            np.maximum.reduceat(counts, by_phone, axis=1).sum(1) / total,
        ],
        axis=1,
    )


def _entropy(counts: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row, in nats: [B, …] -> [B]."""
    return np.log(total) - (counts * np.log(np.maximum(counts, 1))).sum(1) / total
