"""twistlm: speech language models warm-started from text language models.

The names in `__all__` are the public interface. Each is loaded when first used, so that `import twistlm` costs next to
nothing and never imports torch.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

# onnxruntime (voice activity, some synthesisers) writes down this device and program for upload when it is first
# imported, before one could ask it not to. Whoever wants that sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from twistlm import recipes as recipes
    from twistlm.audio.clip import Clip as Clip
    from twistlm.config import TrainConfig as TrainConfig
    from twistlm.corpus.opened import open_corpus as open_corpus
    from twistlm.corpus.tokenize import tokenize as tokenize
    from twistlm.errors import TwistError as TwistError
    from twistlm.evaluate.pairs import score_pairs as score_pairs
    from twistlm.evaluate.perplexity import heldout as heldout
    from twistlm.lm.model import UnitLM as UnitLM
    from twistlm.lm.sample import generate as generate
    from twistlm.lm.score import score as score
    from twistlm.lm.warmstart import cold_start as cold_start
    from twistlm.lm.warmstart import warm_start as warm_start
    from twistlm.study.quickstart import quickstart as quickstart
    from twistlm.study.run import likeness as likeness
    from twistlm.train.loop import train as train
    from twistlm.types import Units as Units
    from twistlm.types import UnitSpec as UnitSpec
    from twistlm.units.tokenizer import SpeechTokenizer as SpeechTokenizer
    from twistlm.vocoder.vocoder import Vocoder as Vocoder

__version__ = "0.1.0"

_HOME = {
    "Clip": "audio.clip",
    "SpeechTokenizer": "units.tokenizer",
    "TrainConfig": "config",
    "TwistError": "errors",
    "UnitLM": "lm.model",
    "UnitSpec": "types",
    "Units": "types",
    "Vocoder": "vocoder.vocoder",
    "cold_start": "lm.warmstart",
    "generate": "lm.sample",
    "heldout": "evaluate.perplexity",
    "likeness": "study.run",
    "open_corpus": "corpus.opened",
    "quickstart": "study.quickstart",
    "recipes": "",
    "score": "lm.score",
    "score_pairs": "evaluate.pairs",
    "tokenize": "corpus.tokenize",
    "train": "train.loop",
    "warm_start": "lm.warmstart",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'twistlm' has no attribute {name!r}")
    home = _HOME[name]
    value = getattr(import_module(f"twistlm.{home}"), name) if home else import_module(f"twistlm.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `twistlm.train` the verb: importing the room of that name would otherwise put the module in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and _HOME.get(name):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
