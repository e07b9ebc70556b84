"""Reading JSON, JSON lines and TOML that may be anything."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pytest

from twistlm.errors import BadInput, CheckpointError
from twistlm.files import text
from twistlm.files.jsonl import check_shape, parse_json, read_json, read_objects, read_toml

HOSTILE = {
    "empty": b"", "not json": b"{a", "deep": b"[" * 200_000, "deep but closed": b"[" * 500 + b"]" * 500,
    "deep objects": b'{"a":' * 100_000, "digits": b'{"a": ' + b"9" * 5000 + b"}",
    "400 digits": b'{"a": ' + b"9" * 400 + b"}",
    "1e400": b'{"a": 1e400}', "many zeros": b'{"a": 1' + b"0" * 400 + b".0}", "NaN": b'{"a": NaN}',
    "inf": b'{"a": -Infinity}',
    "half a pair": b'{"a": "x\\ud83d"}', "half a pair as key": b'{"\\udc00": 1}', "NUL": b'{"a": "\\u0000"}',
    "raw NUL": b'{"a": "\0"}', "latin-1": '{"a": "é"}'.encode("latin-1"),
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "gzip": gzip.compress(b"{}"), "a list": b"[1]", "text": b'"a"', "null": b"null",
    "two": b"{} {}", "random": bytes(range(256)),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_json_is_an_error_that_names_file_and_kind(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(CheckpointError, match=r"x\.json.*It should be the state of a test") as told:
        read_json(path, "the state of a test", error=CheckpointError)
    assert len(str(told.value)) < 600
    if b"\n" not in HOSTILE[name] and HOSTILE[name]:
        with pytest.raises(BadInput, match=r"x\.json, line 1.*the lines of a test"):
            list(read_objects(path, "the lines of a test"))


def test_good_json_is_read_as_json_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    value = {"a": [1, -2.5e-300, 2**63, True, None], "é😀": "tab\t \\u0000 \\ud800", "digest": "1234567890123456789012"}
    path.write_text("\ufeff" + json.dumps(value))
    assert read_json(path, "a test") == value
    assert read_json(path, "a test", shape={"a": list, "digest": str, "other?": int}) == value
    path.write_text(json.dumps(value, ensure_ascii=False))
    assert read_json(path, "a test") == value
    assert parse_json('{"a": NaN}', where="x", kind="y", nan=True)["a"] != 0


def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, why in (
        ("pipe", "no regular file"),
        ("folder", "a folder"),
        ("none", "no such file"),
        ("a\0b", "NUL|null"),
    ):
        with pytest.raises(BadInput, match=why):
            read_json(tmp_path / name, "a test")
    with pytest.raises(BadInput, match="no regular file"):
        read_json("/dev/zero", "a test")


@pytest.mark.parametrize(
    ("value", "shape", "why"),
    [
        ({"a": "1"}, {"a": int}, "a is '1', which is not an integer"),
        ({"a": True}, {"a": int}, "a is True, which is not an integer"),
        ({"a": True}, {"a": float}, "a is True, which is not a number"),
        ({}, {"a": int}, "a is missing"),
        ({"a": {"b": [1, "x"]}}, {"a": {"b": [float]}}, r"a\.b\[1\] is 'x', which is not a number"),
        ({"a": {"b": {"c": 1}}}, {"a": {str: {"c": str}}}, r"a\.b\.c is 1, which is not text"),
        ({"a": []}, {"a": {"b": int}}, r"a is \[\], which is not a JSON object"),
        ({"a": {"b": "x"}}, {"a": (None, {"b": int})}, r"a\.b is 'x'"),
        ([], dict, r"it is \[\], which is not a JSON object"),
        ({"a": 1}, {"a?": str}, "a is 1, which is not text"),
    ],
)
def test_the_first_thing_of_another_shape_is_named(value: object, shape: object, why: str) -> None:
    with pytest.raises(BadInput, match=f"^here: {why}"):
        check_shape(value, shape, where="here", kind="a test")


def test_what_fits_a_shape_passes() -> None:
    value = {"a": 1, "b": 1, "c": None, "d": [{"e": "x"}, {}], "more": 0}
    check_shape(value, {"a": int, "b": float, "c": (float, None), "d": [{"e?": str}]}, where="here", kind="a test")


def test_lines_are_numbered_and_only_newlines_end_them(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress('\ufeff{"a": "x\u2028y"}\r\n\n  \n{"a": 2}'.encode()))
    assert list(read_objects(path, "a test")) == [(1, {"a": "x\u2028y"}), (4, {"a": 2})]


@pytest.mark.thorough
def test_a_line_or_a_gzip_file_without_end_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "MOST_LINE", 1 << 20)
    monkeypatch.setattr(text, "_FREE", 1 << 20)
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b" " * (16 << 20)))
    tracemalloc.start()
    with pytest.raises(BadInput, match="line 1 has more than 1 MB"):
        list(read_objects(path, "a test"))
    assert tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()
    path.write_bytes(gzip.compress(b"\n" * (2 << 20)))
    with pytest.raises(BadInput, match="unpacks to more than 200 times its size"):
        list(read_objects(path, "a test"))
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-20])
    with pytest.raises(BadInput, match="damaged, or cut short"):
        list(read_objects(path, "a test"))


@pytest.mark.parametrize(
    "content",
    [
        ".".join(["a"] * 50_000) + " = 1", f"a = {'[' * 100_000}", f"a = {'9' * 5000}", f"a = {'9' * 400}", "a = [",
        "\0", "a = 'é", 'a = "\\u0000"', "a = 1\n" * 100_000, "[" + ".".join(["a"] * 20_000) + "]",
    ],
)  # fmt: skip
def test_hostile_toml_is_an_error_at_once(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(content)
    with pytest.raises(BadInput, match=r"x\.toml.*It should be a recipe"):
        read_toml(path, "a recipe")


def test_toml_with_many_numbers_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("\ufeffa = [" + ",".join(["0.1"] * 500) + ']\nb.c.d = "' + "x." * 60 + '"\n')
    assert len(read_toml(path, "a recipe")["a"]) == 500
