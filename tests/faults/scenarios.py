"""The verbs that write, with small inputs and settings, and what of them must be the same after any fault."""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from faults import contents, inputs
from faults.contents import files, heard
from faults.inputs import all_of
from faults.runs import Scenario, main

TRAIN = ["train", "units", "--out", "run", "--text-lm", "text-lm", "--json"]
for setting in ("updates=7", "checkpoint_every=3", "eval_every=4", "context=32", "precision=float32", "warmup=1"):
    TRAIN += ["--set", setting]


def _small_shards(_: Path) -> None:
    from twistlm.corpus.tokenize import tokenize

    assert tokenize.__kwdefaults__ is not None
    tokenize.__kwdefaults__["shard_clips"] = inputs.SHARD_CLIPS


def _tiny_suite(folder: Path) -> None:
    from twistlm.evaluate.suites import catalogue
    from twistlm.study.grid import inputs as of_grid

    of_grid.open_suite = lambda name: catalogue.open_suite(f"{name}={folder / 'suite'}")


def _hummer(_: Path) -> None:
    from twistlm.benchmarks import engines
    from voices_standins import Hummer

    engines.open_voices = lambda names, command=None: [Hummer(name=name, identity=name) for name in names]


def _small_vocoder(_: Path) -> None:
    from twistlm.vocoder.train import VocoderConfig

    VocoderConfig.__init__.__kwdefaults__.update(
        checkpoint_every=2, duration_updates=3, log_every=1, rows=2, frames=8, warmup=2, periods=(3,),
        spectra=((256, 64),), critic_channels=2,
    )  # fmt: skip


def _small_hubert(_: Path) -> None:
    from twistlm.jobs import hubert
    from twistlm.units.masked_prediction import HubertPretrainConfig

    hubert.SIZES["mini"] = {
        "width": 16,
        "layers": 1,
        "heads": 2,
        "ffn": 16,
        "crop_seconds": 0.5,
        "batch": 2,
        "lr": 1e-3,
    }
    HubertPretrainConfig.__init__.__kwdefaults__.update(checkpoint_every=8, position_kernel=4)


def _forked_trainings(_: Path) -> None:
    """A training is a fork and not a program that imports everything again; what it writes and says is the same."""
    from twistlm.study import steady

    def run(
        command: list[str], *, env: dict[str, str], preexec_fn: Callable[[], None], **_: Any
    ) -> subprocess.CompletedProcess[str]:
        sys.stdout.flush()
        sys.stderr.flush()
        with os.fdopen(os.memfd_create("said"), "w+") as said:
            child = os.fork()
            if child == 0:
                preexec_fn()
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                os.environ.update(env)
                os._exit(main(command[command.index("twistlm") + 1 :], Path()))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            said.seek(0)
            return subprocess.CompletedProcess(command, code, "", said.read())

    steady.subprocess = SimpleNamespace(run=run)


def _open(folder: Path) -> None:
    from twistlm.corpus.opened import open_corpus
    from twistlm.errors import TwistError

    try:
        open_corpus(folder / "units", split=None)
    except TwistError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


_SPEAK = ["--tokenizer", "tokenizer", "--vocoder", "like", "--json"]
_BENCH = ["--out", "bench", "--voice", "hum", "--json"]

SCENARIOS = {
    "open-flat": Scenario(inputs.random_units, _open, contents.units),  # without torch: the quick one
    "open": Scenario(
        all_of(inputs.units, lambda f: shutil.rmtree(f / "units/.cache")), ["show", "units", "--json"], contents.units
    ),
    "manifest": Scenario(
        inputs.speech, ["manifest", "speech", "--out", "m.jsonl", "--json"], lambda f: files(f, "m.jsonl")
    ),
    "vad": Scenario(
        inputs.little_speech, ["manifest", "speech", "--out", "m.jsonl", "--vad", "--json"],
        lambda f: [files(f, "m.jsonl"), sorted((f / "m.jsonl.vad.jsonl").read_text().splitlines())],
    ),
    "tokenize": Scenario(
        all_of(inputs.speech, inputs.tokenizer),
        ["tokenize", "speech", "--out", "units", "--tokenizer", "tokenizer", "--json"], contents.units, _small_shards,
    ),
    "import-units": Scenario(
        all_of(inputs.tokenizer, inputs.unit_lines),
        ["import-units", "features.jsonl", "--out", "units", "--tokenizer", "tokenizer", "--padding", "0", "--json"],
        contents.units,
    ),
    "kmeans": Scenario(
        all_of(inputs.little_speech, inputs.tokenizer),
        ["kmeans", "speech", "--encoder", "tokenizer", "--layer", "1", "--k", "8", "--out", "made", "--json"],
        lambda f: files(f, "made/*"),
    ),
    "import": Scenario(
        all_of(inputs.tokenizer, inputs.published),
        ["import", "release", "--tokenizer", "tokenizer", "--padding", "0", "--out", "model", "--json"],
        lambda f: files(f, "model/*"),
    ),
    "train": Scenario(all_of(inputs.units, inputs.text_lm), TRAIN, contents.trained),
    "eval": Scenario(
        all_of(inputs.tokenizer, inputs.suite, inputs.model),
        ["eval", "model", "swuggy-dev=suite", "--normalize", "mean", "--tokenizer", "tokenizer", "--out", "scores",
         "--submission", "sub", "--json"], contents.scores,
    ),
    "generate": Scenario(
        all_of(inputs.vocoder, inputs.model),
        ["generate", "model", "speech/low/0.wav", "--seconds", "1", "--out", "said.wav", *_SPEAK],
        lambda f: files(f, "said.wav"),
    ),
    "resynth": Scenario(
        inputs.vocoder, ["resynth", "speech/low/0.wav", "--out", "said.wav", *_SPEAK], lambda f: files(f, "said.wav")
    ),
    "resynth-flac": Scenario(
        inputs.vocoder, ["resynth", "speech/low/0.wav", "--out", "said.flac", *_SPEAK],
        lambda f: heard(f / "said.flac"),
    ),
    "resynth-ogg": Scenario(
        inputs.vocoder, ["resynth", "speech/low/0.wav", "--out", "said.ogg", *_SPEAK], lambda f: heard(f / "said.ogg")
    ),
    "blimp": Scenario(
        inputs.sentences, ["bench", "blimp", "pairs.jsonl", *_BENCH], lambda f: files(f, "bench/**/*"), _hummer
    ),
    "blimp-ogg": Scenario(
        inputs.sentences, ["bench", "blimp", "pairs.jsonl", *_BENCH, "--format", "ogg"],
        # The samples of the sounds, and the names of the rest, which has their checksums.
        lambda f: {n: heard(f / n) if n.endswith(".ogg") else 0 for n in files(f, "bench/**/*")}, _hummer,
    ),
    "storycloze": Scenario(
        inputs.stories, ["bench", "storycloze", "stories.csv", *_BENCH], lambda f: files(f, "bench/**/*"), _hummer
    ),
    "vocoder": Scenario(
        inputs.vocoder,
        ["vocoder", "train", "speech", "--out", "run", "--updates", "6", "--speaker", "low", "--tokenizer", "tokenizer",
         "--like", "like", "--json"],
        lambda f: contents.run_of(f, "vocoder"), _small_vocoder,
    ),
    "hubert": Scenario(
        inputs.little_speech, ["hubert", "speech", "--out", "run", "--updates", "24", "--k", "4", "--json"],
        lambda f: contents.run_of(f, "encoder"), _small_hubert,
    ),
    "study": Scenario(inputs.grid, ["study", "run", "grid.toml", "--json"], contents.study, _tiny_suite),
    "study-steady": Scenario(
        inputs.recipe,
        ["study", "steady", "units", "--out", "study", "--recipe", "short.toml", "--seeds", "1",
         "--numerics", "float32", "--json"],
        contents.lines_of_study, _forked_trainings,
    ),
    "study-long": Scenario(
        inputs.recipe,
        ["study", "long", "units", "--out", "study", "--recipe", "short.toml", "--seeds", "0", "--budgets", "2,4",
         "--suites", "", "--json"],
        contents.long_study,
    ),
}  # fmt: skip


def preload(*, torch: bool) -> None:
    """Import what the verbs import, once: each run is then a fork. Without torch, only what opens units."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet

    import twistlm.corpus.opened  # noqa: F401

    pa.array(np.zeros(1))  # imports pandas, where there is one
    if torch:
        _preload_all()


def _preload_all() -> None:
    import sklearn.cluster
    import sklearn.discriminant_analysis  # noqa: F401
    import soundfile  # noqa: F401
    import torch
    import transformers.models.auto.modeling_auto
    import transformers.models.hubert.modeling_hubert
    import transformers.models.llama.modeling_llama
    import transformers.models.opt.modeling_opt  # noqa: F401

    import twistlm

    for module in pkgutil.walk_packages(twistlm.__path__, "twistlm."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    torch.set_num_threads(1)  # a fork has no thread pool
