"""The commands of the README and of docs/training.md are run as they stand, in order, in an empty folder.

What would take hours is made small by a few more options (`SMALL`), the text LM and the suites are stand-ins; the
tokenizers and vocoders are the bundled ones. Of torchrun and Slurm only the part behind `-m twistlm` runs.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import soundfile

from standins import Tiny, babble, make_text_lm
from suite_standins import make_multispeaker, make_sblimp
from test_cli import twist  # noqa: F401
from test_cli_readme import README, ROOT, commands_of
from twistlm.evaluate.suites import catalogue
from twistlm.files import artifacts

pytestmark = pytest.mark.slow

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

    make_sblimp(tmp_path / "slm21")
    make_multispeaker(tmp_path / "sSC")
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
        f"--set={word}" for word in arguments if word.startswith("updates=")
    ]
    done = twist(verb, *arguments, *SMALL.get(verb, []), *own)
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
