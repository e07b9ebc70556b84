"""The commands of the README and of every page in docs/ are run as they stand, in order, in an empty folder.

What would take hours is made small by a few more options (`SMALL`), the text LM, the suites and what others published
are stand-ins; the tokenizers and vocoders are the bundled ones. Of torchrun and Slurm only the part behind
`-m twistlm` runs. Servers are asked for one page and stopped.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import soundfile

import corpora_standins
from listen_standins import SYSTEMS, make_samples
from standins import Tiny, babble, make_text_lm
from suite_standins import make_multispeaker, make_sblimp
from test_cli import twist  # noqa: F401
from test_cli_readme import README, ROOT, commands_of
from test_listen_serve import Clock, answer_of, enter, pass_checks
from test_vocoder_published import network, spec_file, write_textless
from twistlm.evaluate.suites import catalogue
from twistlm.files import artifacts
from twistlm.files.artifacts import cache_folder
from twistlm.files.named import ARTIFACTS
from twistlm.files.regular import file_sha256
from twistlm.files.sources import Urls
from twistlm.jobs import vocoder_importing
from twistlm.jobs.listening_server import open_flow
from twistlm.listen.recruiting import Recruiting
from twistlm.listen.store import Store
from twistlm.listen.study import ANSWERS
from twistlm.vocoder.train import VocoderConfig
from twistlm.vocoder.vocoder import Vocoder

pytestmark = pytest.mark.slow
CACHE = cache_folder()  # before tests set another

FEW = [
    "updates=2",
    "context=64",
    "batch_rows=32",
    "accumulate=1",
    "warmup=1",
    "eval_every=1",
    "precision=float32",
    "compile=false",
]
SMALL = {
    "quickstart": ["--speech", "speech", *(f"--set={side}.{s}" for side in ("warm", "cold") for s in FEW)],
    "generate": ["--seconds", "1"],
    "vocoder train": ["--updates", "2"],
    "train": ["--text-lm", "smollm2-135m", *(f"--set={s}" for s in FEW)],
}


@pytest.fixture
def shop(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with what a reader has: some speech, a prompt. In the cache, a small text LM as smollm2-135m."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "cache"))
    artifact = artifacts.ARTIFACTS["smollm2-135m"]
    entry = artifacts._entry(artifact, artifact.sources[0])
    make_text_lm(entry)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(("<s>", "?", "ends", "well"))}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="?").save_pretrained(entry)
    files = {path.name: artifacts._measure(path) for path in entry.iterdir()}
    (entry / artifacts._MANIFEST).write_text(json.dumps({"files": files, "source": "a stand-in"}))

    voices = ("flite-slt", "flite-rms")  # of the bundled ones: one was heard in training, one was not
    make_sblimp(tmp_path / "slm21", voices=voices)
    make_multispeaker(tmp_path / "sSC", speakers=voices)
    suites = {"mini-swuggy": tiny.suite, "mini-sblimp": tmp_path / "slm21", "mini-storycloze": tmp_path / "sSC"}
    monkeypatch.setattr(catalogue, "bundled", suites.__getitem__)

    work = tmp_path / "work"
    shutil.copytree(tiny.speech, work / "speech")
    for name in ("prompt.ogg", "prompt.flac"):
        soundfile.write(work / name, babble(2.0, seed=5), 16_000)
    monkeypatch.chdir(work)
    return work


def run(twist, line: str) -> None:  # noqa: F811
    _, verb, *arguments = shlex.split(line, comments=True)
    own = [  # after those of SMALL, so that they count
        f"--set={word}" for word in arguments if word.startswith(("updates=", "precision="))
    ]
    small = SMALL.get(verb) or SMALL.get(f"{verb} {arguments[0]}", [])
    done = twist(verb, *arguments, *small, *own)
    assert done.code == 0, f"{line}\n{done.err}"


def test_the_readme_s_commands(twist, shop: Path):  # noqa: F811
    assert "make quickstart" in README
    run(twist, "twist quickstart")  # what make quickstart calls
    assert (shop / "runs" / "quickstart" / "report.html").is_file()
    lines = commands_of(ROOT / "README.md")
    assert {shlex.split(line)[1] for line in lines} >= {"generate", "eval"}
    for line in lines:
        run(twist, line)
    assert soundfile.info(shop / "longer.wav").frames
    results = shop / "runs" / "quickstart" / "warm" / "eval"
    scores = {path.stem for path in results.glob("*.json")} - {"choices"}  # how it was computed, where that was tried
    assert scores == {"perplexity", *catalogue.BUNDLED}


def test_the_readme_s_python(shop: Path):
    [block] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert soundfile.info(shop / "continued.wav").frames and (shop / "runs" / "warm" / "lm").is_dir()


def test_training_md_s_commands(twist, shop: Path, tmp_path):  # noqa: F811
    run(twist, "twist tokenize speech --out data/units")
    lines = commands_of(ROOT / "docs" / "training.md")
    assert len(lines) >= 5
    for line in lines:
        line = re.sub(r"updates=(\d+)00", r"updates=\1", line.replace("/shared/", "shared/"))
        for out in re.findall(r"--out (\S+)", line):  # another run, of the same name
            shutil.rmtree(shop / out, ignore_errors=True)
        run(twist, line)


def served(line: str, path: str = "") -> str:
    """Start what a line starts on a free port, ask it for a page, stop it; return the page, whatever it says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*shlex.split(line, comments=True)[1:], "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-m", "twistlm", *words], stderr=subprocess.PIPE, text=True)
    page = ""
    try:
        while not page and process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60) as answer:
                    page = answer.read().decode()
            except urllib.error.HTTPError as refusal:
                page = str(refusal)
            except OSError:  # not there yet
                time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and page, f"{line}\n{said}"
    return page


def test_corpora_md_s_commands(twist, shop: Path):  # noqa: F811
    rows = [f"speech/low/{i}.wav,word {i}" for i in range(4)]
    (shop / "calls.csv").write_text("\n".join(["recording,words", *rows]) + "\n")
    corpora_standins.fisher(shop / "fisher")
    for line in commands_of(ROOT / "docs" / "corpora.md"):
        run(twist, line)
    calls = [json.loads(row) for row in (shop / "calls.jsonl").read_text().splitlines()]
    assert [call["text"] for call in calls] == [f"word {i}" for i in range(4)]
    assert {json.loads(row)["channel"] for row in (shop / "fisher.jsonl").read_text().splitlines()} == {1, 2}


def test_scale_md_s_commands(twist, shop: Path):  # noqa: F811
    run(twist, "twist tokenize speech --out data/units")
    for line in commands_of(ROOT / "docs" / "scale.md"):
        run(twist, f"{line} --set precision=bf16")  # what is known of the card
    assert not (shop / "runs").exists()  # a plan writes nothing


def test_serving_md_s_commands(twist, shop: Path):  # noqa: F811
    run(twist, "twist quickstart")
    for line in commands_of(ROOT / "docs" / "serving.md"):
        if line.startswith("twist serve"):
            models = json.loads(served(f"{line.partition('#')[0]} --no-transcripts", "v1/models"))
            assert [model["id"] for model in models["data"]] == ["warm", "cold"]
        else:
            run(twist, line)
    assert (shop / "warm-gguf" / "model.gguf").is_file() and (shop / "warm-vllm" / "model.safetensors").is_file()


def test_listening_md_s_commands(twist, shop: Path):  # noqa: F811
    make_samples(shop / "out", SYSTEMS, items=24)
    make_results(shop)
    rated = False
    for line in commands_of(ROOT / "docs" / "listening.md"):
        if line.startswith("twist listen serve"):
            served(line)
            continue
        if not rated and line.startswith("twist listen analyse"):
            rate(shop / "study", raters=4)
            rated = True
        run(twist, line)
    for folder in ("study/analysis", "results/mushra-analysis", "batch-analysis"):
        assert (shop / folder / "report.html").is_file()


def make_results(folder: Path) -> None:
    """What webMUSHRA (results/mushra.csv) and P.808 (batch.csv) write."""
    (folder / "results").mkdir()
    rows = [
        f"t,{who}@x,30,{who},trial{i},{system},{60 + 10 * (system == 'B') + 3 * i + k},9,"
        for k, who in enumerate("abcd")
        for i in range(4)
        for system in "AB"
    ]
    head = "session_test_id,email,age,session_uuid,trial_id,rating_stimulus,rating_score,rating_time,rating_comment"
    (folder / "results" / "mushra.csv").write_text("\n".join([head, *rows]) + "\n")
    names = ["WorkerId", "AssignmentStatus"]
    names += [f"Answer.{part}" for q in range(1, 5) for part in (f"q{q}", f"q{q}_url", f"audio_n_finish_q{q}")]
    clips = [f"https://x.org/{system}_{item}.wav" for system in ("new", "old") for item in "ab"]
    batch = [
        [f"W{k}", "Submitted", *(str(cell) for q, url in enumerate(clips) for cell in ((k + q) % 5 + 1, url, 1))]
        for k in range(4)
    ]
    (folder / "batch.csv").write_text("\n".join(map(",".join, [names, *batch])) + "\n")


def rate(folder: Path, *, raters: int) -> None:
    """Let raters finish a study: each clip is heard to its end, trapping and gold clips are answered right."""
    flow, clock = open_flow(folder, Recruiting(platform="open"), hold_hours=1), Clock()
    flow.store.close()
    flow = dataclasses.replace(flow, store=Store(folder / ANSWERS, clock=clock))
    for number in range(raters):
        token = enter(flow, f"rater {number}")
        pass_checks(flow, token)
        for position, trial in enumerate(flow.study.places[flow.session(token).place]):
            clock.now += 60
            value = trial.expected[0] if trial.expected else 1 + (position * 7 + number) % 5
            flow.answer(token, answer_of(flow, token, position, value))
    flow.store.close()


def test_vocoders_md_s_commands(twist, shop: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    shutil.copytree(shop / "speech" / "low", shop / "speech" / "anna")
    shutil.copy(shop / "prompt.flac", shop / "my.wav")
    defaults = VocoderConfig.__init__.__kwdefaults__
    for name, value in {"duration_updates": 2, "rows": 2, "frames": 8, "warmup": 1}.items():
        monkeypatch.setitem(defaults, name, value)

    lines = commands_of(ROOT / "docs" / "vocoders.md")
    [folder] = [line.split()[3] for line in lines if "import" in line and "--out" in line]
    made = network(model_in_dim=12, multispkr="_", num_speakers=2)
    write_textless(shop / folder, made, model_in_dim=12, multispkr="_", num_speakers=2)
    (shop / folder / "speakers.txt").write_text("ann\nbo\n")
    (shop / "my-tokenizer").mkdir()
    spec = spec_file(shop / "my-tokenizer")

    # A published vocoder comes from its publisher's address, which is a folder here.
    [name] = [line.split()[3] for line in lines if "import" in line and "--out" not in line]
    theirs = write_textless(shop / "theirs", network())
    files = tuple((file, file_sha256(theirs / file)) for file in ("generator.pt", "config.json"))
    source = Urls(base=f"{theirs.as_uri()}/", files=files)
    monkeypatch.setitem(ARTIFACTS, name, dataclasses.replace(ARTIFACTS[name], sources=(source,)))
    monkeypatch.setitem(vocoder_importing.PUBLISHED, name, vocoder_importing.Published(tokenizer=str(spec)))
    fetched = lambda url, target, most: target.write_bytes(Path(url[7:]).read_bytes())  # noqa: E731
    monkeypatch.setattr(artifacts, "fetch_url", fetched)

    for line in lines:
        run(twist, line)
    assert soundfile.info(shop / "anna.wav").frames
    assert Vocoder.load(name).spec == Vocoder.load(shop / "vocoders" / "spiritlm").spec


@pytest.mark.network
def test_generation_md_s_commands(twist, shop: Path, tmp_path: Path):  # noqa: F811
    """The recogniser, the judge of sound, the voice encoder and the text embedder are the real ones."""
    for real in CACHE.iterdir():
        if real.is_dir() and not (tmp_path / "cache" / real.name).exists():
            (tmp_path / "cache" / real.name).symlink_to(real)
    run(twist, "twist quickstart")
    for line in commands_of(ROOT / "docs" / "generation.md"):
        run(twist, f"{line.partition('#')[0]} --n-prompts 3 --text-lm smollm2-135m")
    assert list((shop / "runs" / "quickstart" / "warm" / "eval" / "generation").glob("ours*.html"))
