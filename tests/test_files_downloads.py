"""Downloads from servers that never end, trickle, lie or send bombs: each ends soon, says why, and leaves nothing."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from http_standins import Bad, hub_of, serving
from twistlm.errors import ArtifactError, UrlError
from twistlm.files import artifacts, downloads, sources
from twistlm.files.artifacts import resolve
from twistlm.files.sources import Artifact, Hub, Url, Wheel
from twistlm.files.urls import UrlPath

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SAID = {
    "endless": "more than the 2.0 MB came",
    "trickle": "less than 200.0 kB came in",
    "silent": "less than 200.0 kB came in",
    "headers": "less than 200.0 kB came in",
    "short": "400 of 1000 bytes came",
    "huge": r"says that it has 1125899.9 GB, and it may have 2.0 MB",
    "bomb": r"sends it packed \(gzip\)",
}


@pytest.fixture(autouse=True)
def _bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(downloads, "STALL", 20.0)
    monkeypatch.setattr(downloads, "MOST_UNTOLD", 2_000_000)
    monkeypatch.setattr("twistlm.files.urls.MOST_UNTOLD", 2_000_000)
    monkeypatch.setattr(artifacts, "_verified", set())
    for kind in sources.MOST_BYTES:
        monkeypatch.setitem(sources.MOST_BYTES, kind, 2_000_000)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Where time is what is bounded, it is short; a busy machine must not decide the others."""
    values = request.node.callspec.params.values()
    if any(word in str(value) for value in values for word in ("trickle", "silent", "headers", "sleep")):
        monkeypatch.setattr(downloads, "STALL", 0.5)
        monkeypatch.setattr(downloads, "START", 0.7)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(Bad) as address:
        yield address


def left(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("how", SAID)
def test_an_artifact_of_a_bad_server(how: str, server: str, tmp_path: Path) -> None:
    source = Url(url=f"{server}/{how}.bin", sha256="0" * 64)
    began = time.monotonic()
    with pytest.raises(ArtifactError, match=SAID[how]):
        resolve(Artifact(name="thing", kind="codebook", sources=(source,), licence="", note=""))
    assert time.monotonic() - began < 18
    assert not left(tmp_path)
    if how == "endless":
        time.sleep(0.5)
        sent = Bad.sent["endless"]
        time.sleep(0.5)
        assert sent == Bad.sent["endless"] < 100_000_000  # nobody listens any more


def test_ctrl_c_ends_a_download(server: str, tmp_path: Path) -> None:
    code = (
        "import signal, sys; from twistlm.files.artifacts import *\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job of a shell ignores it
        "a = Artifact(name='thing', kind='asr', sources=(Url(url=sys.argv[1], sha256='0'),), licence='', note='')\n"
        "print('begun', flush=True); resolve(a)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, f"{server}/trickle.bin"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(2)
    process.communicate(timeout=30)
    assert process.returncode != 0 and time.monotonic() - began < 5
    assert not left(tmp_path)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("endless", "more than the 2.0 MB came"),
        ("trickle", "less than 200.0 kB came"),
        ("silent", "less than 200.0 kB came"),
        ("short", "could not be fetched"),
        ("more", "more than the 1.0 kB came"),
        ("bomb", "more than the 1.0 kB came"),
    ],
)
def test_a_sound_behind_a_bad_address(how: str, said: str, server: str, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="fsspec opens http:// with aiohttp")
    path = UrlPath(f"{server}/{how}.wav").fetched()
    began = time.monotonic()
    with pytest.raises(UrlError, match=rf"{how}\.wav: could not be fetched.*") as caught:
        path.open()
    assert said in str(caught.value)
    assert time.monotonic() - began < 18
    del path, caught
    assert not left(tmp_path)


def test_a_sound_behind_a_good_address(server: str) -> None:
    pytest.importorskip("aiohttp", reason="fsspec opens http:// with aiohttp")
    assert UrlPath(f"{server}/good.wav").fetched().sha256 == hashlib.sha256(b"g" * 1000).hexdigest()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('head -c 30000000 /dev/zero > "$TMPDIR/x"; exec tail -f /dev/null', "more than the 2.0 MB came"),
        ('echo x > "$TMPDIR/x"; sleep 60', "less than 200.0 kB came"),
        ("sleep 60", "less than 200.0 kB came"),
    ],
)
def test_a_package_that_does_not_end(line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = tmp_path / "bin" / "python"
    pip.parent.mkdir()
    pip.write_text(f"#!/bin/sh\n{line.replace('sleep', 'exec sleep')}\n")
    pip.chmod(pip.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(pip))
    monkeypatch.setattr(artifacts, "MOST_WHEEL", 2_000_000)
    wheel = Wheel(package="endless", version="1.0", sha256="0" * 64, members=())
    began = time.monotonic()
    with pytest.raises(ArtifactError, match=said):
        resolve(Artifact(name="thing", kind="asr", sources=(wheel,), licence="", note=""))
    assert time.monotonic() - began < 18
    assert left(tmp_path) == [str(pip)]


@pytest.mark.parametrize(
    ("files", "told", "said"),
    [
        ({"config.json": b"{}", "model.bin": b"w" * 5000}, {}, ""),
        ({"model.bin": b"w" * 5000}, {"model.bin": 1 << 60}, r"are free in .*TWISTLM_CACHE"),
        pytest.param({"trickle.bin": b"w" * 5000}, {}, "less than 200.0 kB came", marks=pytest.mark.slow),
        pytest.param(
            {"model.bin": b"w" * 40_000_000},
            {"model.bin": 100},
            "download (was ended: more than|failed)",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["good", "too-large", "trickle", "more"],
)
def test_the_hub(
    files: dict[str, bytes], told: dict[str, int], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(downloads, "STALL", 6.0)  # the client has to be imported first
    with serving(hub_of(files, repo="some/where", commit=COMMIT, told=told)) as address:
        # The address is read when the client is imported.
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        hub = Artifact(
            name="thing", kind="text-lm", sources=(Hub(repo="some/where", patterns=("*",)),), licence="", note=""
        )
        if not said:
            folder = resolve(hub)
            assert artifacts.provenance(folder)["commit"] == COMMIT
            assert {p.name for p in folder.iterdir()} == {*files, ".complete.json"}
            assert (folder / "model.bin").read_bytes() == files["model.bin"]
            return
        began = time.monotonic()
        with pytest.raises(ArtifactError, match=said):
            resolve(hub)
        assert time.monotonic() - began < 30
    assert not left(tmp_path / "cache")
    assert os.environ["HF_ENDPOINT"] == address
