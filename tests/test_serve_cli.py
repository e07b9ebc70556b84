"""`twist serve`: what it serves by default, where it listens, and that the client of the documentation works."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="serving needs the extra serve")

from serving import serving, tiny_served, wav
from standins import Tiny, babble
from twistlm.audio.clip import Clip
from twistlm.cli.main import main
from twistlm.errors import BadInput
from twistlm.jobs import serving as job
from twistlm.jobs.ports import bound
from twistlm.jobs.serving import Address, models_of, newest_quickstart
from twistlm.serve.engine import Room
from twistlm.serve.limits import Limits
from twistlm.serve.studio import Studio
from twistlm.vocoder.synthesizer import Synthesizer
from twistlm.vocoder.vocoder import Vocoder
from twistlm.vocoder.voices import Voice, Voices

DOCS = Path(__file__).parents[1] / "docs" / "serving.md"


def run_folder(at: Path) -> Path:
    for side in ("warm", "cold"):
        (at / side / "lm").mkdir(parents=True)
    (at / "results.json").write_text("{}")
    return at


def test_what_is_served_when_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "BUNDLED", ())
    assert newest_quickstart() is None
    with pytest.raises(BadInput, match="no finished quickstart"):
        models_of([])
    for i, name in enumerate(("old", "new", "unfinished")):
        found = run_folder(tmp_path / "runs" / name)
        os.utime(found / "results.json", (i, i))
    (tmp_path / "runs" / "unfinished" / "results.json").unlink()
    assert models_of([]) == {side: Path("runs/new") / side for side in ("warm", "cold")}
    assert models_of(["runs/old/warm", "runs/new/warm"]) == {
        "warm": Path("runs/old/warm"), "new-warm": Path("runs/new/warm"),
    }  # fmt: skip
    with pytest.raises(BadInput, match="two models are called"):
        models_of(["runs/old/warm", "runs/old/warm", "runs/old/warm"])


def test_addresses() -> None:
    assert Address().local and Address(host="::1").local and not Address(host="0.0.0.0").local
    assert job._url(Address(host="10.0.0.1", token="t"), 80) == "http://10.0.0.1:80/#token=t"
    assert job._url(Address(host="::1", certificate=Path("c")), 443) == "https://[::1]:443/"
    assert job._url(Address(host="10.0.0.1", token="a+b#c&d"), 80) == "http://10.0.0.1:80/#token=a%2Bb%23c%26d"
    for token, said in (("", "it is empty"), ("xK/9a2==", "this one has others"), ("пароль", "this one has others")):
        with pytest.raises(BadInput, match=f"a token is letters.*{said}"):
            job.serve(None, Address(token=token), limits=None, room=None, kept=None, ready=print)
    with bound("127.0.0.1", 0) as taken, pytest.raises(BadInput, match="cannot be had"):
        bound("127.0.0.1", taken.getsockname()[1])


def test_certificates_are_looked_at_before_a_model_is_loaded(tmp_path: Path) -> None:
    pem = tmp_path / "a.pem"
    with pytest.raises(BadInput, match="https needs both"):
        Address(certificate=pem).check()
    with pytest.raises(BadInput, match=r"there is no file .*a\.pem"):
        Address(certificate=pem, key=pem).check()
    pem.write_text("not a certificate")
    with pytest.raises(BadInput, match="are no certificate and its key"):
        Address(certificate=pem, key=pem).check()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the keys")
@pytest.mark.parametrize("locked", [False, True])
def test_nobody_is_asked_for_a_password(tmp_path: Path, locked: bool) -> None:
    files = ["-keyout", "key.pem", "-out", "cert.pem", *(["-passout", "pass:secret"] if locked else ["-nodes"])]
    subprocess.run(["openssl", "req", "-x509", "-subj", "/CN=localhost", *files], cwd=tmp_path, check=True)
    address = Address(certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    with pytest.raises(BadInput, match="without a password") if locked else contextlib.nullcontext():
        address.check()


def test_what_cannot_be_made_ready_ends_the_server_in_words(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Studio) -> None:
        raise BadInput("the model has no room")

    monkeypatch.setattr(Studio, "rehearse", refuse)
    told: list[str] = []
    with pytest.raises(BadInput, match="has no room"):
        job.serve(tiny_served(tiny), Address(port=0), limits=Limits(), room=Room(), kept=None, ready=told.append)
    assert not told and "Traceback" not in caplog.text + capfd.readouterr().err


def test_each_speaker_of_a_vocoder_is_a_voice(tiny: Tiny) -> None:
    served = tiny_served(tiny)
    one = served.voices["tiny"]
    shape = dataclasses.replace(one.synthesizer.shape, model_in_dim=24, num_speakers=3, num_styles=2)
    names = Voices(speakers={"ann": 0, "ben": 2}, styles={"calm": 1})
    many = Vocoder(Synthesizer(shape).fold().eval(), one.spec, name="many", voices=names)
    with pytest.raises(BadInput, match="the vocoder many has 2 speakers"):
        dataclasses.replace(served, voices={"many": many})
    voices = job._by_voice({"tiny": one, "many": many})
    assert list(voices) == ["tiny", "many/ann", "many/ben"]
    assert list(job._by_voice({"many": many.speaking_as(speaker="ben")})) == ["many/ben", "many/ann"]
    units = served.tokenizer(Clip(babble(1.0, seed=3), 16_000))
    said = [dataclasses.replace(served, voices=voices).resynthesise(units, voice=name, durations="given")
            for name in ("many/ann", "many/ben")]  # fmt: skip
    for clip, speaker in zip(said, ("ann", "ben"), strict=True):
        assert np.array_equal(clip.samples, many(units, durations="given", voice=Voice(speaker=speaker)).samples)
    assert not np.array_equal(said[0].samples, said[1].samples)
    usual = {"spa": ["ben"], "eng": ["ann"]}
    rows = {"ann": 0, "ben": 2}
    languages = Voices(languages={"eng": 0, "spa": 1}, speakers=rows, of_language=usual)
    shape = dataclasses.replace(one.synthesizer.shape, model_in_dim=24, num_speakers=3, num_languages=2)
    found = job._by_voice({"m": Vocoder(Synthesizer(shape).fold().eval(), one.spec, name="m", voices=languages)})
    assert list(found) == ["m/eng", "m/spa"]
    for voice in found.values():
        voice.require_voice()


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "cpu:x"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(BadInput, match=f"nothing computes on '{name}' here"):
        job._device(name)
    assert job._device("cpu").type == "cpu"


def test_long_sounds_have_the_time_and_the_bytes_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Limits, Room]] = []
    looked: list[bool] = []
    monkeypatch.setattr("twistlm.cli.serve.asleep_where_busy", lambda: looked.append(True))
    monkeypatch.setattr(job, "models_of", lambda _: {})
    monkeypatch.setattr(job, "load_served", lambda *_, **__: None)
    monkeypatch.setattr(job, "serve", lambda *_, limits, room, **__: asked.append((limits, room)))
    for words in ([], ["--seconds", "600", "--prompt-seconds", "600"]):
        monkeypatch.setattr(sys, "argv", ["twist", "serve", *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
    (limits, room), (longer, roomier) = asked
    assert looked == [True, True]  # whether threads are to wait asleep
    assert (limits.upload_bytes, room.work_seconds) == (20_000_000, 180)
    assert longer.upload_bytes >= 600 * 48_000 * 2 and roomier.work_seconds == 1800


@pytest.mark.thorough
def test_the_client_of_the_documentation(tiny: Tiny, tmp_path: Path) -> None:
    code = next(block for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S) if "connect(" in block)
    assert len(code.strip().splitlines()) <= 13
    wav(Clip(babble(1.5, seed=3), 16_000), tmp_path)
    with serving(tiny_served(tiny)) as address:
        (tmp_path / "client.py").write_text(code.replace("127.0.0.1:8000", address))
        command = [sys.executable, "client.py", "prompt.wav", "out.pcm"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert "'status': 'completed'" in done.stdout
    sound = np.frombuffer((tmp_path / "out.pcm").read_bytes(), "<i2")
    assert len(sound) > 24_000


@pytest.mark.slow
def test_the_verb_serves_until_a_signal(tiny: Tiny, tmp_path: Path) -> None:
    from twistlm.lm.warmstart import warm_start
    from twistlm.units.tokenizer import SpeechTokenizer

    spec = SpeechTokenizer.load(tiny.tokenizer).spec
    warm_start(tiny.text_lm, spec, rows="mean", seed=0).save(tmp_path / "model")
    command = [sys.executable, "-m", "twistlm", "serve", str(tmp_path / "model"), "--port", "0", "--search"]
    process = subprocess.Popen([*command, str(tiny.root)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    url = next(found[1] for line in lines if (found := re.search(r"open (http://127\.0\.0\.1:\d+/) ", line)))
    import urllib.request

    with urllib.request.urlopen(f"{url}v1/models", timeout=60) as answer:
        assert [one["id"] for one in json.load(answer)["data"]] == ["model"]
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
