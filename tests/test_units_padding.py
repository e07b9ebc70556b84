"""Padding: units are those of the clip with zeros on both sides, however it is cut; no padding changes nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from test_units_batch import PHASED, sound, tokenizer
from twistlm.audio import stream as stream_module
from twistlm.audio.clip import Clip
from twistlm.corpus.opened import open_corpus
from twistlm.corpus.tokenize import tokenize
from twistlm.errors import BadInput, UnitSpecMismatch
from twistlm.types import UnitSpec
from twistlm.units import encoder as encoder_module
from twistlm.units.catalogue import read_spec
from twistlm.units.quality.alignment import frame_centres, receptive_field
from twistlm.units.tokenizer import SpeechTokenizer

ASSETS = Path(__file__).parents[1] / "assets" / "tokenizer"
# What units on users' disks were made with, before there was padding.
BUNDLED = {
    "mini-25hz-100-fourth": "aefef48a9b05a0e5",
    "mini-25hz-200": "f1c6280494804abc", "mini-25hz-500": "569515e93de726b2",
    "mini-50hz-100": "52b268ee67cad9a0", "mini-50hz-200": "fcbcacedaf55d033", "mini-50hz-500": "3da264d6b024c085",
}  # fmt: skip


def padded(name: str, padding: int = 40) -> SpeechTokenizer:
    tok = tokenizer(name)
    return dataclasses.replace(tok, spec=dataclasses.replace(tok.spec, padding=padding))


def by_hand(clip: Clip, padding: int = 40) -> Clip:
    return Clip(np.pad(clip.samples, padding), clip.sample_rate, clip.id)


def test_no_padding_is_not_written_and_moves_no_fingerprint():
    assert {folder.name for folder in ASSETS.iterdir()} == set(BUNDLED)
    for name, fingerprint in BUNDLED.items():
        written = (ASSETS / name / "spec.json").read_text()
        spec = read_spec(ASSETS / name)
        assert (spec.padding, spec.fingerprint, spec.to_json()) == (0, fingerprint, written)
        other = dataclasses.replace(spec, padding=40)
        assert other.fingerprint != fingerprint and UnitSpec.from_json(other.to_json()) == other
        assert json.loads(other.to_json())["padding"] == 40
        with pytest.raises(UnitSpecMismatch, match="padding is 0 in SlamKit's and 40 in ours"):
            spec.require(other, mine="SlamKit's", theirs="ours")


@pytest.mark.parametrize("name", ["hubert-base", "hubert-large", "mhubert-25hz", PHASED])  # large: normalised input
def test_units_are_those_of_the_padded_clip(name, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_module, "WINDOW_SECONDS", 1)
    monkeypatch.setattr(encoder_module, "CONTEXT_SECONDS", 1)
    monkeypatch.setattr(stream_module, "BLOCK", 10_000)
    plain, tok = tokenizer(name), padded(name)
    clips = [Clip(sound(seconds, i), 16_000, str(i)) for i, seconds in enumerate((0.3, 0.042, 0.9, 4.3))]
    moved = 0
    for clip, together in zip(clips, tok.batch(clips), strict=True):
        expected = plain.frames(by_hand(clip))
        assert len(expected) == tok.n_frames(len(clip.samples))
        assert np.array_equal(tok.frames(clip), expected) and np.array_equal(together.frames, expected)
        sf.write(tmp_path / f"{clip.id}.wav", clip.samples, 16_000, subtype="FLOAT")
        if clip.seconds > 0.1:  # files are not shorter
            assert np.array_equal(tok.stream(tmp_path / f"{clip.id}.wav").frames, expected)
        without = plain.frames(clip) if plain.n_frames(len(clip.samples)) else expected[:0]
        moved += not np.array_equal(expected[: len(without)], without)
    assert moved  # otherwise this would show nothing
    if name == "hubert-base":  # the length over the hop
        assert [tok.n_frames(n) for n in (319, 320, 639, 640, 16_000)] == [0, 1, 1, 2, 50]
    part = tok.stream(tmp_path / "3.wav", start=0.5, seconds=3.1)
    assert np.array_equal(part.frames, plain.frames(by_hand(Clip(clips[3].samples[8000:57_600], 16_000))))


def test_shards_say_it_and_the_frame_stands_where_it_is_heard(tmp_path):
    tok = padded("hubert-base")
    for i in range(2):
        sf.write(tmp_path / f"{i}.wav", sound(0.5, i), 16_000, subtype="FLOAT")
    tokenize(tmp_path, tmp_path / "units", tok)
    assert open_corpus(tmp_path / "units", split=None).spec.padding == 40
    with pytest.raises(UnitSpecMismatch, match="padding"):
        tokenize(tmp_path, tmp_path / "units", tokenizer("hubert-base"))
    # Frame f sees samples 320 f - 40 … 320 f + 360 of the clip.
    centres = frame_centres(3, hop=320, sample_rate=16_000, receptive=receptive_field(tok))
    np.testing.assert_allclose(centres * 16_000, [160, 480, 800])


@pytest.mark.parametrize(
    ("field", "value"),
    [("deduplicate", "no"), ("normalize_input", 0), ("n_units", 12.0), ("layer", True), ("encoder", 3), ("hop", "640"),
     ("padding", -1), ("padding", 1.5), ("padding", None), ("layer", -1), ("tap", ["block_output"])],
)  # fmt: skip
def test_a_spec_of_other_types_is_refused(field, value, tmp_path):
    fields = tokenizer("hubert-base").spec.to_dict() | {field: value}
    with pytest.raises(BadInput, match=field):
        UnitSpec.from_dict(fields)
    (tmp_path / "spec.json").write_text(json.dumps(fields))
    with pytest.raises(BadInput, match=rf"spec\.json.*{field}"):
        read_spec(tmp_path / "spec.json")
