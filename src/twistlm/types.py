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

    The frame count needs no field: it is whatever unpadded convolutions of these strides give of the clip and its
    `padding` (`Encoder.n_frames`, exact for every length). Nor does what stands behind a clip in a batch: nothing does,
    and Whisper's encoder alone, built for windows of 30 s, hears silence there.

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
        padding: zero samples put before and behind each clip first, so many on each side; SlamKit puts 40, all others
            none. Units are then those of the padded clip. None are not written down, so specs that were made before
            there was this field are as they were.
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
    padding: int = 0

    def __post_init__(self) -> None:
        kinds = {"str": str, "int": int, "bool": bool}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if type(value) is not kinds[str(f.type)]:  # nor is True a number: JSON keeps them apart
                raise BadInput(f"UnitSpec.{f.name} is {value!r}, not of type {f.type}.")
        if self.layer < 0 or self.padding < 0:
            raise BadInput(f"UnitSpec.layer and padding are at least 0, got {self.layer} and {self.padding}.")
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
        """Its fields; `padding` only where there is some."""
        fields = dataclasses.asdict(self)
        return fields if self.padding else {name: value for name, value in fields.items() if name != "padding"}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The spec of these fields.

        Raises:
            BadInput: fields are missing, unknown, or of another type or range.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        if odd := sorted((set(fields) | {"padding"}) ^ known):
            raise BadInput(f"not a UnitSpec of this version: fields missing or unknown: {', '.join(odd)}.")
        return cls(**fields)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The spec that `to_json` wrote; BadInput where the text is something else."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"not a UnitSpec: not JSON ({error}).") from error
        if not isinstance(fields, dict):
            raise BadInput("not a UnitSpec: not a JSON object.")
        return cls.from_dict(fields)

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
        if self.ids.dtype != np.uint16 or self.runs.dtype != np.int32:
            raise BadInput(
                f"Units {self.id!r}: ids are {self.ids.dtype} and runs {self.runs.dtype}, not uint16 and int32."
            )
        if not len(self.ids):
            return
        if int(self.ids.max()) >= self.spec.n_units:
            raise BadInput(f"Units {self.id!r}: unit {int(self.ids.max())} is outside 0 … {self.spec.n_units - 1}.")
        if int(self.runs.min()) < 1:
            raise BadInput(f"Units {self.id!r}: a unit lasts {int(self.runs.min())} frames; each lasts 1 or more.")

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
