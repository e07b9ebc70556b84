"""Several ranks are one run: two and four processes over gloo, against one process that is none of them."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from test_train_loop import assert_same_run, corpus, losses, tiny_lm, weights, with_
from twistlm.corpus.stream import PackedStream
from twistlm.errors import ConfigError, Stopped
from twistlm.files.metrics import read_history
from twistlm.lm.model import UnitLM
from twistlm.lm.score import score
from twistlm.train import checkpoint, watch
from twistlm.train.loop import OnEval, train
from twistlm.train.parallel import ALONE, Ranks

CONFIG = with_(updates=8, batch_rows=4, accumulate=2, eval_every=1, checkpoint_every=3)


def evaluation(*, stop: int | None = None, killed: Path | None = None) -> OnEval:
    """Numbers that need the whole model; rank 1 alone (or the only one) is sent SIGTERM after update `stop`.

    All are ended at once when the checkpoint `killed` is there, written behind.
    """
    clips = [np.arange(n) for n in (3, 9, 5, 12, 7, 11)]

    def on_eval(lm: UnitLM, update: int) -> dict[str, float]:
        if update == stop and os.environ.get("RANK", "1") == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        while killed is not None and update == CONFIG.checkpoint_every + 2:
            if killed.exists():
                os._exit(9)
            time.sleep(0.01)
        found = {"logit": lm.forward_logits(torch.arange(2, 12)[None]).double().sum().item()}
        if update == CONFIG.updates:
            threads = torch.get_num_threads()
            torch.set_num_threads(2)  # scoring gives batches to threads, but not those of a model that ranks share
            found["score"] = sum(one.sum_logprob for one in score(lm, clips, include_end=True, batch_tokens=16))
            torch.set_num_threads(threads)
        return found

    return on_eval


def run(
    out: Path,
    *,
    stop: int | None = None,
    nan: bool = False,
    window: int = watch.WINDOW,
    behind: bool = False,
    kill: bool = False,
    full: bool = False,
    **changes: object,
) -> None:
    watch.WINDOW = window
    checkpoint.BEHIND = ("cpu",) if behind else ()
    if full and os.environ["RANK"] == "1":
        checkpoint.dcp.HuggingFaceStorageWriter.write_data = no_space  # type: ignore[method-assign]
    killed = out / "checkpoint" / f"update-{CONFIG.checkpoint_every}" if kill else None
    if kill:  # what is written is of an update that lies behind by then
        checkpoint._write = later  # type: ignore[assignment]
    lm = tiny_lm()
    if nan:
        with torch.no_grad():
            lm.model.model.norm.weight[0] = torch.inf
    train(
        lm,
        corpus(),
        dataclasses.replace(CONFIG, **changes),
        out,
        on_eval=None if nan else evaluation(stop=stop, killed=killed),
    )


def later(*args: Any, write: Callable[..., None] = checkpoint._write, **how: Any) -> None:
    time.sleep(0.3)
    write(*args, **how)


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# Forks ranks instead of starting them: torch is imported once, and pandas, which Arrow's first array asks for.
# A line a rank: its exit code and what it raised.
RANKS = """
import gc, json, os, shutil, sys
from pathlib import Path
import numpy, pyarrow
sys.path.insert(0, sys.argv[1])
import torch
from torch.distributed.tensor import DTensor
torch.set_num_threads(1)
from test_train_parallel import free_port, run
pyarrow.array(numpy.zeros(1))
root = Path(sys.argv[2])
run(root / "warm-up", updates=1)  # what a process imports and compiles in its first run
gc.freeze()

def ranks(world, out, times=1, **how):
    port, children = str(free_port()), []
    for rank in range(world):
        if (child := os.fork()) == 0:
            os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            try:
                for _ in range(times):  # processes that meet again, whose first run is finished
                    run(root / out, **how)
            except Exception as error:
                said = {"rank": rank, "out": out, "kind": type(error).__name__, "says": str(error)}
                os.write(1, (json.dumps(said) + '\\n').encode())  # in one piece: ranks write at once
                os._exit(getattr(error, "exit_code", 99))
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.write(1, (json.dumps({"out": out, "codes": codes}) + '\\n').encode())
"""
USUAL = """
ranks(2, "straight", times=2)
ranks(2, "stopped", stop=4, behind=True)
for other in ("to-one", "to-four", "damaged"):
    shutil.copytree(root / "stopped", root / other)
ranks(2, "stopped")
ranks(2, "from-one")
ranks(2, "nan", nan=True)
ranks(2, "whole", sharing="whole", behind=True)
ranks(2, "whole-stopped", sharing="whole", stop=4)
ranks(2, "whole-stopped", sharing="whole")
(root / "damaged/checkpoint/update-4/shard-00002-model-00001-of-00001.safetensors").unlink()
ranks(2, "damaged")
"""
MORE = """
ranks(4, "to-four")
ranks(2, "killed", behind=True, kill=True)
ranks(2, "killed", behind=True)
ranks(2, "whole-killed", behind=True, kill=True, sharing="whole")
ranks(2, "whole-killed", behind=True, sharing="whole")
ranks(2, "full", behind=True, full=True)
from twistlm.train import parallel
one_group, parallel.replicas = parallel.replicas, lambda *_: 2
ranks(4, "two-groups")
ranks(4, "two-groups-killed", behind=True, kill=True)
ranks(4, "two-groups-killed", behind=True)
parallel.replicas = one_group
ranks(2, "spike", window=3, max_loss_rise=1e-3, lr=1e-9, lr_floor=0.0)
ranks(2, "again", checkpoint_activations=True)
ranks(2, "bf16", sharing="slices-bf16", precision="bf16")
ranks(2, "bf16-whole", sharing="whole", precision="bf16")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two and four ranks, and of one; what the ranks said is in said.jsonl."""
    root = tmp_path_factory.mktemp("ranks")
    run(root / "alone")
    with pytest.raises(Stopped):
        run(root / "from-one", stop=4)
    launch(USUAL, root)
    run(root / "to-one")
    return root


@pytest.fixture(scope="module")
def more(root: Path) -> Path:
    """As `root`, and what is run in the slow tests alone."""
    launch(MORE, root)
    return root


def launch(runs: str, root: Path) -> None:
    command = [sys.executable, "-c", RANKS + runs, str(Path(__file__).parent), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    with (root / "said.jsonl").open("a") as file:
        file.write(done.stdout)


def said(root: Path, out: str, *, launch: int = -1) -> tuple[list[int], list[dict]]:
    """Return the exit codes of the last ranks in `out` (or of that launch), and what any rank raised there."""
    lines = [json.loads(line) for line in (root / "said.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["out"] == out]
    return [line["codes"] for line in lines if "codes" in line][launch], [line for line in lines if "rank" in line]


def assert_close_run(one: Path, other: Path) -> None:
    """Up to rounding: the losses, the evaluations, the weights; and exactly the same targets."""
    a, b = read_history(one / "metrics.jsonl"), read_history(other / "metrics.jsonl")
    assert [row.get("tokens") for row in a] == [row.get("tokens") for row in b]
    assert losses(a) == pytest.approx(losses(b), rel=1e-5)
    for name in ("logit", "score", "val_nll", "grad_norm"):
        assert [r[name] for r in a if name in r] == pytest.approx([r[name] for r in b if name in r], rel=1e-3, abs=1e-4)
    torch.testing.assert_close(weights(other / "lm"), weights(one / "lm"), rtol=1e-3, atol=1e-4)


@pytest.mark.thorough
def test_two_ranks_are_one_process_up_to_rounding(root: Path) -> None:
    assert said(root, "straight") == ([0, 0], [])
    assert_close_run(root / "alone", root / "straight")
    assert {path.name for path in (root / "straight").iterdir()} == {
        ".lock",
        "config.json",
        "metrics.jsonl",
        "lm",
        "result.json",
    }
    architectures = json.loads((root / "straight" / "lm" / "config.json").read_text())["architectures"]
    assert architectures == ["LlamaForCausalLM"]


@pytest.mark.thorough
def test_a_signal_to_one_rank_stops_all_and_they_go_on_bit_for_bit(root: Path) -> None:
    codes, errors = said(root, "stopped")
    assert codes == [0, 0] and sorted(e["rank"] for e in errors) == [0, 1]
    assert all(e["kind"] == "Stopped" and "SIGTERM after update 4 of 8" in e["says"] for e in errors)
    assert_same_run(root / "straight", root / "stopped")


@pytest.mark.slow
def test_ranks_that_are_killed_go_on_from_what_was_written_behind_bit_for_bit(more: Path) -> None:
    assert said(more, "killed", launch=0) == ([9, 9], []) and said(more, "killed") == ([0, 0], [])
    assert_same_run(more / "straight", more / "killed")


@pytest.mark.slow
def test_ranks_that_hold_the_whole_model_are_killed_and_go_on(more: Path) -> None:
    assert said(more, "whole-killed", launch=0) == ([9, 9], []) and said(more, "whole-killed") == ([0, 0], [])
    assert_same_run(more / "whole", more / "whole-killed")


@pytest.mark.slow
def test_groups_that_each_hold_all_slices_are_one_process_and_go_on_when_killed(more: Path) -> None:
    assert said(more, "two-groups") == ([0, 0, 0, 0], []) == said(more, "two-groups-killed")
    assert said(more, "two-groups-killed", launch=0)[0] == [9, 9, 9, 9]
    assert_close_run(more / "alone", more / "two-groups")
    assert_same_run(more / "two-groups", more / "two-groups-killed")


@pytest.mark.slow
def test_a_disk_that_is_full_behind_ends_all_ranks_by_name(more: Path) -> None:
    codes, errors = said(more, "full")
    assert codes == [1, 1] and {e["kind"] for e in errors} == {"TwistError"}, errors
    said_by = {e["rank"]: e["says"] for e in errors}
    assert "the disk is full: could not write" in said_by[0] and "could not be written: rank 1" in said_by[1]
    assert not list((more / "full" / "checkpoint").glob("*"))


@pytest.mark.slow
def test_a_checkpoint_is_read_by_more_ranks(more: Path) -> None:
    assert_goes_on(more, "to-four")


@pytest.mark.thorough
@pytest.mark.parametrize("out", ["to-one", "from-one"])
def test_a_checkpoint_is_read_by_any_number_of_ranks(root: Path, out: str) -> None:
    assert_goes_on(root, out)


def assert_goes_on(root: Path, out: str) -> None:
    assert_close_run(root / "straight", root / out)
    # Up to the stop it is another run's history, after it its own.
    history = read_history(root / out / "metrics.jsonl")
    other = read_history(root / ("alone" if out == "from-one" else "straight") / "metrics.jsonl")
    assert losses(history)[:4] == losses(other)[:4]


@pytest.mark.thorough
def test_a_bad_loss_stops_all_ranks_and_is_kept_once(root: Path) -> None:
    codes, errors = said(root, "nan")
    assert codes == [1, 1] and {e["kind"] for e in errors} == {"TrainingError"}
    kept = json.loads((root / "nan" / "bad_batch.json").read_text())
    assert np.shape(kept["tokens"]) == (4, 24) and len(kept["rows"]) == 4 and kept["batch"] == 0


@pytest.mark.slow
def test_a_loss_that_rises_stops_all_ranks_and_the_state_before_it_is_kept(more: Path) -> None:
    codes, errors = said(more, "spike")
    assert codes == [1, 1] and all("max_loss_rise" in e["says"] for e in errors)
    done = read_history(more / "spike" / "metrics.jsonl")[-1]["update"]
    assert [path.name for path in (more / "spike" / "checkpoint").iterdir()] == [f"update-{done}"]
    assert json.loads((more / "spike" / "bad_batch.json").read_text())["batch"] == done >= 3


@pytest.mark.slow
def test_activations_computed_again_are_the_same_on_ranks(more: Path) -> None:
    assert said(more, "again") == ([0, 0], [])
    assert_same_run(more / "straight", more / "again")


@pytest.mark.thorough
def test_ranks_that_hold_the_whole_model_are_one_process_up_to_rounding_and_go_on_bit_for_bit(root: Path) -> None:
    assert said(root, "whole") == ([0, 0], []) and said(root, "whole-stopped")[0] == [0, 0]
    assert_close_run(root / "alone", root / "whole")
    assert_same_run(root / "whole", root / "whole-stopped")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("out", "asked", "came_to"),
    [("alone", "auto", "whole"), ("straight", "auto", "slices"), ("whole", "whole", "whole"),
     ("to-one", "auto", "whole"), ("from-one", "auto", "slices")],
)  # fmt: skip
def test_the_record_says_what_each_rank_held(root: Path, out: str, asked: str, came_to: str) -> None:
    record = json.loads((root / out / "config.json").read_text())
    assert (record["config"]["sharing"], record["sharing"]) == (asked, came_to)


@pytest.mark.slow
def test_layers_that_travel_as_bf16_train_alike(more: Path) -> None:
    assert said(more, "bf16") == ([0, 0], []) == said(more, "bf16-whole")
    a, b = (losses(read_history(more / out / "metrics.jsonl")) for out in ("bf16", "bf16-whole"))
    record = json.loads((more / "bf16" / "config.json").read_text())
    assert (record["config"]["sharing"], record["sharing"]) == ("slices-bf16", "slices-bf16")
    assert a == pytest.approx(b, rel=0.02) and a != b  # norms are rounded on the way: not the same numbers


@pytest.mark.thorough
def test_a_checkpoint_without_one_of_its_files_is_refused_by_all(root: Path) -> None:
    codes, errors = said(root, "damaged")
    assert codes == [2, 2] and all("1 of its 2 safetensors files" in e["says"] for e in errors)


def test_shares_of_a_batch_are_the_batch() -> None:
    stream = PackedStream(corpus(), tiny_lm().vocab, rows=8, context=24, seed=1)
    for update in (0, 3):
        whole = stream.batch(update)
        for world in (1, 2, 4, 8):
            shares = [stream.batch(update, rank=rank, world=world) for rank in range(world)]
            for name in ("tokens", "segments", "positions", "targets"):
                assert np.array_equal(np.concatenate([getattr(s, name) for s in shares]), getattr(whole, name))


@pytest.mark.parametrize(
    ("world", "accumulate", "parts"), [(1, 4, 4), (2, 4, 2), (4, 4, 1), (8, 4, 1), (3, 4, 2), (8, 12, 2), (24, 24, 1)]
)
def test_parts_are_dealt_to_ranks(world: int, accumulate: int, parts: int) -> None:
    assert Ranks(0, world).parts(with_(batch_rows=24, accumulate=accumulate)) == parts
    assert math.isclose(ALONE.sum(0.1), 0.1)


def test_rows_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 ranks cannot share the 4 rows"):
        Ranks(0, 3).parts(CONFIG)
