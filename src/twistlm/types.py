"""The frozen records that flow between the rooms. numpy only: importing this never imports torch.

Shapes: N samples, F frames, R runs (units after deduplication).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import BadInput, UnitSpecMismatch


@dataclass(frozen=True, kw_only=True)
class UnitSpec:
    """Exactly what a unit is. Two things may only meet when their specs are equal.

    Two traps need no field, because twistlm knows one way only. Padding: none, a clip is encoded as if alone; Whisper's
    encoder alone, built for windows of 30 s, hears silence behind the clip. Frame count: whatever unpadded convolutions
    of these strides give, `Encoder.n_frames`, exact for every length; a toolkit that pads each clip with some samples
    first gets other frames from the same encoder.

    Attributes:
        encoder: name of the SSL encoder, for people; its identity is the hash.
        encoder_sha256: sha256 of the encoder's weights file.
        layer: 1-based transformer block whose output is quantised (0 is the input of the first block).
        tap: which tensor "layer" means. `"block_output"` is transformers' `hidden_states[layer]`, before any
            final layer norm of the encoder.
        normalize_input: whether each clip is scaled to zero mean and unit variance before the encoder.
        sample_rate: Hz, what the encoder hears.
        hop: samples between two frames. Where it is a divisor of what the encoder's convolutions stride, the encoder
            runs in phases (`units.encoder`): mini-50hz's encoder is mini-25hz's, in two.
        n_units: K, the size of the codebook; units are 0 … K-1.
        centroids_sha256: sha256 of the codebook file.
        deduplicate: whether consecutive equal units are one unit (with a run length).
    """

    encoder: str
    encoder_sha256: str
    layer: int
    tap: str
    normalize_input: bool
    sample_rate: int
    hop: int
    n_units: int
    centroids_sha256: str
    deduplicate: bool

    def __post_init__(self) -> None:
        if self.n_units < 2 or self.n_units > 65_535:
            raise BadInput(f"UnitSpec.n_units is {self.n_units}; units are stored as uint16, so use 2 to 65535.")
        if self.hop < 1 or self.sample_rate < 1:
            raise BadInput(f"UnitSpec needs a positive hop and sample rate, got {self.hop} and {self.sample_rate}.")

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second, exact."""
        return Fraction(self.sample_rate, self.hop)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name this spec; stable across versions, machines and field order."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        known = {f.name for f in dataclasses.fields(cls)}
        if set(fields) != known:
            odd = sorted(set(fields) ^ known)
            raise BadInput(f"not a UnitSpec of this version: fields missing or unknown: {', '.join(odd)}.")
        return cls(**fields)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.from_dict(json.loads(text))

    def require(self, other: UnitSpec, *, mine: str, theirs: str) -> None:
        """Raise `UnitSpecMismatch`, naming each differing field, unless `other` equals this spec.

        Args:
            other: the spec that came from elsewhere.
            mine: what this spec belongs to, in words ("the tokenizer mini-25hz-500").
            theirs: what `other` belongs to ("the checkpoint runs/warm").
        """
        if self == other:
            return
        pairs = [
            f"{f.name} is {getattr(self, f.name)!r} in {mine} and {getattr(other, f.name)!r} in {theirs}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        ]
        raise UnitSpecMismatch(
            f"{mine} and {theirs} do not speak the same units: {'; '.join(pairs)}. "
            "Units of different tokenizers cannot be mixed: use the tokenizer that made them, or tokenize again."
        )


@dataclass(frozen=True, eq=False)
class Units:
    """The units of one clip, run-length coded.

    Attributes:
        ids: uint16 [R]; consecutive ids differ when `spec.deduplicate`.
        runs: int32 [R], frames each id lasts, at least 1; all 1 when not deduplicated.
        spec: what a unit is.
        id: the clip's id.
    """

    ids: NDArray[np.uint16]
    runs: NDArray[np.int32]
    spec: UnitSpec
    id: str = ""

    def __post_init__(self) -> None:
        if self.ids.shape != self.runs.shape or self.ids.ndim != 1:
            raise BadInput(
                f"Units {self.id!r}: ids {self.ids.shape} and runs {self.runs.shape} must be equal 1-D shapes."
            )
        if len(self.ids) and int(self.ids.max()) >= self.spec.n_units:
            raise BadInput(f"Units {self.id!r}: unit {int(self.ids.max())} is outside 0 … {self.spec.n_units - 1}.")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def frames(self) -> NDArray[np.uint16]:
        """uint16 [F]: one id per frame, the runs written out."""
        return np.repeat(self.ids, self.runs)

    @property
    def seconds(self) -> float:
        """Time covered by the frames."""
        return float(int(self.runs.sum()) / self.spec.frame_rate)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A benchmark item: the model should find `positive` likelier than `negative`.

    Attributes:
        id: unique in its suite.
        positive, negative: clip ids.
        group: whatever scores are averaged by (a voice, a phenomenon).
    """

    id: str
    positive: str
    negative: str
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A number that may be published, with what is needed to believe it.

    Attributes:
        name: e.g. `"mini_swuggy.accuracy"`.
        value: the estimate.
        ci: 95 % confidence interval (low, high).
        n: how many independent items it averages.
        unit_spec: fingerprint of the units it was measured with.
        protocol: what moves the number, in words ("mean log-probability per unit; ties 0.5").
        suite: which benchmark, its version and checksum; "" where that does not apply.
    """

    name: str
    value: float
    ci: tuple[float, float]
    n: int
    unit_spec: str
    protocol: str
    suite: str = ""
