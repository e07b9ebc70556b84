"""The records that flow between the rooms, and the promise that units of two kinds never meet."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twistlm.audio.clip import Clip
from twistlm.errors import BadInput, UnitSpecMismatch, offenders
from twistlm.types import Units, UnitSpec

SPEC = UnitSpec(
    encoder="mini", encoder_sha256="aa", layer=6, tap="block_output", normalize_input=False, sample_rate=16_000,
    hop=640, n_units=500, centroids_sha256="bb", deduplicate=True,
)  # fmt: skip


def test_the_fingerprint_is_pinned():
    """Shards, checkpoints and scores on users' disks carry it: it must not change between versions."""
    assert SPEC.fingerprint == "19ea8d8dd1b95374"
    assert SPEC.frame_rate == Fraction(25)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(UnitSpec)])
def test_every_field_changes_the_fingerprint_and_is_named(field):
    value = getattr(SPEC, field)
    other = dataclasses.replace(
        SPEC, **{field: (not value) if isinstance(value, bool) else value + (1 if isinstance(value, int) else "x")}
    )
    assert other.fingerprint != SPEC.fingerprint
    with pytest.raises(UnitSpecMismatch, match=f"{field} is .* in the corpus and .* in the model"):
        SPEC.require(other, mine="the corpus", theirs="the model")
    SPEC.require(SPEC, mine="the corpus", theirs="the model")


def test_json_round_trip_and_foreign_fields():
    assert UnitSpec.from_json(SPEC.to_json()) == SPEC
    with pytest.raises(BadInput, match="colour"):
        UnitSpec.from_dict({**SPEC.to_dict(), "colour": 1})


@pytest.mark.parametrize("n_units", [0, 1, 65_536])
def test_codebooks_that_do_not_fit_uint16_are_refused(n_units):
    with pytest.raises(BadInput, match="uint16"):
        dataclasses.replace(SPEC, n_units=n_units)


@given(st.lists(st.tuples(st.integers(0, 499), st.integers(1, 9)), max_size=50))
def test_units_write_their_runs_out(pairs):
    units = Units(np.array([i for i, _ in pairs], np.uint16), np.array([r for _, r in pairs], np.int32), SPEC, "x")
    assert len(units.frames) == sum(r for _, r in pairs)
    assert units.seconds == pytest.approx(len(units.frames) / 25)


def test_units_outside_the_codebook_are_refused():
    with pytest.raises(BadInput, match="unit 500 is outside"):
        Units(np.array([500], np.uint16), np.array([1], np.int32), SPEC)
    with pytest.raises(BadInput, match="equal 1-D shapes"):
        Units(np.array([5], np.uint16), np.array([1, 2], np.int32), SPEC)
    with pytest.raises(BadInput, match="lasts -2 frames"):
        Units(np.array([5, 6], np.uint16), np.array([1, -2], np.int32), SPEC)
    with pytest.raises(BadInput, match="float32 and runs int64, not uint16 and int32"):
        Units(np.array([5.5], np.float32), np.array([1], np.int64), SPEC)


def test_clip_seconds():
    assert Clip(np.zeros(8000, np.float32), 16_000).seconds == 0.5


def test_offenders_shows_five_and_the_total():
    assert offenders([1, 2]) == "1, 2"
    assert offenders(list(range(9))) == "0, 1, 2, 3, 4 … (9 in all)"
