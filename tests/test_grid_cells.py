"""Which runs a grid wants, in which order, and how its learning rates are tuned."""

from __future__ import annotations

import dataclasses
import math

import pytest

from twistlm import recipes
from twistlm.config import GridConfig, TrainConfig, load_toml, override
from twistlm.errors import BadInput, ConfigError
from twistlm.study.grid import rows
from twistlm.study.grid.cells import Cell, key, tune, wanted
from twistlm.study.grid.planning import foreseen

_BASE = recipes.two_cores()
GRID = dataclasses.replace(
    _BASE,
    choose_by="mean",
    noise=0.0,
    tuning_seeds=(100,),
    most_rates=5,
    **{arm: dataclasses.replace(getattr(_BASE, arm), rates=(2e-4, 4e-4, 8e-4)) for arm in ("warm", "shuffled")},
    **{arm: dataclasses.replace(getattr(_BASE, arm), rates=(5e-4,)) for arm in ("tied_warm", "tied_cold")},
)


def valley(best: float):
    """Losses with their lowest at a rate."""
    return lambda cell: abs(math.log(cell.rate / best)) if cell.split == "validation" else None


def rates(tuning):
    return list(dict.fromkeys(cell.rate for cell in tuning.cells))


def nothing(_: Cell) -> None:
    return None


def test_before_anything_is_known_the_tunings_are_wanted_and_the_first_point_s_come_first():
    cells = wanted(GRID, nothing)
    given = [cell for cell in cells if cell.split == "test"]
    assert {cell.arm for cell in given} == {"tied_warm", "tied_cold"}, "an arm of one rate waits for no tuning"
    cells = [cell for cell in cells if cell not in given]
    assert {cell.seed for cell in cells} == {*GRID.tuning_seeds}
    n = len(GRID.tuning_seeds)
    assert [(c.arm, c.layers) for c in cells[: 6 * n]] == [("warm", 30)] * 3 * n + [("cold", 30)] * 3 * n
    assert len(cells) == len(set(cells)), "a tuning that several amounts share is wanted once"
    # warm and cold at three sizes, shuffled, frozen and random rows at one; mean and first rows take warm's
    assert len(cells) == (3 * 6 + 3 * 3) * n


def test_the_whole_grid_is_the_product_with_the_most_telling_cells_first():
    cells = wanted(GRID, valley(4e-4))
    reported = [cell for cell in cells if cell.split == "test"]
    sides = {(c.arm, c.layers, c.amount, c.seed) for c in reported if c.arm in ("warm", "cold")}
    assert len(sides) == 2 * 3 * 3 * 3
    assert len(reported) == len(sides) + 8 * 3, "each ablation at one cell, at every seed"
    first = [(c.arm, c.seed) for c in reported[:6]]
    assert first == [(arm, seed) for seed in (0, 1, 2) for arm in ("warm", "cold")]
    assert {(c.layers, c.amount) for c in reported[:18]} == {(30, 1.0)}
    assert {c.rate for c in reported if c.arm in ("warm", "mean_rows", "first_rows")} == {4e-4}


def test_what_is_cut_is_not_wanted():
    cut = wanted(override(GRID, ['cut=["12x0.1"]']), valley(4e-4))
    assert not [c for c in cut if c.split == "test" and (c.layers, c.amount) == (12, 0.1)]
    assert len(cut) == len(wanted(GRID, valley(4e-4))) - 6
    with pytest.raises(ConfigError, match=r"12x0\.2"):
        override(GRID, ['cut=["12x0.2"]'])


@pytest.mark.parametrize(
    ("best", "tried", "rate", "at_edge"),
    [
        (4e-4, [2e-4, 4e-4, 8e-4], 4e-4, False),
        (1.9e-4, [1e-4, 2e-4, 4e-4, 8e-4], 2e-4, False),
        (1.5e-3, [2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3], 1.6e-3, False),
        (1.0, [2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3], 3.2e-3, True),
    ],
)
def test_rates_go_on_beyond_an_edge_that_is_best(best, tried, rate, at_edge):
    found = tune(GRID, "warm", 30, 1.0, valley(best))
    assert rates(found) == pytest.approx(tried)
    assert (found.rate, found.at_edge) == (pytest.approx(rate), at_edge)


def test_a_diverged_rate_is_the_worst_and_all_diverged_is_no_rate():
    high = tune(GRID, "warm", 30, 1.0, lambda c: math.inf if c.rate > 3e-4 else valley(2e-4)(c))
    assert high.rate == 2e-4 and rates(high) == pytest.approx([1e-4, 2e-4, 4e-4, 8e-4])
    gone = tune(GRID, "cold", 30, 1.0, lambda c: math.inf)
    assert gone.rate is None and len(rates(gone)) == GRID.most_rates


def test_the_best_rate_is_the_best_over_all_tuning_seeds():
    once_best = lambda c: 1.0 if c.rate == 8e-4 and c.seed == 100 else math.inf if c.rate > 7e-4 else 2 - c.rate  # noqa: E731
    grid = dataclasses.replace(GRID, tuning_seeds=(100, 101, 102))
    found = tune(grid, "warm", 30, 1.0, once_best)
    assert found.rate == 4e-4 and not found.at_edge and {cell.seed for cell in found.cells} == {100, 101, 102}
    # By the worst seed a rate that is best twice and fails once loses; within the noise the lower rate is taken.
    often_best = lambda c: 3.0 if (c.rate, c.seed) == (4e-4, 101) else 1.0 if c.rate == 4e-4 else 2.0  # noqa: E731
    assert tune(grid, "warm", 30, 1.0, often_best).rate == 4e-4
    worst = dataclasses.replace(grid, choose_by="worst", most_rates=3)
    assert tune(worst, "warm", 30, 1.0, often_best).rate == 2e-4
    by_rate = {2e-4: 2.015, 4e-4: 2.0, 8e-4: 3.0}
    beside = dataclasses.replace(worst, choose_by="worst-with-next")
    assert tune(beside, "warm", 30, 1.0, lambda c: by_rate[c.rate]).rate == 2e-4, "4e-4 lies beside one that fails"
    for noise, taken in ((0.0, 4e-4), (0.02, 2e-4)):
        assert tune(dataclasses.replace(worst, noise=noise), "warm", 30, 1.0, lambda c: by_rate[c.rate]).rate == taken
    unknown = tune(grid, "warm", 30, 1.0, lambda c: None if c.seed == 102 else 1.0)
    assert unknown.rate is None
    with pytest.raises(ConfigError, match=r"\[1\] are tuning_seeds and seeds"):
        dataclasses.replace(GRID, tuning_seeds=(1, 100))


@pytest.mark.parametrize("by", ["mean", "worst", "worst-with-next"])
def test_the_runs_to_come_are_foreseen_whatever_a_rate_is_chosen_by(by):
    grid = dataclasses.replace(GRID, choose_by=by, tuning_seeds=(100, 101))
    cells = wanted(grid, foreseen(grid, nothing))
    known = wanted(grid, valley(4e-4))
    assert sum(c.split == "test" for c in cells) == sum(c.split == "test" for c in known) > 0
    assert {c for c in cells if c.split == "validation"} <= {*known}


def test_a_rate_that_is_taken_at_the_edge_is_said_to_be_there():
    by_rate = {2e-4: 2.015, 4e-4: 2.0, 8e-4: 3.0}
    for noise, at_edge in ((0.02, True), (0.0, False)):
        grid = dataclasses.replace(GRID, choose_by="worst", noise=noise)
        found = tune(grid, "warm", 30, 1.0, lambda c: by_rate[c.rate])
        assert (found.rate, found.at_edge) == (2e-4 if at_edge else 4e-4, at_edge)


def test_what_all_else_is_compared_with_cannot_be_cut():
    with pytest.raises(ConfigError, match="30x1, which are not in the grid"):
        override(GRID, ['cut=["30x1"]'])


def test_tuning_may_be_of_each_amount_or_of_the_first():
    assert tune(GRID, "cold", 4, 0.01, nothing).cells[0].amount == 1.0
    each = dataclasses.replace(GRID, tune_each_amount=True)
    assert tune(each, "cold", 4, 0.01, nothing).cells[0].amount == 0.01
    given = override(GRID, ["cold.rates=[1e-3]"])
    assert tune(given, "cold", 4, 0.01, nothing) == tune(given, "cold", 30, 1.0, nothing)
    assert tune(given, "cold", 30, 1.0, nothing).rate == 1e-3


def test_the_key_follows_everything_that_moves_the_numbers_and_nothing_else():
    cell = Cell(arm="warm", layers=4, amount=0.1, seed=1, rate=4e-4, split="test")
    base = key(GRID, cell, "inputs")
    assert key(GRID, dataclasses.replace(cell), "inputs") == base
    changes = [{"arm": "cold"}, {"layers": 12}, {"amount": 1.0}, {"seed": 2}, {"rate": 5e-4}, {"split": "validation"}]
    others = [key(GRID, dataclasses.replace(cell, **change), "inputs") for change in changes]
    still = {"lr", "lr_floor", "table_rate", "warmup", "clip_norm", "seed", "checkpoint_every", "max_loss_rise"}
    still |= {"sharing", "deterministic"}
    moved = {
        "updates": 121, "batch_rows": 2, "accumulate": 1, "context": 128, "schedule": "inverse_sqrt",
        "weight_decay": 0.1, "betas": [0.8, 0.9], "checkpoint_activations": "true", "precision": "float32",
        "eval_every": 5, "compile": "true",
    }  # fmt: skip
    assert still | moved.keys() == {field.name for field in dataclasses.fields(TrainConfig)}
    others += [
        key(override(GRID, [f"train.{name}={value}" for name, value in pair]), cell, "inputs")
        for pair in ([item] for item in moved.items())
        if pair[0][0] != "accumulate"
    ]
    others.append(key(override(GRID, ["train.batch_rows=2", "train.accumulate=2"]), cell, "inputs"))
    others += [key(override(GRID, [f"warm.{change}"]), cell, "inputs") for change in ("warmup=3", "clip_norm=1.0")]
    others += [
        key(override(GRID, [f"warm.{c}"]), cell, "inputs") for c in ("table_rate=2", "head=as-is", "head_start=rows")
    ]
    others.append(key(GRID, cell, "other"))
    assert len({base, *others}) == 1 + len(others)
    for same in (
        "train.checkpoint_every=7",
        "cold.warmup=3",
        "out=elsewhere",
        "most_rates=6",
        "warm.rates=[1e-4, 4e-4]",
    ):
        assert key(override(GRID, [same]), cell, "inputs") == base, same


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("seeds=[0, 100]", "not reported"),
        ("seeds=[0, 0]", "named twice"),
        ("amounts=[0.5, 2.0]", "above 0 to 1"),
        ("warm.rates=[1e-4, 2e-4, 8e-4]", "same factor"),
        ("cold.rates=[]", "tuned by itself"),
        ("layers=[]", "layers is empty"),
        ("layers=3", "must be a list"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        override(GRID, [change])


def test_grids_are_recipes_and_toml(tmp_path):
    for name, make in recipes.GRIDS.items():
        assert recipes.load_grid(name) == make() and isinstance(make(), GridConfig)
        assert len(make().seeds) >= 3 and len(make().layers) == len(make().amounts) == 3
    (tmp_path / "g.toml").write_text('base = "two-cores"\nlayers = [2]\n[warm]\nrates = [1e-4, 1e-3]\n')
    grid = recipes.load_grid(tmp_path / "g.toml")
    assert grid.layers == (2,) and grid.warm.rates == (1e-4, 1e-3) and grid.cold == _BASE.cold
    with pytest.raises(ConfigError, match="two-cores"):
        load_toml(tmp_path / "g.toml", bases={"other": recipes.full})


def test_lines_are_added_whole_and_the_first_of_a_key_counts(tmp_path):
    assert rows.read(tmp_path) == {}
    for nll in (1.0, 2.0):
        rows.append(tmp_path, {"key": "a", "nll": nll})
    rows.append(tmp_path, {"key": "b", "nll": 3.0})
    assert {k: row["nll"] for k, row in rows.read(tmp_path).items()} == {"a": 1.0, "b": 3.0}
    joined = tmp_path / "joined"
    joined.mkdir()
    text = (tmp_path / rows.NAME).read_text()
    (joined / rows.NAME).write_text(text + text)
    assert rows.read(joined) == rows.read(tmp_path)
    (joined / rows.NAME).write_text(text + '{"key": "c"')
    with pytest.raises(BadInput, match="line 4: not JSON that can be used"):
        rows.read(joined)
