"""Guess the next units cheaply, on a CPU, with int8 copies of the weights.

A step of one sequence takes as long as reading the weights, whether it reads one token or seven. So a few units are
drafted, and one step of the model itself judges them: a sequence's random numbers are fixed before it begins
(`noise`), so each draft either is the unit that the model takes there or is replaced by it (self-speculative decoding
after Leviathan et al., 2023, but with equality in place of their rejection rule). Whether that is faster here is tried
(`compute.choices`).

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from twistlm.compute import choices
from twistlm.compute.products import bias_of, int8_may_help, int8_product, linears, multiplied_by, quick_products
from twistlm.compute.threads import in_order
from twistlm.lm.lean import LeanStep, can_be_lean
from twistlm.lm.model import UnitLM
from twistlm.lm.table import Table, read

DRAFTS, FEWEST_DRAFTS = 6, 3  # units that one step judges: fewer after one in which few were right
FIRST_DRAFTS = 8  # of a sequence's first such step: a listener waits for about so many
# Units to come from which a sequence repays its preparations: int8 weights, and the model's own weights laid out for a
# few rows. Int8 weights laid out take as long as some fifty units: only who goes on and on has them.
DRAFTED_FROM, LAID_OUT_FROM = 12, 128
# Units to come from which it is tried whether drafts are faster here, in about so many seconds; and the share of drafts
# that are right of a trained model at temperature 0.8 to 1 (94 to 98 %: 6 units a judging step).
TRIED_FROM, TRIAL_SECONDS, RIGHT = 64, 0.3, 0.95
_LONG = 10**6  # tokens: a row of a model that sets no limit


class Drafter:
    """What a model would say next, nearly."""

    def __init__(self, lm: UnitLM, *, laid_out: bool) -> None:
        """Make int8 copies of the model's weights; whether `laid_out`: see `int8_product`."""
        make = functools.partial(int8_product, laid_out=laid_out)
        self.lm = lm
        self.lean = LeanStep(lm.model, make, each=in_order) if can_be_lean(lm.model) else None
        self.products = {} if self.lean else {m: make(m.weight.detach(), bias_of(m)) for m in linears(lm.model)}

    def read(self, table: Table, tokens: Sequence[int], starts: Sequence[int]) -> torch.Tensor:
        """Let the first rows of the table read a token each, behind their starts: [B, V]."""
        with multiplied_by(self.products):
            return read(self.lm, table, [[token] for token in tokens], first=0, starts=starts, lean=self.lean)[:, 0]


def drafters(lm: UnitLM, *, rows: int, units: int | None) -> list[Drafter | None]:
    """Return what one row is drafted with, two, …: None where drafts are not faster, or not worth their making.

    Args:
        lm: the model, which obeys a mask and explicit positions, inside `inference`.
        rows: how many there may be.
        units: to come, when one row is all there is; None: many.
    """
    none: list[Drafter | None] = [None] * rows
    if not worth_a_draft(lm, units) or not int8_may_help(lm.model):
        return none
    made = Drafter(lm, laid_out=units is None)
    few = made if _pays(made, 1) else None
    many = few if rows == 1 else made if _pays(made, rows) else None
    return [few if 2 * n < rows else many for n in range(rows)]


def worth_a_draft(lm: UnitLM, units: int | None) -> bool:
    """Tell whether drafts may be worth their making for so many units to come, by what is known already."""
    if units is None:
        return True
    choice = choices.known("drafts", _in_words(lm, 1))
    return units >= (TRIED_FROM if choice is None else DRAFTED_FROM) and (choice is None or choice.took != "none")


def can_be_drafted(lm: UnitLM) -> bool:
    """Tell whether what a model has read can be taken back: not from a sliding window, nor from a recurrent state."""
    return lm.obeys_mask(lm.max_tokens or _LONG)


def _pays(made: Drafter, rows: int) -> bool:
    """Tell whether `rows` sequences are continued faster with drafts; tried here if it never was."""
    seconds = functools.partial(_step_seconds, made, rows)
    return choices.choose("drafts", _in_words(made.lm, rows), seconds).took != "none"


def _in_words(lm: UnitLM, rows: int) -> str:
    n_weights = sum(p.numel() for p in lm.model.parameters())
    threads = f"{torch.get_num_threads()} threads{f', {rows} rows' if rows > 1 else ''}"
    return f"{lm.model.config.model_type} of {n_weights} weights, {threads}"


def _step_seconds(made: Drafter, rows: int) -> dict[str, float]:
    """Return the seconds a unit takes plainly, and with as many drafts as serve best where RIGHT of them are right."""
    lm = made.lm
    seen = min(64, (lm.max_tokens or _LONG) - DRAFTS - 1)
    table, token = Table(rows), lm.vocab.offset
    for row in range(rows):
        read(lm, table, [[token] * seen], first=row, starts=[0])
    starts = [seen] * rows

    def step(n: int) -> None:
        read(lm, table, [[token] * n] * rows, first=0, starts=starts)

    with quick_products(lm.model):
        ways = {"none": lambda: step(1), "a draft": lambda: made.read(table, [token] * rows, starts)}
        found = choices.race(ways, seconds=TRIAL_SECONDS / 2)
    with quick_products(lm.model, rows=DRAFTS + 1):
        judging = choices.race({"judging": lambda: step(DRAFTS + 1)}, seconds=TRIAL_SECONDS / 2)["judging"]
    plain, draft = found["none"], found["a draft"]
    unit = min(
        (n * draft + plain + n / DRAFTS * (judging - plain)) * (1 - RIGHT) / (1 - RIGHT ** (n + 1))
        for n in range(1, DRAFTS + 1)
    )
    return {**found, "judging": judging, "int8": unit}
