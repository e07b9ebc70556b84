from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from twistlm import recipes
from twistlm.config import QuickstartConfig, TrainConfig, fingerprint, load_toml, override, to_dict
from twistlm.errors import ConfigError
from twistlm.train.parallel import Ranks

RECIPE_FILES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_toml_changes_only_what_it_names(tmp_path: Path) -> None:
    loaded = recipes.load(write(tmp_path, 'base = "quickstart"\nseed = 3\n[warm]\nlr = 1\nbetas = [0.8, 0.9]\n'))
    base = recipes.quickstart()
    assert loaded == dataclasses.replace(base, seed=3, warm=dataclasses.replace(base.warm, lr=1.0, betas=(0.8, 0.9)))
    assert type(loaded.warm.lr) is float and type(loaded.warm.betas) is tuple


@pytest.mark.parametrize("path", RECIPE_FILES, ids=lambda path: path.name)
def test_shipped_recipe_loads(path: Path) -> None:
    assert isinstance(recipes.load(path), QuickstartConfig)


def test_there_is_a_shipped_recipe_and_names_load_too() -> None:
    assert RECIPE_FILES
    assert recipes.load("laptop") == recipes.laptop()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('base = "quickstart"\n[warm]\nlearning = 1.0\n', "warm: unknown key 'learning'"),
        ('base = "quickstart"\n[warm]\nupdate = 1\n', "did you mean 'updates'"),
        ('base = "quickstart"\nsede = 1\n', "did you mean 'seed'"),
        ('base = "quickstrat"\n', "did you mean 'quickstart'"),
        ("base = 3\n", "base is 3"),
        ("seed = 1\n", "names no base"),
        ("seed = \n", "not TOML that can be used"),
        ('base = "quickstart"\nwarm = 3\n', "is a section"),
        ('base = "quickstart"\nseed = "1"\n', "seed is '1'; it must be of type int"),
        ('base = "quickstart"\nseed = true\n', "seed is True; it must be of type int"),
        ('base = "quickstart"\n[cold]\nupdates = 2.5\n', "updates is 2.5; it must be of type int"),
        ('base = "quickstart"\n[cold]\nschedule = "cosin"\n', "did you mean 'cosine'"),
        ('base = "quickstart"\n[cold]\nlr = nan\n', "finite"),
        ('base = "quickstart"\n[cold]\nlr = 0.0\n', "above 0"),
        ('base = "quickstart"\n[cold]\nlr_floor = 1.0\n', "above lr"),
        ('base = "quickstart"\n[cold]\nbetas = [0.9]\n', "list of 2"),
        ('base = "quickstart"\n[cold]\nbetas = [0.9, 1.0]\n', "below 1"),
        ('base = "quickstart"\n[cold]\nupdates = 0\n', "cold: updates is 0; it must be at least 1"),
        ('base = "quickstart"\nout = ""\n', "out is empty"),
    ],
)
def test_bad_toml_is_refused_with_file_and_key(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        recipes.load(path)
    assert str(path) in str(caught.value) and expected in str(caught.value)


def test_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_toml(tmp_path / "none.toml", bases=recipes.RECIPES)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load_toml(tmp_path / "binary.toml", bases=recipes.RECIPES)


def test_override() -> None:
    base = recipes.quickstart()
    changed = override(base, ["warm.lr=1e-3", "cold.schedule=cosine", "warm.betas=[0.8, 0.9]", "out=runs/my run"])
    assert (changed.warm.lr, changed.cold.schedule, changed.warm.betas) == (1e-3, "cosine", (0.8, 0.9))
    assert changed.out == "runs/my run"
    assert override(base.warm, ["updates=7"]).updates == 7
    assert override(base, []) == base
    merged = override(base, ["warm.lr=1e-3", "warm={updates=7}", "warm.seed=3"]).warm
    assert (merged.lr, merged.updates, merged.seed) == (1e-3, 7, 3)


def test_overrides_are_checked_together() -> None:
    """Lowering lr alone would pass below its floor; with the floor lowered too it is fine, in either order."""
    base = recipes.quickstart()
    with pytest.raises(ConfigError, match="lr_floor"):
        override(base, ["warm.lr=1e-5"])
    both = ["warm.lr=1e-5", "warm.lr_floor=1e-6"]
    assert override(base, both) == override(base, both[::-1])


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("warm.lr", "name=value"),
        ("warm.lrr=1", "did you mean 'lr'"),
        ("train.lr=1", "unknown key 'train'"),
        ("warm=1", "is a section"),
        ("warm.lr.x=1", "lr is"),
        ("warm.lr=fast", "lr is 'fast'"),
    ],
)
def test_bad_override(assignment: str, expected: str) -> None:
    with pytest.raises(ConfigError, match="--set") as caught:
        override(recipes.quickstart(), [assignment])
    assert expected in str(caught.value)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(TrainConfig)])
def test_fingerprint_depends_on_every_field(field: str) -> None:
    base = dataclasses.replace(recipes.quickstart().warm, batch_rows=3)
    others = {"schedule": "inverse_sqrt", "precision": "float32", "betas": (0.5, 0.5), "lr_floor": 0.0}
    others |= {"checkpoint_activations": True, "compile": True, "sharing": "whole", "deterministic": True}
    other = others[field] if field in others else getattr(base, field) * 2 + 1
    assert fingerprint(dataclasses.replace(base, **{field: other})) != fingerprint(base)


def test_fingerprint_is_stable() -> None:
    base = recipes.quickstart().warm
    assert fingerprint(base) == fingerprint(TrainConfig(**to_dict(base)))
    assert fingerprint(dataclasses.replace(base, lr=1)) == fingerprint(dataclasses.replace(base, lr=1.0))


def test_warm_and_cold_differ_only_in_what_is_tuned_for_each() -> None:
    for recipe in [*recipes.RECIPES.values(), *recipes.TRAINING.values()]:
        config = recipe()
        tuned = {name: getattr(config.warm, name) for name in ("lr", "lr_floor", "warmup", "clip_norm")}
        assert dataclasses.replace(config.cold, **tuned) == config.warm


def test_the_paper_sees_its_tokens() -> None:
    """10.8e9 tokens for the OPT models, 36e9 for the LLaMA ones; a row holds a clip of 704 units and <s>."""
    for name, tokens in {"125m": 10.8e9, "350m": 10.8e9, "1.3b": 10.8e9, "7b": 36e9, "13b": 36e9}.items():
        config = recipes.TRAINING[f"twist-{name}"]()
        places = config.warm.updates * config.warm.batch_rows * config.warm.context
        assert config.warm.context >= 705 and 0.02 < 1 - tokens / places < 0.06  # packing's share of padding
        assert config.warm.context % 128 != 64  # see lm.attention.sound_kernels
        for world in (1, 2, 4, 8, 16, 32, *((64, 128) if name in ("7b", "13b") else ())):
            parts = Ranks(0, world).parts(config.warm)
            assert config.warm.batch_rows // world / parts <= config.warm.batch_rows / config.warm.accumulate


def test_a_training_recipe_is_not_a_quickstart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="twist train --recipe twist-350m"):
        recipes.load("twist-350m")
    path = write(tmp_path, 'base = "twist-350m"\n[warm]\nlr = 1e-4\n')
    assert recipes.load_training(path).warm.lr == 1e-4 and recipes.load_training(path).text_lm == "opt-350m"
    assert recipes.load_training("quickstart") == recipes.quickstart()
    with pytest.raises(ConfigError, match="did you mean 'twist-350m'"):
        recipes.load_training(write(tmp_path, 'base = "twist-35m"\n'))


def test_configuration_does_not_import_torch() -> None:
    code = "import sys, twistlm.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
