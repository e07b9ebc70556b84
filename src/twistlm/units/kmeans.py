"""The codebook: K centroids in feature space, fitted by scikit-learn, applied as one matrix product.

Shapes: F frames, D feature dimensions, K centroids.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from twistlm.atomic import atomic_write
from twistlm.errors import BadInput


@dataclass(frozen=True, eq=False)
class Codebook:
    """K centroids; a frame's unit is the nearest one.

    Attributes:
        centroids: float32 [K, D].
    """

    centroids: NDArray[np.float32]

    @property
    def n_units(self) -> int:
        return len(self.centroids)

    @cached_property
    def _half_norms(self) -> NDArray[np.float32]:
        return (0.5 * np.square(self.centroids, dtype=np.float64).sum(1)).astype(np.float32)

    @cached_property
    def _distances(self) -> NDArray[np.float32]:
        """Between centroids, float32 [K, K]."""
        half = self._half_norms
        return np.sqrt(np.maximum(0, 2 * (half[:, None] + half - self.centroids @ self.centroids.T)))

    def assign(self, features: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Nearest centroid (Euclidean) of each frame: float32 [F, D] -> uint16 [F]; the lowest index wins a tie."""
        return self._scores(features).argmax(1).astype(np.uint16)

    def near_ties(self, features: NDArray[np.float32], *, relative: float) -> NDArray[np.bool_]:
        """Frames whose unit could change if their features moved a little: float32 [F, D] -> bool [F].

        Args:
            features: one row a frame.
            relative: how far a frame may have moved, as a share of its own length. For every frame that is not marked,
                no other features within that distance have another unit (but for the rounding of this very sum, which
                is orders of magnitude below any `relative` worth asking about).
        """
        scores = self._scores(features)
        best = scores.argmax(1)
        lead = scores[np.arange(len(scores)), best, None] - scores
        # Moving x by d changes the lead of c over c' by d.(c - c'), so by at most |d| |c - c'|.
        reach = relative * np.linalg.norm(features, axis=1)[:, None] * self._distances[best]
        lead[np.arange(len(scores)), best] = np.inf
        return (lead <= reach).any(1)

    def _scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """[F, K], highest for the nearest."""
        if features.ndim != 2 or features.shape[1] != self.centroids.shape[1]:
            raise BadInput(
                f"features of shape {features.shape} meet a codebook of {self.centroids.shape[1]} dimensions: "
                "the codebook was fitted on another encoder or layer."
            )
        # |x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2), and |x|^2 is the same for every c.
        return features @ self.centroids.T - self._half_norms

    def to_bytes(self) -> bytes:
        return save({"centroids": np.ascontiguousarray(self.centroids)})

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically."""
        with atomic_write(Path(path)) as temporary:
            temporary.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Codebook:
        tensors = load(Path(path).read_bytes())
        if set(tensors) != {"centroids"} or tensors["centroids"].ndim != 2:
            raise BadInput(f"{path} is not a codebook: it should hold one 2-D tensor named 'centroids'.")
        return cls(tensors["centroids"].astype(np.float32))


def fit(features: NDArray[np.float32], k: int, *, seed: int, batch_size: int = 10_000, max_iter: int = 60) -> Codebook:
    """Fit K centroids with scikit-learn's mini-batch k-means (k-means++ start, best of 3).

    Args:
        features: float32 [F, D], F at least K.
        k: number of centroids.
        seed: fixes the result on one machine and library version.
        batch_size: frames a mini-batch.
        max_iter: passes over the data at most.
    """
    from sklearn.cluster import MiniBatchKMeans

    if len(features) < k:
        raise BadInput(f"{k} centroids need at least {k} frames, got {len(features)}: give more speech or a smaller k.")
    model = MiniBatchKMeans(
        k,
        random_state=seed,
        batch_size=batch_size,
        max_iter=max_iter,
        n_init=3,
        reassignment_ratio=0.001,
        max_no_improvement=50,
    )
    model.fit(features)
    return Codebook(model.cluster_centers_.astype(np.float32))
