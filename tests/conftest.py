"""Fixtures shared by the tests of the loop and of the command line."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import soundfile

from standins import Tiny, babble, make_suite, make_text_lm, make_tokenizer, make_vocoder

# Bits are compared, and a busy machine must not decide how they are made. Inherited by the processes tests start.
os.environ.setdefault("TWISTLM_CHOICES", "products=onednn,drafts=int8")
# Threads of torch that wait for each other sleep: otherwise they use up the cores that other tests are on. Read when
# torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp("tiny")
    made = Tiny(root, *(root / name for name in ("tokenizer", "vocoder", "text-lm", "suite", "speech")))
    make_tokenizer(made.tokenizer, seed=0)
    make_vocoder(made)
    make_text_lm(made.text_lm)
    make_suite(made.suite)
    for voice, pitch in (("low", 100.0), ("high", 190.0)):
        (made.speech / voice).mkdir(parents=True)
        for i in range(12):
            sound = babble(4.0 + 0.2 * i, seed=i + int(pitch), pitch=pitch)
            soundfile.write(made.speech / voice / f"{i}.wav", sound, 16_000)
    return made


@pytest.fixture(scope="session")
def short_pair(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a recipe of two trainings of three updates each, the folder of units they train on)."""
    from twistlm.corpus import manifest
    from twistlm.corpus.tokenize import tokenize
    from twistlm.units.tokenizer import SpeechTokenizer

    root = tmp_path_factory.mktemp("short")
    tokenize(manifest.build(tiny.speech, heldout=0.25), root / "units", SpeechTokenizer.load(tiny.tokenizer))
    side = 'updates = 3\nbatch_rows = 2\ncontext = 32\nwarmup = 1\neval_every = 1\nprecision = "float32"\n'
    recipe = root / "short.toml"
    recipe.write_text(f'base = "quickstart"\ntext_lm = "{tiny.text_lm}"\n[warm]\n{side}[cold]\n{side}')
    return recipe, root / "units"


@pytest.fixture(scope="session")
def other_tokenizer(tiny: Tiny) -> Path:
    """A tokenizer of the same shape and other weights."""
    return make_tokenizer(tiny.root / "other-tokenizer", seed=1)


# Of these families a test of `make test` needs none: others stand for their kind (tables or layers unlike the rest, one
# that is no transformer, each kind of encoder).
AGAIN = {"opt", "bloom", "pythia", "smollm2", "gpt2", "qwen2.5", "imagegpt", "mistral"}
AGAIN |= {"hubert-large", "wavlm-base", "wav2vec2-base", "wav2vec2-large"}


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test of a family whose kind another one stands for is a thorough one."""
    of = getattr(item, "callspec", None)
    if of and any(isinstance(value, str) and value in AGAIN for value in of.params.values()):
        item.add_marker(pytest.mark.thorough)


def pytest_collection_finish() -> None:
    """Take what was imported so far out of the garbage collector's rounds: each looks at all of it, for 0.4 s."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # models are made of thousands of small objects, none of which is a cycle's
