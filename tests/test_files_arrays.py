"""Flat arrays know when they are not what was written, and are made again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from faults.inputs import random_units
from twistlm.corpus.opened import open_corpus
from twistlm.errors import TwistError
from twistlm.files.arrays import ArrayWriter, Unfit, open_arrays, open_or_make


def write(folder: Path) -> None:
    folder.mkdir()
    with ArrayWriter(folder) as arrays:
        arrays.append("a", np.arange(3, dtype=np.int32))
        arrays.append("a", np.arange(3, 7, dtype=np.int32))
        arrays.append("none", np.zeros(0, dtype=np.uint16))


def test_pieces_are_read_back_as_one_array(tmp_path: Path) -> None:
    write(tmp_path / "x")
    arrays = open_arrays(tmp_path / "x", ("a", "none"))
    assert np.array_equal(arrays["a"], np.arange(7)) and arrays["a"].dtype == np.int32
    assert arrays["none"].shape == (0,) and arrays["none"].dtype == np.uint16


def hole(folder: Path) -> None:
    with (folder / "a").open("r+b") as file:
        file.write(bytes(4))
        file.write(bytes(4))


def cut(folder: Path) -> None:
    (folder / "a").write_bytes((folder / "a").read_bytes()[:-4])


def lose(folder: Path) -> None:
    (folder / "none").unlink()


def rename(folder: Path) -> None:
    index = json.loads((folder / "arrays.json").read_text())
    (folder / "arrays.json").write_text(json.dumps({"../a": index["a"]}))


@pytest.mark.parametrize("harm", [hole, cut, lose, rename])
def test_what_was_changed_is_unfit_and_made_again(tmp_path: Path, harm) -> None:
    folder = tmp_path / "x"
    write(folder)
    open_arrays(folder, ("a", "none"))
    harm(folder)
    with pytest.raises(Unfit):
        open_arrays(folder, ("a", "none"))
    with pytest.raises(TwistError, match="cannot be read back"):
        open_or_make(folder, ("a", "none"), lambda: None)

    def anew() -> None:
        folder.rename(tmp_path / "old")
        write(folder)

    assert np.array_equal(open_or_make(folder, ("a", "none"), anew)["a"], np.arange(7))


def test_other_units_of_the_same_size_in_the_cache_are_not_believed(tmp_path: Path) -> None:
    random_units(tmp_path)
    before = open_corpus(tmp_path / "units", split=None)
    fingerprint, ids = before.fingerprint, before[3].ids.copy()  # before is a map of the file that is changed
    (units,) = (tmp_path / "units" / ".cache").glob("*/units")
    units.write_bytes(bytes(units.stat().st_size))
    after = open_corpus(tmp_path / "units", split=None)
    assert after.fingerprint == fingerprint
    assert np.array_equal(after[3].ids, ids)
