"""Updates that must not be made: a loss or gradient that is not finite, a loss far above those before it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from twistlm.config import TrainConfig
from twistlm.corpus.stream import PackedStream
from twistlm.errors import TrainingError, offenders
from twistlm.files.metrics import Row
from twistlm.train.record import write_json

WINDOW = 50  # updates whose median loss is the usual one; while there are fewer, nothing is far above it


def loss_limit(history: Sequence[Row], config: TrainConfig) -> float:
    """Return the highest loss the next update may have, nats per token.

    It depends on the lines of metrics.jsonl alone, so a resumed run has the same limit as one that was not stopped.
    """
    losses = [row["loss"] for row in history[-WINDOW:] if "loss" in row]
    if not config.max_loss_rise or len(losses) < WINDOW:
        return math.inf
    return statistics.median(losses) + config.max_loss_rise


def refused(
    row: Row,
    stream: PackedStream,
    ids: Sequence[str],
    config: TrainConfig,
    out: Path,
    *,
    batch: int,
    limit: float,
    write: bool,
) -> TrainingError:
    """Keep the batch of an update that was not made in bad_batch.json, and return the error that says so.

    Args:
        row: the update's line of metrics.
        stream: of the run; the batch is asked of it again.
        ids: of the documents of the corpus, in order.
        config: of the run.
        out: its folder.
        batch: which of the stream it was: not the number of the update, where a run goes on with another.
        limit: the highest loss that would have done.
        write: False only returns the error: another process writes the file.
    """
    path = out / "bad_batch.json"
    pieces = stream.pieces(batch)
    parts = stream.batch(batch)
    kept = {
        **{name: str(value) for name, value in row.items()},
        "limit": str(limit),
        "batch": batch,
        "rows": [[{"id": ids[d], "start": start, "tokens": n} for d, start, n in row_] for row_ in pieces],
        **{name: getattr(parts, name).tolist() for name in ("tokens", "segments", "targets")},
    }
    if write:
        write_json(path, kept)
    held = offenders(list(dict.fromkeys(ids[d] for row_ in pieces for d, _, _ in row_)))
    where = f"The batch ({held}) is in {path}"
    if math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]):
        return TrainingError(
            f"update {row['update']}: the loss is {row['loss']:.3f}, above {limit:.3f} (max_loss_rise "
            f"{config.max_loss_rise} over the median of the {WINDOW} before). {where}; the state before it is saved. "
            "Look at those clips; to go on all the same, run again with a higher max_loss_rise, or 0."
        )
    return TrainingError(
        f"update {row['update']}: the loss is {row['loss']} and the gradient norm {row['grad_norm']}, not finite. "
        f"{where}. Usually lr ({config.lr}) is too high or warmup ({config.warmup}) too short: change them, and "
        f"train in a new folder or remove {out}."
    )
