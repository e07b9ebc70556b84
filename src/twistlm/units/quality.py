"""How much phonetic content units carry, against time-aligned phones (Hsu et al., HuBERT, 2021, section IV-D).

Shapes: F frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class UnitQuality:
    """Agreement of units with phones, over frames.

    Attributes:
        pnmi: mutual information of phone and unit over the entropy of phones, 0 … 1.
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


def phones_at(
    alignment: Sequence[tuple[str, float, float]], n_frames: int, *, hop: int, sample_rate: int, receptive: int
) -> NDArray[np.str_]:
    """The phone at the centre of each frame's receptive field: [F]; `""` where the alignment has none.

    Args:
        alignment: (phone, start s, end s), in order.
        n_frames: F.
        hop, sample_rate, receptive: of the encoder, in samples and Hz.
    """
    centres = (np.arange(n_frames) * hop + receptive / 2) / sample_rate
    ends = np.array([end for _, _, end in alignment])
    starts = np.array([start for _, start, _ in alignment])
    names = np.array([phone for phone, _, _ in alignment])
    index = np.minimum(np.searchsorted(ends, centres, side="right"), len(ends) - 1)
    return np.where((centres >= starts[index]) & (centres < ends[index]), names[index], "")


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
        pnmi=information / entropy if len(phone) > 1 else 0.0,  # one phone leaves nothing to know
        phone_purity=float(joint.max(0).sum()),
        cluster_purity=float(joint.max(1).sum()),
        used=joint.shape[1],
        frames=int(labelled.sum()),
    )
