"""Lists in JSON files, item by item: what json.loads gives, in little memory, and errors where there is none."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twistlm.errors import BadInput
from twistlm.files import json_items
from twistlm.files.json_items import read_items

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def listed(path: Path, **more: object) -> list:
    return list(read_items(path, "a list", "items", shape=object, **more))


@settings(deadline=None, max_examples=40)
@given(st.lists(VALUES, max_size=6), st.dictionaries(TEXTS, VALUES, max_size=3), st.integers(1, 40), st.booleans())
def test_it_gives_what_json_gives(
    tmp_path_factory: pytest.TempPathFactory, items: list, others: dict, piece: int, plain: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "items.json"
    others.pop("items", None)
    text = json.dumps({**others, "items": items, "and": 12}, indent=None if plain else 1, ensure_ascii=plain)
    path.write_text(text, encoding="utf-8-sig" if piece % 2 else "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_items, "_PIECE", piece)
        assert listed(path) == items


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "'{' should stand at character 0, not ''"),
        ("[1]", "'{' should stand at character 0, not '\\['"),
        ('{"other": 1}', "items is missing"),
        ('{"items": {"a": 1}}', "'\\[' should stand at character 10"),
        ('{"items": [1, 2', "',' should stand at character 15, not ''"),
        ('{"items": [1, 2]', "',' should stand at character 16, not ''"),
        ('{"items": [1 2]}', "',' should stand at character 13"),
        ('{"items": [1,]}', "Expecting value at character 13"),
        ('{"items": [1],}', "Expecting value at character 14"),
        ('{"items": [1]} {}', "something follows its end"),
        ('{"items": [NaN]}', "NaN stands where a number should"),
        ('{"items": [1e999]}', "beyond what a float holds"),
        ('{"items": ["\\ud800"]}', "surrogate"),
        ('{"items": [' + "[" * 100_000, "nested too deeply"),
        ('{"items": ["' + "a" * 3000, "no value ends within 0 MB of character 11"),
    ],
)
def test_what_is_no_such_list_is_said(tmp_path: Path, text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_items, "_PIECE", 100)
    monkeypatch.setattr(json_items, "MOST_LINE", 2000 if "aaa" in text else 1 << 20)
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        listed(path)
    path.write_bytes(b'{"items": ["\xe4"]}')
    with pytest.raises(BadInput, match="utf-8"):
        listed(path)
    with pytest.raises(BadInput, match="no such file"):
        listed(tmp_path / "b.json")


@pytest.mark.thorough
def test_a_file_of_many_items_is_never_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    item = {"text": "x" * 1000, "segments": [1, 2]}
    with path.open("w") as file:
        file.write('{"items": [' + ",".join([json.dumps(item)] * 6_000) + "]}")
    monkeypatch.setattr(json_items, "_PIECE", 1 << 16)
    tracemalloc.start()
    try:
        n = sum(1 for _ in read_items(path, "a list", "items", shape={"text": str, "segments": [int]}))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n == 6_000 and path.stat().st_size > 6e6
    assert peak < 1e6
