"""The codebook where the encoder computes: features never leave a GPU, a unit and two marks a frame do, in one copy.

Shapes: F frames, D feature dimensions, K centroids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from twistlm.compute.devices import full_float32, send
from twistlm.units.kmeans import Codebook

_SCORES = 2**26  # of a piece of frames and all centroids that are held at once, 0.3 GB each of a few


@dataclass(frozen=True, eq=False)
class Settled:
    """Frames of one clip.

    Attributes:
        ids: uint16 [F], the nearest centroid.
        tied: whether a frame lies so near a border that rounding could decide (`Codebook.near_ties`).
        bad: how many frames are NaN or infinite; their ids mean nothing.
    """

    ids: NDArray[np.uint16]
    tied: bool
    bad: int


@dataclass(frozen=True, eq=False)
class DeviceCodebook:
    """A `Codebook` on a device; make it with `of`. Its units are those of the codebook, but where a frame is tied."""

    directions: torch.Tensor
    half_norms: torch.Tensor
    distances: torch.Tensor

    @classmethod
    def of(cls, book: Codebook, device: torch.device) -> DeviceCodebook:
        return cls(*(send(array, device) for array in (book.directions, book.half_norms, book.distances)))

    @torch.inference_mode()
    def settle(self, clips: Sequence[torch.Tensor], *, relative: float) -> list[Settled]:
        """Return what became of each clip's features, float32 [F, D] on the device; waits for it once.

        Args:
            clips: features.
            relative: how far a frame may have moved, as of `Codebook.near_ties`; 0 marks equal scores alone.
        """
        frames = torch.cat(list(clips))
        n_units = len(self.directions)
        size = max(1, _SCORES // n_units)
        with full_float32():
            found = torch.cat([self._coded(piece, relative) for piece in frames.split(size)]).cpu().numpy()
        made, at = [], 0
        for clip in clips:
            coded = found[at : at + len(clip)]
            at += len(clip)
            made.append(
                Settled(
                    ids=(coded % n_units).astype(np.uint16),
                    tied=bool((coded >= n_units).any()),
                    bad=int((coded < 0).sum()),
                )
            )
        return made

    def _coded(self, frames: torch.Tensor, relative: float) -> torch.Tensor:
        """Return int32 [F]: the unit, K more where it is tied, -1 where the frame is not finite."""
        scores = frames @ self.directions.T - self.half_norms
        best = scores.argmax(1)
        lead = scores.gather(1, best[:, None]) - scores
        reach = relative * torch.linalg.vector_norm(frames, dim=1)[:, None] * self.distances[best]
        tied = (lead <= reach).sum(1) > 1  # the best one itself is one
        finite = frames.isfinite().all(1)
        return torch.where(finite, best + len(self.directions) * tied, -1).int()
