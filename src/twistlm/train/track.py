"""The lines of metrics.jsonl, sent to TensorBoard, trackio or wandb as well. A package is imported when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from twistlm.errors import BadInput, TwistError
from twistlm.files.metrics import Row

Send = Callable[[Row], None]

PROJECT = "twistlm"


@contextmanager
def open_trackers(names: Sequence[str], out: Path, record: dict[str, Any], *, done: int | None) -> Iterator[Send]:
    """Yield a function that sends one line of metrics to every tracker of `names`; all are closed at the end.

    A run that goes on is the same run there: TensorBoard drops what it was shown after update `done`; trackio and wandb
    know the run by its fingerprint and keep the first of two lines of one update, which are equal but for the times.

    Args:
        names: "tensorboard", "trackio", "wandb", or none of them.
        out: folder of the run, whose name is the run's. TensorBoard and wandb write below it.
        record: of the run, see `record.open_record`.
        done: the update the run goes on from; None for a new one.

    Raises:
        BadInput: an unknown tracker.
        TwistError: a package is not installed; names the extra that has it.
    """
    with ExitStack() as stack:
        if unknown := set(names) - _OPEN.keys():
            raise BadInput(f"there is no tracker {', '.join(sorted(unknown))}; use {', '.join(_OPEN)}.")
        senders = [stack.enter_context(_OPEN[name](out, record, done)) for name in dict.fromkeys(names)]

        def send(row: Row) -> None:
            for sender in senders:
                sender(row)

        yield send


@contextmanager
def _tensorboard(out: Path, record: dict[str, Any], done: int | None) -> Iterator[Send]:
    _package("tensorboard")
    writer = import_module("torch.utils.tensorboard").SummaryWriter(
        str(out / "tensorboard"), purge_step=0 if done is None else done + 1
    )

    def send(row: Row) -> None:
        for name, value in _values(row).items():
            writer.add_scalar(name, value, row["update"])

    try:
        if done is None:
            writer.add_text("config", f"    {record['config']}")
        yield send
    finally:
        writer.close()


@contextmanager
def _trackio(out: Path, record: dict[str, Any], _done: int | None) -> Iterator[Send]:
    trackio = _package("trackio")
    trackio.init(project=PROJECT, name=_run_name(out, record), config=record["config"], resume="allow")
    try:
        yield lambda row: trackio.log(_values(row), step=row["update"])
    finally:
        trackio.finish()


@contextmanager
def _wandb(out: Path, record: dict[str, Any], _done: int | None) -> Iterator[Send]:
    wandb = _package("wandb")
    run = wandb.init(
        project=PROJECT,
        name=out.name,
        id=record["run_fingerprint"],
        resume="allow",
        dir=str(out),
        config=record["config"],
    )
    try:
        yield lambda row: run.log(_values(row), step=row["update"])
    finally:
        run.finish()


_OPEN: dict[str, Callable[[Path, dict[str, Any], int | None], AbstractContextManager[Send]]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "wandb": _wandb,
}


def _package(name: str) -> ModuleType:
    """Import a tracker's package, which the extra of the same name installs."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise TwistError(
            f"{name} is not installed, and the run was to be shown there: pip install 'twistlm[{name}]', or train "
            "without --track."
        ) from error


def _values(row: Row) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "update"}


def _run_name(out: Path, record: dict[str, Any]) -> str:
    return f"{out.name}-{record['run_fingerprint']}"
