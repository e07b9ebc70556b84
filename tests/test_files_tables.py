"""Tables with a header line, regular files, and configurations that ask for too much."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twistlm.errors import ArtifactError, BadInput, TwistError
from twistlm.files.artifacts import cache_to_write
from twistlm.files.configs import check_sizes, read_config
from twistlm.files.regular import file_sha256, open_kind, read_regular, require_regular, require_regular_files
from twistlm.files.tables import formulas, is_formula, read_table, separator_of
from twistlm.files.torch_files import is_torch, read_torch

CELLS = st.text("ab ,;|\t\"'\n\ré=", max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(st.tuples(CELLS, CELLS), max_size=8), separator=st.sampled_from(",\t;|"))
def test_what_csv_wrote_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list, separator: str) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=separator)
    writer.writerows([("one", "two"), *rows])
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_bytes(buffer.getvalue().encode())
    found = [tuple(row.values()) for _, row in read_table(path, "a test", separator=separator)]
    assert found == rows


def test_broken_tables_say_where(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for content, why in (
        (b"", "lacks the columns id; its first line has nothing"),
        (b"a,b\n", "lacks the columns id; its first line has a, b"),
        (b"id,id\n", "has the columns id twice"),
        (b"id,a\n1,2\n3\n4,5,6\n", r"rows without the 2 columns of the first line: line 3 has 1, line 4 has 3"),
        (b'id,a\n1,"x\n', "line 2: no row of a table"),
        (b"id,a\n1,x\0\n", "line 2: holds a NUL"),
        (b"id,a\n1,\xe9\n", "not UTF-8 text .*Latin-1"),
        ("id,a\n".encode("utf-16"), "it is UTF-16"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=rf"t\.csv.*{why}"):
            list(read_table(path, "a test", columns=["id"]))
    path.write_bytes(b"\n\r\nid,a\n1,2\n")
    assert list(read_table(path, "a test", columns=["id"])) == [(4, {"id": "1", "a": "2"})]
    path.write_bytes('\ufeffid;a\r\n1;"x;\r\ny"\r\n\r\n2;z\r\n'.encode())
    assert separator_of(path, "a test") == ";"
    rows = list(read_table(path, "a test", columns=["id"], separator=";"))
    assert rows == [(2, {"id": "1", "a": "x;\r\ny"}), (5, {"id": "2", "a": "z"})]


def test_formulas_are_told_from_numbers_and_dashes() -> None:
    assert all(map(is_formula, ["=1+1", "@SUM(A1)", "+cmd|x", "-cmd|x", "-2+3"]))
    assert not any(map(is_formula, ["", "-", "=", "- he said", "+3.5", "-7", "a=b"]))
    assert formulas([{"a": "x"}, {"a": " =1"}], ["a"]) == ["row 2: a ' =1'"]


def test_what_is_no_regular_file_is_never_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "zero").symlink_to("/dev/zero")
    for read in (open_kind, require_regular, read_regular):
        for name, why in (("pipe", "is no regular file"), ("zero", "is no regular file"), ("none", "no such file")):
            with pytest.raises(BadInput, match=why):
                read(tmp_path / name, "a test")
    for read in (file_sha256, is_torch):
        with pytest.raises(OSError, match="no regular file"):
            read(pipe)
    with pytest.raises(BadInput, match="no regular file"):
        read_torch(pipe)
    with pytest.raises(ArtifactError, match=r"pipe is no regular file, .* should be a model"):
        require_regular_files(tmp_path, "a model", error=ArtifactError)


@pytest.mark.parametrize(
    "said",
    [{"num_hidden_layers": 10**9}, {"text": {"n_layer": 5_000}}, {"conv_dim": [512, 10**12]}, {"d_model": -(2**40)}],
)
def test_absurd_configurations_are_refused_by_name(tmp_path: Path, said: dict) -> None:
    (tmp_path / "config.json").write_text(json.dumps(said))
    name = next(iter(said)) if "text" not in said else "text.n_layer"
    with pytest.raises(BadInput, match=rf"config\.json: {name} is .*, which no model has"):
        read_config(tmp_path / "config.json", "a test")


def test_real_configurations_are_not() -> None:
    said = {"num_hidden_layers": 126, "hidden_size": 16_384, "vocab_size": 256_000, "rope_theta": 10**10}
    said |= {"max_position_embeddings": 10_485_760, "sliding_window": 2**40, "sampling_rate": 192_000}
    check_sizes(said, where="a test")


def test_a_cache_that_cannot_be_written_to_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(TwistError, match=r"the cache .*eval-units cannot be written to .*TWISTLM_CACHE"):
        cache_to_write("eval-units")
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "new"))
    assert cache_to_write("eval-units").is_dir() and not list(cache_to_write("eval-units").iterdir())
