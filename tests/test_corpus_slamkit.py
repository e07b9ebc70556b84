"""Published units become shards: the same frames, each clip once, and nothing that does not fit."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_standins import SPEC as FRAMES
from twistlm.corpus import slamkit
from twistlm.corpus.opened import open_corpus
from twistlm.corpus.shards import shard_paths
from twistlm.corpus.slamkit import import_units
from twistlm.errors import BadInput, UnitSpecMismatch
from twistlm.units.catalogue import read_spec

SPEC = dataclasses.replace(FRAMES, deduplicate=True)
UNITS = st.lists(st.tuples(st.integers(0, 499), st.integers(1, 9)), min_size=1, max_size=20)


def line(i: int, **changes: Any) -> dict[str, Any]:
    return {"units": [3, 49, 7 + i], "duration": [1, 2, 1], "file_name": f"../audio/audio{i}.flac"} | changes


def write(path: Path, *lines: dict[str, Any]) -> Path:
    text = "".join(json.dumps(item) + "\n" for item in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@settings(max_examples=8, deadline=None)
@given(st.lists(UNITS, min_size=1, max_size=5))
def test_no_frame_is_lost_with_or_without_deduplication(
    tmp_path_factory: pytest.TempPathFactory, clips: list[list[tuple[int, int]]]
) -> None:
    folder = tmp_path_factory.mktemp("frames")
    lines = [
        {"units": [u for u, _ in clip], "duration": [d for _, d in clip], "file_name": str(i)}
        for i, clip in enumerate(clips)
    ]
    write(folder / "features.jsonl", *lines)
    for spec in (SPEC, FRAMES):
        out = folder / str(spec.deduplicate)
        import_units(folder / "features.jsonl", out, spec)
        corpus = open_corpus(out, split=None)
        assert len(corpus) == len(clips)
        for i, clip in enumerate(clips):
            units = corpus[i]
            assert units.frames.tolist() == [unit for unit, n in clip for _ in range(n)]
            assert corpus.seconds[i] == pytest.approx(sum(n for _, n in clip) * 0.04)
            if spec.deduplicate:
                assert np.all(units.ids[1:] != units.ids[:-1])
            else:
                assert np.all(units.runs == 1)


def test_files_add_up_and_a_rerun_adds_nothing(tmp_path: Path) -> None:
    folder, out = tmp_path / "published", tmp_path / "units"
    folder.mkdir()
    write(folder / "a.jsonl", line(0, text="said"), line(1))
    write(folder / "b.jsonl.gz", *(line(i) for i in range(2, 12)))
    first = import_units(folder, out, SPEC, heldout=0.3, seed=0)
    assert (first.n_done, first.n_skipped) == (12, 0)
    corpus = open_corpus(out, split=None)
    assert corpus.ids[0] == "../audio/audio0.flac" and corpus.texts[:2] == ["said", ""]
    assert 0 < corpus.splits.count("heldout") < 12 and set(corpus.splits) == {"train", "heldout"}
    before = {path: path.read_bytes() for path in shard_paths(out)}
    again = import_units(folder, out, SPEC, heldout=0.3, seed=0)
    assert (again.n_done, again.n_skipped) == (0, 12)
    assert {path: path.read_bytes() for path in shard_paths(out)} == before

    write(folder / "a.jsonl", line(0, text="said"), line(1, units=[9, 9, 9]))
    write(tmp_path / "val.jsonl", line(99))
    told = import_units(folder, out, SPEC, heldout=0.3, seed=0)
    assert (told.n_done, told.n_replaced, first.n_replaced, again.n_replaced) == (1, 1, 0, 0)
    assert import_units(tmp_path / "val.jsonl", out, SPEC, split="validation").n_done == 1
    corpus = open_corpus(out, split=None)
    assert sorted(corpus.ids) == sorted({*(f"../audio/audio{i}.flac" for i in range(12)), "../audio/audio99.flac"})
    changed = corpus[corpus.ids.index("../audio/audio1.flac")]
    assert (changed.ids.tolist(), changed.runs.tolist()) == ([9], [4])
    assert open_corpus(out, split="validation").ids == ["../audio/audio99.flac"]
    with pytest.raises(UnitSpecMismatch, match="layer"):
        import_units(folder, out, dataclasses.replace(SPEC, layer=6))


def test_tokens_without_durations_need_a_word(tmp_path: Path) -> None:
    path = write(tmp_path / "tokens.jsonl", {"file_name": "a", "audio_repr": "<Un3><Un49><Un49><Un0>"})
    with pytest.raises(BadInput, match="no duration"):
        import_units(path, tmp_path / "units", SPEC)
    with pytest.raises(BadInput, match="durations is 'none'; use 'given' or 'unknown'"):
        import_units(path, tmp_path / "units", SPEC, durations="none")
    import_units(path, tmp_path / "units", SPEC, durations="unknown")
    units = open_corpus(tmp_path / "units", split="train")[0]
    assert (units.ids.tolist(), units.runs.tolist()) == ([3, 49, 0], [1, 2, 1])


@pytest.mark.parametrize(
    "item, message",
    [
        (line(0, units=[500, 1, 2]), "line 2: the units 1 … 500 do not fit the 500"),
        (line(0, units=[-1, 1, 2]), "do not fit"),
        (line(0, units=[]), "with at least one"),
        (line(0, units=[1.0, 2, 3]), "list of integers"),
        (line(0, units=[True, 2, 3]), "list of integers"),
        (line(0, units=[2**64 - 1, 2, 3]), "no unit and no count"),
        (line(0, duration=[1, 1]), "3 units but 2 durations"),
        (line(0, duration=[1, 0, 1]), "is not 1 or more"),
        (line(0, file_name=None), "no file_name"),
        ({"file_name": "a", "audio_repr": "[Text]hello<Un1>"}, "neither units nor"),
        ({"file_name": "a", "audio_repr": "<Un500>"}, "do not fit"),
        (line(1), "ids must be unique, these occur again: ../audio/audio1.flac"),
    ],
)
def test_lines_that_do_not_fit_are_named_and_nothing_is_stored(tmp_path: Path, item: dict, message: str) -> None:
    path = write(tmp_path / "features.jsonl", line(1), item, line(2))
    with pytest.raises(BadInput, match=message):
        import_units(path, tmp_path / "units", SPEC)
    assert not shard_paths(tmp_path / "units")


def test_files_that_are_not_units_are_named(tmp_path: Path) -> None:
    for content, message in ((b"{", "line 1: not JSON"), (b"[]", "not a JSON object"), (b"\n", "no lines")):
        (tmp_path / "a.jsonl").write_bytes(content)
        with pytest.raises(BadInput, match=message):
            import_units(tmp_path / "a.jsonl", tmp_path / "units", SPEC)
    with pytest.raises(BadInput, match="no such file"):
        import_units(tmp_path / "b.jsonl", tmp_path / "units", SPEC)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="files below it"):
        import_units(tmp_path / "empty", tmp_path / "units", SPEC)
    bad = [line(i, units=[]) for i in range(7)]
    with pytest.raises(BadInput, match=r"\(7 in all\)"):
        import_units(write(tmp_path / "a.jsonl", *bad), tmp_path / "units", SPEC)


def test_a_killed_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", *(line(i) for i in range(450)))
    real, n = slamkit.ShardWriter.flush, 0

    def stop_at_the_second(self: slamkit.ShardWriter) -> None:
        nonlocal n
        n += 1
        if n == 2:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(slamkit.ShardWriter, "flush", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        import_units(path, tmp_path / "units", SPEC)
    monkeypatch.undo()
    assert import_units(path, tmp_path / "units", SPEC).n_done == 250
    assert sorted(open_corpus(tmp_path / "units", split=None).ids) == sorted(line(i)["file_name"] for i in range(450))


def test_a_spec_is_read_from_a_file_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(SPEC.to_json())
    assert read_spec(tmp_path) == read_spec(tmp_path / "spec.json") == SPEC
    for text, message in (("{", "not JSON"), ("[]", "not a JSON object"), ('{"layer": 1}', "not a UnitSpec")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(BadInput, match=message):
            read_spec(tmp_path / "bad.json")


def test_durations_of_more_than_a_day_are_refused(tmp_path: Path) -> None:
    """Two that fit 32 bits do not when they are one unit: once the sum was stored as -2 frames."""
    for bad in ([2**31 - 1, 2**31 - 1], [2_160_000, 1]):
        write(tmp_path / "f.jsonl", {"file_name": "a", "units": [3, 3], "duration": bad})
        with pytest.raises(BadInput, match=r"more than\s+a day \(2160000 frames\)"):
            import_units(tmp_path / "f.jsonl", tmp_path / "out", SPEC)
    write(tmp_path / "f.jsonl", {"file_name": "a", "units": [3, 3], "duration": [2_159_999, 1]})
    import_units(tmp_path / "f.jsonl", tmp_path / "out", SPEC)
    assert open_corpus(tmp_path / "out", split=None)[0].runs.tolist() == [2_160_000]
