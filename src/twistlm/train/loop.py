"""The training loop: one function from the first update to the saved model, exact when stopped and resumed."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from twistlm.compute import choices
from twistlm.compute.devices import device, same_bits
from twistlm.compute.interrupts import Interrupts, stopped
from twistlm.compute.precision import choose_precision, linear_shapes
from twistlm.config import TrainConfig
from twistlm.corpus.opened import UnitCorpus
from twistlm.corpus.stream import PackedStream
from twistlm.errors import BadInput, CheckpointError, TrainingError
from twistlm.files.locks import held
from twistlm.files.metrics import MetricsLog, Row, read_history
from twistlm.files.replacing import require_replaceable
from twistlm.lm.model import PROVENANCE, UnitLM
from twistlm.lm.slices import Slices
from twistlm.lm.trainable import put_weights
from twistlm.progress import track
from twistlm.train import checkpoint, parallel
from twistlm.train.activations import checkpointed_activations, require_activations
from twistlm.train.ahead import Ahead
from twistlm.train.compile import compiled_layers
from twistlm.train.optim import adamw, decay_begins
from twistlm.train.record import open_record, weights_sha256, write_json
from twistlm.train.step import take_step
from twistlm.train.track import open_trackers
from twistlm.train.watch import loss_limit, refused

OnEval = Callable[[UnitLM, int], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run.

    Attributes:
        updates: how many were made.
        history: the lines of metrics.jsonl, update 0 first.
        lm_path: folder of the trained model.
        seconds: spent in updates, over all resumes; evaluations and checkpoints not counted.
        tokens: target tokens seen.
    """

    updates: int
    history: list[Row]
    lm_path: Path
    seconds: float
    tokens: int

    @property
    def lm(self) -> UnitLM:
        """The trained model, read from disk."""
        return UnitLM.load(self.lm_path)


def train(
    lm: UnitLM,
    corpus: UnitCorpus,
    config: TrainConfig,
    out: str | Path,
    *,
    on_eval: OnEval | None = None,
    first_batch: int = 0,
    slices: Slices | None = None,
    trackers: Sequence[str] = (),
    progress: bool = False,
) -> TrainResult:
    """Train `lm` on `corpus`; go on where a stopped run in `out` was, return at once where one is finished.

    On CPUs, with the same number of threads and of ranks, a run stopped anywhere and resumed gives the same weights and
    the same losses, bit for bit, as one that was not stopped; on GPUs of one kind it does with `config.deterministic`.
    On another number of ranks it sees the same batches and differs by rounding. All of this is every rank's work,
    unless it says the first's: see `parallel`.

    Args:
        lm: the starting model, on the device to train on. Its weights are trained in place; of a finished run they
            are read (not into a model without data, of `slices`).
        corpus: documents of units of the same spec.
        config: see `TrainConfig`.
        out: folder; gets config.json before the first update, choices.json (which ways of computing its evaluations
            take, see `compute.choices`), metrics.jsonl line by line, checkpoint/ while unfinished, stable/ where the
            rate of "wsd" begins to fall (see `fork`), lm/ and result.json at the end.
        on_eval: called with the model (in eval mode) and the number of updates made: before the first update, every
            `config.eval_every`, and after the last. What it returns is added to that line of metrics.jsonl; it must not
            change the model. On several ranks every one calls it, since they hold the model together; it must do the
            same on all, call the model as a whole (`forward_logits`), and the first's values are kept.
        first_batch: which batch of the stream the first update takes: what earlier runs took of it, when they go on.
        slices: where the weights are, of a model without data: several ranks that share it out read their own.
        trackers: where the lines of metrics are shown as well, see `track.open_trackers`.
        progress: show a progress bar.

    Raises:
        UnitSpecMismatch: the corpus and the model do not speak the same units.
        CheckpointError: `out` holds another run, or a damaged one.
        Stopped: a signal ended the run; its state is saved.
        TrainingError: a loss or gradient is not finite, or a loss rose too far: the batch is in bad_batch.json.
        ConfigError: the ranks cannot share the rows of a batch evenly.
        BadInput: the model's architecture cannot compute activations again; an unknown tracker; something else than a
            run of this kind in `out`.
        TwistError: a tracker's package is not installed; another process is training in `out`.
    """
    out = Path(out)
    corpus.spec.require(lm.spec, mine="the corpus", theirs="the language model")
    _require_able(lm, config)  # before there is a record that the next try would have to agree with
    where = lm.device if slices is None else device()
    with parallel.join(where) as ranks, Interrupts(again=ranks.world > 1) as interrupts, ExitStack() as stack:
        ranks.parts(config)
        if ranks.first:
            stack.enter_context(held(out, "training"))
            require_replaceable(out / "lm", what="a unit LM", mark=PROVENANCE)
            if (out / "checkpoint" / "state.json").is_file():  # which ours have not
                raise BadInput(f"{out} holds the run of a vocoder or an encoder. Train in another folder.")
        stack.enter_context(same_bits(enabled=config.deterministic and where.type == "cuda"))
        start: str | None = None
        if slices is not None:
            whole, sharing = _read_slices(lm, slices, config, where, ranks)
            start = weights_sha256(lm.model)
        with ranks.first_goes_first():
            record = open_record(out / "config.json", lm, corpus, config, first_batch=first_batch, start=start)
        stack.enter_context(choices.kept(out / choices.FILE, write=ranks.first))
        if (out / "result.json").exists():
            if not (out / "lm" / "unit_spec.json").is_file():
                raise CheckpointError(
                    f"{out} holds a finished run whose model is gone ({out / 'lm'}). Put it back; or remove "
                    f"{out / 'result.json'}, and the same command trains again."
                )
            if slices is None:
                put_weights(lm.model.eval(), UnitLM.load(out / "lm").model)
            return _finish(out, ranks)
        if slices is None:
            sharing = parallel.share_out(config, lm, where, record["precision"], ranks)
            whole = parallel.shard(lm, ranks, sharing, nodes=parallel.replicas(lm, where, ranks))
        if ranks.first and record.get("sharing") != sharing:  # another one where a run goes on on other ranks
            record = {**record, "sharing": sharing}
            write_json(out / "config.json", record)
        adding = None
        if ranks.world > 1 and sharing == "whole":
            adding = parallel.Adding(lm.model.parameters())
            stack.callback(adding.close)
        stream = PackedStream(corpus, lm.vocab, rows=config.batch_rows, context=config.context, seed=config.seed)
        optimizer = adamw(lm.model, config)
        saved, run = out / "checkpoint", record["run_fingerprint"]
        done = checkpoint.load(saved, lm.model, optimizer, fingerprint=run)
        with ranks.first_goes_first():
            log = MetricsLog(out / "metrics.jsonl", keep=done, write=ranks.first)
        stack.enter_context(checkpointed_activations(lm, enabled=config.checkpoint_activations))
        stack.enter_context(compiled_layers(lm, enabled=config.compile, context=config.context))
        send = stack.enter_context(open_trackers(trackers if ranks.first else (), out, record, done=done))

        # A GPU goes on while its state is written.
        behind = stack.enter_context(checkpoint.Behind(ranks)) if where.type in checkpoint.BEHIND else None

        def keep(update: int, folder: Path = saved, *, wait: bool = True) -> None:
            log.sync()
            if behind is not None:
                if not wait:
                    behind.save(folder, lm.model, optimizer, update=update, fingerprint=run)
                    return
                behind.finish()
            checkpoint.save(folder, lm.model, optimizer, update=update, fingerprint=run, ranks=ranks)

        def evaluate(update: int) -> Row:
            # Layers that travel as bf16 can be multiplied as bf16 alone.
            with torch.autocast(where.type, torch.bfloat16, enabled=sharing == "slices-bf16"):
                return _evaluate(lm, update, on_eval)

        if done is None:
            log.append({"update": 0, **evaluate(0)})
            send(log.rows[-1])
        todo = range(done or 0, config.updates)
        ahead = stack.enter_context(Ahead(stream, ranks, enabled=where.type == "cuda"))
        for update in track(todo, description="training", enabled=progress and ranks.first):
            batch = ahead.take(first_batch + update)
            limit = loss_limit(log.rows, config)
            row = take_step(
                lm,
                optimizer,
                batch,
                config,
                update=update,
                precision=record["precision"],
                loss_limit=limit,
                ranks=ranks,
                adding=adding,
                at_least=int(log.rows[-1].get("parts", 1)),
            )
            if "tokens" not in row:
                if update and limit < row["loss"] < math.inf:
                    keep(update)
                raise refused(
                    row, stream, corpus.ids, config, out, batch=first_batch + update, limit=limit, write=ranks.first
                )
            done = update + 1
            last = done == config.updates
            if last or (config.eval_every and done % config.eval_every == 0):
                row |= evaluate(done)
            log.append(row)
            send(row)
            if config.schedule == "wsd" and done == decay_begins(config):
                keep(done, out / "stable")
            signalled = interrupts.agreed()
            if not last and (signalled or (config.checkpoint_every and done % config.checkpoint_every == 0)):
                keep(done, wait=bool(signalled))
            if not last and signalled:
                raise stopped(signalled, done, config.updates, saved)
        log.sync()
        if behind is not None:
            behind.finish()
        optimizer.state.clear()  # the moments make room for the whole model
        parallel.gather(lm, whole, ranks)
        with ranks.first_goes_first():
            if ranks.first:
                whole.model.eval()
                _trained(whole, log.rows, len(corpus)).save(out / "lm")
                write_json(out / "result.json", {"run_fingerprint": run, "last": log.rows[-1]})
        return _finish(out, ranks)


def _require_able(lm: UnitLM, config: TrainConfig) -> None:
    """Raise `BadInput` where a model cannot be trained so, whatever the data."""
    require_activations(lm, enabled=config.checkpoint_activations)
    if lm.max_tokens is not None and config.context > lm.max_tokens:
        raise BadInput(
            f"context is {config.context} tokens, and this model has positions for {lm.max_tokens}: set context="
            f"{lm.max_tokens} or less."
        )


def _read_slices(
    lm: UnitLM, slices: Slices, config: TrainConfig, where: torch.device, ranks: parallel.Ranks
) -> tuple[UnitLM, parallel.Sharing]:
    """Share `lm`, which has no data, out and read its weights; return what `gather` fills, and how it was shared."""
    rows = config.batch_rows // config.accumulate * config.context
    precision, _ = choose_precision(config.precision, where, linear_shapes(lm.model), rows=rows)
    sharing = parallel.share_out(config, lm, where, precision, ranks)
    whole = parallel.shard(lm, ranks, sharing, nodes=parallel.replicas(lm, where, ranks))
    parallel.fill(lm, slices, where)
    return whole, sharing


def _trained(lm: UnitLM, rows: Sequence[Row], documents: int) -> UnitLM:
    """Return the model with what its training was in its provenance; nothing of it depends on the clock."""
    last = {key: value for key, value in rows[-1].items() if key in ("loss", "val_nll")}
    tokens = sum(row.get("tokens", 0) for row in rows)
    trained = {"documents": documents, "updates": rows[-1]["update"], "tokens": tokens, **last}
    return dataclasses.replace(lm, provenance=lm.provenance | {"trained": trained})


def _evaluate(lm: UnitLM, update: int, on_eval: OnEval | None) -> Row:
    """Return what `on_eval` says of the model, and the seconds it took."""
    if on_eval is None:
        return {}
    started = time.perf_counter()
    lm.model.eval()
    with torch.no_grad():
        values = {key: float(value) for key, value in on_eval(lm, update).items()}
    if taken := {"update", "loss", "lr", "grad_norm", "tokens", "seconds", "eval_seconds"} & values.keys():
        raise BadInput(f"on_eval returned {', '.join(sorted(taken))}, which training writes itself; use other names.")
    if not np.isfinite(list(values.values())).all():
        raise TrainingError(f"the evaluation after update {update} is not finite: {values}.")
    return values | {"eval_seconds": time.perf_counter() - started}


def _finish(out: Path, ranks: parallel.Ranks) -> TrainResult:
    """Read the result of a finished run, and remove the state that only an unfinished one needs."""
    if ranks.first:
        checkpoint.remove(out / "checkpoint")
    history = read_history(out / "metrics.jsonl")
    return TrainResult(
        updates=max((row["update"] for row in history), default=0),
        history=history,
        lm_path=out / "lm",
        seconds=sum(row.get("seconds", 0.0) for row in history),
        tokens=sum(row.get("tokens", 0) for row in history),
    )
