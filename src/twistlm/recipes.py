"""Recipes: functions that return a whole configuration. A TOML file or `--set` changes single fields of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twistlm.config import ArmConfig, GridConfig, PairConfig, QuickstartConfig, TrainConfig, load_toml
from twistlm.errors import ConfigError

_PAPER: dict[str, Any] = {"head": "as-is", "head_start": "rows"}  # the text model's arrangement, as in TWIST

# The rates tried for new heads at ten times the body's rate, and how far a rate may end from the best and be taken.
_WARM, _COLD, _NOISE = (1e-4, 2e-4, 4e-4), (2.5e-4, 5e-4, 1e-3), 0.02


def quickstart() -> QuickstartConfig:
    """The whole loop on the bundled speech: SmolLM2-135M warm against its cold twin, each at its own learning rate.

    Hardware: two CPU cores, no GPU; bf16 where the CPU computes it.
    Time and expected result: see docs/results/quickstart.md.
    """
    return QuickstartConfig(
        speech="bundled",
        tokenizer="mini-25hz-500",
        text_lm="smollm2-135m",
        vocoder="mini-25hz-500",
        rows="neighbours",
        head="own",
        head_start="zero",
        # Tuned on other seeds than the reported ones, by the worst of three: runs/quickstart_tuning.toml. A head of its
        # own that begins at zero begins at ln V, and new tables want ten times the body's rate: with random mixtures of
        # trained rows as the output, the first gradients are twenty times as large, and rounding decides.
        warm=_short_run(lr=2e-4, warmup=8, clip_norm=10.0, table_rate=10.0),
        cold=_short_run(lr=2.5e-4, warmup=6, clip_norm=1.0, table_rate=10.0),
        seed=0,
        n_resynth=50,
        out="runs/quickstart",
    )


def paper() -> QuickstartConfig:
    """The quickstart as TWIST has it: random new rows, the output being the embedding where the text LM has it so.

    To be held against `quickstart`: here rounding decides how warm ends. The rates are those of the quickstart before
    it had a head of its own; for random rows they were not tuned.
    """
    base = quickstart()
    return dataclasses.replace(
        base,
        rows="random",
        **_PAPER,
        warm=dataclasses.replace(base.warm, lr=4e-4, lr_floor=4e-5, table_rate=1.0),
        cold=dataclasses.replace(base.cold, lr=5e-4, lr_floor=5e-5, table_rate=1.0),
        out="runs/paper",
    )


def tiny() -> QuickstartConfig:
    """The quickstart with a few updates only, to see that everything runs; its numbers mean nothing.

    `recipes/tiny.toml` says the same, as an example of a file; this is there where twistlm is installed without one.
    """
    base = quickstart()
    few: dict[str, Any] = {"updates": 4, "warmup": 1, "eval_every": 2}
    return dataclasses.replace(
        base,
        warm=dataclasses.replace(base.warm, **few),
        cold=dataclasses.replace(base.cold, **few),
        n_resynth=2,
        out="runs/tiny",
    )


def laptop() -> QuickstartConfig:
    """The loop for one's own speech on a laptop: thirty times the tokens of `quickstart` for each side (614,000).

    The learning rates are those of `quickstart`; nobody has tuned them for this length.

    Hardware: two or more CPU cores, or one GPU.
    Time: hours on two cores; `twist train --recipe laptop --plan` says how many on the machine it runs on.
    Expected result: not measured.
    """
    base = quickstart()
    longer: dict[str, Any] = {
        "updates": 300,
        "batch_rows": 8,
        "accumulate": 2,
        "eval_every": 25,
        "checkpoint_every": 25,
    }
    return dataclasses.replace(
        base,
        warm=dataclasses.replace(base.warm, **longer, warmup=60),
        cold=dataclasses.replace(base.cold, **longer, warmup=30),
        out="runs/laptop",
    )


def twist_125m() -> PairConfig:
    """The paper's smallest model: OPT-125M, 400,000 updates of 64 clips, 10.8e9 tokens. See `_opt` for what is known.

    Cost: 5.6e18 FLOPs (6 N D with 87.0e6 parameters); the paper's hours are not known here.
    Expected result: not known here.
    """
    return PairConfig(text_lm="opt-125m", rows="random", **_PAPER, warm=_opt(warm=True), cold=_opt(warm=False))


def twist_350m() -> PairConfig:
    """TWIST-350M: OPT-350M, 400,000 updates of 64 clips, 10.8e9 tokens. See `_opt` for what is known.

    Cost: 8 V100, 40 V100-days (as Slam, arXiv 2502.15814, tells it); 2.0e19 FLOPs.
    Expected result: sBLIMP 56.2 (the same source).
    """
    return PairConfig(text_lm="opt-350m", rows="random", **_PAPER, warm=_opt(warm=True), cold=_opt(warm=False))


def twist_1_3b() -> PairConfig:
    """TWIST-1.3B: OPT-1.3B, 400,000 updates of 64 clips, 10.8e9 tokens. See `_opt` for what is known.

    Cost: 32 V100, 160 V100-days (as Slam, arXiv 2502.15814, tells it); 8.4e19 FLOPs.
    Expected result: sBLIMP 57.0, spoken StoryCloze 52.4 and 70.6 (the same source).
    """
    return PairConfig(text_lm="opt-1.3b", rows="random", **_PAPER, warm=_opt(warm=True), cold=_opt(warm=False))


def twist_7b() -> PairConfig:
    """TWIST-7B: LLaMA-7B, 75,000 updates of 1,024 clips, 36e9 tokens. See `_llama` for what is known.

    Cost: 32 V100, days not known; 1.5e21 FLOPs. Activations are kept: on 32 GPUs a rank is planned to take 47 GB
    (`twist train --plan --gpus 32`, [docs/scale.md]).
    Expected result: sBLIMP 59.0, spoken StoryCloze 55.3 and 74.1 (as Slam, arXiv 2502.15814, tells it).
    """
    return PairConfig(text_lm="llama-7b", rows="random", **_PAPER, warm=_llama(again=False), cold=_llama(again=False))


def twist_13b() -> PairConfig:
    """TWIST-13B, never released: LLaMA-13B, 75,000 updates of 1,024 clips, 36e9 tokens. See `_llama`, and `twist_7b`.

    Cost: 32 V100, days not known; 2.8e21 FLOPs.
    Expected result: sBLIMP 59.2, spoken StoryCloze 55.4 and 76.4.
    """
    return PairConfig(text_lm="llama-13b", rows="random", **_PAPER, warm=_llama(again=True), cold=_llama(again=True))


def full() -> GridConfig:
    """Warm against cold over three sizes and three amounts of data, as `runs/warm_vs_cold.sh` makes the speech for it.

    8.2 million tokens a run, about six times all of 22 hours of speech; five seeds, each side tuned for each size and
    amount.

    Hardware: one GPU. Time and expected result: not measured; `twist study plan full` says how many hours on the
    machine it runs on.
    """
    own: dict[str, Any] = {"warmup": 200, "clip_norm": 10.0, "table_rate": 10.0, "head": "own", "head_start": "zero"}
    tied = own | {"table_rate": 1.0, **_PAPER}
    return GridConfig(
        text_lm="smollm2-135m",
        tokenizer="mini-25hz-100-fourth",
        units="runs/study/units",
        heldout="runs/study/heldout",
        rows="neighbours",
        layers=(30, 12, 4),
        amounts=(1.0, 0.1, 0.01),
        seeds=(0, 1, 2, 3, 4),
        tuning_seeds=(100, 101, 102),
        choose_by="worst-with-next",
        noise=_NOISE,
        most_rates=6,
        tune_each_amount=True,
        validation_units=20_000,
        curve_units=20_000,
        test_units=0,
        cut=(),
        train=dataclasses.replace(
            _short_run(lr=1e-3, warmup=0, clip_norm=1.0),
            compile=True,
            updates=2_000,
            batch_rows=8,
            context=512,
            eval_every=100,
            checkpoint_every=500,
        ),
        warm=ArmConfig(rates=_WARM, **own),
        cold=ArmConfig(rates=_COLD, **own),
        shuffled=ArmConfig(rates=_COLD, **own),
        frozen_body=ArmConfig(rates=_WARM, **own),
        random_rows=ArmConfig(rates=_WARM, **own),
        covariance_rows=ArmConfig(rates=_WARM, **own),
        mean_rows=ArmConfig(rates=_WARM, **own),
        first_rows=ArmConfig(rates=_WARM, **own),
        tied_warm=ArmConfig(rates=(1e-4, 2e-4, 4e-4), **tied),
        tied_cold=ArmConfig(rates=(2.5e-4, 5e-4, 1e-3), **tied),
        out="runs/study/full",
    )


def two_cores() -> GridConfig:
    """The grid of `full` for two CPU cores. Cut: the length of each run, not its cells.

    30,720 tokens a run instead of 8.2 million, in batches of one row, which learn more from so few tokens
    (docs/results/quickstart.md);
    three seeds instead of five; each side is tuned for each size, but at the whole
    data only; mean and first rows take warm's rate; scored are a part of the held-out documents. So few tokens do not
    reach the end of a tenth of 22 hours: only the hundredth part is seen more than once.

    Hardware: two CPU cores; bf16 where the CPU computes it. Time: `twist study plan two-cores`.
    """
    base = full()
    names = ("warm", "cold", *(f.name for f in dataclasses.fields(base) if f.name.endswith(("_rows", "_body"))))
    arms = {name: dataclasses.replace(getattr(base, name), warmup=24) for name in (*names, "shuffled")}
    for name in ("covariance_rows", "mean_rows", "first_rows"):
        arms[name] = dataclasses.replace(arms[name], rates=())
    return dataclasses.replace(
        base,
        **arms,
        seeds=(0, 1, 2),
        tuning_seeds=(100, 101, 102),
        most_rates=4,
        tune_each_amount=False,
        validation_units=2_500,
        curve_units=1_000,
        test_units=8_000,
        train=dataclasses.replace(
            base.train, compile=False, updates=120, batch_rows=1, context=256, eval_every=15, checkpoint_every=0
        ),
        tied_warm=dataclasses.replace(base.tied_warm, warmup=24),
        tied_cold=dataclasses.replace(base.tied_cold, warmup=16, clip_norm=1.0),
        out="runs/study/two-cores",
    )


RECIPES: dict[str, Callable[[], QuickstartConfig]] = {
    "quickstart": quickstart,
    "paper": paper,
    "laptop": laptop,
    "tiny": tiny,
}
TRAINING: dict[str, Callable[[], PairConfig]] = {
    "twist-125m": twist_125m,
    "twist-350m": twist_350m,
    "twist-1.3b": twist_1_3b,
    "twist-7b": twist_7b,
    "twist-13b": twist_13b,
}
GRIDS: dict[str, Callable[[], GridConfig]] = {"full": full, "two-cores": two_cores}


def load(name_or_path: str | Path) -> QuickstartConfig:
    """Return the recipe of the whole loop of this name, or the configuration in this TOML file.

    Raises:
        ConfigError: see `twistlm.config.load_toml`; or the name is of a recipe that only trains.
    """
    if str(name_or_path) in RECIPES:
        return RECIPES[str(name_or_path)]()
    if str(name_or_path) in TRAINING:
        raise ConfigError(
            f"{name_or_path} is a recipe of training runs, not of the whole loop; use it with "
            f"`twist train --recipe {name_or_path}`, or give {' or '.join(RECIPES)}."
        )
    return load_toml(name_or_path, bases=RECIPES)


def load_training(name_or_path: str | Path) -> QuickstartConfig | PairConfig:
    """Return any recipe that has a `warm` and a `cold` run, by name or from a TOML file.

    Raises:
        ConfigError: see `twistlm.config.load_toml`.
    """
    bases: dict[str, Callable[[], Any]] = {**RECIPES, **TRAINING}
    if str(name_or_path) in bases:
        return bases[str(name_or_path)]()
    return load_toml(name_or_path, bases=bases)


def load_grid(name_or_path: str | Path) -> GridConfig:
    """Return the grid of this name, or the one in this TOML file.

    Raises:
        ConfigError: see `twistlm.config.load_toml`.
    """
    return GRIDS[str(name_or_path)]() if str(name_or_path) in GRIDS else load_toml(name_or_path, bases=GRIDS)


def _opt(*, warm: bool) -> TrainConfig:
    """What the paper's OPT models share.

    Confirmed by later papers: the inverse square root with 100 updates of warm-up, 10.8e9 tokens. Recalled with high
    confidence, not confirmed: 64 clips of at most 704 units, 400,000 updates, AdamW, the learning rates and their
    lowest values (warm 8e-5 and 2.5e-5, cold 4e-4 and 8e-5). Not recovered, so these are ours: betas, weight decay,
    clipping, and whether the rate stays at its lowest value as here (from update 1,024 on warm, 2,500 cold).

    The paper's batch is counted in clips, ours in rows that clips are packed into: 64 clips of 422 units on average
    (10.8e9 / 64 / 400,000) and one `<s>` each are 27,072 tokens; 32 rows of 864 hold them with 2 % of padding, and 1 to
    32 ranks can share them.
    """
    return TrainConfig(
        updates=400_000,
        batch_rows=32,
        accumulate=1,
        context=864,
        lr=8e-5 if warm else 4e-4,
        table_rate=1.0,
        lr_floor=2.5e-5 if warm else 8e-5,
        schedule="inverse_sqrt",
        warmup=100,
        weight_decay=0.01,
        betas=(0.9, 0.98),
        clip_norm=1.0,
        max_loss_rise=1.0,
        checkpoint_activations=False,
        compile=True,
        precision="auto",
        eval_every=2_000,
        checkpoint_every=2_000,
        seed=0,
    )


def _llama(*, again: bool) -> TrainConfig:
    """What the paper's LLaMA models share, warm and cold: a learning rate of a cold one is not known.

    Confirmed by later papers: 36e9 tokens. Recalled with high confidence, not confirmed: the cosine from 1e-4 to 1e-5,
    500 updates of warm-up, 1,024 clips, 75,000 updates. Not recovered, so these are ours: betas, weight decay and
    clipping.

    1,024 clips of 469 units on average (36e9 / 1,024 / 75,000) and one `<s>` each are 481,280 tokens; 640 rows of 768
    hold them with 2 % of padding, and up to 128 ranks can share them, in parts of 8 rows or of what each has.
    """
    return TrainConfig(
        updates=75_000,
        batch_rows=640,
        accumulate=80,
        context=768,
        lr=1e-4,
        table_rate=1.0,
        lr_floor=1e-5,
        schedule="cosine",
        warmup=500,
        weight_decay=0.01,
        betas=(0.9, 0.98),
        clip_norm=1.0,
        max_loss_rise=1.0,
        checkpoint_activations=again,
        compile=True,
        precision="auto",
        eval_every=500,
        checkpoint_every=500,
        seed=0,
    )


def _short_run(*, lr: float, warmup: int, clip_norm: float, table_rate: float = 1.0) -> TrainConfig:
    """Everything the warm and the cold run share; the floor follows the learning rate."""
    return TrainConfig(
        updates=40,
        batch_rows=2,
        accumulate=1,
        context=256,
        lr=lr,
        table_rate=table_rate,
        lr_floor=lr / 10,
        schedule="cosine",
        warmup=warmup,
        weight_decay=0.01,
        betas=(0.9, 0.98),
        clip_norm=clip_norm,
        max_loss_rise=0.0,
        checkpoint_activations=False,
        compile=False,
        precision="auto",
        eval_every=4,
        checkpoint_every=20,
        seed=0,
    )
