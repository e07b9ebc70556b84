"""Gold phones: every layout reads to the same phones, and what cannot be one is refused by name."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twistlm.errors import BadInput
from twistlm.units.encoder import frames_of
from twistlm.units.quality.alignment import check_lengths, matched, phones_at, read_alignments, receptive_field
from twistlm.units.quality.textgrid import read_textgrid

PHONES = [("pau", 0.0, 0.25), ("ae", 0.25, 0.5), ("t", 0.5, 0.625)]


def write_jsonl(path: Path, phones, **more) -> Path:
    path.write_text(json.dumps({"id": "a", "phones": phones, **more}) + "\n\n")
    return path


def long_textgrid(tiers: dict[str, list]) -> str:
    out = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0 ", "xmax = 9 ", "tiers? <exists> "]
    out += [f"size = {len(tiers)} ", "item []: "]
    for n, (name, rows) in enumerate(tiers.items(), 1):
        quoted = name.replace('"', '""')
        out += [f"    item [{n}]:", '        class = "IntervalTier" ', f'        name = "{quoted}" ']
        out += ["        xmin = 0 ", "        xmax = 9 ", f"        intervals: size = {len(rows)} "]
        for i, (text, start, end) in enumerate(rows, 1):
            marked = text.replace('"', '""')
            out += [f"        intervals [{i}]:", f"            xmin = {start!r} ", f"            xmax = {end!r} "]
            out += [f'            text = "{marked}" ']
    return "\n".join(out) + "\n"


def short_textgrid(tiers: dict[str, list]) -> str:
    out = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", "9", "<exists>", str(len(tiers))]
    for name, rows in tiers.items():
        quoted = name.replace('"', '""')
        out += ['"IntervalTier"', f'"{quoted}"', "0", "9", str(len(rows))]
        for text, start, end in rows:
            marked = text.replace('"', '""')
            out += [repr(start), repr(end), f'"{marked}"']
    return "\n".join(out) + "\n"


def test_every_layout_gives_the_same_phones(tmp_path):
    tables = {"csv": ",", "tsv": "\t"}
    for suffix, mark in tables.items():
        rows = [mark.join(["end", "id", "phone", "start", "note"])]
        rows += [mark.join([str(end), "a", phone, str(start), "x"]) for phone, start, end in reversed(PHONES)]
        (tmp_path / f"t.{suffix}").write_text("\n".join(rows) + "\n")
    write_jsonl(tmp_path / "t.jsonl", PHONES, set="radio")
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "a.TextGrid").write_text(long_textgrid({"words": [("at", 0.0, 1.0)], "phones": PHONES}))
    for place in ("t.csv", "t.tsv", "t.jsonl", "grids", "grids/a.TextGrid"):
        assert read_alignments(tmp_path / place) == {"a": tuple(PHONES)}, place


texts = st.text(string.ascii_letters + ' "!<>1.é\n=[]', max_size=6)
tiers = st.dictionaries(texts, st.lists(texts, max_size=5), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(tiers, st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))
def test_long_and_short_textgrids_read_alike(tmp_path_factory, found, encoding):
    grid = {name: [(t, i * 0.1, (i + 1) * 0.1) for i, t in enumerate(rows)] for name, rows in found.items()}
    folder = tmp_path_factory.mktemp("grid")
    for form in (long_textgrid, short_textgrid):
        path = folder / "a.TextGrid"
        path.write_bytes(form(grid).encode(encoding))
        for name, rows in grid.items():
            assert read_textgrid(path, tier=name) == [(text.strip(), start, end) for text, start, end in rows]


def test_the_phone_tier_is_found_or_asked_for(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(short_textgrid({"anna - words": [("at", 0.0, 1.0)], "anna - phones": PHONES}))
    assert read_textgrid(path, tier=None) == PHONES
    path.write_text(short_textgrid({"x": PHONES, "y": PHONES}))
    with pytest.raises(BadInput, match="x, y"):
        read_textgrid(path, tier=None)
    points = '"TextTier"\n"events"\n0\n9\n1\n0.5\n"click"\n'
    text = short_textgrid({"segments": PHONES}).replace("<exists>\n1\n", f"<exists>\n2\n{points}")
    path.write_text(text)
    assert read_textgrid(path, tier=None) == PHONES
    path.write_text(text[: text.rindex("0.625")])
    with pytest.raises(BadInput, match="truncated"):
        read_textgrid(path, tier=None)
    path.write_text("a,b\n")
    with pytest.raises(BadInput, match="not a TextGrid"):
        read_textgrid(path, tier=None)


@pytest.mark.parametrize(
    ("phones", "said"),
    [
        ([["a", 0.2, 0.1]], "from 0.2 to 0.1"),
        ([["a", 0.0, float("nan")]], "NaN stands where a number"),
        ([["a", -0.1, 0.1]], "-0.1"),
        ([["a", 0.0, 0.3], ["b", 0.2, 0.4]], "before its neighbour"),
        ([["a", 0.0]], "a phone is"),
        ([["a", "x", 1.0]], "must be seconds"),
        ([["", 0.0, 1.0]], "no phones"),
        ([], "no phones"),
    ],
)
def test_impossible_phones_are_refused(tmp_path, phones, said):
    with pytest.raises(BadInput, match=said):
        read_alignments(write_jsonl(tmp_path / "t.jsonl", phones))


def test_five_offenders_and_the_count(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"id": f"c{i}", "phones": [["a", 1, 0]]}) + "\n" for i in range(7)))
    with pytest.raises(BadInput, match=r"c4: .*7 in all"):
        read_alignments(path)


def test_sets_of_phones_are_not_mixed(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"id": s, "set": s, "phones": PHONES}) + "\n" for s in ("radio", "espeak")))
    with pytest.raises(BadInput, match=r"espeak.*radio"):
        read_alignments(path)
    assert set(read_alignments(path, phone_set="radio")) == {"radio"}
    with pytest.raises(BadInput, match="arpabet"):
        read_alignments(path, phone_set="arpabet")


def test_broken_tables_are_refused(tmp_path):
    for name, content, said in (
        ("a.jsonl", "{", "not JSON"),
        ("a.jsonl", '{"id": 3, "phones": []}', '"id"'),
        ("a.jsonl", '{"id": "a", "phones": [["a", 0, 1]]}\n' * 2, "twice"),
        ("a.csv", "id,phone,start\n", "lacks the columns end"),
        ("a.csv", "id,phone,start,end\n,a,0,1\n", "line 2: has no id"),
        ("a.csv", "id,phone,start,end\na,b,0\n", "line 2"),
        ("a.txt", "", "not .txt"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(BadInput, match=said):
            read_alignments(tmp_path / name)
    (tmp_path / "a.csv").write_bytes(b"id,phone,start,end\na,\xff,0,1\n")
    with pytest.raises(BadInput, match="not UTF-8"):
        read_alignments(tmp_path / "a.csv")
    with pytest.raises(BadInput, match="no such alignment"):
        read_alignments(tmp_path / "missing.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no TextGrid"):
        read_alignments(tmp_path / "empty")


def test_textgrids_are_found_as_sounds_are(tmp_path):
    for place in ("set/a", "elsewhere/b", "set/.hidden/c", "set/._a"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{place}.TextGrid").write_text(long_textgrid({"phones": PHONES}))
    (tmp_path / "set" / "link").symlink_to(tmp_path / "elsewhere")
    assert set(read_alignments(tmp_path / "set")) == {"a", "link/b"}


def test_alignments_find_their_clips():
    found = {"low/0": tuple(PHONES), "b.v2": tuple(PHONES)}
    assert set(matched(found, ["low/0.wav", "b.v2", "other"])) == {"low/0.wav", "b.v2"}
    assert set(matched(found, ["low/0.FLAC", "low/0.2"])) == {"low/0.FLAC"}  # ".2" is no suffix of sounds
    with pytest.raises(BadInput, match="same ids"):
        matched(found, ["nobody.wav"])
    with pytest.raises(BadInput, match="share one"):
        matched(found, ["low/0.wav", "low/0.flac"])


def test_an_alignment_longer_than_its_clip_is_refused():
    check_lengths({"a": (*PHONES, ("pau", 0.625, 2.0))}, {"a": 0.6})
    with pytest.raises(BadInput, match=r"a \(0.62 s aligned, 0.40 s of sound\)"):
        check_lengths({"a": tuple(PHONES)}, {"a": 0.4})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=4))
def test_the_receptive_field_is_the_shortest_clip_with_a_frame(layers):
    kernels, strides = zip(*layers, strict=True)

    class Encoder:
        def n_frames(self, n: int) -> int:
            return frames_of(n, kernels, strides)

    size = receptive_field(Encoder())
    assert frames_of(size, kernels, strides) == 1 and frames_of(size - 1, kernels, strides) < 1


def test_a_clip_without_phones_has_none_at_any_frame():
    assert phones_at([], 3, hop=640, sample_rate=16_000, receptive=720).tolist() == ["", "", ""]
