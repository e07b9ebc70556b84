"""What makes a text LM what it is, whatever format its weights are in; and choices of other versions and machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twistlm.compute import choices, remembered
from twistlm.errors import CheckpointError
from twistlm.lm.phases import text_lm_files, text_lm_weights


def test_weights_count_whatever_format_they_are_in(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert text_lm_weights(tmp_path) == {}
    (tmp_path / "pytorch_model.bin").write_bytes(b"one")
    before = text_lm_files(tmp_path)
    assert before.keys() == {"config.json", "pytorch_model.bin"} and [*text_lm_weights(tmp_path)] == [
        "pytorch_model.bin"
    ]
    (tmp_path / "pytorch_model.bin").write_bytes(b"other")
    assert text_lm_files(tmp_path) != before
    (tmp_path / "model.safetensors").write_bytes(b"these are loaded first")
    assert [*text_lm_weights(tmp_path)] == ["model.safetensors"]


def test_choices_of_a_later_version_are_read_and_odd_ones_refused(tmp_path: Path) -> None:
    kind, ways = next(iter(choices.WAYS.items()))
    stored = {kind: {"took": ways[0], "because": "timed", "seconds": {ways[0]: 0.5}, "note": "of a later version"}}
    path = tmp_path / choices.FILE
    path.write_text(json.dumps(stored))
    with choices.kept(path):
        pass
    stored[kind]["seconds"] = {ways[0]: "half"}
    path.write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match="seconds"), choices.kept(path):
        pass


def test_cpus_of_other_kinds_have_other_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for part in ("0xd0c", "0xd40"):
        (tmp_path / "cpuinfo").write_text(
            f"processor : 0\nCPU implementer : 0x41\nCPU part : {part}\nFeatures : fp asimd\n"
        )
        monkeypatch.setattr(remembered, "_CPU", tmp_path / "cpuinfo")
        remembered._machine.cache_clear()
        found.add(remembered._machine(()))
    remembered._machine.cache_clear()
    assert len(found) == 2
