"""The codebook: K centroids in feature space, or in a projection of it, fitted by scikit-learn, applied as one matrix
product.

Shapes: F frames, D feature dimensions, P dimensions of the projection, K centroids.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from twistlm.errors import BadInput, offenders
from twistlm.files.atomic import atomic_write
from twistlm.files.regular import read_regular


@dataclass(frozen=True, eq=False)
class Codebook:
    """K centroids; a frame's unit is the nearest one.

    Attributes:
        centroids: float32 [K, D], or [K, P] with a projection.
        projection: float32 [D, P]; features are multiplied by it before they meet the centroids (see `discriminant`).
    """

    centroids: NDArray[np.float32]
    projection: NDArray[np.float32] | None = None

    @property
    def n_units(self) -> int:
        return len(self.centroids)

    @property
    def dim(self) -> int:
        """D, of the features it takes."""
        return self.directions.shape[1]

    @cached_property
    def directions(self) -> NDArray[np.float32]:
        """What a frame's inner products with the centroids are taken with, float32 [K, D]: (x P).c = x.(P c)."""
        return self.centroids if self.projection is None else self.centroids @ self.projection.T

    @cached_property
    def half_norms(self) -> NDArray[np.float32]:
        return (0.5 * np.square(self.centroids, dtype=np.float64).sum(1)).astype(np.float32)

    @cached_property
    def distances(self) -> NDArray[np.float32]:
        """Between the directions of centroids, float32 [K, K]."""
        norms = np.square(self.directions).sum(1)
        return np.sqrt(np.maximum(0, norms[:, None] + norms - 2 * self.directions @ self.directions.T))

    def assign(self, features: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Nearest centroid (Euclidean) of each frame: float32 [F, D] -> uint16 [F]; the lowest index wins a tie."""
        return self._scores(features).argmax(1).astype(np.uint16)

    def inertia(self, features: NDArray[np.float32]) -> float:
        """Mean squared distance of frames, float32 [F, D], from their centroids, behind the projection if any."""
        seen = features if self.projection is None else features @ self.projection
        return float(np.square(seen - self.centroids[self.assign(features)], dtype=np.float64).sum(1).mean())

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
        # Moving x by d changes the lead of c over c' by d.(c - c'), so by at most |d| |c - c'| (c: its direction).
        reach = relative * np.linalg.norm(features, axis=1)[:, None] * self.distances[best]
        lead[np.arange(len(scores)), best] = np.inf
        return (lead <= reach).any(1)

    def _scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """[F, K], highest for the nearest."""
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise BadInput(
                f"features of shape {features.shape} meet a codebook of {self.dim} dimensions: "
                "the codebook was fitted on another encoder or layer."
            )
        # |x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2), and |x|^2 is the same for every c.
        return features @ self.directions.T - self.half_norms

    def to_bytes(self) -> bytes:
        tensors = {"centroids": self.centroids}
        if self.projection is not None:
            tensors["projection"] = self.projection
        return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically."""
        with atomic_write(Path(path)) as temporary:
            temporary.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Codebook:
        """Read what `save` wrote. BadInput: it is something else, or holds NaN or infinity."""
        try:
            tensors = {
                name: tensor.astype(np.float32) for name, tensor in load(read_regular(path, "a codebook")).items()
            }
        except (SafetensorError, ValueError, TypeError, KeyError) as error:
            raise BadInput(f"{path} is not a codebook: it cannot be read as safetensors ({error}).") from error
        if not {"centroids"} <= set(tensors) <= {"centroids", "projection"} or any(
            t.ndim != 2 for t in tensors.values()
        ):
            raise BadInput(
                f"{path} is not a codebook: it should hold a 2-D tensor named 'centroids', and perhaps a 'projection'."
            )
        if bad := [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]:
            raise BadInput(f"{path}: its {offenders(bad)} hold NaN or infinity. Fetch or fit it again.")
        book = cls(tensors["centroids"], tensors.get("projection"))
        if book.projection is not None and book.projection.shape[1] != book.centroids.shape[1]:
            raise BadInput(
                f"{path}: the projection ends in {book.projection.shape[1]} dimensions, "
                f"the centroids have {book.centroids.shape[1]}."
            )
        return book


class Sample:
    """A uniform sample of the frames shown to it, in bounded memory (Vitter's algorithm R).

    Args:
        size: frames kept at most.
        dim: D.
        seed: with the order of the frames, fixes which are kept.
    """

    def __init__(self, size: int, dim: int, *, seed: int) -> None:
        self.seen = 0
        self._rows = np.empty((size, dim), np.float32)
        self._rng = np.random.default_rng(seed)

    def add(self, features: NDArray[np.float32]) -> None:
        """Show it frames, float32 [F, D]."""
        number = self.seen + np.arange(len(features))
        # The n-th frame is kept with probability size / n, in the place of any one that was.
        place = np.where(number < len(self._rows), number, self._rng.integers(0, number + 1))
        kept = place < len(self._rows)
        self._rows[place[kept]] = features[kept]
        self.seen += len(features)

    @property
    def frames(self) -> NDArray[np.float32]:
        """The frames kept, float32 [at most size, D]; a view."""
        return self._rows[: self.seen]


def fit(
    features: NDArray[np.float32], k: int, *, seed: int, projection: NDArray[np.float32] | None = None,
    batch_size: int = 10_000, max_iter: int = 60,
) -> Codebook:  # fmt: skip
    """Fit K centroids with scikit-learn's mini-batch k-means (k-means++ start, best of 3).

    Args:
        features: float32 [F, D], F at least K.
        k: number of centroids.
        seed: fixes the result on one machine and library version.
        projection: float32 [D, P]; centroids are fitted behind it, and the codebook carries it.
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
    model.fit(features if projection is None else features @ projection)
    return Codebook(model.cluster_centers_.astype(np.float32), projection)


def discriminant(features: NDArray[np.float32], labels: NDArray[np.integer], dim: int) -> NDArray[np.float32]:
    """The projection to `dim` dimensions in which labelled frames (of phones, say) lie farthest apart, measured in the
    spread of frames of one label: Fisher's linear discriminants. Distances there weigh what tells labels apart, not
    what merely varies most, such as the speaker.

    Args:
        features: float32 [F, D].
        labels: [F]; frames with a negative one are left out.
        dim: P, below the number of labels.

    Returns:
        float32 [D, P], for `Codebook.projection` and `fit`.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    known = labels >= 0
    n_labels = len(np.unique(labels[known]))
    if not 0 < dim < n_labels:
        raise BadInput(f"{n_labels} labels span at most {n_labels - 1} discriminant dimensions, {dim} were asked for.")
    model = LinearDiscriminantAnalysis(solver="eigen", shrinkage=1e-3)
    return model.fit(features[known], labels[known]).scalings_[:, :dim].astype(np.float32)
