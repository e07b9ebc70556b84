"""Keys of finished runs: they know what moves a number, and do not move when twistlm gets a new setting."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest

from twistlm import recipes
from twistlm.config import TrainConfig, override
from twistlm.study import long, steady
from twistlm.study.grid import cells
from twistlm.study.grid.cells import Cell
from twistlm.study.keys import STILL, moving

DOCUMENTS = "0123456789abcdef"  # a fingerprint of some
CONFIG = recipes.load_training("quickstart")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Later(TrainConfig):
    """What a training may have one day."""

    later: float = 0.5


def later(config: TrainConfig, **more: Any) -> Later:
    return Later(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)}, **more)


def with_(config: Any, **values: Any) -> Any:
    """A copy with other values; trainings may be of another version's class."""
    made = copy.copy(config)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def keys(config: Any) -> list[str]:
    train = dataclasses.replace(config.warm, updates=40, schedule="wsd", seed=0)
    grid = with_(recipes.load_grid("two-cores"), train=config.warm, rows=config.rows)
    cell = Cell(arm="warm", layers=30, amount=1.0, seed=0, rate=1e-3, split="test")
    return [
        steady.key(config, DOCUMENTS, arm="warm", seed=0, numerics="bf16"),
        long.key(config, train, DOCUMENTS, "warm", ()),
        cells.key(grid, cell, DOCUMENTS),
    ]


def test_keys_of_finished_runs_stay_what_they_are() -> None:
    """Lines of docs/warm_vs_cold rest on them: who changes these makes hours of runs again, and must say why."""
    one_by_one = dataclasses.replace(CONFIG, rows="covariance")  # recipes/covariance.toml
    assert keys(one_by_one) == ["e1ecbabc33c7f524", "da09a0bf549a1511", "4e0b4e2bdc40be67"]
    assert keys(CONFIG) == ["352d616e7ff26c81", "ce5cbce8eaeb8f6f", "a81774d8d9d78bb5"]


def test_a_new_setting_moves_no_key_until_it_says_something_else() -> None:
    with_default, other = with_(CONFIG, warm=later(CONFIG.warm)), with_(CONFIG, warm=later(CONFIG.warm, later=0.25))
    assert "later" not in moving(with_default.warm) and keys(with_default) == keys(CONFIG)
    assert moving(other.warm)["later"] == 0.25 and not set(keys(other)) & set(keys(CONFIG))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrainConfig)])
def test_what_moves_a_number_moves_the_key(name: str) -> None:
    was = getattr(CONFIG.warm, name)
    value = {"schedule": "wsd", "betas": [0.8, 0.9], "precision": "float32", "sharing": "whole"}.get(
        name, (not was) if isinstance(was, bool) else 2 * was or 1
    )
    changed = override(CONFIG.warm, [f"{name}={str(value).lower() if isinstance(value, bool) else value}"])
    assert (moving(changed) == moving(CONFIG.warm)) == (name in STILL)


def test_what_a_run_sets_itself_is_not_the_recipe_s() -> None:
    """The arm's rates, the seed and the precision of `study steady` are those of the run, whatever the recipe says."""
    other = dataclasses.replace(CONFIG, warm=override(CONFIG.warm, ["seed=7", "precision=float32", "lr=1e-4"]))
    for arm, same in (("paper_warm", True), ("warm", False)):
        one, two = (steady.key(c, DOCUMENTS, arm=arm, seed=0, numerics="bf16") for c in (CONFIG, other))
        assert (one == two) == same
    each = {
        steady.key(CONFIG, DOCUMENTS, arm=arm, seed=seed, numerics=numerics)
        for arm in steady.ARMS
        for seed in (0, 1)
        for numerics in steady.NUMERICS
    }
    assert len(each) == len(steady.ARMS) * 2 * len(steady.NUMERICS)
