"""Every stage of the product on the GPU of `fake`: prints, as JSON, what each did. Run by tests/test_gpu_simulated.py.

python stages.py NAME …        (all: --all; what there is: --list)
"""

from __future__ import annotations

import fake  # noqa: F401  # isort: skip  # before torch
import dataclasses
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import soundfile
import torch
from fake import CUDA
from torch._subclasses.fake_tensor import unset_fake_temporarily
from watch import Watch, copied, move, pretend, simulated

from encoders import NAMES, encoder_state, stand_in
from standins import Tiny, babble, make_tokenizer, make_vocoder
from test_lm_families import FAMILIES
from twistlm import recipes
from twistlm.audio.clip import Clip
from twistlm.corpus.manifest import Entry
from twistlm.corpus.stream import PackedStream
from twistlm.jobs.hubert import hubert_config
from twistlm.lm.continuation import begin
from twistlm.lm.continuous import Batch
from twistlm.lm.model import UnitLM
from twistlm.lm.sample import generate_batch
from twistlm.lm.score import score
from twistlm.lm.warmstart import cold_start
from twistlm.study.prompts import continuations
from twistlm.train.activations import checkpointed_activations
from twistlm.train.optim import adamw
from twistlm.train.step import take_step
from twistlm.types import Units
from twistlm.units import masked_prediction
from twistlm.units.encoder import frames_of
from twistlm.units.kmeans import Codebook
from twistlm.units.pretrained import build
from twistlm.units.tokenizer import SpeechTokenizer, read_spec
from twistlm.vocoder.vocoder import Vocoder

SPEC = read_spec("mini-25hz-500")
HEAVY = {"opt-350m": 2, "opt-1.3b": 2, "llama-7b": 2, "smollm2-135m": 2}  # true widths, so many layers
TRAINED = [*FAMILIES, *HEAVY]
SPOKEN = ["opt-350m", "smollm2-135m", "bloom", "gemma3", "qwen2.5"]


class Documents:
    """Stands in for a corpus."""

    lengths = np.random.default_rng(0).integers(15, 45, 400)

    def unit_ids(self, index: int) -> Any:
        return (np.arange(self.lengths[index]) * 7 % 500).astype(np.uint16)


def make(name: str) -> UnitLM:
    """A unit LM of this family on the GPU."""
    if name in HEAVY:
        lm = cold_start(name, SPEC, seed=0, layers=HEAVY[name])
    else:
        folder = Path(tempfile.mkdtemp()) / name.replace(".", "-")
        FAMILIES[name]().save_pretrained(folder)
        lm = cold_start(folder, SPEC, seed=0)
    move(lm.model)
    return lm


def train(name: str, watch: Watch, *, precision: Any = "bf16", again: bool = False, accumulate: int = 1) -> None:
    config = dataclasses.replace(
        recipes.twist_350m().warm, batch_rows=4, accumulate=accumulate, context=48, checkpoint_activations=again
    )
    lm = make(name)
    optimizer = adamw(lm.model, config)
    stream = PackedStream(Documents(), lm.vocab, rows=4, context=48, seed=0)
    watch.clear()
    with checkpointed_activations(lm, enabled=again):
        take_step(lm, optimizer, stream.batch(0), config, update=0, precision=precision)


def score_(name: str, watch: Watch) -> None:
    lm = make(name)
    watch.clear()
    score(lm, [np.arange(40 - i) % 500 for i in range(6)], include_end=True)


def sample(name: str, watch: Watch, *, n: int) -> None:
    lm = make(name)
    prompts = [Units(np.arange(5 + i).astype(np.uint16), np.ones(5 + i, np.int32), SPEC) for i in range(n)]
    watch.clear()
    generate_batch(lm, prompts, temperature=0.8, seeds=range(n), max_units=20, stop_at_end=False)


def serve(name: str, watch: Watch) -> None:
    """One step of two listeners that have come to different places."""
    lm = make(name)
    batch = Batch(lm, rows=3)
    with batch.computing():
        for n in (5, 9):
            prompt = Units(np.arange(n).astype(np.uint16), np.ones(n, np.int32), SPEC)
            batch.join(begin(lm, prompt, temperature=0.8, seed=n, max_units=20, stop_at_end=False))
            batch.step()
        watch.clear()
        made = batch.step()
    assert [len(units) for units in made.values()] == [1, 1]


def tokenizer(name: str) -> SpeechTokenizer:
    with unset_fake_temporarily():
        model, fields = stand_in(name, narrow=True, layers=2)
        encoder = build(fields, encoder_state(model), layer=2, normalize_input="large" in name, where=name)
    book = Codebook(np.random.default_rng(0).standard_normal((20, encoder.dim)).astype(np.float32))
    made = SpeechTokenizer(encoder, book, dataclasses.replace(SPEC, n_units=20, hop=encoder.hop))
    # What `on` does, but for `.to`.
    return dataclasses.replace(made, encoder=dataclasses.replace(encoder, model=move(copied(encoder.model))))


def tokenize(name: str, watch: Watch, *, n: int) -> None:
    tok = tokenizer(name)
    clips = [
        Clip(np.random.default_rng(i).standard_normal(16000 + 4000 * i).astype(np.float32) * 0.1, 16000, id=str(i))
        for i in range(n)
    ]
    assert tok.batch_seconds > 0
    watch.clear()
    if n == 1:
        tok(clips[0])
    else:
        tok.batch(clips)


def vocode(durations: Any, watch: Watch) -> None:
    with unset_fake_temporarily():
        voc = Vocoder.load("mini-25hz-500")
    for part in (voc.synthesizer, voc._pace):
        move(part)
    units = Units(np.arange(50).astype(np.uint16), np.full(50, 2, np.int32), voc.spec)
    watch.clear()
    voc.batch([units, units], durations=durations)


def quickstart(watch: Watch) -> None:
    """What is the quickstart's own: its models continue prompts, which the vocoder speaks; what a vocoder is, in a key.

    It may wait: each sound is wanted at once. What is looked for is what cannot be done on a GPU at all.
    """
    with unset_fake_temporarily():
        root = Path(tempfile.mkdtemp())
        tiny = Tiny(root, *(root / name for name in ("tokenizer", "vocoder", "text_lm", "suite", "speech")))
        make_tokenizer(tiny.tokenizer, seed=0)
        make_vocoder(tiny)
        tok, voc = SpeechTokenizer.load(tiny.tokenizer), Vocoder.load(tiny.vocoder)
        soundfile.write(root / "prompt.wav", babble(4.0, seed=0), 16_000)
    tok = dataclasses.replace(tok, encoder=dataclasses.replace(tok.encoder, model=move(copied(tok.encoder.model))))
    for part in (voc.synthesizer, voc._pace):
        move(part)
    lm = cold_start("smollm2-135m", tok.spec, seed=0, layers=2)
    move(lm.model)
    entry = Entry(id="prompt", path=root / "prompt.wav", seconds=4.0)
    spoken = voc._spoken
    # How long units last decides a shape, and there are no numbers here: each lasts as long as in the recording.
    voc._spoken = lambda many, durations, voices, *, most: spoken(many, "given", voices, most=most)  # type: ignore
    watch.clear()
    continuations([entry], root / "samples", tok, voc, [("warm", lm)], None, seed=0)
    assert voc.synthesizer.sha256()
    watch.waits.clear()


def hubert_training(watch: Watch) -> None:
    config = hubert_config(
        size="base", frame_rate=25, front_end="waveform", n_targets=100, updates=10, bf16=True, seed=0
    )
    model = move(masked_prediction.MaskedUnitPredictor(config))
    n = round(config.crop_seconds * 16000)
    frames = frames_of(n, config.hubert().conv_kernel, config.hubert().conv_stride)
    batch = (
        torch.zeros(2, n, device=CUDA),
        torch.zeros(1, 2, frames, dtype=torch.int64, device=CUDA),
        torch.zeros(2, frames, dtype=torch.bool, device=CUDA),
    )
    watch.clear()
    with torch.autocast("cuda", torch.bfloat16):
        loss, _ = masked_prediction.loss_of(model, batch, config)
    loss.backward()


STAGES: dict[str, Callable[[Watch], None]] = {
    **{f"train {name}": partial(train, name) for name in TRAINED},
    "train in float32": partial(train, "opt-350m", precision="float32"),
    "train, activations again": partial(train, "smollm2-135m", again=True),
    "train in parts": partial(train, "smollm2-135m", accumulate=2),
    **{f"score {name}": partial(score_, name) for name in SPOKEN},
    **{f"sample {n} {name}": partial(sample, name, n=n) for name in SPOKEN for n in (1, 3)},
    **{f"serve {name}": partial(serve, name) for name in ("opt-350m", "smollm2-135m", "qwen2.5")},
    **{f"tokenize {n} {name}": partial(tokenize, name, n=n) for name in NAMES for n in (1, 3)},
    "vocode, given durations": partial(vocode, "given"),
    "train an encoder": hubert_training,
    "quickstart": quickstart,
}  # fmt: skip


def run(name: str) -> dict[str, Any]:
    """Return what a stage did, or why it failed."""
    with simulated() as watch:
        try:
            STAGES[name](watch)
            failed = ""
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the finding
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f for f in frames if "/twistlm/" in f.filename or "/transformers/" in f.filename]
            places = [f"{Path(f.filename).name}:{f.lineno}" for f in ours]
            failed = f"{type(error).__name__}: {str(error)[:300]} at {places[-3:]}"
    return {"failed": failed, "kernels": sum(watch.kernels.values()), "waits": watch.waits, "unpinned": watch.unpinned}


if __name__ == "__main__":
    if "--list" in sys.argv:
        print("\n".join(STAGES))
    else:
        pretend()
        names = list(STAGES) if "--all" in sys.argv else sys.argv[1:]
        print(json.dumps({name: run(name) for name in names}))
