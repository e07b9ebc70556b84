"""Small inputs of the scenarios, from the stand-ins of the other tests; each function fills a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from standins import Tiny, babble, make_suite, make_text_lm, make_tokenizer, make_vocoder

N_CLIPS = 12
SHARD_CLIPS = 4

GRID = """base = "two-cores"
text_lm = "text-lm"
tokenizer = "tokenizer"
units = "units"
heldout = "units"
layers = [1]
amounts = [1.0]
seeds = [0]
tuning_seeds = [100]
most_rates = 1
cut = ["shuffled", "frozen_body", "random_rows", "mean_rows", "first_rows"]
validation_units = 30
curve_units = 20
test_units = 40
out = "study"

[train]
updates = 4
context = 32
eval_every = 2
checkpoint_every = 2
precision = "float32"

[warm]
rates = [1e-3]
warmup = 1

[cold]
rates = [1e-3]
warmup = 1
"""

# Of both sides; all that is not said is the quickstart's.
RECIPE = """base = "quickstart"
text_lm = "text-lm"
[warm]
{0}
[cold]
{0}
""".format(
    "\n".join([
        "updates = 3", "batch_rows = 2", "context = 32", "warmup = 1", "eval_every = 1", "checkpoint_every = 2",
        'precision = "float32"',
    ])
)  # fmt: skip


def all_of(*parts: Callable[[Path], None]) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        for part in parts:
            part(folder)

    return prepare


def speech(folder: Path, n: int = N_CLIPS) -> None:
    import soundfile

    for i in range(n):
        place = folder / "speech" / ("low", "high")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        soundfile.write(place / f"{i}.wav", babble(1.0 + 0.1 * i, seed=i, pitch=(100.0, 190.0)[i % 2]), 16_000)


def little_speech(folder: Path) -> None:
    speech(folder, 6)


def tokenizer(folder: Path) -> None:
    make_tokenizer(folder / "tokenizer", seed=0)


def units(folder: Path) -> None:
    """Shards of a few clips, a quarter held out, and their cache."""
    from twistlm.corpus import manifest
    from twistlm.corpus.opened import open_corpus
    from twistlm.corpus.tokenize import tokenize
    from twistlm.units.tokenizer import SpeechTokenizer

    speech(folder)
    tokenizer(folder)
    entries = manifest.build(folder / "speech", heldout=0.25)
    tokenize(entries, folder / "units", SpeechTokenizer.load(folder / "tokenizer"), shard_clips=SHARD_CLIPS)
    open_corpus(folder / "units", split=None)


def random_units(folder: Path) -> None:
    """Shards without a tokenizer, and without their cache."""
    import numpy as np

    from twistlm.corpus.shards import Row, ShardWriter
    from twistlm.types import Units, UnitSpec

    spec = UnitSpec(
        encoder="none", encoder_sha256="0" * 64, layer=1, tap="block_output", normalize_input=False,
        sample_rate=16_000, hop=640, n_units=100, centroids_sha256="1" * 64, deduplicate=False,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    with ShardWriter(folder / "units", spec, clips=4) as writer:
        for i in range(10):
            ids = rng.integers(0, spec.n_units, 2000).astype(np.uint16)
            units = Units(ids, np.ones(len(ids), np.int32), spec, f"d{i}")
            writer.add(Row(units=units, seconds=units.seconds, split="train" if i % 4 else "heldout"))


def text_lm(folder: Path) -> None:
    make_text_lm(folder / "text-lm")


def suite(folder: Path) -> None:
    make_suite(folder / "suite")


def model(folder: Path) -> None:
    """A model of the tokenizer's units, not trained."""
    from twistlm.lm.warmstart import warm_start
    from twistlm.units.catalogue import read_spec

    text_lm(folder)
    warm_start(folder / "text-lm", read_spec(folder / "tokenizer"), rows="covariance", seed=0).save(folder / "model")


def published(folder: Path) -> None:
    """The layout of TWIST's release."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, OPTConfig

    config = OPTConfig(
        vocab_size=40, ffn_dim=48, word_embed_proj_dim=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(3)
    made = AutoModelForCausalLM.from_config(config).eval()
    (folder / "release").mkdir()
    said = config.to_dict() | {"offset": 4, "architectures": [type(made).__name__]}
    (folder / "release/config.json").write_text(json.dumps(said))
    state = {k: v.clone() for k, v in made.state_dict().items()}
    save_file(state, folder / "release/model.safetensors", metadata={"format": "pt"})


def unit_lines(folder: Path) -> None:
    rows = [{"file_name": f"c{i}", "units": [i % 12, (i + 5) % 12, 3], "duration": [1, 2, 3]} for i in range(N_CLIPS)]
    (folder / "features.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def sentences(folder: Path) -> None:
    rows = [
        {"id": f"p{i}", "phenomenon": "x", "type": "y", "good": f"The {word} runs.", "bad": f"The {word} run."}
        for i, word in enumerate(("dog", "cat"))
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def stories(folder: Path) -> None:
    lines = ["id,topic,sentence1,sentence2,sentence3,sentence4,right,wrong"]
    lines += [f"s{i},t{i},One {i}.,Two.,Three.,Four.,Well {'very ' * i}{i}.,Badly {i}." for i in range(2)]
    (folder / "stories.csv").write_text("\n".join(lines) + "\n")


def grid(folder: Path) -> None:
    units(folder)
    text_lm(folder)
    suite(folder)
    (folder / "grid.toml").write_text(GRID)


def recipe(folder: Path) -> None:
    units(folder)
    text_lm(folder)
    (folder / "short.toml").write_text(RECIPE)


def vocoder(folder: Path) -> None:
    """A vocoder that was not trained, "like", and what it needs to be trained or to speak."""
    little_speech(folder)
    tokenizer(folder)
    make_vocoder(Tiny(folder, folder / "tokenizer", folder / "like", folder, folder, folder))
