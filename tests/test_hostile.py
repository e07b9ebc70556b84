"""Hostile files, of every kind, given to every verb that reads them: a paragraph that names the file, and nothing else.

A case takes one good folder of stand-ins, puts a hostile file into a copy of it and runs a verb. Whatever is wrong, the
exit code is 1 or 2, the error is one paragraph that names the file or its folder, nothing of the file runs, no control
character reaches the terminal, and it does not take long.
"""

from __future__ import annotations

import gzip
import json
import pickle
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from standins import Tiny
from twistlm.cli.main import main

SECONDS = 20  # a case takes a fraction of one
CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Canary:
    """Unpickled by anything but a restricted reader, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@dataclass(frozen=True)
class Reader:
    """A verb and the file it reads: `file` below the work folder, and the command line."""

    file: str
    words: tuple[str, ...]


# {w} is the work folder, a copy of the stand-ins.
READERS = {
    "show a tokenizer": Reader("tokenizer/spec.json", ("show", "{w}/tokenizer")),
    "show a text LM": Reader("text-lm/config.json", ("show", "{w}/text-lm")),
    "show a unit LM": Reader("lm/provenance.json", ("show", "{w}/lm")),
    "show the units of an LM": Reader("lm/unit_spec.json", ("show", "{w}/lm")),
    "show a vocoder": Reader("vocoder/unit_spec.json", ("show", "{w}/vocoder")),
    "show a run": Reader("run/config.json", ("show", "{w}/run")),
    "show results": Reader("quick/results.json", ("show", "{w}/quick")),
    "report results": Reader("quick/results.json", ("report", "{w}/quick")),
    "report a study": Reader("study/study.json", ("study", "report", "{w}/study")),
    "read a manifest": Reader("m.jsonl", ("tokenize", "{w}/m.jsonl", "--out", "{w}/o", "--tokenizer", "{w}/tokenizer")),
    "import units": Reader(
        "u.jsonl", ("import-units", "{w}/u.jsonl", "--out", "{w}/o", "--tokenizer", "{w}/tokenizer")
    ),
    "import gzipped units": Reader(
        "u.jsonl.gz", ("import-units", "{w}/u.jsonl.gz", "--out", "{w}/o", "--tokenizer", "{w}/tokenizer")
    ),
    "a spec of units": Reader(
        "s.json", ("import-units", "{w}/good.jsonl", "--out", "{w}/o", "--tokenizer", "{w}/s.json")
    ),
    "Lhotse's cuts": Reader("cuts.jsonl", ("manifest", "{w}/cuts.jsonl", "--corpus", "lhotse", "--out", "{w}/o.jsonl")),
    "Lhotse's list": Reader("cuts.json", ("manifest", "{w}/cuts.json", "--corpus", "lhotse", "--out", "{w}/o.jsonl")),
    "pairs to speak": Reader("p.jsonl", ("bench", "blimp", "{w}/p.jsonl", "--out", "{w}/o", "--voice", "flite:slt")),
    "stories to speak": Reader(
        "s.csv", ("bench", "storycloze", "{w}/s.csv", "--out", "{w}/o", "--voice", "flite:slt")
    ),
    "a recipe": Reader("r.toml", ("train", "{w}/units", "--out", "{w}/o", "--recipe", "{w}/r.toml")),
    "a published LM": Reader("pub/config.json", ("import", "{w}/pub", "--out", "{w}/o", "--tokenizer", "{w}/tokenizer")),  # noqa: E501
    "an encoder's shape": Reader(
        "tokenizer/encoder.json", ("tokenize", "{w}/speech", "--out", "{w}/o", "--tokenizer", "{w}/tokenizer")
    ),
    "an encoder's weights": Reader(
        "tokenizer/encoder.safetensors", ("tokenize", "{w}/speech", "--out", "{w}/o", "--tokenizer", "{w}/tokenizer")
    ),
    "a codebook": Reader(
        "tokenizer/codebook.safetensors", ("tokenize", "{w}/speech", "--out", "{w}/o", "--tokenizer", "{w}/tokenizer")
    ),
    "a vocoder's shape": Reader(
        "vocoder/config.json",
        ("resynth", "{w}/speech/0.wav", "--out", "{w}/o.wav", "--tokenizer", "{w}/tokenizer", "--vocoder", "{w}/vocoder"),  # noqa: E501
    ),
    "a vocoder's weights": Reader(
        "vocoder/model.safetensors",
        ("resynth", "{w}/speech/0.wav", "--out", "{w}/o.wav", "--tokenizer", "{w}/tokenizer", "--vocoder", "{w}/vocoder"),  # noqa: E501
    ),
    "a shard": Reader("units/shard-00000.parquet", ("show", "{w}/units")),
    "a sound": Reader("x.wav", ("show", "{w}/x.wav")),
}  # fmt: skip

BYTES: dict[str, Callable[[Path], bytes]] = {
    "deep": lambda _: b"[" * 200_000,
    "deep objects": lambda _: b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "digits": lambda _: b'{"id": ' + b"9" * 5000 + b"}",
    "400 digits": lambda _: b'{"n_units": ' + b"9" * 400 + b"}",
    "half a character": lambda _: b'{"id": "\\ud83d", "path": "a", "file_name": "\\udfff"}',
    "NUL": lambda _: b'{"id": "a", "path": "a\\u0000b"}',
    "NaN": lambda _: b'{"a": NaN, "b": 1e999}',
    "a number": lambda _: b"7",
    "a list": lambda _: b"[1, 2]",
    "a text": lambda _: b'"a\\u001b[2J"',
    "other objects": lambda _: b'{"a\\u001b[2J": {"b": [1, null, "x"]}}',
    "wrong types": lambda _: json.dumps({word: [1, {"a": "\x1b[2J"}] for word in WORDS}).encode(),
    "wrong numbers": lambda _: json.dumps(dict.fromkeys(WORDS, -1)).encode(),
    "wrong texts": lambda _: json.dumps(dict.fromkeys(WORDS, "\x1b]0;owned\x07\u202e")).encode(),
    "empty": lambda _: b"",
    "UTF-16": lambda _: '{"id": "a", "path": "b"}'.encode("utf-16"),
    "Latin-1": lambda _: '{"id": "é", "path": "ö"}'.encode("latin-1"),
    "gzip": lambda _: gzip.compress(b"{}"),
    "zeros": lambda _: bytes(100_000),
    "random": lambda _: bytes((i * i * 7 + i // 3) % 256 for i in range(4096)),
    "a pickle": lambda canary: pickle.dumps(Canary(canary)),
    "long header": lambda _: (2**62).to_bytes(8, "little") + b"{}",
}
WORDS = (  # noqa: SIM905
    "id path text file_name units duration warm cold mini_swuggy seconds resynthesis config inputs fingerprint spec "
    "unit_spec encoder n_units hop layer sample_rate deduplicate model_type offset vocab_size num_embeddings base "
    "conv_stride hidden_size upsample_rates recording start type good bad phenomenon updates_to_cold_loss start"
).split()


@pytest.fixture(scope="module")
def good(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything the readers need, whole."""
    import torch

    from twistlm.corpus.slamkit import import_units
    from twistlm.lm.warmstart import cold_start
    from twistlm.units.catalogue import read_spec

    home = tmp_path_factory.mktemp("good")
    for name in ("tokenizer", "vocoder", "text_lm"):
        source = getattr(tiny, name)
        shutil.copytree(source, home / source.name)
    (home / "speech").mkdir()
    shutil.copy(tiny.speech / "low" / "0.wav", home / "speech" / "0.wav")
    spec = read_spec(tiny.tokenizer)
    line = {"file_name": "a", "units": [1, 2, 3], "duration": [1, 2, 1]}
    (home / "good.jsonl").write_text(json.dumps(line) + "\n")
    import_units(home / "good.jsonl", home / "units", spec)
    with torch.random.fork_rng(devices=[]):
        cold_start(tiny.text_lm, spec, seed=0).save(home / "lm")
    for name in ("run", "quick", "study"):
        (home / name).mkdir()
    (home / "run" / "metrics.jsonl").write_text("")
    shutil.copytree(tiny.text_lm, home / "pub")
    return home


@pytest.fixture
def hostile(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., None]]:
    def late(*_: object) -> None:
        raise AssertionError(f"still busy after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)

    def check(reader: str, make: Callable[[Path], bytes]) -> None:
        work, canary = tmp_path / "w", tmp_path / "canary"
        shutil.copytree(good, work)
        file = work / READERS[reader].file
        file.unlink(missing_ok=True)
        file.write_bytes(make(canary))
        monkeypatch.setattr(sys, "argv", ["twist", *(word.format(w=work) for word in READERS[reader].words)])
        monkeypatch.setattr(sys, "stdin", (tmp_path / "yes").open("w+"))
        capsys.readouterr()
        signal.alarm(SECONDS)
        with pytest.raises(SystemExit) as end:
            main()
        signal.alarm(0)
        out, err = capsys.readouterr()
        shown = " ".join(err.split()).partition("error: ")[2]
        assert not canary.exists(), "it ran"
        assert not CONTROLS.search(out + err), ascii(out + err)
        assert end.value.code in (1, 2) and shown, (end.value.code, out, err)
        assert "fault of twistlm" not in err and "Traceback" not in err, err
        assert file.name in shown or f"{file.parent.name}" in shown, shown
        assert len(shown) < 1500, shown

    yield check
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


SHOWN = [(reader, name) for reader in READERS for name in BYTES]
# A text LM shows whatever its configuration says, and a table is no JSON: these are good files to them.
FINE = {
    ("show a text LM", name)
    for name in ("other objects", "wrong types", "wrong numbers", "wrong texts", "NaN")
} | {("show a run", "other objects"), ("show a unit LM", "other objects"), ("show a unit LM", "wrong numbers"),
     ("show a run", "wrong numbers"), ("show a run", "wrong texts"), ("show a run", "wrong types"),
     ("show a unit LM", "wrong texts"), ("show a unit LM", "wrong types")}  # fmt: skip
CASES = [case for case in SHOWN if case not in FINE]


@pytest.mark.parametrize(("reader", "name"), CASES[::13], ids=lambda value: value)
def test_some_hostile_files_end_in_a_paragraph(hostile: Callable[..., None], reader: str, name: str) -> None:
    hostile(reader, BYTES[name])


@pytest.mark.slow
@pytest.mark.parametrize(("reader", "name"), CASES, ids=lambda value: value)
def test_all_hostile_files_end_in_a_paragraph(hostile: Callable[..., None], reader: str, name: str) -> None:
    hostile(reader, BYTES[name])
