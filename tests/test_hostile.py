"""Hostile files, of every kind, given to every verb that reads them: a paragraph that names the file, and nothing else.

A case takes one good folder of stand-ins, puts a hostile file into a copy of it and runs a verb. Whatever is wrong, the
exit code is 1 or 2, the error is one paragraph that names the file or its folder, nothing of the file runs, no control
character reaches the terminal, and it does not take long.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Any

import pyarrow as pa
import pytest

import corpora_standins as corpora
import suite_standins as suites
from standins import Tiny
from test_corpus_sounds import write_parquet, write_tar
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


EVAL = ("{w}/lm", "swuggy-dev={w}/suite", "--tokenizer", "{w}/tokenizer")
SPEAK = (
    *("{w}/lm", "{w}/speech/0.wav", "--out", "{w}/o.wav", "--seconds", "0.2"),
    *("--tokenizer", "{w}/tokenizer", "--vocoder", "{w}/vocoder"),
)
IMPORT = ("--layer", "1", "--raw", "--out", "{w}/o")
CLUSTER = ("--layer", "1", "--k", "4", "--out", "{w}/o")
QUALITY = ("--seed", "0", "--tokenizer", "{w}/tokenizer", "--robustness-clips", "0")
LIST, HUB = ("--out", "{w}/o.jsonl"), ("--corpus", "huggingface")

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
    "eval a model's shape": Reader("lm/config.json", ("eval", *EVAL)),
    "eval a model's weights": Reader("lm/model.safetensors", ("eval", *EVAL)),
    "eval a model's units": Reader("lm/unit_spec.json", ("eval", *EVAL)),
    "eval a table of pairs": Reader("suite/lexical/dev/gold.csv", ("eval", *EVAL)),
    "eval a sound": Reader("suite/lexical/dev/A1w.wav", ("eval", *EVAL)),
    "eval a table of cells": Reader(
        "stories/bm/train-00000-of-00001.parquet",
        ("eval", "{w}/lm", "storycloze={w}/stories", "--tokenizer", "{w}/tokenizer"),
    ),
    "generate from a model": Reader("lm/config.json", ("generate", *SPEAK)),
    "a low-rank model": Reader("small/lowrank.json", ("generate", "{w}/small", *SPEAK[1:])),
    "a low-rank model's tokens": Reader("small/vocab.json", ("generate", "{w}/small", *SPEAK[1:])),
    "a low-rank model's weights": Reader("small/lowrank.safetensors", ("generate", "{w}/small", *SPEAK[1:])),
    "generate from a prompt": Reader("speech/0.wav", ("generate", *SPEAK)),
    "generate with a vocoder": Reader("vocoder/model.safetensors", ("generate", *SPEAK)),
    "kmeans on an encoder": Reader("enc/config.json", ("kmeans", "{w}/speech", "--encoder", "{w}/enc", *CLUSTER)),
    "kmeans on weights": Reader("enc/model.safetensors", ("kmeans", "{w}/speech", "--encoder", "{w}/enc", *CLUSTER)),
    "kmeans on a pickle": Reader(
        "enc2/pytorch_model.bin", ("kmeans", "{w}/speech", "--encoder", "{w}/enc2", *CLUSTER)
    ),
    "kmeans on fairseq's": Reader("enc.pt", ("kmeans", "{w}/speech", "--encoder", "{w}/enc.pt", *CLUSTER)),
    "import centroids": Reader("km.bin", ("tokenizer", "import", "{w}/km.bin", "--encoder", "{w}/enc", *IMPORT)),
    "hubert by a teacher": Reader(
        "tokenizer/spec.json",
        ("hubert", "{w}/speech", "--teacher", "{w}/tokenizer", "--updates", "1", "--out", "{w}/o"),
    ),
    "hubert on a sound": Reader("speech/0.wav", ("hubert", "{w}/speech", "--updates", "1", "--out", "{w}/o")),
    "phones in lines": Reader("p.jsonl", ("units", "quality", "{w}/speech", "--alignment", "{w}/p.jsonl", *QUALITY)),
    "phones in a table": Reader("p.csv", ("units", "quality", "{w}/speech", "--alignment", "{w}/p.csv", *QUALITY)),
    "phones of Praat": Reader(
        "p.TextGrid", ("units", "quality", "{w}/speech", "--alignment", "{w}/p.TextGrid", *QUALITY)
    ),
    "a corpus in tars": Reader("tars/a.tar", ("manifest", "{w}/tars", "--corpus", "webdataset", *LIST)),
    "sounds in a tar": Reader("tars/a.tar", ("tokenize", "{w}/tars.jsonl", "--tokenizer", "{w}/tokenizer", *LIST)),
    "a corpus in Parquet": Reader("hf/a.parquet", ("manifest", "{w}/hf", "--corpus", "huggingface", *LIST)),
    "sounds in Parquet": Reader("hf/a.parquet", ("tokenize", "{w}/hf.jsonl", "--tokenizer", "{w}/tokenizer", *LIST)),
    "a corpus in Arrow": Reader("disk/data-00000-of-00001.arrow", ("manifest", "{w}/disk", *HUB, *LIST)),
    "a state of Arrow": Reader("disk/state.json", ("manifest", "{w}/disk", *HUB, *LIST)),
    "a corpus in CSV": Reader("c.csv", ("manifest", "{w}/c.csv", "--corpus", "csv", *LIST)),
    "metadata of sounds": Reader("af/metadata.jsonl", ("manifest", "{w}/af", "--corpus", "audiofolder", *LIST)),
    "GigaSpeech": Reader("gs/GigaSpeech.json", ("manifest", "{w}/gs", "--corpus", "gigaspeech", *LIST)),
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
KINDS: dict[str, Callable[[Path], object]] = {  # what can stand under a file's name
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": lambda path: socket(AF_UNIX).bind(f"/proc/self/fd/{os.open(path.parent, os.O_RDONLY)}/{path.name}"),
    "a link to itself": lambda path: path.symlink_to(path),
}
# Configurations that are whole but for one number.
ABSURD = {
    "layers": {"num_hidden_layers": 10**9},
    "width": {"hidden_size": 10**12},
    "rows": {"vocab_size": 10**12, "num_embeddings": 10**12},
    "kernels": {"conv_kernel": [10**12] * 2, "upsample_kernel_sizes": [10**12] * 2},
    "wide enough to fill memory": {"hidden_size": 2**24, "intermediate_size": 2**24, "upsample_initial_channel": 2**24},
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
    from twistlm.lm.lowrank import lowrank
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
    lowrank(home / "lm", str(tiny.text_lm), home / "small", rank=2)
    from safetensors.torch import load_file
    from transformers import HubertConfig

    for name in ("enc", "enc2"):  # the tokenizer's encoder as transformers would save it
        (home / name).mkdir()
        shape = HubertConfig(**json.loads((tiny.tokenizer / "encoder.json").read_text()))
        shape.save_pretrained(home / name)
    shutil.copy(tiny.tokenizer / "encoder.safetensors", home / "enc" / "model.safetensors")
    torch.save(load_file(tiny.tokenizer / "encoder.safetensors"), home / "enc2" / "pytorch_model.bin")
    suites.make_swuggy(home / "suite")
    suites.make_multispeaker(home / "stories")
    data = corpora.sound(0)
    write_tar(home / "tars" / "a.tar", {"a.flac": data})
    write_parquet(home / "hf" / "a.parquet", [data], text=["words"])
    corpora.saved_split(home / "disk", [pa.table({"audio": [data], "text": ["words"]})])
    for folder, path in (("tars", "a.tar"), ("hf", "a.parquet")):
        member = "a.flac" if folder == "tars" else "audio[0]"
        entry = {"id": "a", "path": f"{folder}/{path}", "member": member}
        (home / f"{folder}.jsonl").write_text(json.dumps(entry) + "\n")
    corpora.put(home / "af" / "a.flac", data)
    for name in ("run", "quick", "study", "gs"):
        (home / name).mkdir()
    (home / "run" / "metrics.jsonl").write_text("")
    shutil.copytree(tiny.text_lm, home / "pub")
    return home


@pytest.fixture
def hostile(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[[str, str], None]]:
    def late(*_: object) -> None:
        raise AssertionError(f"still busy after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)

    def check(reader: str, name: str) -> None:
        work, canary = tmp_path / "w", tmp_path / "canary"
        shutil.copytree(good, work)
        file = work / READERS[reader].file
        before = file.read_bytes() if file.exists() else b""
        file.unlink(missing_ok=True)
        if name in KINDS:
            KINDS[name](file)
        elif name in ABSURD:
            file.write_text(json.dumps(json.loads(before) | ABSURD[name]))
        else:
            file.write_bytes(BYTES[name](canary))
        monkeypatch.setattr(sys, "argv", ["twist", *(word.format(w=work) for word in READERS[reader].words)])
        monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "cache"))
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
        folder = file.parent
        assert file.name in shown or (folder != work and str(folder) in shown), shown
        assert len(shown) < 1500, shown

    yield check
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


SHAPES = ("config.json", "encoder.json")
SHOWN = [(reader, name) for reader in READERS for name in (*BYTES, *KINDS)]
SHOWN += [(reader, name) for reader in READERS for name in ABSURD if READERS[reader].file.endswith(SHAPES)]
# A text LM shows whatever its configuration says, and a table is no JSON: these are good files to them.
FINE = {
    ("show a text LM", name)
    for name in ("other objects", "wrong types", "wrong numbers", "wrong texts", "NaN", *ABSURD)
} | {("show a run", "other objects"), ("show a unit LM", "other objects"), ("show a unit LM", "wrong numbers"),
     ("show a run", "wrong numbers"), ("show a run", "wrong texts"), ("show a run", "wrong types"),
     ("show a unit LM", "wrong texts"), ("show a unit LM", "wrong types"),
     *(("show a run", name) for name in ABSURD)}  # fmt: skip
CASES = [case for case in SHOWN if case not in FINE]


@pytest.mark.parametrize(("reader", "name"), CASES[::37], ids=lambda value: value)
def test_some_hostile_files_end_in_a_paragraph(hostile: Callable[[str, str], None], reader: str, name: str) -> None:
    hostile(reader, name)


@pytest.mark.slow
@pytest.mark.parametrize(("reader", "name"), CASES, ids=lambda value: value)
def test_all_hostile_files_end_in_a_paragraph(hostile: Callable[[str, str], None], reader: str, name: str) -> None:
    hostile(reader, name)
