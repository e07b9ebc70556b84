"""How many units stay the same when the sound is disturbed and the words are not.

Shapes: F frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from twistlm.audio import perturb
from twistlm.audio.clip import Clip
from twistlm.errors import BadInput

Disturbance = Callable[[Clip, int], Clip]  # of a clip, and a seed of its own

# What `twist units quality` does to a clip, by the names it uses: white noise at three signal-to-noise ratios, two
# changes of level, a room whose sound falls by 60 dB in 0.4 s and is as strong as the direct sound, two codecs.
DISTURBANCES: Mapping[str, Disturbance] = {
    "noise 20 dB": lambda clip, seed: perturb.noise(clip, snr_db=20, seed=seed),
    "noise 10 dB": lambda clip, seed: perturb.noise(clip, snr_db=10, seed=seed),
    "noise 0 dB": lambda clip, seed: perturb.noise(clip, snr_db=0, seed=seed),
    "6 dB louder": lambda clip, _: perturb.gain(clip, db=6),
    "12 dB softer": lambda clip, _: perturb.gain(clip, db=-12),
    "room": lambda clip, seed: perturb.room(clip, t60=0.4, drr_db=0, seed=seed),
    "MP3": lambda clip, _: perturb.codec(clip, form="mp3"),
    "Opus": lambda clip, _: perturb.codec(clip, form="opus"),
}


class FrameTokenizer(Protocol):
    """What is needed of a `SpeechTokenizer`."""

    def frames(self, clip: Clip, /) -> NDArray[np.uint16]: ...


def unchanged(
    tok: FrameTokenizer,
    clip: Clip,
    units: NDArray[np.uint16],
    *,
    disturbances: Mapping[str, Disturbance] = DISTURBANCES,
    seed: int,
) -> dict[str, int]:
    """Frames of a clip whose unit is unchanged, for each disturbance.

    Args:
        tok: cuts a clip into units, one a frame.
        clip: undisturbed.
        units: of the clip, uint16 [F].
        disturbances: name -> what to do.
        seed: of the noises; each clip's own follow from it and the clip's id.

    Raises:
        BadInput: a disturbed clip has another number of frames.
    """
    own = int.from_bytes(hashlib.sha256(f"{seed}:{clip.id}".encode()).digest()[:8], "big")
    kept = {}
    for name, disturb in disturbances.items():
        found = tok.frames(disturb(clip, own))
        if len(found) != len(units):
            raise BadInput(
                f"clip {clip.id!r}: {len(units)} units, and {len(found)} after {name!r}: units of other clips?"
            )
        kept[name] = int((found == units).sum())
    return kept
