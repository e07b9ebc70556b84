"""Tokenizing, sampling and speaking on one GPU, for gpu.py."""

from __future__ import annotations

import dataclasses
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import soundfile
import torch
from gpu_timing import profiled, timed
from gpu_training import SPEC, random_lm
from numpy.typing import NDArray

from twistlm.audio.clip import Clip
from twistlm.compute.batching import batches
from twistlm.compute.devices import device
from twistlm.corpus.cutting import cut
from twistlm.corpus.manifest import build
from twistlm.corpus.shards import Row
from twistlm.corpus.sounds import read_clip
from twistlm.files.artifacts import bundled
from twistlm.lm.sample import generate_batch
from twistlm.types import Units
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.vocoder import Vocoder

HOURS_BAR, AGREEMENT_BAR = 2_000, 0.995


def tokenize(*, small: bool) -> dict[str, Any]:
    """Tokenizing from FLAC as `twist tokenize` does, with the bundled encoder and with two of published shapes.

    What binds: `reading` are the same files read by as many threads and not cut, `cutting` the same clips from memory.
    """
    found: dict[str, Any] = {"hours_bar": HOURS_BAR, "agreement_bar": AGREEMENT_BAR}
    with tempfile.TemporaryDirectory() as folder:
        clips = [entry for entry in build(bundled("speech")) if (entry.seconds or 5.0) < 30][: 2 if small else 40]
        rate, copies = 16_000, 1 if small else 25

        def write(i: int) -> NDArray[np.float32]:
            samples = read_clip(clips[i], sample_rate=rate).samples
            for copy in range(copies):
                soundfile.write(f"{folder}/{i:03}-{copy:03}.flac", np.roll(samples, copy * 1000), rate)
            return samples

        with ThreadPoolExecutor() as threads:
            speech = np.concatenate(list(threads.map(write, range(len(clips)))))[: 24 * rate]
            entries = build(folder)
            sounds: list[Clip] = []
            seconds = timed(lambda: sounds.extend(threads.map(partial(read_clip, sample_rate=rate), entries)))
        hours = sum(clip.seconds for clip in sounds) / 3600
        found |= {"hours": hours, "reading": hours / (seconds / 3600)}
        for name, tok in (
            ("mini-25hz-500", SpeechTokenizer.load("mini-25hz-500")),
            ("hubert-base shape, layer 9, km500", hubert_base(9, speech, hop=320, small=small)),
            ("mhubert-base-25hz shape, layer 11, km500", hubert_base(11, speech, hop=640, small=small)),
        ):
            there = tok.on(device())
            list(cut(entries[:4], there))  # kernels choose themselves
            rows: list[Any] = []
            seconds = timed(partial(lambda t, r: r.extend(cut(entries, t)), there, rows))
            good = [row for row in rows if isinstance(row, Row)]
            assert len(good) == len(entries), rows
            parts = list(batches([clip.seconds for clip in sounds], there.batch_seconds or 60.0))
            alone = timed(partial(lambda t, p: [t.batch([sounds[i] for i in part]) for part in p], there, parts))
            there.batch([sounds[i] for i in parts[0]])
            a_batch: dict[str, Any] = {"seconds": sum(sounds[i].seconds for i in parts[0])}
            with profiled(not small, a_batch):
                there.batch([sounds[i] for i in parts[0]])
            some = range(0, len(entries), max(1, len(entries) // 12))
            same = np.concatenate([good[i].units.frames == tok(sounds[i]).frames for i in some])
            found[name] = {
                "hours_an_hour": hours / (seconds / 3600), "cutting": hours / (alone / 3600),
                "agreement": float(same.mean()), "frames_compared": len(same),
                "a_batch": a_batch,
            }  # fmt: skip
    return found


def hubert_base(layers: int, speech: NDArray[np.float32], *, hop: int, small: bool) -> SpeechTokenizer:
    """HuBERT base's shape with random weights, so many layers, and 500 centroids that are frames of `speech`.

    A hop of 640 is one more convolution, as mHuBERT at 25 Hz has.
    """
    from transformers import HubertConfig, HubertModel

    from twistlm.units.encoder import SSLEncoder
    from twistlm.units.encoder import cut as cut_layers
    from twistlm.units.kmeans import Codebook

    size: dict[str, Any] = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_conv_pos_embedding_groups": 4,
    }
    n = 8 if hop == 640 else 7
    config = HubertConfig(
        num_hidden_layers=layers, conv_dim=(512,) * n, conv_stride=(5, *(2,) * (n - 1)),
        conv_kernel=(10, 3, 3, 3, 3, *(2,) * (n - 5)), **(size if small else {}),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = SSLEncoder(cut_layers(config, HubertModel(config).state_dict(), layers), layers)
    frames = encoder(speech)
    chosen = np.random.default_rng(0).permutation(len(frames))[:500]
    spec = dataclasses.replace(SPEC, hop=hop, n_units=len(chosen))
    return SpeechTokenizer(encoder, Codebook(frames[chosen]), spec)


def sample(*, small: bool) -> dict[str, Any]:
    """A 135M model continues 256 prompts; against transformers' generate, which draws from one generator."""
    lm = random_lm("smollm2-135m", SPEC, layers=1 if small else None)
    n, units = (2, 4) if small else (256, 150)
    rng = np.random.default_rng(0)
    prompts = [Units(rng.integers(0, 500, 50).astype(np.uint16), np.ones(50, np.int32), SPEC) for _ in range(n)]
    ours = partial(generate_batch, lm, prompts, temperature=0.8, seeds=range(n), max_units=units, stop_at_end=False)
    ids = torch.from_numpy(np.stack([lm.vocab.prompt(p.ids) for p in prompts])).to(lm.device)
    theirs = partial(
        lm.model.generate, ids, do_sample=True, temperature=0.8, max_new_tokens=units, min_new_tokens=units,
        attention_mask=torch.ones_like(ids), pad_token_id=0,
    )  # fmt: skip
    for work in (ours, theirs):
        work()
    a, b = timed(ours), timed(theirs)
    few: dict[str, Any] = {"units": 20}
    with profiled(not small, few):
        generate_batch(lm, prompts, temperature=0.8, seeds=range(n), max_units=20, stop_at_end=False)
    return {"units_per_second": n * units / a, "against_generate": b / a, "batch": n, "units": units, "a_few": few}


def speak(*, small: bool) -> dict[str, Any]:
    """The bundled vocoder speaks 64 clips of 10 s together; against one after the other."""
    voc = Vocoder.load("mini-25hz-500").on(device())
    n, frames = (2, 25) if small else (64, 250)
    rng = np.random.default_rng(0)
    many = [
        Units(rng.integers(0, 500, frames).astype(np.uint16), np.ones(frames, np.int32), voc.spec) for _ in range(n)
    ]
    batch = partial(voc.batch, many, durations="given")
    batch()
    together, alone = timed(batch), timed(lambda: [voc(units, durations="given") for units in many])
    return {"seconds_a_second": n * frames / 25 / together, "against_alone": alone / together, "batch": n}
