"""Begin a longer run where the rate of a shorter one began to fall: one long training that gives many budgets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twistlm.config import TrainConfig, fingerprint, to_dict
from twistlm.errors import CheckpointError
from twistlm.files.atomic import atomic_folder
from twistlm.files.jsonl import read_json
from twistlm.files.metrics import read_history
from twistlm.files.replacing import require_replaceable
from twistlm.train.checkpoint import newest
from twistlm.train.optim import decay_begins
from twistlm.train.record import differences, known_inputs, run_fingerprint, write_json

STABLE = "stable"


def fork(run: str | Path, config: TrainConfig, out: str | Path, *, inputs: Mapping[str, Any] | None = None) -> int:
    """Let the run of `config` in `out` begin with what the shorter run in `run` has done; return how many updates.

    Up to where the rate of schedule "wsd" begins to fall, runs that differ in the number of updates alone are the same
    run, bit for bit. So `out` gets that part of `run` (its record under the new number, its lines of metrics, its
    state), and `train` goes on there as it does after a stop: the result is that of a run which was not forked.

    Args:
        run: folder of a run of schedule "wsd", as far as stable/ at least.
        config: as of `run`, with more updates.
        inputs: what the new run is of (`record.inputs_of`), to be compared before anything is written; None where it
            is not known yet: `train` compares too.
        out: folder, not there yet or empty; one of a run is left as it is (0 is returned): a fork that was stopped
            goes on.

    Raises:
        BadInput: something else is in `out`.
        CheckpointError: `run` has no state to go on from, or differs in more than its updates; names the fields.
    """
    run, out = Path(run), Path(out)
    if (out / "config.json").exists():
        return 0
    require_replaceable(out, what="a run", mark="config.json", inputs=(run,))
    record = read_json(run / "config.json", "the record of a run", shape={"config": dict, "inputs": dict})
    try:
        old = TrainConfig(**{**record["config"], "betas": tuple(record["config"]["betas"])})
    except (TypeError, KeyError) as error:
        raise CheckpointError(f"{run / 'config.json'} is the record of another version of twistlm: {error}.") from error
    odd = [
        f"{name} is {theirs!r} there and {mine!r} here"
        for name, mine in to_dict(config).items()
        if name != "updates" and (theirs := to_dict(old)[name]) != mine
    ]
    if odd or config.schedule != "wsd" or decay_begins(config) < decay_begins(old):
        why = "; ".join(odd) or f"{config.updates} updates on schedule {config.schedule!r} after {old.updates}"
        raise CheckpointError(
            f'a run forked from {run} may differ in having more updates, on schedule "wsd", and in nothing else: {why}.'
        )
    if inputs is not None and (odd := differences(known_inputs(record), inputs)):
        raise CheckpointError(
            f"a run forked from {run} begins as that one did, with the same weights, units and documents: "
            f"{'; '.join(odd)}. Leave out what makes it another one."
        )
    state = newest(run / STABLE)
    if state is None:
        raise CheckpointError(f"{run} has no state before its rate fell ({run / STABLE}): it did not come so far.")
    done = int(state.name.removeprefix("update-"))
    same = {"config": to_dict(config), "inputs": record["inputs"]}
    with atomic_folder(out) as folder:
        kept = read_json(state / "run.json", "the record of a checkpoint", shape={"fingerprint": str, "files": int})
        if kept["fingerprint"] != record["run_fingerprint"]:
            raise CheckpointError(f"{state} belongs to another run than {run}.")
        name = run_fingerprint(same)
        # Where the rates of both begin to fall at once, training does not come by there again.
        for place in ("checkpoint", STABLE) if decay_begins(config) == done else ("checkpoint",):
            new = folder / place / state.name
            shutil.copytree(state, new)
            write_json(new / "run.json", {**kept, "fingerprint": name})
        told = {"fingerprint": fingerprint(config), "run_fingerprint": name, "forked_from": record["run_fingerprint"]}
        write_json(folder / "config.json", {**record, **same, **told})
        rows = [row for row in read_history(run / "metrics.jsonl") if row["update"] <= done]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
        if (run / "choices.json").exists():
            shutil.copy(run / "choices.json", folder / "choices.json")
    return done
