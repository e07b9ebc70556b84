"""Tiny stand-ins for everything the loop needs: they make every stage run for real, in seconds and offline."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

N_UNITS = 12


@dataclass(frozen=True)
class Tiny:
    """Folders: a speech tokenizer, a vocoder of its units, a text LM, a mini sWUGGY, speech (two voices, no text)."""

    root: Path
    tokenizer: Path
    vocoder: Path
    text_lm: Path
    suite: Path
    speech: Path


def babble(seconds: float, *, seed: int, rate: int = 16_000, pitch: float = 120.0) -> np.ndarray:
    """float32 [N]: a harmonic tone whose colour changes every tenth of a second, as vowels do."""
    return _babble(seconds, seed, rate, pitch).copy()


@functools.lru_cache(maxsize=64)
def _babble(seconds: float, seed: int, rate: int, pitch: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    colour = np.repeat(rng.uniform(0, 1, (len(t) * 10 // rate + 1, 8)), rate // 10, axis=0)[: len(t)]
    wave = sum(colour[:, h] * np.sin(2 * np.pi * pitch * (h + 1) * t) for h in range(8))
    return (0.1 * wave + 0.005 * rng.standard_normal(len(t))).astype(np.float32)


def make_tokenizer(folder: Path, *, seed: int) -> Path:
    import torch
    from safetensors.torch import save
    from transformers import HubertConfig, HubertModel

    from twistlm.units.encoder import SSLEncoder
    from twistlm.units.folder import save_tokenizer
    from twistlm.units.kmeans import fit

    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": [16, 16],
        "conv_kernel": [40, 32],
        "conv_stride": [20, 32],
        "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
        "do_stable_layer_norm": False,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HubertModel(HubertConfig(**shape)).eval()
    features = SSLEncoder(model, 2)(babble(60.0, seed=7))
    save_tokenizer(
        folder,
        name="tiny",
        encoder_config=shape,
        encoder_weights=save({k: v.contiguous() for k, v in model.state_dict().items()}),
        layer=2,
        codebook=fit(features, N_UNITS, seed=0),
        normalize_input=False,
        sample_rate=16_000,
        hop=640,
        card="",
    )
    return folder


def make_vocoder(tiny: Tiny) -> None:
    import torch

    from twistlm.types import UnitSpec
    from twistlm.vocoder.durations import DurationConfig
    from twistlm.vocoder.hifigan import HiFiGANConfig
    from twistlm.vocoder.synthesizer import Synthesizer
    from twistlm.vocoder.vocoder import Vocoder

    config = HiFiGANConfig(
        num_embeddings=N_UNITS,
        embedding_dim=8,
        model_in_dim=8,
        upsample_rates=(20, 32),
        upsample_kernel_sizes=(40, 64),
        upsample_initial_channel=8,
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1,),),
        sampling_rate=16_000,
        dur_predictor_params=DurationConfig(
            encoder_embed_dim=8, var_pred_hidden_dim=8, var_pred_kernel_size=3, var_pred_dropout=0.0
        ),
    )
    spec = UnitSpec.from_json((tiny.tokenizer / "spec.json").read_text())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Vocoder(Synthesizer(config).fold().eval(), spec, name="tiny").save(tiny.vocoder)


def make_text_lm(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)


def make_suite(folder: Path) -> None:
    """Write six words in the layout of the bundled mini-swuggy, half of them in the voice nothing is trained on."""
    place = folder / "lexical" / "dev"
    place.mkdir(parents=True)
    columns = ["id", "filename", "voice", "frequency", "word", "length", "correct"]
    with (place / "gold.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for number in range(12):
            i, correct = number // 2, 1 - number % 2
            soundfile.write(place / f"{number}.wav", babble(0.6, seed=100 + number), 16_000)
            voice = "flite-rms" if i % 2 else "flite-slt"
            table.writerow([i, number, voice, "", f"word{i}" if correct else "", 5, correct])
