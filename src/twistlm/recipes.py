"""Recipes: functions that return a whole configuration. A TOML file or `--set` changes single fields of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from twistlm.config import QuickstartConfig, TrainConfig, load_toml


def quickstart() -> QuickstartConfig:
    """The whole loop on the bundled speech: SmolLM2-135M warm against its cold twin, each at its own learning rate.

    100 units, not 500: in the 20,000 tokens that two cores can train on in three minutes, a model of 500 units learns
    how common each is and little more, warm or cold.

    Hardware: two CPU cores, no GPU; bf16 where the CPU computes it.
    Time and expected result: see RESULTS.md, "quickstart".
    """
    return QuickstartConfig(
        speech="bundled",
        tokenizer="mini-25hz-100",
        text_lm="smollm2-135m",
        vocoder="mini-25hz-100",
        # Tuned side by side: RESULTS.md, "quickstart". Warm is not clipped: its gradient's norm jumps between 4 and 140
        # with the new rows, and a clip would weigh the updates by those jumps.
        warm=_short_run(lr=7e-4, warmup=6, clip_norm=1000.0),
        cold=_short_run(lr=5e-4, warmup=3, clip_norm=1.0),
        seed=0,
        n_resynth=50,
        out="runs/quickstart",
    )


def laptop() -> QuickstartConfig:
    """The loop for one's own speech on a laptop. For now the same budget as `quickstart`, in a folder of its own.

    Hardware: two or more CPU cores, or one GPU.
    Time and expected result: see RESULTS.md, "laptop".
    """
    return dataclasses.replace(quickstart(), out="runs/laptop")


RECIPES: dict[str, Callable[[], QuickstartConfig]] = {"quickstart": quickstart, "laptop": laptop}


def load(name_or_path: str | Path) -> QuickstartConfig:
    """Return the recipe of this name, or the configuration in this TOML file.

    Raises:
        ConfigError: see `twistlm.config.load_toml`.
    """
    if str(name_or_path) in RECIPES:
        return RECIPES[str(name_or_path)]()
    return load_toml(name_or_path, bases=RECIPES)


def _short_run(*, lr: float, warmup: int, clip_norm: float) -> TrainConfig:
    """Everything the warm and the cold run share; the floor follows the learning rate."""
    return TrainConfig(
        updates=27,
        batch_rows=3,
        accumulate=1,
        context=256,
        lr=lr,
        lr_floor=lr / 10,
        schedule="cosine",
        warmup=warmup,
        weight_decay=0.01,
        betas=(0.9, 0.98),
        clip_norm=clip_norm,
        precision="auto",
        eval_every=3,
        checkpoint_every=14,
        seed=0,
    )
